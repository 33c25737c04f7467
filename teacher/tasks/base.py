"""What a task is: a MuJoCo model, a specification, and how they meet."""

import abc
from typing import Any, NamedTuple

import mujoco

from teacher.spec import TaskSpec

Array = Any  # NumPy or JAX


class Start(NamedTuple):
    """Where an episode begins and what is asked of it; fields may carry leading batch axes."""

    qpos: Array
    qvel: Array
    goal: Array


class Task(abc.ABC):
    """One task. Every method is pure; arrays may be NumPy or JAX and carry any leading axes.

    The engine integrates `model()`; the task only says how states become observations
    and how actions become controls, so that every engine shares one meaning.
    """

    @property
    @abc.abstractmethod
    def spec(self) -> TaskSpec:
        """The description that travels with every artifact."""

    @property
    @abc.abstractmethod
    def engines(self) -> tuple[str, ...]:
        """Names of the engines that run this task, the default first."""

    @abc.abstractmethod
    def model(self) -> mujoco.MjModel:
        """The MuJoCo model; its time step divides `spec.control_dt`."""

    @abc.abstractmethod
    def start(self, key: Array) -> Start:
        """Draws one start state and goal from the training distribution."""

    @abc.abstractmethod
    def observe(self, qpos: Array, qvel: Array) -> Array:
        """[..., nq], [..., nv] -> observation [..., N]."""

    @abc.abstractmethod
    def control(self, qpos: Array, action: Array) -> Array:
        """State [..., nq] and action [..., A] in [-1, 1] -> actuator controls [..., U]."""

    @abc.abstractmethod
    def skeleton(self, qpos: Array) -> Array:
        """[..., nq] -> points [..., P, 3] in metres, in the order in which links connect them."""


def achieved_goal(spec: TaskSpec, observation: Array) -> Array:
    """[..., N] -> the entries [..., G] that a goal speaks of."""
    return observation[..., list(spec.goal.observation_indices)]


def goal_distance(spec: TaskSpec, observation: Array, goal: Array) -> Array:
    """[..., N], [..., G] -> Euclidean distance [...] in the goal's unit."""
    difference = achieved_goal(spec, observation) - goal
    return (difference**2).sum(-1) ** 0.5
