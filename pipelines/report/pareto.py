"""What students keep against what they cost."""

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from pipelines.report.drawing import MUTED, SERIES, percent_axis, plot
from pipelines.report.findings import JSON, Findings
from pipelines.report.labels import name_points
from pipelines.report.markup import Html

HEIGHT = 3.6  # inches
ROOM = 0.01  # of retention: the least that is left above and below, for names


def pareto(findings: Findings) -> list[Html]:
    """Retention against parameters, and against latency: a point a student, and their teacher."""
    students, exported = findings.summary.get("students", {}), findings.summary.get("export", {})
    teacher = findings.summary.get("teacher", {})
    kept = {size: student for size, student in students.items() if "retention" in student}
    parameters = {size: student["parameters"] for size, student in kept.items() if "parameters" in student}
    latency = {size: exported[size]["latency_us_p50"] for size in kept if size in exported}
    drawn: list[Html] = []
    for title, what, costs, of_teacher in (
        ("parameters", "parameters", parameters, _teacher_parameters(kept)),
        ("latency", "median latency, µs; of the teacher in JAX", latency, teacher.get("latency_us_p50")),
    ):
        if costs:
            with plot(f"Retention of time at goal, %, against {title}", drawn, HEIGHT) as axes:
                axes.set_xlabel(what if of_teacher else what.partition(";")[0])
                _draw(axes, findings, kept, costs, of_teacher)
    return drawn


def front(kept: Mapping[str, float], costs: Mapping[str, float]) -> list[str]:
    """Students that none surpasses at no more cost, the cheapest first."""
    found: list[str] = []
    for size in sorted(costs, key=lambda size: (costs[size], -kept[size])):
        if not found or kept[size] > kept[found[-1]]:
            found.append(size)
    return found


def _draw(axes: Axes, findings: Findings, kept: JSON, costs: dict[str, float], teacher: float | None) -> None:
    """Intervals, the line of the front, the teacher at 100 %, and names where they fit."""
    selected, share = findings.selected, {size: kept[size]["retention"] for size in costs}
    required = findings.settings["config"]["student"]["retention"]
    axes.axhline(1, color=MUTED, linewidth=1)
    if required:
        axes.axhline(required, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label="required")
    leading = front(share, costs)
    axes.plot([costs[s] for s in leading], [share[s] for s in leading], color=SERIES[1], linewidth=0.8)
    for size, x in costs.items():
        colour, label = (SERIES[0], "selected") if size == selected else (SERIES[1], None)
        low, high = kept[size]["retention_low"], kept[size]["retention_high"]
        axes.vlines(x, low, high, color=colour, linewidth=1.5)
        axes.plot(x, share[size], "o", color=colour, markersize=5, label=label)
    if teacher:
        axes.plot(teacher, 1, "s", color=MUTED, markersize=6, linestyle="none", label="teacher")
    axes.set_xscale("log")
    axes.margins(x=0.1)
    low, high = axes.dataLim.intervaly
    room = max(0.2 * (high - low), ROOM)
    axes.set_ylim(low - room, high + room)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_minor_formatter(NullFormatter())
    percent_axis(axes.yaxis)
    order = dict.fromkeys([*(size for size in costs if size == selected), *leading, *costs])
    places = {s: (costs[s], kept[s]["retention_low"], kept[s]["retention_high"]) for s in costs}
    name_points(axes, places | ({"teacher": (teacher, 1, 1)} if teacher else {}), list(order))


def _teacher_parameters(kept: JSON) -> float | None:
    return next(
        (student["teacher_parameters"] for student in kept.values() if "teacher_parameters" in student), None
    )
