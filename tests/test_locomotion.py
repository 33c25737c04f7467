import contextlib
import io
import warnings
from importlib.metadata import distribution

import jax
import mujoco
import numpy as np
import pytest

from teacher.compilation import jit_once, jit_physics
from teacher.tasks import State
from teacher.tasks.engines import make_engine
from teacher.tasks.locomotion import LOCOMOTION
from teacher.tasks.mazes import U4, Maze

TASKS = {name: make() for name, make in LOCOMOTION.items()}
ANTS = [name for name in TASKS if name.startswith("ant")]
HUMANOIDS = [name for name in TASKS if name not in ANTS]
LEGS = ("left", "right", "third", "fourth")
MAZES = {  # m: place of the start cell
    "ant_u4_maze": (8.0, 4.0),
    "ant_u5_maze": (8.0, 4.0),
    "ant_big_maze": (4.0, 4.0),
    "ant_hardest_maze": (4.0, 4.0),
    "humanoid_u_maze": (2.0, 2.0),
    "humanoid_big_maze": (2.0, 2.0),
}


def starts(task, count, layout=None):
    keys = jax.random.split(jax.random.key(0), count)
    draw = jit_once(jax.vmap(lambda key: task.start(key, layout or task.layouts[0])))
    return jax.tree.map(np.asarray, draw(keys))


def compiled(function, *arguments):
    """For a few steps: optimising the program takes longer than running it."""
    return jit_physics(function).lower(*arguments).compile({"xla_backend_optimization_level": 0})


# The published figures


@pytest.mark.parametrize("name", TASKS)
def test_figures_steps_gears_and_places_are_the_published_ones(name):
    task, is_ant = TASKS[name], name in ANTS
    spec = task.spec
    assert (spec.observation_size, spec.action_size) == ((29, 8) if is_ant else (268, 17))
    assert spec.goal.observation_indices == ((0, 1) if is_ant else (0, 1, 2))
    assert (spec.goal.success_radius, spec.goal.easy_radius) == (0.5, 2.0)
    assert (spec.episode_length, spec.control_dt) == (1000, 0.05 if is_ant else 0.015)
    assert task.engines == ("mjx", "brax", "mujoco")
    for engine in task.engines:
        model, spring = task.model(engine), engine == "brax"
        step = (0.005 if spring else 0.01) if is_ant else (0.0015 if spring else 0.003)
        assert model.opt.timestep == step
        assert round(spec.control_dt / step) == (10 if spring else 5)
        assert (model.opt.iterations, model.opt.ls_iterations) == (1, 4)
        assert model.opt.solver == mujoco.mjtSolver.mjSOL_NEWTON
        assert model.opt.disableflags == mujoco.mjtDisableBit.mjDSBL_EULERDAMP
        if is_ant:
            gear = [150] * 8
        elif spring:
            gear = [350] * 11 + [100] * 6
        else:
            gear = [100] * 5 + [300, 200, 100, 100, 300, 200] + [25] * 6
        np.testing.assert_array_equal(model.actuator_gear[:, 0], gear)
        np.testing.assert_allclose(np.abs(model.actuator_ctrlrange), 1.0 if is_ant else 0.4)


@pytest.mark.parametrize("name", ANTS)
def test_an_ant_starts_near_its_pose_with_noise(name):
    qpos, qvel, _ = starts(TASKS[name], 3000)[:3]
    pose = np.array([*MAZES.get(name, (0, 0)), 0.55, 1, 0, 0, 0, 0, 1, 0, -1, 0, -1, 0, 1])
    noise = np.delete(qpos - pose, range(3, 7), axis=1)
    np.testing.assert_allclose([noise.min(0), noise.max(0)], [[-0.1] * 11, [0.1] * 11], atol=2e-3)
    np.testing.assert_allclose(noise.std(0), 0.2 / 12**0.5, rtol=0.05)
    np.testing.assert_allclose(np.linalg.norm(qpos[:, 3:7], axis=-1), 1, atol=1e-6)
    assert (qpos[:, 3] > 0.97).all()
    np.testing.assert_allclose(qvel.std(0), 0.1, rtol=0.06)
    np.testing.assert_allclose(qvel.mean(0), 0, atol=0.01)


@pytest.mark.parametrize("name", HUMANOIDS)
def test_a_humanoid_starts_upright_without_noise_and_has_the_goal_in_its_state(name):
    start = starts(TASKS[name], 50)
    pose = np.float32([*MAZES.get(name, (0, 0)), 1.4, 1, 0, 0, 0])
    np.testing.assert_array_equal(start.qpos[:, :7], np.tile(pose, (50, 1)))
    np.testing.assert_array_equal(start.qpos[:, 7:-2], 0)
    np.testing.assert_array_equal(start.qvel, 0)
    np.testing.assert_array_equal(start.goal[:, 2], 1.25)
    observation = observed(TASKS[name], start.qpos, start.qvel, np.zeros(17))
    shown = next(term for term in TASKS[name].spec.observation if term.name == "goal_position")
    np.testing.assert_array_equal(observation[:, shown.start : shown.stop], start.goal[:, :2])


@pytest.mark.parametrize("name", ["ant", "humanoid"])
def test_an_episode_ends_at_unhealthy_heights(name):
    task, (low, high) = TASKS[name], {"ant": (0.2, 1.0), "humanoid": (1.0, 2.0)}[name]
    qpos = np.tile(starts(task, 1).qpos, (4, 1))
    qpos[:, 2] = low - 1e-3, low + 1e-3, high - 1e-3, high + 1e-3
    state = State(qpos, qpos, qpos)
    np.testing.assert_array_equal(task.ended(state), [True, False, False, True])


# The spring engine against brax's own environments


# What the published humanoid has beside brax's: a body at the goal, and geoms that meet the floor.
GOAL_BODY = """
<body name="target" pos="0 0 1.25">
  <joint name="target_x" type="slide" axis="1 0 0" armature="0" damping="0" limited="true" range="-20 20"/>
  <joint name="target_y" type="slide" axis="0 1 0" armature="0" damping="0" limited="true" range="-20 20"/>
  <geom name="target" type="sphere" size="0.5" mass="1" contype="0" conaffinity="0"/>
</body></worldbody>
"""


@pytest.mark.parametrize(
    ("name", "limit"), [("ant", 1.0), pytest.param("humanoid", 0.4, marks=pytest.mark.slow)]
)
def test_five_spring_steps_give_the_observations_of_braxs_own_environment(name, limit):
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from brax.envs import ant, humanoid
        from brax.io import mjcf

        made = {"ant": ant.Ant, "humanoid": humanoid.Humanoid}[name]
        published = made(backend="spring", exclude_current_positions_from_observation=False)
        if name == "humanoid":
            xml = distribution("brax").locate_file("brax/envs/assets/humanoid.xml").read_text()
            xml = xml.replace('contype="0"', 'contype="1"').replace("</worldbody>", GOAL_BODY)
            step, actuator = {"opt.timestep": 0.0015}, published.sys.actuator
            published.sys = mjcf.loads(xml).tree_replace(step).replace(actuator=actuator)
    task, rng = TASKS[name], np.random.default_rng(0)
    engine = make_engine(task, "brax")
    qpos = np.array(starts(task, 2).qpos)
    if name == "humanoid":
        qpos[1, 2:7] = 0.12, np.cos(0.8), 0, np.sin(0.8), 0  # on its face, its feet in the air
    qvel = rng.normal(0, 0.5, (2, published.sys.qd_size())).astype(np.float32)
    actions = rng.uniform(-1, 1, (5, 2, task.spec.action_size)).astype(np.float32)

    def theirs(qpos, qvel, actions):
        def step(state, action):
            state = jax.vmap(published.pipeline_step)(state, limit * action)
            seen = (state,) if name == "ant" else (state, limit * action)
            return state, jax.vmap(published._get_obs)(*seen)

        return jax.lax.scan(step, jax.vmap(published.pipeline_init)(qpos, qvel), actions)[1]

    def ours(qpos, qvel, actions):
        def step(state, action):
            state = engine.step(state, task.control(engine.read(state), action), ())
            return state, task.observe(engine.read(state))

        return jax.lax.scan(step, engine.init(qpos, qvel, ()), actions)[1]

    with jax.default_matmul_precision("highest"):
        inputs = qpos, qvel, actions
        expected, found = (np.asarray(compiled(run, *inputs)(*inputs)) for run in (theirs, ours))
    assert np.abs(expected[4] - expected[0]).max() > 0.1
    np.testing.assert_allclose(found, expected, atol=3e-5, rtol=1e-5)


# Links


def observed(task, qpos, qvel, control):
    """What the task observes of these configurations by the C engine, [E, N]."""
    engine = make_engine(task, "mujoco")
    state = engine.init(qpos, qvel, ())
    for data in state:
        data.ctrl = control
    return task.observe(engine.read(state))


def test_the_humanoid_observes_mass_inertia_motion_and_torque_of_its_links():
    task = TASKS["humanoid"]
    model = task.model("mujoco")
    data = mujoco.MjData(model)
    rng = np.random.default_rng(2)
    qpos, qvel = rng.normal(size=(1, model.nq)), rng.normal(size=(1, model.nv))
    qpos[:, 3:7] /= np.linalg.norm(qpos[:, 3:7])
    data.qpos, data.qvel = qpos[0], qvel[0]
    mujoco.mj_forward(model, data)
    control = np.linspace(-0.4, 0.4, 17)
    seen = observed(task, qpos, qvel, control)[0]
    terms = {term.name: seen[term.start : term.stop] for term in task.spec.observation}
    mass, total = model.body("left_thigh").mass[0], model.body_mass.sum()
    away = data.body("left_thigh").xipos - data.subtree_com[0]
    inertia = np.eye(3) + mass * (away @ away * np.eye(3) - np.outer(away, away))
    np.testing.assert_allclose(terms["link_left_thigh_inertia"], inertia.ravel(), atol=1e-12)
    np.testing.assert_allclose(terms["link_left_thigh_mass"], mass)
    np.testing.assert_allclose(terms["torso_angular_velocity"], qvel[0, 3:6])
    motion, velocity = np.zeros(6), np.zeros((3, model.nv))
    mujoco.mj_objectVelocity(model, data, mujoco.mjtObj.mjOBJ_BODY, model.body("left_thigh").id, motion, 0)
    np.testing.assert_allclose(terms["link_left_thigh_angular_velocity"], motion[:3], atol=1e-12)
    np.testing.assert_allclose(terms["link_left_thigh_velocity_share"], mass / total * motion[3:], atol=1e-12)
    mujoco.mj_jacSubtreeCom(model, data, velocity, 0)
    shares = [values for name, values in terms.items() if name.endswith("velocity_share")]
    np.testing.assert_allclose(np.sum(shares, axis=0), velocity @ data.qvel, atol=1e-9)  # of all its mass
    torque = dict(zip(task.spec.joints.names, terms["actuator_torque"], strict=True))
    for i, joint in enumerate(task.spec.action.joints):
        assert torque[joint] == pytest.approx((350 if i < 11 else 100) * control[i])


# Walls


FEET = [f"{leg}_foot_geom" for leg in LEGS]
UPPER = ["torso_geom", *(f"aux_{leg}_geom" for leg in range(1, 5))]
PARTS = ["torso1", "head", "uwaist", "lwaist", "butt"] + [
    f"{side}_{part}"
    for side in ("left", "right")
    for part in ("thigh1", "shin1", "foot", "uarm1", "larm", "hand")
]


def contacts(data):
    """The pairs of geoms that touch; every wall is called `wall`."""
    geoms = [[data.model.geom(i).name for i in pair] for pair in data.contact.geom]
    return {frozenset("wall" if name.startswith("wall") else name for name in pair) for pair in geoms}


@pytest.mark.parametrize("name", TASKS)
def test_what_collides_is_what_collides_in_the_published_models(name):
    model = TASKS[name].model("mujoco")
    model.opt.enableflags |= mujoco.mjtEnableBit.mjENBL_OVERRIDE
    model.opt.o_margin = 1000  # m: what may touch is near enough to
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    grounds = ["floor", "wall"] if name in MAZES else ["floor"]
    if name in HUMANOIDS:
        expected = {frozenset((part, ground)) for part in PARTS for ground in grounds}
        assert len(expected) == 17 * len(grounds)
    else:
        expected = {frozenset((foot, "floor")) for foot in FEET}
    if name in ANTS and name in MAZES:
        expected |= {frozenset((part, "wall")) for part in FEET + UPPER}
        expected |= {frozenset((foot, part)) for foot in FEET for part in FEET + UPPER if part != foot}
        assert len(expected) == 4 + 9 + 20 + 6
    assert contacts(data) == expected


def test_a_humanoid_on_its_back_rests_on_the_floor():
    model = TASKS["humanoid"].model("mujoco")
    data, heights = mujoco.MjData(model), []
    data.qpos[2:7] = 0.3, np.cos(np.pi / 4), 0, -np.sin(np.pi / 4), 0
    for _ in range(100):  # 1.5 s; it would fall 11 m
        mujoco.mj_step(model, data, 5)
        heights.append(data.qpos[2])
    np.testing.assert_allclose(heights[-20:], 0.07, atol=0.03)  # m: the radius of its torso


def test_an_upper_leg_stops_at_a_wall():
    """The ant flies nose down, one upper leg ahead of torso and feet."""
    model = TASKS["ant_u4_maze"].model("mujoco")
    data = mujoco.MjData(model)
    data.qpos[:3], data.qpos[7:] = (9.6, 4.0, 1.2), TASKS["ant_u4_maze"].spec.joints.default
    data.joint("ankle_1").qpos = np.radians(69)
    turn, tilt = np.array([np.cos(np.pi / 8), 0, 0, -np.sin(np.pi / 8)]), np.cos(np.pi / 8)
    mujoco.mju_mulQuat(data.qpos[3:7], np.array([tilt, 0, np.sin(np.pi / 8), 0]), turn)
    data.qvel[0] = 2.0
    first = set()
    for _ in range(20):
        mujoco.mj_step(model, data)
        first = first or contacts(data)
        assert data.geom("aux_1_geom").xpos[0] + 0.1 + 0.08 < 10.03
    assert first == {frozenset(("aux_1_geom", "wall"))}


# In the maze `u4`: place of an ant (m), its heading and the direction in which it flies (rad).
FLIGHTS = (
    ((4.0, 4.0), np.pi / 4, np.pi / 4),  # at a corner, which comes between the front legs
    ((8.0, 4.0), 0.3, 0.4),  # at the wall ahead, at a slant
    ((8.0, 4.0), 0.0, -np.pi / 2),  # aside
)
SPEED = 15.0  # m/s
CONTROL_STEPS = 8


@pytest.mark.parametrize("name", ["mujoco", "mjx", "brax"])
def test_a_fast_ant_does_not_pass_a_wall(name):
    task = TASKS["ant_u4_maze"]
    engine, ants = make_engine(task, name), len(FLIGHTS)
    qpos, qvel = np.zeros((ants, 15), np.float32), np.zeros((ants, 14), np.float32)
    for i, (place, heading, direction) in enumerate(FLIGHTS):
        qpos[i, :7] = *place, 0.8, np.cos(heading / 2), 0, 0, np.sin(heading / 2)
        qpos[i, 7:] = task.spec.joints.default
        qvel[i, :2] = SPEED * np.cos(direction), SPEED * np.sin(direction)
    init, step = (lambda q, v: engine.init(q, v, ())), (lambda state, action: engine.step(state, action, ()))
    action = np.zeros((ants, 8), np.float32)
    if engine.compiled:
        init = compiled(init, qpos, qvel)
        step = compiled(step, init(qpos, qvel), action)
    state, torsos = init(qpos, qvel), []
    for _ in range(CONTROL_STEPS):
        state = step(state, action)
        torsos.append(np.array(engine.read(state).qpos[:, :3]))
    corner, slant, aside = np.moveaxis(torsos, 1, 0)
    for torso in (corner, slant, aside):
        assert not Maze(U4, 4.0).is_wall(torso[:, 0], torso[:, 1]).any()
    # They did come to the wall: a torso to the corner, and feet ahead of the torso to the others.
    assert 0.1 < np.linalg.norm(corner[:, :2] - 6.0, axis=-1).min() < 0.4
    assert 9.0 < slant[:, 0].max() < 9.95
    assert 2.05 < aside[:, 1].min() < 3.0
