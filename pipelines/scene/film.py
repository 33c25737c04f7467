"""Footage as a moving picture: GIF, or MP4 where PyAV is installed."""

import importlib
import importlib.util
import io
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

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


def shots(shown: Footage) -> tuple[list[Shot], int]:
    """Every episode's frames in order, its last among them, and how much faster than the clock they run."""
    period = shown.spec.control_dt
    total = sum(len(episode.qpos) - 1 for episode in shown.episodes) * period
    speed = max(1, int(np.ceil(total / LONGEST_S - 1e-9)))
    stride = max(1, int(np.ceil(speed * FRAME_S / period - 1e-9)))
    found = []
    for episode in shown.episodes:
        last = len(episode.qpos) - 1
        found += [Shot(episode, frame, stride * period / speed) for frame in range(0, last, stride)]
        found.append(Shot(episode, last, max(PAUSE_S, stride * period / speed)))
    return found, speed


def write_gif(file: Path, shown: Footage) -> None:
    """Raises: NoGraphics where no picture can be drawn."""
    planned, speed = shots(shown)
    with drawing(shown) as artist:
        samples = planned[:: -(-len(planned) // PALETTE_FRAMES)]
        palette = shared_palette([_drawn(artist, shot, speed) for shot in samples])
        images = [indexed(_drawn(artist, shot, speed), palette) for shot in planned]
    clock = np.round(100 * np.cumsum([0.0, *(shot.seconds for shot in planned)]))
    durations = (10 * np.maximum(2, np.diff(clock))).astype(int).tolist()  # ms, in a GIF's steps
    content = _gif(images, durations)
    while len(content) > MAX_BYTES:
        width, height = (round(SHRINK * side) for side in images[0].size)
        images = [
            indexed(np.asarray(image.convert("RGB").resize((width, height))), palette) for image in images
        ]
        content = _gif(images, durations)
    file.write_bytes(content)


def write_mp4(file: Path, shown: Footage) -> None:
    """Raises: UsageError where PyAV is not installed; NoGraphics where no picture can be drawn."""
    require_mp4()
    av: Any = importlib.import_module("av")
    planned, speed = shots(shown)
    rate = Fraction(1 / planned[0].seconds).limit_denominator(1000)
    with drawing(shown) as artist, av.open(str(file), "w") as container:
        stream = container.add_stream("libx264" if "libx264" in av.codecs_available else "mpeg4", rate=rate)
        stream.pix_fmt = "yuv420p"
        stream.width, stream.height = artist.size
        for pixels in _at_rate(artist, planned, speed):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def require_mp4() -> None:
    """Raises: UsageError where PyAV is not installed."""
    if importlib.util.find_spec("av") is None:
        raise UsageError("MP4 needs PyAV: pip install 'fathom-rl[video]', or take a .gif or .html")


def _drawn(artist: Artist, shot: Shot, speed: int) -> Array:
    return artist.draw(shot.episode, shot.frame, f"{speed} x" if speed > 1 else "")


def _gif(images: list[Any], durations_ms: list[int]) -> bytes:
    stream = io.BytesIO()
    images[0].save(
        stream, "gif", save_all=True, append_images=images[1:], duration=durations_ms, loop=0, optimize=False
    )
    return stream.getvalue()


def _at_rate(artist: Artist, planned: list[Shot], speed: int) -> Iterator[Array]:
    """Frames of equal length: one that is shown for longer comes more than once."""
    for shot in planned:
        pixels = _drawn(artist, shot, speed)
        for _ in range(round(shot.seconds / planned[0].seconds)):
            yield pixels
