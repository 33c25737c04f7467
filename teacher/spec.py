"""The task specification: written once where the task is defined, carried into the robot.

Checkpoints, students and exported bundles each hold it whole; nothing downstream
types a number again that stands here.
"""

import math
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from teacher.errors import unknown_name

FORMAT_VERSION = 1
# Terms of a reading in which a robot's guard looks for the positions of joints.
POSITION_TERMS = ("joint_position", "joint_position_from_default")


def _different(names: tuple[str, ...]) -> tuple[str, ...]:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"names {', '.join(map(repr, twice))} more than once")
    return names


def _si(unit: str) -> str:
    if re.search(r"°|\bdeg(ree)?s?\b", unit, re.IGNORECASE):
        raise ValueError(f"must be in radians, found {unit!r}")
    return unit


def _none_for(unlimited: float) -> BeforeValidator:
    """Infinity says the same as None, but JSON has no word for it."""
    return BeforeValidator(lambda value: None if value == unlimited else value)


Floats = tuple[float, ...]
Names = Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_different)]
Unit = Annotated[str, AfterValidator(_si)]
Positive = tuple[PositiveFloat, ...]
NonNegative = tuple[NonNegativeFloat, ...]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Quantity(_Part):
    """What some numbers are."""

    name: str
    entries: Names
    unit: Unit
    frame: str


class ObservationTerm(Quantity):
    """Entries `[start, start + len(entries))` of the observation."""

    start: int = Field(ge=0)

    @property
    def stop(self) -> int:
        return self.start + len(self.entries)


class SensorTerm(ObservationTerm):
    """Entries of one reading of the robot's sensors."""

    noise: float = Field(ge=0, description="standard deviation of a reading's error, in `unit`")


class DeployedGoal(Quantity):
    """The goal in a frame that the robot knows."""


class GoalSpec(Quantity):
    """A goal is a value that some entries of the observation should take."""

    observation_indices: tuple[int, ...]
    low: Floats = Field(description="lower edge of the training range, in `unit`")
    high: Floats = Field(description="upper edge of the training range, in `unit`")
    success_radius: PositiveFloat
    strict_radius: PositiveFloat = Field(description="a tighter radius, reported beside success")
    easy_radius: PositiveFloat = Field(description="a wider radius, reported beside success")
    lever: PositiveFloat | None = Field(
        default=None,
        description="of a pose, m: after x, y and z follows the rotation matrix, row by row, times lever/√2, "
        "or after x and y the yaw's cosine and sine times lever; a turn by θ is 2 · lever · sin(θ/2) away; "
        "none: no pose",
    )
    tool: Floats | None = Field(
        default=None,
        min_length=3,
        max_length=3,
        description="of an arm: from its flange to the point that goals mean, m in the flange's frame; "
        "none: the flange",
    )

    @property
    def movable(self) -> int:
        """How many of the first entries can take any value by themselves: all, but for a pose's rotation."""
        size = len(self.entries)
        return size if self.lever is None else {12: 3, 4: 2}[size]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _same_lengths(self, "entries", "observation_indices", "low", "high")
        radii = (self.strict_radius, self.success_radius, self.easy_radius)
        if sorted(radii) != list(radii):
            raise ValueError(f"strict, success and easy radius must not decrease, found {radii}")
        if self.lever is not None and (len(self.entries) not in (4, 12) or self.unit != "m"):
            allowed = "12 entries in m (x, y, z, a rotation matrix) or 4 (x, y, cosine and sine of the yaw)"
            raise ValueError(f"a pose has {allowed}, found {len(self.entries)} in {self.unit}")
        for entry, low, high in zip(self.entries, self.low, self.high, strict=True):
            if low > high:
                raise ValueError(f"goal entry {entry!r}: low is {low:g}, above high, {high:g}")
        return self


ActionKind = Literal[
    "joint_velocity", "joint_position", "joint_torque", "base_twist", "gripper_width", "other"
]
"""What an entry of a command is, hence what a robot's guard keeps of it and what holding it means.

The guard keeps `joint_velocity` and `joint_position` to the limits in `joints`, and a hold brings them to
rest. Others keep to the range of their scale; a hold commands 0 for `joint_torque` (or a force) and
`base_twist`, the width as it was for `gripper_width`, and `offset` for `other`."""


class ActionSpec(_Part):
    """command = offset + scale * action, with every action in [-1, 1]."""

    kind: ActionKind | tuple[ActionKind, ...] = Field(
        description="what a command is: of all joints, or one for each"
    )
    joints: Names
    unit: Unit
    scale: Positive
    offset: Floats
    stiffness: NonNegative | None = Field(
        default=None, description="of joints that follow a position, N m/rad"
    )
    damping: NonNegative | None = Field(
        default=None, description="of joints that follow a position, N m s/rad"
    )

    @property
    def kinds(self) -> tuple[ActionKind, ...]:
        """Of each joint."""
        return (self.kind,) * len(self.joints) if isinstance(self.kind, str) else self.kind

    @field_validator("kind", mode="before")
    @classmethod
    def _known(cls, kind: Any) -> Any:
        for each in [kind] if isinstance(kind, str) else kind:
            if each not in get_args(ActionKind):
                raise ValueError(unknown_name("kind", str(each), get_args(ActionKind)))
        return kind

    @model_validator(mode="after")
    def _same_length(self) -> Self:
        if len(self.kinds) != len(self.joints):
            raise ValueError(f"kind has {len(self.kinds)} entries, joints has {len(self.joints)}")
        gains = [name for name in ("stiffness", "damping") if getattr(self, name) is not None]
        _same_lengths(self, "joints", "scale", "offset", *gains)
        return self


class JointSpec(_Part):
    """Joints in the order of the robot's state.

    Near a position limit the commanded velocity is cut so that the joint slows down and
    stops `margin` before it: -slowdown * (q - lower - margin) <= v <= slowdown * (upper - margin - q).
    Beyond a limit these bounds bring it back, no faster than `return_speed`. Limits of position are those
    that the task keeps to, which may be tighter than the robot's. None, or infinity, is no limit: a joint
    that turns freely, a robot that limits torques and not velocities.
    """

    names: Names
    unit: Unit
    default: Floats = Field(description="home pose")
    lower: tuple[Annotated[float | None, _none_for(-math.inf)], ...]
    upper: tuple[Annotated[float | None, _none_for(math.inf)], ...]
    velocity: tuple[Annotated[PositiveFloat | None, _none_for(math.inf)], ...] = Field(
        description="velocity limits of the robot, per second"
    )
    slowdown: float = Field(ge=0, description="1/s; 0: commands are not cut near limits")
    margin: float = Field(ge=0, description="in `unit`")
    return_speed: float | None = Field(default=None, gt=0, description="per second; None: `velocity`")
    acceleration: Positive | None = Field(
        default=None, description="acceleration limits of the robot, per second squared; None: not known"
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        known = [] if self.acceleration is None else ["acceleration"]
        _same_lengths(self, "names", "default", "lower", "upper", "velocity", *known)
        margin = self.margin if self.slowdown else 0.0
        for name, default in zip(self.names, self.default, strict=True):
            low, high = self.range_of(name)
            if low >= high:
                raise ValueError(f"joint {name!r}: lower is {low:g}, not below upper, {high:g}")
            if not low <= default <= high:
                raise ValueError(f"joint {name!r}: default is {default:g}, outside [{low:g}, {high:g}]")
            if low + margin >= high - margin:
                raise ValueError(
                    f"joint {name!r}: a margin of {margin:g} leaves nothing of [{low:g}, {high:g}]"
                )
        return self

    def range_of(self, name: str) -> tuple[float, float]:
        """Limits of a joint's position, infinite where there are none."""
        row = self.names.index(name)
        low, high = self.lower[row], self.upper[row]
        return -math.inf if low is None else low, math.inf if high is None else high


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
    def reading(self) -> tuple[ObservationTerm, ...]:
        """Terms of one reading of the robot's sensors."""
        return self.deployed.reading if self.deployed else self.observation

    @property
    def history(self) -> int:
        """Readings in an observation on the robot."""
        return self.deployed.history if self.deployed else 1

    @property
    def sensed_observation(self) -> tuple[ObservationTerm, ...]:
        """The observation as a policy on the robot is given it: older readings as terms of their own."""
        if self.deployed is None:
            return self.observation
        size = self.deployed.reading_size
        return tuple(
            ObservationTerm(
                **term.model_dump(exclude={"name", "start", "noise"}),
                name=f"{term.name}_t-{age}" if age else term.name,
                start=age * size + term.start,
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
        return self.sensed_observation[-1].stop, self.action_size, len(self.sensed_goal.entries)

    def for_robot(self) -> dict[str, Any]:
        """Returns the specification in JSON's types as a bundle holds it: with `inputs` resolved.

        On the robot, in Python, C++ and C, what the policy is given is read there and derived by nobody."""
        acted = next((term for term in self.reading if term.name == "last_action"), None)
        inputs = {
            "reading": [term.model_dump(mode="json", exclude={"noise"}) for term in self.reading],
            "history": self.history,
            "observation": [term.model_dump(mode="json") for term in self.sensed_observation],
            "last_action": acted and [acted.start, acted.stop],
            "goal": self.sensed_goal.model_dump(mode="json", include={*Quantity.model_fields, "low", "high"}),
        }
        return self.model_dump(mode="json") | {"inputs": inputs}

    @classmethod
    def from_robot(cls, record: Any) -> Self:
        """Reads what `for_robot` wrote; ValueError if it is no specification, or its `inputs` are others."""
        task = dict(record)
        inputs = task.pop("inputs", None)
        spec = cls.model_validate(task)
        if spec.for_robot()["inputs"] != inputs:
            raise ValueError("inputs are not those of the specification")
        return spec

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
        size = self.observation_size
        if outside := [i for i in self.goal.observation_indices if not 0 <= i < size]:
            raise ValueError(f"goal indices {outside} point outside the observation [0, {size})")
        return self

    @model_validator(mode="after")
    def _drivable(self) -> Self:
        """What a robot's guard needs to keep commands of joints within their limits."""
        action, joints = self.action, self.joints
        read = {joint for term in self.reading if term.name in POSITION_TERMS for joint in term.entries}
        for kind, joint, offset in zip(action.kinds, action.joints, action.offset, strict=True):
            if kind not in ("joint_velocity", "joint_position"):
                continue
            what = f"action of kind {kind} on {joint!r}"
            if joint not in joints.names:
                raise ValueError(f"{what}: no such joint in joints.names, {', '.join(joints.names)}")
            low, high = joints.range_of(joint)
            if joints.velocity[joints.names.index(joint)] is None:
                raise ValueError(f"{what}: joints.velocity of it is None, a robot needs a limit to keep to")
            if kind == "joint_position" and not low <= offset <= high:
                raise ValueError(f"{what}: offset is {offset:g}, outside its limits [{low:g}, {high:g}]")
            limited = kind == "joint_position" or math.isfinite(low) or math.isfinite(high)
            if limited and joint not in read:
                raise ValueError(
                    f"{what}: the robot has to know where the joint is, but no term "
                    f"{' or '.join(POSITION_TERMS)} has an entry {joint!r}"
                )
        return self


def _require_tiling(what: str, terms: Sequence[ObservationTerm]) -> None:
    if not terms:
        raise ValueError(f"the {what} has no terms")
    _different(tuple(term.name for term in terms))
    expected = 0
    for term in terms:
        if term.start != expected:
            raise ValueError(
                f"{what} term {term.name!r} starts at {term.start}, expected {expected}: "
                f"terms must tile the {what} in order"
            )
        expected = term.stop


def _same_lengths(part: BaseModel, first: str, *others: str) -> None:
    expected = len(getattr(part, first))
    for other in others:
        if (found := len(getattr(part, other))) != expected:
            raise ValueError(f"{other} has {found} entries, {first} has {expected}")
