"""A run, or a sweep, as one page that opens in any browser, without a network, plots and all."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader

from pipelines.files import write_text
from pipelines.formats import NARROW, Goal
from pipelines.report import pages
from pipelines.report.context import RunContext, SweepContext
from pipelines.rundir import Run, require_run, understood
from pipelines.sweep import Sweep

if TYPE_CHECKING:
    from pipelines.compare import Comparison

__all__ = ["verdict", "write_comparison", "write_report", "write_sweep_report", "write_watch_page"]


def write_report(run: Run) -> Path:
    """Writes the run's report.html; the same run gives the same bytes.

    Stages that have not run are named, figures that were not computed are left out.
    Raises: FathomError if a file of the run cannot be read or the page not be written."""
    require_run(run, "write_report")
    with understood(run.path):
        return _write(run.path / "report.html", pages.of_run(RunContext(run)))


def verdict(run: Run) -> str:
    """Returns the sentence at the top of the run's report."""
    with understood(run.path):
        return pages.verdict_of_run(RunContext(run)).replace(NARROW, " ")


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
        return _write(sweep.path / "report.html", pages.of_sweep(context))


def write_comparison(found: "Comparison", target: Path) -> Path:
    """Writes a page of several runs. Raises: as `write_report`."""
    with understood(*(run.path for run in found.runs.values())):
        runs = {name: RunContext(run) for name, run in found.runs.items()}
        return _write(target, pages.of_comparison(found, runs))


def write_watch_page(
    target: Path, task: str, policy: str, recording: dict[str, Any], pictures: list[bytes]
) -> Path:
    """Writes a page of recorded episodes alone, as `pipelines.render` gives them."""
    films = pages.films(recording, pictures)
    about = f"{len(films)} held-out episode{'s' * (len(films) > 1)} of {policy}"
    return _write(target, pages.Page(f"{task}: {policy}", about, first=[films], heading=task))


def _write(target: Path, page: pages.Page) -> Path:
    """Writes a document that refers to nothing outside itself; all text in it is escaped."""
    loader = PackageLoader("pipelines.report")
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    write_text(target, environment.get_template("page.html.j2").render(page=page).strip() + "\n")
    return target
