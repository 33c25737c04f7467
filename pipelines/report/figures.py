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
from pipelines.report import plot
from pipelines.report.context import JSON, RunContext, SweepContext
from pipelines.report.page import INTERVALS, centimetres
from pipelines.report.plot import Figure
from pipelines.sweep import described, short, shown

SCORES = {"success_final": "Success", "time_at_goal": "Time at goal"}
STUDENT, TEACHER, CONTROLLER, _ = plot.SERIES
LEARNED = {
    "critic_accuracy": "Critic accuracy on training batches",
    "critic_loss": "Critic loss",
    "actor_loss": "Actor loss",
}
# Of each run, so that colour is not all that tells them apart.
MARKS = [{"color": colour, "marker": kind} for colour, kind in zip(plot.SERIES, "osD^", strict=True)]
BINS = 40
SMALLEST_ERROR = 1e-9  # drawn; smaller ones, and none at all, stand there
SLOWEST = 1.5  # times the 99th percentile; slower answers stand there
STRONGEST = 0.5  # opacity of a maze's farthest cell, so that its number stays readable
SPREAD, NEAR = 0.16, 0.03  # of the way to the next value: over all lines, and from a mean to its dots
DEPTH = "network.depth"  # stands on the axis of students where it varies


# A run


def learning(run: RunContext) -> list[Figure]:
    """Draws the teacher's scores, accuracy and losses against environment steps."""
    figures: list[Figure] = []
    scores = {line["env_steps"]: line["evaluation"] for line in run.teacher_metrics if "evaluation" in line}
    with plot.figure(f"Held-out episodes (bands: {INTERVALS})", figures) as axes:
        for key, label in SCORES.items():
            values, ends = ([each[k] for each in scores.values()] for k in (key, f"{key}_interval"))
            plot.curve(axes, list(scores), values, label=label.lower(), band=ends)
        reference = run.summary.get("reference", {}).get("time_at_goal")
        plot.reference_line(axes, reference, "reference: time at goal", TEACHER)
        plot.all_percent(axes)
        plot.steps_axis(axes)
    for key, title in LEARNED.items():
        with plot.figure(title, figures) as axes:
            plot.curve(axes, *_columns(run.teacher_metrics, "env_steps", key))
            if key == "critic_accuracy":
                plot.all_percent(axes)
            plot.steps_axis(axes)
    return figures


def _columns(lines: Sequence[JSON], *keys: str) -> list[list[Any]]:
    """Returns the values of each key, of the lines that have them all."""
    return [[line[key] for line in lines if line.keys() >= {*keys}] for key in keys]


def distillation(run: RunContext) -> list[Figure]:
    """Draws losses of every size, and of the critic, against labels."""
    lines, figures = run.student_metrics, list[Figure]()
    rank = {size: i for i, size in enumerate(run.settings["config"]["student"]["sizes"])}
    names = [key for key in (lines[0] if lines else {}) if key.endswith("_loss")]
    names.sort(key=lambda key: rank.get(key.partition("/")[0], len(rank)))
    for title, of_critic in (("Policy loss of the students", False), ("Critic loss of the students", True)):
        with plot.figure(title, figures) as axes:
            for key in (key for key in names if ("critic" in key) == of_critic):
                label = re.sub(r"^critic/|_loss$|/(policy|critic)_loss$", "", key)
                plot.curve(axes, *_columns(lines, "labels", key), label=label)
            low, high = axes.dataLim.intervaly
            if 0 < 5 * low <= high < np.inf:  # spans enough to have ticks
                plot.logarithmic(axes.yaxis, "{x:g}")
            plot.steps_axis(axes, "labelled states")
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
                found = {size: run.exported.get(size, {}) | each for size, each in run.students.items()}
                points = {size: each for size, each in found.items() if each.keys() >= {"retention", key}}
                if len(runs) == 1:
                    _front(axes, run, points, key)
                else:
                    _points(axes, points, points, key, label=name, **look)
    return figures


def _points(axes: Axes, points: Mapping[str, JSON], sizes: Iterable[str], key: str, **look: Any) -> None:
    of = [points[size] for size in sizes]
    plot.dots(axes, [each[key] for each in of], of, "retention", **look)


def _front(axes: Axes, run: RunContext, points: Mapping[str, JSON], key: str) -> None:
    leading = front(points, key)
    plot.reference_line(axes, run.settings["config"]["student"]["min_retention"] or None, "required")
    axes.plot(*_columns([points[size] for size in leading], key, "retention"), color=TEACHER, linewidth=0.8)
    chosen = [size for size in points if size == run.selected]
    _points(axes, points, points, key, color=TEACHER)
    _points(axes, points, chosen, key, color=STUDENT, label="selected")
    teacher = run.teacher.get(key) or next((each.get(f"teacher_{key}") for each in points.values()), None)
    if teacher:
        axes.plot(teacher, 1, "s", color=plot.MUTED, markersize=6, label="teacher")
        if key != "parameters":
            axes.set_xlabel(f"{axes.get_xlabel()}; of the teacher in JAX")
    axes.margins(x=0.1, y=0.2)
    low, high = axes.dataLim.intervalx
    if 0 < high < 1.01 * low:  # one cost alone, around which a logarithmic axis would have no width
        axes.set_xlim(low / 2, 2 * low)
    order = {size: points[size] for size in (*chosen, *leading, *points)}
    places = {size: (each[key], *each["retention_interval"]) for size, each in order.items()}
    plot.name_points(axes, places)


def front(points: Mapping[str, JSON], key: str) -> list[str]:
    """Returns the students that none surpasses at no more cost, the cheapest first; `key` is the cost's."""
    found: list[str] = []
    for size in sorted(points, key=lambda size: (points[size][key], -points[size]["retention"])):
        if not found or points[size]["retention"] > points[found[-1]]["retention"]:
            found.append(size)
    return found


def robustness(run: RunContext) -> list[Figure]:
    """Draws time at goal of the selected student and its teacher, a row a condition."""
    series = {who: (run.conditions, who) for who in ("teacher", "student")}
    return _rows("Time at goal by condition", list(run.conditions), series)


def _rows(title: str, names: list[str], series: Mapping[str, tuple[Mapping[str, JSON], str]]) -> list[Figure]:
    """Draws one row a name and in it a dot a series; of each the figures of its rows and their key."""
    figures: list[Figure] = []
    looks = zip((-0.2, 0.2, 0), (TEACHER, STUDENT, CONTROLLER), strict=True)
    with plot.figure(f"{title} (lines: {INTERVALS})", figures, 0.7 + 0.32 * len(names)) as axes:
        for (label, (rows, key)), (shift, colour) in zip(series.items(), looks, strict=False):
            at = [names.index(name) + shift for name in rows]
            plot.dots(axes, at, list(rows.values()), key, flat=True, label=label, color=colour)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        plot.percent_axis(axes.xaxis)
    return figures


def maze_distances(run: RunContext) -> list[Figure]:
    """Draws maps of the distances from a start, by the critic and in cells, and all distances by cells."""
    found, figures = run.distance_map, list[Figure]()
    if "maze_distance" not in run.teacher or not found:
        return figures
    cells = found["cells"]
    for key, title, form in (("critic", "The critic's distance", ".1f"), ("cells", "Cells to walk", ".0f")):
        height = min(3.2, plot.WIDTH * cells.shape[0] / cells.shape[1])
        with plot.figure(f"{title} from a start (ring) to every free cell", figures, height) as axes:
            _draw_map(axes, np.where(np.isinf(cells), np.inf, found[key]), form)
            ((row, column),) = np.argwhere(cells == 0)
            axes.plot(column, row, "o", markersize=15, fillstyle="none", color=plot.INK, markeredgewidth=0.8)
    with plot.figure("The critic's distance, by cells to walk (lines: middle half)", figures) as axes:
        plot.quartiles(axes, found["steps"], found["quartiles"], "cells to walk")
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(9, integer=True))
    return figures


def _draw_map(axes: Axes, values: np.ndarray, form: str) -> None:
    """Draws a maze [R, C], rows downwards: walls are NaN, a distance that is not infinite is a shade too."""
    shades = [to_rgba(plot.SERIES[0], alpha) for alpha in (0, STRONGEST)]
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


def calibration(run: RunContext, engines: Sequence[str]) -> list[Figure]:
    """Draws each student's score as evaluated and as run again; time to the goal by the critic's distance."""
    figures: list[Figure] = []
    pairs = [{size: pair[i] for size, pair in run.run_again.items()} for i in range(2)]
    for key, title in SCORES.items():
        series = {engine: (scores, key) for engine, scores in zip(engines, pairs, strict=False)}
        figures += _rows(title, list(run.run_again), series)
    if found := run.chosen.get("calibration"):
        horizon, of_critic = found["horizon_s"], "by the critic's distance"
        with plot.figure(f"Seconds to the goal, {of_critic} (lines: middle half)", figures) as axes:
            seconds = [[horizon if each is None else each for each in row] for row in found["seconds"]]
            plot.quartiles(axes, found["distance"], seconds, "critic's distance")
            plot.reference_line(axes, horizon, "or later")
            axes.set_ylim(0, 1.06 * horizon)
        with plot.figure(f"Reached the goal in that time, {of_critic}", figures) as axes:
            plot.curve(axes, found["distance"], found["arrived"])
            plot.all_percent(axes)
            axes.set_xlabel("critic's distance")
    return figures


def parity(run: RunContext) -> list[Figure]:
    """Draws errors and latency of the selected file over the observations that it was verified on."""
    figures, allowed = list[Figure](), ACTION_TOLERANCE[0]
    errors, latency = (run.parity.get(name, ()) for name in ("action_error", "latency_us"))
    if len(errors):
        with plot.figure(f"Largest error of an action of {run.selected}, observations", figures) as axes:
            seen = np.maximum(errors, SMALLEST_ERROR)  # a logarithmic axis has no zero
            bins = np.geomspace(SMALLEST_ERROR, max(2 * allowed, seen.max()), BINS)
            axes.hist(seen, bins=bins.tolist(), color=STUDENT)
            axes.axvline(allowed, color=plot.MUTED, linewidth=1, linestyle=plot.DASHED, label="allowed")
            plot.logarithmic(axes.xaxis, "{x:.0e}", subs=(1,))
    if len(latency):
        with plot.figure(f"Latency of {run.selected}, µs, observations", figures) as axes:
            middle, slow = np.percentile(latency, (50, 99))
            axes.hist(np.minimum(latency, SLOWEST * slow), bins=BINS, color=STUDENT)
            axes.axvline(middle, color=plot.MUTED, linewidth=1, label="median")
            axes.axvline(slow, color=plot.MUTED, linewidth=1, linestyle=plot.DASHED, label="p99")
            axes.set_xlim(left=0)
            plot.logarithmic(axes.yaxis)
    return figures


def control_distances(run: RunContext) -> list[Figure]:
    """Draws the distance to the goal during the recorded episodes."""
    figures: list[Figure] = []
    (scale, unit), recording = centimetres(run.goal.get("unit")), run.recording
    title = f"Distance to the goal in the recorded episodes{f', {unit}' if unit else ''}"
    with plot.figure(title, figures) as axes:
        for i, episode in enumerate(recording.get("episodes", ()), 1):
            steps = episode.get("steps") or range(len(episode["distance"]))  # runs of before have some
            seconds = recording["control_dt"] * np.asarray(steps)
            plot.curve(axes, seconds, scale * np.asarray(episode["distance"]), label=str(i))
        plot.reference_line(axes, scale * recording.get("success_radius", 0), "success")
        axes.set(xlabel="seconds", xlim=(0, None), ylim=(0, None))
    return figures


def robot(run: RunContext) -> list[Figure]:
    """Draws where each goal's time ended on the robot, and how long the steps took."""
    figures: list[Figure] = []
    (scale, unit), found = centimetres(run.goal.get("unit")), run.summary.get("robot", {}).get(run.driven, {})
    title = f"Distance at the end of each goal's time{f', {unit}' if unit else ''}"
    with plot.figure(title, figures) as axes:
        ends = [scale * each for each in found.get("distances_m", ())]
        axes.plot(range(1, len(ends) + 1), ends, "o", label="goal")
        plot.reference_line(axes, scale * run.goal.get("success_radius", 0), "success")
        axes.set(xlabel="goals, one after the other", ylim=(0, None))
    if len(run.robot_latencies):
        with plot.figure("From reading to writing on the robot, µs", figures) as axes:
            axes.hist(run.robot_latencies, bins=60, color=STUDENT)
            plot.logarithmic(axes.yaxis)
            axes.set(ylabel="steps", xlim=(0, None))
    return figures


# Several runs


def policies(runs: Mapping[str, RunContext]) -> list[Figure]:
    """Draws success and time at goal of several runs: a row a run, a dot a policy."""
    scored = {name: run.scored for name, run in runs.items()}
    by_stage = {
        stage: {name: found[stage] for name, found in scored.items() if stage in found}
        for stage in ("teacher", "student", "controller")
    }
    titles = SCORES.items()
    return [
        figure
        for key, title in titles
        for figure in _rows(title, list(runs), {stage: (rows, key) for stage, rows in by_stage.items()})
    ]


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
            for name, seeds in groups.items():
                columns = [_columns(lines, against, "evaluation") for lines in seeds]
                found = [{at: score[key] for at, score in zip(*each, strict=True)} for each in columns]
                found = [each for each in found if each]
                common = [at for at in (found[0] if found else ()) if all(at in each for each in found)]
                mean = [float(np.mean([each[at] for each in found])) for at in common]
                line = plot.curve(axes, common, mean, label=name)
                look: dict[str, Any] = {"color": line.get_color(), "linestyle": line.get_linestyle()}
                for each in found if len(found) > 1 else ():
                    axes.plot(list(each), list(each.values()), linewidth=0.8, alpha=0.45, **look)
            plot.reference_line(axes, reference, "reference policy")
            plot.all_percent(axes)
            plot.steps_axis(axes, "environment steps" if against == "env_steps" else "wall-clock time, s")
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
    runs, rows = sweep.finished, sweep.combinations
    with plot.figure(f"Success and time at goal against {short(field)}", figures) as axes:
        lines = [(label.lower(), key, runs, rows) for key, label in SCORES.items()]
        _against(axes, sweep, field, lines)
        failed = [sweep.vary[field].index(run["values"][field]) for run in sweep.failed]
        if failed:
            axes.plot(failed, [0] * len(failed), "x", color=plot.MUTED, markersize=6, label="failed")
        plot.reference_line(axes, sweep.reference("time_at_goal"), "reference: time at goal", TEACHER)
        plot.all_percent(axes)
    with plot.figure("Wall-clock time of a run, s", figures) as axes:
        _against(axes, sweep, field, [("", "wall_s", runs, rows)])
        axes.set_ylim(bottom=0)
    return figures


def sweep_students(sweep: SweepContext) -> list[Figure]:
    """Draws students' time at goal and retention against the varied setting, a line a size, and teachers'.

    Where several settings vary, against the depth or else the last one, two figures for each combination of
    the others; nothing where none does."""
    figures: list[Figure] = []
    field = DEPTH if DEPTH in sweep.vary else next(reversed(sweep.vary), "")
    titles = {"time_at_goal": "Time at goal of students", "retention": "Retention of time at goal"}
    for panel, where in _panels(sweep.students, field) if field else ():
        rows, runs = (_within(panel, some) for some in (sweep.students, sweep.finished))
        by_size = {
            size: (
                [run.get("students", {}).get(size, {}) | {"values": run["values"]} for run in runs],
                [row for row in rows if row["size"] == size],
            )
            for size in dict.fromkeys(row["size"] for row in rows)
        }
        for key, title in titles.items():
            lines = [(size, key, *found) for size, found in by_size.items()]
            if key == "time_at_goal":  # of teachers in the students' episodes, the same for all sizes
                lines.append(("teacher", f"teacher_{key}", *next(iter(by_size.values()))))
            with plot.figure(f"{title}{where}", figures) as axes:
                _against(axes, sweep, field, lines)
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
    for panel, where in _panels(sweep.combinations, last):
        groups: dict[str, list[list[JSON]]] = {}
        for run in _within(panel, sweep.runs):
            name = shown(run["values"][last]) if last else sweep.settings["preset"]
            groups.setdefault(name, []).append(sweep.metrics[run["run"]])
        references = {key: sweep.reference(key, panel) for key in SCORES}
        figures += teachers(f"{where}, by {short(last) if last else 'preset'}", groups, references)
    return figures


def _panels(rows: Sequence[JSON], field: str) -> list[tuple[JSON, str]]:
    """Returns the combinations of settings but this one, in their order, and where they stand in a title."""
    panels: list[JSON] = []
    for row in rows:
        panel = {name: value for name, value in row["values"].items() if name != field}
        if panel not in panels:
            panels.append(panel)
    return [(panel, f" at {described(panel)}" if panel else "") for panel in panels]


def _within(panel: JSON, rows: Sequence[JSON]) -> list[JSON]:
    return [row for row in rows if row["values"].items() >= panel.items()]


def _against(
    axes: Axes, sweep: SweepContext, field: str, lines: Sequence[tuple[str, str, list[JSON], list[JSON]]]
) -> None:
    """Draws measures over the values of a setting: means joined, with their intervals, beside a dot a run.

    Args: lines: of each its name, the key, and runs and means over seeds with their `values`."""
    values = sweep.vary[field]
    for i, ((name, key, runs, rows), look) in enumerate(zip(lines, cycle(plot.LOOKS))):
        shift = (i - (len(lines) - 1) / 2) * SPREAD / max(len(lines), 2)
        colour = plot.INK if name == "teacher" else look["color"]
        means = sorted(
            (row for row in rows if key in row), key=lambda row: values.index(row["values"][field])
        )
        at = [values.index(row["values"][field]) + shift for row in means]
        plot.dots(axes, at, means, key, label=name, color=colour, linestyle=look["linestyle"])
        dots = [run for run in runs if run.get(key) is not None]
        beside = [values.index(run["values"][field]) + shift + NEAR for run in dots]
        axes.plot(beside, [run[key] for run in dots], "o", color=colour, alpha=0.6, markeredgewidth=0)
    axes.set_xticks(range(len(values)), list(map(shown, values)))
    axes.set_xlim(-0.3, len(values) - 0.7)
    axes.set_xlabel(short(field))
