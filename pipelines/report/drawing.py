"""matplotlib figures as SVG inside the page: its colours, light or dark, and its typeface."""

import hashlib
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from pipelines.report.markup import Html, element

# matplotlib wants colours; the page wants names, whose value depends on the reader's colour scheme. These
# stand-ins, which nobody would choose, are replaced by the names in the finished SVG.
INK, MUTED, RULE = "#010101", "#010102", "#010103"
SERIES = ("#010104", "#010105", "#010106", "#010107")
_NAMES = {INK: "ink", MUTED: "muted", RULE: "rule"} | {c: f"series-{i}" for i, c in enumerate(SERIES, 1)}

WIDTH, HEIGHT = 4.7, 2.6  # inches of 72 points: a point is about a pixel where plots stand side by side
MAX_POINTS = 800  # of one line; more cannot be told apart
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
    "axes.unicode_minus": True,
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


@contextmanager
def plot(title: str, drawn: list[Html], height: float = HEIGHT) -> Iterator[Axes]:
    """Axes to draw on; the finished <figure> is appended to `drawn`."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        axes = figure.add_subplot()
        yield axes
        draw_legend(axes)
        text = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    drawn.append(element("figure", element("figcaption", title), _inline(text.getvalue(), title)))


def draw_legend(axes: Axes) -> None:
    """Above the axes, of all that has a label; `plot` does it too."""
    if axes.get_legend_handles_labels()[1]:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.03), ncols=5)


def steps_axis(axes: Axes, label: str) -> None:
    """A horizontal axis of counts: 200k, 1.2M."""
    axes.set_xlabel(label)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_major_locator(MaxNLocator(6))


def percent_axis(axis: Axis) -> None:
    """An axis of shares, shown as percent."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}"))
    axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))


def reference_line(axes: Axes, value: float, label: str, colour: str = MUTED) -> None:
    """A horizontal line at what could be reached."""
    axes.axhline(value, color=colour, linewidth=1, linestyle=(0, (4, 3)), label=label)


def loss_axis(axes: Axes) -> None:
    """A vertical axis of positive values: logarithmic where they span enough for it to have ticks."""
    low, high = axes.dataLim.intervaly
    if low <= 0 or high < 5 * low:
        return
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def thinned(lines: list[dict]) -> list[dict]:
    """At most MAX_POINTS of the lines, evenly, the last one among them."""
    stride = -(-len(lines) // MAX_POINTS) or 1
    return lines[::-1][::stride][::-1]


def _inline(svg: str, title: str) -> Html:
    """matplotlib's file as an element of the page."""
    svg = svg[svg.index("<svg") :]
    size = re.search(r'viewBox="[^"]*"', svg)
    if size is None:
        raise ValueError("matplotlib wrote an SVG without a viewBox")
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
    label = Html(f'role="img" aria-label="{element("i", title)[3:-4]}"')
    return Html(f"<svg {size[0]} {label}>{svg}</svg>")
