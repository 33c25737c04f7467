"""Plots of several runs: their scores, what their students keep, and how their teachers learned."""

from itertools import cycle

from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from pipelines.report import wording
from pipelines.report.drawing import MUTED, SERIES, percent_axis, plot, steps_axis, thinned
from pipelines.report.findings import JSON, Findings
from pipelines.report.markup import Html
from pipelines.report.plots import DASHES, SCORES

ROW = 0.42  # inches a run
STAGES = ("teacher", "student", "controller")
COLOURS = (SERIES[1], SERIES[0], SERIES[2])  # of the stages; the first two as on a run's own page
MARKERS = "osD^v"  # a kind for each run, so that colour is not all that tells them apart


def scored(run: Findings) -> dict[str, JSON]:
    """Of the teacher, and of the selected student's file and controller, those that have a score."""
    summary, size = run.summary, run.selected or ""
    student = summary.get("students", {}).get(size, {})
    candidates = (summary.get("teacher", {}), student, summary.get("control", {}).get(size, {}))
    named = zip(STAGES, candidates, strict=True)
    return {stage: score for stage, score in named if "success_final_interval" in score}


def policies(found: dict[str, Findings]) -> list[Html]:
    """Success and time at goal: one row a run, a dot a policy."""
    drawn: list[Html] = []
    of_runs = {name: scored(run) for name, run in found.items()}
    if not any(of_runs.values()):
        return drawn
    for key, label in SCORES:
        title = f"{label.capitalize()}, % (lines: {wording.INTERVALS})"
        with plot(title, drawn, 0.9 + ROW * len(found)) as axes:
            for stage, offset, colour in zip(STAGES, (-0.22, 0, 0.22), COLOURS, strict=True):
                rows = {i + offset: each[stage] for i, each in enumerate(of_runs.values()) if stage in each}
                if rows:
                    low, high = zip(*(score[f"{key}_interval"] for score in rows.values()), strict=True)
                    axes.hlines(list(rows), low, high, color=colour, linewidth=1.5)
                    values = [score[key] for score in rows.values()]
                    axes.plot(values, list(rows), "o", color=colour, markersize=4, label=stage)
            axes.set_yticks(range(len(found)), list(found))
            axes.set_ylim(len(found) - 0.4, -0.6)
            axes.grid(visible=False, axis="y")
            percent_axis(axes.xaxis)
    return drawn


def tradeoff(found: dict[str, Findings]) -> list[Html]:
    """Retention against latency and parameters: a colour and a mark a run, a point a student."""
    drawn: list[Html] = []
    for what, of_size in (("parameters", _parameters), ("median latency, µs", _latencies)):
        costs = {name: of_size(run) for name, run in found.items()}
        if not any(costs.values()):
            continue
        with plot(f"Retention of time at goal, %, against {what.partition(',')[0]}", drawn, 3.2) as axes:
            axes.axhline(1, color=MUTED, linewidth=1)
            for (name, run), colour, marker in zip(
                found.items(), cycle(SERIES), cycle(MARKERS), strict=False
            ):
                _students(axes, run, costs[name], colour, marker, name)
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.set_xlabel(what)
            percent_axis(axes.yaxis)
    return drawn


def curves(found: dict[str, Findings]) -> list[Html]:
    """Scores of the teachers while they learned, against steps and against time."""
    drawn: list[Html] = []
    lines = {
        name: thinned([line for line in run.teacher_metrics if "evaluation" in line])
        for name, run in found.items()
    }
    if not any(lines.values()):
        return drawn
    seconds, unit = wording.time_unit(max(each[-1]["wall_s"] for each in lines.values() if each))
    for key, label in SCORES:
        with plot(f"{label.capitalize()} of the teachers, %", drawn) as axes:
            _draw_curves(axes, lines, key, "env_steps", 1)
            steps_axis(axes, "environment steps")
    with plot("Success of the teachers, %, against time", drawn) as axes:
        _draw_curves(axes, lines, "success_final", "wall_s", 1 / seconds)
        axes.set_xlim(left=0)
        axes.set_xlabel(f"wall-clock time, {unit}")
    return drawn


def _draw_curves(axes: Axes, lines: dict[str, list[JSON]], key: str, counted: str, scale: float) -> None:
    for i, (name, each) in enumerate(lines.items()):
        colour, dash = SERIES[i % len(SERIES)], DASHES[i // len(SERIES) % len(DASHES)]
        values = [line["evaluation"][key] for line in each]
        axes.plot([scale * line[counted] for line in each], values, color=colour, linestyle=dash, label=name)
    axes.set_ylim(-0.02, 1.02)
    percent_axis(axes.yaxis)


def _students(
    axes: Axes, run: Findings, costs: dict[str, float], colour: str, marker: str, name: str
) -> None:
    if not costs:
        return
    kept = [run.summary["students"][size] for size in costs]
    low, high = ([student[f"retention_{end}"] for student in kept] for end in ("low", "high"))
    axes.vlines(list(costs.values()), low, high, color=colour, linewidth=1)
    values = [student["retention"] for student in kept]
    axes.plot(list(costs.values()), values, marker, color=colour, markersize=4.5, label=name)


def _parameters(run: Findings) -> dict[str, float]:
    return {size: each["parameters"] for size, each in _kept(run).items() if "parameters" in each}


def _latencies(run: Findings) -> dict[str, float]:
    exported = run.summary.get("export", {})
    return {size: exported[size]["latency_us_p50"] for size in _kept(run) if size in exported}


def _kept(run: Findings) -> JSON:
    return {size: each for size, each in run.summary.get("students", {}).items() if "retention" in each}
