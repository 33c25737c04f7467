"""Figures as the page writes them. One that was not computed stays None."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.report.page import Cell, cell

NARROW = "\u202f"  # no-break space between a number and its unit
INTERVALS = f"95{NARROW}% intervals"  # the level of teacher.evaluate.CONFIDENCE
ENGINES = {"mujoco": "the MuJoCo C engine", "mjx": "MuJoCo XLA (mjx)", "brax": "brax's spring simulator"}


def percent(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.1f}{NARROW}%"


def percent_interval(interval: Sequence[float] | None) -> str | None:
    """Returns `96.0 to 99.4`, without the unit."""
    return None if interval is None else f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}"


def interval_of(figures: Mapping[str, Any], key: str) -> Sequence[float] | None:
    """Returns a figure's interval, if it has one."""
    return figures.get(f"{key}_interval")


def share(figures: Mapping[str, Any], key: str) -> Cell | None:
    """Returns a share as percent, with its interval if it has one."""
    return cell(percent(figures.get(key)), percent_interval(interval_of(figures, key)))


def share_in_words(figures: Mapping[str, Any], key: str) -> str | None:
    """Returns `98.4 % (96.0 to 99.4)`."""
    found = share(figures, key)
    return f"{found.value} ({found.detail})" if found and found.detail else found and found.value


def distance(figures: Mapping[str, Any], key: str, unit: str | None) -> Cell | None:
    """Returns a length with its interval; metres are shown as centimetres."""
    scale, _ = centimetres(unit)
    ends = [_significant(scale * end) for end in figures.get(f"{key}_interval") or ()]
    return cell(length(figures.get(key), unit), " to ".join(ends) or None)


def length(value: float | None, unit: str | None) -> str | None:
    """Returns `5 cm` for 0.05 m; other units stay as they are."""
    scale, shown = centimetres(unit)
    return value if value is None else _significant(scale * value) + (f"{NARROW}{shown}" if shown else "")


def centimetres(unit: str | None) -> tuple[float, str | None]:
    """Returns by what to multiply a distance, and the unit that it then has."""
    return (100.0, "cm") if unit == "m" else (1.0, unit)


def latency(microseconds: float | None) -> str | None:
    if microseconds is None or microseconds < 1000:
        return None if microseconds is None else f"{_significant(microseconds)}{NARROW}µs"
    return f"{_significant(microseconds / 1000)}{NARROW}ms"


def latencies(figures: Mapping[str, Any]) -> str | None:
    typical, slow = (latency(figures.get(f"latency_us_p{rank}")) for rank in (50, 99))
    return f"{typical}, p99 {slow}" if typical else None


def duration(seconds: float | None) -> str | None:
    if seconds is None or seconds < 60:
        return None if seconds is None else f"{seconds:.0f}{NARROW}s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours}{NARROW}h {minutes}{NARROW}min" if hours else f"{minutes}{NARROW}min"


def short_time(seconds: float) -> str:
    return f"{_significant(seconds)}{NARROW}s"


def time_unit(seconds: float) -> tuple[float, str]:
    """Returns the seconds of a unit that suits a span of this length, and its name."""
    return (3600.0, "h") if seconds >= 5400 else (60.0, "min") if seconds >= 90 else (1.0, "s")


def number(value: float | None, form: str) -> str | None:
    """Returns the value as Python's format has it."""
    return None if value is None else f"{value:{form}}"


def count(value: float | None) -> str | None:
    return number(value, ",.0f")


def rate(value: float | None) -> str | None:
    return None if value is None else _significant(value) if value < 100 else f"{value:,.0f}"


def enumerated(clauses: Sequence[str], comma: str = "") -> str:
    """Returns `a`, `a and b`, `a, b and c`; with a comma before the last of three where one is given."""
    *first, last = clauses
    return f"{', '.join(first)}{comma if len(first) > 1 else ''} and {last}" if first else last


def _significant(value: float) -> str:
    """Returns three digits without an exponent and without needless zeros: 0.0512, 7.42, 1234."""
    rounded = float(f"{value:.3g}")
    return f"{rounded:.0f}" if abs(rounded) >= 1000 else f"{rounded:.3g}"
