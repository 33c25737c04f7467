"""Footage as files of a run, where its report finds them."""

import json
from collections.abc import Callable
from pathlib import Path

from rich.markup import escape

from pipelines.rundir import RECORDING, STILLS, write_text
from pipelines.scene.footage import Footage, recording
from pipelines.scene.graphics import NoGraphics
from pipelines.scene.pictures import stills


def keep(folder: Path, shown: Footage | None, say: Callable[[str], None]) -> None:
    """Writes the recording and, where pictures can be drawn, its stills, in place of any from before.

    Without footage the folder is left without a recording."""
    for name in (RECORDING, *STILLS):
        (folder / name).unlink(missing_ok=True)
    if shown is None:
        return
    write_text(folder / RECORDING, json.dumps(recording(shown), separators=(",", ":")))
    try:
        pictures = stills(shown)
    except NoGraphics as error:
        say(f"the report will be without pictures: {escape(str(error))}")
        return
    for name, picture in zip(STILLS, pictures, strict=True):
        (folder / name).write_bytes(picture)
