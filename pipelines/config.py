"""Settings of a whole run, and how a user's values get into them."""

import json
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError

from student.config import StudentConfig, listed
from teacher.config import Episodes, Group, TeacherConfig
from teacher.errors import UsageError, unknown_name


class ExportConfig(Group):
    observations: Annotated[int, Field(ge=1000)] = 10_000
    """observations from real episodes on which ONNX Runtime is compared with JAX"""
    profiles: Annotated[tuple[str, ...], BeforeValidator(listed)] = ()
    """controllers whose own files a bundle holds too: c99, holosoma, mjlab, unitree"""


class ControlConfig(Group):
    engine: str | None = None
    """simulator that stands in for the robot; if not given, the MuJoCo C engine where the task runs there"""
    episodes: Episodes = 256
    """held-out episodes that the exported controller runs"""


class TrackConfig(Group):
    """Where metrics go besides metrics.jsonl; it decides nothing of the result."""

    tensorboard: bool = False
    """event files for TensorBoard in STAGE/tensorboard"""
    wandb: str | None = None
    """project at Weights & Biases that gets settings and metrics; without it, nothing leaves the machine"""


class Config(Group):
    """Everything that decides a run, but for its seed. `--set` addresses the inner groups."""

    teacher: TeacherConfig = TeacherConfig()
    student: StudentConfig = StudentConfig()
    export: ExportConfig = ExportConfig()
    control: ControlConfig = ControlConfig()
    track: TrackConfig = TrackConfig()


TEACHER_GROUPS = tuple(TeacherConfig.model_fields)
GROUPS = (*TEACHER_GROUPS, *(name for name in Config.model_fields if name != "teacher"))


def groups(config: Config) -> dict[str, Group]:
    """The groups that `--set` knows, by name."""
    return {
        **{name: getattr(config.teacher, name) for name in TEACHER_GROUPS},
        **{name: getattr(config, name) for name in GROUPS if name not in TEACHER_GROUPS},
    }


def with_values(config: Config, assignments: Iterable[str]) -> Config:
    """A copy with `group.field=value` assignments applied.

    Raises: UsageError naming the field, what was found and what is allowed."""
    values = config.model_dump()
    for assignment in assignments:
        target, separator, text = assignment.partition("=")
        group, dot, field = target.strip().partition(".")
        if not separator or not dot:
            raise UsageError(f"--set {assignment!r}: write group.field=value, for example network.depth=16")
        if group not in GROUPS:
            raise unknown_name("group", group, GROUPS)
        fields = values["teacher"][group] if group in TEACHER_GROUPS else values[group]
        if field not in fields:
            raise unknown_name(f"field of {group}", field, fields)
        fields[field] = _parse(text.strip())
    return validated(values)


def validated(values: dict[str, Any]) -> Config:
    """Values as a Config; UsageError with one line for each bad field."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise UsageError("\n".join(_describe(problem) for problem in error.errors())) from None


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return None if text.lower() == "none" else text


def _describe(problem: Any) -> str:
    path = [str(part) for part in problem["loc"] if part != "teacher"]
    reason: str = problem["msg"].removeprefix("Value error, ")
    reason = reason[:1].lower() + reason[1:]
    if len(path) < 2:  # a rule between fields: its text names them
        return reason
    return f"{'.'.join(path)}: found {problem['input']!r}, {reason}"
