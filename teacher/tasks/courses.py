"""Ground on which a robot is sent to points: an open floor, or a maze."""

from typing import Protocol

import jax
import jax.numpy as jnp
import mujoco

from teacher.errors import unknown_name
from teacher.tasks.base import Array
from teacher.tasks.mazes import Maze

WALL_BIT = 2  # of contype and conaffinity; the floor and feet meet on bit 1


class Course(Protocol):
    """Where to start, where to go, and what stands in the way; all in metres."""

    @property
    def layouts(self) -> tuple[str, ...]:
        """Names of the ways to lay out goals, as a task has them."""

    @property
    def start(self) -> tuple[float, float] | None:
        """The one place to start from; None: about the origin."""

    @property
    def maze(self) -> Maze | None:
        """What stands in the way, if it is a maze."""

    @property
    def goal_range(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """The smallest and the largest x and y of a goal."""

    def goal(self, key: Array, layout: str) -> Array:
        """Draws a goal [2]."""

    def build(self, spec: mujoco.MjSpec) -> None:
        """Adds what stands in the way to a model's world."""


class OpenFloor:
    """Goals in any direction, their distance uniform: nearer ones are denser."""

    start = None
    maze = None

    def __init__(self, layout: str, nearest: float, farthest: float):
        self.layouts = (layout,)
        self._distances = nearest, farthest

    @property
    def goal_range(self) -> tuple[tuple[float, float], tuple[float, float]]:
        farthest = self._distances[1]
        return (-farthest, -farthest), (farthest, farthest)

    def goal(self, key: Array, layout: str) -> Array:
        if layout not in self.layouts:
            raise unknown_name("goal layout", layout, self.layouts)
        distance_key, angle_key = jax.random.split(key)
        nearest, farthest = self._distances
        distance = jax.random.uniform(distance_key, minval=nearest, maxval=farthest)
        angle = jax.random.uniform(angle_key, minval=-jnp.pi, maxval=jnp.pi)
        return distance * jnp.stack([jnp.cos(angle), jnp.sin(angle)])

    def build(self, spec: mujoco.MjSpec) -> None:
        pass


class MazeCourse:
    """From the middle of a maze's start cell to the middle of a goal cell."""

    def __init__(self, maze: Maze):
        self.maze = maze
        starts, goals = maze.centres("S"), maze.centres("GF")
        if len(starts) != 1:
            raise ValueError(f"a maze must have one start cell, 'S', found {len(starts)}")
        if not len(goals):
            raise ValueError("a maze to be walked has no goal, 'G' or 'F'")
        self._goals = {"all": goals}
        if len(maze.centres("F")):
            self._goals["far"] = maze.centres("F")

    @property
    def layouts(self) -> tuple[str, ...]:
        return tuple(self._goals)

    @property
    def start(self) -> tuple[float, float]:
        x, y = self.maze.centres("S")[0].tolist()
        return x, y

    @property
    def goal_range(self) -> tuple[tuple[float, float], tuple[float, float]]:
        low, high = (tuple(edge.tolist()) for edge in (self._goals["all"].min(0), self._goals["all"].max(0)))
        return low, high

    def goal(self, key: Array, layout: str) -> Array:
        if layout not in self._goals:
            raise unknown_name("goal layout", layout, self._goals)
        return jax.random.choice(key, jnp.asarray(self._goals[layout]))

    def build(self, spec: mujoco.MjSpec) -> None:
        self.maze.build(spec, contype=WALL_BIT, conaffinity=1, condim=3)
