"""Settings in a TOML file: the groups of `--set`, and the preset that they are based on.

    preset = "quickstart"

    [network]
    depth = 64

TOML has no null: as on the command line, the text "none" stands for no value.
"""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import tomlkit
from pydantic import ConfigDict, create_model
from tomlkit.items import Table

from pipelines.config import GROUPS, Change, Config, brief, groups
from pipelines.presets import PRESETS
from teacher.errors import UsageError, unknown_name

BASE = "preset"  # the one key that is no group
NONE = "none"


class SettingsFile(NamedTuple):
    preset: str | None  # that it names
    changes: list[Change]


def read_settings(file: Path) -> SettingsFile:
    """What the file says; its values are not checked yet.

    Raises: UsageError naming the file and what in it is no setting."""
    found = _parsed(file)
    base = found.pop(BASE, None)
    if base is not None and not isinstance(base, str):
        raise UsageError(f"{file}: {BASE}: found {brief(base)}, must be the name of a preset")
    if base is not None and base not in PRESETS:
        raise UsageError(f"{file}: {unknown_name('preset', base, PRESETS)}")
    return SettingsFile(base, list(_changes(file, found)))


def _parsed(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UsageError(
            f"--config: {file} is not UTF-8 text: byte {error.start} is no part of it"
        ) from error
    except OSError as error:
        raise UsageError(f"--config: {file} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--config: {file} is not TOML: {error}") from error


def _changes(file: Path, found: dict[str, Any]) -> Iterator[Change]:
    for group, fields in found.items():
        if group not in GROUPS:
            raise UsageError(f"{file}: {unknown_name('group', group, [BASE, *GROUPS])}")
        if not isinstance(fields, dict):
            raise UsageError(
                f"{file}: {group}: found {brief(fields)}, write [{group}] and below it field = value"
            )
        for field, value in fields.items():
            yield Change(group, field, None if value == NONE else value, f"{file}: ")


def as_toml(config: Config, preset: str, title: str) -> str:
    """All settings with their descriptions; `read_settings` reads them back."""
    document = tomlkit.document()
    document.add(tomlkit.comment(title))
    document.add(BASE, tomlkit.item(preset))
    for name, group in groups(config).items():
        table: Table = tomlkit.table()
        for field, value in group.model_dump(mode="json").items():
            table.add(tomlkit.comment(type(group).model_fields[field].description or ""))
            table.add(field, NONE if value is None else value)
        document.add(tomlkit.nl())
        document.add(name, table)
    return tomlkit.dumps(document)


def schema() -> dict[str, Any]:
    """The JSON schema of such a file, by which editors complete and check it."""
    kinds: dict[str, Any] = {name: (type(group), group) for name, group in groups(Config()).items()}
    title = ConfigDict(extra="forbid", title="Settings of a Fathom run")
    found = _of_file(create_model("Settings", __config__=title, **kinds).model_json_schema())
    found["properties"] = {BASE: {"enum": list(PRESETS)}} | found["properties"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | found


def _of_file(part: Any) -> Any:
    """A schema with "none" in place of null, and without defaults: those are the preset's."""
    if isinstance(part, list):
        return [_of_file(each) for each in part]
    if not isinstance(part, dict):
        return part
    if part == {"type": "null"}:
        return {"const": NONE}
    return {key: _of_file(value) for key, value in part.items() if key != "default"}
