"""All settings of a preset or a run, with what each of them is."""

from typing import Any, NamedTuple

from rich.table import Column, Table
from rich.text import Text

from pipelines.config import Config, groups
from pipelines.presets import PRESETS, preset
from pipelines.rundir import Run
from pipelines.settings_file import as_toml

JSON = dict[str, Any]


class Shown(NamedTuple):
    """Settings, and whose they are."""

    title: str
    preset: str  # that they are, or were made from
    config: Config


def of_preset(name: str) -> Shown:
    """UsageError if there is none of that name."""
    config = preset(name)
    return Shown(f"preset {name}: {PRESETS[name][0]}", name, config)


def of_run(run: Run) -> Shown:
    settings = run.settings
    title = f"run {run.path}: made from preset {settings['preset']}, seed {settings['seed']}"
    return Shown(title, settings["preset"], run.config)


def toml(shown: Shown) -> str:
    return as_toml(shown.config, shown.preset, shown.title)


def described(shown: Shown) -> JSON:
    """`title`, `preset`, and under `settings` each group's fields: `value`, `default`, `description`."""
    usual = groups(Config())
    settings = {
        name: {
            field: {
                "value": value,
                "default": usual[name].model_dump(mode="json")[field],
                "description": type(group).model_fields[field].description,
            }
            for field, value in group.model_dump(mode="json").items()
        }
        for name, group in groups(shown.config).items()
    }
    return {"title": shown.title, "preset": shown.preset, "settings": settings}


def table(figures: JSON) -> Table:
    """What `described` gives; values other than the default are bold, with the default below."""
    columns = Column("setting", no_wrap=True), Column("value", max_width=28), "what it is"
    rows = Table(*columns, title=figures["title"], title_justify="left")
    for group, fields in figures["settings"].items():
        for field, entry in fields.items():
            value = Text(_written(entry["value"]))
            if entry["value"] != entry["default"]:
                value.stylize("bold")
                value.append(f"\ndefault {_written(entry['default'])}", "not bold dim")
            rows.add_row(f"{group}.{field}", value, entry["description"])
        rows.add_section()
    rows.caption = "bold: not as by default"
    return rows


def _written(value: Any) -> str:
    if value is None:
        return "none"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
