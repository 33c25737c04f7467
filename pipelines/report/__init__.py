"""A run, or a sweep, as one page that opens in any browser, without a network, plots and all."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.files import read_json, write_text
from pipelines.report.context import RunContext, SweepContext
from pipelines.report.page import Page
from pipelines.report.run_page import films, run_page
from pipelines.report.several import comparison_page, sweep_page
from pipelines.rundir import Run, understood

if TYPE_CHECKING:
    from pipelines.sweep import Sweep

__all__ = ["write_comparison", "write_report", "write_sweep_report", "write_watch_page"]


def write_report(run: Run) -> Path:
    """Writes the run's report.html; the same run gives the same bytes.

    Stages that have not run are named, figures that were not computed are left out.
    Raises: FathomError if a file of the run cannot be read or the page not be written."""
    target = run.path / "report.html"
    with understood(run.path):
        write_text(target, run_page(RunContext.of(run)).html())
    return target


def write_sweep_report(sweep: "Sweep") -> Path:
    """Writes the sweep's report.html, also while it is being trained.

    Runs that have not ended are named. Raises: as `write_report`."""
    from pipelines.compare import compare_sweep  # counts parameters, with JAX
    from teacher.tasks import make_task

    target = sweep.path / "report.html"
    with understood(sweep.path):
        members = sweep.members
        tasks = [make_task(member.run.config.teacher.task.name) for member in members]
        figures = compare_sweep(sweep, sweep.failures)
        goals = [task.spec.goal.model_dump() for task in tasks]
        context = SweepContext(
            name=sweep.path.resolve().name,
            settings=sweep.settings,
            versions=read_json(members[0].run.path / "versions.json"),
            **{key: figures[key] for key in ("preset", "seeds", "vary", "runs", "combinations", "students")},
            metrics={member.name: member.run.metrics("teacher") for member in members},
            goal=goals[0] if all(goal == goals[0] for goal in goals) else {},
        )
        write_text(target, sweep_page(context).html())
    return target


def write_comparison(figures: dict[str, Any], runs: Sequence[Run], target: Path) -> Path:
    """Writes a page of several runs, as `pipelines.compare.compare_runs` has compared them.

    Raises: as `write_report`."""
    with understood(*(run.path for run in runs)):
        contexts = dict(zip(figures["runs"], map(RunContext.of, runs), strict=True))
        write_text(target, comparison_page(figures, contexts).html())
    return target


def write_watch_page(
    target: Path, task: str, policy: str, recording: dict[str, Any], pictures: list[bytes]
) -> Path:
    """Writes a page of recorded episodes alone, as `pipelines.render` gives them."""
    count = len(recording["episodes"])
    about = f"{count} held-out episode{'s' if count > 1 else ''} of {policy}"
    write_text(target, Page(task, about, f"{task}: {policy}", opening=films(recording, pictures)).html())
    return target
