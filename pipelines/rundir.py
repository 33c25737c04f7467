"""A run is a directory: where its artifacts lie, and how they are written so that nothing is lost.

config.json      settings, seed and preset, there before the first step
versions.json    of the packages that compute
task/            of a task in a file: a copy of it, by which the run can be moved, and files.json, its hashes
summary.json     the figures of every finished stage
teacher/         checkpoints/, metrics.jsonl; of a maze distances.npz, the critic's beside the true ones;
                 policy.onnx in their place, if the teacher was not trained here
students/        checkpoints/, metrics.jsonl, SIZE/
export/SIZE/     bundles; beside each SIZE.npz, error and latency of every observation that it was verified on
control/SIZE/    recorded episodes; robot.npz, each step on a robot
watch/           films
report.html

Files of a run are its own: one that holds a link out of it, or what is neither file nor folder, is refused.
"""

import hashlib
import json
import platform
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import ValidationError

from pipelines.config import Config, brief, validated
from pipelines.files import (
    JSON,
    MENDED,
    following_no_link,
    locked,
    new_folder,
    parse_json,
    read_json,
    read_object,
    require_own_files,
    resolved,
    set_aside_if_damaged,
    waiting_lock,
    write_bytes,
    write_json,
    writing,
)
from pipelines.summary import Summary, problem
from teacher.errors import FathomError, UsageError

RUNS = Path("runs")
RECORDING, PICTURES = "recording.json", "episode-*.webp"  # in control/SIZE
DISTANCE_MAP = "distances.npz"  # in teacher/
ROBOT_LOG = "robot.npz"  # likewise
TASK, HASHES = "task", "files.json"
SWEEP = "sweep.json"  # what makes a directory of runs a sweep
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

    def __repr__(self) -> str:
        """Tells in one line what the run is of, and how far it has come."""
        try:
            score, size = self.figures.teacher and self.figures.teacher.time_at_goal, self.figures.selected
            told = "no teacher yet" if score is None else f"teacher {score:.3f} of its time at the goal"
            told += f"; student {size} selected" if size else ""
            return f"<Run {self.path}: {self.task}, preset {self.preset}, seed {self.seed}; {told}>"
        except Exception as error:  # one that raised here would hide what is being looked for
            return f"<Run {self.path}: cannot be read ({type(error).__name__})>"

    @property
    def all_runs(self) -> list["Run"]:
        """Itself, as a sweep has its runs."""
        return [self]

    @property
    def title(self) -> str:
        return f"{self.path}: {self.task}, preset {self.preset}"

    @property
    def checkpoints(self) -> Path:
        return self.path / "teacher" / "checkpoints"

    @property
    def policy_file(self) -> Path:
        """A teacher that was not trained here, if there is one."""
        return self.path / "teacher" / "policy.onnx"

    @property
    def students(self) -> Path:
        return self.path / "students"

    @property
    def bundles(self) -> Path:
        return self.path / "export"

    def parity(self, size: str) -> Path:
        """Columns of `action_error`, `distance_error` and `latency_us`: one row an observation."""
        return self.bundles / f"{size}.npz"

    @property
    def settings(self) -> JSON:
        """`seed`, `preset` and `config` as stored; FathomError if this is no run's file."""
        return _exactly(self.path / "config.json", "preset", "seed", "config")

    @property
    def config(self) -> Config:
        return self.changed or stored_config(self.settings, self.path / "config.json")

    @property
    def preset(self) -> str:
        return str(self.settings["preset"])

    @property
    def seed(self) -> int:
        return int(self.settings["seed"])

    @property
    def task(self) -> str:
        """The task's name as config.json holds it."""
        return self.config.teacher.task.name

    @property
    def summary(self) -> JSON:
        return self.figures.as_json()

    @property
    def figures(self) -> Summary:
        """The same with types: a figure that was not computed is None."""
        file = self.path / "summary.json"
        return _checked(file, read_object(file))

    def update_summary(self, values: JSON) -> None:
        """Merges `values` into summary.json, inner objects key by key, one process after the other."""
        with waiting_lock(self.path / ".summary.lock"):
            file = self.path / "summary.json"
            write_json(file, _checked(file, _merged(self.summary, values)).as_json())

    def mend_summary(self, say: Callable[[str], None]) -> None:
        """Sets a damaged summary.json aside; the stages that go on write their figures anew."""
        set_aside_if_damaged(self.path / "summary.json", say, lambda _: self.figures)

    def metrics(self, stage: str) -> list[JSON]:
        """Reads the stage's metrics.jsonl; a line that a killed run left unfinished is not among them."""
        file, found = self.path / stage / "metrics.jsonl", []
        for number, line in enumerate(_finished_lines(file), 1):
            try:
                found.append(parse_json(line))
            except ValueError as error:
                raise FathomError(f"{file} is damaged in line {number}: {error}; {MENDED}") from error
        return found

    def append_metrics(self, stage: str, line: JSON) -> None:
        file = self.path / stage / "metrics.jsonl"
        with writing(file, "; the last save is intact"), open(file, "a", opener=following_no_link) as stream:
            stream.write(json.dumps(line) + "\n")

    def rewind_metrics(self, stage: str, count: int, say: Callable[[str], None]) -> None:
        """Keeps the first `count` lines: those of the state that a resumed stage goes on from.

        Says how many of them are lost, if the file was damaged."""
        file, kept = self.path / stage / "metrics.jsonl", []
        for line in _finished_lines(file)[:count]:
            with suppress(ValueError):
                parse_json(line)
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

    def continue_stage(self, stage: str, say: Callable[[str], None]) -> None:
        """Writes what changed of its settings; says which packages are others than when it began."""
        self._write_changes(self.path, self.path / stage)
        now = versions()
        before = _versions_of(self.path / stage) or now
        differ = [
            f"{name} {before.get(name)} -> {now[name]}" for name in now if before.get(name) != now[name]
        ]
        if differ:
            say(f"other versions than at the start ({', '.join(differ)}): bits may differ")

    def _write_changes(self, *folders: Path) -> None:
        for file in (folder / "config.json" for folder in folders if self.changed is not None):
            write_json(file, read_json(file) | {"config": self.config.model_dump(mode="json")})

    def stage_seed(self, stage: str, asked: int | None, resume: bool) -> int:
        """Returns the seed of a stage: as asked for, as it was begun with where it goes on, or the run's."""
        file = self.path / stage / "config.json"
        if asked is not None or not (resume and file.exists()):
            return self.seed if asked is None else asked
        return int(read_json(file, "to go on with the seed of the run, remove it")["seed"])

    @property
    def versions(self) -> dict[str, str]:
        """Of the packages when the run was made; empty where they are not known."""
        return _versions_of(self.path)

    def kept_task(self) -> str:
        """Makes the task of the run's own copy of its file; returns the reference to it.

        Raises: FathomError if it keeps none, if that is not what was copied, or if it needs other files."""
        from teacher.tasks import make_task  # heavy, and seldom needed

        folder, (file, _, made) = self.path / TASK, self.task.rpartition(":")
        remedy = f"name the file with --task path/to/{Path(file).name}:{made}".removesuffix(":")
        hashes = read_json(folder / HASHES, remedy)
        for name in {*hashes, *(str(each.relative_to(folder)) for each in folder.rglob("*.py"))}:
            if not (folder / name).is_file() or _sha256(folder / name) != hashes.get(name):
                raise FathomError(f"{folder / name} is missing or was altered since it was copied; {remedy}")
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
    """Turns errors about values that this program does not write into one FathomError that names the run."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise FathomError(
            f"{' or '.join(map(str, paths))}: summary.json or another file there does not hold what this "
            f"program writes ({type(error).__name__}: {error}); without summary.json, its stages write it "
            "anew with --resume; --debug shows where it is read"
        ) from error


def require_run(given: object, function: str) -> None:
    """Raises UsageError that says how to get a run, if this is none."""
    if not isinstance(given, Run):
        is_path = isinstance(given, str | Path)
        found = f"the path {str(given)!r}" if is_path else type(given).__name__
        path = repr(str(given)) if is_path else "path"
        how = f"open_run({path}) opens one, new_run({path}, config) makes one"
        raise UsageError(f"{function} takes a run, found {found}: {how}")


def create_run(path: Path, config: Config, preset: str, seed: int, policy: bytes | None = None) -> Run:
    """Creates a run directory with its settings, a copy of the task's file and of what that imports, and the
    graph of a teacher that is not to be trained.

    Raises: UsageError if the path exists already."""
    from teacher.tasks import is_file, task_files  # heavy

    with new_folder(path) as partial:
        settings = {"preset": preset, "seed": seed, "config": config.model_dump(mode="json")}
        write_json(partial / "config.json", settings)
        write_json(partial / "versions.json", versions())
        hashes = {}
        name = config.teacher.task.name
        for relative, file in task_files(name).items() if is_file(name) else ():
            copy = partial / TASK / relative
            copy.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(copy, file.read_bytes())
            hashes[relative] = _sha256(copy)
        if policy is not None:
            kept = Run(partial).policy_file
            kept.parent.mkdir()
            write_bytes(kept, policy)
        if hashes:
            write_json(partial / TASK / HASHES, hashes)
    return Run(path)


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def open_run(name: str | Path | None) -> Run:
    """Opens the run of that path or name under runs/; without one, the only run there is.

    Raises: UsageError if there is no such run, or a choice between several."""
    known = sorted({*sweeps(), *(file.parent for file in RUNS.glob("*/config.json"))})
    if name is None:
        if len(known) != 1 or is_sweep(known[0]):
            listed = "".join(f"\n  {path}{' (a sweep)' if is_sweep(path) else ''}" for path in known)
            none = "there is no run yet: start with pipeline teacher"
            raise UsageError(f"name a run:{listed}" if known else none)
        name = known[0]
    if not isinstance(name, str | Path):
        raise UsageError(f"open_run takes the path or name of a run, found {type(name).__name__}")
    path = run_path(str(name))
    if is_sweep(path):
        listed = "".join(f"\n  {path / entry['run']}" for entry in sweep_settings(path)["runs"])
        raise UsageError(f"{path} is a sweep, not a run: name one of its runs{listed}")
    is_stage = (path.parent / "config.json").is_file()
    if is_stage or not (path / "config.json").is_file():
        listed = ", ".join(each.name for each in known) or "none"
        why = f"it is part of {path.parent}" if is_stage else "it has no config.json"
        raise UsageError(f"{path} is no run: {why} (runs here: {listed})")
    require_own_files(path)
    return Run(path)


def is_sweep(path: Path) -> bool:
    return (path / SWEEP).is_file()


def sweeps() -> list[Path]:
    return sorted(file.parent for file in RUNS.glob(f"*/{SWEEP}"))


def sweep_settings(path: Path) -> JSON:
    """Reads `preset`, `config`, `vary`, `seeds` and `runs` of a sweep; FathomError for anything else."""
    found = _exactly(path / SWEEP, "preset", "config", "vary", "seeds", "runs")
    require_own_files(path)
    for entry in found["runs"]:
        if not resolved(path / entry["run"]).is_relative_to(path.resolve()):
            raise FathomError(f"{path / SWEEP}: runs: {entry['run']!r} lies outside the sweep")
    return found


def _exactly(file: Path, *keys: str) -> JSON:
    """Reads a JSON object with these keys and no others; FathomError if it is none."""
    found = read_json(file)
    if not isinstance(found, dict) or found.keys() != set(keys):
        raise FathomError(f"{file} is no file of a run or sweep: it does not hold {', '.join(keys)} alone")
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


def _finished_lines(file: Path) -> list[bytes]:
    return file.read_bytes().split(b"\n")[:-1] if file.exists() else []


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that compute."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "missing"
    return found


def _versions_of(folder: Path) -> dict[str, str]:
    """Reads versions by package; empty where there is no such file."""
    file, remedy = folder / "versions.json", "it can be removed: the versions are then not known"
    found = read_json(file, remedy, dict) if file.exists() else {}
    return {name: str(each) for name, each in found.items()}


def stored_config(settings: JSON, file: Path) -> Config:
    """Makes a Config of the settings that this file holds; FathomError naming it for a bad value."""
    try:
        return validated(settings["config"], stored=True)
    except UsageError as error:
        raise FathomError(f"{file}: {error}") from error


def _checked(file: Path, values: JSON) -> Summary:
    """Returns a summary.json with types; FathomError naming the first figure that is not of the schema."""
    try:
        return Summary.model_validate(values)
    except ValidationError as error:
        raise FathomError(f"{file} is damaged: {problem(error)}; {MENDED}") from error


def _merged(old: JSON, new: JSON) -> JSON:
    result = dict(old)
    for key, value in new.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = _merged(result[key], value) if both else value
    return result
