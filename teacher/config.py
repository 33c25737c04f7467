"""What a teacher's run is made of; every value is checked when it is set."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)

BLOCK_DEPTH = 4  # hidden Dense layers in one residual block
SHARES = ("time_at_goal", "time_near_goal", "success_final", "success_any", "strict_final")  # of a score
ARM = ".toml"  # of a task in a file that describes an arm
FAR_CELLS = 8  # of a maze, to walk: from there on a pair of cells counts as far


def _whole_blocks(depth: int) -> int:
    if depth % BLOCK_DEPTH:
        below = max(BLOCK_DEPTH, depth - depth % BLOCK_DEPTH)
        above = depth + BLOCK_DEPTH - depth % BLOCK_DEPTH
        raise ValueError(f"must be a multiple of {BLOCK_DEPTH}, for example {below} or {above}")
    return depth


def parse_threshold(text: str) -> tuple[str, float]:
    """Reads `time_at_goal=0.32` as that share of a score and the least value that counts as reached.

    Raises: ValueError saying what is allowed."""
    key, _, value = (part.strip() for part in text.partition("="))
    if key not in SHARES or re.fullmatch(r"\d*\.?\d+", value, re.ASCII) is None or not 0 < float(value) <= 1:
        raise ValueError(
            f"write KEY=VALUE, for example time_at_goal=0.32: a key of {', '.join(SHARES)}, "
            "a value above 0 and at most 1"
        )
    return key, float(value)


def _threshold(value: Any) -> Any:
    """Checks it and keeps it as it was written; any type is refused in the same words."""
    if value is not None:
        parse_threshold(value if isinstance(value, str) else repr(value))
    return value


def task_reference(name: str) -> str:
    """Names a task in a file, `path/to/file.py:NAME` or `path/to/arm.toml`, by its whole path and a colon, so
    that later stages find it from any directory.

    Other names of tasks stay as they are."""
    file, _, made = (name + ":" if name.endswith(ARM) else name).rpartition(":")
    return f"{Path(file).resolve()}:{made}" if file.endswith((".py", ARM)) else name


# Every number has an upper bound: what memory and the counters of a run can take is looked at before it
# begins (`teacher.memory`), and beyond these not even that can be computed.
COUNTED = 2**31 - 1  # counters are int32
MOST_EPISODES = 1_000_000
Count = Annotated[int, Field(ge=1, le=COUNTED)]
Units = Annotated[int, Field(ge=1, le=2**20)]
Depth = Annotated[int, Field(ge=BLOCK_DEPTH, le=2**20), AfterValidator(_whole_blocks)]
Episodes = Annotated[int, Field(ge=2, le=MOST_EPISODES)]  # an interval needs two
Updates = Annotated[int, Field(ge=1, le=1_000_000)]  # each has a key, and all keys are made at once
Batch = Annotated[int, Field(ge=2, le=2**24)]


class StoredName(str):
    """A task's name as a file holds it: no task file is executed for that alone."""


STORED = {"stored": True}  # context in which values that a file holds are validated


def _task_name(value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> str:
    kind = StoredName if isinstance(value, StoredName) or info.context == STORED else str
    return kind(task_reference(handler(value)))


Rate = Annotated[float, Field(gt=0, lt=1)]
Discount = Annotated[float, Field(gt=0, le=0.999999)]  # nearer to 1 float32 has no digits left
Spread = Annotated[float, Field(ge=0, lt=1)]
Factor = Annotated[float, Field(ge=0, le=1000)]
Seconds = Annotated[float, Field(ge=0, le=1e9)]
Precision = Literal["float32", "tensorfloat32", "bfloat16"]


class Group(BaseModel):
    """A frozen group of settings; a misspelt field is refused, not ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    RENAMED: ClassVar[Mapping[str, str]] = {}
    """names that fields had in version 0.1.0; files and commands may still use them"""

    @model_validator(mode="before")
    @classmethod
    def _takes_old_names(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        renamed = {old: new for old, new in cls.RENAMED.items() if new not in values}
        return {renamed.get(name, name): value for name, value in values.items()}

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Rejects booleans for numeric fields: Python would take true for 1."""
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
    latency: Annotated[int, Field(ge=0, le=1000)] | None = None
    """control steps by which actions come late, at most"""
    push: Factor | None = None
    """largest sudden change of velocity: of the base in m/s, of joints where the base is fixed in rad/s"""
    push_interval_s: Annotated[Seconds, Field(gt=0)] | None = None
    """mean seconds between two pushes"""
    noise: Factor | None = None
    """factor of the noise of a robot's sensors, where policies see those; 1 is the specification's"""


class NetworkConfig(Group):
    RENAMED: ClassVar[Mapping[str, str]] = {"representation": "repr_dim"}

    depth: Depth = 16
    """hidden layers of actor and encoders, in residual blocks of four"""
    width: Units = 64
    """units in each hidden layer"""
    actor_depth: Depth | None = None
    """hidden layers of the actor, if not `depth`"""
    critic_depth: Depth | None = None
    """hidden layers of both encoders, if not `depth`"""
    actor_width: Units | None = None
    """units in each hidden layer of the actor, if not `width`"""
    architecture: Literal["scaled", "published"] = "scaled"
    """`published` adds every residual branch whole; `scaled` adds 16/depth of it beyond depth 16"""
    precision: Precision = "tensorfloat32"
    """operands of the hidden layers' products; `tensorfloat32` is float32 where the hardware lacks it"""
    fused: bool = False
    """whole-network kernels for Hopper GPUs in place of a scan over blocks; needs precision=bfloat16"""
    repr_dim: Units = 64
    """size of the space in which the critic measures distance"""

    @property
    def depths(self) -> tuple[int, int]:
        """Returns those of the actor, and of both encoders."""
        return self.actor_depth or self.depth, self.critic_depth or self.depth

    @property
    def widths(self) -> tuple[int, int]:
        """Returns those of the actor's hidden layers, and of both encoders'."""
        return self.actor_width or self.width, self.width

    @model_validator(mode="after")
    def _kernels_take_bfloat16(self) -> Self:
        if self.fused and self.precision != "bfloat16":
            raise ValueError(f"network.fused needs network.precision bfloat16, found {self.precision}")
        return self


class UpdateConfig(Group):
    RENAMED: ClassVar[Mapping[str, str]] = {
        "actor_rate": "actor_lr",
        "critic_rate": "critic_lr",
        "entropy_rate": "temperature_lr",
        "batch": "batch_size",
        "penalty": "logsumexp_penalty",
    }

    actor_lr: Rate = 3e-4
    """learning rate of the actor (Adam)"""
    critic_lr: Rate = 3e-4
    """learning rate of both encoders (Adam)"""
    temperature_lr: Rate = 3e-4
    """learning rate of the temperature (Adam)"""
    batch_size: Batch = 256
    """state-actions per update, each the others' negative"""
    discount: Discount = 0.99
    """chance that the relabelled goal lies one step further in the future"""
    logsumexp_penalty: Factor = 0.1
    """weight of the squared log-partition"""
    target_entropy: Annotated[float, Field(ge=-1000, le=1000)] = -0.5
    """entropy that the actor keeps, per dimension of the action"""
    ema_decay: Spread = 0.998
    """decay, per update, of the moving average of all parameters that is evaluated and distilled; 0: none"""


class CollectConfig(Group):
    RENAMED: ClassVar[Mapping[str, str]] = {"steps": "unroll_length", "replay": "buffer_rows"}

    envs: Count = 256
    """environments simulated at once"""
    unroll_length: Count = 50
    """control steps per environment and iteration"""
    updates: Updates = 100
    """updates per iteration"""
    buffer_rows: Count = 1000
    """control steps kept per environment"""
    prefill: Count = 100
    """control steps per environment, at least, before the first update"""
    goal_steps: Count | None = None
    """control steps, on average, between new goals of an environment; none: each episode has one"""
    starts: Literal["new", "repeated"] = "new"
    """`repeated`: each environment has one start and goal for the whole run, as published"""
    sampling: Literal["even", "windows"] = "even"
    """`windows`: environments in lockstep, a window of each per iteration, rows used once, as published"""
    total_steps: Annotated[int, Field(ge=1, le=2**62)] = 1_500_000
    """control steps with updates, over all environments, in whole iterations; the prefill comes on top"""

    @model_validator(mode="after")
    def _new_goals_can_be_drawn(self) -> Self:
        if self.goal_steps is not None and self.starts == "repeated":
            raise ValueError("collect.goal_steps needs collect.starts=new: repeated starts have one goal")
        return self

    @property
    def iterations(self) -> int:
        return -(-self.total_steps // (self.envs * self.unroll_length))


class EvaluateConfig(Group):
    episodes: Episodes = 256
    """held-out episodes of one evaluation"""
    every: Count = 10
    """iterations between two evaluations"""
    layout: str | None = None
    """goals to evaluate on; the task's evaluation layout, mostly its last, if not given"""
    until: Annotated[str | None, BeforeValidator(_threshold)] = None
    """KEY=VALUE: training ends after the first evaluation whose KEY, a share of the score, reaches VALUE"""

    def reached(self, evaluation: Mapping[str, Any] | None) -> bool:
        """Tells whether training ends by `until` after this evaluation; never without one."""
        if self.until is None or evaluation is None:
            return False
        key, least = parse_threshold(self.until)
        return bool(evaluation[key] >= least)


class CheckpointConfig(Group):
    interval_s: Seconds = 60.0
    """seconds between two saves; 0 saves after every iteration"""
    keep: Count = 2
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
        collect, batch = self.collect, self.update.batch_size
        for field in ("prefill", "unroll_length"):
            if getattr(collect, field) > collect.buffer_rows:
                raise ValueError(
                    f"collect.{field} is {getattr(collect, field)}, more than collect.buffer_rows "
                    f"({collect.buffer_rows}) can hold"
                )
        rows = collect.prefill + (collect.iterations + 1) * collect.unroll_length
        if rows > COUNTED:
            raise ValueError(
                f"collect.total_steps is {collect.total_steps}, about {rows:,} steps of each environment: at "
                f"most {COUNTED:,} are counted; lower it, or take more collect.envs"
            )
        if batch > collect.envs * collect.prefill:
            raise ValueError(
                f"update.batch_size is {batch}, but the buffer holds only collect.envs * collect.prefill = "
                f"{collect.envs * collect.prefill} state-actions at the first update"
            )
        return self
