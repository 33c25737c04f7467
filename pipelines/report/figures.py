"""The figures of pages. Each function gives those for which there is something to draw."""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgba
from matplotlib.ticker import MaxNLocator

from export.verify import ACTION_TOLERANCE
from pipelines.formats import INTERVALS, engine, fitting
from pipelines.report import plot
from pipelines.report.context import JSON, RunContext, SweepContext
from pipelines.report.plot import STUDENT, TEACHER, Curve, Figure
from pipelines.summary import Figures, StudentFigures
from pipelines.sweep import described, short, shown
from pipelines.tables import current_robustness

SCORES = {"success_final": "Success", "time_at_goal": "Time at goal"}
LEARNED = {
    "critic_accuracy": "Critic accuracy on training batches",
    "critic_loss": "Critic loss",
    "actor_loss": "Actor loss",
}
# Of each run, so that colour is not all that tells them apart.
MARKS: list[dict[str, Any]] = [
    {"color": colour, "marker": kind} for colour, kind in zip(plot.SERIES, "osD^", strict=True)
]
BINS = 40
SMALLEST_ERROR = 1e-9  # drawn; smaller ones, and none at all, stand there
SLOWEST = 1.5  # times the 99th percentile; slower answers stand there
STRONGEST = 0.5  # opacity of a maze's farthest cell, so that its number stays readable
SPREAD, NEAR = 0.16, 0.03  # of the way to the next value: over all lines, and from a mean to its dots
DEPTH = "network.depth"  # stands on the axis of students where it varies


# A run


def learning(run: RunContext) -> list[Figure]:
    """Draws the teacher's scores, accuracy and losses against environment steps."""
    steps, scores = _columns(run.teacher_metrics, "env_steps", "evaluation")
    curves = [
        Curve(label.lower(), steps, *([each[k] for each in scores] for k in (key, f"{key}_interval")))
        for key, label in SCORES.items()
    ]
    reference = run.found.reference
    limit = (reference.time_at_goal if reference else None, "reference: time at goal")
    title = f"The teacher in held-out episodes (bands: {INTERVALS})"
    figures = plot.curves(title, curves, limit, of=TEACHER, percent=True)
    for key, title in LEARNED.items():
        curve = Curve("", *_columns(run.teacher_metrics, "env_steps", key))
        figures += plot.curves(title, [curve], of=TEACHER, percent=key == "critic_accuracy")
    return figures


def _columns(lines: Sequence[JSON], *keys: str) -> list[list[Any]]:
    """Returns the values of each key, of the lines that have them all."""
    return [[line[key] for line in lines if line.keys() >= {*keys}] for key in keys]


def distillation(run: RunContext) -> list[Figure]:
    """Draws losses of every size, and of the critic, against labels."""
    lines, order = run.student_metrics, run.config.student.sizes
    names = [key for key in (lines[0] if lines else {}) if key.endswith("_loss")]
    names.sort(key=lambda key: (*order, key.partition("/")[0]).index(key.partition("/")[0]))
    figures: list[Figure] = []
    for title, of_critic in (("Policy loss of the students", False), ("Critic loss of the students", True)):
        curves = [
            Curve(re.sub(r"^critic/|_loss$|/(policy|critic)_loss$", "", key), *_columns(lines, "labels", key))
            for key in names
            if ("critic" in key) == of_critic
        ]
        figures += plot.curves(title, curves, of=STUDENT, axis="labelled states", log=True)
    return figures


def retention_and_cost(runs: Mapping[str, RunContext]) -> list[Figure]:
    """Draws retention against parameters and latency, a point a student with its interval.

    Of one run: the line of the Pareto front, the teacher at 100 %, and names where they fit."""
    figures: list[Figure] = []
    for key, what in (("parameters", "parameters"), ("latency_us_p50", "median latency, µs")):
        with plot.figure(f"Retention of time at goal against {what.partition(',')[0]}", figures, 3.4) as axes:
            axes.axhline(1, color=plot.MUTED, linewidth=1)
            plot.logarithmic(axes.xaxis)
            plot.percent_axis(axes.yaxis)
            axes.set_xlabel(what)
            for (name, run), look in zip(runs.items(), cycle(MARKS)):
                students, files = run.found.students, run.found.export
                costs = {
                    size: getattr(student if key == "parameters" else files.get(size), key, None)
                    for size, student in students.items()
                    if student.retention is not None
                }
                points = {size: (cost, students[size]) for size, cost in costs.items() if cost is not None}
                if len(runs) == 1:
                    _front(axes, run, points, key)
                else:
                    plot.dots(axes, points.values(), "retention", label=name, **look)
    return figures


def _front(axes: Axes, run: RunContext, points: Mapping[str, tuple[float, StudentFigures]], key: str) -> None:
    leading = front({size: (cost, student.retention or 0) for size, (cost, student) in points.items()})
    plot.reference_line(axes, run.config.student.min_retention or None, "required")
    line = [[points[size][0] for size in leading], [points[size][1].retention or 0 for size in leading]]
    axes.plot(*line, color=STUDENT, linewidth=0.8)
    chosen = [size for size in points if size == run.found.selected]
    plot.dots(axes, points.values(), "retention", color=STUDENT, markerfacecolor=plot.PAPER, label="student")
    plot.dots(axes, [points[size] for size in chosen], "retention", color=STUDENT, label="selected")
    of_teacher = [getattr(run.found.teacher, key, None), *(s.teacher_parameters for _, s in points.values())]
    teacher = next(filter(None, of_teacher[:1] if key != "parameters" else of_teacher), None)
    if teacher:
        axes.plot(teacher, 1, "s", color=TEACHER, markersize=6, label="teacher")
        if key != "parameters":
            axes.set_xlabel(f"{axes.get_xlabel()}; of the teacher in JAX")
    axes.margins(x=0.1, y=0.2)
    low, high = axes.dataLim.intervalx
    if 0 < high < 1.01 * low:  # one cost alone, around which a logarithmic axis would have no width
        axes.set_xlim(low / 2, 2 * low)
    order = {size: points[size] for size in (*chosen, *leading, *points)}
    ends = {
        size: student.interval("retention") or [student.retention] * 2 for size, (_, student) in order.items()
    }
    plot.name_points(axes, {size: (cost, *ends[size]) for size, (cost, _) in order.items()})


def front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Returns who, by cost and retention, is surpassed by none at no more cost, the cheapest first."""
    found: list[str] = []
    for size in sorted(points, key=lambda size: (points[size][0], -points[size][1])):
        if not found or points[size][1] > points[found[-1]][1]:
            found.append(size)
    return found


def robustness(run: RunContext) -> list[Figure]:
    """Draws time at goal of the selected student and its teacher, a row a condition."""
    trials = current_robustness(run.found)
    series = {who: (trials, who) for who in ("teacher", "student")}
    return _rows("Time at goal by condition", list(trials), series)


def _rows(
    title: str, names: list[str], series: Mapping[str, tuple[Mapping[str, Figures], str]]
) -> list[Figure]:
    """Draws one row a name and in it a dot a series; of each the figures of its rows and their key."""
    figures: list[Figure] = []
    with plot.figure(f"{title} (lines: {INTERVALS})", figures, 0.7 + 0.32 * len(names)) as axes:
        for (label, (rows, key)), shift in zip(series.items(), (-0.2, 0.2), strict=True):
            at = [(names.index(name) + shift, row) for name, row in rows.items()]
            look = {"color": TEACHER if label == "teacher" else STUDENT}
            look |= {"markerfacecolor": plot.PAPER} if shift < 0 and label != "teacher" else {}
            plot.dots(axes, at, key, flat=True, label=label, **look)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        plot.percent_axis(axes.xaxis)
    return figures


def maze_distances(run: RunContext) -> list[Figure]:
    """Draws maps of the distances from a start, by the critic and in cells, and all distances by cells."""
    found, figures = run.distance_map, list[Figure]()
    if not (run.found.teacher and run.found.teacher.maze_distance and found):
        return figures
    cells = found["cells"]
    for key, title, form in (("critic", "The critic's distance", ".1f"), ("cells", "Cells to walk", ".0f")):
        height = min(3.2, plot.WIDTH * cells.shape[0] / cells.shape[1])
        with plot.figure(f"{title} from a start (ring) to every free cell", figures, height) as axes:
            _draw_map(axes, np.where(np.isinf(cells), np.inf, found[key]), form)
            ((row, column),) = np.argwhere(cells == 0)
            axes.plot(column, row, "o", markersize=15, fillstyle="none", color=plot.INK, markeredgewidth=0.8)
    with plot.figure("The critic's distance, by cells to walk (lines: middle half)", figures) as axes:
        plot.quartiles(axes, found["steps"], found["quartiles"], "cells to walk", TEACHER)
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(9, integer=True))
    return figures


def _draw_map(axes: Axes, values: np.ndarray, form: str) -> None:
    """Draws a maze [R, C], rows downwards: walls are NaN, a distance that is not infinite is a shade too."""
    shades = [to_rgba(TEACHER, alpha) for alpha in (0, STRONGEST)]
    colours = LinearSegmentedColormap.from_list("", shades).with_extremes(bad=plot.RULE, over=shades[0])
    reached = values[np.isfinite(values)]
    place = [np.arange(length) for length in values.T.shape]
    axes.pcolormesh(
        *place, values, cmap=colours, edgecolors="face", linewidth=0.5, vmin=reached.min(), vmax=reached.max()
    )
    for (row, column), value in np.ndenumerate(values):
        if not np.isnan(value):
            text = f"{value:{form}}" if np.isfinite(value) else "\N{EN DASH}"
            axes.text(column, row, text, ha="center", va="center", fontsize=7)
    axes.invert_yaxis()
    axes.set_aspect("equal")
    axes.set_axis_off()


def calibration(run: RunContext) -> list[Figure]:
    """Draws each student's score as evaluated and as run again; time to the goal by the critic's distance."""
    figures: list[Figure] = []
    if again := run.run_again:
        engines = (run.found.engine or "training", next(iter(again.values()))[1].engine or "")
        labels = [
            f"{what} in {engine(at)}" for what, at in zip(("student", "controller"), engines, strict=True)
        ]
        for key, title in SCORES.items():
            series = {
                label: ({size: pair[i] for size, pair in again.items()}, key)
                for i, label in enumerate(labels)
            }
            figures += _rows(title, list(again), series)
    found, of_critic = run.found.chosen.calibration, "by the critic's distance"
    if found and found.seconds and found.distance:
        with plot.figure(f"Seconds to the goal, {of_critic} (lines: middle half)", figures) as axes:
            seconds = [[found.horizon_s if each is None else each for each in row] for row in found.seconds]
            plot.quartiles(axes, found.distance, seconds, "critic's distance", STUDENT)
            plot.reference_line(axes, found.horizon_s, "or later")
            axes.set_ylim(0, 1.06 * (found.horizon_s or 0))
        arrived = Curve("", found.distance, found.arrived or [])
        title, axis = f"Reached the goal in that time, {of_critic}", "critic's distance"
        figures += plot.curves(title, [arrived], of=STUDENT, axis=axis, percent=True, counts=False)
    return figures


def parity(run: RunContext) -> list[Figure]:
    """Draws errors and latency of the selected file over the observations that it was verified on."""
    figures, allowed, size = list[Figure](), ACTION_TOLERANCE[0], run.found.selected
    errors = run.parity.get("action_error", ())
    if len(errors):
        with plot.figure(f"Largest error of an action of {size}, observations", figures) as axes:
            seen = np.maximum(errors, SMALLEST_ERROR)  # a logarithmic axis has no zero
            bins = np.geomspace(SMALLEST_ERROR, max(2 * allowed, seen.max()), BINS)
            axes.hist(seen, bins=bins.tolist(), color=STUDENT)
            axes.axvline(allowed, color=plot.MUTED, linewidth=1, linestyle=plot.DASHED, label="allowed")
            plot.logarithmic(axes.xaxis, "{x:.0e}", subs=(1,))
    return figures + _latencies(f"Latency of {size}, µs, observations", run.parity.get("latency_us", ()))


def _latencies(title: str, found: Any) -> list[Figure]:
    figures: list[Figure] = []
    if len(found):
        with plot.figure(title, figures) as axes:
            middle, slow = np.percentile(found, (50, 99))
            axes.hist(np.minimum(found, SLOWEST * slow), bins=BINS, color=STUDENT)
            axes.axvline(middle, color=plot.MUTED, linewidth=1, label="median")
            axes.axvline(slow, color=plot.MUTED, linewidth=1, linestyle=plot.DASHED, label="p99")
            axes.set_xlim(left=0)
            plot.logarithmic(axes.yaxis)
    return figures


def control_distances(run: RunContext) -> list[Figure]:
    """Draws the distance to the goal during the recorded episodes."""
    recording = run.recording
    episodes = recording.get("episodes", ())
    farthest = max((max(episode["distance"]) for episode in episodes), default=0.0)
    (scale, unit), curves = fitting(farthest, run.goal.unit), []
    for i, episode in enumerate(episodes, 1):
        steps = episode.get("steps") or range(len(episode["distance"]))  # runs of before have some
        seconds = recording["control_dt"] * np.asarray(steps)
        curves.append(Curve(str(i), seconds, scale * np.asarray(episode["distance"])))
    title = f"Distance to the goal in the recorded episodes{f', {unit}' if unit else ''}"
    limit = (scale * recording.get("success_radius", 0), "success")
    return plot.curves(title, curves, limit, of=STUDENT, axis="seconds", counts=False)


def robot(run: RunContext) -> list[Figure]:
    """Draws where each goal's time ended on the robot, and how long the steps took."""
    figures: list[Figure] = []
    found = run.found.robot.get(run.found.driven or "")
    ends = (found and found.distances_m) or []
    scale, unit = fitting(max([*ends, run.goal.success_radius or 0]), run.goal.unit)
    title = f"Distance at the end of each goal's time{f', {unit}' if unit else ''}"
    with plot.figure(title, figures) as axes:
        axes.plot(range(1, len(ends) + 1), [scale * end for end in ends], "o", color=STUDENT, label="goal")
        plot.reference_line(axes, scale * (run.goal.success_radius or 0), "success")
        axes.set(xlabel="goals, one after the other", ylim=(0, None))
    return figures + _latencies("From reading to writing on the robot, µs, steps", run.robot_latencies)


# Several runs


def teachers(
    title: str,
    groups: Mapping[str, Sequence[Sequence[JSON]]],
    references: Mapping[str, float | None],
    against: str = "env_steps",
) -> list[Figure]:
    """Draws scores of several teachers while they learned, a curve a group: the mean over its seeds.

    Args:
      title: what follows `Success` and `Time at goal`.
      groups: of each the metrics of its seeds.
      references: of the scores to draw, the reference policy's, if it is known.
      against: `env_steps` or `wall_s`."""
    figures: list[Figure] = []
    for key, reference in references.items():
        curves = []
        for name, seeds in groups.items():
            columns = [_columns(lines, against, "evaluation") for lines in seeds]
            found = [{at: score[key] for at, score in zip(*each, strict=True)} for each in columns if each[0]]
            common = [at for at in (found[0] if found else ()) if all(at in each for each in found)]
            mean = [float(np.mean([each[at] for each in found])) for at in common]
            thin = [(list(each), list(each.values())) for each in found if len(found) > 1]
            curves.append(Curve(name, common, mean, thin=thin))
        axis = "environment steps" if against == "env_steps" else "wall-clock time, s"
        limit = (reference, "reference policy")
        figures += plot.curves(f"{SCORES[key]}{title}", curves, limit, axis=axis, percent=True)
    return figures


def comparison_learning(runs: Mapping[str, RunContext]) -> list[Figure]:
    """Draws scores of several runs' teachers while they learned, against steps and against time."""
    metrics = {name: [run.teacher_metrics] for name, run in runs.items()}
    figures = teachers(" of the teachers", metrics, dict.fromkeys(SCORES))
    return figures + teachers(" of the teachers against time", metrics, {"success_final": None}, "wall_s")


# A sweep


def against_value(sweep: SweepContext) -> list[Figure]:
    """Draws score and wall-clock time against the setting that varies; nothing for none or several."""
    figures: list[Figure] = []
    if len(sweep.vary) != 1:
        return figures
    (field,) = sweep.vary
    runs = [(run.values, run.teacher) for run in sweep.finished]
    rows = [(row.values, row) for row in sweep.found.combinations]
    with plot.figure(f"Success and time at goal against {short(field)}", figures) as axes:
        lines = [(label.lower(), key, runs, rows) for key, label in SCORES.items()]
        _against(axes, sweep, field, lines, TEACHER)
        failed = [sweep.vary[field].index(run.values[field]) for run in sweep.failed]
        if failed:
            axes.plot(failed, [0] * len(failed), "x", color=plot.MUTED, markersize=6, label="failed")
        plot.reference_line(axes, sweep.reference("time_at_goal"), "reference: time at goal")
        plot.all_percent(axes)
    with plot.figure("Wall-clock time of a run, s", figures) as axes:
        _against(axes, sweep, field, [("", "wall_s", runs, rows)], TEACHER)
        axes.set_ylim(bottom=0)
    return figures


def sweep_students(sweep: SweepContext) -> list[Figure]:
    """Draws students' time at goal and retention against the varied setting, a line a size, and teachers'.

    Where several settings vary, against the depth or else the last one, two figures for each combination of
    the others; nothing where none does."""
    figures: list[Figure] = []
    field = DEPTH if DEPTH in sweep.vary else next(reversed(sweep.vary), "")
    titles = {"time_at_goal": "Time at goal of students", "retention": "Retention of time at goal"}
    for panel, where in _panels(sweep.found.students, field) if field else ():
        by_size: dict[str, Any] = {}
        for row in _within(panel, sweep.found.students):
            runs = [(run.values, run.students.get(row.size)) for run in _within(panel, sweep.finished)]
            by_size.setdefault(row.size, (runs, []))[1].append((row.values, row))
        for key, title in titles.items():
            lines = [(size, key, *found) for size, found in by_size.items()]
            if key == "time_at_goal":  # of teachers in the students' episodes, the same for all sizes
                lines.append(("teacher", f"teacher_{key}", *next(iter(by_size.values()))))
            with plot.figure(f"{title}{where}", figures) as axes:
                _against(axes, sweep, field, lines, STUDENT)
                plot.percent_axis(axes.yaxis)
                if key == "retention":
                    axes.axhline(1, color=plot.MUTED, linewidth=1)
                else:
                    axes.set_ylim(bottom=0)
                axes.set_xlabel(f"{short(field)} of the teacher")
    return figures


def sweep_learning(sweep: SweepContext) -> list[Figure]:
    """Draws scores against environment steps, a colour for each value of the last setting that varies.

    Where several vary, figures for each combination of the others."""
    figures: list[Figure] = []
    last = next(reversed(sweep.vary), "")
    for panel, where in _panels(sweep.found.combinations, last):
        groups: dict[str, list[list[JSON]]] = {}
        for run in _within(panel, sweep.found.runs):
            name = shown(run.values[last]) if last else sweep.preset
            groups.setdefault(name, []).append(sweep.metrics[run.run])
        references = {key: sweep.reference(key, panel) for key in SCORES}
        figures += teachers(f"{where}, by {short(last) if last else 'preset'}", groups, references)
    return figures


def _panels(rows: Iterable[Any], field: str) -> list[tuple[JSON, str]]:
    """Returns the combinations of settings but this one, in their order, and where they stand in a title."""
    panels: list[JSON] = []
    for row in rows:
        panel = {name: value for name, value in row.values.items() if name != field}
        if panel not in panels:
            panels.append(panel)
    return [(panel, f" at {described(panel)}" if panel else "") for panel in panels]


def _within(panel: JSON, rows: Iterable[Any]) -> list[Any]:
    return [row for row in rows if row.values.items() >= panel.items()]


def _against(
    axes: Axes, sweep: SweepContext, field: str, lines: Sequence[tuple[str, str, Any, Any]], of: str
) -> None:
    """Draws measures over the values of a setting: means joined, with their intervals, beside a dot a run.

    Args:
      lines: of each its name, the key, and runs and means over seeds, each with its values.
      of: TEACHER or STUDENT, whose colour all lines have but that of the name `teacher`."""
    values = sweep.vary[field]
    for i, ((name, key, *found), dashes) in enumerate(zip(lines, cycle(plot.DASHES))):
        shift = (i - (len(lines) - 1) / 2) * SPREAD / max(len(lines), 2)
        colour = TEACHER if name == "teacher" else of
        runs, means = (
            [(values.index(at[field]) + shift, of) for at, of in each if getattr(of, key, None) is not None]
            for each in found
        )
        means.sort(key=lambda each: each[0])
        plot.dots(axes, means, key, label=name, color=colour, linestyle=dashes)
        beside, dots = [at + NEAR for at, _ in runs], [getattr(of, key) for _, of in runs]
        axes.plot(beside, dots, "o", color=colour, alpha=0.6, markeredgewidth=0)
    axes.set_xticks(range(len(values)), list(map(shown, values)))
    axes.set_xlim(-0.3, len(values) - 0.7)
    axes.set_xlabel(short(field))
