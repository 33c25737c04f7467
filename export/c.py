"""A policy's graph as C99, and a controller in C++ over it, for where no graphs are run.

No heap, and no mathematics but `expf` and `tanhf`. Weights are written as hexadecimal floating-point numbers,
which lose no bit. controller.hpp goes along as it stands, with the numbers that it needs."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
from onnx import numpy_helper

from export.controller import GOLDEN_TOLERANCE, CommandLimiter
from export.graph import graph_sha256
from teacher.errors import FathomError, UsageError
from teacher.spec import ActionKind, TaskSpec

_POLICY_H = """\
/* Policy for the task {task}, version {version}: one step every {dt} s.
 *
 * obs [{obs}], goal [{goal}] -> actions [{actions}] in [-1, 1]; entries and units as spec.json lists them.
 * command = offset + scale * action. Inputs must be finite. Not for two threads at once: the layers' values
 * lie in static memory, {scratch} bytes of it; the weights take {weights} bytes.
 * Made from policy.onnx, whose graph has the SHA-256 {sha256}. It carries no signature.
 */
#ifndef FATHOM_{macro}_H
#define FATHOM_{macro}_H

#ifdef __cplusplus
extern "C" {{
#endif

#define {macro}_OBS_SIZE {obs}
#define {macro}_GOAL_SIZE {goal}
#define {macro}_ACTION_SIZE {actions}

extern const char {prefix}_graph_sha256[65];

void {prefix}_step(const float obs[{macro}_OBS_SIZE], const float goal[{macro}_GOAL_SIZE],
                   float actions[{macro}_ACTION_SIZE]);

#ifdef __cplusplus
}}
#endif

#endif
"""

_SPECIFICATION_HPP = """\
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

# Columns inside: compilers turn the inner loop into vector instructions without reordering any sum.
_POLICY_C = """\
#include "{prefix}.h"

#include <math.h>
#include <string.h>

const char {prefix}_graph_sha256[65] = "{sha256}";

{arrays}

static inline void dense(const float *restrict x, const float *restrict weights, const float *restrict bias,
                         int inputs, int outputs, float *restrict y) {{
    for (int j = 0; j < outputs; j++) y[j] = bias[j];
    for (int i = 0; i < inputs; i++) {{
        const float *row = weights + i * outputs;
        for (int j = 0; j < outputs; j++) y[j] += x[i] * row[j];
    }}
}}

void {prefix}_step(const float obs[{macro}_OBS_SIZE], const float goal[{macro}_GOAL_SIZE],
                   float actions[{macro}_ACTION_SIZE]) {{
{body}
}}
"""

_UNKNOWN_FORM = "in a form without C version"
_ELEMENTWISE = {
    "Sigmoid": "1.0f / (1.0f + expf(-{0}))",
    "Tanh": "tanhf({0})",
    "Relu": "{0} > 0.0f ? {0} : 0.0f",
    "Neg": "-{0}",
    "Exp": "expf({0})",
    "Identity": "{0}",
    "Add": "{0} + {1}",
    "Sub": "{0} - {1}",
    "Mul": "{0} * {1}",
    "Div": "{0} / {1}",
    "Max": "{0} > {1} ? {0} : {1}",
    "Min": "{0} < {1} ? {0} : {1}",
}


def policy_c(model: onnx.ModelProto, spec: TaskSpec, prefix: str = "policy") -> dict[str, str]:
    """Returns `policy.h` and `policy.c` of a policy's graph with inputs `obs` [1, N] and `goal` [1, G].

    Args: prefix: of files and of every name that a program sees, in place of `policy`.
    Raises FathomError that names the first operator, or form of it, that has no C version; UsageError for a
    prefix that is no name in C."""
    if not re.fullmatch("[a-z][a-z0-9_]{0,30}", prefix):
        allowed = "letters, digits and _, from a letter, in lower case"
        raise UsageError(f"c99: prefix {prefix!r}, allowed: {allowed}")
    source = _Source(model)
    values = {
        "task": _in_comment(spec.name),
        "version": spec.version,
        "dt": spec.control_dt,
        "prefix": prefix,
        "macro": prefix.upper(),
        "sha256": graph_sha256(model),
        "obs": source.sizes["obs"],
        "goal": source.sizes["goal"],
        "actions": source.sizes[model.graph.output[0].name],
        "scratch": 4 * source.scratch,
        "weights": 4 * source.weights,
        "arrays": "\n".join(source.arrays),
        "body": "\n".join(f"    {line}" for line in source.body),
    }
    return {f"{prefix}.h": _POLICY_H.format(**values), f"{prefix}.c": _POLICY_C.format(**values)}


def controller_cpp(spec: TaskSpec, golden: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Returns `controller.hpp` and `specification.hpp`.

    Args: golden: `obs` [K, N], `goal` [K, G] and `actions` [K, A], recorded answers."""
    task = spec.for_robot()
    inputs = task["inputs"]
    arrays = [_array("Kind", "kind", np.array(spec.action.kinds))]
    for name, values in CommandLimiter(task).limits().items():
        kind = "std::ptrdiff_t" if name == "position_index" else "double"
        arrays.append(_array(kind, name, np.array(values)))
    arrays += [_array("float", f"golden_{name}", golden[name]) for name in ("obs", "goal", "actions")]
    header = _SPECIFICATION_HPP.format(
        task=_in_comment(spec.name),
        version=spec.version,
        kinds=", ".join(get_args(ActionKind)),
        dt=repr(spec.control_dt),
        reading=sum(len(term["entries"]) for term in inputs["reading"]),
        history=inputs["history"],
        last_action=inputs["last_action"][0] if inputs["last_action"] else -1,
        tolerance=GOLDEN_TOLERANCE,
        arrays="\n".join(arrays),
    )
    hpp = Path(__file__).with_name("controller.hpp").read_text("utf-8")
    return {"controller.hpp": hpp, "specification.hpp": header}


def _in_comment(text: str) -> str:
    """Returns a name for a C comment, which it must not end or continue."""
    return re.sub(r"[^\w .,:()-]", "_", text)


class _Source:
    """The C of one graph, node by node; every value is a row of floats."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self._constants = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
        self.sizes = {name: int(each.size) for name, each in self._constants.items()} | {
            part.name: part.type.tensor_type.shape.dim[-1].dim_value for part in (*graph.input, *graph.output)
        }
        # How C calls each value: inputs and the output are arguments, the others static rows.
        self._names = {part.name: part.name for part in graph.input} | {graph.output[0].name: "actions"}
        self.arrays: list[str] = []
        self.body: list[str] = []
        self.scratch = self.weights = 0
        for node in graph.node:
            try:
                self._add(node, {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute})
            except ValueError as error:
                raise FathomError(f"policy: operator {node.op_type} ({node.output[0]}) {error}") from error

    def _add(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> None:
        """Adds a node's lines; ValueError for what has no C version."""
        kind = node.op_type
        sizes = [self.sizes.get(name, 0) for name in node.input]
        if kind == "Concat":
            if attributes["axis"] not in (1, -1):
                raise ValueError(f"{_UNKNOWN_FORM}: axis {attributes['axis']}")
            target, start = self._result(node, sum(sizes)), 0
            for name, size in zip(node.input, sizes, strict=True):
                self.body.append(f"memcpy({target} + {start}, {self._value(name)}, {size} * sizeof(float));")
                start += size
        elif kind in ("Gemm", "MatMul"):
            plain = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}
            odd = {key: value for key, value in attributes.items() if value != plain[key]}
            if odd or node.input[1] not in self._constants:
                raise ValueError(f"{_UNKNOWN_FORM}: {odd or 'a product of two values that are no weights'}")
            weights = self._constants[node.input[1]]
            inputs, outputs = weights.shape
            bias = self._constants[node.input[2]] if len(node.input) > 2 else np.zeros(outputs, np.float32)
            target, place = self._result(node, outputs), len(self.arrays)
            self._constant(f"weights_{place}", weights)
            self._constant(f"bias_{place}", np.broadcast_to(bias.reshape(-1), (outputs,)))
            given = f"{self._value(node.input[0])}, weights_{place}, bias_{place}"
            self.body.append(f"dense({given}, {inputs}, {outputs}, {target});")
        elif kind in _ELEMENTWISE:
            if len(sizes) != 1 + ("{1}" in _ELEMENTWISE[kind]) or min(sizes) not in (1, max(sizes)):
                raise ValueError(f"{_UNKNOWN_FORM}: sizes {sizes}")
            values = [
                f"{self._value(name)}[{'i' if size > 1 or len(sizes) == 1 else '0'}]"
                for name, size in zip(node.input, sizes, strict=True)
            ]
            self._each(node, max(sizes), _ELEMENTWISE[kind].format(*values))
        elif kind == "Clip":
            if len(node.input) != 3 or not all(node.input):
                raise ValueError(f"{_UNKNOWN_FORM}: without both limits")
            low, high = (_hex(self._constants[name]) for name in node.input[1:])
            value = f"{self._value(node.input[0])}[i]"
            self._each(node, sizes[0], f"{value} < {low} ? {low} : {value} > {high} ? {high} : {value}")
        else:
            known = ", ".join(sorted(("Clip", "Concat", "Gemm", "MatMul", *_ELEMENTWISE)))
            raise ValueError(f"has no C version; known are {known}")

    def _each(self, node: onnx.NodeProto, size: int, value: str) -> None:
        self.body.append(f"for (int i = 0; i < {size}; i++) {self._result(node, size)}[i] = {value};")

    def _result(self, node: onnx.NodeProto, size: int) -> str:
        name = node.output[0]
        if name not in self._names:
            self._names[name] = f"value_{len(self._names)}"
            self.arrays.append(f"static float {self._names[name]}[{size}];")
            self.scratch += size
        self.sizes[name] = size
        return self._names[name]

    def _value(self, name: str) -> str:
        if name not in self._names:
            self._names[name] = f"constant_{len(self._names)}"
            self._constant(self._names[name], self._constants[name])
        return self._names[name]

    def _constant(self, name: str, values: np.ndarray) -> None:
        if values.dtype != np.float32:
            raise ValueError(f"takes {name} of {values.dtype}, the C version knows float32 alone")
        numbers = [_hex(each) for each in values.reshape(-1)]
        rows = ",\n    ".join(", ".join(numbers[i : i + 6]) for i in range(0, len(numbers), 6))
        self.arrays.append(f"static const float {name}[{len(numbers)}] = {{\n    {rows}}};")
        self.weights += len(numbers)


def _hex(value: Any) -> str:
    if not np.isfinite(value):
        raise ValueError(f"has a weight that is {value}")
    return f"{float(value).hex()}f"


_NUMBERS: dict[str, Callable[[Any], str]] = {
    "Kind": lambda value: f"Kind::{value}",
    "std::ptrdiff_t": lambda value: str(int(value)),
    "double": lambda value: float(value).hex(),
    "float": _hex,
}


def _array(kind: str, name: str, values: np.ndarray) -> str:
    """Writes a constant of one or two dimensions in C++."""
    row_type = f"std::array<{kind}, {values.shape[-1]}>"
    rows = [f"{{{', '.join(map(_NUMBERS[kind], row))}}}" for row in np.atleast_2d(values)]
    if values.ndim == 1:
        return f"constexpr {row_type} {name}{rows[0]};"
    text = ",\n".join(f"    {row_type}{row}" for row in rows)
    return f"constexpr std::array<{row_type}, {len(rows)}> {name}{{{{\n{text}}}}};"
