"""What distillation made of a small network, beside its baselines."""

from pipelines.report import wording
from pipelines.report.findings import JSON, Findings
from pipelines.report.markup import Html, element, joined, table
from pipelines.report.sections import figure, share
from student.baselines import NAMES, conclusion

_WHAT = {
    "direct": "residual, LayerNorm, depth 4, trained directly with the teacher's steps",
    "direct_long": "the same for the teacher's wall time",
    "shallow_actor": "the same actor, critic as deep as the teacher's, the teacher's steps",
    "cloning": "behaviour cloning of teacher episodes",
    "dagger": "DAgger without relabelled goals",
}


def baselines(findings: Findings) -> Html | None:
    """The student of the baselines' size and every baseline, one row each; None if none was run."""
    found = findings.summary.get("baselines")
    if not found:
        return None
    size = next(iter(found.values()))["size"]
    head = ["policy", "parameters", "environment steps", "labels", "training", "time at goal", "success"]
    head += ["retention"]
    rows = [_row("distilled", _student(findings, size))]
    rows += [_row(_WHAT[name], found[name]) for name in NAMES if name in found]
    note = (
        "All in the same held-out episodes as the teacher; parameters are the policy's. The steps and the "
        "time of what learns from the teacher come on top of the teacher's own."
    )
    return joined(
        element("p", sentence) if (sentence := conclusion(found)) else None,
        table(f"The {size} student and its baselines. In small print: {wording.INTERVALS}", head, rows),
        element("p", note, class_="note"),
    )


def _student(findings: Findings, size: str) -> JSON:
    """The distilled student's figures, with what its distillation took so far as it is known."""
    last = findings.student_metrics[-1] if findings.student_metrics else {}
    took = {key: last[key] for key in ("env_steps", "labels") if key in last}
    return took | findings.summary.get("students", {}).get(size, {})


def _row(name: str, figures: JSON) -> list[object]:
    kept = wording.percent(figures.get("retention"))
    return [
        name,
        wording.count(figures.get("parameters")),
        wording.count(figures.get("env_steps")),
        wording.count(figures.get("labels")),
        wording.duration(figures.get("wall_s")),
        share(figures, "time_at_goal"),
        share(figures, "success_final"),
        figure(kept, wording.retention_interval(figures)),
    ]
