"""Trains the runs of a study, one after another."""

from statistics import mean

import jax
from rich.markup import escape

from pipelines import teaching
from pipelines.bar import describe_duration
from pipelines.comparison import JSON, compare
from pipelines.progress import Display
from pipelines.rundir import locked, write_json
from pipelines.study import Member, Study
from teacher.errors import Diverged, FathomError

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
            display.say(f"[bold]run {number} of {len(members)}: {member.title}[/bold]{left}")
            failure = _train_run(member, Display(f"{number}/{len(members)} {member.title}"))
            if failure is not None:
                display.say(f"[red]run {number} of {len(members)}: {escape(failure['error'])}[/red]")
                failures[member.name] = failure
            write_json(study.path / "summary.json", compare(study, failures))
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
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return {"state": OUT_OF_MEMORY, "error": f"the device's memory is too small: {error}".splitlines()[0]}
    return None


def require_all_finished(summary: JSON) -> None:
    """FathomError naming the runs that failed, and why."""
    failed = [f"\n  {run['run']}: {run['error']}" for run in summary["runs"] if "error" in run]
    if failed:
        raise FathomError(f"{len(failed)} of {len(summary['runs'])} runs failed:{''.join(failed)}")


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
