"""Saves that survive `kill -9`: everything a stage needs to go on exactly, written atomically.

DIRECTORY/STEP/state/       all arrays but the rows, through orbax
DIRECTORY/STEP/manifest.json  what belongs to this save, with a hash of every file and array; written last
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
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from teacher.errors import FathomError
from teacher.segments import (
    COPIES,
    ROWS,
    Ring,
    check_file,
    load_rows,
    remove,
    removed_on_failure,
    sha256,
    stored,
    write_segment,
)

FORMAT_VERSION = 3
MANIFEST = "manifest.json"


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
        """SHA-256 of the leaves: equal for equal contents, whenever and however often they were saved."""
        digest = hashlib.sha256()
        for path, leaf in sorted(self.leaves.items()):
            digest.update(f"{path} {leaf.dtype} {leaf.shape}".encode())
            digest.update(_bytes(leaf))
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
    """Writes save number `step`, unless it is there, and drops all but the newest `keep`.

    Args: state: pytree of arrays; record: JSON to store along; ring: rows kept beside the state.
    Raises: FathomError if it cannot be written; earlier saves are then untouched."""
    try:
        leaves = {path: np.asarray(_plain(leaf)) for path, leaf in leaf_paths(state).items()}
        if not _is_saved(directory, step, leaves, record):
            _save(directory, step, leaves, record, ring or Ring(None, 0), keep)
        _drop_old(directory, keep)
    except (OSError, ValueError) as error:
        raise FathomError(
            f"cannot save checkpoint {directory / str(step)}: {_reason(error)}; earlier saves are intact"
        ) from error


def _is_saved(directory: Path, step: int, leaves: dict[str, np.ndarray], record: dict[str, Any]) -> bool:
    if not (directory / str(step)).exists():
        return False
    try:
        found = _load(directory, step, rows=True)
    except FathomError:
        return False
    return found.record == record and found.fingerprint == Saved(step, leaves, {}, record).fingerprint


def _save(
    directory: Path, step: int, leaves: dict[str, np.ndarray], record: dict[str, Any], ring: Ring, keep: int
) -> None:
    rows = leaf_paths(ring.rows)
    capacity = len(next(iter(rows.values()))) if rows else 0
    segments = [s for s in _segments_before(directory, step) if s["stop"] > ring.written - capacity]
    start = max(segments[-1]["stop"] if segments else 0, ring.written - capacity, 0)
    partial = directory / f"{step}.partial"
    with removed_on_failure(partial):
        partial.mkdir(parents=True)
        if start < ring.written:
            segments.append(write_segment(directory, rows, start, ring.written, copied=keep > 1))
        with _quiet_orbax(), _checkpointer() as checkpointer:
            checkpointer.save(partial.absolute() / "state", leaves)
        manifest = {
            "format_version": FORMAT_VERSION,
            "step": step,
            "record": record,
            "leaves": {
                path: [list(leaf.shape), str(leaf.dtype), hashlib.sha256(_bytes(leaf)).hexdigest()]
                for path, leaf in leaves.items()
            },
            "files": {str(f.relative_to(partial)): sha256(f) for f in partial.rglob("*") if f.is_file()},
            "rows": {
                "written": ring.written,
                "segments": segments,
                "leaves": {path: [list(leaf.shape), str(leaf.dtype)] for path, leaf in rows.items()},
            },
        }
        write_manifest(partial, manifest)
        _discard(directory / str(step))
        partial.rename(directory / str(step))


def load(directory: Path, *, rows: bool = True, step: int | None = None) -> Saved:
    """Reads the newest save that is whole, or the one numbered `step`; passes over a damaged one with a
    warning in the log.

    Args: rows: whether to read the rows too, which may be gigabytes.
    Raises: FathomError if there is none; Damaged, saying what is wrong with the newest, if none is whole."""
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
    """Numbers of the finished saves, newest first."""
    if not directory.is_dir():
        return []
    return sorted((int(p.name) for p in directory.iterdir() if p.name.isdigit()), reverse=True)


def _load(directory: Path, step: int, rows: bool) -> Saved:
    folder = directory / str(step)
    manifest = _read_manifest(folder)
    try:
        for name, expected in manifest["files"].items():
            check_file(folder / name, expected)
        with _checkpointer() as checkpointer:
            leaves = checkpointer.restore(folder.absolute() / "state")
        for path, (*_, expected) in manifest["leaves"].items():
            if hashlib.sha256(_bytes(leaves[path])).hexdigest() != expected:
                raise FathomError(f"checkpoint {folder}: array {path} is damaged")
        kept = load_rows(directory, manifest["rows"]) if rows else {}
        return Saved(step, leaves, kept, manifest["record"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FathomError(f"checkpoint {folder} cannot be read: {_reason(error)}") from error


def fill(template: Any, leaves: dict[str, np.ndarray], what: str) -> Any:
    """Puts saved leaves into the structure of `template`, those of renamed fields too.

    Raises: FathomError naming the first leaf that is missing or of another shape or type."""
    filled = []
    for path, expected in leaf_paths(template).items():
        plain = jax.eval_shape(_plain, expected)
        found = stored(leaves, path)
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


def _plain(leaf: Any) -> Any:
    """Random keys as the integers behind them."""
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


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
        _discard(directory / str(step))
    folders = (directory / ROWS, directory / COPIES)
    for leftover in (found for folder in (directory, *folders) for found in folder.glob("*.partial")):
        remove(leftover)
    for file in (found for folder in folders for found in folder.glob("*.npz")):
        if file.name not in needed:
            file.unlink()


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


def write_manifest(save: Path, manifest: dict[str, Any]) -> None:
    """Writes what a save says of itself, and a hash of that."""
    (save / MANIFEST).write_text(json.dumps(manifest | {"sha256": _content_sha256(manifest)}))


def _content_sha256(manifest: dict[str, Any]) -> str:
    content = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _bytes(leaf: np.ndarray) -> memoryview:
    """Of any type, bfloat16 too; not copied."""
    return np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data


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


def _discard(save: Path) -> None:
    """Removes a save so that nobody ever sees half of it."""
    if save.exists():
        doomed = save.with_name(f"{save.name}.discarded.partial")
        remove(doomed)
        save.rename(doomed)
        remove(doomed)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return str(error).splitlines()[0] if str(error) else type(error).__name__
