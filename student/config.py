"""Settings of the distillation stage."""

import math
import re
from collections.abc import Mapping
from typing import Annotated, ClassVar, NamedTuple, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from teacher.config import MOST_EPISODES, Batch, Episodes, Factor, Group, Rate, Seconds, Updates

ACTIVATIONS = ("swish", "relu")
SIZE = re.compile(r"([1-9]\d?)x([1-9]\d{0,3})", re.ASCII)  # layers, width
# Conditions under which `robustness` episodes run, beside the `NOMINAL` one.
NOMINAL = "nominal"
SHARE = 0.2  # by which masses and friction are less, or more
NOISE = 0.1  # in standard deviations of what is seen
OUTSIDE = 0.25  # how far goals leave the training range at most, as a share of half its width


class Size(NamedTuple):
    """Hidden layers of a student's network, units in each, and what comes after each."""

    layers: int
    width: int
    activation: str = "swish"


def parse_size(name: str) -> Size:
    """Reads `2x64` as two hidden layers of 64 units with swish; `2x64-relu` has ReLU in its place."""
    size, dash, activation = name.partition("-")
    if dash and activation not in ACTIVATIONS[1:]:
        raise ValueError(f"{name!r} has no known activation; write {size} or {size}-{ACTIVATIONS[1]}")
    match = SIZE.fullmatch(size)
    if match is None:
        raise ValueError(f"{size!r} is no size; write LAYERSxWIDTH, for example 2x64")
    return Size(int(match[1]), int(match[2]), activation or ACTIVATIONS[0])


class GoalShares(NamedTuple):
    """Shares of the labels that are for goals of each kind."""

    commanded: float
    hindsight: float
    cross: float
    beyond: float


def listed(value: object) -> object:
    """Splits `2x32,2x64`, as it is written on a command line."""
    return tuple(value.split(",")) if isinstance(value, str) else value


def _sizes(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(map(parse_size, names))) < len(names):
        raise ValueError(f"a size stands twice in {', '.join(names)}")
    return names


def _none_or_several(episodes: int) -> int:
    if episodes == 1:
        raise ValueError("one episode has no interval: take at least 2, or 0 for none")
    return episodes


def _shares(shares: GoalShares) -> GoalShares:
    if not math.isclose(sum(shares), 1, abs_tol=1e-6) or min(shares) < 0:
        raise ValueError(
            f"must be four shares ({', '.join(GoalShares._fields)}), none negative, that sum to 1"
        )
    return shares


class StudentConfig(Group):
    """Settings of the distillation stage."""

    RENAMED: ClassVar[Mapping[str, str]] = {
        "batch": "batch_size",
        "rate": "lr",
        "retention": "min_retention",
        "choose": "select",
        "robustness": "robustness_episodes",
    }

    sizes: Annotated[
        tuple[str, ...], Field(min_length=1), BeforeValidator(listed), AfterValidator(_sizes)
    ] = ("2x32", "2x64", "2x128", "3x32", "3x64", "3x128", "4x32", "4x64", "4x128", "4x256")
    """policies trained at once, each LAYERSxWIDTH, or LAYERSxWIDTH-relu for ReLU in place of swish"""
    seeds: Annotated[int, Field(ge=1, le=1000)] = 1
    """initialisations of each, also at once; the one longest at its goals is kept"""
    critic: Annotated[str, AfterValidator(lambda name: _sizes((name,))[0])] = "3x192"
    """size of the critic's two encoders, which all students share"""
    envs: Annotated[int, Field(ge=1, le=MOST_EPISODES)] = 256
    """environments per round"""
    rounds: Annotated[int, Field(ge=1, le=100_000)] = 10
    """rounds of one episode per environment, followed by updates"""
    teacher_rounds: Annotated[int, Field(ge=1, le=100_000)] = 2
    """first rounds, in which the teacher acts with noise"""
    mixed_rounds: Annotated[int, Field(ge=0, le=100_000)] = 3
    """next rounds, over which the teacher's share of acting falls from a half to what it stays at"""
    noise: Factor = 0.3
    """standard deviation of the noise on the teacher's first actions; later, the students' error; 0: none"""
    goals: Annotated[GoalShares, AfterValidator(_shares)] = GoalShares(0.5, 0.25, 0.15, 0.1)
    """shares of labels for commanded, hindsight and cross-trajectory goals, and goals beyond the range"""
    updates: Updates = 300
    """updates per round"""
    batch_size: Batch = 512
    """labelled states per update; the critic learns from every second of them"""
    lr: Rate = 2e-3
    """learning rate (Adam), lowered to a hundredth over the run"""
    episodes: Episodes = 512
    """held-out episodes in which each exported student is compared with its teacher"""
    min_retention: Annotated[float, Field(ge=0, le=2)] = 0.98
    """the smallest student whose retention's lower bound reaches this is selected; 0: the smallest of all"""
    select: str | None = None
    """size of the student to select instead, whatever it keeps"""
    robustness_episodes: Annotated[int, Field(ge=0, le=MOST_EPISODES), AfterValidator(_none_or_several)] = 64
    """held-out episodes of the selected student and its teacher under each harder condition; 0: none"""
    baseline_budget_s: Annotated[Seconds, Field(gt=0)] | None = None
    """seconds that baselines may take together, as far as can be foreseen; without it, any number"""

    @model_validator(mode="after")
    def _teacher_rounds_are_rounds(self) -> Self:
        if self.teacher_rounds > self.rounds:
            more = f"{self.teacher_rounds}, more than student.rounds ({self.rounds})"
            raise ValueError(f"student.teacher_rounds is {more}")
        return self


_JUDGING = {"episodes", "min_retention", "select", "robustness_episodes", "baseline_budget_s"}
TRAINING_FIELDS = StudentConfig.model_fields.keys() - _JUDGING  # the others may change between two runs
