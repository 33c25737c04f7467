"""Figures as pages write them. What was not computed stays empty."""

import base64
import io
import json
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

from jinja2 import Undefined
from markupsafe import Markup, escape
from PIL import Image

Figures = Mapping[str, Any]

NARROW = "\u202f"  # no-break space between a number and its unit
INTERVALS = f"95{NARROW}% intervals"  # the level of teacher.evaluate.CONFIDENCE
ENGINES = {"mujoco": "the MuJoCo C engine", "mjx": "MuJoCo XLA (mjx)", "brax": "brax's spring simulator"}


def _of_known(form: Callable[..., str]) -> Callable[..., str]:
    """Makes a format answer nothing to a value that is absent."""

    @wraps(form)
    def formatted(value: Any, *rest: Any, **named: Any) -> str:
        return "" if value is None or isinstance(value, Undefined) else form(value, *rest, **named)

    return formatted


@_of_known
def percent(share: float, form: str = ".1f") -> str:
    return f"{100 * share:{form}}{NARROW}%"


@_of_known
def with_unit(value: float, unit: str | None) -> str:
    """Returns `5 cm` for 0.05 m; other units stay as they are."""
    scale, shown = centimetres(unit)
    return significant(scale * value) + (f"{NARROW}{shown}" if shown else "")


def centimetres(unit: str | None) -> tuple[float, str | None]:
    """Returns by what to multiply a distance, and the unit that it then has."""
    return (100.0, "cm") if unit == "m" else (1.0, unit)


@_of_known
def latency(microseconds: float) -> str:
    large = microseconds >= 1000
    return significant(microseconds / (1000 if large else 1)) + NARROW + ("ms" if large else "µs")


@_of_known
def duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    if seconds < 60:
        return f"{seconds:.0f}{NARROW}s"
    return f"{hours}{NARROW}h {minutes}{NARROW}min" if hours else f"{minutes}{NARROW}min"


@_of_known
def number(value: float, form: str = ",.0f") -> str:
    """Returns a value as Python's format has it, counts with commas."""
    return f"{value:{form}}"


@_of_known
def significant(value: float) -> str:
    """Returns three digits without an exponent and without needless zeros: 0.0512, 7.42, 1234."""
    rounded = float(f"{value:.3g}")
    return f"{rounded:.0f}" if abs(rounded) >= 1000 else f"{rounded:.3g}"


def cell(value: str, detail: str = "") -> Markup:
    """Returns a figure of a table, with its interval or what else belongs to it in small print below."""
    return Markup("{}<small>{}</small>").format(value, detail) if value and detail else escape(value)


def figure(of: Figures, key: str, form: Callable[[Any], str] = percent) -> Markup:
    """Returns a figure with its interval, if it has one, in small print."""
    return cell(form(of.get(key)), _interval(of, key, form))


def in_words(of: Figures, key: str) -> str:
    """Returns `98.4 % (96.0 to 99.4)`."""
    return percent(of.get(key)) + (f" ({ends})" if (ends := _interval(of, key, percent)) else "")


def _interval(of: Figures, key: str, form: Callable[[Any], str]) -> str:
    """Returns `96.0 to 99.4`, without a unit."""
    return " to ".join(form(end).partition(NARROW)[0] for end in of.get(f"{key}_interval") or ())


def scores(of: Figures, form: Callable[[Any], str]) -> list[Markup]:
    """Returns cells of a row: success, strict success, time at goal, and final distance in its form."""
    shares = [figure(of, key) for key in ("success_final", "strict_final", "time_at_goal")]
    return [*shares, figure(of, "final_distance", form)]


def latencies(of: Figures) -> str:
    """Returns `7.1 µs, p99 12.9 µs`."""
    found = [latency(of.get(f"latency_us_p{rank}")) for rank in (50, 99)]
    return f"{found[0]}, p99 {found[1]}" if found[0] else ""


def listed(*facts: str) -> str:
    """Returns those facts that are known, with commas."""
    return ", ".join(filter(None, facts))


def engine(name: str) -> str:
    """Returns a simulator's name as sentences have it."""
    return ENGINES.get(name, name)


def capital(text: str) -> str:
    """Returns the text with a capital, but for the name of a setting that is written with underscores."""
    return text if "_" in text.split()[0] else text[:1].upper() + text[1:]


def data(webp: bytes) -> str:
    return f"data:image/webp;base64,{base64.b64encode(webp).decode()}"


def last_frame(moving: bytes) -> bytes:
    """Returns the end of an animated WebP as a still one."""
    stream = io.BytesIO()
    with Image.open(io.BytesIO(moving)) as image:
        image.seek(getattr(image, "n_frames", 1) - 1)
        image.convert("RGB").save(stream, "webp", quality=70)
    return stream.getvalue()


def as_json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
