"""A run, or a study, as one page that opens in any browser, without a network, plots and all."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.report.compare_page import compare_page
from pipelines.report.findings import read_findings
from pipelines.report.page import page
from pipelines.report.study_findings import read_study
from pipelines.report.study_page import study_page
from pipelines.rundir import Run, understood, write_text
from pipelines.sweep import Study

__all__ = ["write_comparison", "write_report", "write_study_report"]


def write_report(run: Run) -> Path:
    """Writes the run's report.html; the same run gives the same bytes.

    Stages that have not run are named, figures that were not computed are left out.
    Raises: FathomError if a file of the run cannot be read or the page not be written."""
    target = run.path / "report.html"
    with understood(run.path):
        write_text(target, page(read_findings(run)))
    return target


def write_study_report(study: Study) -> Path:
    """Writes the study's report.html, also while it is being trained.

    Runs that have not ended are named. Raises: as `write_report`."""
    target = study.path / "report.html"
    with understood(study.path):
        write_text(target, study_page(read_study(study)))
    return target


def write_comparison(figures: dict[str, Any], runs: Sequence[Run], target: Path) -> Path:
    """Writes a page of several runs, as `pipelines.compare.compare_runs` has compared them.

    Raises: as `write_report`."""
    with understood(*(run.path for run in runs)):
        write_text(target, compare_page(figures, [read_findings(run) for run in runs]))
    return target
