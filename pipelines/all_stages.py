"""All stages in order, and the report: the one module that knows them all."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from export.graph import load_converters
from pipelines.closed_loop import control, control_engine
from pipelines.diagnosis import require_learned, still_rising
from pipelines.export_students import export
from pipelines.progress import QUIET, Display
from pipelines.render import is_kept
from pipelines.report import write_report
from pipelines.rundir import Run, require_run
from pipelines.train_students import distill
from pipelines.train_teacher import teach
from teacher.errors import FathomError
from teacher.tasks import MujocoTask, make_task

SHOWN = {"controller": ("latency_us_p50", "latency_us_p99", "missed_deadlines")}
_BACKGROUND = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prepare")


def run_all(run: Run, display: Display = QUIET, *, resume: bool = False) -> dict[str, Any]:
    """Carries out every stage that is not done yet, in order; returns the summary.

    Raises: FathomError with the likely causes if the teacher has learned nothing."""
    require_run(run, "run_all")
    begun, before = time.monotonic(), run.summary.get("wall_s", 0.0)
    _BACKGROUND.submit(load_converters)
    try:
        teach(run, display, resume=resume)
        try:
            require_learned(run)
        except FathomError:
            display.say(f"report: {write_report(run)}")
            raise
        if advice := still_rising(run):
            display.say(advice)
        distill(run, display, resume=resume)
        export(run, display, resume=resume)
        left = [name for name in run.config.student.sizes if not (resume and _is_controlled(run, name))]
        with display.bar("control", len(left), unit="students", groups=SHOWN, about=run.title) as bar:
            for number, name in enumerate(left, 1):
                bar.note = name
                figures = control(run.bundles / name, display)
                bar.show(number, figures, figures)
    finally:
        with suppress(FathomError):  # of a disk that is full: what stopped the run says so
            run.update_summary({"wall_s": before + time.monotonic() - begun})
    display.say(f"report: {write_report(run)}")
    return run.summary


def _is_controlled(run: Run, name: str) -> bool:
    figures, config = run.summary.get("control", {}).get(name, {}), run.config.control
    exported = run.summary["export"][name]["student_sha256"]
    found = (figures.get("student_sha256"), figures.get("engine"), figures.get("episodes"))
    task = make_task(run.config.teacher.task.name)
    done = found == (exported, control_engine(task, config), config.episodes)
    return done and is_kept(run.path / "control" / name, drawn=isinstance(task, MujocoTask))
