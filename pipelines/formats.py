"""Figures as people read them, and tables of them, for a terminal and for a page alike.

What was not computed stays empty."""

import math
from collections.abc import Callable, Sequence
from functools import partial, wraps
from typing import Any, NamedTuple

import rich.table
from rich.text import Text

from pipelines.progress import describe_duration, printable
from pipelines.summary import Figures, Latencies, TeacherFigures

INTERVALS = "95 % intervals"  # the level of teacher.evaluate.CONFIDENCE
BELOW = "Below a figure: its 95 % interval"
NAME_WIDTH = 32  # characters of a row's name that is not broken
METRIC = ((1.0, 1.0, "m"), (1e-2, 1e2, "cm"), (1e-4, 1e3, "mm"), (0.0, 1e6, "µm"))  # from so many metres on
ENGINES = {"mujoco": "the MuJoCo C engine", "mjx": "MuJoCo XLA (mjx)", "brax": "brax's spring simulator"}


def _of_known(form: Callable[..., str]) -> Callable[..., str]:
    """Makes a format answer nothing to a value that is absent."""

    @wraps(form)
    def formatted(value: Any, *rest: Any, **named: Any) -> str:
        return "" if value is None else form(value, *rest, **named)

    return formatted


@_of_known
def percent(share: float, form: str = ".1f") -> str:
    return f"{100 * share:{form}} %"


@_of_known
def with_unit(value: float, unit: str | None, like: float | None = None) -> str:
    """Returns `5 cm` for 0.05 m, in the unit that fits `like` or else the value; others stay as they are."""
    scale, shown = fitting(value if like is None else like, unit)
    return significant(scale * value) + (f" {shown}" if shown else "")


def fitting(value: float, unit: str | None) -> tuple[float, str | None]:
    """Returns by what to multiply distances of this size, and the unit that they then have."""
    if unit != "m":
        return 1.0, unit
    size = abs(value) or 0.01
    return next((scale, shown) for least, scale, shown in METRIC if size >= least)


@_of_known
def latency(microseconds: float) -> str:
    return (
        f"{significant(microseconds / 1000)} ms"
        if microseconds >= 1000
        else f"{significant(microseconds)} µs"
    )


@_of_known
def degrees(radians: float) -> str:
    return f"{significant(math.degrees(radians))} °"


@_of_known
def number(value: float, form: str = ",.0f") -> str:
    """Returns a value as Python's format has it, counts with commas."""
    return f"{value:{form}}"


@_of_known
def significant(value: float) -> str:
    """Returns three digits without an exponent and without needless zeros: 0.0512, 7.42, 1234."""
    rounded = float(f"{value:.3g}")
    return f"{rounded:.0f}" if abs(rounded) >= 1000 else f"{rounded:.3g}"


def listed(*facts: str | None) -> str:
    """Returns those facts that are known, with commas."""
    return ", ".join(filter(None, facts))


def engine(name: str) -> str:
    """Returns a simulator's name as sentences have it."""
    return ENGINES.get(name, name)


CORRELATIONS = (
    *("spearman_actions", "spearman_states", "best_action", "top1", "gradient_cosine"),
    *("rank_correlation", "rank_correlation_far"),
)
FORMS: dict[str, Callable[..., str]] = {
    **dict.fromkeys(("latency_us_p50", "latency_us_p99"), latency),
    **dict.fromkeys(("parity_max_error", "distance_max_error"), partial(number, form=".1e")),
    **dict.fromkeys(CORRELATIONS, partial(number, form=".3f")),
    **dict.fromkeys(("env_steps_per_s", "distance_error"), significant),
    **{"final_angle": degrees, "wall_s": _of_known(describe_duration)},
}


class Goal(NamedTuple):
    """What counts as success in a task, as far as it is known."""

    unit: str | None = None
    success_radius: float | None = None
    strict_radius: float | None = None


class Cell(NamedTuple):
    """A figure of a table, with its interval or what else belongs to it in small print below."""

    value: str
    detail: str = ""


def cell(of: Figures | None, key: str, unit: str | None = None) -> Cell:
    """Returns a figure and its interval, distances in the unit.

    Forms other than a count's, and a share's in percent, are in FORMS."""
    value, ends = getattr(of, key, None), (of and of.interval(key)) or ()
    form = FORMS.get(key, number if isinstance(value, int) else percent)
    if key in ("final_distance", "final_distance_change"):
        form = partial(with_unit, unit=unit, like=value)
    return Cell(form(value), " to ".join(form(end).partition(" ")[0] for end in ends))


def cells(of: Figures | None, keys: str, unit: str | None = None) -> list[Cell]:
    """Returns the figures of several keys, which are separated by spaces."""
    return [cell(of, key, unit) for key in keys.split()]


def in_words(of: Figures, key: str) -> str:
    """Returns `98.4 % (96.0 to 99.4)`."""
    value, ends = cell(of, key)
    return f"{value} ({ends})" if ends else value


def latencies(of: Latencies) -> str:
    """Returns `7.1 µs, p99 12.9 µs`."""
    return f"{latency(of.latency_us_p50)}, p99 {latency(of.latency_us_p99)}"


def named(teacher: TeacherFigures) -> str:
    """Returns `depth-16 teacher`."""
    return f"depth-{teacher.depth} teacher" if teacher.depth else "teacher"


def has_not_learned(teacher: TeacherFigures) -> str:
    """Says so, with the figures that show it."""
    own, idle = (in_words(teacher, key) for key in ("time_at_goal", "idle_time_at_goal"))
    return (
        f"The {named(teacher)} has not learned the task: it is at its goals {own} of the time, a robot that "
        f"does nothing or acts at random {idle}."
    )


class Table(NamedTuple):
    """Rows of texts and cells, the first of which names the row; one that is empty holds no figure."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Any]]
    note: str = ""

    def only(self, *names: str) -> "Table":
        """Returns a table of these columns alone."""
        columns = [self.head.index(name) for name in names]
        return self._replace(head=names, rows=[[row[i] for i in columns] for row in self.rows])

    def __rich__(self) -> rich.table.Table:
        """Returns the same for a terminal, without the note."""
        rows = [[each if isinstance(each, Cell) else Cell(each) for each in row] for row in self.rows]
        whole = max((len(name.value) for name, *_ in rows), default=0) < NAME_WIDTH
        table = rich.table.Table(title=printable(self.caption), title_justify="left")
        for i, head in enumerate(self.head):
            table.add_column(head, no_wrap=whole and i == 0, overflow="fold")
        for row in rows:
            lines = ((printable(value), printable(f"\n{detail}" if detail else "")) for value, detail in row)
            table.add_row(*(Text.assemble(value, (below, "dim")) for value, below in lines))
        return table
