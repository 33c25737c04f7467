"""The run's curves."""

from pipelines.report.drawing import (
    INK,
    MUTED,
    SERIES,
    loss_axis,
    percent_axis,
    plot,
    steps_axis,
    thinned,
)
from pipelines.report.findings import Findings
from pipelines.report.markup import Html
from pipelines.report.wording import INTERVALS, centimetres

SCORES = (("success_final", "success"), ("time_at_goal", "time at goal"))
TEACHER_CURVES = (
    ("critic_accuracy", "Critic accuracy on training batches, %"),
    ("critic_loss", "Critic loss"),
    ("actor_loss", "Actor loss"),
)
STUDENT_CURVES = (
    ("policy_loss", "Policy loss of the students"),
    ("critic_loss", "Critic loss of the students"),
)


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
            axes.set_ylim(-0.02, 1.02)
            percent_axis(axes)
            steps_axis(axes, "environment steps")
    for key, title in TEACHER_CURVES:
        points = [(line["env_steps"], line[key]) for line in thinned(lines) if key in line]
        if points:
            with plot(title, drawn) as axes:
                axes.plot(*zip(*points, strict=True), color=SERIES[0])
                if key == "critic_accuracy":
                    axes.set_ylim(-0.02, 1.02)
                    percent_axis(axes)
                steps_axis(axes, "environment steps")
    return drawn


def student_curves(findings: Findings) -> list[Html]:
    """Distillation losses of every size against labels."""
    lines = thinned(findings.student_metrics)
    drawn: list[Html] = []
    for key, title in STUDENT_CURVES:
        names = [name for name in (lines[0] if lines else {}) if name.endswith(f"/{key}")]
        if not names:
            continue
        with plot(title, drawn) as axes:
            for i, name in enumerate(names):
                points = [(line["labels"], line[name]) for line in lines if name in line]
                size = name.removesuffix(f"/{key}")
                axes.plot(*zip(*points, strict=True), color=SERIES[i % len(SERIES)], label=size)
            loss_axis(axes)
            steps_axis(axes, "labelled states")
    return drawn


def retention_against_latency(findings: Findings) -> list[Html]:
    """One point a student that has both; the required retention as a line."""
    exported, students = findings.summary.get("export", {}), findings.summary.get("students", {})
    shown = [size for size in exported if "retention" in students.get(size, {})]
    drawn: list[Html] = []
    if not shown:
        return drawn
    with plot("Retention of time at goal, %, against median latency", drawn) as axes:
        required = findings.settings["config"]["student"]["retention"]
        axes.axhline(required, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label="required")
        for i, size in enumerate(sorted(shown, key=lambda size: students[size]["retention"], reverse=True)):
            student, x = students[size], exported[size]["latency_us_p50"]
            kept, low, high = (student[key] for key in ("retention", "retention_low", "retention_high"))
            selected = size == findings.selected
            colour = SERIES[0] if selected else SERIES[1]
            axes.vlines(x, low, high, color=colour, linewidth=1.5)
            axes.plot(x, kept, "o", color=colour, markersize=5)
            # Neighbours are named above and below in turn, so that their names do not meet.
            end, offset, side = (high, 4, "bottom") if i % 2 == 0 else (low, -4, "top")
            name = f"{size}, selected" if selected else size
            where = (0, offset)
            axes.annotate(
                name, (x, end), xytext=where, textcoords="offset points", ha="center", va=side, color=INK
            )
        axes.set_xlim(0, 1.25 * max(exported[size]["latency_us_p50"] for size in shown))
        axes.set_xlabel("median latency, µs")
        axes.margins(y=0.25)
        percent_axis(axes)
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
