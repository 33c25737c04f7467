"""Names beside the points of a plot, where they fit: over nothing, and under nothing."""

from collections.abc import Iterator, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

from pipelines.report.drawing import INK, draw_legend

Where = tuple[float, float, float]  # x, and low and high end of what is drawn there; in data
GAP = 4.0  # points between a mark and its name
MARK = 3.0  # points: half the width of a mark


def name_points(axes: Axes, points: Mapping[str, Where], order: Sequence[str]) -> list[str]:
    """Writes names above, below, right or left of their marks; the first in `order` chooses first.

    A name for which no place is free is left out, and so are points that are not in `order`. To be called
    last, when axes and limits are as they will stay.
    Returns: the names that were written."""
    figure = axes.figure
    draw_legend(axes)  # takes room from the axes
    figure.draw_without_rendering()  # lays out, so that points have their places on the page
    dot = figure.dpi / 72
    marks = {name: _mark(axes, where, MARK * dot) for name, where in points.items()}
    taken, written = list(marks.values()), []
    for name in order:
        for x, y, side, rise in _places(marks[name], GAP * dot):
            text = axes.annotate(
                name, axes.transData.inverted().transform((x, y)), ha=side, va=rise, color=INK
            )
            box = text.get_window_extent().padded(dot)
            if (
                axes.bbox.contains(*box.min)
                and axes.bbox.contains(*box.max)
                and not box.count_overlaps(taken)
            ):
                taken.append(box)
                written.append(name)
                break
            text.remove()
    return written


def _mark(axes: Axes, where: Where, half: float) -> Bbox:
    """The box, in pixels, of a point with its interval."""
    x, low, high = where
    (left, bottom), (_, top) = axes.transData.transform([(x, low), (x, high)])
    return Bbox([[left - half, bottom - half], [left + half, top + half]])


def _places(mark: Bbox, gap: float) -> Iterator[tuple[float, float, str, str]]:
    """Where a name may stand, in pixels, and how it is aligned there."""
    x, y = (mark.x0 + mark.x1) / 2, (mark.y0 + mark.y1) / 2
    yield x, mark.y1 + gap / 2, "center", "bottom"
    yield x, mark.y0 - gap / 2, "center", "top"
    yield mark.x1 + gap, y, "left", "center"
    yield mark.x0 - gap, y, "right", "center"
