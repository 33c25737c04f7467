"""A run is a directory: where its artifacts lie, and how they are written so that nothing is lost.

config.json      settings, seed and preset, there before the first step
versions.json    of the packages that compute
task/            of a task in a file: a copy of it, by which the run can be moved, and files.json, its hashes
summary.json     the figures of every finished stage
teacher/         checkpoints/, metrics.jsonl; of a maze distances.npz, the critic's beside the true ones
students/        checkpoints/, metrics.jsonl, SIZE/
export/SIZE/     bundles; beside each SIZE.npz, error and latency of every observation that proved it
control/SIZE/    recorded episodes; robot.npz, each step on a robot
watch/           films
report.html

Files of a run are its own: one that holds a link out of it, or what is neither file nor folder, is refused.
"""

import fcntl
import hashlib
import json
import os
import platform
import pwd
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from io import BytesIO, FileIO
from pathlib import Path
from typing import Any, cast
from zipfile import BadZipFile

import numpy as np
from pydantic import ValidationError

from pipelines.config import Config, brief, validated
from pipelines.runtime import Interrupted
from pipelines.summary import Summary, problem
from teacher.errors import FathomError, UsageError

JSON = dict[str, Any]

RUNS = Path("runs")
RECORDING, PICTURES = "recording.json", "episode-*.webp"  # in control/SIZE
DISTANCE_MAP = "distances.npz"  # in teacher/
ROBOT_LOG = "robot.npz"  # likewise
TASK, HASHES = "task", "files.json"
MENDED = "the command that writes it mends it with --resume"
PACKAGES = (
    *("fathom-rl", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "mujoco", "mujoco-mjx", "brax"),
    *("numpy", "jax2onnx", "onnx", "onnxruntime"),
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

    def proof(self, size: str) -> Path:
        """Columns of `action_error`, `distance_error` and `latency_us`: one row an observation."""
        return self.bundles / f"{size}.npz"

    @property
    def settings(self) -> JSON:
        """`seed`, `preset` and `config` as they were written; FathomError if this is no run's file."""
        found = read_json(self.path / "config.json")
        if not isinstance(found, dict) or found.keys() != {"preset", "seed", "config"}:
            raise FathomError(f"{self.path} is no run: its config.json does not hold preset, seed and config")
        return found

    @property
    def config(self) -> Config:
        return self.changed or stored_config(self.settings, self.path / "config.json")

    @property
    def seed(self) -> int:
        return int(self.settings["seed"])

    @property
    def summary(self) -> JSON:
        return read_summary(self.path / "summary.json")

    def update_summary(self, values: JSON) -> None:
        """Merges `values` into summary.json, inner objects key by key, one process after the other."""
        with _opened(self.path / ".summary.lock") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            file = self.path / "summary.json"
            write_json(file, _checked_summary(file, _merged(self.summary, values)))

    def mend_summary(self, say: Callable[[str], None]) -> None:
        """Sets a damaged summary.json aside; the stages that go on write their figures anew."""
        set_aside_if_damaged(self.path / "summary.json", say, read_summary)

    def metrics(self, stage: str) -> list[JSON]:
        """Reads the stage's metrics.jsonl; a line that a killed run left unfinished is not among them."""
        found = []
        for number, line in enumerate(self._metrics_lines(stage), 1):
            try:
                found.append(_object(line))
            except ValueError as error:
                file = self.path / stage / "metrics.jsonl"
                raise FathomError(f"{file} is damaged in line {number}: {error}; {MENDED}") from error
        return found

    def _metrics_lines(self, stage: str) -> list[bytes]:
        """Finished lines as they stand."""
        file = self.path / stage / "metrics.jsonl"
        return file.read_bytes().split(b"\n")[:-1] if file.exists() else []

    def append_metrics(self, stage: str, line: JSON) -> None:
        file = self.path / stage / "metrics.jsonl"
        try:
            with open(file, "a", encoding="utf-8", opener=following_no_link) as stream:
                stream.write(json.dumps(line) + "\n")
        except OSError as error:
            raise FathomError(f"cannot write {file}: {error.strerror}; the last save is intact") from error

    def rewind_metrics(self, stage: str, count: int, say: Callable[[str], None]) -> None:
        """Keeps the first `count` lines: those of the state that a resumed stage goes on from.

        Says how many of them are lost, if the file was damaged."""
        file = self.path / stage / "metrics.jsonl"
        kept = []
        for line in self._metrics_lines(stage)[:count]:
            with suppress(ValueError):
                _object(line)
                kept.append(line)
        if lost := count - len(kept):
            say(f"{file} was damaged: {lost} of {count} lines are lost")
        write_bytes(file, b"".join(line + b"\n" for line in kept))

    def begin_stage(self, stage: str, source: str | None, seed: int) -> None:
        """Writes the stage's settings, seed, versions and the hash of what it is made from."""
        self._write_changes(self.path)
        folder = self.path / stage
        folder.mkdir(exist_ok=True)
        write_json(folder / "config.json", {**self.settings, "seed": seed, "source_sha256": source})
        write_json(folder / "versions.json", versions())

    def go_on(self, stage: str) -> None:
        """Writes what changed of the settings of a stage that is taken up again."""
        self._write_changes(self.path, self.path / stage)

    def _write_changes(self, *folders: Path) -> None:
        for file in (folder / "config.json" for folder in folders if self.changed is not None):
            write_json(file, read_json(file) | {"config": self.config.model_dump(mode="json")})

    def begun_with(self, stage: str) -> JSON | None:
        """Reads what `begin_stage` wrote, if the stage has begun."""
        file = self.path / stage / "config.json"
        return read_json(file, "to go on with the seed of the run, remove it") if file.exists() else None

    @property
    def versions(self) -> dict[str, str]:
        """Of the packages when the run was made; empty where they are not known."""
        file = self.path / "versions.json"
        return read_versions(file) if file.exists() else {}

    def other_versions(self, stage: str) -> str:
        """Packages that the stage began with in other versions than today's, for people; may be empty."""
        file, now = self.path / stage / "versions.json", versions()
        before = read_versions(file) if file.exists() else now
        pairs = {name: (before.get(name), version) for name, version in now.items()}
        return ", ".join(f"{name} {old} -> {new}" for name, (old, new) in pairs.items() if old != new)

    @property
    def is_there(self) -> bool:
        return (self.path / "config.json").is_file()

    @property
    def task(self) -> str:
        """The task's name as config.json holds it."""
        return self.config.teacher.task.name

    def kept_task(self) -> str:
        """Makes the task of the run's own copy of its file; returns the reference to it.

        Raises: FathomError if it keeps none, if that is not what was copied, or if it needs other files."""
        from teacher.tasks import make_task  # heavy, and seldom needed

        folder, (file, _, made) = self.path / TASK, self.task.rpartition(":")
        remedy = f"name the file with --task path/to/{Path(file).name}:{made}"
        hashes = read_json(folder / HASHES, remedy)
        for name, expected in hashes.items():
            if not (folder / name).is_file() or _sha256(folder / name) != expected:
                raise FathomError(f"{folder / name} is missing or was altered since it was copied; {remedy}")
        code = {name for name in hashes if name.endswith(".py")}
        if code != {str(each.relative_to(folder)) for each in folder.rglob("*.py")}:
            raise FathomError(f"{folder} holds other files than {HASHES} lists; {remedy}")
        kept = f"{folder / Path(file).name}:{made}"
        try:
            make_task(kept)
        except FathomError as error:
            raise FathomError(f"{error}; if the copy lacks a file that was not kept: {remedy}") from error
        return kept

    def keeps_other_task(self, reference: str) -> bool:
        """Says whether the run keeps a copy of its task file that is not the file of this reference."""
        copy = self.path / TASK / Path(self.task.rpartition(":")[0]).name
        file = Path(reference.rpartition(":")[0])
        return copy.is_file() and file.is_file() and copy.read_bytes() != file.read_bytes()

    def locked(self) -> AbstractContextManager[None]:
        """Holds the run for this process; FathomError if another one works in it."""
        return locked(self.path)


@contextmanager
def understood(*paths: Path) -> Iterator[None]:
    """Turns errors about values that this program does not write into one message.

    Raises: FathomError that names the run, and what to do."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        raise FathomError(
            f"{' or '.join(map(str, paths))}: summary.json or another file there does not hold what this "
            f"program writes ({reason}); without summary.json, its stages write it anew with --resume; "
            "--debug shows where it is read"
        ) from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds a directory for this process; FathomError, naming its owner, if another process holds it.

    Raises: Interrupted for a KeyboardInterrupt meanwhile; says how to go on."""
    with _opened(folder / ".lock") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            owner = stream.read().decode(errors="replace") or "another process"
            raise FathomError(f"{folder} is in use by {owner}") from None
        try:
            user = pwd.getpwuid(os.getuid()).pw_name
        except KeyError:  # in a container, whose users have no names
            user = f"user {os.getuid()}"
        now = datetime.now().astimezone().isoformat(" ", "seconds")
        try:
            stream.truncate(0)
            stream.write(f"process {os.getpid()} of {user} on {platform.node()}, since {now}".encode())
        except OSError as error:
            raise FathomError(f"cannot write {folder / '.lock'}: {error.strerror}") from error
        try:
            yield
        except KeyboardInterrupt:
            raise Interrupted(
                f"interrupted; what was finished is kept in {folder}: the same command with --resume goes on"
            ) from None


def _opened(file: Path) -> FileIO:
    """A file to hold a lock on, written and read without a buffer."""
    try:
        return cast(FileIO, open(file, "ab+", buffering=0, opener=following_no_link))
    except OSError as error:
        raise FathomError(f"cannot write {file}: {error.strerror}") from error


def create_run(path: Path, config: Config, preset: str, seed: int) -> Run:
    """Creates a run directory with its settings; UsageError if the path exists already."""
    with new_folder(path) as partial:
        settings = {"preset": preset, "seed": seed, "config": config.model_dump(mode="json")}
        write_json(partial / "config.json", settings)
        write_json(partial / "versions.json", versions())
        _keep_task(partial, config.teacher.task.name)
    return Run(path)


def _keep_task(folder: Path, name: str) -> None:
    """Copies the file of a task, and the modules beside it that it imported."""
    from teacher.tasks import is_file, task_files  # heavy, and seldom needed

    hashes = {}
    for relative, file in task_files(name).items() if is_file(name) else ():
        copy = folder / TASK / relative
        copy.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(copy, file.read_bytes())
        hashes[relative] = _sha256(copy)
    if hashes:
        write_json(folder / TASK / HASHES, hashes)


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def following_no_link(name: str, flags: int) -> int:
    """Opens a file for `open`; OSError where a link stands in place of a file to write."""
    return os.open(name, flags | os.O_NOFOLLOW, 0o666)


def require_own_files(path: Path) -> None:
    """Raises FathomError naming what in a run or sweep is a link out of it, or neither a file nor a folder.

    Whoever packed it may have put that there, to have files read or written elsewhere."""
    root = path.resolve()
    if root.parent.name == "baselines":  # whose teacher is that of the run around them
        root = root.parents[1]
    for folder, folders, files in os.walk(path.resolve()):
        for found in (Path(folder, name) for name in folders + files):
            with suppress(FileNotFoundError):  # of another process that works in the run
                kind = found.lstat().st_mode
                if stat.S_ISLNK(kind) and not _resolved(found).is_relative_to(root):
                    raise FathomError(f"{found} is a link out of {path}: remove it; nothing was opened")
                if stat.S_IFMT(kind) not in (stat.S_IFLNK, stat.S_IFREG, stat.S_IFDIR):
                    raise FathomError(f"{found} is no file and no folder: remove it; nothing was opened")


def _resolved(link: Path) -> Path:
    try:
        return link.resolve()
    except (OSError, RuntimeError):  # a circle
        return Path(link.anchor)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Gives a folder to fill, which then appears at `path` in one step; UsageError if that exists already."""
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
    """Opens the run of that path or name under runs/; without one, the only run there is.

    Raises: UsageError if there is no such run, or a choice between several."""
    known = sorted({*sweeps(), *(file.parent for file in RUNS.glob("*/config.json"))})
    if name is None:
        if len(known) == 1 and not is_sweep(known[0]):
            return open_run(str(known[0]))
        listed = "".join(f"\n  {path}{' (a sweep)' if is_sweep(path) else ''}" for path in known)
        raise UsageError(
            f"name a run:{listed}" if known else "there is no run yet: start with pipeline teacher"
        )
    path = run_path(name)
    if is_sweep(path):
        listed = "".join(f"\n  {path / entry['run']}" for entry in sweep_settings(path)["runs"])
        raise UsageError(f"{path} is a sweep, not a run: name one of its runs{listed}")
    is_stage = (path.parent / "config.json").is_file()
    if is_stage or not (path / "config.json").is_file():
        listed = ", ".join(p.name for p in known) or "none"
        why = f"it is part of {path.parent}" if is_stage else "it has no config.json"
        raise UsageError(f"{path} is no run: {why} (runs here: {listed})")
    require_own_files(path)
    return Run(path)


def is_sweep(path: Path) -> bool:
    return sweep_file(path).is_file()


def sweep_file(path: Path) -> Path:
    """Returns what makes a directory of runs a sweep: of one made by an earlier version, study.json."""
    earlier = path / "study.json"
    return earlier if earlier.is_file() else path / "sweep.json"


def sweeps() -> list[Path]:
    return sorted(path for path in RUNS.glob("*") if is_sweep(path))


def sweep_settings(path: Path) -> JSON:
    """Reads `preset`, `config`, `vary`, `seeds` and `runs` of a sweep; FathomError for anything else."""
    file = sweep_file(path)
    found = read_json(file)
    if not isinstance(found, dict) or found.keys() != {"preset", "config", "vary", "seeds", "runs"}:
        raise FathomError(f"{file} does not hold preset, config, vary, seeds and runs")
    require_own_files(path)
    for entry in found["runs"]:
        if not _resolved(path / entry["run"]).is_relative_to(path.resolve()):
            raise FathomError(f"{file}: runs: {entry['run']!r} lies outside the sweep")
    return found


def run_path(name: str) -> Path:
    """Returns runs/arm for `arm`; anything with a separator, or that exists, is a path as it stands.

    A run of a sweep may be named without runs/ too. Raises: UsageError for what can be no path."""
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


def read_json(file: Path, remedy: str | None = None) -> Any:
    """Reads a JSON file; FathomError if it cannot be read, which says what the remedy is."""
    try:
        return json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        advice = f"; {remedy}" if remedy else ""
        raise FathomError(f"{file} cannot be read: {error}{advice}") from error


def stored_config(settings: JSON, file: Path) -> Config:
    """Makes a Config of the settings that this file holds; FathomError naming it for a bad value."""
    try:
        return validated(settings["config"], stored=True)
    except UsageError as error:
        raise FathomError(f"{file}: {error}") from error


def read_versions(file: Path) -> dict[str, str]:
    """Reads versions by package; FathomError if the file holds none."""
    remedy = "it can be removed: the versions are then not known"
    found = read_json(file, remedy)
    if not isinstance(found, dict) or not all(isinstance(each, str) for each in found.values()):
        raise FathomError(f"{file} does not hold versions by package; {remedy}")
    return found


def read_object(file: Path) -> JSON:
    """Reads a JSON object that is made of other files; empty if it is not there yet."""
    try:
        return _object(file.read_bytes()) if file.exists() else {}
    except (OSError, ValueError) as error:
        raise FathomError(f"{file} cannot be read: {error}; {MENDED}") from error


def read_summary(file: Path) -> JSON:
    """Reads a summary.json; FathomError naming the first figure that is not of the schema."""
    return _checked_summary(file, read_object(file))


def _checked_summary(file: Path, values: JSON) -> JSON:
    try:
        return Summary.model_validate(values).model_dump(mode="json", exclude_unset=True)
    except ValidationError as error:
        raise FathomError(f"{file} is damaged: {problem(error)}; {MENDED}") from error


def set_aside_if_damaged(
    file: Path, say: Callable[[str], None], read: Callable[[Path], object] = read_object
) -> None:
    """Renames what cannot be read, so that it can be made anew and is not lost; says so."""
    try:
        read(file)
    except FathomError as error:
        aside = file.with_name(f"damaged-{file.name}")
        file.replace(aside)
        say(f"{error}; set aside as {aside.name}")


def _object(text: bytes) -> JSON:
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")
    return found


def write_json(file: Path, value: Any) -> None:
    write_text(file, json.dumps(value, indent=2) + "\n")


def write_text(file: Path, text: str) -> None:
    write_bytes(file, text.encode())


def write_bytes(file: Path, content: bytes) -> None:
    """Replaces the file in one step, so that no reader ever finds half of it."""
    partial = file.with_name(f".{file.name}.partial")
    try:
        with open(partial, "wb", opener=following_no_link) as stream:
            stream.write(content)
        partial.replace(file)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise FathomError(f"cannot write {file}: {error.strerror}") from error


def write_columns(file: Path, **columns: np.ndarray) -> None:
    """Replaces the .npz in one step, as `write_text` does."""
    stream = BytesIO()
    np.savez_compressed(stream, **columns)  # type: ignore[arg-type]  # none is called allow_pickle
    write_bytes(file, stream.getvalue())


def read_columns(file: Path) -> dict[str, np.ndarray]:
    """Reads an .npz; empty if there is none, another process is writing it, or it was damaged."""
    try:
        with np.load(file) as columns:
            return dict(columns)
    except (OSError, ValueError, BadZipFile):
        return {}


def _merged(old: JSON, new: JSON) -> JSON:
    result = dict(old)
    for key, value in new.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = _merged(result[key], value) if both else value
    return result
