"""What a study varies: `group.field=value,value` as typed, to one checked configuration a combination."""

import itertools
import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from pipelines.config import TEACHER_GROUPS, Change, Config, groups, with_values
from teacher.errors import UsageError, unknown_name

Values = dict[str, Any]  # group.field -> value

LARGEST_SEED = 2**31 - 1
_FORM = "write group.field=value,value, for example network.depth=4,16"


class Combination(NamedTuple):
    """One value of each varied setting, and the whole configuration that this makes."""

    values: Values
    config: Config


def combinations(config: Config, varied: Sequence[str], assigned: Iterable[Change] = ()) -> list[Combination]:
    """Every combination of `group.field=value,value` on top of `config`, the last setting fastest.

    `assigned` is what --set has brought into `config`. Without `varied` there is one combination.
    Raises: UsageError naming the field, what was found and what is allowed, for all of them at once."""
    texts = _texts(varied, {change.name for change in assigned})
    chosen = [
        [f"{field}={text}" for field, text in zip(texts, row, strict=True)]
        for row in itertools.product(*texts.values())
    ]
    checked: list[Combination] = []
    problems: dict[str, None] = {}
    for assignments in chosen:
        try:
            made = with_values(config, assignments)
            checked.append(Combination({field: _value(made, field) for field in texts}, made))
        except UsageError as error:
            problems |= dict.fromkeys(str(error).splitlines())
    if problems:
        raise UsageError("\n".join(problems))
    _require_different(checked, texts)
    return checked


def varied_values(made: Iterable[Values]) -> dict[str, list[Any]]:
    """Each varied setting's values, in the order of the combinations."""
    found: dict[str, list[Any]] = {}
    for values in made:
        for field, value in values.items():
            if value not in found.setdefault(field, []):
                found[field].append(value)
    return found


def parse_seeds(text: str) -> list[int]:
    """`0,1,2` -> [0, 1, 2]; UsageError naming what is wrong."""
    seeds = []
    for part in text.split(","):
        digits = part.strip()
        if not (digits.isascii() and digits.isdigit() and int(digits) <= LARGEST_SEED):
            raise UsageError(
                f"--seeds {text}: found {digits!r}, write whole numbers from 0 to {LARGEST_SEED}, "
                "for example 0,1,2"
            )
        if int(digits) in seeds:
            raise UsageError(f"--seeds {text}: {int(digits)} is given twice")
        seeds.append(int(digits))
    return seeds


def described(values: Values) -> str:
    """`depth 4, width 64`."""
    return ", ".join(f"{short(field)} {_label(value)}" for field, value in values.items())


def folder_name(values: Values) -> str:
    """`depth-4-width-64`."""
    return "-".join(f"{short(field)}-{_label(value)}" for field, value in values.items())


def short(field: str) -> str:
    """`network.depth` -> `depth`; no two of the teacher's groups share a field's name."""
    return field.partition(".")[2]


def shown(value: Any) -> str:
    return "none" if value is None else value if isinstance(value, str) else json.dumps(value)


def _label(value: Any) -> str:
    """A value without the folder of the file that it may name: a task of the user's own."""
    return shown(value).rpartition("/")[2]


def _texts(varied: Sequence[str], set_: set[str]) -> dict[str, list[str]]:
    """Each field's values as typed."""
    found: dict[str, list[str]] = {}
    for given in varied:
        target, separator, listed = given.partition("=")
        field, texts = target.strip(), [text.strip() for text in listed.split(",")]
        group, dot, name = field.partition(".")
        if not separator or not dot or not name or not all(texts):
            raise UsageError(f"--vary {given!r}: {_FORM}")
        if group not in TEACHER_GROUPS:
            raise unknown_name("group of the teacher", group, TEACHER_GROUPS)
        if field in found:
            raise UsageError(f"{field} is varied twice: give all its values at once")
        if field in set_:
            raise UsageError(f"{field} is both set and varied: leave out one of them")
        found[field] = texts
    return found


def _value(config: Config, field: str) -> Any:
    group, _, name = field.partition(".")
    return getattr(groups(config)[group], name)


def _require_different(checked: list[Combination], texts: dict[str, list[str]]) -> None:
    """Two runs of the same settings would look like two findings."""
    chosen = list(itertools.product(*texts.values()))
    for position, (field, given) in enumerate(texts.items()):
        value_of = {row[position]: made.values[field] for row, made in zip(chosen, checked, strict=True)}
        values = [value_of[text] for text in given]
        for i, text in enumerate(given):
            if values[i] in values[:i]:
                raise UsageError(f"{field}={','.join(given)}: {text} is given twice")
    for _, config in checked:
        network = config.teacher.network
        if "network.depth" in texts and network.actor_depth and network.critic_depth:
            raise UsageError(
                "network.depth changes nothing where network.actor_depth and network.critic_depth are set: "
                "vary these two"
            )
