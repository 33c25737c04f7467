"""A policy's graph as C99 without dependencies: no heap, no mathematics but `expf` and `tanhf`.

For microcontrollers and for controllers in C++. Weights are written as hexadecimal floating-point numbers,
which lose no bit."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from teacher.errors import FathomError, UsageError
from teacher.spec import TaskSpec

_HEADER = """\
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

# Columns inside: compilers turn the inner loop into vector instructions without reordering any sum.
_DENSE = """\
static void dense(const float *restrict x, const float *restrict weights, const float *restrict bias,
                  int inputs, int outputs, float *restrict y) {
    for (int j = 0; j < outputs; j++) y[j] = bias[j];
    for (int i = 0; i < inputs; i++) {
        const float *row = weights + i * outputs;
        for (int j = 0; j < outputs; j++) y[j] += x[i] * row[j];
    }
}
"""

_UNARY = {
    "Sigmoid": "1.0f / (1.0f + expf(-{0}))",
    "Tanh": "tanhf({0})",
    "Relu": "{0} > 0.0f ? {0} : 0.0f",
    "Neg": "-{0}",
    "Exp": "expf({0})",
    "Identity": "{0}",
}
_BINARY = {
    "Add": "{0} + {1}",
    "Sub": "{0} - {1}",
    "Mul": "{0} * {1}",
    "Div": "{0} / {1}",
    "Max": "{0} > {1} ? {0} : {1}",
    "Min": "{0} < {1} ? {0} : {1}",
}


def c99(model: onnx.ModelProto, spec: TaskSpec, sha256: str, prefix: str = "policy") -> dict[str, str]:
    """`policy.h` and `policy.c` from a policy's graph of inputs `obs` [1, N] and `goal` [1, G].

    Args: prefix: of files and of every name that a program sees, in place of `policy`.
    Raises FathomError that names the first operator, or form of it, that has no C version; UsageError for a
    prefix that is no name in C."""
    if not re.fullmatch("[a-z][a-z0-9_]{0,30}", prefix):
        raise UsageError(
            f"c99: prefix {prefix!r}, allowed: letters, digits and _, from a letter, in lower case"
        )
    source = _Source(model)
    for node in model.graph.node:
        source.add(node)
    obs, goal, actions = (source.size(name) for name in ("obs", "goal", model.graph.output[0].name))
    header = _HEADER.format(
        task=in_comment(spec.name),
        prefix=prefix,
        macro=prefix.upper(),
        version=spec.version,
        dt=spec.control_dt,
        obs=obs,
        goal=goal,
        actions=actions,
        scratch=4 * source.scratch,
        weights=4 * source.weights,
        sha256=sha256,
    )
    return {f"{prefix}.h": header, f"{prefix}.c": source.text(sha256, prefix)}


def in_comment(text: str) -> str:
    """A name in a C comment, which it must not end or continue."""
    return re.sub(r"[^\w .,:()-]", "_", text)


class _Source:
    """The C of one graph, node by node; every value is a row of floats."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self._constants = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
        self._sizes = {
            part.name: part.type.tensor_type.shape.dim[-1].dim_value for part in (*graph.input, *graph.output)
        }
        # How C calls each value: inputs and the output are arguments, the others static rows.
        self._names = {part.name: part.name for part in graph.input} | {graph.output[0].name: "actions"}
        self._arrays: list[str] = []
        self._body: list[str] = []
        self.scratch = self.weights = 0
        self._uses_dense = False

    def size(self, name: str) -> int:
        return self._sizes[name] if name in self._sizes else int(self._constants[name].size)

    def add(self, node: onnx.NodeProto) -> None:
        attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
        known: dict[str, Callable[[onnx.NodeProto, dict[str, Any]], None]] = {
            "Concat": self._concat,
            "Gemm": self._gemm,
            "MatMul": self._gemm,
            **dict.fromkeys(_UNARY, self._unary),
            **dict.fromkeys(_BINARY, self._binary),
            "Clip": self._clip,
        }
        if node.op_type not in known:
            raise FathomError(
                f"policy: operator {node.op_type} ({node.name or node.output[0]}) has no C version; "
                f"known are {', '.join(sorted(known))}"
            )
        known[node.op_type](node, attributes)

    def text(self, sha256: str, prefix: str) -> str:
        macro = prefix.upper()
        parts = [
            f'#include "{prefix}.h"\n\n#include <math.h>\n#include <string.h>\n',
            f'const char {prefix}_graph_sha256[65] = "{sha256}";\n',
            "\n".join(self._arrays) + "\n",
            *([_DENSE] if self._uses_dense else []),
            f"void {prefix}_step(const float obs[{macro}_OBS_SIZE], const float goal[{macro}_GOAL_SIZE],\n"
            f"                   float actions[{macro}_ACTION_SIZE]) {{\n" + "\n".join(self._body) + "\n}\n",
        ]
        return "\n".join(parts)

    def _concat(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> None:
        if attributes["axis"] not in (1, -1):
            raise _unknown_form(node, f"axis {attributes['axis']}")
        target = self._result(node, sum(self.size(name) for name in node.input))
        start = 0
        for name in node.input:
            size = self.size(name)
            self._line(f"memcpy({target} + {start}, {self._value(name)}, {size} * sizeof(float));")
            start += size

    def _gemm(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> None:
        plain = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}
        odd = {key: value for key, value in attributes.items() if value != plain[key]}
        if odd or node.input[1] not in self._constants:
            raise _unknown_form(node, f"{odd or 'a product of two values that are no weights'}")
        weights = self._constants[node.input[1]]
        inputs, outputs = weights.shape
        bias = self._constants[node.input[2]] if len(node.input) > 2 else np.zeros(outputs, np.float32)
        target = self._result(node, outputs)
        place = len(self._arrays)
        self._constant(f"weights_{place}", weights)
        self._constant(f"bias_{place}", np.broadcast_to(bias.reshape(-1), (outputs,)))
        self._uses_dense = True
        source = self._value(node.input[0])
        self._line(f"dense({source}, weights_{place}, bias_{place}, {inputs}, {outputs}, {target});")

    def _unary(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> None:
        size = self.size(node.input[0])
        value = _UNARY[node.op_type].format(f"{self._value(node.input[0])}[i]")
        self._each(self._result(node, size), size, value)

    def _binary(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> None:
        sizes = [self.size(name) for name in node.input]
        if min(sizes) not in (1, max(sizes)):
            raise _unknown_form(node, f"sizes {sizes}")
        left, right = (
            f"{self._value(name)}[{'i' if size > 1 else '0'}]"
            for name, size in zip(node.input, sizes, strict=True)
        )
        target = self._result(node, max(sizes))
        self._each(target, max(sizes), _BINARY[node.op_type].format(left, right))

    def _clip(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> None:
        if len(node.input) != 3 or not all(node.input):
            raise _unknown_form(node, "without both limits")
        low, high = (_hex(float(self._constants[name])) for name in node.input[1:])
        size, value = self.size(node.input[0]), f"{self._value(node.input[0])}[i]"
        clipped = f"{value} < {low} ? {low} : {value} > {high} ? {high} : {value}"
        self._each(self._result(node, size), size, clipped)

    def _each(self, target: str, size: int, value: str) -> None:
        self._line(f"for (int i = 0; i < {size}; i++) {target}[i] = {value};")

    def _result(self, node: onnx.NodeProto, size: int) -> str:
        name = node.output[0]
        if name not in self._names:
            self._names[name] = f"value_{len(self._names)}"
            self._arrays.append(f"static float {self._names[name]}[{size}];")
            self.scratch += size
        self._sizes[name] = size
        return self._names[name]

    def _value(self, name: str) -> str:
        if name not in self._names:
            self._names[name] = f"constant_{len(self._names)}"
            self._constant(self._names[name], self._constants[name])
        return self._names[name]

    def _constant(self, name: str, values: np.ndarray) -> None:
        if values.dtype != np.float32:
            raise FathomError(f"policy: {name} is {values.dtype}, the C version knows float32 alone")
        numbers = [_hex(float(each)) for each in values.reshape(-1)]
        rows = [", ".join(numbers[i : i + 6]) for i in range(0, len(numbers), 6)]
        self._arrays.append(
            f"static const float {name}[{len(numbers)}] = {{\n    " + ",\n    ".join(rows) + "};"
        )
        self.weights += len(numbers)

    def _line(self, line: str) -> None:
        self._body.append("    " + line)


def _hex(value: float) -> str:
    if not np.isfinite(value):
        raise FathomError(f"policy: a weight is {value}")
    return f"{value.hex()}f"


def _unknown_form(node: onnx.NodeProto, form: str) -> FathomError:
    return FathomError(
        f"policy: operator {node.op_type} ({node.output[0]}) in a form without C version: {form}"
    )
