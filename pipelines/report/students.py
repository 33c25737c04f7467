"""The students beside their teacher: what they keep, how alike the critics are, and what both bear."""

from pipelines.report import wording
from pipelines.report.findings import JSON, Findings
from pipelines.report.markup import Html, details, element, joined, table
from pipelines.report.sections import figure, share
from student.config import NOISE, NOMINAL, OUTSIDE, SHARE

MINUS = "\N{MINUS SIGN}"
_AGREEMENT = {
    "spearman_actions": "rank, actions",
    "spearman_states": "rank, states",
    "best_action": "best action",
    "top1": "nearest goal",
    "gradient_cosine": "gradient",
}


def students(findings: Findings) -> Html | None:
    """Every student beside its teacher, in closed loop."""
    if not findings.sizes:
        return None
    summary = findings.summary
    head = ["size", "parameters", "retention", "success", "ends further", "worst tenth", "p50", "p99"]
    rows = []
    for size, student in summary["students"].items():
        exported = summary.get("export", {}).get(size, {})
        kept = wording.percent(student.get("retention"))
        rows.append(
            [
                joined(size, element("small", "selected") if size == findings.selected else None),
                wording.count(student.get("parameters")),
                figure(kept, wording.retention_interval(student)),
                share(student, "success_final"),
                _further(student, findings.unit),
                _worst(student),
                wording.latency(exported.get("latency_us_p50")),
                wording.latency(exported.get("latency_us_p99")),
            ]
        )
    because = summary.get("selected_because")
    note = (
        "Retention: time at goal of the exported file over that of the teacher, on the same starts and "
        "goals. Ends further: from the goal than the teacher does. Worst tenth: time at goal in the tenth of "
        "episodes in which it is shortest; in small print, that of the teacher in its own worst tenth. p50 "
        "and p99: latency of the file alone."
    )
    return joined(
        table(f"Students beside their teacher. In small print: {wording.INTERVALS}", head, rows),
        element("p", f"Selection: {because.rstrip('.')}.", class_="note") if because else None,
        element("p", note, class_="note"),
    )


def critics(findings: Findings) -> Html | None:
    """How alike the critics are; students that share a critic share a row."""
    judged = {
        size: student["critic"]
        for size, student in findings.summary.get("students", {}).items()
        if student.get("critic")
    }
    if not judged:
        return None
    sharing: dict[tuple, list[str]] = {}
    for size, critic in judged.items():
        sharing.setdefault(tuple(sorted(critic.items())), []).append(size)
    rows = [
        [
            ", ".join(sizes) if len(sizes) < len(judged) or len(sizes) == 1 else "all students",
            *(wording.decimal(judged[sizes[0]].get(key)) for key in _AGREEMENT),
            _distance_error(judged[sizes[0]]),
        ]
        for sizes in sharing.values()
    ]
    note = (
        "Rank: correlation of distances to one goal, over actions in one state and over states. Best "
        "action, nearest goal: how often both choose the same of 32 actions, and of up to 256 goals. "
        "Gradient: cosine of the distance's derivatives with respect to the action. Distance: mean absolute "
        "error; in small print, as a share of the spread of the teacher's distances."
    )
    return joined(
        table(
            "Students' critics beside the teacher's", ["critic of", *_AGREEMENT.values(), "distance"], rows
        ),
        element("p", note, class_="note"),
    )


def robustness(findings: Findings) -> Html | None:
    """What the selected student and its teacher bear; the figures behind `plots.robustness_bars`."""
    found = conditions(findings)
    if not found:
        return None
    head = ["condition", "teacher", "student", "retention", "falls further by"]
    rows = [
        [
            condition_name(name),
            _with_interval(trial, "teacher"),
            _with_interval(trial, "student"),
            figure(wording.percent(trial.get("retention")), wording.retention_interval(trial)),
            _with_interval(trial, "excess_drop") if name != NOMINAL else None,
        ]
        for name, trial in found.items()
    ]
    episodes = findings.summary["students"][findings.selected]["robustness"]["episodes"]
    note = (
        f"The exported {findings.selected} student and its teacher in the same {episodes} episodes of each "
        "condition. Falls further by: how much more time at goal the student loses there than its teacher."
    )
    caption = f"The same in figures. In small print: {wording.INTERVALS}"
    return joined(element("p", note, class_="note"), details("Figures", table(caption, head, rows)))


def conditions(findings: Findings) -> JSON:
    """By condition, of the file that the selected student's bundle holds now; empty if there are none."""
    size = findings.selected or ""
    known = findings.summary.get("students", {}).get(size, {}).get("robustness", {})
    source = findings.summary.get("export", {}).get(size, {}).get("student_sha256")
    found: JSON = known.get("conditions", {}) if known.get("student_sha256") == source else {}
    return found


def condition_name(name: str) -> str:
    """`delay_2` -> `2 steps of delay`."""
    what, _, how = name.partition("_")
    percent = f"{100 * SHARE:g}{wording.NARROW}%"
    if how in ("less", "more"):
        return f"{what} {MINUS if how == 'less' else '+'}{percent}"
    if what == "delay":
        return f"{how} step{'s' if how != '1' else ''} of delay"
    named = {
        NOMINAL: "as in the evaluation",
        "noise": f"noise, {100 * NOISE:g}{wording.NARROW}% of the spread",
        "push": "pushes",
        "goals_beyond": f"goals up to {100 * OUTSIDE:g}{wording.NARROW}% outside",
    }
    return named.get(name, name)


def _further(student: JSON, unit: str | None) -> Html | None:
    change = student.get("final_distance_change")
    return figure(
        wording.length(change, unit),
        wording.length_interval(student.get("final_distance_change_interval"), unit),
    )


def _worst(student: JSON) -> Html | None:
    worst = student.get("worst_decile")
    return figure(wording.percent(worst["student"]), wording.percent(worst["teacher"])) if worst else None


def _distance_error(critic: JSON) -> Html | None:
    error = critic.get("distance_error")
    relative = wording.percent(critic.get("distance_error_relative"))
    return figure(None if error is None else f"{error:.3g}", relative)


def _with_interval(trial: JSON, key: str) -> Html | None:
    return figure(wording.percent(trial[key]), wording.percent_interval(trial[f"{key}_interval"]))
