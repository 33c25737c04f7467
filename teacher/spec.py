"""The task specification: written once where the task is defined, carried into the robot.

Checkpoints, students and exported bundles each hold it whole; nothing downstream
types a number again that stands here.
"""

from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

Floats = tuple[float, ...]
Names = Annotated[tuple[str, ...], Field(min_length=1)]

FORMAT_VERSION = 1


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ObservationTerm(_Part):
    """Entries `[start, start + len(entries))` of the observation."""

    name: str
    start: int = Field(ge=0)
    entries: Names
    unit: str
    frame: str

    @property
    def stop(self) -> int:
        return self.start + len(self.entries)


class GoalSpec(_Part):
    """A goal is a value that some entries of the observation should take."""

    name: str
    entries: Names
    unit: str
    frame: str
    observation_indices: tuple[int, ...]
    low: Floats = Field(description="lower edge of the training range, in `unit`")
    high: Floats = Field(description="upper edge of the training range, in `unit`")
    success_radius: PositiveFloat
    strict_radius: PositiveFloat = Field(description="a tighter radius, reported beside success")
    easy_radius: PositiveFloat = Field(description="a wider radius, reported beside success")
    tool: Floats | None = Field(
        default=None,
        description="of an arm: from its flange to the point that goals mean, m in the flange's frame; "
        "none: the flange",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _same_lengths(self, "entries", "observation_indices", "low", "high")
        radii = (self.strict_radius, self.success_radius, self.easy_radius)
        if sorted(radii) != list(radii):
            raise ValueError(f"strict, success and easy radius must not decrease, found {radii}")
        if self.tool is not None and len(self.tool) != 3:
            raise ValueError(f"tool must be x, y and z from the flange in m, found {self.tool}")
        return self


class ActionSpec(_Part):
    """command = offset + scale * action, with every action in [-1, 1]."""

    kind: str = Field(description="what a command is, e.g. joint_velocity")
    joints: Names
    unit: str
    scale: Floats
    offset: Floats
    stiffness: Floats | None = Field(default=None, description="of joints that follow a position, N m/rad")
    damping: Floats | None = Field(default=None, description="of joints that follow a position, N m s/rad")

    @model_validator(mode="after")
    def _same_length(self) -> Self:
        gains = [name for name in ("stiffness", "damping") if getattr(self, name) is not None]
        _same_lengths(self, "joints", "scale", "offset", *gains)
        return self


class JointSpec(_Part):
    """Joints in the order of the robot's state.

    Near a position limit the commanded velocity is cut so that the joint slows down and
    stops `margin` before it: -slowdown * (q - lower - margin) <= v <= slowdown * (upper - margin - q).
    Beyond a limit these bounds bring it back, no faster than `return_speed`. Limits of position are those
    that the task keeps to, which may be tighter than the robot's.
    """

    names: Names
    unit: str
    default: Floats = Field(description="home pose")
    lower: Floats
    upper: Floats
    velocity: Floats = Field(description="velocity limits of the robot, per second")
    slowdown: float = Field(ge=0, description="1/s; 0: commands are not cut near limits")
    margin: float = Field(ge=0, description="in `unit`")
    return_speed: float | None = Field(default=None, gt=0, description="per second; None: `velocity`")
    acceleration: Floats | None = Field(
        default=None, description="acceleration limits of the robot, per second squared; None: not known"
    )

    @model_validator(mode="after")
    def _same_length(self) -> Self:
        known = [] if self.acceleration is None else ["acceleration"]
        _same_lengths(self, "names", "default", "lower", "upper", "velocity", *known)
        return self


class SensorTerm(ObservationTerm):
    """Entries of one reading of the robot's sensors."""

    noise: float = Field(ge=0, description="standard deviation of a reading's error, in `unit`")


class DeployedGoal(_Part):
    """The goal in a frame that the robot knows."""

    name: str
    entries: Names
    unit: str
    frame: str


class DeployedSpec(_Part):
    """What a policy can see on the robot: the newest readings of its sensors, and the goal from there."""

    reading: tuple[SensorTerm, ...]
    history: PositiveInt = Field(description="readings in an observation, the newest first")
    goal: DeployedGoal

    @property
    def reading_size(self) -> int:
        return self.reading[-1].stop

    @model_validator(mode="after")
    def _tiles(self) -> Self:
        _require_tiling("reading", self.reading)
        return self


class TaskSpec(_Part):
    """Everything that a policy's user has to know about the task it was trained for."""

    format_version: int = FORMAT_VERSION
    name: str
    version: PositiveInt = Field(description="grows when any meaning below changes")
    observation: tuple[ObservationTerm, ...]
    goal: GoalSpec
    action: ActionSpec
    joints: JointSpec
    control_dt: PositiveFloat = Field(description="seconds between two actions")
    episode_length: PositiveInt = Field(description="control steps")
    deployed: DeployedSpec | None = Field(
        default=None, description="None: the robot knows observation and goal"
    )

    @property
    def observation_size(self) -> int:
        return self.observation[-1].stop

    @property
    def sensed_observation(self) -> tuple[ObservationTerm, ...]:
        """The observation as a policy on the robot is given it: older readings as terms of their own."""
        if self.deployed is None:
            return self.observation
        return tuple(
            ObservationTerm(
                name=f"{term.name}_t-{age}" if age else term.name,
                start=age * self.deployed.reading_size + term.start,
                entries=term.entries,
                unit=term.unit,
                frame=term.frame,
            )
            for age in range(self.deployed.history)
            for term in self.deployed.reading
        )

    @property
    def sensed_goal(self) -> GoalSpec | DeployedGoal:
        """The goal as a policy on the robot is given it."""
        return self.deployed.goal if self.deployed else self.goal

    @property
    def sensed_sizes(self) -> tuple[int, int, int]:
        """Sizes of observation, action and goal of a policy on the robot."""
        if self.deployed is None:
            return self.sizes
        observation = self.deployed.history * self.deployed.reading_size
        return observation, self.action_size, len(self.deployed.goal.entries)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Of observation, action and goal: what networks are made for."""
        return self.observation_size, self.action_size, self.goal_size

    @property
    def goal_size(self) -> int:
        return len(self.goal.entries)

    @property
    def action_size(self) -> int:
        return len(self.action.joints)

    @model_validator(mode="after")
    def _tiles(self) -> Self:
        _require_tiling("observation", self.observation)
        expected = self.observation_size
        outside = [i for i in self.goal.observation_indices if not 0 <= i < expected]
        if outside:
            raise ValueError(f"goal indices {outside} point outside the observation [0, {expected})")
        return self


def _require_tiling(what: str, terms: Sequence[ObservationTerm]) -> None:
    if not terms:
        raise ValueError(f"the {what} has no terms")
    expected = 0
    for term in terms:
        if term.start != expected:
            raise ValueError(
                f"{what} term {term.name!r} starts at {term.start}, expected {expected}: "
                f"terms must tile the {what} in order"
            )
        expected = term.stop


def _same_lengths(part: BaseModel, first: str, *others: str) -> None:
    length = len(getattr(part, first))
    for other in others:
        if len(getattr(part, other)) != length:
            found = len(getattr(part, other))
            raise ValueError(f"{other} has {found} entries, {first} has {length}")
