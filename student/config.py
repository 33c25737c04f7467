"""Settings of the distillation stage."""

from typing import Annotated, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from teacher.config import Episodes, Group, Rate
from teacher.config import Size as Size
from teacher.config import parse_size as parse_size


def _listed(value: object) -> object:
    """`2x32,2x64`, as it is written on a command line."""
    return tuple(value.split(",")) if isinstance(value, str) else value


def _sizes(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        parse_size(name)
    if len(set(names)) < len(names):
        raise ValueError(f"a size stands twice in {', '.join(names)}")
    return names


class StudentConfig(Group):
    """Settings of the distillation stage."""

    sizes: Annotated[
        tuple[str, ...], Field(min_length=1), BeforeValidator(_listed), AfterValidator(_sizes)
    ] = ("2x64", "3x64")
    """students trained at once, each LAYERSxWIDTH"""
    envs: PositiveInt = 256
    """environments per round"""
    rounds: PositiveInt = 12
    """rounds of one episode per environment, followed by updates"""
    teacher_rounds: PositiveInt = 2
    """first rounds, in which the teacher acts with noise; then the students act"""
    noise: NonNegativeFloat = 0.3
    """standard deviation of the noise on the teacher's actions"""
    updates: PositiveInt = 300
    """updates per round"""
    batch: Annotated[int, Field(ge=2)] = 512
    """labelled states per update"""
    rate: Rate = 2e-3
    """learning rate (Adam), lowered to a hundredth over the run"""
    episodes: Episodes = 512
    """held-out episodes in which each exported student is compared with its teacher"""
    retention: Annotated[float, Field(ge=0, le=2)] = 0.98
    """the smallest student whose retention's lower bound reaches this is selected"""
    baseline_budget_s: PositiveFloat | None = None
    """seconds that baselines may take together, as far as can be foreseen; without it, any number"""

    @model_validator(mode="after")
    def _students_act(self) -> Self:
        if self.teacher_rounds > self.rounds:
            raise ValueError(
                f"student.teacher_rounds is {self.teacher_rounds}, more than student.rounds ({self.rounds})"
            )
        return self


# What decides the students; the other fields only judge them, and may change between two runs.
TRAINING_FIELDS = {"sizes", "envs", "rounds", "teacher_rounds", "noise", "updates", "batch", "rate"}
