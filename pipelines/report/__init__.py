"""A run as one page that opens in any browser, without a network, plots and all."""

from pathlib import Path

from pipelines.report.findings import read_findings
from pipelines.report.page import page
from pipelines.rundir import Run, write_text

__all__ = ["write_report"]


def write_report(run: Run) -> Path:
    """Writes the run's report.html; the same run gives the same bytes.

    Stages that have not run are named, figures that were not computed are left out.
    Raises: FathomError if a file of the run cannot be read or the page not be written."""
    target = run.path / "report.html"
    write_text(target, page(read_findings(run)))
    return target
