import xml.etree.ElementTree as ElementTree
from functools import cache
from importlib.resources import files
from typing import NamedTuple

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

import teacher.simulation
from teacher.errors import UsageError
from teacher.simulation import Simulation, Trajectories, simulation
from teacher.tasks import TASKS, Start, State, achieved_goal, goal_distance, make_task
from teacher.tasks.fr3 import flange_position, joint_frames

EPISODES = 6
CASES = [(name, engine) for name in TASKS for engine in make_task(name).engines]


def random_actions(spec):
    """A policy that looks at nothing: row i of every batch is given the same actions."""
    rng = np.random.default_rng(0)

    def policy(observation, goal):
        return rng.uniform(-1, 1, (64, spec.action_size)).astype(np.float32)[: len(observation)]

    return policy


class Case(NamedTuple):
    simulation: Simulation
    start: Start
    trajectories: Trajectories


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def case(request):
    on_engine = simulation(*request.param)
    start = on_engine.starts(jax.random.key(3), EPISODES)
    return Case(on_engine, start, on_engine.rollout(random_actions(on_engine.task.spec), start))


@pytest.fixture(params=TASKS)
def task(request):
    return make_task(request.param)


@cache
def many_starts(name):
    keys = jax.random.split(jax.random.key(0), 200_000)
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(lambda key: make_task(name).start(key, "all")))(keys))


def at_rest(qpos):
    return State(qpos, np.zeros_like(qpos), np.zeros_like(qpos))


@pytest.fixture(scope="module")
def fr3():
    return make_task("fr3_reach")


# What every task and engine must do


def test_rollout_has_the_shapes_of_the_spec(case):
    spec = case.simulation.task.spec
    qpos, observation, action, going = case.trajectories
    length = spec.episode_length
    assert qpos.shape == (length + 1, EPISODES, len(spec.joints.names))
    assert observation.shape == (length + 1, EPISODES, spec.observation_size)
    assert action.shape == (length, EPISODES, spec.action_size)
    assert going.shape == (length, EPISODES)
    assert sum(len(term.entries) for term in spec.observation) == observation.shape[-1]
    assert achieved_goal(spec, observation).shape == (length + 1, EPISODES, spec.goal_size)


def test_hundreds_of_random_steps_stay_finite_and_move(case):
    qpos, observation = case.trajectories[:2]
    assert np.isfinite(qpos).all()
    assert np.isfinite(observation).all()
    assert (np.ptp(qpos, axis=0) > 0.01).all()


def test_a_rollout_begins_where_it_is_told(case):
    np.testing.assert_array_equal(case.trajectories.qpos[0], np.asarray(case.start.qpos))
    first = case.simulation.task.observe(State(*map(np.asarray, case.start[:2]), control=None))
    np.testing.assert_allclose(case.trajectories.observation[0], first, atol=1e-6)


def test_the_same_start_and_actions_give_the_same_bits(case):
    start = jax.tree.map(np.array, case.start)
    again = case.simulation.rollout(random_actions(case.simulation.task.spec), start)
    jax.tree.map(np.testing.assert_array_equal, again, case.trajectories)
    jax.tree.map(np.testing.assert_array_equal, start, jax.tree.map(np.asarray, case.start))


def test_an_episode_does_not_depend_on_its_companions(case):
    alone = jax.tree.map(lambda leaf: leaf[:2], case.start)
    pair = case.simulation.rollout(random_actions(case.simulation.task.spec), alone)
    for two, six in zip(pair, case.trajectories, strict=True):
        np.testing.assert_array_equal(two, six[:, :2])


def test_starts_are_a_prefix_of_more_starts(case):
    more = case.simulation.starts(jax.random.key(3), 2 * EPISODES)
    jax.tree.map(lambda few, many: np.testing.assert_array_equal(few, many[:EPISODES]), case.start, more)
    other = case.simulation.starts(jax.random.key(4), EPISODES)
    assert (np.asarray(other.goal) != np.asarray(case.start.goal)).all()
    assert len(np.unique(np.asarray(more.goal), axis=0)) == 2 * EPISODES


def test_starts_and_goals_lie_in_the_ranges_of_the_spec(task):
    spec, start = task.spec, many_starts(task.spec.name)
    assert (start.qpos >= spec.joints.lower).all()
    assert (start.qpos <= spec.joints.upper).all()
    assert (np.abs(start.qvel) <= spec.joints.velocity).all()
    # float32 may round a goal on the edge outwards
    outside = (
        (start.goal < np.array(spec.goal.low) - 1e-6) | (start.goal > np.array(spec.goal.high) + 1e-6)
    ).any(-1)
    assert not outside.any(), f"{outside.sum()} goals outside, the first {start.goal[outside][0]}"
    # the range is that of the goals, not something far wider
    middle = np.abs(start.goal - start.goal.mean(0)).max(0)
    assert (np.subtract(spec.goal.high, spec.goal.low) < 2.5 * middle).all()


def test_goals_can_be_met_within_joint_limits(task):
    spec = task.spec
    low = np.array(spec.joints.lower) + spec.joints.margin
    high = np.array(spec.joints.upper) - spec.joints.margin
    bent = np.array(spec.joints.default) + 0.1  # off the singularity of a straight arm

    for goal in many_starts(spec.name).goal[:20].astype(np.float64):

        def miss(qpos, goal=goal):
            return achieved_goal(spec, task.observe(at_rest(qpos))) - goal

        found = least_squares(miss, bent, bounds=(low, high), xtol=1e-10)
        assert np.linalg.norm(found.fun) < spec.goal.strict_radius / 2


def test_observation_and_control_mean_the_same_in_numpy_and_in_traced_jax(task):
    spec = task.spec
    rng = np.random.default_rng(1)
    size = len(spec.joints.names)
    qpos = (np.array(spec.joints.default) + rng.uniform(-1, 1, (2, 5, size))).astype(np.float32)
    qvel = rng.normal(size=(2, 5, size)).astype(np.float32)
    action = rng.uniform(-1.5, 1.5, (2, 5, spec.action_size)).astype(np.float32)
    for function, inputs in [
        (task.observe, (State(qpos, qvel, action),)),
        (task.control, (State(qpos, qvel, action), action)),
    ]:
        expected = function(*inputs)
        assert isinstance(expected, np.ndarray)
        assert expected.dtype == np.float32
        traced = jax.jit(function)(*inputs)
        assert traced.dtype == jnp.float32
        np.testing.assert_allclose(traced, expected, atol=1e-5)
        one = jax.tree.map(lambda leaf: leaf[1, 3], inputs)
        np.testing.assert_allclose(function(*one), expected[1, 3], atol=1e-6)
        assert jax.eval_shape(function, *one).shape == expected.shape[2:]


def test_goal_distance_is_euclidean(task):
    spec = task.spec
    observation = np.zeros((2, spec.observation_size))
    observation[1, spec.goal.observation_indices[0]] = 3.0
    goal = np.zeros((2, spec.goal_size))
    goal[:, 1] = 4.0
    np.testing.assert_allclose(goal_distance(spec, observation, goal), [4.0, 5.0])
    np.testing.assert_allclose(jax.jit(lambda o, g: goal_distance(spec, o, g))(observation, goal), [4.0, 5.0])


def test_the_model_has_the_joints_and_actuators_of_the_spec(task):
    spec, model = task.spec, task.model(task.engines[0])
    assert (model.nq, model.nv, model.nu) == (len(spec.joints.names),) * 2 + (spec.action_size,)
    assert tuple(model.joint(i).name for i in range(model.njnt)) == spec.joints.names
    driven = tuple(model.joint(model.actuator_trnid[i, 0]).name for i in range(model.nu))
    assert driven == spec.action.joints
    limited = model.jnt_limited.astype(bool)
    np.testing.assert_allclose(model.jnt_range[limited, 0], np.array(spec.joints.lower)[limited])
    np.testing.assert_allclose(model.jnt_range[limited, 1], np.array(spec.joints.upper)[limited])
    assert (np.array(spec.joints.lower) < spec.joints.default).all()
    assert (np.array(spec.joints.upper) > spec.joints.default).all()


def test_actions_are_scaled_as_the_spec_says_and_clipped(task):
    spec, model = task.spec, task.model(task.engines[0])
    home = at_rest(np.array(spec.joints.default))
    for action in np.random.default_rng(2).uniform(-1, 1, (20, spec.action_size)):
        command = np.array(spec.action.offset) + np.array(spec.action.scale) * action
        np.testing.assert_allclose(task.control(home, action), command, rtol=1e-12)
        np.testing.assert_array_equal(
            task.control(home, 3 * action), task.control(home, np.clip(3 * action, -1, 1))
        )
    full = (
        task.control(home, np.full(spec.action_size, 9.0)),
        task.control(home, np.full(spec.action_size, -9.0)),
    )
    assert (full[0] <= model.actuator_ctrlrange[:, 1]).all()
    assert (full[1] >= model.actuator_ctrlrange[:, 0]).all()


@pytest.mark.parametrize("name", [name for name in TASKS if {"mjx", "mujoco"} <= {*make_task(name).engines}])
def test_mjx_and_the_c_engine_integrate_alike(name):
    start = simulation(name, "mujoco").starts(jax.random.key(3), EPISODES)
    compiled, exact = (
        simulation(name, engine).rollout(random_actions(make_task(name).spec), start).qpos
        for engine in ("mjx", "mujoco")
    )
    np.testing.assert_allclose(compiled[1], exact[1], atol=1e-5)
    np.testing.assert_allclose(compiled[:11], exact[:11], atol=1e-4)


def test_more_episodes_than_one_batch_are_joined_in_order(monkeypatch):
    monkeypatch.setattr(teacher.simulation, "ROLLOUT_BATCHES", (64,))
    on_mjx = simulation("reacher", "mjx")
    start = on_mjx.starts(jax.random.key(5), 66)

    def towards_goal(observation, goal):
        return goal / 0.2

    joined = on_mjx.rollout(towards_goal, start)
    assert joined.qpos.shape[1] == 66
    last = on_mjx.rollout(towards_goal, jax.tree.map(lambda leaf: leaf[64:], start))
    for many, two in zip(joined, last, strict=True):
        np.testing.assert_array_equal(many[:, 64:], two)


# Names


def test_an_unknown_task_is_answered_with_the_nearest():
    with pytest.raises(UsageError, match=r"unknown task 'fr3_reech'; did you mean 'fr3_reach'\?"):
        make_task("fr3_reech")


@pytest.mark.parametrize(
    ("name", "engine", "message"),
    [
        ("reacher", "mujco", r"unknown engine for task 'reacher' 'mujco'; did you mean 'mujoco'\?"),
        ("fr3_reach", "brax", r"unknown engine for task 'fr3_reach' 'brax' \(known: mjx, mujoco\)"),
    ],
)
def test_an_engine_that_does_not_run_the_task_is_refused(name, engine, message):
    with pytest.raises(UsageError, match=message):
        simulation(name, engine)


def test_the_first_engine_is_the_default(task):
    assert simulation(task.spec.name).engine_name == task.engines[0]


# FR3 against what its maker publishes


@pytest.fixture(scope="module")
def urdf():
    text = (files("franky_sim") / "assets" / "fr3.urdf").read_text()
    root = ElementTree.fromstring(text)
    return {(part.tag, part.get("name")): part for part in root if part.tag in ("joint", "link")}


def numbers(element, attribute):
    return np.array([float(number) for number in element.get(attribute).split()])


def transform(origin):
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", numbers(origin, "rpy")).as_matrix()
    matrix[:3, 3] = numbers(origin, "xyz")
    return matrix


def urdf_frames(urdf, qpos):
    """Frames [8, 4, 4] of joints 1 to 7 and of the flange, fr3_joint8, in the robot's base."""
    frames, frame = [], np.eye(4)
    for i in range(1, 9):
        joint = urdf["joint", f"fr3_joint{i}"]
        frame = frame @ transform(joint.find("origin"))
        if joint.get("type") == "revolute":
            turn = np.eye(4)
            turn[:3, :3] = Rotation.from_rotvec(numbers(joint.find("axis"), "xyz") * qpos[i - 1]).as_matrix()
            frame = frame @ turn
        frames.append(frame)
    return np.stack(frames)


def random_configurations(spec, count):
    return np.random.default_rng(4).uniform(spec.joints.lower, spec.joints.upper, (count, 7))


def test_fr3_kinematics_are_those_of_the_urdf(fr3, urdf):
    qpos = random_configurations(fr3.spec, 50)
    expected = np.stack([urdf_frames(urdf, q) for q in qpos])
    positions, rotations = joint_frames(qpos)
    assert positions.dtype == np.float64
    np.testing.assert_allclose(positions, expected[..., :3, 3], atol=1e-6)
    np.testing.assert_allclose(rotations, expected[..., :3, :3], atol=1e-6)
    np.testing.assert_allclose(flange_position(qpos), expected[:, -1, :3, 3], atol=1e-6)


def test_fr3_kinematics_are_those_of_its_mujoco_model(fr3):
    model = fr3.model("mjx")
    data = mujoco.MjData(model)
    for qpos in random_configurations(fr3.spec, 50):
        data.qpos = qpos
        mujoco.mj_kinematics(model, data)
        np.testing.assert_allclose(flange_position(qpos), data.site("flange").xpos, atol=1e-6)
        bodies = [data.body(f"fr3_link{i}").xpos for i in range(1, 8)]
        np.testing.assert_allclose(joint_frames(qpos)[0][:7], bodies, atol=1e-6)


def test_fr3_limits_lie_inside_those_of_the_urdf(fr3, urdf):
    joints = fr3.spec.joints
    for name, lower, upper, velocity in zip(
        joints.names, joints.lower, joints.upper, joints.velocity, strict=True
    ):
        limit = urdf["joint", name].find("limit")
        assert float(limit.get("lower")) <= lower < upper <= float(limit.get("upper"))
        assert velocity <= float(limit.get("velocity"))
    assert (np.abs(fr3.spec.action.scale) <= np.array(joints.velocity)).all()


def test_fr3_masses_and_inertias_are_those_of_the_urdf(fr3, urdf):
    model = fr3.model("mjx")
    for i in range(1, 8):
        body = model.body(f"fr3_link{i}")
        inertial = urdf["link", f"fr3_link{i}"].find("inertial")
        assert body.mass[0] == pytest.approx(float(inertial.find("mass").get("value")), rel=1e-3)
        np.testing.assert_allclose(body.ipos, numbers(inertial.find("origin"), "xyz"), atol=1e-5)
        xx, yy, zz, xy, xz, yz = (
            float(inertial.find("inertia").get(f"i{axes}")) for axes in ("xx", "yy", "zz", "xy", "xz", "yz")
        )
        axes = Rotation.from_quat(body.iquat, scalar_first=True).as_matrix()
        found = axes @ np.diag(body.inertia) @ axes.T
        np.testing.assert_allclose(
            found, [[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]], atol=2e-3 * np.abs(found).max()
        )


def test_fr3_slows_down_before_its_limits_and_never_crosses_them(fr3):
    joints = fr3.spec.joints
    corners = np.random.default_rng(5).choice([-1.0, 1.0], (8, 7))
    drive = np.concatenate([np.eye(7), -np.eye(7), np.ones((1, 7)), -np.ones((1, 7)), corners])
    start = simulation("fr3_reach", "mujoco").starts(jax.random.key(0), len(drive))
    trajectories = simulation("fr3_reach", "mujoco").rollout(lambda observation, goal: drive, start)
    qpos, qvel = trajectories.qpos, trajectories.observation[..., 7:14]
    lower, upper = np.array(joints.lower), np.array(joints.upper)
    assert (qpos > lower).all()
    assert (qpos < upper).all()

    towards = np.where(drive > 0, upper - qpos, qpos - lower)  # [T, E, 7] way left
    pushed = np.broadcast_to(drive != 0, towards.shape)
    speed = qvel * np.sign(drive)
    assert (speed[:10].max(0)[drive != 0] > 0.9).all()  # full action is full speed while the limit is far
    near = pushed & (towards < joints.margin + 0.1)
    assert near.any(axis=0)[drive != 0].all()  # every driven joint came near its limit
    assert (speed[near] < 0.7).all()
    assert (np.abs(qvel[-1]) < 0.02).all()
    np.testing.assert_allclose(towards[-1][drive != 0], joints.margin, atol=0.01)


def test_fr3_turns_back_from_beyond_the_margin(fr3):
    joints = fr3.spec.joints
    at_limit = np.array(joints.upper)
    np.testing.assert_allclose(
        fr3.control(at_rest(at_limit), np.ones(7)), -joints.slowdown * joints.margin, atol=1e-12
    )
    np.testing.assert_allclose(
        fr3.control(at_rest(np.array(joints.lower)), -np.ones(7)), joints.slowdown * joints.margin, atol=1e-12
    )
