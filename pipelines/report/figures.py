"""The figures of a run's page, and those that several runs share with it."""

import re
from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from pipelines.report import plot
from pipelines.report.context import JSON, RunContext
from pipelines.report.page import Figure
from pipelines.report.wording import INTERVALS, centimetres, time_unit

SCORES = (("success_final", "success"), ("time_at_goal", "time at goal"))
TEACHER, STUDENT, CONTROLLER = plot.SERIES[1], plot.SERIES[0], plot.SERIES[2]
MARKERS = "osD^v"  # a kind for each run, so that colour is not all that tells them apart
BINS = 40
SMALLEST_ERROR = 1e-9  # drawn; smaller ones, and none at all, stand there
SLOWEST = 1.5  # times the 99th percentile; slower answers stand there
ROOM = 0.01  # of retention: the least that is left above and below, for names
STRONGEST = 0.5  # opacity of a maze's farthest cell, so that its number stays readable


def learning(run: RunContext) -> list[Figure]:
    """Draws the teacher's scores, accuracy and losses against environment steps."""
    figures: list[Figure] = []
    scores = [line for line in run.teacher_metrics if "evaluation" in line]
    if scores:
        with plot.figure(f"Held-out episodes, % (bands: {INTERVALS})", figures) as axes:
            lines = []
            for key, label in SCORES:
                points = [(line["env_steps"], line["evaluation"][key]) for line in scores]
                lines.append(
                    plot.Line(label, points, [line["evaluation"][f"{key}_interval"] for line in scores])
                )
            plot.curves(axes, lines)
            reference = run.summary.get("reference", {}).get("time_at_goal")
            plot.reference_line(axes, reference, "reference: time at goal", plot.SERIES[1])
            plot.all_percent(axes)
            plot.steps_axis(axes)
    for key, title in (
        ("critic_accuracy", "Critic accuracy on training batches, %"),
        ("critic_loss", "Critic loss"),
        ("actor_loss", "Actor loss"),
    ):
        if points := [(line["env_steps"], line[key]) for line in run.teacher_metrics if key in line]:
            with plot.figure(title, figures) as axes:
                plot.curves(axes, [plot.Line(None, points)])
                if key == "critic_accuracy":
                    plot.all_percent(axes)
                plot.steps_axis(axes)
    return figures


def distillation(run: RunContext) -> list[Figure]:
    """Draws losses of every size, and of the critic, against labels."""
    lines, figures = run.student_metrics, list[Figure]()
    keys = [key for key in (lines[0] if lines else {}) if key.endswith("_loss") or key.startswith("critic/")]
    order = [f"{size}/policy_loss" for size in run.settings["config"]["student"]["sizes"]]
    keys = [*(key for key in order if key in keys), *(key for key in keys if key not in order)]
    for title, of_critic in (("Policy loss of the students", False), ("Critic loss", True)):
        found = []
        for key in (key for key in keys if ("critic" in key) == of_critic):
            label = re.sub(r"^critic/|_loss$|/(policy|critic)_loss$", "", key)
            found.append(plot.Line(label, [(line["labels"], line[key]) for line in lines if key in line]))
        if found:
            with plot.figure(title, figures) as axes:
                plot.curves(axes, found)
                plot.loss_axis(axes)
                plot.steps_axis(axes, "labelled states")
    return figures


def retention_and_cost(runs: Mapping[str, RunContext]) -> list[Figure]:
    """Draws retention against parameters and latency, a point a student with its interval.

    Of one run: the line of the Pareto front, the teacher at 100 %, and names where they fit."""
    figures: list[Figure] = []
    for what in ("parameters", "latency"):
        costs = {name: _costs(run, what) for name, run in runs.items()}
        if not any(costs.values()):
            continue
        height = 3.6 if len(runs) == 1 else 3.2
        with plot.figure(f"Retention of time at goal, %, against {what}", figures, height) as axes:
            axes.axhline(1, color=plot.MUTED, linewidth=1)
            plot.cost_axis(axes, "parameters" if what == "parameters" else "median latency, µs")
            if len(runs) == 1:
                ((name, run),) = runs.items()
                _front(axes, run, costs[name], what)
            else:
                for (name, run), colour, marker in zip(runs.items(), cycle(plot.SERIES), cycle(MARKERS)):
                    _points(axes, run, costs[name], colour, marker, name)
            plot.percent_axis(axes.yaxis)
    return figures


def front(kept: Mapping[str, float], costs: Mapping[str, float]) -> list[str]:
    """Returns the students that none surpasses at no more cost, the cheapest first."""
    found: list[str] = []
    for size in sorted(costs, key=lambda size: (costs[size], -kept[size])):
        if not found or kept[size] > kept[found[-1]]:
            found.append(size)
    return found


def _costs(run: RunContext, what: str) -> dict[str, float]:
    """Returns parameters or latencies of the students whose retention is known."""
    figures, key = (run.students, what) if what == "parameters" else (run.exported, "latency_us_p50")
    known = [size for size, student in run.students.items() if "retention" in student]
    return {size: figures[size][key] for size in known if key in figures.get(size, {})}


def _front(axes: Axes, run: RunContext, costs: dict[str, float], what: str) -> None:
    kept = {size: run.students[size]["retention"] for size in costs}
    required = run.settings["config"]["student"]["retention"]
    plot.reference_line(axes, required or None, "required")
    leading = front(kept, costs)
    axes.plot([costs[s] for s in leading], [kept[s] for s in leading], color=TEACHER, linewidth=0.8)
    chosen = {size: cost for size, cost in costs.items() if size == run.selected}
    _points(axes, run, {s: c for s, c in costs.items() if s not in chosen}, TEACHER, "o", None)
    _points(axes, run, chosen, STUDENT, "o", "selected")
    of_teacher = {size: student.get("teacher_parameters") for size, student in run.students.items()}
    teacher = (
        run.teacher.get("latency_us_p50")
        if what == "latency"
        else max((each for each in of_teacher.values() if each), default=None)
    )
    if teacher:
        axes.plot(teacher, 1, "s", color=plot.MUTED, markersize=6, linestyle="none", label="teacher")
        if what == "latency":
            axes.set_xlabel("median latency, µs; of the teacher in JAX")
    axes.margins(x=0.1)
    low, high = axes.dataLim.intervaly
    room = max(0.2 * (high - low), ROOM)
    axes.set_ylim(low - room, high + room)
    plot.percent_axis(axes.yaxis)
    places = {size: (cost, *run.students[size]["retention_interval"]) for size, cost in costs.items()}
    order = dict.fromkeys([*chosen, *leading, *costs])
    plot.name_points(axes, places | ({"teacher": (teacher, 1, 1)} if teacher else {}), list(order))


def _points(
    axes: Axes, run: RunContext, costs: dict[str, float], colour: str, marker: str, label: str | None
) -> None:
    if costs:
        low, high = zip(*(run.students[size]["retention_interval"] for size in costs), strict=True)
        axes.vlines(list(costs.values()), low, high, color=colour, linewidth=1.5)
        kept = [run.students[size]["retention"] for size in costs]
        axes.plot(list(costs.values()), kept, marker, color=colour, markersize=5, label=label)


def robustness(run: RunContext, names: Sequence[str]) -> list[Figure]:
    """Draws time at goal of the selected student and its teacher, a row a condition."""
    figures: list[Figure] = []
    if run.conditions:
        with plot.figure(f"Time at goal, % (lines: {INTERVALS})", figures, 0.6 + 0.36 * len(names)) as axes:
            series = {
                who: {i: (t[who], *t[f"{who}_interval"]) for i, t in enumerate(run.conditions.values())}
                for who in ("teacher", "student")
            }
            plot.intervals(axes, names, series, (TEACHER, STUDENT))
            axes.set_xlim(0, 1.02)
    return figures


def maze_distances(run: RunContext) -> list[Figure]:
    """Draws maps of the distances from a start, by the critic and in cells, and all distances by cells."""
    found, figures = run.distance_map, list[Figure]()
    if "maze_distance" not in run.teacher or not found:
        return figures
    for key, title in (("critic", "The critic's distance"), ("cells", "Cells to walk")):
        rows, columns = found[key].shape
        height = min(3.2, plot.WIDTH * rows / columns)
        with plot.figure(f"{title} from a start (ring) to every free cell", figures, height) as axes:
            _draw_map(axes, found[key], found["cells"], ".0f" if key == "cells" else ".1f")
    with plot.figure("The critic's distance, by cells to walk (lines: middle half)", figures) as axes:
        plot.quartiles(axes, found["steps"], found["quartiles"], "cells to walk")
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(9, integer=True))
    return figures


def _draw_map(axes: Axes, values: np.ndarray, cells: np.ndarray, digits: str) -> None:
    """Draws a maze [R, C], rows downwards: walls are NaN, a value is a number and a shade."""
    reached = np.isfinite(values) & np.isfinite(cells)
    nearest, span = values[reached].min(), np.ptp(values[reached]) or 1.0
    for (row, column), value in np.ndenumerate(values):
        place = (column - 0.5, row - 0.5)
        if np.isnan(value):  # with an edge, or seams would show between walls
            axes.add_patch(Rectangle(place, 1, 1, color=plot.RULE, linewidth=0.5))
            continue
        shade = STRONGEST * (value - nearest) / span if reached[row, column] else 0.0
        axes.add_patch(Rectangle(place, 1, 1, color=plot.SERIES[0], alpha=shade, linewidth=0))
        text = f"{value:{digits}}" if reached[row, column] else "\N{EN DASH}"
        axes.text(column, row, text, ha="center", va="center", color=plot.INK, fontsize=7)
    ((row, column),) = np.argwhere(cells == 0)
    axes.plot(column, row, "o", markersize=15, fillstyle="none", color=plot.INK, markeredgewidth=0.8)
    axes.set_xlim(-0.5, values.shape[1] - 0.5)
    axes.set_ylim(values.shape[0] - 0.5, -0.5)
    axes.set_aspect("equal")
    axes.set_axis_off()


def calibration(run: RunContext, engines: Sequence[str]) -> list[Figure]:
    """Draws each student's score as evaluated and as run again; time to the goal by the critic's distance."""
    again, figures = run.run_again, list[Figure]()
    for key, title in SCORES if again else ():
        title = f"{title.capitalize()}, % (lines: {INTERVALS})"
        with plot.figure(title, figures, 0.9 + 0.26 * len(again)) as axes:
            series = {
                engine: {
                    i: (p[which][key], *p[which][f"{key}_interval"]) for i, p in enumerate(again.values())
                }
                for which, engine in enumerate(engines)
            }
            plot.intervals(axes, list(again), series, (TEACHER, STUDENT))
    found = run.chosen.get("calibration")
    if found:
        horizon = found["horizon_s"]
        with plot.figure(
            "Seconds to the goal, by the critic's distance (lines: middle half)", figures
        ) as axes:
            seconds = [[horizon if each is None else each for each in row] for row in found["seconds"]]
            plot.quartiles(axes, found["distance"], seconds, "critic's distance")
            plot.reference_line(axes, horizon, "or later")
            axes.set_ylim(0, 1.06 * horizon)
        with plot.figure("Reached the goal in that time, %, by the critic's distance", figures) as axes:
            plot.curves(axes, [plot.Line(None, list(zip(found["distance"], found["arrived"], strict=True)))])
            plot.all_percent(axes)
            axes.set_xlabel("critic's distance")
    return figures


def parity(run: RunContext, allowed: float) -> list[Figure]:
    """Draws errors and latency of the selected file over the observations that it was verified on."""
    figures: list[Figure] = []
    errors, latency = (run.parity.get(name) for name in ("action_error", "latency_us"))
    if errors is not None and len(errors):
        with plot.figure(f"Largest error of an action of {run.selected}, observations", figures) as axes:
            seen = np.maximum(errors, SMALLEST_ERROR)  # a logarithmic axis has no zero
            ends = SMALLEST_ERROR, max(2 * allowed, seen.max())
            axes.hist(seen, bins=np.geomspace(*ends, BINS).tolist(), color=plot.SERIES[0])
            axes.axvline(allowed, color=plot.MUTED, linewidth=1, linestyle=plot.DASHED, label="allowed")
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0e}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
    if latency is not None and len(latency):
        with plot.figure(f"Latency of {run.selected}, µs, observations", figures) as axes:
            middle, slow = np.percentile(latency, (50, 99))
            axes.hist(np.minimum(latency, SLOWEST * slow), bins=BINS, color=plot.SERIES[0])
            axes.axvline(middle, color=plot.MUTED, linewidth=1, label="median")
            axes.axvline(slow, color=plot.MUTED, linewidth=1, linestyle=plot.DASHED, label="p99")
            axes.set_xlim(left=0)
            plot.counts_axis(axes)
    return figures


def control_distances(run: RunContext) -> list[Figure]:
    """Draws the distance to the goal during the recorded episodes."""
    recording, figures = run.recording, list[Figure]()
    if recording:
        scale, unit = centimetres(run.unit)
        title = f"Distance to the goal in the recorded episodes{f', {unit}' if unit else ''}"
        with plot.figure(title, figures) as axes:
            lines = []
            for i, episode in enumerate(recording["episodes"]):
                steps = episode.get("steps") or range(len(episode["distance"]))  # runs of before have some
                seconds = [step * recording["control_dt"] for step in steps]
                values = [scale * each for each in episode["distance"]]
                lines.append(plot.Line(f"{i + 1}", list(zip(seconds, values, strict=True))))
            plot.curves(axes, lines)
            _near(axes, scale * recording["success_radius"])
            axes.set_xlim(left=0)
            axes.set_xlabel("seconds")
    return figures


def robot(run: RunContext) -> list[Figure]:
    """Draws where each goal's time ended on the robot, and how long the steps took."""
    figures: list[Figure] = []
    if run.driven is None:
        return figures
    scale, unit = centimetres(run.unit)
    reached = [scale * each for each in run.summary["robot"][run.driven]["distances_m"]]
    with plot.figure(
        f"Distance at the end of each goal's time{f', {unit}' if unit else ''}", figures
    ) as axes:
        axes.plot(range(1, len(reached) + 1), reached, "o", markersize=3, color=plot.SERIES[0], label="goal")
        _near(axes, scale * run.goal["success_radius"] if run.goal else None)
        axes.set_xlabel("goals, one after the other")
    if run.latencies is not None and len(run.latencies):
        with plot.figure("From reading to writing on the robot, µs", figures) as axes:
            axes.hist(run.latencies, bins=60, color=plot.SERIES[0])
            plot.counts_axis(axes)
            axes.set_xlim(left=0)
            axes.set_ylabel("steps")
    return figures


def _near(axes: Axes, radius: float | None) -> None:
    plot.reference_line(axes, radius, "success")
    axes.set_ylim(bottom=0)


def policies(runs: Mapping[str, RunContext]) -> list[Figure]:
    """Draws success and time at goal of several runs: a row a run, a dot a policy."""
    figures: list[Figure] = []
    scored = {name: run.scored for name, run in runs.items()}
    for key, label in SCORES if any(scored.values()) else ():
        height = 0.9 + 0.42 * len(runs)
        with plot.figure(f"{label.capitalize()}, % (lines: {INTERVALS})", figures, height) as axes:
            series = {
                stage: {
                    i: (each[stage][key], *each[stage][f"{key}_interval"])
                    for i, each in enumerate(scored.values())
                    if stage in each
                }
                for stage in ("teacher", "student", "controller")
            }
            plot.intervals(axes, list(runs), series, (TEACHER, STUDENT, CONTROLLER))
    return figures


def teachers(
    title: str,
    groups: Mapping[str, Sequence[Sequence[JSON]]],
    references: Mapping[str, float | None],
    against_time: bool = False,
) -> list[Figure]:
    """Draws scores of several teachers while they learned, a curve a group: the mean over its seeds.

    Args:
      title: what follows `Success` and `Time at goal`.
      groups: of each the metrics of its seeds.
      references: of the scores to draw, the reference policy's, if it is known."""
    counted = "wall_s" if against_time else "env_steps"
    evaluated = {
        name: [[line for line in lines if "evaluation" in line] for lines in seeds]
        for name, seeds in groups.items()
    }
    last = [lines[-1][counted] for seeds in evaluated.values() for lines in seeds if lines]
    scale, unit = time_unit(max(last, default=0)) if against_time else (1, "")
    found = {
        name: [{line[counted] / scale: line["evaluation"] for line in lines} for lines in seeds if lines]
        for name, seeds in evaluated.items()
    }
    figures: list[Figure] = []
    for key, label in SCORES if any(found.values()) else ():
        if key not in references:
            continue
        with plot.figure(f"{label.capitalize()}{title}", figures, plot.HEIGHT) as axes:
            lines = []
            for name, seeds in found.items():
                common = [at for at in (seeds[0] if seeds else ()) if all(at in curve for curve in seeds)]
                mean = [(at, float(np.mean([curve[at][key] for curve in seeds]))) for at in common]
                single = [[(at, score[key]) for at, score in curve.items()] for curve in seeds]
                lines.append(plot.Line(name, mean, thin=single if len(seeds) > 1 else ()))
            plot.curves(axes, lines)
            plot.reference_line(axes, references[key], "reference policy")
            plot.all_percent(axes)
            plot.steps_axis(axes)
            if against_time:
                axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
                axes.set_xlabel(f"wall-clock time, {unit}")
    return figures
