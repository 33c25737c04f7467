"""The critic's distances in a maze beside the true ones."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from pipelines.report.drawing import INK, RULE, SERIES, WIDTH, plot
from pipelines.report.findings import Findings
from pipelines.report.markup import Html, element
from teacher.distance_map import FAR

TALLEST = 3.2  # inches of a map
STRONGEST = 0.5  # opacity of the farthest cell, so that its number stays readable
SMALL = 7  # points


def distance_plots(findings: Findings) -> list[Html]:
    """Maps of the distances from a start, by the critic and in cells; all distances by cells to walk."""
    found, drawn = findings.distance_map, list[Html]()
    if "maze_distance" not in findings.summary.get("teacher", {}) or not found:
        return drawn
    for key, title in (("critic", "The critic's distance"), ("cells", "Cells to walk")):
        rows, columns = found[key].shape
        height = min(TALLEST, WIDTH * rows / columns)
        with plot(f"{title} from a start (ring) to every free cell", drawn, height) as axes:
            _draw_map(axes, found[key], found["cells"], ".0f" if key == "cells" else ".1f")
    with plot("The critic's distance, by cells to walk (lines: middle half)", drawn) as axes:
        low, middle, high = found["quartiles"].T
        axes.vlines(found["steps"], low, high, color=SERIES[0], linewidth=1.5)
        axes.plot(found["steps"], middle, "o-", color=SERIES[0], markersize=3, linewidth=0.8, label="median")
        axes.set_ylim(bottom=0)
        axes.set_xlabel("cells to walk")
        axes.xaxis.set_major_locator(MaxNLocator(9, integer=True))
    return drawn


def distance_note(findings: Findings) -> Html | None:
    """The figures behind the pictures."""
    found = findings.summary.get("teacher", {}).get("maze_distance", {})
    if "rank_correlation" not in found:
        return None
    text = (
        f"In {found['states']:,} states of its held-out episodes, with the action taken there, the teacher's "
        f"critic was asked how far each of {found['cells']} cells is. It orders all pairs with a rank "
        f"correlation of {_beside_straight(found, '')} with the cells to walk"
    )
    if "rank_correlation_far" in found:
        far = _beside_straight(found, "_far", "")
        text += f", and those at least {FAR} cells apart with one of {far}"
    return element("p", f"{text}.", class_="note")


def _beside_straight(found: dict[str, float], which: str, name: str = "the straight line: ") -> str:
    """`0.81 (the straight line: 0.75)`."""
    own, straight = (found.get(f"rank_correlation{which}{kind}") for kind in ("", "_straight"))
    return f"{own:.2f}" + (f" ({name}{straight:.2f})" if straight is not None else "")


def _draw_map(axes: Axes, values: np.ndarray, cells: np.ndarray, digits: str) -> None:
    """A maze [R, C] as its text stands: rows downwards. Walls are NaN; a value is a number and a shade."""
    reached = np.isfinite(values) & np.isfinite(cells)
    nearest, span = values[reached].min(), np.ptp(values[reached]) or 1.0
    for (row, column), value in np.ndenumerate(values):
        wall = np.isnan(value)
        shade = STRONGEST * (value - nearest) / span if reached[row, column] else 0.0
        # Walls have an edge, or seams would show between them.
        look = (
            {"color": RULE, "linewidth": 0.5}
            if wall
            else {"color": SERIES[0], "alpha": shade, "linewidth": 0}
        )
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, **look))
        if not wall:
            text = f"{value:{digits}}" if reached[row, column] else "\N{EN DASH}"
            axes.text(column, row, text, ha="center", va="center", color=INK, fontsize=SMALL)
    ((row, column),) = np.argwhere(cells == 0)
    axes.plot(column, row, "o", markersize=15, fillstyle="none", color=INK, markeredgewidth=0.8)
    axes.set_xlim(-0.5, values.shape[1] - 0.5)
    axes.set_ylim(values.shape[0] - 0.5, -0.5)
    axes.set_aspect("equal")
    axes.set_axis_off()
