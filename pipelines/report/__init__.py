"""A run, or a sweep, as one page that opens in any browser, without a network, plots and all.

A page says what was found from the teacher to the robot; nothing is called good that is not."""

import base64
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader
from PIL import Image

from pipelines import tables
from pipelines.files import JSON, write_text
from pipelines.formats import Goal, engine, has_not_learned, in_words, latency, named, percent, with_unit
from pipelines.report import figures
from pipelines.report.context import RunContext, SweepContext
from pipelines.rundir import Run, require_run, understood
from pipelines.summary import Combination, Score, SweepSummary
from pipelines.sweep import Sweep, short, shown
from student.baselines import conclusion

# A space that a line is not to be broken at.
BEFORE_UNIT = re.compile(r"(?<=\d) (?=(?:%|°|h|min|[mµc]?[ms])(?!\w))")
NARROW = "\N{NARROW NO-BREAK SPACE}"

__all__ = ["verdict", "write_comparison", "write_report", "write_sweep_report", "write_watch_page"]


def write_report(run: Run) -> Path:
    """Writes the run's report.html; the same run gives the same bytes.

    Stages that have not run are named, figures that were not computed are left out.
    Raises: FathomError if a file of the run cannot be read or the page not be written."""
    require_run(run, "write_report")
    with understood(run.path):
        return _write(run.path / "report.html", _of_run(RunContext(run)))


def verdict(run: Run) -> str:
    """Returns the sentence at the top of the run's report."""
    with understood(run.path):
        return _verdict(RunContext(run))


def write_sweep_report(sweep: Sweep) -> Path:
    """Writes the sweep's report.html, also while it is being trained.

    Runs that have not ended are named. Raises: as `write_report`."""
    from pipelines.compare import compare_sweep  # counts parameters, with JAX
    from teacher.tasks import make_task

    with understood(sweep.path):
        specs = [make_task(name).spec for name in {member.run.task for member in sweep.members}]
        goals = {Goal(*(getattr(spec.goal, field) for field in Goal._fields)) for spec in specs}
        goal = goals.pop() if len(goals) == 1 else Goal()
        context = SweepContext(sweep, compare_sweep(sweep, sweep.failures), goal)
        return _write(sweep.path / "report.html", _of_sweep(context))


def write_comparison(runs: Mapping[str, Run], found: JSON, target: Path) -> Path:
    """Writes a page of several runs, compared as by `compare_runs`. Raises: as `write_report`."""
    with understood(*(run.path for run in runs.values())):
        return _write(target, _of_comparison(found, {name: RunContext(run) for name, run in runs.items()}))


def write_watch_page(
    target: Path, task: str, policy: str, recording: JSON, pictures: Sequence[bytes]
) -> Path:
    """Writes a page of recorded episodes alone, as `pipelines.render` gives them."""
    found = films(recording, pictures)
    about = f"{len(found)} held-out episode{'s' * (len(found) > 1)} of {policy}"
    return _write(target, Page(task, about, first=[found]))


class Page(NamedTuple):
    """A page; a part is a table, figures, films, code, something folded or a note."""

    title: str
    about: str
    verdict: str = ""
    first: Sequence[Any] = ()
    missing: Sequence[tuple[str, str]] = ()  # what is left to do or to know, and the command that does it
    sections: Mapping[str, Sequence[Any]] = {}  # those without content are left out


def _write(target: Path, page: Page) -> Path:
    """Writes a document that refers to nothing outside itself; all text in it is escaped."""

    def unbroken(value: Any) -> Any:
        return BEFORE_UNIT.sub(NARROW, value) if type(value) is str else value

    layout: dict[str, Any] = {"autoescape": True, "trim_blocks": True, "lstrip_blocks": True}
    environment = Environment(loader=PackageLoader("pipelines.report"), finalize=unbroken, **layout)
    write_text(target, environment.get_template("page.html.j2").render(page=page).strip() + "\n")
    return target


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


def _of_run(run: RunContext) -> Page:
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
    none_drawn = (
        f"No pictures of them: pipeline control {run.name}/export/{found.controlled} draws them, where it "
        "finds OpenGL."
    )
    sections: dict[str, Sequence[Any]] = {
        "How the teacher learned": [figures.learning(run)],
        "What students keep, and what they cost": [
            tables.students(found, run.goal.unit),
            figures.retention_and_cost({run.name: run}) + figures.distillation(run) if found.students else [],
        ],
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
        "The controller's episodes": [
            none_drawn if run.recording and not run.pictures else [],
            figures.control_distances(run),
        ],
        "On the robot": [figures.robot(run)],
        "How to make this run again": [
            *_origin(run, "run"),
            *(_contents(*each) for each in run.bundles.items()),
        ],
    }
    trained = f", trained in {found.engine}" if found.engine else ""
    about = f"Task {run.task}{trained}, seed {run.settings['seed']}"
    first = [films(run.recording, run.pictures), tables.funnel(found, run.goal)]
    return Page(run.name, about, _verdict(run), first, missing, sections)


def _state(lines: Sequence[JSON], counted: str, total: int) -> str:
    return f"not complete, {counted} {lines[-1][counted]} of {total}." if lines else "not run yet."


def _verdict(run: RunContext) -> str:
    """Says how far a run has come, and what would mislead if it were left out."""
    found, size, student, teacher = run.found, run.found.selected, run.found.chosen, run.found.teacher
    if not teacher:
        if not run.teacher_metrics:
            return "Nothing has been found yet: the teacher has not run."
        steps = f"{run.teacher_metrics[-1]['env_steps']:,}"
        scores = [line["evaluation"] for line in run.teacher_metrics if "evaluation" in line]
        last = f"at its last evaluation it {_reaches(Score(**scores[-1]), run, 'reached')}" if scores else ""
        return f"The teacher is not finished: {steps} environment steps so far{'; ' * bool(last)}{last}."
    ends, at_goal = teacher.interval("success_final"), in_words(teacher, "time_at_goal")
    misses_most = ends is not None and ends[1] < 0.5  # beyond doubt
    said = [] if teacher.has_learned else [has_not_learned(teacher)]
    if not size and teacher.has_learned:
        what = f"{'has not mastered the task: it ' * misses_most}{_reaches(teacher, run)}"
        said.append(f"The {named(teacher)} {what}.")
    if size:
        kept = in_words(student, "retention")
        if student.retention is None and teacher.time_at_goal:
            seldom = (
                f"was at its goals {at_goal} of the time, too seldom to tell what the {size} student keeps"
            )
            said.append(f"The {named(teacher)} {seldom}.")
        elif student.retention is None:
            nothing = f"was never at a goal, so the {size} student had nothing to keep"
            said.append(f"The {named(teacher)} {nothing}.")
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
                late = f"{control.missed_deadlines:,} of {control.steps:,} answers"
                said.append(f"{late} came after the control period.")
        if misses_most and teacher.has_learned and student.retention is not None:
            said.append(f"The teacher itself has not mastered the task: it {_reaches(teacher, run)}.")
    if teacher.share_of_reference is not None:
        share = f"{in_words(teacher, 'share_of_reference')} of what a controller that knows the task reaches"
        said.append(f"The teacher is at its goals {at_goal} of the time, {share}.")
    return " ".join(said)


def _reaches(score: Score, run: RunContext, verb: str = "reaches") -> str:
    near = with_unit(run.goal.success_radius, run.goal.unit)
    share = in_words(score, "success_final") if score.success_final else "none"
    return f"{verb} {share} of {score.episodes} goals" + (f" within {near}" if near else "")


def films(recording: JSON, pictures: Sequence[bytes]) -> list[Film]:
    """Returns recorded episodes as moving pictures."""
    found = []
    for i, (moving, episode) in enumerate(zip(pictures, recording.get("episodes", ()), strict=False), 1):
        last = episode["distance"][-1]
        how = "at the goal" if last <= recording["success_radius"] else "not at the goal"
        how = "ended early" if episode["ended"] else how
        caption = f"Episode {i}: {how}, {with_unit(last, recording['unit'])} away"
        still = io.BytesIO()
        with Image.open(io.BytesIO(moving)) as image:
            image.seek(getattr(image, "n_frames", 1) - 1)
            image.convert("RGB").save(still, "webp", quality=70)
        found.append(Film(caption, *(base64.b64encode(each).decode() for each in (moving, still.getvalue()))))
    return found


def _origin(of: RunContext | SweepContext, what: str) -> list[Any]:
    """The command that makes a run or a sweep again, its settings and versions."""
    versions = tables.pairs(f"Installed when the {what} began", "package", "version", of.versions)
    folded = [Folded("Settings", [_json(of.settings)]), Folded("Versions", [versions])]
    return [f"Preset {of.settings['preset']}. To make the {what} again:", Code(of.again), *folded]


def _contents(size: str, spec: JSON) -> Folded:
    files = tables.pairs("SHA-256 of the files", "file", "SHA-256", spec["files"])
    return Folded(f"Bundle {size}", [files, _json(spec["provenance"])])


def _json(value: object) -> Code:
    return Code(json.dumps(value, indent=2, ensure_ascii=False))


# Several runs


def _of_comparison(found: JSON, runs: Mapping[str, RunContext]) -> Page:
    settings, scores, kept = tables.compared(found, {name: run.goal.unit for name, run in runs.items()})
    none = "None: the runs differ in nothing that was set, or repeat each other."
    return Page(
        f"{len(runs)} runs beside each other",
        ", ".join(runs),
        missing=[(sentence, "") for sentence in found["not_comparable"]],
        sections={
            "Verdicts": [f"{name}: {_verdict(run)}" for name, run in runs.items()],
            "Settings that differ": [settings if settings.rows else none],
            "Scores": [scores],
            "Students": [figures.retention_and_cost(runs), kept],
            "How the teachers learned": [figures.comparison_learning(runs)],
            "Versions that differ": [tables.different("package", found["versions"], found)],
        },
    )


def _of_sweep(sweep: SweepContext) -> Page:
    found, total, ended = sweep.found, len(sweep.found.runs), len(sweep.finished)
    missing = [(f"{run.run} has no score: {run.error}.", "") for run in sweep.failed]
    for run in found.runs:
        errors = (run.stage_errors or {}).items()
        missing += [(f"{run.run}: {stage} failed: {error}.", "") for stage, error in errors]
    if sweep.open:
        left = f"{len(sweep.open)} of {total} runs not ended yet:"
        missing.append((left, f"pipeline teacher --run {sweep.name} --resume"))
    evaluated = [each for each in sweep.distilled if all(s.time_at_goal is not None for s in each.values())]
    if sweep.distilled and len(evaluated) < ended:
        stage = "export" if len(sweep.distilled) == ended else "distill"
        left = f"students of {ended - len(evaluated)} of {ended} runs not evaluated yet:"
        missing.append((left, f"pipeline {stage} {sweep.name} --resume"))
    sections: dict[str, Sequence[Any]] = {
        "Score and cost": [figures.against_value(sweep)],
        "Figures": [tables.combinations(found, sweep.goal), tables.truth(found)] if ended else [],
        "Students": [figures.sweep_students(sweep), tables.sweep_students(found)],
        "How the teachers learned": [figures.sweep_learning(sweep)],
        "Runs": [tables.sweep_runs(found, sweep.goal)],
        "How to make this sweep again": _origin(sweep, "sweep"),
    }
    varied = [f"{short(field)} {', '.join(map(shown, values))}" for field, values in found.vary.items()]
    task = [] if "task.name" in found.vary else [sweep.config.teacher.task.name]
    seeds = f"seed{'s' * (len(found.seeds) > 1)} {', '.join(map(str, found.seeds))}"
    about = f"Sweep: {'; '.join([*task, *varied, seeds])}"
    return Page(sweep.name, about, _verdict_of_sweep(found), (), missing, sections)


def _verdict_of_sweep(found: SweepSummary) -> str:
    """Says which combination reaches most goals, as far as the seeds show it."""
    scored = [row for row in found.combinations if row.success_final is not None]
    if not scored:
        return "Nothing has been found yet: no run has finished."
    first = max(scored, key=lambda row: row.success_final or 0)
    best = [row for row in scored if row.success_final == first.success_final]
    names = " and ".join(tables.label(found, row) for row in best)
    over = f"the mean over {len(first.seeds)} seeds" if len(first.seeds) > 1 else "with one seed"
    score = in_words(first, "success_final")
    if not first.success_final:
        said = ["No run reaches a goal at the end of an episode."]
    elif len(scored) == 1:
        said = [f"{score} of goals are reached by {names}, {over}."]
    else:
        said = [f"Most goals are reached by {names}: {score}, {over}."]
        unsure = [tables.label(found, row) for row in scored if _may_equal(row, first)]
        if max(len(row.seeds) for row in scored) == 1:
            said.append("One seed: the differences may be chance.")
        elif unsure and len(best) == 1:
            others = f"{len(unsure)} of the others reach"
            others = others if len(unsure) > 2 else f"{' or '.join(unsure)} reaches"
            said.append(f"These seeds do not prove that to be more than {others}.")
    return " ".join(said)


def _may_equal(row: Combination, best: Combination) -> bool:
    """Says whether another's interval over seeds reaches that of the best, or one of them is not known."""
    here, there = best.interval("success_final"), row.interval("success_final")
    return row is not best and not (here and there and there[1] < here[0])
