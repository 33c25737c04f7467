"""Figures as the page writes them. A figure that was not computed stays None."""

from collections.abc import Mapping, Sequence
from typing import Any

NARROW = "\u202f"  # no-break space between a number and its unit

INTERVALS = f"95{NARROW}% intervals"  # the level of teacher.evaluate.CONFIDENCE

ENGINES = {"mujoco": "the MuJoCo C engine", "mjx": "MuJoCo XLA (mjx)", "brax": "brax's spring simulator"}


def percent(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.1f}{NARROW}%"


def percent_interval(interval: Sequence[float] | None) -> str | None:
    """`96.0 to 99.4`, without the unit."""
    return None if interval is None else f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}"


def percent_with_interval(figures: Mapping[str, Any], key: str) -> str | None:
    """`98.4 % (96.0 to 99.4)`."""
    if figures.get(key) is None:
        return None
    interval = percent_interval(figures.get(f"{key}_interval"))
    return f"{percent(figures[key])} ({interval})" if interval else percent(figures[key])


def retention_interval(student: Mapping[str, Any]) -> str | None:
    low, high = student.get("retention_low"), student.get("retention_high")
    return None if low is None or high is None else percent_interval((low, high))


def retention(student: Mapping[str, Any]) -> str | None:
    """`99.8 % (99.1 to 100.4)`; None if the teacher never was at a goal."""
    interval = retention_interval(student)
    share = percent(student.get("retention"))
    return f"{share} ({interval})" if share and interval else share


def length(value: float | None, unit: str | None, digits: int = 3) -> str | None:
    """0.05 m -> `5 cm`; other units stay as they are."""
    if value is None:
        return None
    scale, shown = centimetres(unit)
    return f"{_significant(scale * value, digits)}{NARROW}{shown}" if shown else _significant(value, digits)


def length_interval(interval: Sequence[float] | None, unit: str | None) -> str | None:
    if interval is None:
        return None
    scale, _ = centimetres(unit)
    return f"{_significant(scale * interval[0], 3)} to {_significant(scale * interval[1], 3)}"


def centimetres(unit: str | None) -> tuple[float, str | None]:
    """By what to multiply a distance, and the unit it then has: metres are shown as centimetres."""
    return (100.0, "cm") if unit == "m" else (1.0, unit)


def latency(microseconds: float | None) -> str | None:
    if microseconds is None:
        return None
    if microseconds < 1000:
        return f"{_significant(microseconds, 3)}{NARROW}µs"
    return f"{_significant(microseconds / 1000, 3)}{NARROW}ms"


def duration(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    if seconds < 60:
        return f"{seconds:.0f}{NARROW}s"
    minutes = round(seconds / 60)
    hours, rest = divmod(minutes, 60)
    return f"{hours}{NARROW}h {rest}{NARROW}min" if hours else f"{minutes}{NARROW}min"


def short_time(seconds: float) -> str:
    """`2.5 s`"""
    return f"{_significant(seconds, 3)}{NARROW}s"


def time_unit(seconds: float) -> tuple[float, str]:
    """Seconds in the unit that suits a span of this length, and its name."""
    return (3600.0, "h") if seconds >= 5400 else (60.0, "min") if seconds >= 90 else (1.0, "s")


def rate(value: float | None) -> str | None:
    return None if value is None else f"{_significant(value, 3)}" if value < 100 else f"{value:,.0f}"


def error(value: float | None) -> str | None:
    return None if value is None else f"{value:.1e}"


def decimal(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}"


def count(value: int | None) -> str | None:
    return None if value is None else f"{value:,}"


def _significant(value: float, digits: int) -> str:
    """Without an exponent and without needless zeros: 0.0512, 7.42, 1234."""
    rounded = float(f"{value:.{digits}g}")
    return f"{rounded:.0f}" if abs(rounded) >= 1000 else f"{rounded:.{digits}g}"
