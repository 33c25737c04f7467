"""Settings as a command line asks for them: a preset, a file on top of it, --set on top of both."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from pipelines.config import Change, Config, brief, changed, differing, parsed
from pipelines.presets import DEFAULT
from pipelines.presets import preset as settings_of
from pipelines.progress import Display
from pipelines.rundir import Run
from pipelines.settings_file import SettingsFile, read_settings
from teacher.errors import UsageError
from teacher.tasks import execute, is_file


@dataclass(frozen=True)
class Request:
    """What was asked for; a value is checked when it is put `on` settings."""

    preset: str | None = None  # as --preset or the file names it
    of_file: tuple[Change, ...] = ()
    assigned: tuple[Change, ...] = ()  # by --set and the options that stand for it

    @property
    def base(self) -> str:
        return self.preset or DEFAULT

    @property
    def config(self) -> Config:
        """The settings of a new run."""
        return self.on(settings_of(self.base))

    def on(self, config: Config) -> Config:
        """A copy with what was asked for; UsageError naming field, value, what is allowed, and the file."""
        return changed(config, [*self.of_file, *self.assigned])

    def different(self, config: Config, allowed: tuple[str, ...] = ()) -> str:
        """What is asked for that `config` has otherwise, for messages; empty if nothing, or the allowed."""
        after = self.on(config)
        old, new = differing(after, config), differing(config, after)
        told = [f"{field} is {brief(old[field])} there, not {brief(new[field])}" for field in new]
        if set(new) <= set(allowed):
            return ""
        return f"{', '.join(told)}; resume without {self.options}, or name another --run"

    @property
    def options(self) -> str:
        """Those that change settings, for messages."""
        given = {"--config": self.of_file, "--set": self.assigned}
        return " and ".join(option for option, changes in given.items() if changes) or "--set"


def requested(preset: str | None, file: Path | None, set_: list[str] | None, **own: str | None) -> Request:
    """A request from options; `own` are fields that have an option of their own, with __ for the dot.

    Raises: UsageError naming what cannot be read, is unknown or is given twice."""
    given = {field.replace("__", "."): value for field, value in own.items() if value is not None}
    assigned = parsed([*(set_ or []), *(f"{field}={value}" for field, value in given.items())])
    if preset is not None:
        settings_of(preset)
    found = SettingsFile(None, []) if file is None else read_settings(file)
    if None not in (preset, found.preset) and preset != found.preset:
        raise UsageError(f"two presets are named: --preset {preset}, and {found.preset} in {file}")
    return Request(preset or found.preset, tuple(found.changes), tuple(assigned))


def stand_for(runs: Iterable[Run], task: str | None, trust: bool) -> None:
    """Lets the runs' task be executed if it is code in a file: that of `task`, or with `trust` their copy.

    Raises: UsageError if both are given, or if the task is in no file."""
    if task is not None and trust:
        raise UsageError(f"--task {task} and --trust are both given: leave out one of them")
    for run in runs if task is not None or trust else ():
        if is_file(run.task):
            chosen = run.kept_task() if task is None else task
            execute(chosen, run.task)
            Display().say(f"the task is the code in {chosen}")
            if task is not None and run.keeps_other_task(task):
                Display().warn(f"{task} is not the code that {run.path} began with: results may differ")
        elif task not in (None, run.task):
            raise UsageError(f"--task {task}: {run.path} is of the task {run.task}")


def stood_for(asked: Request, runs: Iterable[Run], trust: bool) -> Request:
    """As `stand_for`; returns what else is asked of runs to resume, whose task file may lie elsewhere now."""
    task = next((str(each.value) for each in asked.assigned if each.name == "task.name"), None)
    runs = list(runs)
    if not trust and (task is None or not is_file(task) or not all(is_file(run.task) for run in runs)):
        return asked
    stand_for(runs, task, trust)
    return replace(asked, assigned=tuple(each for each in asked.assigned if each.name != "task.name"))
