"""How a critic's distances follow the ways through a maze, whose true lengths are known."""

from typing import NamedTuple

import numpy as np
import scipy.stats

from teacher.config import FAR_CELLS
from teacher.rollout import Trajectories
from teacher.spec import TaskSpec
from teacher.tasks import achieved_goal
from teacher.tasks.mazes import Maze

STATES = 400  # from which a critic is asked


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
            ranks = [scipy.stats.rankdata(values[pairs]) for values in (found, true)]
            if pairs.any() and all(np.ptp(each) > 0 for each in ranks):
                figures[f"rank_correlation{which}{kind}"] = float(scipy.stats.spearmanr(*ranks).statistic)
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
