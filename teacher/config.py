"""What a teacher's run is made of; every value is checked when it is set."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)

BLOCK_DEPTH = 4  # hidden Dense layers in one residual block
SHARES = ("time_at_goal", "time_near_goal", "success_final", "success_any", "strict_final")  # of a score


def _whole_blocks(depth: int) -> int:
    if depth % BLOCK_DEPTH:
        below = max(BLOCK_DEPTH, depth - depth % BLOCK_DEPTH)
        above = depth + BLOCK_DEPTH - depth % BLOCK_DEPTH
        raise ValueError(f"must be a multiple of {BLOCK_DEPTH}, for example {below} or {above}")
    return depth


class Threshold(NamedTuple):
    """The share `key` of a score, and the least value that counts as reached."""

    key: str
    least: float


def parse_threshold(text: str) -> Threshold:
    """`time_at_goal=0.32` -> that share and 0.32; ValueError saying what is allowed."""
    key, _, value = (part.strip() for part in text.partition("="))
    if key not in SHARES or re.fullmatch(r"\d*\.?\d+", value, re.ASCII) is None or not 0 < float(value) <= 1:
        raise ValueError(
            f"write KEY=VALUE, for example time_at_goal=0.32: a key of {', '.join(SHARES)}, "
            "a value above 0 and at most 1"
        )
    return Threshold(key, float(value))


def _threshold(value: Any) -> Any:
    """As it was written; a value of any type is refused in the same words."""
    if value is not None:
        parse_threshold(value if isinstance(value, str) else repr(value))
    return value


def task_reference(name: str) -> str:
    """`path/to/file.py:NAME` with the file's whole path, so that later stages find it from any directory.

    Other names of tasks stay as they are."""
    file, _, made = name.rpartition(":")
    return f"{Path(file).resolve()}:{made}" if file.endswith(".py") else name


class StoredName(str):
    """A task's name as a file holds it: no task file is executed for that alone."""


STORED = {"stored": True}  # context in which values that a file holds are validated


def _task_name(value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> str:
    kind = StoredName if isinstance(value, StoredName) or info.context == STORED else str
    return kind(task_reference(handler(value)))


Depth = Annotated[int, Field(ge=BLOCK_DEPTH), AfterValidator(_whole_blocks)]
Episodes = Annotated[int, Field(ge=2)]  # an interval needs two
Rate = Annotated[float, Field(gt=0, lt=1)]
Spread = Annotated[float, Field(ge=0, lt=1)]
Precision = Literal["float32", "tensorfloat32", "bfloat16"]


class Group(BaseModel):
    """A frozen group of settings; a misspelt field is refused, not ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Python would take true for 1."""
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError("must not be true or false")
        return value


class TaskConfig(Group):
    name: Annotated[str, WrapValidator(_task_name)] = "fr3_reach"
    """task to learn; `pipeline tasks` lists them, path/to/file.py:NAME is one of your own"""
    engine: str | None = None
    """simulator to train in; the task's first one if not given"""
    layout: str | None = None
    """goals to train on; the task's first layout if not given"""


class RandomiseConfig(Group):
    """How physics differ between the episodes of training; none of it applies to evaluation.

    A field that is not given is as the task sets it."""

    friction: Spread | None = None
    """factors of friction lie within 1 - this and 1 + this"""
    mass: Spread | None = None
    """factors of masses and inertias, likewise"""
    strength: Spread | None = None
    """factors of actuators' gains and force limits, likewise"""
    latency: NonNegativeInt | None = None
    """control steps by which actions come late, at most"""
    push: NonNegativeFloat | None = None
    """largest sudden change of velocity: of the base in m/s, of joints where the base is fixed in rad/s"""
    push_interval_s: PositiveFloat | None = None
    """mean seconds between two pushes"""
    noise: NonNegativeFloat | None = None
    """factor of the noise of a robot's sensors, where policies see those; 1 is the specification's"""


class NetworkConfig(Group):
    depth: Depth = 16
    """hidden layers of actor and encoders, in residual blocks of four"""
    width: PositiveInt = 64
    """units in each hidden layer"""
    actor_depth: Depth | None = None
    """hidden layers of the actor, if not `depth`"""
    critic_depth: Depth | None = None
    """hidden layers of both encoders, if not `depth`"""
    actor_width: PositiveInt | None = None
    """units in each hidden layer of the actor, if not `width`"""
    architecture: Literal["scaled", "published"] = "scaled"
    """`published` adds every residual branch whole; `scaled` adds 16/depth of it beyond depth 16"""
    precision: Precision = "tensorfloat32"
    """operands of the hidden layers' products; `tensorfloat32` is float32 where the hardware lacks it"""
    fused: bool = False
    """whole-network kernels for Hopper GPUs in place of a scan over blocks; needs precision=bfloat16"""
    representation: PositiveInt = 64
    """size of the space in which the critic measures distance"""

    @property
    def depths(self) -> tuple[int, int]:
        """Of the actor, and of both encoders."""
        return self.actor_depth or self.depth, self.critic_depth or self.depth

    @property
    def widths(self) -> tuple[int, int]:
        """Of the actor's hidden layers, and of both encoders'."""
        return self.actor_width or self.width, self.width

    @model_validator(mode="after")
    def _kernels_take_bfloat16(self) -> Self:
        if self.fused and self.precision != "bfloat16":
            raise ValueError(f"network.fused needs network.precision bfloat16, found {self.precision}")
        return self


class UpdateConfig(Group):
    actor_rate: Rate = 3e-4
    """learning rate of the actor (Adam)"""
    critic_rate: Rate = 3e-4
    """learning rate of both encoders (Adam)"""
    entropy_rate: Rate = 3e-4
    """learning rate of the entropy weight (Adam)"""
    batch: Annotated[int, Field(ge=2)] = 256
    """state-actions per update, each the others' negative"""
    discount: Rate = 0.99
    """chance that the relabelled goal lies one step further in the future"""
    penalty: NonNegativeFloat = 0.1
    """weight of the squared log-partition"""
    target_entropy: float = -0.5
    """entropy that the actor keeps, per action"""


class CollectConfig(Group):
    envs: PositiveInt = 256
    """environments simulated at once"""
    steps: PositiveInt = 50
    """control steps per environment and iteration"""
    updates: PositiveInt = 100
    """updates per iteration"""
    replay: PositiveInt = 1000
    """control steps kept per environment"""
    prefill: PositiveInt = 100
    """control steps per environment, at least, before the first update"""
    starts: Literal["new", "repeated"] = "new"
    """`repeated`: each environment has one start and goal for the whole run, as published"""
    total_steps: PositiveInt = 1_500_000
    """control steps with updates, over all environments, in whole iterations; the prefill comes on top"""

    @property
    def iterations(self) -> int:
        return -(-self.total_steps // (self.envs * self.steps))


class EvaluateConfig(Group):
    episodes: Episodes = 256
    """held-out episodes of one evaluation"""
    every: PositiveInt = 10
    """iterations between two evaluations"""
    layout: str | None = None
    """goals to evaluate on; the task's evaluation layout, mostly its last, if not given"""
    until: Annotated[str | None, BeforeValidator(_threshold)] = None
    """KEY=VALUE: training ends after the first evaluation whose KEY, a share of the score, reaches VALUE"""

    def reached(self, evaluation: Mapping[str, Any] | None) -> bool:
        """Whether training ends by `until` after this evaluation; never without one."""
        if self.until is None or evaluation is None:
            return False
        key, least = parse_threshold(self.until)
        return bool(evaluation[key] >= least)


class CheckpointConfig(Group):
    interval_s: NonNegativeFloat = 60.0
    """seconds between two saves; 0 saves after every iteration"""
    keep: PositiveInt = 2
    """saves kept"""


class TeacherConfig(Group):
    """Settings of the teacher stage."""

    task: TaskConfig = TaskConfig()
    randomise: RandomiseConfig = RandomiseConfig()
    network: NetworkConfig = NetworkConfig()
    update: UpdateConfig = UpdateConfig()
    collect: CollectConfig = CollectConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()

    @model_validator(mode="after")
    def _buffer_serves_batch(self) -> Self:
        collect, batch = self.collect, self.update.batch
        if collect.prefill > collect.replay:
            raise ValueError(
                f"collect.prefill is {collect.prefill}, more than collect.replay ({collect.replay}) can hold"
            )
        if collect.steps > collect.replay:
            raise ValueError(
                f"collect.steps is {collect.steps}, more than collect.replay ({collect.replay}) can hold"
            )
        if batch > collect.envs * collect.prefill:
            raise ValueError(
                f"update.batch is {batch}, but the buffer holds only collect.envs * collect.prefill = "
                f"{collect.envs * collect.prefill} state-actions at the first update"
            )
        return self
