"""Files and folders written so that nothing is lost: in one step, by one process, through no link."""

import fcntl
import json
import os
import platform
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from io import BytesIO, FileIO
from pathlib import Path
from typing import Any, cast
from zipfile import BadZipFile

import numpy as np

from pipelines.runtime import Interrupted
from teacher.errors import FathomError, UsageError

JSON = dict[str, Any]
MENDED = "the command that writes it mends it with --resume"


def read_json(file: Path, remedy: str = "", kind: type = object) -> Any:
    """Reads a JSON file; FathomError with the remedy if it cannot be read or is not of this kind."""
    try:
        return parse_json(file.read_bytes(), kind)
    except (OSError, ValueError) as error:
        raise FathomError(f"{file} cannot be read: {error}{remedy and f'; {remedy}'}") from error


def parse_json(text: bytes, kind: type = dict) -> Any:
    found = json.loads(text)
    if not isinstance(found, kind):
        raise ValueError(f"it holds a {type(found).__name__}, not a {kind.__name__}")
    return found


def read_object(file: Path) -> JSON:
    """Reads a JSON object that is made of other files; empty if it is not there yet."""
    return read_json(file, MENDED, dict) if file.exists() else {}


def set_aside_if_damaged(
    file: Path, say: Callable[[str], None], read: Callable[[Path], object] = read_object
) -> None:
    """Renames what cannot be read, so that it can be made anew and is not lost; says so."""
    try:
        read(file)
    except FathomError as error:
        aside = file.replace(file.with_name(f"damaged-{file.name}"))
        say(f"{error}; set aside as {aside.name}")


def write_json(file: Path, value: Any) -> None:
    write_text(file, json.dumps(value, indent=2) + "\n")


def write_text(file: Path, text: str) -> None:
    write_bytes(file, text.encode())


def write_bytes(file: Path, content: bytes) -> None:
    """Replaces the file in one step, so that no reader ever finds half of it."""
    partial = file.with_name(f".{file.name}.partial")
    with writing(file):
        try:
            with open(partial, "wb", opener=following_no_link) as stream:
                stream.write(content)
            partial.replace(file)
        except OSError:
            with suppress(OSError):
                partial.unlink()
            raise


@contextmanager
def writing(file: Path, advice: str = "") -> Iterator[None]:
    """Turns an OSError into a FathomError that names the file."""
    try:
        yield
    except OSError as error:
        raise FathomError(f"cannot write {file}: {error.strerror}{advice}") from error


def write_columns(file: Path, **columns: np.ndarray) -> None:
    """Replaces the .npz in one step."""
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


def following_no_link(name: str, flags: int) -> int:
    """Opens a file for `open`; OSError where a link stands in place of a file to write."""
    return os.open(name, flags | os.O_NOFOLLOW, 0o666)


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


@contextmanager
def waiting_lock(file: Path) -> Iterator[None]:
    """Holds a lock until the end, after any other process that holds it."""
    with _opened(file) as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds a directory for this process; FathomError, naming its owner, if another process holds it.

    Raises: Interrupted for a KeyboardInterrupt meanwhile; says how to go on."""
    with _opened(file := folder / ".lock") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = file.read_text(errors="replace") or "another process"
            raise FathomError(f"{folder} is in use by {owner}") from None
        user, now = os.environ.get("USER", os.getuid()), datetime.now().astimezone()
        with writing(file):
            stream.truncate(0)
            owner = f"process {os.getpid()} of {user} on {platform.node()}, since {now:%Y-%m-%d %H:%M:%S%z}"
            stream.write(owner.encode())
        try:
            yield
        except KeyboardInterrupt:
            raise Interrupted(
                f"interrupted; what was finished is kept in {folder}: the same command with --resume goes on"
            ) from None


def _opened(file: Path) -> FileIO:
    """Opens a file to hold a lock on, written and read without a buffer."""
    with writing(file):
        return cast(FileIO, open(file, "ab", buffering=0, opener=following_no_link))


def require_own_files(path: Path) -> None:
    """Raises FathomError naming what in a run or sweep is a link out of it, or neither a file nor a folder.

    Whoever packed it may have put that there, to have files read or written elsewhere."""
    root = path.resolve()
    if root.parent.name == "baselines":  # whose teacher is that of the run around them
        root = root.parents[1]
    for folder, folders, files in os.walk(path.resolve()):
        for found in (Path(folder, name) for name in folders + files):
            with suppress(FileNotFoundError):  # of another process that works in the run
                kind = stat.S_IFMT(found.lstat().st_mode)
                if kind == stat.S_IFLNK and not resolved(found).is_relative_to(root):
                    raise FathomError(f"{found} is a link out of {path}: remove it; nothing was opened")
                if kind not in (stat.S_IFLNK, stat.S_IFREG, stat.S_IFDIR):
                    raise FathomError(f"{found} is no file and no folder: remove it; nothing was opened")


def resolved(link: Path) -> Path:
    try:
        return link.resolve()
    except (OSError, RuntimeError):  # a circle
        return Path(link.anchor)
