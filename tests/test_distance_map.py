"""The critic's distances beside a maze's true ones, and a teacher beside its task's reference policy."""

import json

import numpy as np
import pytest
from test_own_task import PUCK, written

from pipelines import train_teacher
from pipelines.config import preset, with_values
from pipelines.files import read_columns
from pipelines.ground_truth import (
    STATES,
    agreement,
    drawable,
    queries,
    reference_episodes,
)
from pipelines.progress import Display
from pipelines.rundir import DISTANCE_MAP, create_run
from teacher.config import FAR_CELLS
from teacher.evaluate import evaluation_starts, summarise
from teacher.rollout import Trajectories, simulation
from teacher.tasks import State, make_task
from teacher.tasks.mazes import Maze
from teacher.train import load_teacher

# A corridor of twelve cells, bent in the middle: its ends are near each other as the crow flies.
BENT = """
########
#S.....#
######.#
#......#
########
"""
CELL = 0.5
TINY = ["task.name=wheel_maze", "collect.total_steps=1280", "evaluate.episodes=32"]


@pytest.fixture(scope="module")
def maze():
    return Maze(BENT, CELL)


def lived_in(maze, cells, length=3):
    """Episodes that stand in these cells, one each, and their goals."""
    places = maze.routes.centres[list(cells)]
    observation = np.zeros((length + 1, len(cells), 6), np.float32)
    observation[..., :2] = places
    action = np.ones((length, len(cells), 2), np.float32)
    going = np.ones((length, len(cells)), bool)
    return Trajectories(observation[..., :3], observation, action, going), places


def asked_in(maze, cells):
    lived, goal = lived_in(maze, cells, length=1)
    return queries(maze, make_task("wheel_maze").spec, lived, goal)


def test_the_true_distance_agrees_fully_and_the_straight_line_does_not(maze):
    asked = asked_in(maze, range(13))
    found = agreement(maze, asked, 3 * maze.routes.steps + 1)
    assert (found["states"], found["cells"]) == (13, 13)
    assert found["rank_correlation"] == pytest.approx(1) == found["rank_correlation_far"]
    assert 0 < found["rank_correlation_straight"] < 0.9
    assert found["rank_correlation_far_straight"] < -0.4  # far ends lie beside each other


def test_far_pairs_are_those_at_least_eight_cells_apart(maze):
    """Distances that are wrong for near pairs alone leave the correlation of far ones as it is."""
    asked, true = asked_in(maze, range(13)), maze.routes.steps
    found = agreement(maze, asked, np.where(true < FAR_CELLS, -true, true))
    assert found["rank_correlation_far"] == pytest.approx(1)
    assert found["rank_correlation"] < 0.9


def test_a_correlation_of_what_does_not_vary_is_absent(maze):
    found = agreement(maze, asked_in(maze, [0, 1]), np.ones((2, 13)))
    assert "rank_correlation" not in found and "rank_correlation_far" not in found
    assert "rank_correlation_straight" in found
    short = Maze("####\n#S.#\n####", CELL)
    assert "rank_correlation_far_straight" not in agreement(short, asked_in(short, [0]), np.ones((1, 2)))


def test_queries_are_spread_over_the_steps_that_were_taken_outside_walls(maze):
    spec = make_task("wheel_maze").spec
    lived, goal = lived_in(maze, [0, 5, 12], length=500)
    lived.active[100:, 1] = False
    lived.observation[:, 2, :2] = 0  # in the outer wall
    asked = queries(maze, spec, lived, np.insert(goal, 2, 1.25, axis=1))
    places = maze.cell_number(asked.position)
    assert places[0] == 0 and set(places.tolist()) == {0, 5}
    assert len(places) == pytest.approx(STATES * 600 / 1100, abs=2)
    assert (places == 5).mean() == pytest.approx(100 / 600, abs=0.02)
    np.testing.assert_array_equal(asked.goals[:, :2], maze.routes.centres)
    assert (asked.goals[:, 2] == 1.25).all()  # what of a goal is no place stays


def test_pictures_hold_distances_where_the_cells_are(maze):
    asked, true = asked_in(maze, [0, 6]), maze.routes.steps[[0, 6]]
    found = drawable(maze, asked, 2 * true)
    assert np.isnan(found["critic"]).tolist() == maze.walls.tolist() == np.isnan(found["cells"]).tolist()
    assert found["cells"][1].tolist()[1:-1] == [0, 1, 2, 3, 4, 5]
    assert found["critic"][3, 1] == 24  # the other end
    assert found["steps"].tolist() == list(range(13))
    np.testing.assert_array_equal(found["quartiles"], 2 * np.arange(13)[:, None] * np.ones(3))


# In a run


@pytest.fixture(scope="module")
def maze_run(tmp_path_factory):
    config = with_values(preset("debug"), TINY)
    run = create_run(tmp_path_factory.mktemp("runs") / "maze", config, "debug", 0)
    train_teacher.teach(run)
    return run


def test_a_run_scores_the_reference_on_the_episodes_of_its_evaluation(maze_run):
    summary, where = maze_run.summary, simulation("wheel_maze")
    outcomes, _ = reference_episodes(where, evaluation_starts(where, 32, "all"))
    assert summary["reference"] == json.loads(json.dumps(summarise(outcomes, "all")))
    assert summary["reference"]["success_final"] == 1
    share = summary["teacher"]["time_at_goal"] / summary["reference"]["time_at_goal"]
    assert summary["teacher"]["share_of_reference"] == pytest.approx(share)
    low, high = summary["teacher"]["share_of_reference_interval"]
    assert low <= share <= high


def test_a_run_keeps_its_critics_distances_beside_the_true_ones(maze_run):
    found = maze_run.summary["teacher"]["maze_distance"]
    maze = make_task("wheel_maze").maze
    assert found["states"] == STATES and found["cells"] == (~maze.walls).sum()
    kept = read_columns(maze_run.path / "teacher" / DISTANCE_MAP)
    # The first state again, asked through the saved teacher.
    teacher, task = load_teacher(maze_run.checkpoints), make_task("wheel_maze")
    starts = evaluation_starts(simulation("wheel_maze"), 32, "all")
    observation = task.observe(State(starts.qpos, starts.qvel, starts.qvel))[:1]
    action = np.asarray(task.reference_policy(observation, starts.goal[:1]))  # it goes to every cell
    goals = maze.routes.centres
    again = teacher.distance(
        teacher.params, *(np.repeat(each, len(goals), axis=0) for each in (observation, action)), goals
    )
    np.testing.assert_allclose(kept["critic"][~maze.walls], again, rtol=1e-3)
    assert kept["cells"][1, 1] == 0


def test_the_documented_reference_policy_solves_its_task(tmp_path):
    where = simulation(written(tmp_path, PUCK, "Puck"))
    found, _ = reference_episodes(where, evaluation_starts(where, 64, "all"))
    assert found.success_final.all()


@pytest.mark.parametrize(
    ("policy", "told"),
    [
        (lambda observation, goal: np.nan * goal, "answers with NaN or infinity, allowed are numbers"),
        (lambda observation, goal: {}["way"], "failed: KeyError: 'way'"),
    ],
)
def test_a_reference_policy_that_fails_costs_no_figure_of_the_teacher_and_what_a_run_lacks_is_made_again(
    maze_run, monkeypatch, policy, told
):
    before, said = maze_run.summary, []
    monkeypatch.setattr(make_task("wheel_maze"), "reference_policy", policy, raising=False)
    monkeypatch.setattr(Display, "say", lambda self, text, style="": said.append(text))
    for lost in (maze_run.path / "summary.json", maze_run.path / "teacher" / DISTANCE_MAP):
        lost.unlink()
    train_teacher.teach(maze_run, Display(), resume=True)
    assert (maze_run.path / "teacher" / DISTANCE_MAP).exists()
    assert f"task 'wheel_maze': reference_policy(observation, goal) {told}" in "".join(said).replace("\\", "")
    after = maze_run.summary
    assert "reference" not in after and "share_of_reference" not in after["teacher"]
    # The maze is asked about where the teacher goes; all else is as it was.
    missing = {*before["teacher"]} - {*after["teacher"]}  # nothing, where another policy failed before
    assert missing <= {"share_of_reference", "share_of_reference_interval"}
    assert after["teacher"].pop("maze_distance")["states"] > 0
    assert after["teacher"].items() <= before["teacher"].items()
