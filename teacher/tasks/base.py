"""What a task is: how states become observations, actions controls, and where episodes begin."""

import abc
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import mujoco
import numpy as np

from teacher.randomization import DomainRandomization
from teacher.spec import Floats, GoalSpec, JointSpec, ObservationTerm, SensorTerm, TaskSpec
from teacher.tasks.mazes import Maze

Array = Any  # NumPy or JAX
Part = tuple[str, tuple[str, ...], str, str]  # of an observation: name, entries, unit, frame


class Frames(NamedTuple):
    """Where K named frames of a model are and how they move, in the world; fields may carry leading axes."""

    position: Array  # [K, 3] m
    orientation: Array  # [K, 4]: quaternion w x y z
    velocity: Array  # [K, 3] m/s: of the frame's own point
    angular_velocity: Array  # [K, 3] rad/s


class State(NamedTuple):
    """What a task sees of a simulation; fields may carry leading batch axes."""

    qpos: Array  # [nq]
    qvel: Array  # [nv]
    control: Array  # [U] held during the last control period; zero where an episode begins
    sites: Frames | None = None  # those that `MujocoTask.sites` names, in its order
    bodies: Frames | None = None  # those of `MujocoTask.bodies`, at the origins of their frames
    sensors: Array | None = None  # [M]: readings of `MujocoTask.sensors`, one after another


class Start(NamedTuple):
    """Where an episode begins and what is asked of it; fields may carry leading batch axes."""

    qpos: Array
    qvel: Array
    goal: Array
    conditions: Any = ()  # the episode's own physics: drawn by the simulation, never by a task


class Task(abc.ABC):
    """One task. Every method is pure; arrays may be NumPy or JAX and carry any leading axes.

    An engine integrates; the task only says how states become observations and how actions become
    controls, so that every engine shares one meaning."""

    layouts: tuple[str, ...] = ("all",)  # names of the ways to lay out goals, the one to train on first
    # How physics differ between the episodes of training, unless settings say otherwise.
    randomise: DomainRandomization = DomainRandomization()
    # Entries of qvel that a push changes: a base's, or those of joints where the base is fixed.
    pushed: tuple[int, ...] = ()
    # The maze through which the robot finds its way; a goal's first two entries are x and y in it.
    maze: Maze | None = None
    # observation [..., N], goal [..., G] -> action [..., A] of a controller that knows the task: how well it
    # can be done, beside which scores are shown. None where no such controller is known.
    reference_policy: Callable[[Array, Array], Array] | None = None

    @property
    @abc.abstractmethod
    def spec(self) -> TaskSpec:
        """The description that travels with every artifact."""

    @property
    @abc.abstractmethod
    def engines(self) -> tuple[str, ...]:
        """Names of the engines that run this task, the default first."""

    @property
    def evaluation_layout(self) -> str:
        """The layout to evaluate on, unless settings say otherwise."""
        return self.layouts[-1]

    @abc.abstractmethod
    def start(self, key: Array, layout: str) -> Start:
        """Draws one start state and its goal, as the named layout has them."""

    def with_goal(self, start: Start, goal: Array) -> Start:
        """The start with another goal [..., G], also where the model's state holds the goal."""
        return start._replace(goal=goal)

    @abc.abstractmethod
    def observe(self, state: State) -> Array:
        """-> observation [..., N]."""

    def control(self, state: State, action: Array) -> Array:
        """State, action [..., A] in [-1, 1] -> actuator controls [..., U]: the command of `spec.action`."""
        xp, dtype, stated = state.qpos.__array_namespace__(), state.qpos.dtype, self.spec.action
        scale, offset = (xp.asarray(part, dtype=dtype) for part in (stated.scale, stated.offset))
        return offset + scale * xp.clip(action, -1, 1)

    def ended(self, state: State) -> Array:
        """-> [...] bool: whether the episode ends here, before its time."""
        xp = state.qpos.__array_namespace__()
        return xp.zeros(state.qpos.shape[:-1], dtype=bool)

    def reading(self, state: State, action: Array) -> Array:
        """What the robot's sensors say, without noise: -> [..., M], as `spec.deployed.reading` has it.

        action: [..., A], the last one that the policy chose; zero where an episode begins."""
        raise NotImplementedError(f"task {self.spec.name!r} describes no sensors")

    def deployed_goal(self, qpos: Array, goal: Array) -> Array:
        """Goal [..., G] as a robot standing so knows it: -> [..., H], as `spec.deployed.goal` has it."""
        raise NotImplementedError(f"task {self.spec.name!r} describes no sensors")


class MujocoTask(Task):
    """A task whose robot and surroundings are a MuJoCo model.

    Names in `sites`, `bodies` and `sensors` make the engines compute those parts of `State`, `brax` bodies
    alone; sensors cost a forward pass of the dynamics, frames the kinematics."""

    sites: tuple[str, ...] = ()
    bodies: tuple[str, ...] = ()
    sensors: tuple[str, ...] = ()
    marker_height: float = 0.0  # m: of goals that are x and y

    @abc.abstractmethod
    def model(self, engine: str) -> mujoco.MjModel:
        """The model as the named engine integrates it; its time step divides `spec.control_dt`."""

    def marker(self, goal: Array) -> Array:
        """Goal [..., G] -> the point [..., 3] in metres at which to show it; x and y at `marker_height`."""
        if self.spec.goal.movable > 2:
            return goal[..., :3]
        xp = goal.__array_namespace__()
        return xp.concatenate([goal[..., :2], xp.full_like(goal[..., :1], self.marker_height)], axis=-1)


class AnalyticTask(Task):
    """A task that integrates itself, by the engine `analytic`."""

    @abc.abstractmethod
    def advance(self, state: State, control: Array) -> State:
        """The state [...] after one control period under controls [..., U]."""


def slowed(velocity: Array, qpos: Array, joints: JointSpec) -> Array:
    """Joint velocities [..., n] cut so that joints slow down and stop `margin` before their limits.

    A joint beyond one comes back, at `return_speed` at most. Of joints that all have limits."""
    xp, dtype = qpos.__array_namespace__(), qpos.dtype
    upper = joints.slowdown * (xp.asarray(joints.upper, dtype=dtype) - joints.margin - qpos)
    lower = joints.slowdown * (xp.asarray(joints.lower, dtype=dtype) + joints.margin - qpos)
    back = xp.inf if joints.return_speed is None else joints.return_speed
    return xp.clip(velocity, xp.minimum(lower, back), xp.maximum(upper, -back))


def rotation_matrix(quaternion: Array) -> Array:
    """[..., 4] w x y z of any length -> rotation [..., 3, 3]."""
    xp = quaternion.__array_namespace__()
    unit = quaternion / (quaternion**2).sum(-1, keepdims=True) ** 0.5
    w, x, y, z = (unit[..., i] for i in range(4))
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return xp.stack([xp.stack(row, axis=-1) for row in rows], axis=-2)


def hinge_spec(model: mujoco.MjModel, pose: Floats, velocity: Sequence[float | None] = ()) -> JointSpec:
    """Describes the hinges of a model with the ranges that it states; commands are not cut near these.

    Args: pose: configuration [nq] that gives their default; velocity: limits, rad/s, none if empty."""
    hinges = np.flatnonzero(model.jnt_type == mujoco.mjtJoint.mjJNT_HINGE)
    lower, upper = model.jnt_range[hinges].T
    lower, upper = np.where(lower < upper, (lower, upper), [[-np.inf], [np.inf]])
    # The packaged humanoid's knees are straight, 2 degrees beyond their limit.
    default = np.clip(np.array(pose)[model.jnt_qposadr[hinges]], lower + 0.01, upper - 0.01)
    return JointSpec(
        names=tuple(model.joint(i).name for i in hinges),
        unit="rad",
        default=tuple(default.tolist()),
        lower=tuple(lower.tolist()),
        upper=tuple(upper.tolist()),
        velocity=tuple(velocity) or (None,) * len(hinges),
        slowdown=0.0,
        margin=0.0,
    )


def observation_terms(*parts: Part) -> tuple[ObservationTerm, ...]:
    """Makes the terms of an observation, one after another, of (name, entries, unit, frame)."""
    terms: list[ObservationTerm] = []
    for name, entries, unit, frame in parts:
        start = terms[-1].stop if terms else 0
        terms.append(ObservationTerm(name=name, start=start, entries=entries, unit=unit, frame=frame))
    return tuple(terms)


def sensor_terms(*parts: tuple[str, tuple[str, ...], str, str, float]) -> tuple[SensorTerm, ...]:
    """Makes the terms of a reading likewise, of (name, entries, unit, frame, noise)."""
    terms = observation_terms(*(part[:4] for part in parts))
    return tuple(SensorTerm(**dict(term), noise=part[4]) for term, part in zip(terms, parts, strict=True))


def goal_of(
    terms: Sequence[ObservationTerm],
    name: str,
    low: Floats,
    high: Floats,
    radii: Floats,
    tool: Floats | None = None,
    lever: float | None = None,
) -> GoalSpec:
    """Makes the goal of a value of the named term's first entries, as many as `low` and `high` have.

    Args: radii: strict, success and easy, in the term's unit; tool, lever: of arms, see `GoalSpec`."""
    term = next(term for term in terms if term.name == name)
    return GoalSpec(
        **term.model_dump(include={"name", "unit", "frame"}),
        entries=term.entries[: len(low)],
        observation_indices=tuple(range(term.start, term.start + len(low))),
        low=low,
        high=high,
        strict_radius=radii[0],
        success_radius=radii[1],
        easy_radius=radii[2],
        tool=tool,
        lever=lever,
    )


def achieved_goal(spec: TaskSpec, observation: Array) -> Array:
    """[..., N] -> the entries [..., G] that a goal speaks of."""
    return observation[..., list(spec.goal.observation_indices)]


def goal_distance(spec: TaskSpec, observation: Array, goal: Array) -> Array:
    """[..., N], [..., G] -> Euclidean distance [...] in the goal's unit."""
    difference = achieved_goal(spec, observation) - goal
    return (difference**2).sum(-1) ** 0.5
