"""The controller in C++ over a policy in C99: controller.hpp as it stands, and the numbers that it needs."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np

from export.c99 import in_comment
from export.controller import GOLDEN_TOLERANCE, ControllerError, Guard, last_action, readings
from teacher.errors import FathomError
from teacher.spec import ActionKind, TaskSpec

_HEADER = """\
/* The task {task}, version {version}, as numbers for controller.hpp; spec.json names them. */
#ifndef FATHOM_SPECIFICATION_HPP
#define FATHOM_SPECIFICATION_HPP

#include <array>
#include <cstddef>

namespace fathom::specification {{

enum class Kind {{ {kinds} }};
constexpr double control_dt = {dt};
constexpr std::size_t reading_size = {reading};
constexpr std::size_t history = {history};
constexpr std::ptrdiff_t last_action = {last_action};
constexpr float golden_tolerance = {tolerance}f;
{arrays}
}}  // namespace fathom::specification

#endif
"""


def cpp(spec: TaskSpec, golden: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Returns `controller.hpp` and `specification.hpp`.

    Args: golden: `obs` [K, N], `goal` [K, G] and `actions` [K, A], recorded answers.
    Raises FathomError for a task whose commands no guard can keep within limits."""
    record = spec.model_dump(mode="json")
    try:
        limits = Guard(record).limits()
    except ControllerError as error:
        raise FathomError(f"{spec.name} in C++: {error}") from error
    acted = last_action(record)
    arrays = [_array("Kind", "kind", np.array(spec.action.kinds))]
    types = {"position_index": "std::ptrdiff_t"}
    arrays += [_array(types.get(name, "double"), name, np.array(each)) for name, each in limits.items()]
    arrays += [_array("float", f"golden_{name}", golden[name]) for name in ("obs", "goal", "actions")]
    header = _HEADER.format(
        task=in_comment(spec.name),
        version=spec.version,
        kinds=", ".join(get_args(ActionKind)),
        dt=repr(spec.control_dt),
        reading=sum(len(term["entries"]) for term in readings(record)),
        history=spec.deployed.history if spec.deployed else 1,
        last_action=-1 if acted is None else acted.start,
        tolerance=GOLDEN_TOLERANCE,
        arrays="\n".join(arrays),
    )
    return {
        "controller.hpp": Path(__file__).with_name("controller.hpp").read_text("utf-8"),
        "specification.hpp": header,
    }


def _array(kind: str, name: str, values: np.ndarray) -> str:
    """Of one or two dimensions."""
    shape = f"std::array<{kind}, {values.shape[-1]}>"
    if values.ndim == 1:
        return f"constexpr {shape} {name}{{{_row(kind, values)}}};"
    rows = ",\n".join(f"    {shape}{{{_row(kind, row)}}}" for row in values)
    return f"constexpr std::array<{shape}, {len(values)}> {name}{{{{\n{rows}}}}};"


def _row(kind: str, values: Iterable[Any]) -> str:
    if kind == "Kind":
        return ", ".join(f"Kind::{value}" for value in values)
    if kind == "std::ptrdiff_t":
        return ", ".join(str(int(value)) for value in values)
    suffix = "f" if kind == "float" else ""
    return ", ".join(f"{float(value).hex()}{suffix}" for value in values)
