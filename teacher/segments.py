"""Rows of an append-only ring in files that never change: each holds those that came since the one before.

DIRECTORY/rows/FROM-TO.npz    rows FROM to TO
DIRECTORY/copies/FROM-TO.npz  the same again, where that is asked for
"""

import contextlib
import functools
import hashlib
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from teacher.errors import FathomError

ROWS, COPIES = "rows", "copies"
# Parts of leaves' paths, and what older saves call them.
RENAMED = (("log_temperature", "log_entropy_weight"), ("achieved_goal", "outcome"))


class Ring(NamedTuple):
    """An append-only ring: row i of `rows` lies in slot i mod C of every leaf's first axis."""

    rows: Any  # pytree of arrays [C, ...]
    written: int  # rows ever written


def write_segment(
    directory: Path, rows: dict[str, Any], start: int, stop: int, *, copied: bool
) -> dict[str, Any]:
    """Writes rows `start` to `stop` of a ring's leaves; returns how a manifest describes them."""
    file = directory / ROWS / f"{start:012d}-{stop:012d}.npz"
    slots = {path: np.arange(start, stop) % len(leaf) for path, leaf in rows.items()}
    with _appearing(file) as partial, partial.open("wb") as stream:
        arrays: dict[str, Any] = {path: np.asarray(leaf[slots[path]]) for path, leaf in rows.items()}
        np.savez(stream, **arrays)
    if copied:
        _copy(file, directory / COPIES / file.name)
    return {"file": file.name, "start": start, "stop": stop, "sha256": sha256(file), "copied": copied}


def _copy(file: Path, target: Path) -> None:
    with _appearing(target) as partial:
        shutil.copyfile(file, partial)


@contextlib.contextmanager
def _appearing(file: Path) -> Iterator[Path]:
    """A name to write to; what is there becomes `file` in one step. Several processes may do so at once."""
    file.parent.mkdir(exist_ok=True)
    partial = file.with_suffix(f".{os.getpid()}.partial")
    with removed_on_failure(partial):
        yield partial
        partial.rename(file)


def load_rows(directory: Path, description: dict[str, Any]) -> dict[str, np.ndarray]:
    """Reads the ring's leaves, as a manifest describes them. Raises: FathomError naming a damaged file."""
    rows = {path: np.zeros(shape, dtype) for path, (shape, dtype) in description["leaves"].items()}
    for segment in description["segments"]:
        with np.load(_whole_segment(directory, segment)) as arrays:
            for path, ring in rows.items():
                capacity = len(ring)
                first = max(segment["start"], description["written"] - capacity)
                numbers = np.arange(first, segment["stop"])
                ring[numbers % capacity] = stored(arrays, path)[first - segment["start"] :]
    return rows


def stored(arrays: Mapping[str, Any], path: str) -> Any:
    """The array of that path, or of the path that it had in older saves; None if there is neither."""
    older = functools.reduce(lambda name, renamed: name.replace(*renamed), RENAMED, path)
    return arrays.get(path, arrays.get(older))


def _whole_segment(directory: Path, segment: dict[str, Any]) -> Path:
    """The file of a segment, made again from its copy if it is damaged, and the copy from it."""
    kept = [directory / folder / segment["file"] for folder in (ROWS, COPIES)[: 1 + segment["copied"]]]
    problems = {}
    for file in kept:
        try:
            check_file(file, segment["sha256"])
        except FathomError as error:
            problems[file] = str(error)
    whole = next((file for file in kept if file not in problems), None)
    if whole is None:
        raise FathomError(problems[kept[0]])
    for file, problem in problems.items():
        with contextlib.suppress(OSError):  # on a disk that is full or read-only
            _copy(whole, file)
        logging.getLogger(__name__).warning("%s; %s holds the same", problem, whole)
    return whole


def check_file(file: Path, expected: str) -> None:
    if not file.is_file():
        raise FathomError(f"checkpoint file {file} is missing")
    if sha256(file) != expected:
        raise FathomError(f"checkpoint file {file} is damaged: its SHA-256 is not the one recorded")


def sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def removed_on_failure(path: Path) -> Iterator[None]:
    """Clears what a killed run left at `path`, and what a failing one leaves."""
    remove(path)
    try:
        yield
    except BaseException:
        remove(path)
        raise


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
