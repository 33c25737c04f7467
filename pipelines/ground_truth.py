"""What is known of a task without learning, beside what a teacher learned: how well it can be done, and how
far goals are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import scipy.stats

from pipelines.files import JSON, write_columns
from pipelines.progress import Display
from student.evaluate import paired_ratio
from teacher.config import FAR_CELLS
from teacher.errors import FathomError
from teacher.evaluate import EpisodeMetrics, run_episodes, summarise
from teacher.rollout import Simulation, Trajectories
from teacher.spec import TaskSpec
from teacher.tasks import Start, achieved_goal
from teacher.tasks.mazes import Maze
from teacher.tasks.validation import own_code

Episodes = tuple[EpisodeMetrics, Trajectories]
STATES = 400  # from which a critic is asked


def compare_with_truth(
    simulation: Simulation, layout: str, starts: Start, of_teacher: Episodes, display: Display
) -> tuple[JSON, JSON, Trajectories]:
    """Scores the task's reference policy in the teacher's held-out episodes.

    One that cannot run is warned about: the teacher is none the worse for it.
    Returns: figures of the summary, of its `teacher`, and the episodes in which to evaluate its critic: the
      reference policy's where there is one. They are the same for every teacher and go everywhere, where a
      teacher's own show only what it reaches."""
    try:
        reference = reference_episodes(simulation, starts)
    except FathomError as error:
        display.warn(f"no reference to compare with: {error}")
        reference = None
    if reference is None:
        return {}, {}, of_teacher[1]
    at_goal = of_teacher[0].time_at_goal, reference[0].time_at_goal
    share = paired_ratio("share_of_reference", *at_goal)
    return {"reference": summarise(reference[0], layout)}, share, reference[1]


def maze_distance(
    simulation: Simulation,
    episodes: Trajectories,
    goal: np.ndarray,
    distances: Callable[..., Any],
    file: Path,
) -> JSON:
    """Compares the critic's distances with the ways through the task's maze, if it has one.

    Writes to the file what the report's pictures of these distances need."""
    maze = simulation.task.maze
    if maze is None:
        return {}
    asked = queries(maze, simulation.task.spec, episodes, goal)
    found = np.asarray(distances(*map(jnp.asarray, (asked.observation, asked.action, asked.goals))))
    write_columns(file, **drawable(maze, asked, found))
    return {"maze_distance": agreement(maze, asked, found)}


class Queries(NamedTuple):
    """Q states in a maze, each to be asked about all of its K free cells; NumPy arrays."""

    observation: np.ndarray  # [Q, S]
    action: np.ndarray  # [Q, A]: taken there
    position: np.ndarray  # [Q, 2] m
    goals: np.ndarray  # [K, G]: the centres of the cells, as `Maze.routes` numbers them


def queries(maze: Maze, spec: TaskSpec, trajectories: Trajectories, goal: np.ndarray) -> Queries:
    """Takes at most STATES states of E episodes with goals [E, G], evenly over steps; the first is a start.

    Entries of a goal after x and y are those of the first episode. States inside a wall are left out."""
    rows = np.argwhere(trajectories.active)
    rows = rows[np.linspace(0, len(rows) - 1, min(STATES, len(rows))).round().astype(int)]
    step, episode = rows.T
    observation, action = trajectories.observation[step, episode], trajectories.action[step, episode]
    position = achieved_goal(spec, observation)[..., :2]
    centres = maze.routes.centres
    goals = np.concatenate([centres, np.tile(goal[0, 2:], (len(centres), 1))], axis=-1).astype(np.float32)
    inside = maze.cell_number(position) >= 0
    return Queries(observation[inside], action[inside], position[inside], goals)


def agreement(maze: Maze, asked: Queries, distance: np.ndarray) -> dict[str, float]:
    """Compares distances [Q, K] with the number of cells to walk.

    Returns:
      states, cells: Q and K.
      rank_correlation: Spearman's, over all pairs of a state and a cell.
      rank_correlation_far: the same over pairs that are at least FAR_CELLS cells apart.
      rank_correlation_straight, rank_correlation_far_straight: the same of the straight line in their place.
    A correlation is absent where one of its two sides does not vary."""
    true = maze.routes.steps[maze.cell_number(asked.position)]
    straight = np.linalg.norm(asked.position[:, None] - maze.routes.centres, axis=-1)
    figures: dict[str, float] = {"states": len(true), "cells": true.shape[1]}
    for kind, found in (("", distance), ("_straight", straight)):
        for which, pairs in (("", true >= 0), ("_far", true >= FAR_CELLS)):
            sides = found[pairs], true[pairs]
            if all(len(np.unique(side)) > 1 for side in sides):
                figures[f"rank_correlation{which}{kind}"] = float(scipy.stats.spearmanr(*sides).statistic)
    return figures


def drawable(maze: Maze, asked: Queries, distance: np.ndarray) -> dict[str, np.ndarray]:
    """Returns what a picture of distances [Q, K] needs.

    Returns:
      critic, cells: [R, C], from the first state to each cell of the grid, by the critic and in cells to
        walk; NaN in walls, infinite where there is no way.
      steps: [D], each number of cells to walk that occurs between a state and a cell, rising.
      quartiles: [D, 3], of the critic's distances of all pairs that are so far apart."""
    true = maze.routes.steps[maze.cell_number(asked.position)]
    grids = np.full((2, *maze.walls.shape), np.nan)
    grids[:, ~maze.walls] = distance[0], true[0]
    steps = np.unique(true[np.isfinite(true)])
    quartiles = np.stack([np.quantile(distance[true == each], (0.25, 0.5, 0.75)) for each in steps])
    return {"critic": grids[0], "cells": grids[1], "steps": steps, "quartiles": quartiles}


def reference_episodes(simulation: Simulation, starts: Start) -> Episodes | None:
    """Runs the task's reference policy from these starts; None where it states none.

    Raises: FathomError if the policy fails, or answers with what are no numbers."""
    task, policy = simulation.task, simulation.task.reference_policy
    if policy is None:
        return None
    what = f"task {task.spec.name!r}: reference_policy(observation, goal)"

    def checked(observation: np.ndarray, goal: np.ndarray) -> np.ndarray:
        with own_code(f"{what} failed", task):
            action = np.asarray(policy(observation, goal), np.float32)
        if not np.isfinite(action).all():
            raise FathomError(f"{what} answers with NaN or infinity, allowed are numbers in [-1, 1]")
        return action

    return run_episodes(simulation, checked, starts)
