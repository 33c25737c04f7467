"""What a user sees while a stage runs: a bar on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Column

LINE_INTERVAL_S = 10.0


class Bar:
    """Progress of one stage, counted in `unit`s."""

    def __init__(self, console: Console, stage: str, total: int, done: int, unit: str, live: Progress | None):
        self._console, self._stage, self._unit, self._live = console, stage, unit, live
        self._total, self._first, self._begun = total, done, time.monotonic()
        self._last_line = -LINE_INTERVAL_S
        self._score = ""
        if live:
            self._task = live.add_task(stage, total=total, completed=done, note="compiling")

    def update(self, done: int, metrics: dict[str, float], score: dict[str, Any] | None = None) -> None:
        """`metrics` may be any; a few are shown. `score` is shown until the next one."""
        if score:
            self._score = f"  {describe_score(score)}"
        elapsed = time.monotonic() - self._begun
        rate = (done - self._first) / elapsed if elapsed else 0.0
        shown = "  ".join(f"{key} {value:.3g}" for key, value in metrics.items())
        note = f"{rate:,.0f} {self._unit}/s{self._score}  [dim]{shown}[/dim]"
        if self._live:
            self._live.update(self._task, completed=done, note=note)
        elif score or done >= self._total or time.monotonic() - self._last_line >= LINE_INTERVAL_S:
            self._last_line = time.monotonic()
            left = (self._total - done) / rate if rate else float("inf")
            self._console.print(
                f"{self._stage}: {done:,} of {self._total:,} {self._unit}, {left:.0f} s left, {note}",
                soft_wrap=True,
                highlight=False,
            )


class Display:
    """Where stages report to; everything goes to standard error, results have standard output."""

    def __init__(self, run: str | None = None, *, quiet: bool = False) -> None:
        """`run` names the one of several that is shown, in place of the stage. A quiet one shows nothing."""
        self.console = Console(stderr=True, quiet=quiet)
        self._run = run

    def say(self, text: str) -> None:
        self.console.print(text, soft_wrap=True, highlight=False)

    @contextmanager
    def bar(self, stage: str, total: int, done: int = 0, unit: str = "steps") -> Iterator[Bar]:
        stage = self._run or stage
        if self.console.quiet or not self.console.is_terminal:
            yield Bar(self.console, stage, total, done, unit, None)
            return
        columns = (
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=16),
            TaskProgressColumn(table_column=Column(min_width=4, no_wrap=True)),
            TimeRemainingColumn(table_column=Column(min_width=7, no_wrap=True)),
            # What does not fit is cut off here, and nowhere else.
            TextColumn(
                "{task.fields[note]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")
            ),
        )
        with Progress(*columns, console=self.console, expand=True) as live:
            yield Bar(self.console, stage, total, done, unit, live)


QUIET = Display(quiet=True)


def describe_score(score: dict[str, Any]) -> str:
    """`success 0.980 (0.960 to 0.990)  at goal 0.910`."""
    low, high = score["success_final_interval"]
    return (
        f"success {score['success_final']:.3f} ({low:.3f} to {high:.3f})  at goal {score['time_at_goal']:.3f}"
    )
