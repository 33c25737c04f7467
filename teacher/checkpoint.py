"""Saves that survive `kill -9`: everything a stage needs to go on exactly, written atomically.

DIRECTORY/STEP/state/       all arrays but the rows, through orbax
DIRECTORY/STEP/manifest.json  what belongs to this save, with a hash of every file; written last
DIRECTORY/rows/FROM-TO.npz    rows FROM to TO of an append-only ring, shared between saves

Rows never change once they are written, so a save stores only those that came since the one
before; a gigabyte of replay costs nothing to keep.
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

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
ROWS = "rows"


class Ring(NamedTuple):
    """An append-only ring: row i of `rows` lies in slot i mod C of every leaf's first axis."""

    rows: Any  # pytree of arrays [C, ...]
    written: int  # rows ever written


class Saved(NamedTuple):
    """A save as read back; `leaves` maps a leaf's path to its array."""

    step: int
    leaves: dict[str, np.ndarray]
    rows: dict[str, np.ndarray]
    record: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the leaves: equal for equal contents, whenever and however often they were saved."""
        digest = hashlib.sha256()
        for path, leaf in sorted(self.leaves.items()):
            digest.update(f"{path} {leaf.dtype} {leaf.shape}".encode())
            digest.update(np.ascontiguousarray(leaf).tobytes())
        return digest.hexdigest()


def save(
    directory: Path,
    step: int,
    state: Any,
    *,
    record: dict[str, Any],
    ring: Ring | None = None,
    keep: int = 1,
) -> None:
    """Writes save number `step` and drops all but the newest `keep`.

    Args: state: pytree of arrays; record: JSON to store along; ring: rows kept beside the state.
    Raises: FathomError if it cannot be written; earlier saves are then untouched."""
    try:
        _save(directory, step, state, record, ring or Ring(None, 0), keep)
    except (OSError, ValueError) as error:
        raise FathomError(
            f"cannot save checkpoint {directory / str(step)}: {_reason(error)}; earlier saves are intact"
        ) from error


def _save(directory: Path, step: int, state: Any, record: dict[str, Any], ring: Ring, keep: int) -> None:
    leaves = {path: np.asarray(_plain(leaf)) for path, leaf in leaf_paths(state).items()}
    rows = leaf_paths(ring.rows)
    capacity = len(next(iter(rows.values()))) if rows else 0
    segments = [s for s in _segments_before(directory, step) if s["stop"] > ring.written - capacity]
    start = max(segments[-1]["stop"] if segments else 0, ring.written - capacity, 0)
    partial = directory / f"{step}.partial"
    with _removed_on_failure(partial):
        partial.mkdir(parents=True)
        if start < ring.written:
            segments.append(_write_segment(directory, rows, start, ring.written))
        with _quiet_orbax(), _checkpointer() as checkpointer:
            checkpointer.save(partial.absolute() / "state", leaves)
        manifest = {
            "format_version": FORMAT_VERSION,
            "step": step,
            "record": record,
            "leaves": {path: [list(leaf.shape), str(leaf.dtype)] for path, leaf in leaves.items()},
            "files": {str(file.relative_to(partial)): sha256(file) for file in _files(partial)},
            "rows": {
                "written": ring.written,
                "segments": segments,
                "leaves": {path: [list(leaf.shape), str(leaf.dtype)] for path, leaf in rows.items()},
            },
        }
        (partial / MANIFEST).write_text(json.dumps(manifest))
        _remove(directory / str(step))
        partial.rename(directory / str(step))
    _drop_old(directory, keep)


def load(directory: Path, *, rows: bool = True, step: int | None = None) -> Saved:
    """The newest save that is whole, or the one numbered `step`; a damaged one is passed over with a
    warning in the log.

    Args: rows: whether to read the rows too, which may be gigabytes.
    Raises: FathomError if there is none, naming what is wrong with the newest."""
    if step is not None:
        return _load(directory, step, rows)
    problems = []
    for found in saves(directory):
        try:
            saved = _load(directory, found, rows)
        except FathomError as error:
            problems.append(str(error))
            continue
        for problem in problems:
            logging.getLogger(__name__).warning("%s; going on from save %d", problem, found)
        return saved
    raise FathomError(problems[0] if problems else f"no checkpoint in {directory}")


def rewind(directory: Path, step: int) -> None:
    """Removes the saves after `step`: a run that goes on from it must not build on what is damaged."""
    for later in saves(directory):
        if later > step:
            _remove(directory / str(later))


def saves(directory: Path) -> list[int]:
    """Numbers of the finished saves, newest first."""
    if not directory.is_dir():
        return []
    return sorted((int(p.name) for p in directory.iterdir() if p.name.isdigit()), reverse=True)


def _load(directory: Path, step: int, rows: bool) -> Saved:
    folder = directory / str(step)
    manifest = _read_manifest(folder)
    try:
        for name, expected in manifest["files"].items():
            _check_file(folder / name, expected)
        with _checkpointer() as checkpointer:
            leaves = checkpointer.restore(folder.absolute() / "state")
        kept = _load_rows(directory, manifest["rows"]) if rows else {}
        return Saved(step, leaves, kept, manifest["record"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FathomError(f"checkpoint {folder} cannot be read: {_reason(error)}") from error


def _load_rows(directory: Path, description: dict[str, Any]) -> dict[str, np.ndarray]:
    rows = {path: np.zeros(shape, dtype) for path, (shape, dtype) in description["leaves"].items()}
    for segment in description["segments"]:
        file = directory / ROWS / segment["file"]
        _check_file(file, segment["sha256"])
        with np.load(file) as arrays:
            for path, ring in rows.items():
                capacity = len(ring)
                first = max(segment["start"], description["written"] - capacity)
                numbers = np.arange(first, segment["stop"])
                ring[numbers % capacity] = arrays[path][first - segment["start"] :]
    return rows


def fill(template: Any, leaves: dict[str, np.ndarray], what: str) -> Any:
    """Puts saved leaves into the structure of `template`.

    Raises: FathomError naming the first leaf that is missing or of another shape or type."""
    filled = []
    for path, expected in leaf_paths(template).items():
        plain = jax.eval_shape(_plain, expected)
        found = leaves.get(path)
        if found is None:
            raise FathomError(f"{what} holds no {path}, which this configuration needs")
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
    """{path of a leaf: leaf}, in the tree's order."""
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _plain(leaf: Any) -> Any:
    """Random keys as the integers behind them."""
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def _write_segment(directory: Path, rows: dict[str, Any], start: int, stop: int) -> dict[str, Any]:
    folder = directory / ROWS
    folder.mkdir(exist_ok=True)
    file = folder / f"{start:012d}-{stop:012d}.npz"
    partial = file.with_suffix(".partial")
    slots = {path: np.arange(start, stop) % len(leaf) for path, leaf in rows.items()}
    with _removed_on_failure(partial), partial.open("wb") as stream:
        arrays: dict[str, Any] = {path: np.asarray(leaf[slots[path]]) for path, leaf in rows.items()}
        np.savez(stream, **arrays)
    partial.rename(file)
    return {"file": file.name, "start": start, "stop": stop, "sha256": sha256(file)}


def _segments_before(directory: Path, step: int) -> list[dict[str, Any]]:
    """The segments of the newest readable save before `step`."""
    for earlier in saves(directory):
        if earlier < step:
            with contextlib.suppress(FathomError):
                return _read_manifest(directory / str(earlier))["rows"]["segments"]
    return []


def _drop_old(directory: Path, keep: int) -> None:
    """Removes saves beyond `keep`, rows that no kept save names, and leftovers of killed runs."""
    kept = saves(directory)[:keep]
    needed = set()
    for step in kept:
        with contextlib.suppress(FathomError):
            segments = _read_manifest(directory / str(step))["rows"]["segments"]
            needed |= {segment["file"] for segment in segments}
    for step in saves(directory)[keep:]:
        _remove(directory / str(step))
    for leftover in [*directory.glob("*.partial"), *(directory / ROWS).glob("*.partial")]:
        _remove(leftover)
    for file in (directory / ROWS).glob("*.npz"):
        if file.name not in needed:
            file.unlink()


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        found = manifest["format_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FathomError(f"{folder / MANIFEST} cannot be read: {_reason(error)}") from error
    if found != FORMAT_VERSION:
        raise FathomError(
            f"checkpoint {folder} has format version {found}, this program reads {FORMAT_VERSION}"
        )
    return manifest


def _check_file(file: Path, expected: str) -> None:
    if not file.is_file():
        raise FathomError(f"checkpoint file {file} is missing")
    if sha256(file) != expected:
        raise FathomError(f"checkpoint file {file} is damaged: its SHA-256 is not the one recorded")


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []


def _checkpointer() -> ocp.Checkpointer:
    """Of this process alone: orbax would wait for all of a run's processes to take part."""
    own = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=own, active_processes={own}, barrier_sync_key_prefix=str(own)
    )
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


@contextlib.contextmanager
def _quiet_orbax() -> Iterator[None]:
    """Its threads log tracebacks of errors that it raises in ours as well."""
    log = logging.getLogger("absl")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        log.setLevel(level)


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


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return str(error).splitlines()[0] if str(error) else type(error).__name__
