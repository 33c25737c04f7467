"""A study's plots: score and cost against the value that varies, and learning curves."""

from collections.abc import Callable, Sequence
from math import log2
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes

from pipelines.compare import figures_of
from pipelines.report.drawing import (
    INK,
    MUTED,
    SERIES,
    percent_axis,
    plot,
    reference_line,
    steps_axis,
    thinned,
)
from pipelines.report.findings import JSON
from pipelines.report.markup import Html
from pipelines.report.plots import SCORES
from pipelines.report.study_findings import StudyFindings
from pipelines.report.wording import time_unit
from pipelines.sweep import described, short, shown

DASHES: tuple[Any, ...] = ("-", (0, (4, 2)), (0, (1, 1.5)))  # after each the colours begin again
SHIFT = 0.013  # of an axis's length, between what would lie on top of each other
LOGARITHMIC = 4  # times the smallest value that the largest must be for a logarithmic axis


def against_value(findings: StudyFindings) -> list[Html]:
    """Score, wall-clock time and speed against the one setting that varies; nothing for none or several."""
    drawn: list[Html] = []
    if len(findings.vary) != 1 or not findings.finished:
        return drawn
    (field,) = findings.vary
    runs = [figures_of(run) | {"values": run["values"]} for run in findings.finished]
    with plot(f"Success and time at goal, %, against {short(field)}", drawn) as axes:
        positions = value_axis(axes, findings, field)
        for (key, label), colour, side in zip(SCORES, SERIES, (-1, 1), strict=False):
            points(axes, positions, runs, findings.combinations, key, colour, label=label, shift=side * SHIFT)
        failed = [positions(run["values"]) for run in findings.failed]
        if failed:
            axes.plot(failed, [0] * len(failed), "x", color=MUTED, markersize=6, label="failed")
        reference = findings.reference("time_at_goal")
        if reference is not None:
            reference_line(axes, reference, "reference: time at goal", SERIES[1])
        axes.set_ylim(-0.03, 1.03)
        percent_axis(axes.yaxis)
    longest = max(run["teacher"]["wall_s"] for run in findings.finished)
    seconds, unit = time_unit(longest)
    with plot(f"Wall-clock time of a run, {unit}", drawn) as axes:
        positions = value_axis(axes, findings, field)
        points(axes, positions, runs, findings.combinations, "wall_s", SERIES[2], scale=1 / seconds)
        axes.set_ylim(bottom=0)
    if any("env_steps_per_s" in run for run in findings.finished):
        with plot("Environment steps a second, with their updates", drawn) as axes:
            positions = value_axis(axes, findings, field)
            points(axes, positions, runs, findings.combinations, "env_steps_per_s", SERIES[3])
            axes.set_ylim(bottom=0)
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    with plot("Success, %, against wall-clock time", drawn) as axes:
        _score_against_time(axes, findings, 1 / seconds)
        axes.set_xlabel(f"wall-clock time of a run, {unit}")
    return drawn


def learning_curves(findings: StudyFindings) -> list[Html]:
    """Scores against environment steps, a colour for each value of the last setting that varies.

    Where several vary, a plot for each combination of the others. Thin lines are seeds, thick ones
    their mean where all of them have been evaluated."""
    *outer, last = list(findings.vary) or [""]
    panels: list[JSON] = []
    for figures in findings.combinations:
        panel = {field: figures["values"][field] for field in outer}
        if panel not in panels:
            panels.append(panel)
    drawn: list[Html] = []
    for panel in panels:
        shown_here = [
            values
            for values in (figures["values"] for figures in findings.combinations)
            if all(values[field] == value for field, value in panel.items()) and _curves(findings, values)
        ]
        for key, label in SCORES if shown_here else ():
            where = f" at {described(panel)}" if panel else ""
            title = f"{label.capitalize()}, %{where}, by {short(last) if last else 'preset'}"
            with plot(title, drawn) as axes:
                for i, values in enumerate(shown_here):
                    name = shown(values[last]) if last else findings.settings["preset"]
                    _seeds_and_mean(axes, _curves(findings, values), key, i, name)
                reference = findings.reference(key, shown_here)
                if reference is not None:
                    reference_line(axes, reference, "reference policy")
                axes.set_ylim(-0.02, 1.02)
                percent_axis(axes.yaxis)
                steps_axis(axes, "environment steps")
    return drawn


def _curves(findings: StudyFindings, values: JSON) -> list[dict[int, JSON]]:
    """Evaluations by environment steps, one a seed."""
    found = []
    for run in findings.runs:
        lines = [line for line in findings.metrics[run["run"]] if "evaluation" in line]
        if run["values"] == values and lines:
            found.append({line["env_steps"]: line["evaluation"] for line in thinned(lines)})
    return found


def _seeds_and_mean(axes: Axes, curves: list[dict[int, JSON]], key: str, number: int, name: str) -> None:
    colour, dash = SERIES[number % len(SERIES)], DASHES[number // len(SERIES) % len(DASHES)]
    if len(curves) > 1:
        for curve in curves:
            points = [evaluation[key] for evaluation in curve.values()]
            axes.plot(list(curve), points, color=colour, linestyle=dash, linewidth=0.8, alpha=0.45)
    steps = [step for step in curves[0] if all(step in curve for curve in curves)]
    means = [fmean(curve[step][key] for curve in curves) for step in steps]
    marker = "o" if len(steps) < 30 else None
    axes.plot(steps, means, color=colour, linestyle=dash, label=name, marker=marker, markersize=2.5)


def _score_against_time(axes: Axes, findings: StudyFindings, scale: float) -> None:
    """A dot a seed, and each value's mean by its name."""
    for figures in map(figures_of, findings.finished):
        if "success_final" in figures:
            x, y = scale * figures["wall_s"], figures["success_final"]
            axes.plot(x, y, "o", color=SERIES[0], markersize=3, alpha=0.5, markeredgewidth=0)
    for figures in findings.combinations:
        if "success_final" in figures:
            where = scale * figures["wall_s"], figures["success_final"]
            axes.plot(*where, "o", color=SERIES[0], markersize=4.5)
            text = findings.label(figures["values"])
            offset = (0, 5)
            axes.annotate(text, where, xytext=offset, textcoords="offset points", ha="center", color=INK)
    axes.set_xlim(0, 1.15 * scale * max(run["teacher"]["wall_s"] for run in findings.finished))
    axes.set_ylim(-0.03, 1.1)
    percent_axis(axes.yaxis)


def value_axis(axes: Axes, findings: StudyFindings, field: str) -> Callable[[JSON], float]:
    """Labels the horizontal axis with the values; returns where a combination stands on it."""
    values = findings.vary[field]
    places = dict(zip(map(shown, values), _places(values), strict=True))
    axes.set_xticks(list(places.values()), list(places))
    low, high = min(places.values()), max(places.values())
    margin = 0.08 * (high - low) or 1.0
    axes.set_xlim(low - margin, high + margin)
    axes.set_xlabel(short(field))
    return lambda combination: places[shown(combination[field])]


def _places(values: Sequence[Any]) -> list[float]:
    """Numbers stand at their value, or at its logarithm where they span enough; names side by side."""
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return [float(i) for i in range(len(values))]
    if min(values) > 0 and max(values) >= LOGARITHMIC * min(values):
        return [log2(value) for value in values]
    return [float(value) for value in values]


def points(
    axes: Axes,
    position: Callable[[JSON], float],
    runs: Sequence[JSON],
    rows: Sequence[JSON],
    key: str,
    colour: str,
    *,
    label: str | None = None,
    dash: Any = "-",
    scale: float = 1.0,
    shift: float = 0.0,
    beside: float | None = None,
) -> None:
    """A small dot a run; beside it the mean of a row, joined over the values, with any interval of it.

    Args:
      position: as `value_axis` returns it.
      runs, rows: figures with their `values`; those without `key` are left out.
      shift: moves all of it sideways, as a share of the axis.
      beside: how far dots stand from their mean, likewise; by default as far again as the shift."""
    low, high = axes.get_xlim()
    width = high - low
    apart = (shift or SHIFT) if beside is None else beside
    for run in runs:
        value = run.get(key)
        if value is not None:
            x = position(run["values"]) + (shift + apart) * width
            axes.plot(x, scale * value, "o", color=colour, markersize=3.5, alpha=0.6, markeredgewidth=0)
    known = [row for row in rows if key in row]
    means = sorted(
        ((position(row["values"]) + shift * width, row) for row in known), key=lambda point: point[0]
    )
    axes.plot(
        [x for x, _ in means],
        [scale * row[key] for _, row in means],
        color=colour,
        linestyle=dash,
        label=label,
        marker="o",
        markersize=4.5,
        linewidth=1.2,
    )
    for x, row in means:
        interval = row.get(f"{key}_interval")
        if interval:
            axes.vlines(x, scale * interval[0], scale * interval[1], color=colour, linewidth=1.5)
