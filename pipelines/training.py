"""What the stages that train have around their loops: lines, progress, saves, interruptions."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pipelines.files import JSON
from pipelines.progress import Bar, Display
from pipelines.rundir import Run
from pipelines.runtime import Interrupted, Interruption, SaveTimer, deferred_interrupt
from pipelines.tracking import recorded


class Training:
    """A stage while it trains; `wall_s` are its seconds so far, over all resumptions."""

    def __init__(
        self, wall_s: float, record: Callable[[JSON], None], bar: Bar, timer: SaveTimer, signals: Interruption
    ):
        self.wall_s, self.bar, self.timer, self.signals = wall_s, bar, timer, signals
        self._record, self._begun = record, time.monotonic() - wall_s

    def record(
        self, done: int, line: JSON, metrics: dict[str, float], evaluation: JSON | None = None
    ) -> None:
        """Writes and shows what came of an iteration, after which so many are done."""
        self.wall_s = time.monotonic() - self._begun
        scored = {"evaluation": evaluation} if evaluation else {}
        self._record({**line, "wall_s": self.wall_s, **metrics, **scored})
        self.bar.show(done, metrics, evaluation)

    def save(self, write: Callable[[], None], when: str, *, due: bool, stop: bool) -> None:
        """Saves where that is due or the user asked to stop; then raises Interrupted."""
        if due or stop:
            with self.timer.saving():
                write()
        if stop:
            raise Interrupted(f"stopped and saved after {when}; go on with --resume")


@contextmanager
def training(
    run: Run, stage: str, display: Display, done: int, total: int, interval_s: float, **shown: Any
) -> Iterator[Training]:
    """Goes on with a stage of which `done` iterations of `total` are saved.

    Args: interval_s: between saves. shown: as `Display.bar` shows it."""
    run.rewind_metrics(stage, done, display.warn)
    lines = run.metrics(stage)
    with (
        deferred_interrupt(display.say) as signals,
        recorded(run, stage, display.warn) as record,
        display.bar(stage, total, done, about=run.title, **shown) as bar,
    ):
        bar.note = "compiling"
        for line in lines:
            if "evaluation" in line:
                bar.scored(line["evaluation"])
        yield Training(lines[-1]["wall_s"] if lines else 0.0, record, bar, SaveTimer(interval_s), signals)
