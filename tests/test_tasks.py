"""What every task must do on each of its engines.

A few tasks stand for the rest where an engine takes long to compile; `pytest -m slow` runs them all.
"""

from functools import cache
from typing import NamedTuple

import jax
import mujoco
import numpy as np
import pytest

import teacher.rollout
import teacher.tasks
from teacher.config import STORED, StoredName, TeacherConfig
from teacher.errors import UsageError
from teacher.rollout import Simulation, Trajectories, simulation
from teacher.tasks import TASKS, MujocoTask, Start, State, goal_distance, make_task
from teacher.tasks.base import Frames

RANDOM_STEPS = 1000
COMPILED_HERE = {"fr3_reach", "reacher", "wheel_maze", "ant", "quad_reach"}
CASES = [
    pytest.param(
        (name, engine),
        id=f"{name}-{engine}",
        marks=() if engine in ("mujoco", "analytic") or name in COMPILED_HERE else pytest.mark.slow,
    )
    for name in TASKS
    for engine in make_task(name).engines
]
NOISE_KEY = jax.random.key(6)
UNLIKE = 1e-4  # m, rad: how far two engines may differ after one control step of smooth motion


@pytest.fixture(scope="module", autouse=True)
def small_batches():
    """A handful of environments are simulated as such, not as 64."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teacher.rollout, "ROLLOUT_BATCHES", (2, 10))
        yield


def random_actions(spec):
    """A policy that looks at nothing: row i of every batch is given the same actions."""
    rng = np.random.default_rng(0)

    def policy(observation, goal, sensed):
        return rng.uniform(-1, 1, (10, spec.action_size)).astype(np.float32)[: len(observation)]

    return policy


class Case(NamedTuple):
    simulation: Simulation
    start: Start
    trajectories: Trajectories

    def first_steps(self, start):
        return self.simulation.rollout(random_actions(self.simulation.task.spec), start, 20, NOISE_KEY)


@pytest.fixture(scope="module", params=CASES)
def case(request):
    on_engine = simulation(*request.param)
    spec = on_engine.task.spec
    start = on_engine.starts(jax.random.key(3), max(2, -(-RANDOM_STEPS // spec.episode_length)))
    return Case(on_engine, start, on_engine.rollout(random_actions(spec), start, noise_key=NOISE_KEY))


@pytest.fixture(params=TASKS)
def task(request):
    return make_task(request.param)


@cache
def many_starts(name, layout):
    keys = jax.random.split(jax.random.key(0), 20_000)
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(lambda key: make_task(name).start(key, layout)))(keys))


# On every engine


def test_a_thousand_random_steps_have_the_shapes_of_the_spec_stay_finite_and_move(case):
    spec, episodes = case.simulation.task.spec, len(case.start.goal)
    qpos, observation, action, going, sensed = case.trajectories
    length = spec.episode_length
    assert qpos.shape == (length + 1, *case.start.qpos.shape)
    assert observation.shape == (length + 1, episodes, spec.observation_size)
    assert action.shape == (length, episodes, spec.action_size)
    assert going.shape == (length, episodes)
    size, _, goal_size = spec.sensed_sizes
    assert sensed.observation.shape == (length + 1, episodes, size)
    assert sensed.goal.shape == (length + 1, episodes, goal_size)
    assert length * episodes >= RANDOM_STEPS
    assert all(np.isfinite(values).all() for values in (qpos, observation, *sensed))
    assert (np.ptp(observation, axis=0).max(-1) > 0.01).all()


def test_an_episode_stands_still_once_it_has_ended(case):
    qpos, _, _, going, sensed = case.trajectories
    for episode in range(going.shape[1]):
        steps = going[:, episode].sum()
        assert going[:steps, episode].all()
        for values in (qpos, *sensed):
            still = np.broadcast_to(values[steps, episode], values[steps:, 0].shape)
            np.testing.assert_array_equal(values[steps:, episode], still)
    task = case.simulation.task
    ends = type(task).ended is not teacher.tasks.Task.ended
    assert ends or going.all()


def bodies_of(task, qpos, qvel):
    """Where MuJoCo itself has the bodies that the task names; None if it names none."""
    if not getattr(task, "bodies", ()):
        return None
    model = task.model("mujoco")
    data, found = mujoco.MjData(model), []
    for data.qpos[:], data.qvel[:] in zip(qpos, qvel, strict=True):
        mujoco.mj_forward(model, data)
        frames = []
        for name in task.bodies:
            body, motion = data.body(name), np.empty(6)
            mujoco.mj_objectVelocity(model, data, mujoco.mjtObj.mjOBJ_XBODY, body.id, motion, 0)
            frames.append(Frames(body.xpos.copy(), body.xquat.copy(), motion[3:], motion[:3]))
        found.append(Frames(*map(np.stack, zip(*frames, strict=True))))
    return Frames(*map(np.stack, zip(*found, strict=True)))


def test_a_rollout_begins_where_it_is_told(case):
    start, task = case.start, case.simulation.task
    np.testing.assert_allclose(case.trajectories.qpos[0], start.qpos, atol=1e-6)
    at_rest = np.zeros((len(start.goal), controls(task)), np.float32)
    qpos, qvel = np.asarray(start.qpos), np.asarray(start.qvel)
    first = task.observe(State(qpos, qvel, at_rest, bodies=bodies_of(task, qpos, qvel)))
    np.testing.assert_allclose(case.trajectories.observation[0], first, atol=1e-4)


def test_the_same_start_and_actions_give_the_same_bits(case):
    start = jax.tree.map(np.array, case.start)
    again = case.first_steps(start)
    jax.tree.map(
        lambda few, usual: np.testing.assert_array_equal(few, usual[: len(few)]), again, case.trajectories
    )
    jax.tree.map(np.testing.assert_array_equal, start, jax.tree.map(np.asarray, case.start))


def test_an_episode_does_not_depend_on_its_companions(case):
    swapped = case.first_steps(jax.tree.map(lambda leaf: leaf[[0, *range(len(leaf) - 1, 0, -1)]], case.start))
    jax.tree.map(
        lambda other, usual: np.testing.assert_array_equal(other[:, 0], usual[: len(other), 0]),
        swapped,
        case.trajectories,
    )


# Whatever the engine


def test_starts_are_a_prefix_of_more_starts(task):
    anywhere = simulation(task.spec.name, "mujoco" if "mujoco" in task.engines else None)
    few, more = (anywhere.starts(jax.random.key(3), count) for count in (6, 12))
    jax.tree.map(lambda few, more: np.testing.assert_array_equal(few, more[:6]), few, more)
    other = anywhere.starts(jax.random.key(4), 12)
    assert (other.goal != more.goal).any()
    assert len(np.unique(more.goal, axis=0)) > 1


def test_goals_of_every_layout_fill_the_range_of_the_spec(task):
    spec = task.spec
    for layout in task.layouts:
        goal = many_starts(spec.name, layout).goal
        # float32 may round a goal on the edge outwards
        outside = ((goal < np.array(spec.goal.low) - 1e-6) | (goal > np.array(spec.goal.high) + 1e-6)).any(-1)
        assert not outside.any(), f"{layout}: {outside.sum()} goals outside, the first {goal[outside][0]}"
        assert layout == task.layouts[0] or not np.array_equal(
            goal, many_starts(spec.name, task.layouts[0]).goal
        )
    wide = np.subtract(spec.goal.high, spec.goal.low)
    found = np.ptp(many_starts(spec.name, task.layouts[0]).goal, axis=0)
    assert (wide <= 1.25 * found + 1e-6).all(), "the range is that of the goals, not something far wider"


def test_observation_and_control_mean_the_same_in_numpy_and_in_traced_jax(task):
    spec, rng = task.spec, np.random.default_rng(1)
    start = jax.tree.map(lambda leaf: leaf[:10].reshape(2, 5, -1), many_starts(spec.name, task.layouts[0]))
    qvel = rng.normal(size=start.qvel.shape).astype(np.float32)
    held = rng.uniform(-0.2, 0.2, (2, 5, controls(task))).astype(np.float32)
    action = rng.uniform(-1.5, 1.5, (2, 5, spec.action_size)).astype(np.float32)
    bodies = bodies_of(task, start.qpos.reshape(10, -1), qvel.reshape(10, -1))
    bodies = jax.tree.map(lambda leaf: leaf.reshape(2, 5, *leaf.shape[1:]).astype(np.float32), bodies)
    state = State(start.qpos, qvel, held, bodies=bodies)
    for function, inputs in [
        (task.observe, (state,)),
        (task.control, (state, action)),
        (task.ended, (state,)),
    ]:
        expected = function(*inputs)
        assert isinstance(expected, np.ndarray)
        assert expected.dtype == (bool if function == task.ended else np.float32)
        traced = jax.jit(function)(*inputs)
        assert traced.dtype == expected.dtype
        np.testing.assert_allclose(traced, expected, atol=1e-5, rtol=1e-5)
        one = jax.tree.map(lambda leaf: leaf[1, 3], inputs)
        np.testing.assert_allclose(function(*one), expected[1, 3], atol=1e-6, rtol=1e-5)
        assert jax.eval_shape(function, *one).shape == expected.shape[2:]


def test_the_models_joints_ranges_and_marker_are_those_of_the_spec(task):
    state, size, goal = (
        at_start(task),
        task.spec.action_size,
        many_starts(task.spec.name, task.layouts[-1]).goal,
    )
    for action in np.random.default_rng(2).uniform(-3, 3, (20, size)):
        np.testing.assert_array_equal(
            task.control(state, action), task.control(state, np.clip(action, -1, 1))
        )
    if not isinstance(task, MujocoTask):
        return
    assert np.isfinite(task.marker(goal[:6].reshape(2, 3, -1))).reshape(2, 3, 3).all()
    joints = task.spec.joints
    for model in (task.model(engine) for engine in task.engines if engine != "analytic"):
        low, high = np.where(
            model.actuator_ctrllimited[:, None], model.actuator_ctrlrange, [-np.inf, np.inf]
        ).T
        for side in (-1.0, 1.0):
            command = task.control(state, np.full(size, side))
            assert (command >= low - 1e-6).all() and (command <= high + 1e-6).all()
        named = {model.joint(i).name: i for i in range(model.njnt)}
        for name, default in zip(joints.names, joints.default, strict=True):
            low, high = joints.range_of(name)
            assert low < default < high
            if model.jnt_limited[named[name]]:
                np.testing.assert_allclose(model.jnt_range[named[name]], [low, high], atol=1e-6)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in COMPILED_HERE else pytest.mark.slow)
        for name in TASKS
        if {"mjx", "mujoco"} <= {*make_task(name).engines}
    ],
)
def test_mjx_and_the_c_engine_agree_after_one_control_step(name):
    """From a start at rest under small actions: contacts, where there are any, are at rest too."""
    start = simulation(name, "mujoco").starts(jax.random.key(3), 2)
    small = 0.1 * np.random.default_rng(3).uniform(-1, 1, (2, make_task(name).spec.action_size))
    one_step = [
        simulation(name, engine).rollout(lambda o, g: small.astype(np.float32)[: len(o)], start, 1)
        for engine in ("mjx", "mujoco")
    ]
    np.testing.assert_allclose(one_step[0].qpos, one_step[1].qpos, atol=UNLIKE)
    np.testing.assert_allclose(one_step[0].observation[0], one_step[1].observation[0], atol=UNLIKE)


def controls(task):
    """How many numbers the task's controls are."""
    return task.control(at_start(task), np.zeros(task.spec.action_size)).shape[-1]


def at_start(task):
    start = jax.tree.map(lambda leaf: leaf[0].astype(float), many_starts(task.spec.name, task.layouts[0]))
    return State(start.qpos, start.qvel, np.zeros(task.spec.action_size))


def test_more_episodes_than_one_batch_are_joined_in_order():
    on_mjx = simulation("reacher", "mjx")
    start = on_mjx.starts(jax.random.key(5), 12)

    asked = []

    def towards_goal(observation, goal):
        asked.append(goal)
        return goal / 0.2

    joined = on_mjx.rollout(towards_goal, start)
    assert joined.qpos.shape[1] == 12
    # In turn: the second batch in the first step before the first batch in the second.
    np.testing.assert_array_equal(asked[0], asked[2])
    assert not np.array_equal(asked[0][:2], asked[1][:2])
    last = on_mjx.rollout(towards_goal, jax.tree.map(lambda leaf: leaf[10:], start))
    jax.tree.map(lambda many, two: np.testing.assert_allclose(many[:, 10:], two, atol=1e-5), joined, last)


def test_distances_are_euclidean_over_the_goals_entries():
    spec = make_task("reacher").spec
    observation, goal = np.zeros((2, spec.observation_size)), np.array([[0.0, 4.0], [0.0, 4.0]])
    observation[1, spec.goal.observation_indices[0]] = 3.0
    np.testing.assert_allclose(goal_distance(spec, observation, goal), [4.0, 5.0])


# Names


@pytest.mark.parametrize(
    ("name", "engine", "message"),
    [
        ("fr3_reech", None, r"unknown task 'fr3_reech'; did you mean 'fr3_reach'\?"),
        ("reacher", "mujco", r"unknown engine for task 'reacher' 'mujco'; did you mean 'mujoco'\?"),
        ("fr3_reach", "brax", r"unknown engine for task 'fr3_reach' 'brax' \(known: mjx, mujoco\)"),
    ],
)
def test_an_unknown_name_is_answered_with_the_known_ones(name, engine, message):
    with pytest.raises(UsageError, match=message):
        simulation(name, engine)


def test_an_unknown_layout_is_answered_with_the_known_ones():
    with pytest.raises(UsageError, match=r"unknown goal layout 'nearby'; did you mean 'near'\?"):
        simulation("wheel_maze").starts(jax.random.key(0), 2, "nearby")


def test_a_task_is_made_once_whoever_names_it():
    stored = TeacherConfig.model_validate({"task": {"name": "wheel_maze"}}, context=STORED).task.name
    assert isinstance(stored, StoredName)
    assert make_task(stored) is make_task("wheel_maze")
    assert simulation(stored) is simulation("wheel_maze", "analytic")
