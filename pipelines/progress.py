"""What a user sees while a stage runs: a panel on a terminal, a line now and then elsewhere."""

import re
import resource
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

LINE_INTERVAL_S = 10.0
REFRESHES_PER_S = 2  # each takes some milliseconds of a core that may be training
RECENT = 20  # updates over which the rate is taken
ON_A_LINE = 2  # metrics of each group
WIDEST = 100  # columns: further apart, what belongs together is hard to read together
NARROWEST = 40  # below, and where the terminal is too low, there is one line only
FRAME = 4  # columns that border and padding take
GAP = "  "
LEVELS = "▁▂▃▄▅▆▇█"
TREND = 24  # values of a sparkline
# Control characters but for tab and line feed, and those that turn the direction of text around.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_ASCII = str.maketrans("µ•…", "u*.")  # of the same width, so that tables stay straight

Groups = Mapping[str, Sequence[str]]
"""Metrics to show, by what they are of: `{"critic": ["critic_loss", ...]}`."""


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
    ) -> Iterator["Bar"]:
        """Shows progress of a stage: `total` pieces of `each` units, of which `done` are there already.

        A panel stays until the stage ends, well or not; what it came to stays as a line."""
        console = self.console
        bar = Bar(self._run or stage, total, done, piece, each, unit or piece, groups or {})
        # FORCE_COLOR makes rich take a pipe for a terminal; a panel there would be litter.
        if console.quiet or not console.is_interactive or not console.file.isatty():
            bar.say = self.say
            yield bar
            return
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
            if bar.done > bar.first:
                self.say(bar.line)


QUIET = Display(quiet=True)


class View(NamedTuple):
    """What the panel shows of a stage."""

    title: str
    share: float  # of the stage that is done
    time: str
    rows: Sequence[tuple[str, Sequence[str]]]  # label, values


@dataclass
class Bar:
    """Progress of one stage, in pieces (iterations, rounds, students) of so many units (steps, labels)."""

    stage: str
    total: int
    done: int
    piece: str
    each: int
    unit: str
    groups: Groups
    note: str = ""
    """what is being done, shown until the next update"""
    say: Callable[[str], None] | None = None
    """takes a line at every score, at the end, and every few seconds between"""

    _metrics: Mapping[str, float] = field(default_factory=dict)
    _score: Mapping[str, Any] = field(default_factory=dict)
    _trend: list[float] = field(default_factory=list)
    _recent: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=RECENT + 1))

    def __post_init__(self) -> None:
        self.first, self._begun = self.done, time.monotonic()
        self._last_line = -LINE_INTERVAL_S

    def update(self, done: int, metrics: Mapping[str, float], score: dict[str, Any] | None = None) -> None:
        """Moves on; of any `metrics`, those of the groups are shown, and `score` until the next one."""
        self.done, self._metrics, self.note, now = done, metrics, "", time.monotonic()
        self._recent.append((now, done))
        if score:
            self.scored(score)
        if self.say and (score or done >= self.total or now - self._last_line >= LINE_INTERVAL_S):
            self._last_line = now
            self.say(self.line)

    def scored(self, score: dict[str, Any]) -> None:
        """Shows a score alone, as of before the stage was taken up again."""
        self._score = score
        self._trend.append(score["time_at_goal"])

    @property
    def line(self) -> str:
        """`teacher: 640 of 1,280 steps, 33 s left, 19 steps/s  success ...  critic loss ...`."""
        spent, left, rate, mean_rate = self._pace()
        if self.done >= self.total:
            text = f"{(self.total - self.first) * self.each:,} {self.unit} in {spent}"
        else:
            text = f"{self._so_far(self.each)} {self.unit}, {left}"
        parts = [f"{self.stage}: {text}, {_number(rate or mean_rate)} {self.unit}/s"]
        if score := self._score:
            parts.append(f"success {_interval(score, 'success_final')}  at goal {score['time_at_goal']:.3f}")
        for group, values in self._shown().items():
            parts += [f"{group} {value}" for value in values[:ON_A_LINE]]
        return GAP.join(parts)

    @property
    def view(self) -> View:
        spent, left, rate, mean_rate = self._pace()
        rows = [(self.piece, [self._so_far(1)])]
        if self.unit != self.piece:
            rows.append((self.unit, [self._so_far(self.each)]))
        if rate:
            rows.append(("rate", [f"{_number(rate)} {self.unit}/s", f"{_number(mean_rate)} on average"]))
        if score := self._score:
            rows.append(("success", [_interval(score, "success_final")]))
            rows.append(("at goal", [_interval(score, "time_at_goal"), sparkline(self._trend)]))
        rows += [*self._shown().items(), ("memory", memory())]
        title = f"{self.stage}: {self.note}" if self.note else self.stage
        return View(title, self.done / max(self.total, 1), f"{spent}, {left}", rows)

    def _so_far(self, each: int) -> str:
        return f"{self.done * each:,} of {self.total * each:,}"

    def _shown(self) -> dict[str, list[str]]:
        """`critic` -> `loss 3.21`: the groups' metrics that there are, by what is left of their names."""
        found: dict[str, list[str]] = {}
        for group, keys in self.groups.items():
            for key in (key for key in keys if key in self._metrics):
                label = key
                for joint in "_/":
                    label = label.removeprefix(f"{group}{joint}").removesuffix(f"{joint}{group}")
                text = f"{label.replace('_', ' ')} {self._metrics[key]:.3g}"
                found.setdefault(group.replace("_", " "), []).append(text)
        return found

    def _pace(self) -> tuple[str, str, float | None, float]:
        """Time spent and time left, for people; units per second of late, if known, and on average.

        The first update mostly waited for compilation, and counts in the average alone."""
        now = time.monotonic()
        mean = (self.done - self.first) * self.each / max(now - self._begun, 1e-9)
        spent, left, rate = describe_duration(now - self._begun), "time left unknown", None
        if len(self._recent) > 1:
            (begun, first), (last, done) = self._recent[0], self._recent[-1]
            rate = (done - first) * self.each / max(last - begun, 1e-9)
        if rate:
            seconds = (self.total - self.done) * self.each / rate - (now - last)
            left = f"{describe_duration(max(seconds, 0.0))} left"
        return spent, left, rate, mean


def panel(view: View, width: int, height: int) -> RenderableType:
    """Draws a view in at most `width` columns and `height` lines.

    Nothing wraps, and no number is cut in two: values that do not fit are left out."""
    share = f"{100 * view.share:.0f} %"
    if width < NARROWEST or height <= len(view.rows) + 3:
        return Text(f"{share}{GAP}{view.time}{GAP}{view.title}", no_wrap=True, overflow="ellipsis")
    width = min(width, WIDEST)
    bar = Table.grid(padding=(0, len(GAP)), expand=True)
    bar.add_column(ratio=1)
    drawn = ProgressBar(1.0, view.share, complete_style="cyan", finished_style="green")
    bar.add_row(drawn, Text(share), Text(view.time))
    longest = max(len(label) for label, _ in view.rows)
    room = width - FRAME - longest - len(GAP)
    rows = [
        Text.assemble((f"{label:{longest}}{GAP}", "dim"), _fitting(values, room))
        for label, values in view.rows
    ]
    title = Text(view.title, "bold")
    return Panel(
        Group(bar, *rows), title=title, title_align="left", box=box.ROUNDED, border_style="cyan", width=width
    )


def _fitting(values: Sequence[str], room: int) -> str:
    """The first of the values, as many as there is room for."""
    for count in range(len(values), 0, -1):
        text = GAP.join(values[:count]) + ("" if count == len(values) else f"{GAP}…")
        if len(text) <= room:
            return text
    return "…"


def sparkline(values: Sequence[float]) -> str:
    """Draws the last values, each between 0 and 1, as a line of blocks."""
    top = len(LEVELS) - 1
    return "".join(LEVELS[round(min(max(value, 0.0), 1.0) * top)] for value in values[-TREND:])


def memory() -> list[str]:
    """Returns the most that this process held, and its first device where JAX knows that."""
    unit = 1 if sys.platform == "darwin" else 1024
    found = [f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9:.1f} GB at most"]
    jax = sys.modules.get("jax")  # what has not been imported holds nothing
    used = (jax.local_devices()[0].memory_stats() if jax else None) or {}
    if "peak_bytes_in_use" in used:
        whole = f" of {used['bytes_limit'] / 1e9:.1f}" if used.get("bytes_limit") else ""
        found.append(f"device {used['peak_bytes_in_use'] / 1e9:.1f}{whole} GB")
    return found


def describe_duration(seconds: float) -> str:
    """Returns `90 s`, `12 min` or `3.2 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _interval(score: Mapping[str, Any], key: str) -> str:
    """`0.980 (0.960 to 0.990)`."""
    low, high = score[f"{key}_interval"]
    return f"{score[key]:.3f} ({low:.3f} to {high:.3f})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
