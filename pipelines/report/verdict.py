"""The run in a sentence or two, and how far each stage has come."""

from typing import NamedTuple

from pipelines.report import wording
from pipelines.report.findings import JSON, Findings
from teacher.config import CollectConfig


class Missing(NamedTuple):
    """A stage that is not complete, and the command that goes on with it."""

    stage: str
    state: str
    command: str


def missing(findings: Findings) -> list[Missing]:
    """What is left of the four stages, in their order."""
    run, summary, config = findings.name, findings.summary, findings.settings["config"]
    found = []
    if "teacher" not in summary:
        total = CollectConfig.model_validate(config["teacher"]["collect"]).iterations
        state = _state(findings.teacher_metrics, "iteration", total)
        found.append(Missing("teacher", state, f"pipeline teacher --run {run} --resume"))
    if "students" not in summary:
        state = _state(findings.student_metrics, "round", config["student"]["rounds"])
        resume = " --resume" if findings.student_metrics else ""
        found.append(Missing("students", state, f"pipeline distill {run}{resume}"))
    if findings.selected is None:
        done = summary.get("export", {})
        state = f"not complete, {len(done)} of {len(config['student']['sizes'])}" if done else "not run yet"
        found.append(Missing("file", state, f"pipeline export {run}{' --resume' if done else ''}"))
    if not summary.get("control"):
        found.append(Missing("control", "not run yet", f"pipeline control {run}"))
    return found


def verdict(findings: Findings) -> str:
    """What the run amounts to, with the figures that say so; nothing is called good that is not."""
    teacher = findings.summary.get("teacher")
    if teacher is None:
        return _while_learning(findings)
    if findings.selected is None:
        return _teacher_alone(findings, teacher)
    student = findings.summary["students"][findings.selected]
    controlled = findings.summary.get("control", {}).get(findings.selected)
    exported = findings.summary.get("export", {}).get(findings.selected, {})
    clauses = []
    answers = wording.latency((controlled or exported).get("latency_us_p50"))
    if answers:
        clauses.append(f"answers in {answers}")
    if controlled:
        engine = wording.ENGINES.get(controlled["engine"], controlled["engine"])
        clauses.append(f"{_reaches(controlled, findings)} in {engine}")
    sentences = [_compared(findings, teacher, student, clauses)]
    if "retention" in student and _misses_most(teacher):
        sentences.append(f"The teacher itself has not mastered the task: it {_reaches(teacher, findings)}")
    sentences += _beside_reference(teacher)
    sentences += _reservations(teacher, controlled)
    return ". ".join(sentences) + "."


def radius(findings: Findings) -> str | None:
    """`5 cm`: how near counts as success, if the task's specification is at hand."""
    goal = findings.goal
    return wording.length(goal["success_radius"], goal["unit"]) if goal else None


def _compared(findings: Findings, teacher: JSON, student: JSON, clauses: list[str]) -> str:
    """The student beside its teacher, then what else the student does, one clause each."""
    depth = f"depth-{teacher['depth']} teacher" if "depth" in teacher else "teacher"
    size, kept = findings.selected, wording.retention(student)
    if kept is None:
        nothing = f"The {depth} never was at a goal, so the {size} student had nothing to keep"
        return f"{nothing}; it {_enumerated(clauses)}" if clauses else nothing
    if findings.summary.get("selected_passes") or findings.settings["config"]["student"].get("choose"):
        return _enumerated([f"The {size} student keeps {kept} of its {depth}'s time at goal", *clauses])
    required = wording.percent(findings.settings["config"]["student"]["retention"])
    none = f"No student surely keeps {required} of its {depth}'s time at goal"
    return _enumerated([f"{none}: the nearest, {size}, keeps {kept}", *clauses])


def _reservations(teacher: JSON, controlled: JSON | None) -> list[str]:
    """What a reader of the student's figures alone would get wrong about the controller."""
    if controlled is None:
        return ["The exported controller has not been run yet"]
    found = []
    there, here = controlled.get("success_final_interval"), teacher.get("success_final_interval")
    if there and here and there[1] < here[0]:
        share = wording.percent_with_interval(teacher, "success_final")
        found.append(f"There it surely reaches fewer goals than its teacher did in training, {share}")
    if controlled.get("missed_deadlines"):
        late = f"{controlled['missed_deadlines']:,} of {controlled['steps']:,} answers"
        found.append(f"{late} came after the control period")
    return found


def _teacher_alone(findings: Findings, teacher: JSON) -> str:
    depth = f"depth-{teacher['depth']} teacher" if "depth" in teacher else "teacher"
    after = f" after {teacher['env_steps']:,} environment steps" if "env_steps" in teacher else ""
    students = (
        "students are not exported and judged yet" if findings.sizes else "no student has been distilled yet"
    )
    if "success_final" not in teacher:
        return f"The {depth} has been trained{after}, but not evaluated; {students}."
    reaches = f"{_reaches(teacher, findings)}{after}; {students}"
    mastered = "has not mastered the task: it " if _misses_most(teacher) else ""
    return ". ".join([f"The {depth} {mastered}{reaches}", *_beside_reference(teacher)]) + "."


def _beside_reference(teacher: JSON) -> list[str]:
    """How near the teacher comes to what the task's reference policy shows to be possible."""
    share = wording.percent_with_interval(teacher, "share_of_reference")
    if share is None:
        return []
    own = wording.percent_with_interval(teacher, "time_at_goal")
    known = "a controller that knows the task"
    return [f"The teacher is at its goals {own} of the time, {share} of what {known} reaches"]


def _while_learning(findings: Findings) -> str:
    if not findings.teacher_metrics:
        return "Nothing has been found yet: the teacher has not run."
    last = findings.teacher_metrics[-1]
    sentence = f"The teacher is not finished: {last['env_steps']:,} environment steps so far"
    scores = [line["evaluation"] for line in findings.teacher_metrics if "evaluation" in line]
    if scores:
        sentence += f"; at its last evaluation it {_reaches(scores[-1], findings, 'reached')}"
    return f"{sentence}."


def _reaches(score: JSON, findings: Findings, verb: str = "reaches") -> str:
    """`reaches 98.4 % (96.0 to 99.4) of 256 goals within 5 cm`."""
    near = radius(findings)
    within = f" within {near}" if near else ""
    if score["success_final"] == 0:
        return f"{verb} none of {score['episodes']} goals{within}"
    share = wording.percent_with_interval(score, "success_final")
    return f"{verb} {share} of {score['episodes']} goals{within}"


def _misses_most(score: JSON) -> bool:
    """Whether more goals are missed than reached, beyond doubt."""
    interval = score.get("success_final_interval")
    return interval is not None and interval[1] < 0.5


def _enumerated(clauses: list[str]) -> str:
    *first, last = clauses
    if not first:
        return last
    return f"{', '.join(first)}, and {last}" if len(first) > 1 else f"{first[0]} and {last}"


def _state(lines: list[JSON], counted: str, total: int) -> str:
    """How far a stage came that writes a line for each of `total`."""
    return f"not complete, {counted} {lines[-1][counted]} of {total}" if lines else "not run yet"
