"""Ground on which a robot is sent to points: an open floor, or a maze as text.

'#' wall, 'S' start, 'G' goal, 'F' far goal, '.' free and no goal.

The first index of a grid is x, the second y: a cell's centre is (row * cell, column * cell).
Grids and their far goals: github.com/wang-kevin3290/scaling-crl, envs/ant_maze.py and humanoid_maze.py.
"""

import itertools
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import scipy.sparse.csgraph

Array = Any  # NumPy or JAX

WALL_HEIGHT = 0.5  # of a cell
WALL_COLOUR = (0.45, 0.52, 0.6, 1.0)


class Routes(NamedTuple):
    """Shortest ways between the K free cells of a maze, from one cell to one of its four neighbours."""

    centres: np.ndarray  # [K, 2] m
    steps: np.ndarray  # [K, K]: cells to walk from the first to the second; infinite where there is no way
    next: np.ndarray  # [K, K] int32: the neighbour of the first on the way to the second; itself at its end


class Maze:
    """Square cells of `cell` metres; its outermost cells are walls."""

    def __init__(self, text: str, cell: float):
        self.rows = tuple(text.split())
        self.cell = cell
        if len({len(row) for row in self.rows}) != 1:
            raise ValueError(f"rows of a maze must be equally long, found {[len(row) for row in self.rows]}")
        unknown = set("".join(self.rows)) - set("#SGF.")
        if unknown:
            raise ValueError(f"a maze is made of '#SGF.', found {sorted(unknown)}")
        columns = ["".join(column) for column in zip(*self.rows, strict=True)]
        if any(set(edge) != {"#"} for edge in (self.rows[0], self.rows[-1], columns[0], columns[-1])):
            raise ValueError("the outermost cells of a maze must be walls")

    def centres(self, kinds: str) -> np.ndarray:
        """Centres [K, 2] in metres of the cells of these kinds, row by row."""
        cells = [(i, j) for i, row in enumerate(self.rows) for j, kind in enumerate(row) if kind in kinds]
        return np.array(cells, dtype=np.float32).reshape(-1, 2) * np.float32(self.cell)

    @property
    def extent(self) -> tuple[float, float]:
        """The largest x and y in metres that are not inside an outermost wall."""
        return (len(self.rows) - 1.5) * self.cell, (len(self.rows[0]) - 1.5) * self.cell

    @cached_property
    def walls(self) -> np.ndarray:
        """[R, C] bool."""
        return np.array([[kind == "#" for kind in row] for row in self.rows])

    @cached_property
    def _numbers(self) -> np.ndarray:
        """[R, C] int32: of free cells, row by row; -1 in walls."""
        return np.where(self.walls, -1, np.cumsum(~self.walls).reshape(self.walls.shape) - 1).astype(np.int32)

    def cell_number(self, position: Array) -> Array:
        """Points [..., 2] in metres -> [...]: which free cell of `routes` each lies in; -1 inside a wall.

        What is outside the maze lies in the nearest wall."""
        xp = position.__array_namespace__()
        cell = xp.clip(xp.floor(position / self.cell + 0.5), 0, xp.asarray(self.walls.shape) - 1)
        row, column = xp.moveaxis(cell.astype(xp.int32), -1, 0)
        return xp.asarray(self._numbers)[row, column]

    def is_wall(self, x: Array, y: Array) -> Array:
        """Points [...], [...] in metres -> [...] bool; outside the maze all is wall."""
        return self.cell_number(x.__array_namespace__().stack([x, y], axis=-1)) < 0

    @cached_property
    def routes(self) -> Routes:
        cells = np.argwhere(~self.walls)
        adjacent = np.abs(cells[:, None] - cells[None]).sum(-1) == 1
        steps, before = scipy.sparse.csgraph.shortest_path(
            adjacent, unweighted=True, return_predecessors=True
        )
        # A way is the same in both directions: the last cell but one of the way back is the first of it.
        own = np.arange(len(cells))[:, None]
        centres = (cells * self.cell).astype(np.float32)
        return Routes(centres, steps, np.where(before.T < 0, own, before.T).astype(np.int32))

    def build(self, spec: mujoco.MjSpec, **properties: Any) -> None:
        """Adds the walls to a model's world, as boxes with these properties of geoms.

        As few as can be, because a simulator on a GPU tests every pair of shapes that may ever touch."""
        left, half, number = self.walls.copy(), WALL_HEIGHT * self.cell / 2, itertools.count()
        for i, j in np.argwhere(self.walls):
            if not left[i, j]:
                continue
            # How far walls go on to the right, and down.
            columns, rows = (int(np.argmin(np.append(line, False))) for line in (left[i, j:], left[i:, j]))
            rows, columns = (1, columns) if columns >= rows else (rows, 1)
            left[i : i + rows, j : j + columns] = False
            spec.worldbody.add_geom(
                type=mujoco.mjtGeom.mjGEOM_BOX,
                name=f"wall{next(number)}",
                pos=[(i + (rows - 1) / 2) * self.cell, (j + (columns - 1) / 2) * self.cell, half],
                size=[rows / 2 * self.cell, columns / 2 * self.cell, half],
                rgba=WALL_COLOUR,
                **properties,
            )


class OpenFloor:
    """A course without a maze: goals in any direction, their distance uniform: nearer ones are denser."""

    maze, start = None, (0.0, 0.0)

    def __init__(self, layout: str, nearest: float, farthest: float):
        self.layouts: tuple[str, ...] = (layout,)
        self.goal_range = (-farthest, -farthest), (farthest, farthest)
        self._distances = nearest, farthest

    def goal(self, key: Array, layout: str) -> Array:
        """Draws a goal [2] in m."""
        distance_key, angle_key = jax.random.split(key)
        nearest, farthest = self._distances
        distance = jax.random.uniform(distance_key, minval=nearest, maxval=farthest)
        angle = jax.random.uniform(angle_key, minval=-jnp.pi, maxval=jnp.pi)
        return distance * jnp.stack([jnp.cos(angle), jnp.sin(angle)])


class MazeCourse:
    """From the middle of a maze's start cell to the middle of a goal cell."""

    def __init__(self, maze: Maze):
        self.maze, goals = maze, maze.centres("GF")
        self._goals = {"all": goals}
        if len(maze.centres("F")):
            self._goals["far"] = maze.centres("F")
        self.layouts = tuple(self._goals)
        self.start = tuple(maze.centres("S")[0].tolist())
        self.goal_range = tuple(goals.min(0).tolist()), tuple(goals.max(0).tolist())

    def goal(self, key: Array, layout: str) -> Array:
        """Draws a goal [2] in m."""
        return jax.random.choice(key, jnp.asarray(self._goals[layout]))


Course = OpenFloor | MazeCourse


U = """
#####
#SGG#
###G#
#FFF#
#####
"""
U4 = """
#####
#GGG#
#S#G#
###G#
#F#G#
#FFF#
#####
"""
U5 = """
########
#GGGGGG#
#S####G#
######G#
#F####F#
#FFFFFF#
########
"""
BIG = """
########
#SG##FF#
#GG#GGF#
##GGG###
#GG#GGG#
#G#FG#F#
#GFF#FF#
########
"""
BIG_HUMANOID = BIG.replace("#GG#GGF#", "#GG#GFF#")  # one more far goal
HARDEST = """
############
#SGGG#GGGGG#
#GG#G#G#G#G#
#GGGGGG#GGG#
#G####G###G#
#GG#G#GGGGG#
##G#G#G#G###
#GG#GGG#GGG#
############
"""
# Our own: narrow ways and dead ends, from a corner; neighbours across a wall may be far to walk.
LABYRINTH = """
#############
#G#GGG#GGGGG#
#G#G###G#G#G#
#G#GGGGG#G#G#
#G###G###G#G#
#GGG#GGGGG#G#
###G#G#####G#
#GGGGG#G#GGG#
#G#####G#G###
#GGG#GGGGGGG#
#G#G#G#####G#
#SGGGGGGGGGG#
#############
"""
# No walls but those around it. Poses in a larger yard take longer to learn (docs/results.md, Parking).
YARD = """
#######
#SGGGG#
#GGGGG#
#GGGGG#
#GGGGG#
#GGGGG#
#######
"""
