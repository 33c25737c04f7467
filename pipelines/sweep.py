"""The stages of a study's runs, one run after another: a run in which one fails does not end the study."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import mean

import jax

from pipelines import export_students, teaching, train_students
from pipelines.bar import describe_duration
from pipelines.baselines import distill_with_baselines
from pipelines.comparison import JSON, compare
from pipelines.interrupt import Interrupted
from pipelines.progress import Display
from pipelines.rundir import Run, locked, write_json
from pipelines.study import Member, Study
from teacher import checkpoint
from teacher.errors import Diverged, FathomError, UsageError

OUT_OF_MEMORY = "out of memory"


def train_study(study: Study) -> JSON:
    """Trains every run that has not ended yet; returns the summary.

    A run that diverges or does not fit into the device's memory is recorded, and the next one begins.
    Taken up again, a run that diverged is left alone, for its seed would end there again; one that did
    not fit is tried again, for the device may be another."""
    members, failures = study.members, study.failures
    failures = {name: found for name, found in failures.items() if found["state"] != OUT_OF_MEMORY}
    display = Display()
    with locked(study.path):
        for number, member in enumerate(members, 1):
            if member.finished or member.name in failures:
                continue
            left = _time_left(members, failures)
            display.say(f"run {number} of {len(members)}: {member.title}{left}", "bold")
            failure = _train_run(member, Display(f"{number}/{len(members)} {member.title}"))
            if failure is not None:
                display.say(f"run {number} of {len(members)}: {failure['error']}", "red")
                failures[member.name] = failure
            _write_summary(study, failures)
        return _write_summary(study, failures)


def distil_study(
    study: Study, *, baselines: str | None = None, resume: bool = False, seed: int | None = None
) -> JSON:
    """Fits students to the teacher of every run that has finished; returns the study's summary.

    With `resume`, runs whose students are done are kept. `baselines` as `distill_with_baselines` takes them.
    Raises: UsageError, before anything is computed, if there are students already and `resume` is not set."""
    begun = [member.name for member in study.members if (member.run.students / "checkpoints").exists()]
    if begun and baselines is None and not resume:
        raise UsageError(
            f"{study.path} holds students already ({begun[0]}): add --resume, or begin a new study"
        )
    if baselines is None:
        work = partial(train_students.distill, resume=resume, seed=seed)
        return _carry_out(study, "distill", work, resume=resume, is_done=_is_distilled)
    beside = partial(distill_with_baselines, names=baselines, resume=resume, seed=seed)
    return _carry_out(study, "distill", beside, resume=resume)


def export_study(
    study: Study, *, resume: bool = False, seed: int | None = None, sign: Path | None = None
) -> JSON:
    """Exports and judges the students of every run that has any; returns the study's summary.

    Raises: FathomError if no run has."""
    if not any(map(_is_distilled, study.members)):
        raise FathomError(f"no run of {study.path} holds students: first comes pipeline distill {study.path}")
    return _carry_out(
        study, "export", partial(export_students.export, resume=resume, seed=seed, sign=sign), resume=resume
    )


def _carry_out(
    study: Study,
    stage: str,
    work: Callable[[Run, Display], object],
    *,
    resume: bool,
    is_done: Callable[[Member], bool] = lambda _: False,
) -> JSON:
    """Does the work of a stage after the teacher in every run whose teacher has finished."""
    display = Display()
    with locked(study.path):
        if resume:
            study.mend(display.warn)
        study.write_changes()
        members, failures = study.members, study.failures
        for number, member in enumerate(members, 1):
            if not member.finished:
                continue
            where, error = f"run {number} of {len(members)}: ", None
            if resume and is_done(member):
                display.say(f"{where}kept {member.run.students}")
            else:
                display.say(f"{where}{member.title}", "bold")
                error = _tried(work, member, Display(f"{number}/{len(members)} {member.title}"))
            if error is not None:
                display.say(f"{where}{error}", "red")
            failures[member.name] = _noted(failures.get(member.name, {}), stage, error)
            _write_summary(study, failures)
        for member in members:
            if not member.finished:
                why = failures.get(member.name, {}).get("error", "its teacher has not finished training")
                display.warn(f"left out {member.name}: {why}")
        return _write_summary(study, failures)


def _tried(work: Callable[[Run, Display], object], member: Member, display: Display) -> str | None:
    """Does the work in a run; why it failed, if it did."""
    try:
        with member.run.locked():
            work(member.run, display)
    except Interrupted:
        raise
    except FathomError as error:
        return str(error)
    except jax.errors.JaxRuntimeError as error:
        return _out_of_memory(error)
    return None


def _noted(failure: JSON, stage: str, error: str | None) -> JSON:
    """A run's failures with what became of a stage in place of what was known of it."""
    errors = {name: text for name, text in failure.get("stage_errors", {}).items() if name != stage}
    errors |= {stage: error} if error is not None else {}
    return {"stage_errors": errors} if errors else {}


def _is_distilled(member: Member) -> bool:
    """Whether students of all sizes are saved and in the summary, whatever they are worth."""
    run, known = member.run, member.run.summary.get("students", {})
    sizes = run.config.student.sizes
    return all("parameters" in known.get(s, {}) and bool(checkpoint.saves(run.students / s)) for s in sizes)


def _write_summary(study: Study, failures: dict[str, JSON]) -> JSON:
    summary = compare(study, failures)
    write_json(study.path / "summary.json", summary)
    return summary


def _train_run(member: Member, display: Display) -> JSON | None:
    """Trains one run to its end; `state` and `error` if it has none."""
    try:
        with member.run.locked():
            teaching.teach(member.run, display, resume=True)
    except Diverged as error:
        return {"state": "diverged", "error": str(error)}
    except jax.errors.JaxRuntimeError as error:
        return {"state": OUT_OF_MEMORY, "error": _out_of_memory(error)}
    return None


def _out_of_memory(error: jax.errors.JaxRuntimeError) -> str:
    """What to say of this error; any other is raised again."""
    if "RESOURCE_EXHAUSTED" not in str(error):
        raise error
    return f"the device's memory is too small: {error}".splitlines()[0]


def require_all_finished(summary: JSON) -> None:
    """FathomError naming the runs that failed, and why."""
    failed = {run["run"]: run["error"] for run in summary["runs"] if "error" in run}
    if failed:
        raise FathomError(f"{len(failed)} of {len(summary['runs'])} runs failed:{_listed(failed)}")


def require_stage(study: Study, summary: JSON, stage: str) -> None:
    """FathomError naming the runs in which a later stage failed, and those none of whose students passes."""
    chosen = study.config.student.choose is not None
    failed, failing = {}, {}
    for run in summary["runs"]:
        if error := run.get("stage_errors", {}).get(stage):
            failed[run["run"]] = error
        elif stage == "export" and not chosen and not run.get("selected_passes", True):
            failing[run["run"]] = run["selected_because"]
    count, lines = len(summary["runs"]), []
    if failed:
        lines.append(f"{stage} failed in {len(failed)} of {count} runs:{_listed(failed)}")
    if failing:
        lines.append(f"in {len(failing)} of {count} runs no student keeps enough:{_listed(failing)}")
    if lines:
        raise FathomError("\n".join(lines))


def _listed(reasons: dict[str, str]) -> str:
    return "".join(f"\n  {name}: {reason}" for name, reason in reasons.items())


def _time_left(members: list[Member], failures: dict[str, JSON]) -> str:
    """`; about 5 min left`, judged by the runs that have finished; empty before the first has."""
    finished = [member for member in members if member.finished]
    if not finished:
        return ""
    untried, seconds = False, 0.0
    for member in members:
        if member.finished or member.name in failures:
            continue
        alike = [other.seconds for other in finished if other.values == member.values]
        untried |= not alike
        expected = mean(alike) if alike else max(other.seconds for other in finished)
        seconds += max(0.0, expected - member.seconds)
    basis = ", if what is untried takes as long as the slowest so far" if untried else ""
    return f"; about {describe_duration(seconds)} left{basis}"
