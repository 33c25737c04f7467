"""The commands that make a run again."""

import json
import shlex

from pipelines.config import Config, differing, preset, validated
from pipelines.presets import DEFAULT, PRESETS
from pipelines.report.findings import Findings


def commands(findings: Findings) -> list[str]:
    """Shell commands. UsageError if the settings are not of this version of the program."""
    settings = findings.settings
    config = validated(settings["config"], stored=True)
    # A preset that exists no longer is spelt out on top of the default one.
    name = settings["preset"] if settings["preset"] in PRESETS else DEFAULT
    words = ["pipeline", "run", "--preset", name, "--seed", str(settings["seed"]), "--run", again(findings)]
    for assignment in assignments(preset(name), config):
        words += ["--set", assignment]
    return [shlex.join(words), *_control_elsewhere(findings, config)]


def again(findings: Findings) -> str:
    """A name for the new run: an existing one is never overwritten."""
    return f"{findings.name.replace('/', '-')}-again"


def assignments(old: Config, new: Config) -> list[str]:
    """`group.field=value` for every value of `new` that differs from `old`."""
    return [f"{field}={_written(value)}" for field, value in differing(old, new).items()]


def _control_elsewhere(findings: Findings, config: Config) -> list[str]:
    """The command for a controller that was run otherwise than the settings say."""
    size = findings.controlled
    if size is None:
        return []
    found, asked = findings.summary["control"][size], config.control
    # `pipeline run` controls every student, and without an engine in the one that the task chooses.
    if asked.engine in (None, found["engine"]) and found["episodes"] == asked.episodes:
        return []
    bundle = f"runs/{again(findings)}/export/{size}"
    words = ["pipeline", "control", bundle, "--engine", found["engine"], "--episodes", str(found["episodes"])]
    return [shlex.join(words)]


def _written(value: object) -> str:
    """A value so that `--set` reads it back: JSON, but for strings that are none."""
    if not isinstance(value, str):
        return json.dumps(value)
    try:
        json.loads(value)
    except json.JSONDecodeError:
        return json.dumps(value) if value.lower() == "none" else value
    return json.dumps(value)
