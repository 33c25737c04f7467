"""What pages say: of a run from its teacher to the robot, of a sweep, of runs beside each other.

Nothing is called good that is not."""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image

from pipelines import tables
from pipelines.formats import (
    capital,
    engine,
    has_not_learned,
    in_words,
    latency,
    named,
    number,
    percent,
    with_unit,
)
from pipelines.report import figures
from pipelines.report.context import JSON, RunContext, SweepContext
from pipelines.summary import Score
from student.baselines import conclusion

if TYPE_CHECKING:
    from pipelines.compare import Comparison


class Page(NamedTuple):
    """A page; a part is a table, figures, films, code, something folded or a note."""

    title: str
    about: str
    verdict: str = ""
    first: Sequence[Any] = ()
    missing: Sequence[tuple[str, str]] = ()  # what is left to do or to know, and the command that does it
    sections: Mapping[str, Sequence[Any]] = {}  # those without content are left out
    heading: str = ""


class Folded(NamedTuple):
    title: str
    folded: Sequence[Any]


class Code(NamedTuple):
    code: str


class Film(NamedTuple):
    """A recorded episode and its last frame, as the page holds them."""

    caption: str
    moving: str
    still: str


# A run


def of_run(run: RunContext) -> Page:
    found, student = run.found, run.config.student
    missing = []
    if not found.teacher:
        state = _state(run.teacher_metrics, "iteration", run.config.teacher.collect.iterations)
        missing.append((f"teacher: {state}", f"pipeline teacher --run {run.name} --resume"))
    if found.teacher and not found.teacher.has_learned:
        missing += [(f"Likely cause: {cause}", "") for cause in found.teacher.likely_causes or ()]
    if not found.students:
        again = " --resume" * bool(run.student_metrics)
        state = _state(run.student_metrics, "round", student.rounds)
        missing.append((f"students: {state}", f"pipeline distill {run.name}{again}"))
    if not found.selected:
        done = len(found.export)
        state = f"not complete, {done} of {len(student.sizes)}." if done else "not run yet."
        missing.append((f"file: {state}", f"pipeline export {run.name}{' --resume' * bool(done)}"))
    if not found.control:
        missing.append(("control: not run yet.", f"pipeline control {run.name}"))
    trials = tables.robustness(found)
    costs = figures.retention_and_cost({run.name: run}) + figures.distillation(run) if found.students else []
    film, none_drawn = _recorded(run)
    sections: dict[str, Sequence[Any]] = {
        "How the teacher learned": [figures.learning(run)],
        "What students keep, and what they cost": [tables.students(found, run.goal.unit), costs],
        "Robustness to noise, pushes and other physics": (
            [figures.robustness(run), Folded("Figures", [trials])] if trials.rows else []
        ),
        "What the critic knows of distances": [
            figures.maze_distances(run),
            tables.maze(found),
            tables.critics(found),
        ],
        "Beside students that were trained otherwise": [
            conclusion(found.as_json().get("baselines", {})) or [],
            tables.baselines(found),
        ],
        "In training and in another simulator": [figures.calibration(run), tables.calibration(found)],
        "Whether the file equals what was trained": [tables.parity(found), figures.parity(run)],
        "The controller's episodes": [*none_drawn, figures.control_distances(run)],
        "On the robot": [figures.robot(run)],
        "How to make this run again": [
            *_origin(run, "run"),
            *(
                Folded(
                    f"Bundle {size}",
                    [
                        tables.pairs("SHA-256 of the files", "file", "SHA-256", each["files"]),
                        _json(each["provenance"]),
                    ],
                )
                for size, each in run.bundles.items()
            ),
        ],
    }
    trained = f", trained in {found.engine}" if found.engine else ""
    about = f"Task {run.task}{trained}, seed {run.seed}"
    first = [film, tables.funnel(found, run.goal)]
    return Page(f"{run.name}: {run.task}", about, verdict_of_run(run), first, missing, sections, run.name)


def _state(lines: Sequence[JSON], counted: str, total: int) -> str:
    return f"not complete, {counted} {lines[-1][counted]} of {total}." if lines else "not run yet."


def verdict_of_run(run: RunContext) -> str:
    """Says how far a run has come, and what would mislead if it were left out."""
    found, size, student, teacher = run.found, run.found.selected, run.found.chosen, run.found.teacher
    if not teacher:
        if not run.teacher_metrics:
            return "Nothing has been found yet: the teacher has not run."
        steps, last = number(run.teacher_metrics[-1]["env_steps"]), run.last_evaluation
        reached = f"; at its last evaluation it {_reaches(last, run, 'reached')}" if last else ""
        return f"The teacher is not finished: {steps} environment steps so far{reached}."
    ends = teacher.interval("success_final")
    misses_most = ends is not None and ends[1] < 0.5  # beyond doubt
    said = [] if teacher.has_learned else [has_not_learned(teacher)]
    if not size:
        scored = teacher.success_final is not None
        what = _reaches(teacher, run) if scored else "has been trained, but not evaluated,"
        what = f"has not mastered the task: it {what}" if misses_most else what
        after = f" after {teacher.env_steps:,} environment steps" if teacher.env_steps else ""
        left = (
            "students are not exported and evaluated yet"
            if found.students
            else "no student has been distilled yet"
        )
        said.append(f"{capital(left)}." if said else f"The {named(teacher)} {what}{after}; {left}.")
    else:
        kept = f"{in_words(student, 'retention')}"
        if student.retention is None:
            seldom = (
                f"was at its goals {in_words(teacher, 'time_at_goal')} of the time, too seldom to tell what"
            )
            seldom = f"{seldom} the {size} student keeps."
            never = f"was never at a goal, so the {size} student had nothing to keep."
            said.append(f"The {named(teacher)} {seldom if teacher.time_at_goal else never}")
        elif found.selected_passes or run.config.student.select:
            said.append(f"The {size} student keeps {kept} of its {named(teacher)}'s time at goal.")
        else:
            least = percent(run.config.student.min_retention)
            what = f"No student surely keeps {least} of its {named(teacher)}'s time at goal"
            said.append(f"{what}: the nearest, {size}, keeps {kept}.")
        if control := found.control.get(size):
            where = f"{_reaches(control, run)} in {engine(control.engine or '')}"
            said.append(f"It answers in {latency(control.latency_us_p50)} and {where}.")
            there = control.interval("success_final")
            if ends and there and there[1] < ends[0]:
                fewer = "There it surely reaches fewer goals than its teacher did in training"
                said.append(f"{fewer}, {in_words(teacher, 'success_final')}.")
            if control.missed_deadlines:
                late = f"{control.missed_deadlines:,} of {number(control.steps)} answers"
                said.append(f"{late} came after the control period.")
        else:
            said.append("The exported controller has not been run yet.")
        if misses_most and teacher.has_learned and student.retention is not None:
            said.append(f"The teacher itself has not mastered the task: it {_reaches(teacher, run)}.")
    if teacher.share_of_reference is not None:
        share = in_words(teacher, "share_of_reference")
        at_goal = f"The teacher is at its goals {in_words(teacher, 'time_at_goal')} of the time"
        said.append(f"{at_goal}, {share} of what a controller that knows the task reaches.")
    return " ".join(said)


def _reaches(score: Score, run: RunContext, verb: str = "reaches") -> str:
    near = with_unit(run.goal.success_radius, run.goal.unit)
    share = in_words(score, "success_final") if score.success_final else "none"
    return f"{verb} {share} of {score.episodes} goals" + (f" within {near}" if near else "")


def _recorded(run: RunContext) -> tuple[list[Film], list[str]]:
    """Returns the controller's recorded episodes as moving pictures, or how to have them drawn."""
    if run.recording and not run.pictures:
        name = f"{run.name}/export/{run.found.controlled}"
        return [], [f"No pictures of them: pipeline control {name} draws them, where it finds OpenGL."]
    return films(run.recording, run.pictures), []


def films(recording: JSON, pictures: Sequence[bytes]) -> list[Film]:
    """Returns recorded episodes as moving pictures."""
    found = []
    for i, (moving, episode) in enumerate(zip(pictures, recording.get("episodes", ()), strict=False), 1):
        last = episode["distance"][-1]
        how = "at the goal" if last <= recording["success_radius"] else "not at the goal"
        how = "ended early" if episode["ended"] else how
        caption = f"Episode {i}: {how}, {with_unit(last, recording['unit'])} away"
        found.append(Film(caption, _data(moving), _data(_last_frame(moving))))
    return found


def _data(webp: bytes) -> str:
    return f"data:image/webp;base64,{base64.b64encode(webp).decode()}"


def _last_frame(moving: bytes) -> bytes:
    """Returns the end of an animated WebP as a still one."""
    stream = io.BytesIO()
    with Image.open(io.BytesIO(moving)) as image:
        image.seek(getattr(image, "n_frames", 1) - 1)
        image.convert("RGB").save(stream, "webp", quality=70)
    return stream.getvalue()


def _json(value: object) -> Code:
    return Code(json.dumps(value, indent=2, ensure_ascii=False))


def _origin(of: RunContext | SweepContext, what: str) -> list[Any]:
    """The command that makes a run or a sweep again, its settings and versions."""
    versions = tables.pairs(f"Installed when the {what} began", "package", "version", of.versions)
    folded = [Folded("Settings", [_json(of.settings)]), Folded("Versions", [versions])]
    return [f"Preset {of.preset}. To make the {what} again:", Code(of.again), *folded]


# Several runs


def of_comparison(found: "Comparison", runs: Mapping[str, RunContext]) -> Page:
    settings, scores, kept = tables.compared(found, {name: run.goal.unit for name, run in runs.items()})
    none = "None: the runs differ in nothing that was set, or repeat each other."
    return Page(
        ", ".join(runs),
        ", ".join(runs),
        missing=[(sentence, "") for sentence in found.not_comparable],
        sections={
            "Verdicts": [f"{name}: {verdict_of_run(run)}" for name, run in runs.items()],
            "Settings that differ": [settings if settings.rows else none],
            "Scores": [scores],
            "Students": [figures.retention_and_cost(runs), kept],
            "How the teachers learned": [figures.comparison_learning(runs)],
            "Versions that differ": [tables.different("package", found.versions, found)],
        },
        heading=f"{len(runs)} runs beside each other",
    )


def of_sweep(sweep: SweepContext) -> Page:
    found, total, ended = sweep.found, len(sweep.found.runs), len(sweep.finished)
    missing = [(f"{run.run} has no score: {run.error}.", "") for run in sweep.failed]
    for run in found.runs:
        errors = (run.stage_errors or {}).items()
        missing += [(f"{run.run}: {stage} failed: {error}.", "") for stage, error in errors]
    if sweep.open:
        left = f"{len(sweep.open)} of {total} runs not ended yet:"
        missing.append((left, f"pipeline teacher --run {sweep.name} --resume"))
    if sweep.distilled and len(sweep.evaluated) < ended:
        stage = "export" if len(sweep.distilled) == ended else "distill"
        left = f"students of {ended - len(sweep.evaluated)} of {ended} runs not evaluated yet:"
        missing.append((left, f"pipeline {stage} {sweep.name} --resume"))
    means = [tables.combinations(found, sweep.goal), tables.truth(found)] if sweep.finished else []
    sections: dict[str, Sequence[Any]] = {
        "Score and cost": [figures.against_value(sweep)],
        "Figures": means,
        "Students": [figures.sweep_students(sweep), tables.sweep_students(found)],
        "How the teachers learned": [figures.sweep_learning(sweep)],
        "Runs": [tables.sweep_runs(found, sweep.goal)],
        "How to make this sweep again": _origin(sweep, "sweep"),
    }
    about = f"Sweep: {'; '.join(sweep.varied)}"
    return Page(sweep.name, about, verdict_of_sweep(sweep), (), missing, sections)


def verdict_of_sweep(sweep: SweepContext) -> str:
    """Says which combination reaches most goals, as far as the seeds show it."""
    scored = [row for row in sweep.found.combinations if row.success_final is not None]
    total, failed, left = len(sweep.found.runs), len(sweep.failed), len(sweep.open)
    if not scored:
        of_failed = f" {failed} of {total} failed." if failed else ""
        return f"Nothing has been found yet: no run has finished.{of_failed}"
    first = max(scored, key=lambda row: row.success_final or 0)
    best = [row for row in scored if row.success_final == first.success_final]
    over = f"the mean over {len(first.seeds)} seeds" if len(first.seeds) > 1 else "with one seed"
    score = f"{in_words(first, 'success_final')}"
    if not first.success_final:
        said = ["No run reaches a goal at the end of an episode."]
    elif len(scored) == 1:
        said = [f"{capital(sweep.labels([first]))} reaches {score} of its goals, {over}."]
    else:
        reach = "reach" if len(best) > 1 else "reaches"
        said = [f"{capital(sweep.labels(best))} {reach} most goals: {score}, {over}."]
        unsure = sweep.may_equal(first)
        if max(len(row.seeds) for row in scored) == 1:
            said.append("One seed: the differences may be chance.")
        elif unsure and len(best) == 1:
            others = (
                f"{' or '.join(unsure)} reaches" if len(unsure) <= 2 else f"{len(unsure)} of the others reach"
            )
            said.append(f"These seeds do not prove that to be more than {others}.")
    if failed:
        said.append(f"{failed} of {total} runs failed and {'is' if failed == 1 else 'are'} in no mean.")
    if left:
        said.append(f"{left} of {total} runs {'has' if left == 1 else 'have'} not ended yet.")
    return " ".join(said)
