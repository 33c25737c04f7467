"""Named settings for whole runs: what one would write after --set, on top of the defaults; and the tasks.

Text alone, so that a shell completes the names at once; `pipelines.config.preset` makes a Config of it.
"""

DEFAULT = "quickstart"
TASKS = {  # those of `teacher.tasks`, which takes seconds to import: what they are
    "fr3_reach": "a Franka arm brings its flange to a point",
    "fr3_reach_sensed": "fr3_reach; students see joint encoders alone",
    "fr3_push_easy": "a Franka arm pushes a cube to a point nearby",
    "fr3_push_hard": "a Franka arm pushes a cube across the table",
    "fr3_pick_place": "a Franka arm lifts a cube and puts it down elsewhere",
    "arm_push_easy": "a Panda pushes a cube to a point nearby, as published",
    "arm_push_hard": "a Panda pushes a cube across the table, as published",
    "arm_binpick_hard": "a Panda carries a cube to another bin, as published",
    "quad_reach": "a quadruped walks to a point; physics randomised",
    "reacher": "a planar arm with two joints reaches a point",
    "wheel_maze": "a two-wheeled robot drives through a large maze",
    "wheel_labyrinth": "wheel_maze with longer, narrower ways",
    "wheel_park": "a two-wheeled robot comes to a place and a heading in a yard",
    "ant": "a four-legged ant walks to a point on open ground",
    "ant_u4_maze": "the ant walks through a U-shaped maze of size 4",
    "ant_u5_maze": "the ant walks through a U-shaped maze of size 5",
    "ant_big_maze": "the ant walks through a large maze",
    "ant_hardest_maze": "the ant walks through the largest maze",
    "humanoid": "a humanoid walks to a point on open ground",
    "humanoid_u_maze": "the humanoid walks through a U-shaped maze",
    "humanoid_big_maze": "the humanoid walks through a large maze",
}
# With the published learning rate of its temperature, 3e-4, a policy stays almost uniform for 8,000 updates:
# nothing in the millions that are published, most of a run of minutes.
FAST_TEMPERATURE = "update.temperature_lr=3e-3"
# The published settings of locomotion tasks (arXiv:2503.14858, table 7), and students for them.
PUBLISHED = """
    task.engine=brax network.width=256 update.batch_size=512 update.ema_decay=0
    collect.envs=512 collect.unroll_length=62 collect.updates=800 collect.buffer_rows=10000
    collect.prefill=1000 collect.starts=repeated collect.sampling=windows
    evaluate.episodes=128 evaluate.every=64 checkpoint.interval_s=600 student.sizes=2x128,4x256
    student.envs=64 student.rounds=6 student.teacher_rounds=2
"""
AS_PUBLISHED = f"{PUBLISHED} network.architecture=published"
# Physics cost next to nothing here: updates do. 20,000 of them at depth 16. With one goal an episode no
# policy gets past the walls nearest to its goal (docs/results.md).
WHEELS = f"""
    network.depth=16 network.width=64 update.actor_lr=3e-4 update.critic_lr=1e-3 {FAST_TEMPERATURE}
    collect.total_steps=2560000 collect.goal_steps=50
"""

PRESETS = {  # name: what it is, its settings
    "quickstart": (
        "a Franka arm reaches points; depth 16, minutes on two cores",
        f"""
        task.name=fr3_reach network.depth=16 network.width=64
        update.actor_lr=6e-4 update.critic_lr=6e-4 {FAST_TEMPERATURE} collect.total_steps=768000
        """,
    ),
    "debug": (
        "the whole pipeline in seconds, on a planar arm; too short to learn anything",
        """
        task.name=reacher network.depth=4 network.width=16 network.repr_dim=8 update.batch_size=32
        collect.envs=16 collect.unroll_length=20 collect.updates=5 collect.buffer_rows=200 collect.prefill=20
        collect.total_steps=1280 evaluate.episodes=16 evaluate.every=2
        student.sizes=2x16,3x16 student.critic=2x16 student.envs=16 student.rounds=3
        student.teacher_rounds=1 student.updates=10 student.batch_size=64 student.episodes=16
        student.min_retention=0 student.robustness_episodes=0 export.observations=1000 control.episodes=16
        """,
    ),
    "deep-smoke": (
        "a thousand layers through the whole pipeline in minutes; too short to learn anything",
        """
        task.name=fr3_reach network.depth=1000 network.width=64
        update.actor_lr=6e-4 update.critic_lr=6e-4
        collect.envs=64 collect.unroll_length=25 collect.updates=20 collect.buffer_rows=500
        collect.prefill=100 collect.total_steps=24000 evaluate.episodes=64 evaluate.every=15
        student.sizes=2x64,3x64 student.envs=64 student.rounds=4 student.teacher_rounds=1
        student.updates=200 student.episodes=64 student.min_retention=0 student.robustness_episodes=0
        export.observations=1000 control.episodes=64
        """,
    ),
    "rl1000": (
        "a thousand layers, a humanoid in a maze: published settings, but scaled residual branches; days "
        "on a GPU, and never trained yet",
        f"task.name=humanoid_u_maze network.depth=1000 collect.total_steps=100000000 {PUBLISHED}",
    ),
    "wheel-maze": (
        "a two-wheeled robot finds its way through a large maze; minutes on two cores",
        f"task.name=wheel_maze {WHEELS}",
    ),
    "wheel-labyrinth": (
        "the same robot in a maze with longer, narrower ways, for sweeps of depth on two cores",
        f"task.name=wheel_labyrinth {WHEELS}",
    ),
    "wheel-park": (
        "a two-wheeled robot comes to a place and to a heading; minutes on two cores",
        f"""
        task.name=wheel_park network.depth=16 network.width=64 update.discount=0.97
        update.actor_lr=6e-4 update.critic_lr=1e-3 {FAST_TEMPERATURE} collect.total_steps=1536000
        """,
    ),
    "ant-big-maze": (
        "an ant in a maze goes to far cells, as published, at depth 16; for a GPU",
        f"task.name=ant_big_maze network.depth=16 collect.total_steps=100000000 {AS_PUBLISHED}",
    ),
    "humanoid": (
        "a humanoid walks to points around it, as published, at depth 16; for a GPU",
        f"task.name=humanoid network.depth=16 collect.total_steps=100000000 {AS_PUBLISHED}",
    ),
    "humanoid-u-maze": (
        "a humanoid walks through a maze, as published, at depth 64; for a GPU",
        f"task.name=humanoid_u_maze network.depth=64 collect.total_steps=400000000 {AS_PUBLISHED}",
    ),
    "reacher": (
        "a planar arm with two joints, in Brax's spring engine; three minutes on two cores",
        """
        task.name=reacher task.engine=brax network.depth=8 network.width=64
        update.actor_lr=1e-3 update.critic_lr=1e-3 update.temperature_lr=1e-3
        collect.total_steps=768000 student.sizes=2x32,2x64
        """,
    ),
}
