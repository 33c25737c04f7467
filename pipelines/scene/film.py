"""Footage as a moving picture: GIF, or MP4 where PyAV is installed."""

import importlib
import importlib.util
import io
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from pipelines.rundir import write_bytes
from pipelines.scene.footage import Episode, Footage
from pipelines.scene.pictures import Artist, drawing, indexed, shared_palette
from pipelines.scene.shapes import Array
from teacher.errors import UsageError

FRAME_S = 0.04  # the shortest that a frame is shown; players of GIFs slow down what is shorter
LONGEST_S = 24.0  # a longer film runs faster than the clock
PAUSE_S = 0.6  # at an episode's end
MAX_BYTES = 4_800_000  # of a GIF
SHRINK = 0.8
PALETTE_FRAMES = 12


class Shot(NamedTuple):
    episode: Episode
    frame: int
    seconds: float  # for how long it is shown

    @property
    def key(self) -> tuple[int, int]:
        return id(self.episode), self.frame


def shots(shown: Footage, frame_s: float = FRAME_S) -> tuple[list[Shot], int]:
    """Every episode's frames in order, its last among them, and how much faster than the clock they run.

    Each is shown for `frame_s` seconds or little more."""
    period = shown.spec.control_dt
    total = sum(len(episode.qpos) - 1 for episode in shown.episodes) * period
    speed = max(1, int(np.ceil(total / LONGEST_S - 1e-9)))
    stride = max(1, int(np.ceil(speed * frame_s / period - 1e-9)))
    found = []
    for episode in shown.episodes:
        last = len(episode.qpos) - 1
        found += [Shot(episode, frame, stride * period / speed) for frame in range(0, last, stride)]
        found.append(Shot(episode, last, max(PAUSE_S, stride * period / speed)))
    return found, speed


def write_gif(file: Path, shown: Footage) -> None:
    """A film that is too large has half the frames, and if that is not enough smaller ones.

    Raises: NoGraphics where no picture can be drawn."""
    drawn: dict[tuple[int, int], Image.Image] = {}
    with drawing(shown) as artist:
        planned, speed = shots(shown)
        samples = planned[:: -(-len(planned) // PALETTE_FRAMES)]
        palette = shared_palette([_drawn(artist, shot, speed) for shot in samples])
        for frame_s in (FRAME_S, 2 * FRAME_S):
            planned, _ = shots(shown, frame_s)
            for shot in planned:
                if shot.key not in drawn:
                    drawn[shot.key] = indexed(_drawn(artist, shot, speed), palette)
            images = [drawn[shot.key] for shot in planned]
            content = _gif(images, planned)
            if len(content) <= MAX_BYTES:
                break
    while len(content) > MAX_BYTES:
        size = [round(SHRINK * side) for side in images[0].size]
        images = [indexed(np.asarray(image.convert("RGB").resize(size)), palette) for image in images]
        content = _gif(images, planned)
    write_bytes(file, content)


def write_mp4(file: Path, shown: Footage) -> None:
    """Raises: UsageError where PyAV is not installed; NoGraphics where no picture can be drawn."""
    require_mp4()
    av: Any = importlib.import_module("av")
    planned, speed = shots(shown)
    frame_s = min(shot.seconds for shot in planned)
    rate = Fraction(1 / frame_s).limit_denominator(1000)
    with drawing(shown) as artist, av.open(str(file), "w") as container:
        stream = container.add_stream("libx264" if "libx264" in av.codecs_available else "mpeg4", rate=rate)
        stream.pix_fmt = "yuv420p"
        stream.width, stream.height = artist.size
        for pixels in _at_rate(artist, planned, speed, frame_s):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def require_mp4() -> None:
    """Raises: UsageError where PyAV is not installed."""
    if importlib.util.find_spec("av") is None:
        raise UsageError("MP4 needs PyAV: pip install 'fathom-rl[video]', or take a .gif or .html")


def _drawn(artist: Artist, shot: Shot, speed: int) -> Array:
    return artist.draw(shot.episode, shot.frame, f"{speed} x" if speed > 1 else "")


def _gif(images: list[Image.Image], planned: list[Shot]) -> bytes:
    clock = np.round(100 * np.cumsum([0.0, *(shot.seconds for shot in planned)]))
    milliseconds = (10 * np.maximum(2, np.diff(clock))).astype(int).tolist()  # a GIF counts in tens of them
    stream = io.BytesIO()
    images[0].save(
        stream, "gif", save_all=True, append_images=images[1:], duration=milliseconds, loop=0, optimize=False
    )
    return stream.getvalue()


def _at_rate(artist: Artist, planned: list[Shot], speed: int, frame_s: float) -> Iterator[Array]:
    """Frames of equal length: one that is shown for longer comes more than once."""
    for shot in planned:
        pixels = _drawn(artist, shot, speed)
        for _ in range(round(shot.seconds / frame_s)):
            yield pixels
