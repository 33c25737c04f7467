"""Settings of a whole run: what there are, and how a user's values get into them.

From a preset, a TOML file on top of it, and --set on top of both. Such a file holds the groups of --set:

    preset = "quickstart"

    [network]
    depth = 64

TOML has no null: as on the command line, the text "none" stands for no value.
"""

import json
import logging
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tomlkit
from pydantic import BeforeValidator, Field, ValidationError

from pipelines.presets import DEFAULT, PRESETS
from student.config import StudentConfig, listed
from teacher.config import STORED, Episodes, Group, StoredName, TeacherConfig
from teacher.errors import UsageError, unknown_name

JSON = dict[str, Any]


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
Values = dict[str, Any]  # by `group.field`
BASE = "preset"  # the one key of a settings file that is no group
NONE = "none"


class Request(NamedTuple):
    """Settings as a command line asks for them; a value is checked when it is put `on` others."""

    preset: str | None  # as --preset or the file names it
    of_file: Values
    assigned: Values  # by --set and the options that stand for it
    file: Path | None = None

    @property
    def base(self) -> str:
        return self.preset or DEFAULT

    @property
    def config(self) -> Config:
        """The settings of a new run."""
        return self.on(preset(self.base))

    def on(self, config: Config) -> Config:
        """Returns a copy with what was asked for; UsageError naming field, value, bounds, and the file."""
        places = dict.fromkeys(self.of_file.keys() - self.assigned.keys(), f"{self.file}: ")
        return _changed(config, self.of_file | self.assigned, places)

    def different(self, config: Config, allowed: str = "") -> str:
        """Says what is asked for that `config` has otherwise; empty if nothing, or only what is allowed."""
        after = self.on(config)
        old, new = differing(after, config), differing(config, after)
        if not new.keys() - {allowed}:
            return ""
        told = ", ".join(f"{field} is {brief(old[field])} there, not {brief(new[field])}" for field in new)
        return f"{told}; resume without what differs (--set, --config), or name another --run"


def requested(name: str | None, file: Path | None, set_: list[str] | None, **own: str | None) -> Request:
    """Returns a request from options; `own` are fields with an option of their own, __ in place of the dot.

    Raises: UsageError naming what cannot be read, is unknown or is given twice."""
    given = [f"{field.replace('__', '.')}={value}" for field, value in own.items() if value is not None]
    assigned = _parsed([*(set_ or []), *given])
    if name is not None:
        preset(name)
    base, of_file = (None, {}) if file is None else read_settings(file)
    if None not in (name, base) and name != base:
        raise UsageError(f"two presets are named: --preset {name}, and {base} in {file}")
    return Request(name or base, of_file, assigned, file)


def preset(name: str) -> Config:
    """Returns the settings of that name; UsageError with the nearest name if there are none."""
    if name not in PRESETS:
        raise unknown_name("preset", name, PRESETS)
    return with_values(Config(), PRESETS[name][1].split())


def groups(config: Config) -> dict[str, Group]:
    """Returns the groups that `--set` knows, by name."""
    return {name: getattr(config.teacher if name in TEACHER_GROUPS else config, name) for name in GROUPS}


def fields(group: Group) -> list[tuple[str, Any, str]]:
    """Returns of every field its name, its value as JSON has it, and its description."""
    values = group.model_dump(mode="json")
    return [(name, values[name], info.description or "") for name, info in type(group).model_fields.items()]


def document() -> str:
    """Returns the tables of docs/settings.md, in Markdown."""
    parts = []
    for name, group in groups(Config()).items():
        rows = [f"## {name}", "", "| setting | default | meaning |", "|---|---|---|"]
        for field, default, text in fields(group):
            meaning = text.replace("|", "\\|")
            rows.append(f"| `{name}.{field}` | `{json.dumps(default)}` | {meaning} |")
        parts.append("\n".join(rows))
    return "\n\n".join(parts) + "\n"


def with_values(config: Config, assignments: Iterable[str]) -> Config:
    """Returns a copy with `group.field=value` assignments applied.

    Raises: UsageError naming the field, what was found and what is allowed."""
    require_config(config, "with_values")
    return _changed(config, _parsed([assignments] if isinstance(assignments, str) else assignments), {})


def require_config(given: object, function: str) -> None:
    """Raises UsageError that says how to get a Config, if this is none."""
    if not isinstance(given, Config):
        found = brief(given) if isinstance(given, str) else type(given).__name__
        raise UsageError(f"{function} takes a Config, found {found}: preset('quickstart') returns one")


def _parsed(assignments: Iterable[str]) -> Values:
    """Parses `group.field=value`; UsageError for what is not so written."""
    found: Values = {}
    for assignment in assignments:
        target, separator, text = (part.strip() for part in assignment.partition("="))
        group, _, field = target.partition(".")
        if not (separator and group and field):
            message = "write group.field=value, for example network.depth=16"
            raise UsageError(f"--set {brief(assignment)}: {message}")
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):  # also of numbers and nesting without end
            value = text
        _add(found, group, field, value)
    return found


def _add(values: Values, group: str, field: str, value: Any, place: str = "") -> None:
    """Adds a value as a user gives it: under the field's new name, with a warning, and "none" as no value."""
    if group not in GROUPS:
        raise UsageError(f"{place}{unknown_name('group', group, [*GROUPS, BASE] if place else GROUPS)}")
    kind = type(groups(Config())[group])
    name = f"{group}.{kind.RENAMED.get(field, field)}"
    if name in values:
        raise UsageError(f"{place}{name} is given twice: leave out one of them")
    if field in kind.RENAMED:
        logging.getLogger(__name__).warning("%s%s.%s is called %s now", place, group, field, name)
    elif field not in kind.model_fields:
        raise UsageError(f"{place}{unknown_name(f'field of {group}', field, kind.model_fields)}")
    values[name] = None if isinstance(value, str) and value.lower() == NONE else value


def _changed(config: Config, changes: Values, places: Mapping[str, str]) -> Config:
    values = config.model_dump()
    for name, value in changes.items():
        group, _, field = name.partition(".")
        (values["teacher"] if group in TEACHER_GROUPS else values)[group][field] = value
    return validated(values, places)


def validated(values: JSON, places: Mapping[str, str] | None = None, *, stored: bool = False) -> Config:
    """Makes a Config of values; UsageError with a line for each bad field, begun by its place if it has one.

    Those that a run's file holds are `stored`."""

    def describe(problem: Any) -> str:
        path = [str(part) for part in problem["loc"] if part != "teacher"]
        reason: str = problem["msg"].removeprefix("Value error, ")
        reason = reason[:1].lower() + reason[1:]
        if len(path) < 2:  # a rule between fields: its text names them
            return reason
        place = (places or {}).get(".".join(path[:2]), "")
        return f"{place}{'.'.join(path)}: found {brief(problem['input'])}, {reason}"

    try:
        return Config.model_validate(values, context=STORED if stored else None)
    except ValidationError as error:
        # Of the alternatives that one field has, each that fails is a problem of its own; one line says it.
        raise UsageError("\n".join(dict.fromkeys(map(describe, error.errors())))) from None


def differing(old: Config, new: Config) -> JSON:
    """Returns `group.field` of every value that differs, and the new one's, as JSON has it."""
    before = groups(old)
    return {
        f"{name}.{field}": value
        for name, group in groups(new).items()
        for field, value, _ in fields(group)
        if getattr(before[name], field) != getattr(group, field)
    }


def brief(value: object) -> str:
    """Returns what a message shows of a value: as Python writes it, its middle left out if it is long."""
    text = repr(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 10]}...{text[-7:]}"


def read_settings(file: Path) -> tuple[str | None, Values]:
    """Reads a settings file: the preset that it names, and its values, which are not checked yet.

    Raises: UsageError naming the file and what in it is no setting."""
    try:
        found = tomllib.loads(file.read_text("utf-8-sig"))
    except OSError as error:
        raise UsageError(f"--config: {file} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        kind = "UTF-8 text" if isinstance(error, UnicodeDecodeError) else "TOML"
        raise UsageError(f"--config: {file} is not {kind}: {error}") from error
    base, values, place = found.pop(BASE, None), dict[str, Any](), f"{file}: "
    if base is not None and str(base) not in PRESETS:
        raise UsageError(f"{place}{unknown_name(BASE, str(base), PRESETS)}")
    for group, given in found.items():
        if group in GROUPS and not isinstance(given, dict):
            message = f"write [{group}] and below it field = value"
            raise UsageError(f"{place}{group}: found {brief(given)}, {message}")
        for field, value in given.items() if isinstance(given, dict) else [("", given)]:
            is_task = (group, field) == ("task", "name") and isinstance(value, str)
            _add(values, group, field, StoredName(value) if is_task else value, place)
    return base, values


def as_toml(config: Config, base: str, title: str) -> str:
    """Returns all settings with their descriptions; `read_settings` reads them back."""
    document = tomlkit.document()
    document.add(tomlkit.comment(title))
    document.add(BASE, tomlkit.item(base))
    for name, group in groups(config).items():
        table = tomlkit.table()
        for field, value, description in fields(group):
            table.add(tomlkit.comment(description))
            table.add(field, NONE if value is None else value)
        document.add(tomlkit.nl())
        document.add(name, table)
    return tomlkit.dumps(document)


def as_json(config: Config, base: str, title: str) -> JSON:
    """Returns `title`, `preset`, and in `settings` each group's fields: `value`, `default`, `description`."""
    usual, settings = groups(Config()), {}
    for name, group in groups(config).items():
        pairs = zip(fields(group), fields(usual[name]), strict=True)
        settings[name] = {
            field: {"value": value, "default": default, "description": description}
            for (field, value, description), (_, default, _) in pairs
        }
    return {"title": title, BASE: base, "settings": settings}
