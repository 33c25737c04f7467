"""What every task must do on each of its engines.

A few tasks stand for the rest where an engine takes long to compile; `pytest -m slow` runs them all.
"""

from functools import cache, partial
from typing import NamedTuple

import jax
import numpy as np
import pytest

import teacher.rollout
from teacher.compilation import jit_once
from teacher.config import STORED, StoredName, TeacherConfig
from teacher.errors import UsageError
from teacher.rollout import Simulation, Trajectories, simulation
from teacher.tasks import TASKS, MujocoTask, Start, State, Task, make_task

STEPS, EPISODES, BATCH = 150, 3, 4
COMPILED_HERE = {
    ("reacher", "brax"),
    *((name, "mjx") for name in ("reacher", "fr3_reach", "quad_reach")),
}
CASES = [
    pytest.param(
        (name, engine),
        id=f"{name}-{engine}",
        marks=() if engine in ("mujoco", "analytic") or (name, engine) in COMPILED_HERE else pytest.mark.slow,
    )
    for name in TASKS
    for engine in make_task(name).engines
]
UNLIKE = 1e-4  # m, rad: how far two engines may differ after one control step of smooth motion


@pytest.fixture(scope="module", autouse=True)
def small_batches():
    """A handful of environments are simulated as such, not as 64."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teacher.rollout, "ROLLOUT_BATCHES", (BATCH,))
        yield


class Case(NamedTuple):
    simulation: Simulation
    start: Start
    trajectories: Trajectories


def played(on_engine, start, steps):
    """Random play that looks at nothing: row i of every batch is given the same actions."""
    rng, size = np.random.default_rng(0), on_engine.task.spec.action_size

    def policy(observation, goal, sensed):
        return rng.uniform(-1, 1, (BATCH, size)).astype(np.float32)[: len(observation)]

    return on_engine.rollout(policy, start, steps, jax.random.key(6))


@pytest.fixture(scope="module", params=CASES)
def case(request):
    on_engine = simulation(*request.param)
    start = on_engine.starts(jax.random.key(3), EPISODES)
    return Case(on_engine, start, played(on_engine, start, min(STEPS, on_engine.task.spec.episode_length)))


@pytest.fixture(params=TASKS)
def task(request):
    return make_task(request.param)


@cache
def many_starts(name, layout):
    keys = jax.random.split(jax.random.key(0), 5000)
    draw = jit_once(jax.vmap(partial(make_task(name).start, layout=layout)))
    return jax.tree.map(np.asarray, draw(keys))


def at_rest(task, qpos, qvel):
    """The states [E] as the C engine shows them to the task."""
    engine = simulation(task.spec.name, "mujoco").engine
    return engine.read(engine.init(qpos, qvel, ()))


# On every engine


def test_random_play_has_the_shapes_of_the_spec_moves_and_stands_still_once_it_has_ended(case):
    task = case.simulation.task
    qpos, observation, action, active, sensed = case.trajectories
    size, _, goal_size = task.spec.sensed_sizes
    length = len(action)
    for values, rows, entries in (
        (qpos, length + 1, case.start.qpos.shape[1:]),
        (observation, length + 1, (task.spec.observation_size,)),
        (action, length, (task.spec.action_size,)),
        (active, length, ()),
        (sensed.observation, length + 1, (size,)),
        (sensed.goal, length + 1, (goal_size,)),
    ):
        assert values.shape == (rows, EPISODES, *entries)
        assert np.isfinite(values).all()
    assert (np.ptp(observation, axis=0).max(-1) > 0.01).all()
    for episode, steps in enumerate(active.sum(0)):
        assert active[:steps, episode].all()
        for values in (qpos, *sensed):
            still = np.broadcast_to(values[steps, episode], values[steps:, 0].shape)
            np.testing.assert_array_equal(values[steps:, episode], still)
    assert type(task).ended is not Task.ended or active.all()
    assert "humanoid" not in task.spec.name or not active.all()  # it falls


def test_a_rollout_begins_where_it_is_told(case):
    start, task = case.start, case.simulation.task
    np.testing.assert_allclose(case.trajectories.qpos[0], start.qpos, atol=1e-6)
    first = task.observe(at_rest(task, start.qpos, start.qvel))
    np.testing.assert_allclose(case.trajectories.observation[0], first, atol=1e-4)


def test_an_episode_repeats_to_the_bit_whatever_its_companions(case):
    before = jax.tree.map(np.array, case.start)
    swapped = played(case.simulation, jax.tree.map(lambda leaf: leaf[[0, 2, 1]], case.start), 20)
    jax.tree.map(
        lambda other, usual: np.testing.assert_array_equal(other[:, 0], usual[: len(other), 0]),
        swapped,
        case.trajectories,
    )
    jax.tree.map(np.testing.assert_array_equal, before, case.start)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if (name, "mjx") in COMPILED_HERE else pytest.mark.slow)
        for name in TASKS
        if {"mjx", "mujoco"} <= {*make_task(name).engines}
    ],
)
def test_mjx_and_the_c_engine_agree_after_one_control_step(name):
    """From a start at rest under small actions: contacts, where there are any, are at rest too."""
    start = simulation(name, "mujoco").starts(jax.random.key(3), 2)
    small = 0.1 * np.random.default_rng(3).uniform(-1, 1, (2, make_task(name).spec.action_size))
    small = small[[0, 1, 1, 1]].astype(np.float32)  # as many as a padded batch has
    mjx, exact = (
        simulation(name, engine).rollout(lambda o, g: small[: len(o)], start, 1)
        for engine in ("mjx", "mujoco")
    )
    np.testing.assert_allclose(mjx.qpos, exact.qpos, atol=UNLIKE)
    np.testing.assert_allclose(mjx.observation[0], exact.observation[0], atol=UNLIKE)


# Whatever the engine


@pytest.mark.parametrize("name", ["reacher", "wheel_maze"])
def test_starts_are_a_prefix_of_more_starts(name):
    anywhere = simulation(name, "mujoco")
    few, more = (anywhere.starts(jax.random.key(3), count) for count in (6, 12))
    jax.tree.map(lambda few, more: np.testing.assert_array_equal(few, more[:6]), few, more)
    assert (anywhere.starts(jax.random.key(4), 12).goal != more.goal).any()


def test_goals_of_every_layout_fill_the_range_of_the_spec(task):
    spec = task.spec
    first, *others = (many_starts(spec.name, layout).goal for layout in task.layouts)
    for goal in (first, *others):
        # float32 may round a goal on the edge outwards
        assert (goal >= np.array(spec.goal.low) - 1e-6).all() and (
            goal <= np.array(spec.goal.high) + 1e-6
        ).all()
    assert not any(np.array_equal(goal, first) for goal in others)
    wide = np.subtract(spec.goal.high, spec.goal.low)
    assert (wide <= 1.25 * np.ptp(first, axis=0) + 1e-6).all(), "the range is that of the goals, not wider"


def test_observation_and_control_mean_the_same_in_numpy_and_in_traced_jax(task):
    spec, rng = task.spec, np.random.default_rng(1)
    start = jax.tree.map(lambda leaf: leaf[:10], many_starts(spec.name, task.layouts[0]))
    state = at_rest(task, start.qpos, rng.normal(size=start.qvel.shape))
    state = state._replace(control=rng.uniform(-0.2, 0.2, state.control.shape))
    state = jax.tree.map(lambda leaf: leaf.reshape(2, 5, *leaf.shape[1:]).astype(np.float32), state)
    action = rng.uniform(-1.5, 1.5, (2, 5, spec.action_size)).astype(np.float32)
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


def test_the_models_joints_ranges_and_marker_are_those_of_the_spec(task):
    size, joints = task.spec.action_size, task.spec.joints
    start = many_starts(task.spec.name, task.layouts[0])
    state = State(start.qpos[0].astype(float), start.qvel[0].astype(float), np.zeros(size))
    wild = np.random.default_rng(2).uniform(-3, 3, size)
    np.testing.assert_array_equal(task.control(state, wild), task.control(state, np.clip(wild, -1, 1)))
    if not isinstance(task, MujocoTask):
        return
    goal = many_starts(task.spec.name, task.layouts[-1]).goal[:6].reshape(2, 3, -1)
    assert np.isfinite(task.marker(goal)).reshape(2, 3, 3).all()
    for model in (task.model(engine) for engine in task.engines if engine != "analytic"):
        limited = model.actuator_ctrllimited[:, None]
        low, high = np.where(limited, model.actuator_ctrlrange, [-np.inf, np.inf]).T
        for side in (-1.0, 1.0):
            command = task.control(state, np.full(size, side))
            assert (command >= low - 1e-6).all() and (command <= high + 1e-6).all()
        named = {model.joint(i).name: i for i in range(model.njnt)}
        for name, default in zip(joints.names, joints.default, strict=True):
            low, high = joints.range_of(name)
            assert low < default < high
            if model.jnt_limited[named[name]]:
                np.testing.assert_allclose(model.jnt_range[named[name]], [low, high], atol=1e-6)


def test_more_episodes_than_one_batch_are_joined_in_order():
    on_mjx = simulation("reacher", "mjx")
    start, asked = on_mjx.starts(jax.random.key(5), BATCH + 2), []

    def towards_goal(observation, goal):
        asked.append(goal)
        return goal / 0.2

    joined = on_mjx.rollout(towards_goal, start, 20)
    # In turn: the second batch in the first step before the first batch in the second.
    np.testing.assert_array_equal(asked[0], asked[2])
    assert not np.array_equal(asked[0], asked[1])
    last = on_mjx.rollout(towards_goal, jax.tree.map(lambda leaf: leaf[BATCH:], start), 20)
    jax.tree.map(lambda many, two: np.testing.assert_allclose(many[:, BATCH:], two, atol=1e-5), joined, last)


# Names


@pytest.mark.parametrize(
    ("name", "engine", "layout", "message"),
    [
        ("fr3_reech", None, None, r"unknown task 'fr3_reech'; did you mean 'fr3_reach'\?"),
        ("reacher", "mujco", None, r"unknown engine for task 'reacher' 'mujco'; did you mean 'mujoco'\?"),
        ("fr3_reach", "brax", None, r"unknown engine for task 'fr3_reach' 'brax' \(known: mjx, mujoco\)"),
        ("wheel_maze", None, "nearby", r"unknown goal layout 'nearby'; did you mean 'near'\?"),
    ],
)
def test_an_unknown_name_is_answered_with_the_known_ones(name, engine, layout, message):
    with pytest.raises(UsageError, match=message):
        simulation(name, engine).starts(jax.random.key(0), 2, layout)


def test_a_task_is_made_once_whoever_names_it():
    stored = TeacherConfig.model_validate({"task": {"name": "wheel_maze"}}, context=STORED).task.name
    assert isinstance(stored, StoredName)
    assert make_task(stored) is make_task("wheel_maze")
    assert simulation(stored) is simulation("wheel_maze", "analytic")
