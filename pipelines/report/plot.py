"""matplotlib figures as SVG inside a page: its colours, light or dark, its typeface, and a name for each."""

import io
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from cycler import cycler
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from pipelines.summary import Figures

# matplotlib wants colours; the page wants names, whose value depends on the reader's colour scheme. These
# stand-ins, which nobody would choose, are replaced by the names in the finished SVG.
NAMES = ("paper", "ink", "muted", "rule", "series-1", "series-2", "series-3", "series-4")
PAPER, INK, MUTED, RULE, *SERIES = (f"#0101{i:02x}" for i in range(len(NAMES)))
TEACHER, STUDENT = SERIES[:2]  # whoever is drawn, in every figure where both could be
DASHED = (0, (4, 3))
DASHES = ["-", (0, (4, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2))]
LOOKS = cycler(linestyle=DASHES) * cycler(color=SERIES)  # dashes change last
WIDTH, HEIGHT = 4.7, 2.6  # inches of 72 points: a point is about a pixel where plots stand side by side
MARKED = 30  # points of a line, from which on it has no marks
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "savefig.transparent": True,
    "font.sans-serif": ["DejaVu Sans"],  # measured with; the page has its own
    "text.parse_math": False,
    "font.size": 9,
    "text.color": INK,
    "axes.prop_cycle": LOOKS,
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
    "legend.borderpad": 0,
    "lines.linewidth": 1.5,
    "lines.markersize": 4,
}


class Figure(NamedTuple):
    title: str
    svg: Markup  # what stands within the element


@contextmanager
def figure(title: str, figures: list[Figure], height: float = HEIGHT) -> Iterator[Axes]:
    """Gives axes to draw on, and appends the figure if there is anything in it."""
    # The salt keeps names inside of the SVG apart from those of other figures on the page.
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": title}):
        canvas = Canvas(figsize=(WIDTH, height), layout="constrained")
        axes = canvas.add_subplot()
        yield axes
        if not np.isfinite(axes.dataLim.intervalx).all():
            return
        if axes.get_legend_handles_labels()[1]:
            canvas.legend(loc="outside upper left", ncols=5)
        text = io.StringIO()
        canvas.savefig(text, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = text.getvalue().partition("<svg")[2]
    svg = re.sub(r' xmlns[:\w]*="[^"]*"|(?<=<g) id="[^"]*"', "", svg).replace("xlink:href", "href")
    for colour, name in zip((PAPER, INK, MUTED, RULE, *SERIES), NAMES, strict=True):
        svg = svg.replace(colour, f"var(--{name})")
    figures.append(Figure(title, Markup(svg)))


class Curve(NamedTuple):
    """A line [T], its interval [T, 2], and thin lines of the same colour."""

    label: str
    x: Any
    y: Any
    band: Any = ()
    thin: Sequence[tuple[Any, Any]] = ()


def curves(
    axes: Axes, found: Iterable[Curve], axis: str = "environment steps", of: str | None = None
) -> None:
    """Draws lines over an axis from 0 on.

    Args: of: TEACHER or STUDENT, whose colour all lines have; they differ by their dashes."""
    if of:
        axes.set_prop_cycle(cycler(linestyle=DASHES) * cycler(color=[of]))
    for label, x, y, band, thin in found:
        (line,) = axes.plot(x, y, label=label, marker="o" if len(x) < MARKED else "", markersize=2.5)
        look: dict[str, Any] = {"color": line.get_color(), "linestyle": line.get_linestyle()}
        if len(band):
            axes.fill_between(x, *np.transpose(band), color=line.get_color(), alpha=0.18, linewidth=0)
        for each in thin:
            axes.plot(*each, linewidth=0.8, alpha=0.45, **look)
    axes.set_xlabel(axis)
    axes.set_xlim(left=0)
    if axes.dataLim.x1 >= 1000:
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # 200k, 1.2M
        axes.xaxis.set_major_locator(MaxNLocator(6))


def dots(
    axes: Axes, of: Iterable[tuple[float, Figures]], key: str, *, flat: bool = False, **look: Any
) -> None:
    """Draws a figure of each over its place, `flat` beside it, with a line for its interval."""
    found = [(at, getattr(each, key), each.interval(key)) for at, each in of]
    if found:
        at, values = np.transpose([each[:2] for each in found])
        reach = np.abs(np.transpose([ends or (value, value) for _, value, ends in found]) - values)
        x, y, along = (values, at, "xerr") if flat else (at, values, "yerr")
        axes.errorbar(x, y, **{along: reach, "marker": "o", "linestyle": "none", **look})


def quartiles(axes: Axes, x: Any, found: Any, label: str, colour: str) -> None:
    """Draws medians over x, each on a line from the first to the third quartile; found: [K, 3], x: [K]."""
    low, middle, high = np.transpose(found)
    reach = (middle - low, high - middle)
    axes.errorbar(x, middle, yerr=reach, marker="o", linewidth=0.8, label="median", color=colour)
    axes.set_xlabel(label)


def logarithmic(axis: Axis, form: Any = None) -> None:
    """Makes an axis logarithmic; `form` as matplotlib takes it, by default for counts: 200k, 1.2M."""
    axis.axes.set(**{"xscale" if axis is axis.axes.xaxis else "yscale": "log"})
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(form or EngFormatter(sep=""))
    axis.set_minor_formatter(NullFormatter())


def percent_axis(axis: Axis) -> None:
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
    axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))


def all_percent(axes: Axes) -> None:
    """Makes the vertical axis reach from 0 to 100 %."""
    axes.set_ylim(-0.02, 1.02)
    percent_axis(axes.yaxis)


def reference_line(axes: Axes, value: float | None, label: str) -> None:
    """Draws a dashed line at what could be reached, if that is known."""
    if value is not None:
        axes.axhline(value, color=MUTED, linewidth=1, linestyle=DASHED, label=label)
