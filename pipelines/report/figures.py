"""The figures of pages. Each function gives those for which there is something to draw."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgba
from matplotlib.ticker import MaxNLocator

from pipelines.files import JSON, read_columns
from pipelines.formats import INTERVALS, engine, fitting
from pipelines.report import plot
from pipelines.report.context import RunContext, SweepContext
from pipelines.report.plot import STUDENT, TEACHER, Curve, Figure
from pipelines.rundir import DISTANCE_MAP, ROBOT_LOG
from pipelines.summary import Figures, StudentFigures, SweepRun
from pipelines.sweep import described, short, shown
from pipelines.tables import current_robustness

SCORES = {"success_final": "Success", "time_at_goal": "Time at goal"}
LEARNED = {
    "critic_accuracy": "Critic accuracy on training batches",
    "critic_loss": "Critic loss",
    "actor_loss": "Actor loss",
}
COSTS = {"parameters": "parameters", "latency_us_p50": "median latency, µs"}
# Of each run, so that colour is not all that tells them apart.
MARKS: list[dict[str, Any]] = [
    {"color": colour, "marker": kind} for colour, kind in zip(plot.SERIES, "osD^", strict=True)
]
BINS = 40
SLOWEST = 1.5  # times the 99th percentile; slower answers stand there
STRONGEST = 0.5  # opacity of a maze's farthest cell, so that its number stays readable
NAME_SIZE = np.array([0.16, 0.08])  # of the axes: what a student's name takes
SPREAD, NEAR = 0.16, 0.03  # of the way to the next value: over all lines, and from a mean to its dots
DEPTH = "network.depth"  # stands on the axis of students where it varies


# A run


def learning(run: RunContext) -> list[Figure]:
    """Draws the teacher's scores, accuracy and losses against environment steps."""
    figures: list[Figure] = []
    with plot.figure(f"The teacher in held-out episodes (bands: {INTERVALS})", figures) as axes:
        steps, scores = _columns(run.teacher_metrics, "env_steps", "evaluation")
        bands = {key: [[each[k] for each in scores] for k in (key, f"{key}_interval")] for key in SCORES}
        plot.curves(
            axes, [Curve(SCORES[key].lower(), steps, *each) for key, each in bands.items()], of=TEACHER
        )
        known = run.found.reference.time_at_goal if run.found.reference else None
        plot.reference_line(axes, known, "reference: time at goal")
        plot.all_percent(axes)
    for key, title in LEARNED.items():
        with plot.figure(title, figures) as axes:
            plot.curves(axes, [Curve("", *_columns(run.teacher_metrics, "env_steps", key))], of=TEACHER)
            if key == "critic_accuracy":
                plot.all_percent(axes)
    return figures


def _columns(lines: Sequence[JSON], *keys: str) -> list[list[Any]]:
    """Returns the values of each key, of the lines that have them all."""
    return [[line[key] for line in lines if line.keys() >= {*keys}] for key in keys]


def distillation(run: RunContext) -> list[Figure]:
    """Draws the policy loss of every size against labels."""
    lines, figures = run.student_metrics, list[Figure]()
    with plot.figure("Policy loss of the students", figures) as axes:
        losses = {size: f"{size}/policy_loss" for size in run.config.student.sizes}
        found = [Curve(size, *_columns(lines, "labels", key)) for size, key in losses.items()]
        plot.curves(axes, found, "labelled states", STUDENT)
        low, high = axes.dataLim.intervaly
        if 0 < 5 * low <= high < np.inf:  # spans enough to have ticks
            plot.logarithmic(axes.yaxis, "{x:g}")
    return figures


def retention_and_cost(runs: Mapping[str, RunContext]) -> list[Figure]:
    """Draws retention against parameters and latency, a point a student with its interval.

    Of one run: the teacher at 100 %, which student was selected, and names where they fit."""
    figures: list[Figure] = []
    for key, what in COSTS.items():
        with plot.figure(f"Retention of time at goal against {what.partition(',')[0]}", figures, 3.4) as axes:
            axes.axhline(1, color=plot.MUTED, linewidth=1)
            axes.set_xlabel(what)
            plot.logarithmic(axes.xaxis)
            plot.percent_axis(axes.yaxis)
            for (name, run), look in zip(runs.items(), cycle(MARKS)):
                of_cost = run.found.students if key == "parameters" else run.found.export
                points = {
                    size: (cost, student)
                    for size, student in run.found.students.items()
                    if (cost := getattr(of_cost.get(size), key, None)) and student.retention is not None
                }
                if len(runs) == 1:
                    _students(axes, run, points, key)
                else:
                    plot.dots(axes, points.values(), "retention", label=name, **look)
    return figures


def _students(
    axes: Axes, run: RunContext, points: Mapping[str, tuple[float, StudentFigures]], key: str
) -> None:
    """Draws the students of one run, each at its cost, beside their teacher."""
    chosen = {size: point for size, point in points.items() if size == run.found.selected}
    plot.reference_line(axes, run.config.student.min_retention or None, "required")
    plot.dots(axes, points.values(), "retention", color=STUDENT, markerfacecolor=plot.PAPER, label="student")
    plot.dots(axes, chosen.values(), "retention", color=STUDENT, label="selected")
    if key == "parameters":
        teacher = next(filter(None, (student.teacher_parameters for _, student in points.values())), None)
    elif teacher := getattr(run.found.teacher, key, None):
        axes.set_xlabel(f"{axes.get_xlabel()}; of the teacher in JAX")
    if teacher:
        axes.plot(teacher, 1, "s", color=TEACHER, markersize=6, label="teacher")
    axes.margins(x=0.1, y=0.2)
    low, high = axes.dataLim.intervalx
    if 0 < high < 1.01 * low:  # one cost alone, around which a logarithmic axis would have no width
        axes.set_xlim(low / 2, 2 * low)
    tops = {
        size: (cost, (student.interval("retention") or (0.0, student.retention or 0.0))[1])
        for size, (cost, student) in {**chosen, **points}.items()
    }
    name_points(axes, tops)


def name_points(axes: Axes, points: Mapping[str, tuple[float, float]]) -> None:
    """Writes names above points, the first first; one that would overlap another is left out."""
    taken: list[Any] = []
    for name, point in points.items():
        place = (axes.transScale + axes.transLimits).transform(point)
        if all((np.abs(place - other) > NAME_SIZE).any() for other in taken):
            axes.annotate(name, point, (0, 5), textcoords="offset points", ha="center")
            taken.append(place)


def robustness(run: RunContext) -> list[Figure]:
    """Draws time at goal of the selected student and its teacher, a row a condition."""
    rows = {name: (trial, trial) for name, trial in current_robustness(run.found).items()}
    return _rows("Time at goal by condition", rows, {"teacher": "teacher", "student": "student"})


def _rows(title: str, rows: Mapping[str, tuple[Figures, Figures]], series: Mapping[str, str]) -> list[Figure]:
    """Draws one row a name and in it two dots, of the key that each of the series has."""
    figures: list[Figure] = []
    with plot.figure(f"{title} (lines: {INTERVALS})", figures, 0.7 + 0.32 * len(rows)) as axes:
        for side, (label, key) in enumerate(series.items()):
            look = {"color": TEACHER if label == "teacher" else STUDENT}
            look |= {"markerfacecolor": plot.PAPER} if side == 0 and label != "teacher" else {}
            at = [(i - 0.2 + 0.4 * side, pair[side]) for i, pair in enumerate(rows.values())]
            plot.dots(axes, at, key, flat=True, label=label, **look)
        axes.set_yticks(range(len(rows)), list(rows))
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        plot.percent_axis(axes.xaxis)
    return figures


def maze_distances(run: RunContext) -> list[Figure]:
    """Draws maps of the distances from a start, by the critic and in cells, and all distances by cells."""
    found, figures = read_columns(run.path / "teacher" / DISTANCE_MAP), list[Figure]()
    if not (run.found.teacher and run.found.teacher.maze_distance and found):
        return figures
    cells = found["cells"]
    for key, title, form in (("critic", "The critic's distance", ".1f"), ("cells", "Cells to walk", ".0f")):
        height = min(3.2, plot.WIDTH * cells.shape[0] / cells.shape[1])
        with plot.figure(f"{title} from a start (ring) to every free cell", figures, height) as axes:
            _draw_map(axes, np.where(np.isinf(cells), np.inf, found[key]), form)
            ((row, column),) = np.argwhere(cells == 0) + 0.5
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
    top = values[np.isfinite(values)].max()
    axes.pcolormesh(values, cmap=colours, edgecolors="face", linewidth=0.5, vmin=np.nanmin(values), vmax=top)
    for (row, column), value in np.ndenumerate(values):
        if not np.isnan(value):
            text = f"{value:{form}}" if np.isfinite(value) else "\N{EN DASH}"
            axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=7)
    axes.invert_yaxis()
    axes.set_aspect("equal")
    axes.set_axis_off()


def calibration(run: RunContext) -> list[Figure]:
    """Draws each student's score as evaluated and as run again; time to the goal by the critic's distance."""
    figures: list[Figure] = []
    again = {
        size: (run.found.students[size], control)
        for size, control in run.found.control.items()
        if run.found.is_exported(size, control)
    }
    for key, title in SCORES.items() if again else ():
        at = engine(run.found.engine or "training"), engine(next(iter(again.values()))[1].engine or "")
        figures += _rows(title, again, {f"student in {at[0]}": key, f"controller in {at[1]}": key})
    found, of_critic = run.found.chosen.calibration, "by the critic's distance"
    if found and found.seconds and found.distance:
        with plot.figure(f"Seconds to the goal, {of_critic} (lines: middle half)", figures) as axes:
            seconds = [[found.horizon_s if each is None else each for each in row] for row in found.seconds]
            plot.quartiles(axes, found.distance, seconds, "critic's distance", STUDENT)
            plot.reference_line(axes, found.horizon_s, "or later")
            axes.set_ylim(0, 1.06 * (found.horizon_s or 0))
        with plot.figure(f"Reached the goal in that time, {of_critic}", figures) as axes:
            arrived = Curve("", found.distance, found.arrived or [])
            plot.curves(axes, [arrived], "critic's distance", STUDENT)
            plot.all_percent(axes)
    return figures


def parity(run: RunContext) -> list[Figure]:
    """Draws latencies of the selected file over the observations that it was verified on."""
    columns = read_columns(run.parity(run.found.selected or ""))
    return _latencies(f"Latency of {run.found.selected}, µs, observations", columns)


def _latencies(title: str, columns: Mapping[str, np.ndarray]) -> list[Figure]:
    figures, found = list[Figure](), columns.get("latency_us", ())
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
    recording, figures, curves = run.recording, list[Figure](), []
    episodes = recording.get("episodes", ())
    scale, unit = fitting(max((max(each["distance"]) for each in episodes), default=0.0), run.goal.unit)
    for i, episode in enumerate(episodes, 1):
        steps = episode.get("steps") or range(len(episode["distance"]))  # runs of before have some
        seconds = recording["control_dt"] * np.asarray(steps)
        curves.append(Curve(str(i), seconds, scale * np.asarray(episode["distance"])))
    title = f"Distance to the goal in the recorded episodes{f', {unit}' if unit else ''}"
    with plot.figure(title, figures) as axes:
        plot.curves(axes, curves, "seconds", STUDENT)
        plot.reference_line(axes, scale * recording.get("success_radius", 0), "success")
        axes.set_ylim(bottom=0)
    return figures


def robot(run: RunContext) -> list[Figure]:
    """Draws where each goal's time ended on the robot, and how long the steps took."""
    figures: list[Figure] = []
    driven = run.found.driven or ""
    ends = (driven and run.found.robot[driven].distances_m) or []
    radius = run.goal.success_radius or 0.0
    scale, unit = fitting(max([*ends, radius]), run.goal.unit)
    title = f"Distance at the end of each goal's time{f', {unit}' if unit else ''}"
    with plot.figure(title, figures) as axes:
        axes.plot(range(1, len(ends) + 1), [scale * end for end in ends], "o", color=STUDENT, label="goal")
        plot.reference_line(axes, scale * radius, "success")
        axes.set(xlabel="goals, one after the other", ylim=(0, None))
    log = read_columns(run.path / "control" / driven / ROBOT_LOG)
    return figures + _latencies("From reading to writing on the robot, µs, steps", log)


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
        with plot.figure(f"{SCORES[key]}{title}", figures) as axes:
            curves = []
            for name, seeds in groups.items():
                found = []
                for lines in seeds:
                    at, scores = _columns(lines, against, "evaluation")
                    found += [(at, [score[key] for score in scores])] if at else []
                mean = [float(np.mean(each)) for each in zip(*(scores for _, scores in found), strict=False)]
                at = found[0][0][: len(mean)] if found else []
                curves.append(Curve(name, at, mean, thin=found if len(found) > 1 else ()))
            axis = "environment steps" if against == "env_steps" else "wall-clock time, s"
            plot.curves(axes, curves, axis)
            plot.reference_line(axes, reference, "reference policy")
            plot.all_percent(axes)
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
    if len(sweep.found.vary) != 1:
        return figures
    (field,) = sweep.found.vary
    runs = [(run.values, run.teacher) for run in sweep.finished]
    rows = [(row.values, row) for row in sweep.found.combinations]
    with plot.figure(f"Success and time at goal against {short(field)}", figures) as axes:
        lines = [(label.lower(), key, runs, rows) for key, label in SCORES.items()]
        _against(axes, sweep, field, lines, TEACHER)
        failed = [sweep.found.vary[field].index(run.values[field]) for run in sweep.failed]
        if failed:
            axes.plot(failed, [0] * len(failed), "x", color=plot.MUTED, markersize=6, label="failed")
        plot.reference_line(axes, reference("time_at_goal", sweep.finished), "reference: time at goal")
        plot.all_percent(axes)
    with plot.figure("Wall-clock time of a run, s", figures) as axes:
        _against(axes, sweep, field, [("", "wall_s", runs, rows)], TEACHER)
        axes.set_ylim(bottom=0)
    return figures


def sweep_students(sweep: SweepContext) -> list[Figure]:
    """Draws students' time at goal and retention against the varied setting, a line a size, and teachers'.

    Where several settings vary, against the depth or else the last one, two figures for each combination of
    the others; nothing where none does."""
    figures, vary = list[Figure](), sweep.found.vary
    field = DEPTH if DEPTH in vary else next(reversed(vary), "")
    finished = _panels(sweep.finished, field)
    for where, rows in _panels(sweep.found.students, field).items() if field else ():
        sizes: dict[str, Any] = {
            size: (
                [(run.values, run.students.get(size)) for run in finished.get(where, ())],
                [(row.values, row) for row in rows if row.size == size],
            )
            for size in dict.fromkeys(row.size for row in rows)
        }
        # Of teachers in the students' episodes, the same for all sizes.
        teacher = ("teacher", "teacher_time_at_goal", *next(iter(sizes.values())))
        lines = [(size, "time_at_goal", *found) for size, found in sizes.items()]
        with plot.figure(f"Time at goal of students{where}", figures) as axes:
            _against(axes, sweep, field, [*lines, teacher], STUDENT)
            plot.percent_axis(axes.yaxis)
            axes.set_ylim(bottom=0)
            axes.set_xlabel(f"{short(field)} of the teacher")
        with plot.figure(f"Retention of time at goal{where}", figures) as axes:
            _against(
                axes, sweep, field, [(size, "retention", *found) for size, found in sizes.items()], STUDENT
            )
            plot.percent_axis(axes.yaxis)
            axes.axhline(1, color=plot.MUTED, linewidth=1)
            axes.set_xlabel(f"{short(field)} of the teacher")
    return figures


def sweep_learning(sweep: SweepContext) -> list[Figure]:
    """Draws scores against environment steps, a colour for each value of the last setting that varies.

    Where several vary, figures for each combination of the others."""
    figures: list[Figure] = []
    last = next(reversed(sweep.found.vary), "")
    for where, runs in _panels(sweep.found.runs, last).items():
        groups: dict[str, list[list[JSON]]] = {}
        for run in runs:
            name = shown(run.values[last]) if last else sweep.found.preset
            groups.setdefault(name, []).append(sweep.metrics[run.run])
        references = {key: reference(key, runs) for key in SCORES}
        figures += teachers(f"{where}, by {short(last) if last else 'preset'}", groups, references)
    return figures


def reference(key: str, runs: Iterable[SweepRun]) -> float | None:
    """Returns the reference policy's score, if it is the same for all of these runs that have one."""
    found = {getattr(run.reference, key) for run in runs if run.reference}
    return found.pop() if len(found) == 1 else None


def _panels(rows: Iterable[Any], field: str) -> dict[str, list[Any]]:
    """Returns the rows by their values of all settings but this one, as these stand in a title."""
    panels: dict[str, list[Any]] = {}
    for row in rows:
        others = {name: value for name, value in row.values.items() if name != field}
        panels.setdefault(f" at {described(others)}" if others else "", []).append(row)
    return panels


def _against(
    axes: Axes, sweep: SweepContext, field: str, lines: Sequence[tuple[str, str, Any, Any]], of: str
) -> None:
    """Draws measures over the values of a setting: means joined, with their intervals, beside a dot a run.

    Args:
      lines: of each its name, the key, and runs and means over seeds, each with its values.
      of: TEACHER or STUDENT, whose colour all lines have but that of the name `teacher`."""
    values = sweep.found.vary[field]
    for i, ((name, key, *found), dashes) in enumerate(zip(lines, cycle(plot.DASHES))):
        shift = (i - (len(lines) - 1) / 2) * SPREAD / max(len(lines), 2)
        colour = TEACHER if name == "teacher" else of
        runs, means = (
            [(values.index(at[field]) + shift, of) for at, of in each if getattr(of, key, None) is not None]
            for each in found
        )
        plot.dots(axes, means, key, label=name, color=colour, linestyle=dashes)
        beside, dots = [at + NEAR for at, _ in runs], [getattr(of, key) for _, of in runs]
        axes.plot(beside, dots, "o", color=colour, alpha=0.6, markeredgewidth=0)
    axes.set_xticks(range(len(values)), list(map(shown, values)))
    axes.set_xlim(-0.3, len(values) - 0.7)
    axes.set_xlabel(short(field))
