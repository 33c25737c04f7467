"""One page of each kind that the program writes."""

from pathlib import Path

from test_report import add_truth, full_run, moving, recorded
from test_study import fill, made
from test_study_students import with_students

from pipelines.compare import compare_runs
from pipelines.report import write_comparison, write_report, write_study_report, write_watch_page

KINDS = ("run", "study", "comparison", "watch")


def write_pages(folder: Path) -> dict[str, Path]:
    """By kind, of runs and a study that are made up."""
    runs = {name: full_run(folder, name) for name in ("first", "second")}
    add_truth(runs["first"])
    study = fill(made(folder / "study", ["network.depth=4,8"], [0, 1]), lambda member: 0.5)
    for member in study.members:
        add_truth(member.run)
    with_students(study, lambda member: 0.4 + 0.1 * member.seed)
    watch = folder / "watch.html"
    write_watch_page(watch, "reacher", "the teacher", recorded(), [moving()] * 2)
    figures = compare_runs(runs)
    return {
        "run": write_report(runs["first"]),
        "study": write_study_report(study),
        "comparison": write_comparison(figures, list(runs.values()), folder / "compare.html"),
        "watch": watch,
    }
