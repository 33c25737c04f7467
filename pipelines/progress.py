"""What a user sees while a stage runs: a panel on a terminal, a line now and then elsewhere."""

import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.segment import Segment
from rich.text import Text

from pipelines.bar import Bar, Groups
from pipelines.panel import panel

LINE_INTERVAL_S = 10.0
REFRESHES_PER_S = 2  # each takes some milliseconds of a core that may be training
# Control characters but for tab and line feed, and those that turn the direction of text around.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")

_ASCII = str.maketrans("µ•…", "u*.")  # of the same width, so that tables stay straight


def printable(text: str) -> str:
    r"""Returns the text with what would command a terminal written out, as `\x1b`.

    Names, paths and descriptions come from files, and files from others."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class Terminal(Console):
    """Prints text as it stands: brackets are no markup and control characters are written out.

    What is to have a style is a `rich.text.Text`."""

    def __init__(self, **options: Any):
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)  # before its width is taken

    def render(self, *arguments: Any, **options: Any) -> Iterable[Segment]:
        for text, style, control in super().render(*arguments, **options):
            shown = text if self.encoding.startswith("utf") else text.translate(_ASCII)
            yield Segment(text if control else printable(shown), style, control)


class Display:
    """Where stages report to; everything goes to standard error, results have standard output."""

    def __init__(self, run: str | None = None, *, quiet: bool = False) -> None:
        """`run` names the one of several that is shown, in place of the stage. A quiet one shows nothing."""
        self.console = Terminal(stderr=True, quiet=quiet)
        self._run = run

    def say(self, text: str, style: str = "") -> None:
        """Prints a line; the style is one of rich's."""
        self.console.print(Text(text, style), soft_wrap=True)

    def warn(self, text: str) -> None:
        self.say(text, "yellow")

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
    console.print(bar.line, soft_wrap=True)
