"""A run, or a sweep, as one page that opens in any browser, without a network, plots and all."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import ChainableUndefined, Environment, PackageLoader, UndefinedError

from export.verify import ACTION_TOLERANCE, DISTANCE_TOLERANCE
from pipelines.files import write_text
from pipelines.report import figures, page
from pipelines.report.context import RunContext, SweepContext
from pipelines.rundir import Run, understood
from pipelines.sweep import Sweep
from student.baselines import conclusion
from teacher.config import FAR_CELLS

__all__ = ["write_comparison", "write_report", "write_sweep_report", "write_watch_page"]


def write_report(run: Run) -> Path:
    """Writes the run's report.html; the same run gives the same bytes.

    Stages that have not run are named, figures that were not computed are left out.
    Raises: FathomError if a file of the run cannot be read or the page not be written."""
    with understood(run.path):
        return _write(run.path / "report.html", "run", run=RunContext(run))


def write_sweep_report(sweep: Sweep) -> Path:
    """Writes the sweep's report.html, also while it is being trained.

    Runs that have not ended are named. Raises: as `write_report`."""
    from pipelines.compare import compare_sweep  # counts parameters, with JAX
    from teacher.tasks import make_task

    with understood(sweep.path):
        tasks = {member.run.config.teacher.task.name for member in sweep.members}
        goals = [make_task(name).spec.goal.model_dump() for name in tasks]
        goal = goals[0] if all(goal == goals[0] for goal in goals) else {}
        context = SweepContext(sweep, compare_sweep(sweep, sweep.failures), goal)
        return _write(sweep.path / "report.html", "sweep", sweep=context)


def write_comparison(figures: dict[str, Any], runs: Sequence[Run], target: Path) -> Path:
    """Writes a page of several runs, as `pipelines.compare.compare_runs` has compared them.

    Raises: as `write_report`."""
    with understood(*(run.path for run in runs)):
        contexts = dict(zip(figures["runs"], map(RunContext, runs), strict=True))
        return _write(target, "comparison", found=figures, runs=contexts)


def write_watch_page(
    target: Path, task: str, policy: str, recording: dict[str, Any], pictures: list[bytes]
) -> Path:
    """Writes a page of recorded episodes alone, as `pipelines.render` gives them."""
    return _write(target, "watch", task=task, policy=policy, recording=recording, pictures=pictures)


def _write(target: Path, template: str, **values: Any) -> Path:
    """Writes a document that refers to nothing outside itself; all text in it is escaped."""
    try:
        write_text(target, _environment().get_template(f"{template}.html.j2").render(values))
    except UndefinedError as error:  # of a value that a file of the run should have
        raise ValueError(str(error)) from error
    return target


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("pipelines.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=ChainableUndefined,  # what a run has not computed
        extensions=["jinja2.ext.do"],
    )
    formats = {
        name: each for name, each in vars(page).items() if getattr(each, "__module__", "") == page.__name__
    }
    environment.filters |= formats
    environment.globals |= formats | {"INTERVALS": page.INTERVALS, "FAR_CELLS": FAR_CELLS}
    environment.globals |= {"figures": figures, "conclusion": conclusion}
    environment.globals["ALLOWED"] = (ACTION_TOLERANCE[0], *DISTANCE_TOLERANCE)
    return environment
