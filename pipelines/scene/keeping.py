"""Footage as files of a run, where its report finds them."""

import json
from collections.abc import Callable
from pathlib import Path

from pipelines.rundir import RECORDING, STILLS, read_json, write_bytes, write_text
from pipelines.scene.footage import Footage, recording
from pipelines.scene.graphics import NoGraphics
from pipelines.scene.pictures import stills
from teacher.errors import FathomError


def keep(folder: Path, shown: Footage | None, say: Callable[[str], None]) -> None:
    """Writes the recording and, where pictures can be drawn, its stills, in place of any from before.

    Without footage the folder is left without a recording."""
    if shown is None:
        _remove(folder, RECORDING, *STILLS)
        return
    try:
        for name, picture in zip(STILLS, stills(shown), strict=True):
            write_bytes(folder / name, picture)
    except NoGraphics as error:
        _remove(folder, *STILLS)
        say(f"the report will be without pictures: {error}")
    write_text(folder / RECORDING, json.dumps(recording(shown), separators=(",", ":")))


def _remove(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).unlink(missing_ok=True)


def is_kept(folder: Path, *, drawn: bool) -> bool:
    """Whether the folder holds a recording that can be read, where the task can be `drawn`."""
    try:
        return not drawn or isinstance(read_json(folder / RECORDING), dict)
    except FathomError:
        return False
