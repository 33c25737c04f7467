"""What a user sees while a stage runs: a panel on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.live import Live

from pipelines.bar import Bar, Groups
from pipelines.panel import panel

LINE_INTERVAL_S = 10.0
REFRESHES_PER_S = 2  # each takes some milliseconds of a core that may be training


class Display:
    """Where stages report to; everything goes to standard error, results have standard output."""

    def __init__(self, run: str | None = None, *, quiet: bool = False) -> None:
        """`run` names the one of several that is shown, in place of the stage. A quiet one shows nothing."""
        self.console = Console(stderr=True, quiet=quiet)
        self._run = run

    def say(self, text: str) -> None:
        self.console.print(text, soft_wrap=True, highlight=False)

    @contextmanager
    def bar(
        self,
        stage: str,
        total: int,
        done: int = 0,
        *,
        piece: str,
        each: int = 1,
        unit: str | None = None,
        groups: Groups | None = None,
    ) -> Iterator[Bar]:
        """Progress of a stage: `total` pieces of `each` units, of which `done` are there already.

        A panel stays until the stage ends, well or not; what it came to stays as a line."""
        of = (self._run or stage, total, done, piece, each, unit or piece, groups or {})
        if not self._is_live:
            yield _Lines(self.console, *of)
            return
        bar, console = Bar(*of), self.console
        live = Live(
            get_renderable=lambda: panel(bar.view, console.width, console.height),
            console=console,
            refresh_per_second=REFRESHES_PER_S,
            transient=True,
        )
        try:
            with live:
                yield bar
        finally:
            if bar.advanced:
                _print_line(console, bar)

    @property
    def _is_live(self) -> bool:
        """FORCE_COLOR makes rich take a pipe for a terminal; a panel there would be litter."""
        return not self.console.quiet and self.console.is_interactive and self.console.file.isatty()


QUIET = Display(quiet=True)


class _Lines(Bar):
    """Prints a line at every score, at the end, and every few seconds between."""

    def __init__(self, console: Console, *of: Any):
        super().__init__(*of)
        self._console, self._last_line = console, -LINE_INTERVAL_S

    def update(self, done: int, metrics: Mapping[str, float], score: dict[str, Any] | None = None) -> None:
        super().update(done, metrics, score)
        if score or self.finished or time.monotonic() - self._last_line >= LINE_INTERVAL_S:
            self._last_line = time.monotonic()
            _print_line(self._console, self)


def _print_line(console: Console, bar: Bar) -> None:
    console.print(bar.line, soft_wrap=True, highlight=False, markup=False)
