"""Settings of a whole run, and how a user's values get into them."""

import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator, Field, ValidationError

from student.config import StudentConfig, listed
from teacher.config import STORED, Episodes, Group, StoredName, TeacherConfig
from teacher.errors import UsageError, unknown_name


class ExportConfig(Group):
    observations: Annotated[int, Field(ge=1000, le=10_000_000)] = 10_000
    """observations from real episodes on which ONNX Runtime is compared with JAX"""
    profiles: Annotated[tuple[str, ...], BeforeValidator(listed)] = ()
    """controllers whose own files a bundle holds too: c99, holosoma, mjlab, ros2, unitree"""


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
LONGEST_SHOWN = 80  # characters of a value in a message


def groups(config: Config) -> dict[str, Group]:
    """The groups that `--set` knows, by name."""
    return {
        **{name: getattr(config.teacher, name) for name in TEACHER_GROUPS},
        **{name: getattr(config, name) for name in GROUPS if name not in TEACHER_GROUPS},
    }


class Change(NamedTuple):
    """One setting as a user gives it."""

    group: str
    field: str
    value: Any
    where: str = ""  # begins a message about it: the file that it stands in

    @property
    def name(self) -> str:
        return f"{self.group}.{self.field}"


def with_values(config: Config, assignments: Iterable[str]) -> Config:
    """A copy with `group.field=value` assignments applied.

    Raises: UsageError naming the field, what was found and what is allowed."""
    return changed(config, parsed(assignments))


def parsed(assignments: Iterable[str]) -> list[Change]:
    """`group.field=value` as changes; UsageError for what is not so written, or is given twice."""
    found: dict[str, Change] = {}
    for assignment in assignments:
        target, separator, text = assignment.partition("=")
        group, dot, field = target.strip().partition(".")
        if not (separator and dot and group and field):
            raise UsageError(
                f"--set {brief(assignment)}: write group.field=value, for example network.depth=16"
            )
        change = Change(group, field, _parse(text.strip()))
        if change.name in found:
            raise UsageError(f"{change.name} is given twice: leave out one of them")
        found[change.name] = change
    return list(found.values())


def changed(config: Config, changes: Iterable[Change]) -> Config:
    """A copy with the changes applied in order; UsageError as `with_values` raises it."""
    values = config.model_dump()
    places = {}
    for change in changes:
        if change.group not in GROUPS:
            raise UsageError(f"{change.where}{unknown_name('group', change.group, GROUPS)}")
        fields = values["teacher"][change.group] if change.group in TEACHER_GROUPS else values[change.group]
        if change.field not in fields:
            raise UsageError(
                f"{change.where}{unknown_name(f'field of {change.group}', change.field, fields)}"
            )
        from_file = change.where and change.name == "task.name" and isinstance(change.value, str)
        fields[change.field] = StoredName(change.value) if from_file else change.value
        places[change.name] = change.where
    return validated(values, places)


def validated(
    values: dict[str, Any], places: Mapping[str, str] | None = None, *, stored: bool = False
) -> Config:
    """Values as a Config; UsageError with one line for each bad field, begun by its place if there is one.

    Those of a file are `stored`."""
    try:
        return Config.model_validate(values, context=STORED if stored else None)
    except ValidationError as error:
        # Of the alternatives that one field has, each that fails is a problem of its own; one line says it.
        lines = dict.fromkeys(_describe(problem, places or {}) for problem in error.errors())
        raise UsageError("\n".join(lines)) from None


def differing(old: Config, new: Config) -> dict[str, Any]:
    """`group.field` of every value that differs, and the new one's, as JSON has it."""
    before, after = groups(old), groups(new)
    return {
        f"{name}.{field}": value
        for name, group in after.items()
        for field, value in group.model_dump(mode="json").items()
        if getattr(before[name], field) != getattr(group, field)
    }


def brief(value: object) -> str:
    """How a message shows what was found: as Python writes it, its middle left out if it is long."""
    text = repr(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 10]}...{text[-7:]}"


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # also of numbers and nesting without end
        return None if text.lower() == "none" else text


def _describe(problem: Any, places: Mapping[str, str]) -> str:
    path = [str(part) for part in problem["loc"] if part != "teacher"]
    reason: str = problem["msg"].removeprefix("Value error, ")
    reason = reason[:1].lower() + reason[1:]
    if len(path) < 2:  # a rule between fields: its text names them
        return reason
    place = places.get(".".join(path[:2]), "")
    return f"{place}{'.'.join(path)}: found {brief(problem['input'])}, {reason}"
