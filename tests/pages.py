"""One page of each kind that the program writes."""

from pathlib import Path

from test_report import add_truth, full_run, moving, recorded
from test_sweep import fill, made
from test_sweep_students import with_students

from pipelines.compare import compare_runs
from pipelines.report import write_comparison, write_report, write_sweep_report, write_watch_page

KINDS = ("run", "sweep", "comparison", "watch")


def write_pages(folder: Path) -> dict[str, Path]:
    """By kind, of runs and a sweep that are made up."""
    runs = {name: full_run(folder, name) for name in ("first", "second")}
    add_truth(runs["first"])
    sweep = fill(made(folder / "sweep", ["network.depth=4,8"], [0, 1]), lambda member: 0.5)
    for member in sweep.members:
        add_truth(member.run)
    with_students(sweep, lambda member: 0.4 + 0.1 * member.seed)
    watch = folder / "watch.html"
    write_watch_page(watch, "reacher", "the teacher", recorded(), [moving()] * 2)
    figures = compare_runs(runs)
    return {
        "run": write_report(runs["first"]),
        "sweep": write_sweep_report(sweep),
        "comparison": write_comparison(figures, folder / "compare.html"),
        "watch": watch,
    }
