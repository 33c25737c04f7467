"""Named settings for whole runs."""

from pipelines.config import Config, ControlConfig, ExportConfig
from student.config import StudentConfig
from teacher.config import (
    CheckpointConfig,
    CollectConfig,
    EvaluateConfig,
    NetworkConfig,
    TaskConfig,
    TeacherConfig,
    UpdateConfig,
)
from teacher.errors import unknown_name

DEFAULT = "quickstart"
# With the published learning rate of its temperature, 3e-4, a policy stays almost uniform for 8,000 updates:
# nothing in the millions that are published, most of a run of minutes.
FAST_TEMPERATURE = 3e-3
PUBLISHED = NetworkConfig(depth=16, width=256, architecture="published")


def _published(task: str, network: NetworkConfig) -> TeacherConfig:
    """The published settings of a locomotion task (arXiv:2503.14858, table 7) around this network."""
    return TeacherConfig(
        task=TaskConfig(name=task, engine="brax"),
        network=network,
        update=UpdateConfig(batch=512),
        collect=CollectConfig(
            envs=512, steps=62, updates=800, replay=10_000, prefill=1000, total_steps=100_000_000
        ),
        evaluate=EvaluateConfig(episodes=128, every=32),
        checkpoint=CheckpointConfig(interval_s=600),
    )


def _wheels(task: str) -> Config:
    """Physics cost next to nothing here: updates do. 20,000 of them at depth 16.

    With one goal an episode no policy gets past the walls nearest to its goal (docs/results.md)."""
    return Config(
        teacher=TeacherConfig(
            task=TaskConfig(name=task),
            network=NetworkConfig(depth=16, width=64),
            update=UpdateConfig(actor_rate=3e-4, critic_rate=1e-3, entropy_rate=FAST_TEMPERATURE),
            collect=CollectConfig(total_steps=2_560_000, goal_steps=50),
        )
    )


PRESETS: dict[str, tuple[str, Config]] = {
    "quickstart": (
        "a Franka arm reaches points: depth 16, minutes on two cores",
        Config(
            teacher=TeacherConfig(
                task=TaskConfig(name="fr3_reach"),
                network=NetworkConfig(depth=16, width=64),
                update=UpdateConfig(actor_rate=6e-4, critic_rate=6e-4, entropy_rate=FAST_TEMPERATURE),
                collect=CollectConfig(total_steps=768_000),
            ),
        ),
    ),
    "debug": (
        "the whole pipeline in seconds, on the planar arm; it learns nothing",
        Config(
            teacher=TeacherConfig(
                task=TaskConfig(name="reacher"),
                network=NetworkConfig(depth=4, width=16, representation=8),
                update=UpdateConfig(batch=32),
                collect=CollectConfig(
                    envs=16, steps=20, updates=5, replay=200, prefill=20, total_steps=1_280
                ),
                evaluate=EvaluateConfig(episodes=16, every=2),
            ),
            student=StudentConfig(
                sizes=("2x16", "3x16"),
                critic="2x16",
                envs=16,
                rounds=3,
                teacher_rounds=1,
                updates=10,
                batch=64,
                episodes=16,
                retention=0,
                robustness=0,
            ),
            export=ExportConfig(observations=1000),
            control=ControlConfig(episodes=16),
        ),
    ),
    "deep-smoke": (
        "a thousand layers, actor and encoders, through the whole pipeline; minutes, too few to learn",
        Config(
            teacher=TeacherConfig(
                task=TaskConfig(name="fr3_reach"),
                network=NetworkConfig(depth=1000, width=64),
                update=UpdateConfig(actor_rate=6e-4, critic_rate=6e-4),
                collect=CollectConfig(
                    envs=64, steps=25, updates=20, replay=500, prefill=100, total_steps=24_000
                ),
                evaluate=EvaluateConfig(episodes=64, every=15),
            ),
            student=StudentConfig(
                sizes=("2x64", "3x64"),
                envs=64,
                rounds=4,
                teacher_rounds=1,
                updates=200,
                episodes=64,
                retention=0,
                robustness=0,
            ),
            export=ExportConfig(observations=1000),
            control=ControlConfig(episodes=64),
        ),
    ),
    "rl1000": (
        "a thousand layers, actor and encoders, take a humanoid round the bend of a maze: published settings "
        "but for scaled branches; days of a GPU, and not trained yet",
        Config(
            teacher=_published("humanoid_u_maze", NetworkConfig(depth=1000, width=256)),
            student=StudentConfig(sizes=("2x128", "4x256"), envs=64, rounds=6, teacher_rounds=2),
        ),
    ),
    "wheel-maze": (
        "a two-wheeled robot finds its way through a large maze, minutes on two cores",
        _wheels("wheel_maze"),
    ),
    "wheel-labyrinth": (
        "the same robot in longer, narrower ways, for studies of depth on two cores",
        _wheels("wheel_labyrinth"),
    ),
    "ant-big-maze": (
        "an ant finds its way to the far cells of a maze: the published network and settings at depth 16; "
        "contacts, starts and sampling differ (docs/method.md); for a GPU",
        Config(
            teacher=_published("ant_big_maze", PUBLISHED),
            student=StudentConfig(sizes=("2x128", "4x256"), envs=64, rounds=6, teacher_rounds=2),
        ),
    ),
    "humanoid": (
        "a humanoid walks to points around it: the published network and settings at depth 16; "
        "state, contacts and sampling differ (docs/method.md); for a GPU",
        Config(
            teacher=_published("humanoid", PUBLISHED),
            student=StudentConfig(sizes=("2x128", "4x256"), envs=64, rounds=6, teacher_rounds=2),
        ),
    ),
    "reacher": (
        "the planar two-joint arm in brax's spring simulator, three minutes on two cores",
        Config(
            teacher=TeacherConfig(
                task=TaskConfig(name="reacher", engine="brax"),
                network=NetworkConfig(depth=8, width=64),
                update=UpdateConfig(actor_rate=1e-3, critic_rate=1e-3, entropy_rate=1e-3),
                collect=CollectConfig(total_steps=768_000),
            ),
            student=StudentConfig(sizes=("2x32", "2x64")),
        ),
    ),
}


def preset(name: str) -> Config:
    """The settings of that name; UsageError with the nearest name if there are none."""
    if name not in PRESETS:
        raise unknown_name("preset", name, PRESETS)
    return PRESETS[name][1]
