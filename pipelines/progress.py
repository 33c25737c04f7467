"""What a user sees while a stage runs: a panel on a terminal, a line now and then elsewhere."""

import re
import resource
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TaskProgressColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

LINE_INTERVAL_S = 10.0
REFRESHES_PER_S = 2  # each takes some milliseconds of a core that may be training
RECENT_S = 3600.0  # over which the rate is taken; iterations may take minutes
ON_A_LINE = 2  # metrics of each group
WIDEST = 100  # columns: further apart, what belongs together is hard to read together
GAP = "  "
KEPT = "\N{NO-BREAK SPACE}"  # at which no line is broken
LEVELS = "▁▂▃▄▅▆▇█"
TREND = 24  # values of a sparkline
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

    @property
    def _on_terminal(self) -> bool:
        # FORCE_COLOR makes rich take a pipe for a terminal; a panel there would be litter.
        return self.console.is_interactive and self.console.file.isatty()

    def say(self, text: str, style: str = "") -> None:
        """Prints a line, on a terminal broken between words; the style is one of rich's."""
        if self._on_terminal:  # a path that is longer stays whole, to be copied
            text = textwrap.fill(
                text,
                self.console.width,
                break_long_words=False,
                break_on_hyphens=False,
                subsequent_indent=GAP,
            )
        self.console.print(Text(text.replace(KEPT, " "), style), soft_wrap=True)

    def warn(self, text: str) -> None:
        self.say(text, "yellow")

    @contextmanager
    def bar(self, stage: str, total: int, done: int = 0, **shown: Any) -> Iterator["Bar"]:
        """Shows progress of a stage, as `Bar` takes it, in a panel where there is a terminal.

        It stays until the stage ends, well or not; what it came to stays as a line."""
        bar = Bar(self.console, self._run or stage, total, done, **shown)
        if self.console.quiet or not self._on_terminal:
            bar.say = self.say
            yield bar
            return
        try:
            with bar:
                yield bar
        finally:
            if bar.done > bar.first:
                self.say(bar.line)


QUIET = Display(quiet=True)


class Bar(Progress):
    """Progress of one stage: `total` parts (iterations, rounds, students), of which `done` are there already.

    Args:
      unit, each: what a part consists of (steps, labels), and of how many.
      groups: metrics to show, by what they are of: `{"critic": ["critic_loss", ...]}`.
      about: the run, its task and preset, which stand below the panel."""

    def __init__(
        self,
        console: Console,
        stage: str,
        total: int,
        done: int = 0,
        *,
        unit: str,
        each: int = 1,
        groups: Mapping[str, Sequence[str]] | None = None,
        about: str = "",
    ):
        self.stage, self.first, self.done, self.total = stage, done, done, total
        self.unit, self.each, self.groups, self.about = unit, each, groups or {}, about
        self.note = ""  # what is being done, shown until the next update
        self.say: Callable[[str], None] | None = None
        """takes a line at every score, at the end, and every few seconds between"""
        self._metrics: Mapping[str, float] = {}
        self._score: Mapping[str, Any] = {}
        self._trend: list[float] = []
        self._last_line = -LINE_INTERVAL_S
        columns = BarColumn(None), TaskProgressColumn(), TimeElapsedColumn(), TimeRemainingColumn()
        options: dict[str, Any] = {"refresh_per_second": REFRESHES_PER_S, "speed_estimate_period": RECENT_S}
        super().__init__(*columns, console=console, transient=True, expand=True, **options)
        self.add_task(stage, total=total, completed=done)
        (self._task,) = self.tasks

    def show(self, done: int, metrics: Mapping[str, float], score: dict[str, Any] | None = None) -> None:
        """Moves on; of any `metrics`, those of the groups are shown, and `score` until the next one."""
        self.done, self._metrics, self.note, now = done, metrics, "", time.monotonic()
        self.update(self._task.id, completed=done)
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
        if self.done >= self.total:
            taken = describe_duration(self._task.elapsed or 0.0)
            head = [f"{(self.total - self.first) * self.each:,} {self.unit} in {taken}"]
        else:
            left, (so_far, *rate) = self._task.time_remaining, self._so_far()
            known = "time left unknown" if left is None else f"{describe_duration(left)} left"
            head = [f"{so_far} {self.unit}", known, *rate]
        rows = [f"{name} {GAP.join(each[:ON_A_LINE])}" for name, each in self._rows().items()]
        parts = [f"{self.stage}: {', '.join(head)}", *rows]
        return GAP.join(part.replace(" ", KEPT) for part in parts)

    def get_renderables(self) -> Iterable[RenderableType]:
        """Draws the panel, as rich asks for it: once before there is a task."""
        if not self.tasks:
            return
        rows = {self.unit: self._so_far()} | self._rows() | {"memory": memory()}
        if self._trend:
            rows["at goal"].append(sparkline(self._trend))
        table = Table.grid(padding=(0, len(GAP)))
        for label, values in rows.items():
            table.add_row(Text(label, "dim", no_wrap=True), Text(GAP.join(values)))
        title = Text(f"{self.stage}: {self.note}" if self.note else self.stage, "bold")
        drawn = Group(self.make_tasks_table(self.tasks), table)
        width = min(self.console.width, WIDEST)
        frame: dict[str, Any] = {"title_align": "left", "subtitle_align": "left", "border_style": "cyan"}
        yield Panel(drawn, title=title, subtitle=Text(self.about, "dim"), width=width, **frame)

    def _so_far(self) -> list[str]:
        """Units that are done, and units a second since the first update, which mostly waited for
        compilation, as soon as that is known."""
        found = [f"{self.done * self.each:,} of {self.total * self.each:,}"]
        if speed := self._task.finished_speed or self._task.speed:
            rate = speed * self.each
            found.append(f"{rate:,.0f} {self.unit}/s" if rate >= 10 else f"{rate:.2g} {self.unit}/s")
        return found

    def _rows(self) -> dict[str, list[str]]:
        """Returns the last score, and `critic` -> `loss 3.21` for the groups' metrics that there are, by what
        is left of their names."""
        found: dict[str, list[str]] = {}
        for label, key in (("success", "success_final"), ("at goal", "time_at_goal")) if self._score else ():
            low, high = self._score[f"{key}_interval"]
            found[label] = [f"{self._score[key]:.3f} ({low:.3f} to {high:.3f})"]
        for group, keys in self.groups.items():
            for key in (key for key in keys if key in self._metrics):
                label = re.sub(f"^{group}[_/]|[_/]{group}$", "", key).replace("_", " ")
                found.setdefault(group.replace("_", " "), []).append(f"{label} {self._metrics[key]:.3g}")
        return found


def sparkline(values: Sequence[float]) -> str:
    """Draws the last values, each between 0 and 1, as a line of blocks."""
    top = len(LEVELS) - 1
    return "".join(LEVELS[round(min(max(value, 0.0), 1.0) * top)] for value in values[-TREND:])


def memory() -> list[str]:
    """Returns the most that this process held, and its first device where JAX knows that."""
    unit = 1 if sys.platform == "darwin" else 1024
    found = [f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9:.1f} GB peak"]
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
