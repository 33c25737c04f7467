"""A run is a directory: where its artifacts lie, and how they are written so that nothing is lost.

config.json      settings, seed and preset, there before the first step
versions.json    of the packages that compute
summary.json     the figures of every finished stage
teacher/         checkpoints/, metrics.jsonl
students/        checkpoints/, metrics.jsonl, SIZE/
export/SIZE/     bundles
control/SIZE/    recorded episodes; robot.npz, each step on a robot
watch/           films
report.html
"""

import fcntl
import json
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipelines.config import Config, brief, validated
from teacher.errors import FathomError, UsageError

RUNS = Path("runs")
STUDY = "study.json"  # the file that makes a directory of runs a study
RECORDING, STILLS = "recording.json", ("first.png", "last.png")  # in control/SIZE
ROBOT_LOG = "robot.npz"  # likewise
PACKAGES = (
    "fathom-rl",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "mujoco",
    "mujoco-mjx",
    "brax",
    "numpy",
    "jax2onnx",
    "onnx",
    "onnxruntime",
)


@dataclass(frozen=True)
class Run:
    """An existing run directory.

    `changed` holds other settings for stages still to come; a stage that takes them on writes them."""

    path: Path
    changed: Config | None = None

    @property
    def checkpoints(self) -> Path:
        return self.path / "teacher" / "checkpoints"

    @property
    def students(self) -> Path:
        return self.path / "students"

    @property
    def bundles(self) -> Path:
        return self.path / "export"

    @property
    def settings(self) -> dict[str, Any]:
        """`seed`, `preset` and `config` as they were written; FathomError if this is no run's file."""
        found = read_json(self.path / "config.json")
        if not isinstance(found, dict) or found.keys() != {"preset", "seed", "config"}:
            raise FathomError(f"{self.path} is no run: its config.json does not hold preset, seed and config")
        return found

    @property
    def config(self) -> Config:
        if self.changed is not None:
            return self.changed
        try:
            return validated(self.settings["config"])
        except UsageError as error:
            raise FathomError(f"{self.path / 'config.json'}: {error}") from error

    @property
    def seed(self) -> int:
        return self.settings["seed"]

    @property
    def summary(self) -> dict[str, Any]:
        file = self.path / "summary.json"
        return read_json(file) if file.exists() else {}

    def update_summary(self, values: dict[str, Any]) -> None:
        """Merges `values` into summary.json, inner objects key by key."""
        write_json(self.path / "summary.json", _merged(self.summary, values))

    def metrics(self, stage: str) -> list[dict[str, Any]]:
        """Lines of the stage's metrics.jsonl; one that a killed run left unfinished is not among them."""
        file = self.path / stage / "metrics.jsonl"
        if not file.exists():
            return []
        *whole, _ = file.read_text("utf-8").split("\n")
        try:
            return [json.loads(line) for line in whole]
        except ValueError as error:
            raise FathomError(f"{file} is damaged: {error}") from error

    def last_metrics(self, stage: str) -> dict[str, Any]:
        lines = self.metrics(stage)
        if not lines:
            raise FathomError(f"{self.path / stage / 'metrics.jsonl'} is missing or empty")
        return lines[-1]

    def append_metrics(self, stage: str, line: dict[str, Any]) -> None:
        file = self.path / stage / "metrics.jsonl"
        try:
            with file.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(line) + "\n")
        except OSError as error:
            raise FathomError(f"cannot write {file}: {error.strerror}; the last save is intact") from error

    def rewind_metrics(self, stage: str, count: int) -> None:
        """Keeps the first `count` lines: those of the state that a resumed stage goes on from."""
        lines = [json.dumps(line) + "\n" for line in self.metrics(stage)[:count]]
        write_text(self.path / stage / "metrics.jsonl", "".join(lines))

    def begin_stage(self, stage: str, source: str | None, seed: int) -> None:
        """Writes the stage's settings, seed, versions and the hash of what it is made from."""
        if self.changed is not None:
            settings = {**self.settings, "config": self.changed.model_dump(mode="json")}
            write_json(self.path / "config.json", settings)
        folder = self.path / stage
        folder.mkdir(exist_ok=True)
        write_json(folder / "config.json", {**self.settings, "seed": seed, "source_sha256": source})
        write_json(folder / "versions.json", versions())

    def begun_with(self, stage: str) -> dict[str, Any] | None:
        """What `begin_stage` wrote, if the stage has begun."""
        file = self.path / stage / "config.json"
        return read_json(file) if file.exists() else None

    def other_versions(self, stage: str) -> str:
        """Packages that the stage began with in other versions than today's, for people; may be empty."""
        before, now = read_json(self.path / stage / "versions.json"), versions()
        return ", ".join(
            f"{name} {before.get(name)} -> {v}" for name, v in now.items() if before.get(name) != v
        )

    def locked(self) -> AbstractContextManager[None]:
        """Holds the run for this process; FathomError if another one works in it."""
        return locked(self.path)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds a directory for this process; FathomError if another one works in it."""
    with (folder / ".lock").open("a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            raise FathomError(f"{folder} is in use by {stream.read() or 'another process'}") from None
        stream.truncate(0)
        stream.write(f"process {os.getpid()} on {platform.node()}")
        stream.flush()
        yield


def create_run(path: Path, config: Config, preset: str, seed: int) -> Run:
    """A new run directory with its settings; UsageError if the path exists already."""
    with new_folder(path) as partial:
        settings = {"preset": preset, "seed": seed, "config": config.model_dump(mode="json")}
        write_json(partial / "config.json", settings)
        write_json(partial / "versions.json", versions())
    return Run(path)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which then appears at `path` in one step; UsageError if that exists already."""
    if path.exists():
        raise UsageError(f"{path} exists and is never overwritten: add --resume, or name another --run")
    partial = path.with_name(f".{path.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        partial.rename(path)
    except OSError as error:
        raise FathomError(f"cannot create run {path}: {error.strerror}") from error


def open_run(name: str | None) -> Run:
    """The run of that path or name under runs/; without one, the only run there is.

    Raises: UsageError if there is no such run, or a choice between several."""
    known = sorted(file.parent for kind in ("config.json", STUDY) for file in RUNS.glob(f"*/{kind}"))
    if name is None:
        if len(known) == 1 and not is_study(known[0]):
            return Run(known[0])
        listed = "".join(f"\n  {path}{' (a study)' if is_study(path) else ''}" for path in known)
        raise UsageError(
            f"name a run:{listed}" if known else "there is no run yet: start with pipeline teacher"
        )
    path = run_path(name)
    if is_study(path):
        listed = "".join(f"\n  {path / entry['run']}" for entry in study_settings(path)["runs"])
        raise UsageError(f"{path} is a study, not a run: name one of its runs{listed}")
    is_stage = (path.parent / "config.json").is_file()
    if is_stage or not (path / "config.json").is_file():
        listed = ", ".join(p.name for p in known) or "none"
        why = f"it is part of {path.parent}" if is_stage else "it has no config.json"
        raise UsageError(f"{path} is no run: {why} (runs here: {listed})")
    return Run(path)


def is_study(path: Path) -> bool:
    return (path / STUDY).is_file()


def study_settings(path: Path) -> dict[str, Any]:
    """`preset`, `config`, `vary`, `seeds` and `runs` of a study; FathomError if its file holds others."""
    found = read_json(path / STUDY)
    if not isinstance(found, dict) or found.keys() != {"preset", "config", "vary", "seeds", "runs"}:
        raise FathomError(f"{path / STUDY} does not hold preset, config, vary, seeds and runs")
    return found


def run_path(name: str) -> Path:
    """`arm` -> runs/arm; anything with a separator, or that exists, is a path as it stands.

    A run of a study may be named without runs/ too. Raises: UsageError for what can be no path."""
    if not name.strip():
        raise UsageError(f"a run is named {name!r}: write its directory, or a name under {RUNS}/")
    path = Path(name)
    try:
        if path.exists() or path.is_absolute():
            return path
        return path if len(path.parts) > 1 and not (RUNS / path).exists() else RUNS / path
    except OSError as error:
        raise UsageError(f"no run can have that name: {error.strerror}: {brief(name)}") from error


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    return found | {package: version(package) for package in PACKAGES}


def read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise FathomError(f"{file} cannot be read: {error}") from error


def write_json(file: Path, value: Any) -> None:
    write_text(file, json.dumps(value, indent=2) + "\n")


def write_text(file: Path, text: str) -> None:
    """Replaces the file in one step, so that no reader ever finds half of it."""
    partial = file.with_name(f".{file.name}.partial")
    try:
        partial.write_text(text, "utf-8")
        partial.replace(file)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise FathomError(f"cannot write {file}: {error.strerror}") from error


def _merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    result = dict(old)
    for key, value in new.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = _merged(result[key], value) if both else value
    return result
