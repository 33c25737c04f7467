"""The wheeled robot: its own arithmetic, its MuJoCo model beside it, and its parking."""

import jax
import numpy as np
import pytest

from pipelines.render import record
from teacher.compilation import jit_once
from teacher.evaluate import episode_metrics, evaluation_starts, run_episodes
from teacher.rollout import Trajectories, simulation
from teacher.tasks import State, goal_distance, make_task
from teacher.tasks.wheel_maze import CELL, CONTROL_DT, KEPT, LEVER, NEAR, RADII, RADIUS, SPEED, TURN


@pytest.fixture(scope="module")
def task():
    return make_task("wheel_maze")


def driven(task, place, heading, actions):
    """States after each action [L, 2] from rest in the middle of a cell."""
    qpos = np.array([place[0] * CELL, place[1] * CELL, heading])
    state = State(qpos, np.zeros(3), np.zeros(3))
    states = [state]
    for action in actions:
        state = task.advance(state, task.control(state, np.asarray(action, float)))
        states.append(state)
    return states


def test_speed_approaches_the_command_and_moves_along_the_heading(task):
    states = driven(task, (3, 1), 0.0, [[1, 0]] * 3)
    speeds = [task.observe(state)[4] for state in states]
    np.testing.assert_allclose(speeds, [SPEED * (1 - KEPT**n) for n in range(4)])
    assert states[3].qpos[0] - 3 * CELL == pytest.approx(CONTROL_DT * sum(speeds))
    assert states[3].qpos[1] == pytest.approx(CELL)


def test_turning_is_positive_to_the_left_and_changes_no_place(task):
    states = driven(task, (1, 1), 0.0, [[0, 1]] * 20)
    np.testing.assert_allclose(states[-1].qpos[:2], CELL)
    assert states[1].qpos[2] == pytest.approx(CONTROL_DT * (1 - KEPT) * TURN)
    assert states[-1].qvel[2] == pytest.approx(TURN, rel=1e-2)


def test_walls_stop_an_axis_and_leave_the_other_free(task):
    """Row 0 is a wall: heading into it at an angle, the robot slides along it."""
    states = driven(task, (1, 2), np.pi * 0.85, [[1, 0]] * 10)
    last = states[-1]
    # It stops before the step that would take it in, at most one step's way before the wall.
    assert 0.5 * CELL + RADIUS <= last.qpos[0] <= 0.5 * CELL + RADIUS + SPEED * CONTROL_DT
    assert last.qvel[0] == 0
    assert last.qvel[1] > 0
    assert last.qpos[1] > states[-2].qpos[1] > 2.1 * CELL


def drawn_cells(task, layout):
    """Cells [D] of starts and of goals, over many episodes."""
    keys = jax.random.split(jax.random.key(0), 20_000)
    start = jit_once(jax.vmap(lambda key: task.start(key, layout)))(keys)
    return task.maze.cell_number(np.asarray(start.qpos)[:, :2]), task.maze.cell_number(np.asarray(start.goal))


def test_near_and_far_goals_part_all_of_them_by_the_cells_to_walk(task):
    routes = task.maze.routes
    first = int(task.maze.cell_number(task.maze.centres("S"))[0])
    steps = routes.steps[first]
    for layout, expected in {"all": steps >= 0, "far": steps > NEAR}.items():
        start, goal = drawn_cells(task, layout)
        assert set(start) == {first}
        assert set(goal) == set(np.flatnonzero(expected)), layout
    start, goal = drawn_cells(task, "near")
    assert set(zip(start, goal, strict=True)) == set(zip(*np.nonzero(routes.steps <= NEAR), strict=True))
    each = np.bincount(start)  # as often from each cell, however many are near it
    assert np.abs(each - len(start) / len(steps)).max() < 5 * (len(start) / len(steps)) ** 0.5


@pytest.mark.parametrize("engine", ["analytic", "mujoco"])
def test_no_policy_leaves_the_corridors(task, engine):
    on_engine, rng = simulation("wheel_maze", engine), np.random.default_rng(0)

    def ahead(observation, goal):
        turn = rng.uniform(-1, 1, len(observation)).astype(np.float32)
        return np.stack([np.ones_like(turn), turn], axis=-1)

    qpos, maze = on_engine.rollout(ahead, on_engine.starts(jax.random.key(0), 16)).qpos, task.maze
    assert not maze.is_wall(qpos[..., 0], qpos[..., 1]).any()
    assert np.ptp(qpos[..., 0]) > 2 * CELL


def test_the_mujoco_model_drives_as_the_arithmetic_does():
    """Where no wall is near, to half a control period: within one, the arithmetic knows a single speed."""
    actions = np.zeros((64, 2), np.float32)
    actions[:6] = [[1, 0.2], [1, -0.2], [0.5, 1], [-0.5, 0], [0, 1], [0.2, -1]]
    places = []
    for engine in ("analytic", "mujoco"):
        on_engine = simulation("wheel_maze", engine)
        start = on_engine.starts(jax.random.key(1), 6)
        qpos = np.tile(np.float32([3 * CELL, 3 * CELL, 0.0]), (6, 1))
        tried = start._replace(qpos=qpos)
        places.append(on_engine.rollout(lambda o, g: actions[: len(o)], tried, 4).qpos[-1])
    assert (np.abs(places[0] - places[1]) < CONTROL_DT / 2 * np.array([SPEED, SPEED, TURN])).all()


def test_the_reference_policy_reaches_every_goal_by_the_shortest_way(task):
    """In no fewer control steps than full speed takes, and in not many more: it slows down to turn."""
    maze, on_engine = task.maze, simulation("wheel_maze")
    goals = maze.centres("SG")
    starts = evaluation_starts(on_engine, len(goals), "all")._replace(goal=goals)
    outcomes, lived = run_episodes(on_engine, task.reference_policy, starts)
    assert outcomes.success_final.all() and outcomes.strict_final.all()
    near = np.linalg.norm(lived.observation[..., :2] - goals, axis=-1) <= task.spec.goal.success_radius
    arrived = near.argmax(0)
    left = maze.routes.steps[maze.cell_number(lived.observation[..., :2]), maze.cell_number(goals)]
    cells = left[0]
    a_cell = CELL / (SPEED * CONTROL_DT)  # control steps at full speed
    far = cells >= 8
    assert far.sum() > 20
    assert (arrived[far] >= a_cell * (cells[far] - 3)).all()  # a corner is cut, the radius is half a cell
    assert (arrived[far] <= 2 * a_cell * cells[far]).all()
    assert (np.diff(left, axis=0) <= 0).all()  # never back, never into a longer way


@pytest.mark.parametrize("name", ["wheel_maze", "wheel_park"])
def test_the_reference_policy_drives_the_mujoco_model_too(name):
    on_engine = simulation(name, "mujoco")
    starts = evaluation_starts(on_engine, 8, "all")
    outcomes, _ = run_episodes(on_engine, make_task(name).reference_policy, starts)
    assert outcomes.success_final.all()


def test_parking_counts_the_way_and_the_turn():
    """3 cm and 4 cm away, and turned from 3 rad over the half turn to -3 rad; then turned alone."""
    task, lever = make_task("wheel_park"), LEVER
    stands = np.array([[1.0, 0.5, 3.0], [1.0, 0.5, 1.0], [1.0, 0.5, 1.0]])
    asked = np.array([[1.03, 0.54, -3.0], [1.0, 0.5, 1.25], [1.0, 0.5, 1.0 + np.pi]])
    goal = np.stack([*asked.T[:2], lever * np.cos(asked[:, 2]), lever * np.sin(asked[:, 2])], axis=-1)
    seen = task.observe(State(stands, 0 * stands, 0 * stands))
    turned = np.array([2 * np.pi - 6, 0.25, np.pi])
    expected = [np.hypot(0.05, 2 * lever * np.sin(turned[0] / 2)), RADII[1], 2 * lever]
    np.testing.assert_allclose(goal_distance(task.spec, seen, goal), expected)
    rested = Trajectories(np.stack([stands] * 2), np.stack([seen] * 2), None, np.ones((1, 3), bool))
    np.testing.assert_allclose(episode_metrics(task.spec, rested, goal).final_angle, turned)
    np.testing.assert_allclose(task.marker(goal), [[*each[:2], RADIUS] for each in asked])
    (drawn, *_) = record(task, rested, goal, 1).episodes
    heading, reached, _ = drawn.turns[..., 0]
    np.testing.assert_allclose(heading, [np.cos(-3.0), np.sin(-3.0), 0])
    np.testing.assert_allclose(reached, [np.cos(3.0), np.sin(3.0), 0])
