"""A run, or a sweep, in a few sentences; nothing is called good that is not. How far each stage has come."""

from pipelines.report import wording
from pipelines.report.context import JSON, RunContext, SweepContext
from pipelines.sweep import described
from teacher.config import CollectConfig

NAMED = 2  # combinations that a sentence lists; more are counted
KNOWS = "a controller that knows the task"


def missing(run: RunContext) -> list[tuple[str, str]]:
    """Returns what is left of the four stages, in their order, and the commands that go on with it."""
    name, summary, config = run.name, run.summary, run.settings["config"]
    found = []
    if "teacher" not in summary:
        total = CollectConfig.model_validate(config["teacher"]["collect"]).iterations
        state = _state(run.teacher_metrics, "iteration", total)
        found.append((f"teacher: {state}.", f"pipeline teacher --run {name} --resume"))
    if "students" not in summary:
        state = _state(run.student_metrics, "round", config["student"]["rounds"])
        resume = " --resume" if run.student_metrics else ""
        found.append((f"students: {state}.", f"pipeline distill {name}{resume}"))
    if run.selected is None:
        done, sizes = len(run.exported), len(config["student"]["sizes"])
        state = f"not complete, {done} of {sizes}" if done else "not run yet"
        found.append((f"file: {state}.", f"pipeline export {name}{' --resume' if done else ''}"))
    if not run.control:
        found.append(("control: not run yet.", f"pipeline control {name}"))
    return found


def of_run(run: RunContext) -> str:
    """Returns what the run amounts to, with the figures that say so."""
    teacher, student, size = run.teacher, run.chosen, run.selected
    if not teacher:
        return _while_learning(run)
    if size is None:
        return _teacher_alone(run)
    controlled = run.control.get(size, {})
    clauses = []
    if answers := wording.latency((controlled or run.exported.get(size, {})).get("latency_us_p50")):
        clauses.append(f"answers in {answers}")
    if controlled:
        engine = wording.ENGINES.get(controlled["engine"], controlled["engine"])
        clauses.append(f"{_reaches(controlled, run)} in {engine}")
    sentences = [_beside_teacher(run, student, clauses)]
    if "retention" in student and _misses_most(teacher):
        sentences.append(f"The teacher itself has not mastered the task: it {_reaches(teacher, run)}")
    sentences += _beside_reference(teacher)
    if not controlled:
        sentences.append("The exported controller has not been run yet")
    there, here = controlled.get("success_final_interval"), teacher.get("success_final_interval")
    if there and here and there[1] < here[0]:
        share = wording.share_in_words(teacher, "success_final")
        sentences.append(f"There it surely reaches fewer goals than its teacher did in training, {share}")
    if late := controlled.get("missed_deadlines"):
        sentences.append(f"{late:,} of {controlled['steps']:,} answers came after the control period")
    return ". ".join(sentences) + "."


def _beside_teacher(run: RunContext, student: JSON, clauses: list[str]) -> str:
    """Returns the student beside its teacher, then what else the student does, one clause each."""
    teacher, size = _named(run.teacher), run.selected
    kept = wording.share_in_words(student, "retention")
    if kept is None:
        nothing = f"The {teacher} never was at a goal, so the {size} student had nothing to keep"
        return f"{nothing}; it {wording.enumerated(clauses, ',')}" if clauses else nothing
    settings = run.settings["config"]["student"]
    first = f"The {size} student keeps {kept} of its {teacher}'s time at goal"
    if not run.summary.get("selected_passes") and not settings.get("choose"):
        required = wording.percent(settings["retention"])
        none = f"No student surely keeps {required} of its {teacher}'s time at goal"
        first = f"{none}: the nearest, {size}, keeps {kept}"
    return wording.enumerated([first, *clauses], ",")


def _teacher_alone(run: RunContext) -> str:
    teacher = run.teacher
    after = f" after {teacher['env_steps']:,} environment steps" if "env_steps" in teacher else ""
    left = "students are not exported and judged yet" if run.students else "no student has been distilled yet"
    if "success_final" not in teacher:
        return f"The {_named(teacher)} has been trained{after}, but not evaluated; {left}."
    mastered = "has not mastered the task: it " if _misses_most(teacher) else ""
    sentence = f"The {_named(teacher)} {mastered}{_reaches(teacher, run)}{after}; {left}"
    return ". ".join([sentence, *_beside_reference(teacher)]) + "."


def _while_learning(run: RunContext) -> str:
    if not run.teacher_metrics:
        return "Nothing has been found yet: the teacher has not run."
    steps = run.teacher_metrics[-1]["env_steps"]
    sentence = f"The teacher is not finished: {steps:,} environment steps so far"
    scores = [line["evaluation"] for line in run.teacher_metrics if "evaluation" in line]
    reached = f"; at its last evaluation it {_reaches(scores[-1], run, 'reached')}" if scores else ""
    return f"{sentence}{reached}."


def _named(teacher: JSON) -> str:
    return f"depth-{teacher['depth']} teacher" if "depth" in teacher else "teacher"


def _beside_reference(teacher: JSON) -> list[str]:
    """Returns how near the teacher comes to what the task's reference policy shows to be possible."""
    share, own = (wording.share_in_words(teacher, key) for key in ("share_of_reference", "time_at_goal"))
    return (
        [f"The teacher is at its goals {own} of the time, {share} of what {KNOWS} reaches"] if share else []
    )


def _reaches(score: JSON, run: RunContext, verb: str = "reaches") -> str:
    """Returns `reaches 98.4 % (96.0 to 99.4) of 256 goals within 5 cm`."""
    goals = f"{score['episodes']} goals" + (f" within {run.radius}" if run.radius else "")
    if score["success_final"] == 0:
        return f"{verb} none of {goals}"
    return f"{verb} {wording.share_in_words(score, 'success_final')} of {goals}"


def _misses_most(score: JSON) -> bool:
    """Whether more goals are missed than reached, beyond doubt."""
    return "success_final_interval" in score and score["success_final_interval"][1] < 0.5


def _state(lines: list[JSON], counted: str, total: int) -> str:
    """Returns how far a stage came that writes a line for each of `total`."""
    return f"not complete, {counted} {lines[-1][counted]} of {total}" if lines else "not run yet"


def of_sweep(sweep: SweepContext) -> str:
    """Returns what the sweep amounts to so far; no difference is called sure that the seeds do not show."""
    scored = [figures for figures in sweep.combinations if "success_final" in figures]
    runs, failed, waiting = len(sweep.runs), len(sweep.failed), len(sweep.open)
    if not scored:
        failures = f" {failed} of {runs} failed." if failed else ""
        return f"Nothing has been found yet: no run has finished.{failures}"
    sentences = _best(sweep, scored)
    compared = [figures for figures in scored if "share_of_reference" in figures]
    if compared:
        best = max(compared, key=lambda figures: figures["share_of_reference"])
        share = wording.share_in_words(best, "share_of_reference")
        name = _capital(label(sweep, best["values"]))
        sentences.append(f"{name} is at its goals for {share} of the time that {KNOWS} is")
    fast, slow = (choose(scored, key=lambda figures: figures["wall_s"]) for choose in (min, max))
    if (ratio := slow["wall_s"] / fast["wall_s"]) >= 1.1:
        takes = f"{_capital(label(sweep, slow['values']))} takes {wording.duration(slow['wall_s'])} a run"
        sentences.append(f"{takes}, {ratio:.1f} times as long as {label(sweep, fast['values'])}")
    if failed:
        sentences.append(f"{failed} of {runs} runs failed and {'is' if failed == 1 else 'are'} in no mean")
    if waiting:
        sentences.append(f"{waiting} of {runs} runs {'has' if waiting == 1 else 'have'} not ended yet")
    return ". ".join(sentences) + "."


def label(sweep: SweepContext, values: JSON) -> str:
    """Returns `depth 4`; the preset's name where nothing but the seed varies."""
    return described(values) or sweep.preset


def seeds_note(sweep: SweepContext) -> str:
    """Returns on how many seeds the figures rest, and what their intervals are."""
    if len(sweep.seeds) == 1:
        return "One seed: there is no interval over seeds, and differences between rows may be chance."
    return (
        f"In small print: {wording.INTERVALS} of the mean over seeds (Student's t); "
        "none where a single seed finished or all agree exactly."
    )


def _best(sweep: SweepContext, scored: list[JSON]) -> list[str]:
    top = max(figures["success_final"] for figures in scored)
    if top == 0:
        return ["No run reaches a goal at the end of an episode"]
    best = [figures for figures in scored if figures["success_final"] == top]
    names = _capital(wording.enumerated([label(sweep, figures["values"]) for figures in best]))
    share, first = wording.share_in_words(best[0], "success_final"), best[0]
    over = f"the mean over {len(first['seeds'])} seeds" if len(first["seeds"]) > 1 else "with one seed"
    if len(scored) == 1:
        return [f"{names} reaches {share} of its goals, {over}"]
    sentences = [f"{names} {'reaches' if len(best) == 1 else 'reach'} most goals: {share}, {over}"]
    if max(len(figures["seeds"]) for figures in scored) == 1:
        return [*sentences, "One seed: the differences may be chance"]
    unsure = [label(sweep, figures["values"]) for figures in scored if _may_equal(figures, first)]
    if len(best) == 1 and unsure:
        few = len(unsure) <= NAMED
        others = " or ".join(unsure) if few else f"{len(unsure)} of the {len(scored) - 1} others"
        verb = "reaches" if few else "reach"
        sentences.append(f"These seeds do not prove that to be more than {others} {verb}")
    return sentences


def _may_equal(figures: JSON, best: JSON) -> bool:
    """Whether another combination's interval over seeds reaches the best one's, or one has none."""
    there, here = figures.get("success_final_interval"), best.get("success_final_interval")
    return figures is not best and (there is None or here is None or there[1] >= here[0])


def _capital(text: str) -> str:
    """Returns the text with a capital, but for the name of a setting that is written with underscores."""
    return text if "_" in text.split()[0] else text[:1].upper() + text[1:]
