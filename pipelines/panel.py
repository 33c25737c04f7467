"""The live panel of a stage, drawn to fit the terminal that it is in."""

import resource
import sys
from collections.abc import Sequence
from typing import NamedTuple

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

WIDEST = 100  # columns: further apart, what belongs together is hard to read together
NARROWEST = 40  # below, and where the terminal is too low, there is one line only
FRAME = 4  # columns that border and padding take
GAP = "  "
LEVELS = "▁▂▃▄▅▆▇█"
LAST = 24  # values of a sparkline


class View(NamedTuple):
    """What the panel shows of a stage."""

    title: str
    share: float  # of the stage that is done
    time: str
    rows: Sequence[tuple[str, Sequence[str]]]  # label, values


def panel(view: View, width: int, height: int) -> RenderableType:
    """At most `width` columns and `height` lines. Nothing wraps, and no number is cut in two: values that
    do not fit are left out."""
    lines = len(view.rows) + 3
    share = f"{100 * view.share:.0f} %"
    if width < NARROWEST or height <= lines:
        return Text(f"{share}{GAP}{view.time}{GAP}{view.title}", no_wrap=True, overflow="ellipsis")
    width = min(width, WIDEST)
    bar = Table.grid(padding=(0, len(GAP)), expand=True)
    bar.add_column(ratio=1)
    drawn = ProgressBar(1.0, view.share, complete_style="cyan", finished_style="green")
    bar.add_row(drawn, Text(share), Text(view.time))
    longest = max(len(label) for label, _ in view.rows)
    room = width - FRAME - longest - len(GAP)
    rows = [
        Text.assemble((f"{label:{longest}}{GAP}", "dim"), _fitting(values, room))
        for label, values in view.rows
    ]
    title = Text(view.title, "bold")
    return Panel(
        Group(bar, *rows), title=title, title_align="left", box=box.ROUNDED, border_style="cyan", width=width
    )


def _fitting(values: Sequence[str], room: int) -> str:
    """The first of the values, as many as there is room for."""
    for count in range(len(values), 0, -1):
        text = GAP.join(values[:count]) + ("" if count == len(values) else f"{GAP}…")
        if len(text) <= room:
            return text
    return "…"


def sparkline(values: Sequence[float]) -> str:
    """The last values, each between 0 and 1, as a line of blocks."""
    top = len(LEVELS) - 1
    return "".join(LEVELS[round(min(max(value, 0.0), 1.0) * top)] for value in values[-LAST:])


def memory() -> list[str]:
    """`1.2 GB`, the most that this process held, and the same of its first device where JAX knows it."""
    unit = 1 if sys.platform == "darwin" else 1024
    found = [f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9:.1f} GB at most"]
    jax = sys.modules.get("jax")  # what has not been imported holds nothing
    used = (jax.local_devices()[0].memory_stats() if jax else None) or {}
    if "peak_bytes_in_use" in used:
        whole = f" of {used['bytes_limit'] / 1e9:.1f}" if used.get("bytes_limit") else ""
        found.append(f"device {used['peak_bytes_in_use'] / 1e9:.1f}{whole} GB")
    return found
