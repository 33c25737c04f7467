"""matplotlib figures as SVG inside a page: its colours, light or dark, its typeface, and a name for each."""

import hashlib
import html
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from matplotlib.transforms import Bbox

from pipelines.report.page import Figure

# matplotlib wants colours; the page wants names, whose value depends on the reader's colour scheme. These
# stand-ins, which nobody would choose, are replaced by the names in the finished SVG.
INK, MUTED, RULE = "#010101", "#010102", "#010103"
SERIES = ("#010104", "#010105", "#010106", "#010107")
_NAMES = {INK: "ink", MUTED: "muted", RULE: "rule"} | {c: f"series-{i}" for i, c in enumerate(SERIES, 1)}
DASHED = (0, (4, 3))
DASHES: tuple[Any, ...] = ("-", (0, (4, 2)), (0, (1, 1.5)))  # where there are more lines than colours

WIDTH, HEIGHT = 4.7, 2.6  # inches of 72 points: a point is about a pixel where plots stand side by side
MAX_POINTS = 800  # of one line; more cannot be told apart
GAP, MARK = 2.0, 3.0  # points: between a mark and its name, and half a mark's width
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "fathom",
    "text.parse_math": False,
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
    "legend.frameon": False,
    "legend.handlelength": 1.4,
    "legend.columnspacing": 1.4,
    "legend.borderaxespad": 0,
    "legend.borderpad": 0,
    "lines.linewidth": 1.5,
    "lines.solid_capstyle": "round",
}


class Line(NamedTuple):
    """A curve; `band` holds its interval at each point, `thin` others that it is the mean of."""

    label: str | None
    points: Sequence[tuple[float, float]]
    band: Sequence[tuple[float, float]] = ()
    thin: Sequence[Sequence[tuple[float, float]]] = ()


@contextmanager
def figure(title: str, figures: list[Figure], height: float = HEIGHT) -> Iterator[Axes]:
    """Gives axes to draw on, and appends the finished figure."""
    with matplotlib.rc_context(_STYLE):
        canvas = Canvas(figsize=(WIDTH, height), layout="constrained")
        axes = canvas.add_subplot()
        yield axes
        _legend(axes)
        text = io.StringIO()
        canvas.savefig(
            text,
            format="svg",
            transparent=True,
            metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")),
        )
    figures.append(Figure(title, _inline(text.getvalue(), title)))


def look(number: int) -> tuple[str, Any]:
    """Returns the colour of a numbered line, and its dashes, which change once the colours are used up."""
    return SERIES[number % len(SERIES)], DASHES[number // len(SERIES) % len(DASHES)]


def curves(axes: Axes, lines: Sequence[Line]) -> None:
    """Draws curves, each with a `look` of its own."""
    for i, line in enumerate(lines):
        style: dict[str, Any] = dict(zip(("color", "linestyle"), look(i), strict=True))
        for other in line.thin:
            axes.plot(*zip(*thinned(other), strict=True), linewidth=0.8, alpha=0.45, **style)
        if not line.points:
            continue
        x, y = zip(*thinned(line.points), strict=True)
        axes.plot(x, y, label=line.label, marker="o" if len(x) < 30 else None, markersize=2.5, **style)
        if line.band:
            low, high = zip(*thinned(line.band), strict=True)
            axes.fill_between(x, low, high, color=style["color"], alpha=0.18, linewidth=0)


def intervals(
    axes: Axes,
    names: Sequence[str],
    series: Mapping[str, Mapping[int, Sequence[float]]],
    colours: Sequence[str],
) -> None:
    """Draws one row a name and in it a dot a series: each row's (value, low, high), by its number."""
    offsets = np.linspace(-0.2, 0.2, len(series))
    for (label, found), offset, colour in zip(series.items(), offsets, colours, strict=False):
        if found:
            rows = [row + offset for row in found]
            values, low, high = zip(*found.values(), strict=True)
            axes.hlines(rows, low, high, color=colour, linewidth=1.5)
            axes.plot(values, rows, "o", color=colour, markersize=4, label=label)
    axes.set_yticks(range(len(names)), list(names))
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    percent_axis(axes.xaxis)


def quartiles(axes: Axes, x: Any, found: Any, label: str) -> None:
    """Draws medians over x, each on a line from the first to the third quartile; found: [K, 3], x: [K]."""
    low, middle, high = np.transpose(found)
    axes.vlines(x, low, high, color=SERIES[0], linewidth=1.5)
    axes.plot(x, middle, "o-", color=SERIES[0], markersize=4, linewidth=0.8, label="median")
    axes.set_xlabel(label)


def steps_axis(axes: Axes, label: str = "environment steps") -> None:
    """Makes the horizontal axis one of counts: 200k, 1.2M."""
    axes.set_xlabel(label)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_major_locator(MaxNLocator(6))


def cost_axis(axes: Axes, label: str) -> None:
    """Makes the horizontal axis one of costs, logarithmic."""
    axes.set_xlabel(label)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_minor_formatter(NullFormatter())


def counts_axis(axes: Axes) -> None:
    """Makes the vertical axis one of a histogram's counts, logarithmic."""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    axes.yaxis.set_minor_formatter(NullFormatter())


def percent_axis(axis: Axis) -> None:
    """Makes an axis one of shares, shown as percent."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}"))
    axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))


def all_percent(axes: Axes) -> None:
    """Makes the vertical axis reach from 0 to 100 %."""
    axes.set_ylim(-0.02, 1.02)
    percent_axis(axes.yaxis)


def loss_axis(axes: Axes) -> None:
    """Makes a vertical axis of positive values logarithmic where they span enough for it to have ticks."""
    low, high = axes.dataLim.intervaly
    if low <= 0 or high < 5 * low:
        return
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def reference_line(axes: Axes, value: float | None, label: str, colour: str = MUTED) -> None:
    """Draws a dashed line at what could be reached, if that is known."""
    if value is not None:
        axes.axhline(value, color=colour, linewidth=1, linestyle=DASHED, label=label)


def thinned(lines: Sequence[Any]) -> Sequence[Any]:
    """Returns at most MAX_POINTS of the lines, evenly, the last one among them."""
    stride = -(-len(lines) // MAX_POINTS) or 1
    return lines[::-1][::stride][::-1]


def name_points(axes: Axes, points: Mapping[str, Sequence[float]], order: Sequence[str]) -> list[str]:
    """Writes names above or below their marks; the first in `order` chooses first.

    A name for which no place is free is left out, and so are points that are not in `order`. To be called
    last, when axes and limits are as they will stay.
    Args: points: (x, low and high end of what is drawn there), in data.
    Returns: the names that were written."""
    canvas = axes.get_figure(root=True)
    assert canvas is not None, "axes stand on a figure"
    _legend(axes)  # takes room from the axes
    canvas.draw_without_rendering()  # lays out, so that points have their places on the page
    dot = canvas.dpi / 72
    marks = {
        name: Bbox(axes.transData.transform([(x, low), (x, high)])).padded(MARK * dot)
        for name, (x, low, high) in points.items()
    }
    taken, written = list(marks.values()), []
    for name in order:
        for edge, end, side in ((1, 2, "bottom"), (-1, 1, "top")):
            where, away = (points[name][0], points[name][end]), (0.0, edge * (MARK + GAP))
            text = axes.annotate(
                name, where, away, textcoords="offset points", ha="center", va=side, color=INK
            )
            box = text.get_window_extent().padded(dot)
            inside = axes.bbox.contains(*box.min) and axes.bbox.contains(*box.max)
            if inside and not box.count_overlaps(taken):
                taken.append(box)
                written.append(name)
                break
            text.remove()
    return written


def _legend(axes: Axes) -> None:
    """Writes above the axes what has a label."""
    if axes.get_legend_handles_labels()[1]:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.03), ncols=5)


def _inline(svg: str, title: str) -> Markup:
    """Returns matplotlib's file as an element of the page."""
    svg = svg[svg.index("<svg") :]
    size = re.search(r'viewBox="[^"]*"', svg)
    assert size is not None, "matplotlib writes a viewBox"
    svg = svg[svg.index(">") + 1 : svg.rindex("</svg>")]
    # A style sheet in there would hold for the whole page, and names of groups would stand in every plot.
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, count=1, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r"font-family: [^;\"]*; ?", "", svg).replace("xlink:href", "href")
    for colour, name in _NAMES.items():
        svg = svg.replace(colour, f"var(--{name})")
    svg = re.sub(r"\s*\n\s*", " ", svg)
    # Names are the same wherever two plots hold the same shape; on the page each stands once.
    own = hashlib.sha256((title + svg).encode()).hexdigest()[:8]
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>p{own}-", svg)
    return Markup(f'<svg {size[0]} role="img" aria-label="{html.escape(title)}">{svg}</svg>')
