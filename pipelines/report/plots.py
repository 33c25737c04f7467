"""The run's curves."""

import re
from typing import Any

from matplotlib.ticker import EngFormatter, NullFormatter

from pipelines.report.drawing import (
    INK,
    MUTED,
    SERIES,
    loss_axis,
    percent_axis,
    plot,
    reference_line,
    steps_axis,
    thinned,
)
from pipelines.report.findings import Findings
from pipelines.report.markup import Html
from pipelines.report.students import condition_name, conditions
from pipelines.report.wording import INTERVALS, centimetres

SCORES = (("success_final", "success"), ("time_at_goal", "time at goal"))
TEACHER_CURVES = (
    ("critic_accuracy", "Critic accuracy on training batches, %"),
    ("critic_loss", "Critic loss"),
    ("actor_loss", "Actor loss"),
)
DASHES: tuple[Any, ...] = ("-", (0, (4, 2)), (0, (1, 1.5)))  # where there are more lines than colours


def teacher_curves(findings: Findings) -> list[Html]:
    """Scores, accuracy and losses against environment steps."""
    lines = findings.teacher_metrics
    drawn: list[Html] = []
    scores = thinned([line for line in lines if "evaluation" in line])
    if scores:
        with plot(f"Held-out episodes, % (bands: {INTERVALS})", drawn) as axes:
            for (key, label), colour in zip(SCORES, SERIES, strict=False):
                steps = [line["env_steps"] for line in scores]
                marker = "o" if len(scores) < 30 else None
                values = [line["evaluation"][key] for line in scores]
                axes.plot(steps, values, color=colour, label=label, marker=marker, markersize=2.5)
                bands = [line["evaluation"][f"{key}_interval"] for line in scores]
                low, high = zip(*bands, strict=True)
                axes.fill_between(steps, low, high, color=colour, alpha=0.18, linewidth=0)
            if reference := findings.summary.get("reference"):
                label = "reference: time at goal"
                reference_line(axes, reference["time_at_goal"], label, SERIES[1])
            axes.set_ylim(-0.02, 1.02)
            percent_axis(axes.yaxis)
            steps_axis(axes, "environment steps")
    for key, title in TEACHER_CURVES:
        points = [(line["env_steps"], line[key]) for line in thinned(lines) if key in line]
        if points:
            with plot(title, drawn) as axes:
                axes.plot(*zip(*points, strict=True), color=SERIES[0])
                if key == "critic_accuracy":
                    axes.set_ylim(-0.02, 1.02)
                    percent_axis(axes.yaxis)
                steps_axis(axes, "environment steps")
    return drawn


def student_curves(findings: Findings) -> list[Html]:
    """Distillation losses of every size, and of the critic, against labels."""
    lines = thinned(findings.student_metrics)
    keys = list(lines[0]) if lines else []
    sizes = findings.settings["config"]["student"]["sizes"]
    drawn: list[Html] = []
    for title, names in (
        ("Policy loss of the students", [f"{s}/policy_loss" for s in sizes if f"{s}/policy_loss" in keys]),
        ("Critic loss", [key for key in keys if key.startswith("critic/") or key.endswith("/critic_loss")]),
    ):
        if not names:
            continue
        with plot(title, drawn) as axes:
            for i, name in enumerate(names):
                points = [(line["labels"], line[name]) for line in lines if name in line]
                label = re.sub(r"^critic/|_loss$|/(policy|critic)_loss$", "", name)
                dashes = DASHES[i // len(SERIES) % len(DASHES)]
                colour = SERIES[i % len(SERIES)]
                axes.plot(*zip(*points, strict=True), color=colour, linestyle=dashes, label=label)
            loss_axis(axes)
            steps_axis(axes, "labelled states")
    return drawn


def robustness_bars(findings: Findings) -> list[Html]:
    """Time at goal of the selected student and its teacher, a pair of bars a condition."""
    found = conditions(findings)
    drawn: list[Html] = []
    if not found:
        return drawn
    with plot(f"Time at goal, % (lines: {INTERVALS})", drawn, 0.6 + 0.36 * len(found)) as axes:
        for who, offset, colour in (("teacher", -0.19, SERIES[1]), ("student", 0.19, SERIES[0])):
            rows = [i + offset for i in range(len(found))]
            axes.barh(rows, [trial[who] for trial in found.values()], 0.36, color=colour, label=who)
            low, high = zip(*(trial[f"{who}_interval"] for trial in found.values()), strict=True)
            axes.hlines(rows, low, high, color=INK, linewidth=1)
        axes.set_yticks(range(len(found)), [condition_name(name) for name in found])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlim(0, 1.02)
        percent_axis(axes.xaxis)
    return drawn


def distances(findings: Findings) -> list[Html]:
    """Distance to the goal during the recorded episodes."""
    recording = findings.recording
    drawn: list[Html] = []
    if not recording:
        return drawn
    scale, unit = centimetres(findings.unit)
    with plot(f"Distance to the goal in the recorded episodes{f', {unit}' if unit else ''}", drawn) as axes:
        for i, episode in enumerate(recording["episodes"]):
            seconds = [step * recording["control_dt"] for step in episode["steps"]]
            values = [scale * value for value in episode["distance"]]
            axes.plot(seconds, values, color=SERIES[i % len(SERIES)], label=f"{i + 1}")
        near = scale * recording["success_radius"]
        axes.axhline(near, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label="success")
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
        axes.set_xlabel("seconds")
    return drawn


def on_the_robot(findings: Findings) -> list[Html]:
    """Where each goal's time ended, and how long the steps took."""
    drawn: list[Html] = []
    if findings.driven is None:
        return drawn
    scale, unit = centimetres(findings.unit)
    reached = [scale * each for each in findings.summary["robot"][findings.driven]["distances_m"]]
    with plot(f"Distance at the end of each goal's time{f', {unit}' if unit else ''}", drawn) as axes:
        axes.plot(range(1, len(reached) + 1), reached, "o", markersize=3, color=SERIES[0], label="goal")
        if findings.goal:
            near = scale * findings.goal["success_radius"]
            axes.axhline(near, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label="success")
        axes.set_ylim(bottom=0)
        axes.set_xlabel("goals, one after the other")
    if findings.latencies is not None and len(findings.latencies):
        with plot("From reading to writing on the robot, \u00b5s", drawn) as axes:
            axes.hist(findings.latencies, bins=60, color=SERIES[0])
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(EngFormatter(sep=""))
            axes.yaxis.set_minor_formatter(NullFormatter())
            axes.set_xlim(left=0)
            axes.set_ylabel("steps")
    return drawn
