"""The stages of a sweep's runs, one run after another: a run in which one fails does not end the sweep."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean

import jax

from pipelines import export_students, stages, train_students, train_teacher
from pipelines.baselines import distill_with_baselines
from pipelines.compare import compare_sweep
from pipelines.config import Request
from pipelines.files import JSON, locked, write_json
from pipelines.options import First
from pipelines.progress import Display, describe_duration
from pipelines.rundir import Run, is_sweep, run_path, sweeps
from pipelines.runtime import Interrupted
from pipelines.summary import SweepSummary
from pipelines.sweep import (
    Member,
    Sweep,
    combinations,
    create_sweep,
    parse_seeds,
    short,
    shown,
    varied_values,
)
from teacher import checkpoint
from teacher.errors import Diverged, FathomError, UsageError

DIVERGED = "diverged"


def requested_sweep(first: First, asked: Request, varied: Sequence[str], seeds: str | None) -> Sweep | None:
    """Returns the sweep that `pipeline teacher` works in: new, or with `--resume` the one that is there.

    `varied` are `group.field=value,value`, `seeds` is `0,1,2`. None if a single run is asked for.
    Raises: UsageError if a value is refused, or if the sweep was begun with others."""
    if first.seed is not None and seeds is not None:
        raise UsageError(f"--seed {first.seed} and --seeds {seeds} are both given: leave out one of them")
    several = bool(varied) or seeds is not None
    chosen = parse_seeds(seeds) if seeds is not None else None if first.seed is None else [first.seed]
    fields = [short(given.partition("=")[0].strip()) for given in varied]
    usual = "-".join([asked.base, *(fields or ["seeds"])]) if several else asked.base
    path = run_path(usual if first.run is None else first.run)
    begun = first.resume and is_sweep(path)
    if (several or begun) and (count := jax.process_count()) > 1:
        raise UsageError(f"a sweep trains in one process, found {count}: start each run by itself")
    if begun:
        sweep = Sweep(path)
        sweep.mend(Display().warn)
        asked = stages.stood_for(asked, sweep.all_runs, first.trust)
        _require_same(sweep, asked, varied, chosen)
        for member in sweep.members:
            stages.check(member.run.config, trained=member.finished)
        return sweep
    if not several:
        return None
    if first.resume:
        known = ", ".join(each.name for each in sweeps()) or "none"
        raise UsageError(f"{path} is no sweep (sweeps here: {known})")
    made = combinations(asked.config, varied, asked.assigned)
    for _, combined in made:
        stages.check(combined)
    return create_sweep(path, asked.config, asked.base, made, chosen or [0])


def _require_same(sweep: Sweep, asked: Request, varied: Sequence[str], seeds: Sequence[int] | None) -> None:
    """Refuses to go on with a sweep that was begun with other values."""
    settings = sweep.settings
    if told := asked.different(sweep.config):
        raise UsageError(f"{sweep.path} was begun with other settings: {told}")
    before = {"preset": [settings["preset"]], "seeds": settings["seeds"]} | settings["vary"]
    now = {"preset": [asked.preset or settings["preset"]], "seeds": seeds or settings["seeds"]}
    now |= varied_values(combinations(sweep.config, varied, asked.assigned)) if varied else settings["vary"]
    if now != before:
        old, new = (
            " ".join(f"{field}={','.join(map(shown, values))}" for field, values in each.items())
            for each in (before, now)
        )
        raise UsageError(
            f"{sweep.path} was begun with {old}, not {new}; resume without them, or name another --run"
        )


def train_sweep(sweep: Sweep) -> JSON:
    """Trains every run that has not ended yet; returns the summary.

    Taken up again, a run that diverged is left alone, for its seed would end there again; one that did
    not fit into the device's memory is tried again, for the device may be another."""
    return _carry_out(sweep, "teacher", partial(train_teacher.teach, resume=True))


def distill_sweep(
    sweep: Sweep, *, baselines: str | None = None, resume: bool = False, seed: int | None = None
) -> JSON:
    """Fits students to the teacher of every run that has finished; returns the sweep's summary.

    With `resume`, runs whose students are done are kept. `baselines` as `distill_with_baselines` takes them.
    Raises: UsageError, before anything is computed, if there are students already and `resume` is not set."""
    if resume:
        sweep.mend(Display().warn)
    if baselines is not None:
        beside = partial(distill_with_baselines, names=baselines, resume=resume, seed=seed)
        return _carry_out(sweep, "distill", beside)
    begun = [member.name for member in sweep.members if (member.run.students / "checkpoints").exists()]
    if begun and not resume:
        raise UsageError(
            f"{sweep.path} holds students already ({begun[0]}): add --resume, or begin a new sweep"
        )
    work = partial(train_students.distill, resume=resume, seed=seed)
    return _carry_out(sweep, "distill", work, _is_distilled)


def export_sweep(
    sweep: Sweep, *, resume: bool = False, seed: int | None = None, sign: Path | None = None
) -> JSON:
    """Exports and judges the students of every run that has any; returns the sweep's summary.

    Raises: FathomError if no run has."""
    if resume:
        sweep.mend(Display().warn)
    if not any(map(_is_distilled, sweep.members)):
        raise FathomError(f"no run of {sweep.path} holds students: first comes pipeline distill {sweep.path}")
    work = partial(export_students.export, resume=resume, seed=seed, sign=sign)
    return _carry_out(sweep, "export", work)


def _carry_out(
    sweep: Sweep,
    stage: str,
    work: Callable[[Run, Display], object],
    is_done: Callable[[Member], bool] = lambda _: False,
) -> JSON:
    """Does the work of a stage in every run that has not ended it, of those after the teacher's in every run
    whose teacher has finished; returns the summary. A run in which it fails is recorded."""
    display, is_first = Display(), stage == "teacher"
    with locked(sweep.path):
        sweep.write_changes()
        members, failures = sweep.members, sweep.failures
        for number, member in enumerate(members, 1):
            known = failures.get(member.name, {})
            failure: JSON = {}
            where = f"run {number} of {len(members)}: "
            if is_first and (member.finished or known.get("state") == DIVERGED):
                continue
            if not is_first and not member.finished:
                why = known.get("error", "its teacher has not finished training")
                display.warn(f"left out {member.name}: {why}")
                continue
            if is_done(member):
                display.say(f"{where}kept {member.run.students}")
            else:
                left = _time_left(members, failures) if is_first else ""
                display.say(f"{where}{member.title}{left}", "bold")
                inner = Display(f"{number}/{len(members)} {member.title}")
                failure = _failure(work, member, inner, Diverged if is_first else FathomError)
            if failure:
                display.say(f"{where}{failure['error']}", "red")
            if not is_first:  # what became of the stage takes the place of what was known of it
                errors = known.get("stage_errors", {}) | {stage: failure.get("error")}
                failure = {"stage_errors": {name: text for name, text in errors.items() if text}}
            failures[member.name] = failure
            _write_summary(sweep, failures)
        return _write_summary(sweep, failures)


def _failure(
    work: Callable[[Run, Display], object], member: Member, display: Display, caught: type[FathomError]
) -> JSON:
    """Does the work in a run; returns `state` and `error` if it failed in a way that is caught."""
    try:
        with member.run.locked():
            work(member.run, display)
    except Interrupted:
        raise
    except caught as error:
        return {"state": DIVERGED, "error": str(error)}
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        text = str(error).splitlines()[0]
        return {"state": "out of memory", "error": f"the device's memory is too small: {text}"}
    return {}


def _is_distilled(member: Member) -> bool:
    """Whether students of all sizes are saved and in the summary, whatever they are worth."""
    run, known = member.run, member.run.summary.get("students", {})
    sizes = run.config.student.sizes
    return all("parameters" in known.get(s, {}) and bool(checkpoint.saves(run.students / s)) for s in sizes)


def _write_summary(sweep: Sweep, failures: dict[str, JSON]) -> JSON:
    summary = compare_sweep(sweep, failures).as_json()
    write_json(sweep.path / "summary.json", summary)
    return summary


def require_success(sweep: Sweep, summary: JSON, stage: str) -> None:
    """Raises FathomError naming the runs in which a stage failed, and those none of whose students passes."""
    runs, lines = SweepSummary.model_validate(summary).runs, []
    errors = {
        run.run: run.error if stage == "teacher" else (run.stage_errors or {}).get(stage) for run in runs
    }
    evaluated = stage == "export" and sweep.config.student.select is None
    failing = {run.run: run.selected_because for run in runs if evaluated and run.selected_passes is False}
    for what, reasons in ((f"{stage} failed", errors), ("no student keeps enough", failing)):
        if found := [f"  {name}: {reason}" for name, reason in reasons.items() if reason]:
            lines += [f"{what} in {len(found)} of {len(runs)} runs:", *found]
    if lines:
        raise FathomError("\n".join(lines))


def _time_left(members: list[Member], failures: dict[str, JSON]) -> str:
    """`; about 5 min left`: others take as long as those of the same values, or else the longest, so far."""
    taken = [(member.values, member.seconds) for member in members if member.finished]
    seconds = 0.0
    for member in (each for each in members if not each.finished and not failures.get(each.name)):
        alike = [took for values, took in taken if values == member.values]
        longest = max((took for _, took in taken), default=0.0)
        seconds += max(0.0, fmean(alike or [longest]) - member.seconds)
    return f"; about {describe_duration(seconds)} left" if taken else ""
