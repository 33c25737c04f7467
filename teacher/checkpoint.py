"""Saves that survive `kill -9`: everything a stage needs to go on exactly, written atomically.

DIRECTORY/STEP/state/         all arrays but the rows, through orbax
DIRECTORY/STEP/manifest.json  what belongs to this save, with the SHA-256 of every file; written last
DIRECTORY/rows/FROM-TO.npz    rows FROM to TO of an append-only ring, shared between saves
DIRECTORY/copies/FROM-TO.npz  the same again, where more than one save is kept

Rows never change once they are written, so a save stores only those that came since the one
before; a gigabyte of replay costs nothing to keep. As saves share them, the save before would be
no help where they are damaged: that is what the copies are for.
"""

import contextlib
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from teacher.errors import FathomError

FORMAT_VERSION = 3
MANIFEST, STATE, ROWS, COPIES = "manifest.json", "state", "rows", "copies"


class Damaged(FathomError):
    """There are saves, and none of them is whole."""


class Saved(NamedTuple):
    """A save as read back; `leaves` maps a leaf's path to its array."""

    step: int
    leaves: dict[str, np.ndarray]
    rows: dict[str, np.ndarray]
    record: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """Computes the SHA-256 of the leaves, equal for equal contents whenever they were saved."""
        digest = hashlib.sha256()
        for path, leaf in sorted(self.leaves.items()):
            digest.update(f"{path} {leaf.dtype} {leaf.shape}".encode())
            digest.update(np.ascontiguousarray(leaf).data)
        return digest.hexdigest()


def save(
    directory: Path,
    step: int,
    state: Any,
    *,
    record: dict[str, Any],
    rows: Any = (),
    written: int = 0,
    keep: int = 1,
) -> None:
    """Writes save number `step`, in place of one that is there, and drops all but the newest `keep`.

    Args: state: pytree of arrays; record: JSON to store along; rows: an append-only ring, a pytree of arrays
    [C, ...]; row i of those ever `written` lies in slot i mod C.
    Raises: FathomError if it cannot be written; earlier saves are then untouched."""
    rows = leaf_paths(rows)
    oldest = written - min((len(leaf) for leaf in rows.values()), default=0)
    partial = directory / f"{step}.partial"
    try:
        segments = [part for part in _segments_before(directory, step) if part["stop"] > oldest]
        start = max(segments[-1]["stop"] if segments else 0, oldest)
        with _removed_on_failure(partial):
            partial.mkdir(parents=True)
            if start < written:
                segments.append(_write_segment(directory, rows, start, written, copied=keep > 1))
            leaves = {path: np.asarray(_plain(leaf)) for path, leaf in leaf_paths(state).items()}
            with _checkpointer() as checkpointer:
                checkpointer.save(partial.absolute() / STATE, leaves)
            shapes = {path: [list(leaf.shape), str(leaf.dtype)] for path, leaf in rows.items()}
            manifest = {
                "format_version": FORMAT_VERSION,
                "record": record,
                "files": {str(f.relative_to(partial)): _sha256(f) for f in partial.rglob("*") if f.is_file()},
                "rows": {"written": written, "segments": segments, "leaves": shapes},
            }
            write_manifest(partial, manifest)
            _discard(directory / str(step))
            partial.rename(directory / str(step))
        _drop_old(directory, keep)
    except (OSError, ValueError) as error:
        raise FathomError(
            f"cannot save checkpoint {directory / str(step)}: {_reason(error)}; earlier saves are intact"
        ) from error


def load(directory: Path, *, rows: bool = True, step: int | None = None) -> Saved:
    """Reads the newest save that is whole, or the one numbered `step`; passes over a damaged one with a
    warning in the log.

    Args: rows: whether to read the rows too, which may be gigabytes.
    Raises: FathomError if there is none; Damaged, saying what is wrong with the newest, if none is whole."""
    if step is not None:
        return _load(directory, step, rows)
    problems: list[str] = []
    for found in saves(directory):
        try:
            saved = _load(directory, found, rows)
        except FathomError as error:
            problems.append(str(error))
            continue
        for problem in problems:
            logging.getLogger(__name__).warning("%s; going on from save %d", problem, found)
        return saved
    if not problems:
        raise FathomError(f"no checkpoint in {directory}")
    others = f", and none of the {len(problems) - 1} before is whole" if len(problems) > 1 else ""
    raise Damaged(problems[0] + others)


def rewind(directory: Path, step: int) -> None:
    """Removes the saves after `step`: a run that goes on from it must not build on what is damaged."""
    for later in saves(directory):
        if later > step:
            _discard(directory / str(later))


def saves(directory: Path) -> list[int]:
    """Returns the numbers of the finished saves, newest first."""
    if not directory.is_dir():
        return []
    return sorted((int(p.name) for p in directory.iterdir() if p.name.isdigit()), reverse=True)


def fill(template: Any, leaves: dict[str, np.ndarray], what: str) -> Any:
    """Puts saved leaves into the structure of `template`.

    Raises: FathomError naming the first leaf that is missing or of another shape or type."""
    filled = []
    for path, expected in leaf_paths(template).items():
        plain = jax.eval_shape(_plain, expected)
        found = leaves.get(path)
        if found is None:
            raise FathomError(
                f"{what} holds no {path}, which this configuration needs: another version may have saved it"
            )
        if (found.shape, found.dtype) != (plain.shape, plain.dtype):
            raise FathomError(
                f"{what}: {path} is {found.dtype}{list(found.shape)}, "
                f"this configuration needs {plain.dtype}{list(plain.shape)}"
            )
        # A copy of the device's own: the update reuses these buffers, NumPy's must not be.
        array = jnp.array(found, copy=True)
        is_key = jnp.issubdtype(expected.dtype, jax.dtypes.prng_key)
        filled.append(jax.random.wrap_key_data(array) if is_key else array)
    return jax.tree.unflatten(jax.tree.structure(template), filled)


def leaf_paths(tree: Any) -> dict[str, Any]:
    """Returns {path of a leaf: leaf}, in the tree's order."""
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def write_manifest(save: Path, manifest: dict[str, Any]) -> None:
    """Writes what a save says of itself, and a hash of that."""
    (save / MANIFEST).write_text(json.dumps(manifest | {"sha256": _content_sha256(manifest)}))


def _load(directory: Path, step: int, rows: bool) -> Saved:
    folder = directory / str(step)
    manifest = _read_manifest(folder)
    try:
        for name, expected in manifest["files"].items():
            _check_file(folder / name, expected)
        with _checkpointer() as checkpointer:
            leaves = checkpointer.restore(folder.absolute() / STATE)
        kept = _load_rows(directory, manifest["rows"]) if rows else {}
        return Saved(step, leaves, kept, manifest["record"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FathomError(f"checkpoint {folder} cannot be read: {_reason(error)}") from error


@contextlib.contextmanager
def _checkpointer() -> Iterator[ocp.Checkpointer]:
    """Makes one of this process alone: orbax would wait for all of a run's processes to take part."""
    own = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=own, active_processes={own}, barrier_sync_key_prefix=str(own)
    )
    log = logging.getLogger("absl")  # its threads log tracebacks of errors that it raises in ours as well
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
        with ocp.Checkpointer(handler, multiprocessing_options=alone) as checkpointer:
            yield checkpointer
    finally:
        log.setLevel(level)


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        found, expected = manifest["format_version"], manifest.pop("sha256", None)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FathomError(f"{folder / MANIFEST} cannot be read: {_reason(error)}") from error
    if found != FORMAT_VERSION:
        raise FathomError(
            f"checkpoint {folder} has format version {found}, this program reads {FORMAT_VERSION}"
        )
    if expected != _content_sha256(manifest):
        raise FathomError(f"checkpoint file {folder / MANIFEST} is damaged: its SHA-256 is not the one in it")
    return manifest


def _segments_before(directory: Path, step: int) -> list[dict[str, Any]]:
    """Returns the segments of the newest readable save before `step`."""
    earlier = (_segments(directory, number) for number in saves(directory) if number < step)
    return next(filter(None, earlier), [])


def _segments(directory: Path, step: int) -> list[dict[str, Any]]:
    """Returns the segments of rows that a save needs; none if it cannot be read."""
    with contextlib.suppress(FathomError):
        return _read_manifest(directory / str(step))["rows"]["segments"]
    return []


def _write_segment(
    directory: Path, rows: dict[str, Any], start: int, stop: int, *, copied: bool
) -> dict[str, Any]:
    """Writes rows `start` to `stop` of a ring's leaves; returns how a manifest describes them."""
    file = directory / ROWS / f"{start:012d}-{stop:012d}.npz"
    numbers = np.arange(start, stop)
    arrays: dict[str, Any] = {path: np.asarray(leaf[numbers % len(leaf)]) for path, leaf in rows.items()}
    with _appearing(file) as partial, partial.open("wb") as stream:
        np.savez(stream, **arrays)
    if copied:
        _copy(file, directory / COPIES / file.name)
    return {"file": file.name, "start": start, "stop": stop, "sha256": _sha256(file), "copied": copied}


def _load_rows(directory: Path, description: dict[str, Any]) -> dict[str, np.ndarray]:
    """Reads the ring's leaves, as a manifest describes them. Raises: FathomError naming a damaged file."""
    rows = {path: np.zeros(shape, dtype) for path, (shape, dtype) in description["leaves"].items()}
    for segment in description["segments"]:
        with np.load(_whole_segment(directory, segment)) as arrays:
            for path, ring in rows.items():
                first = max(segment["start"], description["written"] - len(ring))
                numbers = np.arange(first, segment["stop"])
                ring[numbers % len(ring)] = arrays[path][first - segment["start"] :]
    return rows


def _whole_segment(directory: Path, segment: dict[str, Any]) -> Path:
    """Returns a segment's file, made again from its copy if it is damaged, and the copy from it."""
    kept = [directory / folder / segment["file"] for folder in (ROWS, COPIES)[: 1 + segment["copied"]]]
    problems = {}
    for file in kept:
        try:
            _check_file(file, segment["sha256"])
        except FathomError as error:
            problems[file] = error
    whole = next((file for file in kept if file not in problems), None)
    if whole is None:
        raise problems[kept[0]]
    for file, problem in problems.items():
        with contextlib.suppress(OSError):  # on a disk that is full or read-only
            _copy(whole, file)
        logging.getLogger(__name__).warning("%s; %s holds the same", problem, whole)
    return whole


def _drop_old(directory: Path, keep: int) -> None:
    """Removes saves beyond `keep`, rows that no kept save names, and leftovers of killed runs."""
    kept, old = saves(directory)[:keep], saves(directory)[keep:]
    needed = {segment["file"] for step in kept for segment in _segments(directory, step)}
    for step in old:
        _discard(directory / str(step))
    folders = (directory / ROWS, directory / COPIES)
    for leftover in (found for folder in (directory, *folders) for found in folder.glob("*.partial")):
        _remove(leftover)
    for file in (found for folder in folders for found in folder.glob("*.npz")):
        if file.name not in needed:
            file.unlink()


def _plain(leaf: Any) -> Any:
    """Turns random keys into the integers behind them."""
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def _content_sha256(manifest: dict[str, Any]) -> str:
    content = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _check_file(file: Path, expected: str) -> None:
    if not file.is_file():
        raise FathomError(f"checkpoint file {file} is missing")
    if _sha256(file) != expected:
        raise FathomError(f"checkpoint file {file} is damaged: its SHA-256 is not the one recorded")


def _copy(file: Path, target: Path) -> None:
    with _appearing(target) as partial:
        shutil.copyfile(file, partial)


@contextlib.contextmanager
def _appearing(file: Path) -> Iterator[Path]:
    """Gives a name to write to; what is there becomes `file` in one step, whoever else writes it too."""
    file.parent.mkdir(exist_ok=True)
    partial = file.with_suffix(f".{os.getpid()}.partial")
    with _removed_on_failure(partial):
        yield partial
        partial.rename(file)


@contextlib.contextmanager
def _removed_on_failure(path: Path) -> Iterator[None]:
    """Clears what a killed run left at `path`, and what a failing one leaves."""
    _remove(path)
    try:
        yield
    except BaseException:
        _remove(path)
        raise


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _discard(save: Path) -> None:
    """Removes a save so that nobody ever sees half of it."""
    if save.exists():
        doomed = save.with_name(f"{save.name}.discarded.partial")
        _remove(doomed)
        save.rename(doomed)
        _remove(doomed)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return str(error).splitlines()[0] if str(error) else type(error).__name__
