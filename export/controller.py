"""Runs an exported policy on a robot, after checking that it is the policy that was exported.

    controller = load("path/to/bundle")
    action = controller.step(obs, goal)     # float32 arrays [N], [G] -> [A]

Where an observation holds earlier readings of the sensors too, the controller keeps them:

    controller.reset()                      # where an episode begins
    action = controller.step(controller.observe(reading), goal)

`run` is the whole loop at the right rate, `CommandLimiter` keeps its commands within the robot's limits.

`python controller.py [bundle]` checks a bundle and prints what it expects. Needs Python 3.8 or later,
numpy and onnxruntime, nothing else. A controller belongs to one thread.
"""

from __future__ import annotations

import os
import sys


def _planted(folder: str) -> str | None:
    """Returns code in a bundle's folder that is neither the controller nor the program that was started."""
    started = os.path.realpath(getattr(sys.modules.get("__main__"), "__file__", None) or folder)
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if os.path.isdir(path):
            code = any(entry.startswith("__init__.") for entry in os.listdir(path))
        else:
            code = name.lower().endswith((".py", ".pyw", ".pyc", ".pyd", ".so")) and name != "controller.py"
        if code and os.path.realpath(path) != started:
            return f"{name}: code that spec.json does not list; keep your own beside the bundle"
    return None


_FOLDER = os.path.dirname(os.path.abspath(__file__))
# Before anything is imported that may be found here in place of a library.
if os.path.exists(os.path.join(_FOLDER, "spec.json")) and (_FOUND := _planted(_FOLDER)):
    raise (SystemExit if __name__ == "__main__" else ImportError)(f"refused: {_FOUND}")

import argparse
import copy
import gc
import hashlib
import io
import json
import math
import numbers
import re
import signal
import stat
import struct
import threading
import time
import warnings
import zipfile
from os import PathLike
from pathlib import Path
from typing import Any, Callable, Iterator, Tuple

import numpy as np
import onnxruntime

FORMAT_VERSION = 3
OWN_METADATA = "fathom."
_FROZEN_AT_START = gc.get_freeze_count()  # by Python 3.12 itself
CONTENT_HASH = f"{OWN_METADATA}content_hash"
GOLDEN_TOLERANCE = 1e-5
NEEDED_FILES = ("policy.onnx", "golden.npz", "controller.py")
KEPT_FILES = (*NEEDED_FILES, "critic.onnx")  # a student of a policy without a critic has none
SIGNATURE = "spec.json.sig"
LARGEST = {  # bytes
    "spec.json": 1 << 22,
    "policy.onnx": 1 << 29,
    "critic.onnx": 1 << 29,
    "golden.npz": 1 << 27,
    SIGNATURE: 64,
}
LARGEST_FILE = 1 << 30  # bytes, of files that are not in LARGEST, which are read piece by piece
MOST_ENTRIES = 100_000  # of an observation, a goal or an action
MOST_GOLDEN = 4096  # recorded answers
MOST_VALUES = 1 << 24  # between a graph's inputs and its output
Shape = Tuple[int, ...]


class ControllerError(Exception):
    """The bundle or an input cannot be trusted: what was found, what is allowed."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


def printable(text: str) -> str:
    """Returns a stranger's text without what a terminal would obey."""
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)


# Loading a bundle


def load(path: str | PathLike[str], *, trusted: str | PathLike[str] | None = None) -> Controller:
    """Returns a controller whose files, shapes and answers have been checked.

    Args: trusted: a public key (ed25519, PEM) by whose owner the bundle must be signed; needs `cryptography`.
    Raises ControllerError if a file is missing, altered or no plain file, if other code lies in the bundle,
    if a graph is of another task or does what no export does, if the policy does not reproduce the recorded
    actions, or if the signature that was asked for is absent or wrong."""
    directory = Path(path)
    content, _ = _read(directory, "spec.json")
    if trusted is not None:
        _check_signature(directory, content, Path(trusted))
    try:
        if planted := _planted(str(directory)):
            raise ControllerError(planted)
        record = _parsed(content)
        if record["format_version"] != FORMAT_VERSION:
            raise ControllerError(
                f"spec.json: bundle format {record['format_version']}, this controller reads format "
                f"{FORMAT_VERSION}; use the bundle's own controller.py, or pipeline export RUN --resume"
            )
        # Of the same text with zeros in the hash's place, as `with_content_hash` takes it.
        begin = b'{"sha256": "'
        end = len(begin) + 64
        found = hashlib.sha256(begin + b"0" * 64 + content[end:]).hexdigest()
        if content[:end] != begin + found.encode():
            raise ControllerError(f"spec.json: SHA-256 is {found}, it states another: the file was altered")
        contents = _read_listed(directory, record["files"], strict=trusted is not None)
        controller = Controller(record, contents["policy.onnx"], contents.get("critic.onnx"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError) as error:
        raise ControllerError(f"spec.json: not a description of a bundle: {error!r}") from error
    controller.check(contents["golden.npz"])  # also the warm-up: the first runs of a session allocate
    return controller


def with_content_hash(text: str) -> bytes:
    """Returns a JSON object's text with its own SHA-256 as the first key, taken with zeros in its place."""
    body = text.replace("{", '{"sha256": "%s",' % ("0" * 64), 1).encode()
    return body.replace(b"0" * 64, hashlib.sha256(body).hexdigest().encode(), 1)


def _parsed(content: bytes) -> Any:
    """Parses JSON; ValueError for numbers that are not finite, or too long for any use."""

    def number(text: str) -> float:
        if len(text) > 40 or not math.isfinite(float(text)):
            raise ValueError(f"a number such as {text[:40]}")
        return float(text) if not text.lstrip("-").isdigit() else int(text)

    return json.loads(content, parse_constant=number, parse_float=number, parse_int=number)


def _check_sizes(task: dict[str, Any]) -> None:
    """Checks the sizes of observation, goal and action before anything of these sizes is made."""
    inputs = task["inputs"]
    sizes = _size(inputs["observation"]), len(inputs["goal"]["entries"]), len(task["action"]["joints"])
    if not 1 <= min(sizes) <= max(sizes) <= MOST_ENTRIES:
        raise ControllerError(
            f"spec.json: observation, goal and action of {sizes} entries, allowed: 1 to {MOST_ENTRIES:,} each"
        )
    history, reading = inputs["history"], _size(inputs["reading"])
    if type(history) is not int or history * reading != sizes[0]:
        raise ControllerError(
            f"spec.json: inputs.history is {history!r:.40}, of readings of {reading} entries in {sizes[0]}"
        )


def _size(terms: list[dict[str, Any]]) -> int:
    return sum(len(term["entries"]) for term in terms)


def _check_signature(directory: Path, content: bytes, trusted: Path) -> None:
    """Checks who signed spec.json, and with it every file, whose SHA-256 it holds."""
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    except ImportError as error:
        raise ControllerError("trusted: a signature is checked with the package cryptography") from error
    try:
        key = load_pem_public_key(trusted.read_bytes())
        if not isinstance(key, Ed25519PublicKey):
            raise TypeError(f"{type(key).__name__}, allowed: a public key of ed25519")
        key.verify(_read(directory, SIGNATURE)[0], content)
    except InvalidSignature:
        raise ControllerError(f"{SIGNATURE}: spec.json was not signed by the owner of {trusted}") from None
    except (OSError, ValueError, TypeError) as error:
        raise ControllerError(f"{trusted}: no public key can be read from it: {error}") from error


def _read(directory: Path, name: str, keep: bool = True) -> tuple[bytes, str]:
    """Returns a plain file's content, if it is to be kept, and its SHA-256; links are not followed."""
    parts = name.split("/")
    if os.path.isabs(name) or not {"", ".", ".."}.isdisjoint(parts) or any(c in name for c in "\\:\0"):
        raise ControllerError(f"spec.json: lists the file {name!r}, allowed: names inside the bundle")
    most = LARGEST.get(name, LARGEST_FILE)
    try:
        for i in range(1, len(parts) + 1):
            plain = stat.S_ISDIR if i < len(parts) else stat.S_ISREG
            if not plain(os.lstat(directory.joinpath(*parts[:i])).st_mode):
                raise ControllerError(f"{name}: not a plain file (a link, a pipe or a device)")
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        kept, size, digest = bytearray(), 0, hashlib.sha256()
        with os.fdopen(os.open(directory / name, flags), "rb") as file:
            if os.fstat(file.fileno()).st_size > most:
                raise ControllerError(f"{name}: larger than {most:,} bytes")
            while size <= most and (piece := file.read(1 << 20)):
                size += len(piece)
                digest.update(piece)
                if keep:
                    kept += piece
    except OSError as error:
        message = f"{name}: cannot be read from the bundle {directory}: {error.strerror}"
        raise ControllerError(message) from error
    return bytes(kept), digest.hexdigest()


def _read_listed(directory: Path, hashes: dict[str, str], strict: bool) -> dict[str, bytes]:
    """Checks every listed file; returns those that are run, since the files may be others by then.

    Args: strict: also the model card must be as it was."""
    if unlisted := [name for name in NEEDED_FILES if name not in hashes]:
        raise ControllerError(f"spec.json: lists no SHA-256 of {', '.join(unlisted)}")
    contents = {}
    for name, stated in hashes.items():
        try:
            contents[name], found = _read(directory, name, keep=name in KEPT_FILES)
            if found != stated:
                message = f"{name}: SHA-256 is {found}, spec.json lists {stated}: the file was altered"
                raise ControllerError(message)
        except ControllerError as error:
            if name != "README.md" or strict:
                raise
            warnings.warn(str(error), stacklevel=3)  # nothing is run by it
    return contents


def _arrays(golden: bytes, obs: int, goal: int, action: int) -> dict[str, np.ndarray]:
    """Returns the recorded arrays, read without executing anything or taking more memory than they hold."""
    widths: dict[str, Shape] = {"obs": (obs,), "goal": (goal,), "actions": (action,), "distance": ()}
    widths.update(far_obs=(obs,), far_goal=(goal,), outside=(2,))
    found: dict[str, np.ndarray] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(golden)) as archive:
            for entry in archive.infolist():
                name, _, rest = entry.filename.partition(".npy")
                if rest or name not in widths or name in found or entry.compress_type != zipfile.ZIP_STORED:
                    raise ValueError(f"array {name!r}, allowed: one each of {list(widths)}, not compressed")
                content, width = archive.read(entry), widths[name]
                shape = rb"\((\d{1,9}),%s\)" % b"".join(b" %d" % each for each in width)
                said = rb"\{'descr': '<f4', 'fortran_order': False, 'shape': %s, \} *\n" % shape
                header = re.match(rb"\x93NUMPY\x01\0..%s" % said, content, re.DOTALL)
                rows, start = (int(header.group(1)), header.end()) if header else (-1, 0)
                if len(content) - start != 4 * rows * math.prod(width):
                    allowed = ", ".join(["K", *map(str, width)])
                    what = f"{name} is {content[10:90]!r} in {len(content)} bytes"
                    raise ValueError(f"{what}, allowed: float32[{allowed}] by row")
                found[name] = np.frombuffer(content, np.float32, offset=start).reshape(rows, *width)
        counts = {name: len(array) for name, array in found.items()}
        if not {"obs", "goal", "actions"} <= counts.keys() or len(set(counts.values())) != 1:
            raise ValueError(f"rows {counts}, allowed: obs, goal and actions, as many of each")
        if not 1 <= counts["obs"] <= MOST_GOLDEN:
            raise ValueError(f"{counts['obs']} rows, allowed: 1 to {MOST_GOLDEN}")
    except Exception as error:  # zipfile's own exceptions share no other base
        raise ControllerError(f"golden.npz: not an archive of recorded arrays: {error}") from error
    return found


# Reading an ONNX file as far as it has to be trusted, without a runtime

_NO_LARGER = frozenset(
    "EyeLike ReduceL2 ReduceMax ReduceMean ReduceMin ReduceSum ReduceSumSquare Slice Softmax".split()
)
OPERATORS = _NO_LARGER | frozenset(
    "Abs Add And Cast Clip Concat Constant ConstantOfShape Cos Div Einsum Elu Equal Erf Exp Expand "
    "Floor Gather Gemm Greater GreaterOrEqual Identity LeakyRelu Less LessOrEqual Log MatMul Max Min Mul Neg "
    "Not Or Pow Reciprocal Relu Reshape Sigmoid Sign Sin Softplus Sqrt Squeeze Sub Tanh Transpose Unsqueeze "
    "Where".split()
)
"""Of exported graphs: without loops, and their values' sizes are known before they run."""
_BYTES = {1: 4, 6: 4, 7: 8, 9: 1, 11: 8}  # of a weight, by ONNX's number of its type


def read_graph(file: str, content: bytes, given: dict[str, Shape]) -> tuple[dict[str, str], str]:
    """Returns an ONNX file's metadata and its content hash, the SHA-256 of the graph and our own metadata.

    Args: given: shapes of the inputs.
    Raises ControllerError for anything that is no graph, for operators and forms that no export has, for
    weights outside the file, and for values of more memory than MOST_VALUES."""
    try:
        model = _message(memoryview(content), 8, 14, 20, 25)
        if 20 in model or 25 in model:
            raise ValueError("holds functions or training, allowed: a graph alone")
        _check_nodes(model[7][0], given)
        entries = map(_message, model.get(14, []))
        pairs = [[_text(entry.get(number, [b""])[0]) for number in (1, 2)] for entry in entries]
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a key of its metadata stands there twice")
        # Without who wrote it, and remarks.
        fields = _fields(memoryview(content))
        bare = b"".join(field for number, _, field in fields if number not in (2, 3, 4, 5, 6, 14))
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise ControllerError(f"{file}: not a graph as exports are: {error}") from error
    own = sorted(pair for pair in pairs if pair[0].startswith(OWN_METADATA) and pair[0] != CONTENT_HASH)
    parts = json.dumps([hashlib.sha256(bare).hexdigest(), own])
    return dict(pairs), hashlib.sha256(parts.encode()).hexdigest()


def _check_nodes(data: memoryview, given: dict[str, Shape]) -> None:
    """Bounds the size of every value, node by node."""
    graph, shapes, values = _message(data, 1, 5, 11, 12, 13, 14, 15, 16), dict(given), 0
    known: dict[str, Shape] = {}  # short rows of integers: shapes that others take
    if 15 in graph:
        raise ValueError("holds sparse weights")
    for each in graph.get(5, []):
        name, shapes[name], known[name] = _weight(each)
    for each in graph.get(1, []):
        node = _message(each, 1, 2, 5, 9)
        operator = ".".join(_text(part) for part in (*node.get(7, []), *node.get(4, [])) if part)
        if operator not in OPERATORS:
            raise ValueError(f"operator {operator}, allowed: {', '.join(sorted(OPERATORS))}")
        takes, gives = ([_text(name) for name in node.get(number, [])] for number in (1, 2))
        rows, attributes = [known.get(name, ()) for name in takes], dict(map(_attribute, node.get(5, [])))
        if not operator.startswith("Constant") and any(
            isinstance(a, memoryview) for a in attributes.values()
        ):
            raise ValueError(f"operator {operator} holds a tensor")
        if operator == "Constant":
            _, shape, known[gives[0]] = _weight(attributes["value"])
        else:
            shape = _shape(operator, [shapes.get(name, ()) for name in takes], rows, attributes)
        if operator == "Concat" and all(rows):
            known[gives[0]] = sum(rows, ())
        values += math.prod(shape) * len(gives)
        if values > MOST_VALUES:
            raise ValueError(f"its values take more memory than {4 * MOST_VALUES:,} bytes")
        shapes.update(dict.fromkeys(gives, shape))


def _attribute(data: memoryview) -> tuple[str, Any]:
    """Returns a node's attribute: its name, and integers, a text or a tensor."""
    attribute = _message(data, 7, 8, 9, 10, 11, 15, 23)
    if attribute.keys() & {6, 10, 11, 22, 23}:
        raise ValueError("a node holds graphs or lists of tensors")
    name, text = _text(attribute[1][0]), _text(attribute[4][0]) if 4 in attribute else None
    return name, attribute.get(5, [text or _integers(attribute.get(3, []) + attribute.get(8, []))])[0]


def _shape(operator: str, given: list[Shape], rows: list[Shape], attributes: dict[str, Any]) -> Shape:
    """Returns a shape that no dimension of the result exceeds.

    Args: given: shapes of what the operator takes; rows: its integers, where they are known."""
    first, row = given[0] if given else (), rows[1] if len(rows) > 1 else ()
    size, (axis,) = math.prod(first), attributes.get("axis") or [0]
    if operator == "Squeeze" or attributes.get("keepdims") == [0]:
        axes = row or attributes.get("axes") or ()
        if not axes and (operator == "Squeeze" or len(rows) > 1 or "noop_with_empty_axes" in attributes):
            raise ValueError(f"{operator} of axes that are not written there")
        dropped = {each % len(first) for each in axes or range(len(first))}
        return tuple(each for i, each in enumerate(first) if i not in dropped)
    if operator in _NO_LARGER:
        return first
    if operator == "Transpose":
        return tuple(first[i] for i in attributes.get("perm") or range(len(first))[::-1])
    if operator in ("Reshape", "Unsqueeze") and not row and size > 1:
        raise ValueError(f"{operator} of a shape that is not written there")
    if operator == "Reshape":
        stated = math.prod(each for each in row if each > 0)
        return tuple(each if each > 0 else size if each == 0 else size // stated for each in row)
    if operator == "Unsqueeze":
        places, rest = {each % (len(first) + len(row)) for each in row}, list(first)
        return tuple(1 if i in places else rest.pop(0) for i in range(len(first) + len(row)))
    if operator in ("Expand", "ConstantOfShape"):
        if not rows[-1]:
            raise ValueError(f"{operator} of a shape that is not written there")
        given = [*given[:-1], rows[-1]]
    if operator == "Einsum":
        terms, _, result = attributes["equation"].replace(" ", "").partition("->")
        labels = terms.split(",")
        if len(given) > 2 or [len(term) for term in labels] != [len(shape) for shape in given]:
            raise ValueError(f"Einsum {terms}->{result} of {given}")
        pairs = [pair for term, shape in zip(labels, given) for pair in zip(term, shape)]
        sizes = {label: each for label, each in pairs if each > 1}
        return tuple(sizes.get(label, 1) for label in result)
    if operator == "Gather":
        axis %= max(len(first), 1)
        return (*first[:axis], *given[1], *first[axis + 1 :])
    rank = max(map(len, given), default=0)
    padded = [(1,) * (rank - len(shape)) + shape for shape in given]
    if operator in ("Gemm", "MatMul"):
        if min(map(len, given[:2])) < 2:
            raise ValueError(f"{operator} of a row alone")
        a, b = padded[:2]
        across, down = attributes.get("transA") == [1], attributes.get("transB") == [1]
        return (*map(max, zip(a[:-2], b[:-2])), a[-1 if across else -2], b[-2 if down else -1])
    shape = [max(sizes) for sizes in zip(*padded)]
    if operator == "Concat" and shape:
        shape[axis % rank] = sum(each[axis % rank] for each in padded)
    return tuple(shape)


def _weight(data: memoryview) -> tuple[str, Shape, Shape]:
    """Returns a weight's name, its shape and, if they are few integers, its values.

    They must lie in the file and be as many as the shape says."""
    tensor = _message(data, 1, 4, 5, 6, 7, 10, 11, 13, 16)
    name, shape = _text(tensor.get(8, [b""])[0]), tuple(_integers(tensor.get(1, [])))
    kind, raw = tensor.get(2, [0])[0], tensor.get(9, [b""])[0]
    if 13 in tensor or tensor.get(14, [0])[0]:
        raise ValueError(f"weights {name!r} lie in another file")
    if kind not in _BYTES or len(raw) != _BYTES[kind] * math.prod(shape) or min(shape, default=0) < 0:
        raise ValueError(f"weights {name!r} of shape {list(shape)} hold {len(raw)} bytes of type {kind}")
    return name, shape, struct.unpack(f"<{len(raw) // 8}q", raw) if kind == 7 and len(raw) <= 64 else ()


def _text(value: Any) -> str:
    if isinstance(value, int):  # of which `bytes` would make that many
        raise ValueError("a number in place of a name")
    return bytes(value).decode()


def _integers(values: list[Any]) -> list[int]:
    """Returns repeated integers of 64 bits, of which each may stand alone or several packed into bytes."""
    found = []
    for value in values:
        at = 0
        while not isinstance(value, int) and at < len(value):
            number, at = _varint(value, at)
            found.append(number)
        if isinstance(value, int):
            found.append(value)
    return [number - (1 << 64) if number >> 63 else number for number in found]


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """Returns a number of protobuf's, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        value |= (data[at] & 127) << shift
        at += 1
        if data[at - 1] < 128:
            return value & (1 << 64) - 1, at
    raise ValueError("a number without an end")


def _fields(message: memoryview) -> Iterator[tuple[int, Any, memoryview]]:
    """Yields the fields of a protobuf message: number, value, and all of its bytes."""
    at = 0
    while at < len(message):
        begin = at
        key, at = _varint(message, at)
        value: Any
        if key & 7 == 0:
            value, at = _varint(message, at)
        else:
            size, at = _varint(message, at) if key & 7 == 2 else ({1: 8, 5: 4}[key & 7], at)
            value, at = message[at : at + size], at + size
            if at > len(message):
                raise ValueError("a field without an end")
        yield key >> 3, value, message[begin:at]


def _message(data: Any, *repeated: int) -> dict[int, list[Any]]:
    """Returns a protobuf message's values by number; ValueError if one that is not `repeated` comes twice.

    Readers differ in what they make of those: some take the last, others put them together."""
    if not isinstance(data, memoryview):
        raise ValueError("a number in place of a message")
    found: dict[int, list[Any]] = {}
    for number, value, _ in _fields(data):
        if number in found and number not in repeated:
            raise ValueError(f"field {number} twice")
        found.setdefault(number, []).append(value)
    return found


# Asking the policy


def open_session(graph: bytes) -> onnxruntime.InferenceSession:
    """Returns ONNX Runtime as a control loop wants it: on its own thread alone, none of them spinning."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


class _Vector:
    """Float32 numbers of a fixed count, in the buffer that ONNX Runtime reads or writes; terms name them."""

    def __init__(self, name: str, terms: list[dict[str, Any]]) -> None:
        self.name, self.size = name, _size(terms)
        self._entries = [f"{term['name']}.{entry}" for term in terms for entry in term["entries"]]
        self._units = [f"{term['unit']}, {term['frame']} frame" for term in terms for _ in term["entries"]]
        self.batch = np.zeros((1, self.size), np.float32)
        self.row: np.ndarray = self.batch[0]
        self._found = np.empty(self.size, np.bool_)

    def fill(self, value: np.ndarray) -> None:
        """Copies `value` [size]; ControllerError for another type or shape, NaN or infinity."""
        self.require_form(value, self.name)
        self.require_finite(value)
        self.row[:] = value

    def require_form(self, value: np.ndarray, name: str) -> None:
        """Raises ControllerError for what is not a float32 array [size]."""
        if not isinstance(value, np.ndarray) or value.dtype != np.float32 or value.shape != self.row.shape:
            what = (
                f"{value.dtype}{list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__
            )
            raise ControllerError(f"{name}: {what}, allowed: a float32 array [{self.size}]")

    def require_finite(self, value: np.ndarray) -> None:
        """Raises ControllerError that names the entries of `value` [size] that are NaN or infinite."""
        np.isfinite(value, out=self._found)
        # Looked for in the bytes: `all` takes longer than the rest together, three times a step.
        if b"\0" not in self._found.tobytes():
            return
        wrong = np.flatnonzero(~self._found)
        named = ", ".join(f"{self._entries[i]} = {value[i]} ({self._units[i]})" for i in wrong[:4])
        more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise ControllerError(f"{self.name}: {named}{more}; allowed: finite numbers")


class Controller:
    """A policy, checked. `spec` is the task specification, `provenance` says where the policy is from.

    `spec["inputs"]` says what the policy is given: terms of one `reading` of the robot's sensors, how many
    readings (`history`) an observation holds, terms of that `observation`, the newest reading first, entries
    of a reading that are the `last_action`, and the `goal`."""

    def __init__(self, record: dict[str, Any], policy: bytes, critic: bytes | None) -> None:
        self.spec: dict[str, Any] = record["task"]
        self.provenance: dict[str, Any] = record["provenance"]
        self.max_golden_error = 0.0
        _check_sizes(self.spec)
        inputs, joints = self.spec["inputs"], self.spec["action"]["joints"]
        action = [{"name": "action", "entries": joints, "unit": "in [-1, 1]", "frame": "joint"}]
        self._obs, self._goal = _Vector("obs", inputs["observation"]), _Vector("goal", [inputs["goal"]])
        self._reading, self._asked = _Vector("reading", inputs["reading"]), _Vector("action", action)
        self._answer = _Vector("actions", action)
        self._history = np.zeros((inputs["history"], self._reading.size), np.float32)
        self._seen, self._begun = self._history.reshape(-1), False
        asked = (self._obs, self._asked, self._goal)
        self._critic = None if critic is None else self._open("critic", critic, asked, "distance", [1])
        given = (self._obs, self._goal)
        self._session = self._open("policy", policy, given, "actions", [1, len(joints)])
        # Fixed buffers: a step then allocates none, and is a third faster than `run`.
        self._binding = self._session.io_binding()
        for bind, vectors in ((self._binding.bind_input, given), (self._binding.bind_output, [self._answer])):
            for vector in vectors:
                array = vector.batch
                bind(vector.name, "cpu", 0, np.float32, array.shape, array.ctypes.data)

    def __repr__(self) -> str:
        spec, sizes = self.spec, (self._obs.size, self._goal.size, self._answer.size)
        told = "obs [%d], goal [%d] -> action [%d]" % sizes
        return printable(f"<Controller of {spec['name']}: {told}, one step every {spec['control_dt']} s>")

    @property
    def has_critic(self) -> bool:
        """Says whether `distance` can be asked for."""
        return self._critic is not None

    def twin(self) -> Controller:
        """Returns a controller for another robot, with readings of its own; both belong to one thread."""
        other = copy.copy(self)
        other._history = self._history.copy()
        other._seen = other._history.reshape(-1)
        other.reset()
        return other

    def reset(self) -> None:
        """Forgets all readings: the next one begins an episode, and stands for those before it."""
        self._begun = False

    def require_reading(self, reading: np.ndarray) -> None:
        """Raises ControllerError for a reading of wrong shape or type, with NaN or infinity, by the entry."""
        self._reading.fill(reading)

    def observe(self, reading: np.ndarray) -> np.ndarray:
        """Returns what `step` is asked after this reading of the sensors; call it once each control period.

        Args: reading: [M] float32, entries and units as `spec["inputs"]["reading"]` lists them.
        Returns: [N] float32, the newest reading first; the same array each time, rewritten by the next call.
        Raises ControllerError for a wrong shape or type, NaN or infinity; the history is left as it was."""
        self._reading.fill(reading)
        if self._begun:
            self._history[1:] = self._history[:-1]
            self._history[0] = self._reading.row
        else:
            self._history[:] = self._reading.row
            self._begun = True
        return self._seen

    def step(self, obs: np.ndarray, goal: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Returns the action for one control period.

        Args:
          obs: [N] float32, entries and units as `spec["inputs"]["observation"]` lists them; see `observe`.
          goal: [G] float32, as `spec["inputs"]["goal"]`; trained between `low` and `high` of `spec["goal"]`.
          out: [A] float32 to write the action to, for loops that must not allocate.
        Returns: [A] float32 in [-1, 1]; the command is offset + scale * action, see `spec["action"]`.
          `out` if it was given, else a new array: everything in between lives in fixed buffers.
        Raises ControllerError for a wrong shape or type, NaN or infinity; the last action stands."""
        self._obs.fill(obs)
        self._goal.fill(goal)
        self._session.run_with_iobinding(self._binding)
        self._answer.require_finite(self._answer.row)
        if out is None:
            return self._answer.row.copy()
        self._answer.require_form(out, "out")
        out[:] = self._answer.row
        return out

    def distance(self, obs: np.ndarray, action: np.ndarray, goal: np.ndarray) -> float:
        """Returns the critic's distance from acting so, here, to the goal: smaller is nearer, no unit.

        Args: obs [N], action [A], goal [G], float32. Raises ControllerError as `step` does, and where the
        bundle holds no critic."""
        if self._critic is None:
            raise ControllerError("critic.onnx: this policy's teacher had no critic, so that it has none")
        for vector, value in ((self._obs, obs), (self._asked, action), (self._goal, goal)):
            vector.fill(value)
        feed = {vector.name: vector.batch for vector in (self._obs, self._asked, self._goal)}
        return float(self._critic.run(["distance"], feed)[0][0])

    def pose(self, position: Any, turn: Any) -> np.ndarray:
        """Returns the goal of a policy that goes to poses: [12], or [4] where they are planar.

        Args: position: [3] m; turn: quaternion [4] w x y z, of any length. For planar poses [2] m and the
        yaw in rad. Raises ControllerError for a turn without a direction, and if no goal is a pose."""
        goal = self.spec["goal"]
        lever, planar = goal.get("lever"), len(goal["entries"]) == 4
        if lever is None:
            raise ControllerError("goal: this policy goes to %s, not to poses" % goal["name"])
        place, length = np.asarray(position, float), float(np.linalg.norm(turn))
        forms = ((2,), ()) if planar else ((3,), (4,))
        if (place.shape, np.shape(turn)) != forms or not (planar or length > 0) or not length < np.inf:
            allowed = "2 numbers and an angle" if planar else "3 and 4 numbers"
            raise ControllerError("pose: %s, %s, allowed: %s" % (position, turn, allowed))
        if planar:
            return np.array([*place, lever * math.cos(turn), lever * math.sin(turn)], np.float32)
        w, x, y, z = np.asarray(turn, float) / length
        rows = (
            (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
            (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
            (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
        )
        return np.concatenate([place, lever / 2**0.5 * np.ravel(rows)]).astype(np.float32)

    def check(self, golden: bytes) -> None:
        """Replays the recorded observations (an .npz); raises ControllerError if an action differs."""
        arrays = _arrays(golden, self._obs.size, self._goal.size, self._asked.size)
        for i, (obs, goal, action) in enumerate(zip(arrays["obs"], arrays["goal"], arrays["actions"])):
            found = self.step(obs, goal)
            error = float(np.abs(found - action).max())
            if not error <= GOLDEN_TOLERANCE:
                raise ControllerError(
                    f"golden.npz: vector {i} of {len(arrays['obs'])} is not reproduced: expected {action}, "
                    f"found {found}, allowed difference {GOLDEN_TOLERANCE:g}"
                )
            self.max_golden_error = max(self.max_golden_error, error)

    def _open(
        self, name: str, graph: bytes, given: tuple[_Vector, ...], output: str, shape: list[int]
    ) -> onnxruntime.InferenceSession:
        """Opens a graph after reading what it computes, its content hash, and whose it is."""
        file = f"{name}.onnx"
        metadata, found = read_graph(file, graph, {vector.name: vector.batch.shape for vector in given})
        try:
            inside = _parsed(metadata.get("fathom.spec", "null").encode())
        except (ValueError, RecursionError) as error:
            raise ControllerError(f"{file}: the specification inside is no JSON: {error!r}") from error
        # A specification that was changed and hashed again still is not the one inside the graph.
        if inside != self.spec:
            raise ControllerError(f"{file}: was exported for another task specification than spec.json holds")
        if metadata.get(CONTENT_HASH) != json.dumps(found):
            raise ControllerError(f"{file}: its metadata are not what was written with it: it was altered")
        try:
            session = open_session(graph)
        except Exception as error:  # ONNX Runtime's own exceptions share no other base
            message = f"{file}: ONNX Runtime {onnxruntime.__version__} refuses it: {error}"
            raise ControllerError(message) from error
        ends = [(part.name, part.shape, part.type) for part in session.get_inputs() + session.get_outputs()]
        expected = [(vector.name, list(vector.batch.shape), "tensor(float)") for vector in given]
        expected.append((output, shape, "tensor(float)"))
        if ends != expected:
            raise ControllerError(f"{file}: inputs and outputs are {ends}, spec.json says {expected}")
        return session


# Keeping commands within the robot's limits

JOINT_KINDS = ("joint_velocity", "joint_position")
KINDS = (*JOINT_KINDS, "joint_torque", "base_twist", "gripper_width", "other")
REST = 1e-9  # rad/s, below which a joint stands: what is left of sums
UNLIMITED = 1e12  # stands for the position limit of a joint without one


class _Joint:
    """A joint's commands: velocities, or positions that change with velocities of the same limits."""

    def __init__(self, kind: str, joints: dict[str, Any], row: int, dt: float, acceleration: float | None):
        self.by_position, self.dt = kind == "joint_position", dt
        lower, upper = joints["lower"][row], joints["upper"][row]  # None or infinite: without a limit
        self.lower = -UNLIMITED if lower is None else max(float(lower), -UNLIMITED)
        self.upper = UNLIMITED if upper is None else min(float(upper), UNLIMITED)
        margin, slowdown = (0.0, 0.0) if self.by_position else (joints["margin"], joints["slowdown"])
        self.nearest, self.farthest = self.lower + margin, self.upper - margin
        self.slowdown: float = min(slowdown or math.inf, 1 / dt)
        self.velocity = float(joints["velocity"][row])
        speed = joints.get("return_speed")
        self.return_speed = self.velocity if speed is None else min(float(speed), self.velocity)
        # From one limit to the other, so any velocity may follow any other, where acceleration is not known.
        self.change = 2 * self.velocity
        if acceleration is not None:
            self.change = min(acceleration * dt, self.change)
        # From farther away than this `_towards` is above `velocity`.
        self.far = self.velocity * max(1 / self.slowdown, self.velocity / (2 * self.change / dt) + dt)
        self.is_measured = self.by_position or self.lower > -UNLIMITED or self.upper < UNLIMITED
        self.start()

    def start(self) -> float:
        """Returns the command before any: NaN for a position."""
        self.last = self.up = self.down = 0.0
        self.seen = math.nan
        self.command = math.nan if self.by_position else 0.0
        return self.command

    def begin(self, q: float) -> float:
        """Goes on from where the joint is measured, if its command is at rest and the sensor alive."""
        if self.by_position and abs(self.last) < REST and (math.isnan(self.command) or q != self.seen):
            self.command = q
        return self.command

    def next(self, wanted: float, q: float, ramp: float) -> float:
        """Returns the velocity to `follow`: what of `wanted` a joint may do that is measured at `q`."""
        moved = self.last * self.dt
        if q == self.seen:  # maybe frozen: what was commanded since may all have been done, or nothing
            self.up += moved
            self.down += moved
        else:  # robots follow at once or a period late
            self.seen = q
            self.down, self.up = (moved, 0.0) if moved < 0 else (0.0, moved)
        if self.by_position:
            q = self.command
            wanted = self._towards(_clipped(wanted, self.lower, self.upper) - q)
        else:
            # The lowest and highest place where the joint can be when this command acts.
            low, high = q + (self.down if self.down < 0 else 0.0), q + (self.up if self.up > 0 else 0.0)
            # Inside at most what stops before a limit; beyond one at least what brings the joint back.
            to_lower = _clipped(0.0, self.nearest - high, self.nearest - low)
            to_upper = _clipped(0.0, self.farthest - high, self.farthest - low)
            wanted = _clipped(wanted * ramp, self._towards(to_lower), self._towards(to_upper))
        speed = self.velocity if self.lower <= q <= self.upper else self.return_speed
        return self._near_last(_clipped(wanted, -speed, speed))

    def follow(self, velocity: float) -> float:
        """Returns the next command, of a velocity as near to this one as the acceleration allows."""
        self.last = self._near_last(velocity)
        self.command = self.command + self.last * self.dt if self.by_position else self.last
        return self.command

    def hold(self) -> float:
        """Returns the next command of a joint that comes to rest and stays there, wherever it is."""
        self.up += self.last * self.dt
        self.down += self.last * self.dt
        return self.follow(0.0)

    def place(self, q: float) -> float:
        """Returns where the joint was before its last velocity: measured, or, by position, commanded."""
        return self.command - self.last * self.dt if self.by_position else q

    def slowed(self, velocity: float, share: float) -> float:
        """Returns this share of a velocity that may come next; the rest is that of a hold."""
        return (1 - share) * self._near_last(0.0) + share * velocity

    def _near_last(self, velocity: float) -> float:
        return _clipped(velocity, self.last - self.change, self.last + self.change)

    def _towards(self, gap: float) -> float:
        """Returns the highest velocity, with the sign of `gap`, that can still be braked to rest within it.

        v, v - change, ... cover ((n + 1) v - n (n + 1) / 2 change) dt, n = floor(v / change), until none
        is left. After the first period the others still fit the gap: braking never has to be harder."""
        if abs(gap) > self.far:
            return math.copysign(self.velocity, gap)
        steps = abs(gap) / (self.change * self.dt)
        n = math.floor(math.sqrt(2 * steps + 0.25) - 0.5)
        return math.copysign(min(self.change * (steps / (n + 1) + n / 2), self.slowdown * abs(gap)), gap)


class CommandLimiter:
    """Commands that a robot can follow, from a policy's actions: what needs memory and so is in no graph.

    Actions are clipped to [-1, 1]. Joints, by velocity or by position, take the next velocity that is asked
    for, at most `velocity` (outside the limits of position `return_speed`), at most what still stops before
    the limits of position, and above all no more than `acceleration` times the period from the last. Beyond a
    limit a joint comes back so too. Velocities also start with a ramp, and slow down before limits as they
    did in training. Other commands keep to the range of their scale.

    A hold (no action) brings joints to rest within their acceleration, wherever they are, and keeps them
    there: velocity 0, or the position where the command came to rest. It keeps a gripper's width, commands 0
    for torques and twists, and `offset` for others. What follows it begins from the measured positions.

    `share` may keep joints from what these limits do not know, as from one another."""

    SPARE = 0.5
    """Share of the robot's acceleration limit that is used: it follows a change of command with ramps, which
    are steeper at their middle than on average, and has to arrive before the next command."""

    def __init__(
        self,
        spec: dict[str, Any],
        *,
        ramp_s: float = 0.5,
        acceleration: list[float] | None = None,
        share: Callable[[list[float], list[float], list[float]], float] | None = None,
    ) -> None:
        """Takes the limits of `Controller.spec`.

        Args: ramp_s: seconds from standing to full velocity; acceleration: [A], rad/s^2; None: SPARE of
        the specification's, if it has one; share: from the joints' positions (measured, or of those that are
        commanded by position where the command before the last left them), last velocities and next ones,
        what share of the next ones is commanded, 0 to 1; the rest is a hold's.
        Raises ControllerError for an unknown kind of command, for a joint that the robot lacks, or if joint
        positions are not observed."""
        action, joints, dt = spec["action"], spec["joints"], spec["control_dt"]
        self._names, self._scale, self._offset = action["joints"], action["scale"], action["offset"]
        if acceleration is not None and (len(acceleration) != len(self._names) or not min(acceleration) > 0):
            raise ControllerError(
                f"acceleration: {acceleration}, allowed: {len(self._names)} positive numbers"
            )
        self._joints: dict[int, _Joint] = {}  # by entry of the action
        self._rest: dict[int, float] = {}  # commands of others in a hold, but for grippers, which keep theirs
        for i, (name, kind, rest) in enumerate(zip(self._names, kinds(action), at_rest(action))):
            if kind in JOINT_KINDS:
                if name not in joints["names"]:
                    raise ControllerError(f"action: joint {name}, the robot has {joints['names']}")
                row = joints["names"].index(name)
                limit = None if acceleration is None else acceleration[i]
                if acceleration is None and joints.get("acceleration"):
                    limit = self.SPARE * joints["acceleration"][row]
                self._joints[i] = _Joint(kind, joints, row, dt, limit)
            elif kind != "gripper_width":
                self._rest[i] = rest
        self._share = share
        needed = {self._names[i] for i, joint in self._joints.items() if joint.is_measured or share}
        home = dict(zip(joints["names"], joints["default"]))
        places: dict[str, tuple[int, float]] = {}
        for term in spec["inputs"]["reading"]:
            if term["name"] in ("joint_position", "joint_position_from_default"):
                for start, joint in enumerate(term["entries"], term["start"]):
                    places[joint] = start, (0.0 if term["name"] == "joint_position" else home.get(joint, 0.0))
        if missing := sorted(needed - places.keys()):
            raise ControllerError(f"reading: no term joint_position with {missing}: limits cannot be kept")
        # Where a reading holds each joint's position, and what is added to it; -1 where that is not needed.
        self._places = [places[name] if name in needed else (-1, 0.0) for name in self._names]
        self._ramp_steps = max(1, round(ramp_s / dt))
        self._command = np.zeros(len(self._names))
        self.start()

    def limits(self) -> dict[str, list[float]]:
        """Returns what commands are kept within, by entry of the action: for a limiter in another language.

        Zeros where commands are scaled only; `position_index` in a reading is -1 where it is not needed."""
        entries = range(len(self._names))
        of_joints = "lower upper nearest farthest slowdown velocity return_speed change".split()
        limits = {name: [float(getattr(self._joints.get(i), name, 0)) for i in entries] for name in of_joints}
        limits["rest"] = [self._rest.get(i, 0.0) for i in entries]
        limits["scale"], limits["offset"] = self._scale, self._offset
        limits["position_index"], limits["position_base"] = (list(each) for each in zip(*self._places))
        return limits

    def start(self) -> None:
        """Begins at rest, where the reading says that comes with the next action."""
        self._steps, self._held = 0, True
        self._last = [self._rest.get(i, math.nan) for i in range(len(self._names))]  # NaN: not known
        for i, joint in self._joints.items():
            self._last[i] = joint.start()

    @property
    def can_hold(self) -> bool:
        """Says whether a hold has a command: positions have none before one was read."""
        return not any(map(math.isnan, self._last))

    def __call__(self, action: np.ndarray | None, reading: np.ndarray) -> np.ndarray:
        """Returns the command [A], in the specification's unit; the same array each time. Once a period.

        Args: action: [A], or None to hold, as for want of a fresh reading; reading: [M], ignored in a hold.
        Raises ControllerError for what is no number, and for a hold while there is nothing to hold; the last
        command stands."""
        last = self._last
        if action is None:
            if not self.can_hold:
                raise ControllerError("hold: no position is known yet that could be held")
            self._steps, self._held = 0, True
            for i in range(len(last)):
                last[i] = self._joints[i].hold() if i in self._joints else self._rest.get(i, last[i])
        else:
            asked = action.tolist()
            if len(asked) != len(last) or not all(map(math.isfinite, asked)):
                raise ControllerError(f"action: {action}, allowed: {len(last)} finite numbers")
            positions = self._positions(reading)
            if self._held:
                for i, joint in self._joints.items():
                    last[i] = joint.begin(positions[i])
            self._held = False
            self._steps = min(self._steps + 1, self._ramp_steps)
            ramp = self._steps / self._ramp_steps
            joints = self._joints.items()
            rows = zip(asked, self._scale, self._offset)
            wanted = [offset + scale * _clipped(each, -1.0, 1.0) for each, scale, offset in rows]
            following = [joint.next(wanted[i], positions[i], ramp) for i, joint in joints]
            if self._share is not None:
                places = [joint.place(positions[i]) for i, joint in joints]
                share = self._share(places, [joint.last for _, joint in joints], following)
                if not 0 <= share <= 1:
                    raise ControllerError(f"share: {share}, allowed: 0 to 1")
                following = [joint.slowed(v, share) for v, (_, joint) in zip(following, joints)]
            last[:] = wanted
            for velocity, (i, joint) in zip(following, joints):
                last[i] = joint.follow(velocity)
        self._command[:] = last
        return self._command

    def _positions(self, reading: np.ndarray) -> list[float]:
        """Returns where the reading says that the joints are; 0 for those of which that is not needed."""
        found = [reading.item(index) + base if index >= 0 else 0.0 for index, base in self._places]
        for name, q in zip(self._names, found):
            if not math.isfinite(q):
                raise ControllerError(f"reading: {name} is at {q}, allowed: finite numbers")
        return found


def _clipped(value: float, low: float, high: float) -> float:
    return low if value < low else high if value > high else value  # a tenth of the time of min and max


def kinds(action: dict[str, Any]) -> list[str]:
    """Returns what each entry of an action commands; ControllerError for a kind that is not one of KINDS."""
    kind = action["kind"]
    found = [kind] * len(action["joints"]) if isinstance(kind, str) else list(kind)
    if unknown := sorted({str(each) for each in found if each not in KINDS}):
        raise ControllerError(f"action: kind {', '.join(unknown)}, allowed: {', '.join(KINDS)}")
    return found


def at_rest(action: dict[str, Any]) -> list[float]:
    """Returns the command [A] that asks for no motion, where nothing is known but the specification.

    0 for velocities, torques and twists; of a gripper the narrowest width, which keeps what it holds; of
    joint positions and others `offset`."""
    rows = zip(kinds(action), action["scale"], action["offset"])
    return [
        {"joint_position": offset, "other": offset, "gripper_width": offset - abs(scale)}.get(kind, 0.0)
        for kind, scale, offset in rows
    ]


# The loop


MOST_LATENCIES = 100_000  # of the newest steps, in memory that is taken once


class Log:
    """What the loop did in its last `capacity` steps, in memory that is taken once.

    Columns: `seconds` since the loop began, when the step did; `reading` [M]; `goal` [G]; `action` [A];
    `command` [A], NaN where none was written; `latency_us` from reading to writing; `held`, for want of a
    fresh reading."""

    def __init__(self, spec: dict[str, Any], capacity: int) -> None:
        inputs, size = spec["inputs"], len(spec["action"]["joints"])
        self.steps, self._capacity = 0, capacity
        self._columns: dict[str, np.ndarray] = {
            "seconds": np.zeros(capacity),
            "reading": np.zeros((capacity, _size(inputs["reading"])), np.float32),
            "goal": np.zeros((capacity, len(inputs["goal"]["entries"])), np.float32),
            "action": np.zeros((capacity, size), np.float32),
            "command": np.zeros((capacity, size)),
            "latency_us": np.zeros(capacity),
            "held": np.zeros(capacity, np.bool_),
        }

    def add(self, **values: Any) -> None:
        """Writes the columns of one step."""
        for name, value in values.items():
            self._columns[name][self.steps % self._capacity] = value
        self.steps += 1

    def columns(self) -> dict[str, np.ndarray]:
        """Returns each column by its name, oldest step first."""
        if self.steps <= self._capacity:
            return {name: column[: self.steps] for name, column in self._columns.items()}
        return {name: np.roll(column, -self.steps, axis=0) for name, column in self._columns.items()}

    def save(self, file: str | PathLike[str]) -> None:
        """Writes the columns as an .npz."""
        np.savez_compressed(file, **self.columns())  # type: ignore[arg-type]


def punctual(seconds: float) -> None:
    """Sleeps, but for the last moment, which it waits awake: sleep alone ends late."""
    end = time.monotonic() + seconds
    time.sleep(max(0.0, seconds - 2e-4))
    while time.monotonic() < end:
        pass


class _Stop:
    """Stops a robot, whatever interrupts: signals that come meanwhile act once it returned or failed."""

    def __init__(self, robot: Any) -> None:
        self._robot, self._done = robot, False
        self._handlers: dict[signal.Signals, Any] = {}
        self._is_main = threading.current_thread() is threading.main_thread()  # others are not interrupted
        if self._is_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, _exit)  # by default it ends a process on the spot

    def __call__(self) -> None:
        """Stops the robot; may be interrupted before it begins, and then has to be called again."""
        came: list[int] = []
        for number in (signal.SIGINT, signal.SIGTERM) if self._is_main and not self._done else ():
            if (handler := signal.getsignal(number)) is not None:
                self._handlers.setdefault(number, handler)
                signal.signal(number, lambda late, _: came.append(late))
        try:
            while not self._done:
                try:
                    self._robot.stop()
                    self._done = True
                except KeyboardInterrupt:
                    continue
                except BaseException:
                    self._done = True
                    raise
        finally:
            while self._handlers:
                number, handler = self._handlers.popitem()
                signal.signal(number, signal.SIG_DFL if handler is _exit else handler)
        for late in came[:1]:
            signal.raise_signal(late)


def _exit(number: int, _: Any) -> None:
    sys.exit(128 + number)


def run(
    controller: Controller,
    robot: Any,
    goal: np.ndarray | Callable[[float], np.ndarray],
    seconds: float,
    *,
    limiter: CommandLimiter | None = None,
    log: Log | None = None,
    stale_s: float | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = punctual,
) -> dict[str, Any]:
    """Controls a robot at the specification's rate; whatever happens, it is told to stop at the end.

    Args:
      robot: has `read() -> (time of `clock`, reading [M] float32)`, `write(command [A])` and `stop()`. What
        the specification calls `last_action` in a reading, the loop fills in.
      goal: [G] float32, or a function of the seconds since the beginning that answers one.
      seconds: how long.
      limiter: None: one of the specification's limits.
      log: takes every step.
      stale_s: a reading older than this when it arrives holds the robot until a newer one does, with which
        an episode begins anew; None: two periods. Positions are first commanded once a fresh one arrived.
    Returns: `steps`, `held` of them for want of a fresh reading, `missed_deadlines` (periods that were over
      before their command was written), `latency_us_p50`, `_p99` (NaN without a step; of the last
      MOST_LATENCIES steps) and `_max` from reading to writing.
    Raises: what robot and controller raise, and ControllerError for a reading's time that is no number or
      that `clock` has not reached, after the robot was stopped. Signals that come meanwhile act after it."""
    spec, dt = controller.spec, controller.spec["control_dt"]
    limiter = limiter or CommandLimiter(spec)
    stale_s = 2 * dt if stale_s is None else stale_s
    action = np.zeros(len(spec["action"]["joints"]), np.float32)
    acted = spec["inputs"]["last_action"]
    periods = round(seconds / dt)
    latencies = np.full(max(1, min(periods, MOST_LATENCIES)), math.nan)
    steps, held, missed, period, longest = 0, 0, 0, 0, 0.0
    stop, frozen = _Stop(robot), gc.get_freeze_count() > _FROZEN_AT_START
    # Else Python's collector may stop the loop to look through all that the program holds: 100 ms, with JAX.
    gc.freeze()
    try:
        try:
            controller.reset()
            limiter.start()
            start = clock()
            while period < periods:
                wait = start + period * dt - clock()
                if wait > 0:
                    sleep(wait)
                begun = clock()
                wanted = goal(begun - start) if callable(goal) else goal
                taken, reading = robot.read()
                stale = _age(taken, clock()) > stale_s
                controller.require_reading(reading)
                command: np.ndarray | None = None  # where there is nothing to hold yet
                if stale:
                    controller.reset()
                    action[:] = 0
                    held += 1
                    if limiter.can_hold:
                        command = limiter(None, reading)
                else:
                    if acted is not None:
                        reading = reading.copy()
                        reading[slice(*acted)] = action
                    controller.step(controller.observe(reading), wanted, out=action)
                    command = limiter(action, reading)
                if command is not None:
                    robot.write(command)
                ended = clock()
                latency = (ended - begun) * 1e6
                longest = max(longest, latency)
                latencies[steps % len(latencies)] = latency
                if log is not None:
                    times = {"seconds": begun - start, "latency_us": latency}
                    written = math.nan if command is None else command
                    log.add(reading=reading, goal=wanted, action=action, command=written, held=stale, **times)
                steps += 1
                over = max(0, int((ended - start) / dt) - period)
                missed += over
                period += max(over, 1)
        finally:
            stop()
    finally:
        stop()  # an interruption may come between the end of the loop and the stop
        if not frozen:
            gc.unfreeze()
    p50, p99 = np.percentile(latencies[: max(1, steps)], [50, 99]).tolist()
    times = {"latency_us_p50": p50, "latency_us_p99": p99, "latency_us_max": longest}
    return {"steps": steps, "held": held, "missed_deadlines": missed, **times}


def _age(taken: Any, now: float) -> float:
    """Returns the seconds since a reading was taken, up to 5 ms less than none: clocks are read in turn.

    ControllerError if that is not a time that the loop's clock had."""
    age = now - float(taken) if isinstance(taken, numbers.Real) else math.nan
    if not -5e-3 <= age < math.inf:
        raise ControllerError(
            f"reading: its time is {taken}, the loop's clock says {now:.3f}; allowed: when it was measured, "
            "in seconds of that clock (time.monotonic, unless another one was given)"
        )
    return age


# The command line


def describe(controller: Controller, steps: int = 2000) -> str:
    """Returns what the policy expects, and how long a step takes on this machine."""
    spec, action = controller.spec, controller.spec["action"]
    terms, goal = spec["inputs"]["observation"], spec["inputs"]["goal"]
    lines = [f"{spec['name']} version {spec['version']}, one step every {spec['control_dt']} s"]
    lines.append(f"obs [{_size(terms)}]")
    for term in terms:
        span, names = f"{term['start']}:{term['start'] + len(term['entries'])}", ", ".join(term["entries"])
        lines.append(f"  {span:>7} {term['name']} [{term['unit']}, {term['frame']} frame]: {names}")
    lines.append(f"goal [{len(goal['entries'])}] {goal['name']} [{goal['unit']}, {goal['frame']} frame]")
    ranges = zip(goal["low"], goal["high"]) if "low" in goal else [None] * len(goal["entries"])
    for entry, trained in zip(goal["entries"], ranges):
        lines.append(f"  {entry}" + (f" trained in {list(trained)}" if trained else ""))
    lines.append(f"actions [{len(action['joints'])}] [{action['unit']}] = offset + scale * action")
    for joint, kind, scale, offset in zip(action["joints"], kinds(action), action["scale"], action["offset"]):
        lines.append(f"  {joint} {kind} scale {scale} offset {offset}")
    lines.append(f"golden vectors reproduced, largest error {controller.max_golden_error:.1e}")
    obs, wanted = (vector.row.copy() for vector in (controller._obs, controller._goal))
    begun = [time.perf_counter()]
    for _ in range(steps):
        controller.step(obs, wanted)
        begun.append(time.perf_counter())
    p50, p99, worst = np.percentile(np.diff(begun), [50, 99, 100]) * 1e6
    lines.append(f"step p50 {p50:.1f} us, p99 {p99:.1f} us, longest {worst:.1f} us of {steps}")
    return "\n".join(lines)


def main(words: list[str] | None = None) -> int:
    """Checks a bundle and describes it."""
    parser = argparse.ArgumentParser(description="Checks a bundle and prints what its policy expects.")
    parser.add_argument("bundle", nargs="?", default=_FOLDER)
    parser.add_argument("--trusted", metavar="PUBLIC_KEY", help="of the owner who must have signed it")
    arguments = parser.parse_args(words)
    try:
        print(printable(describe(load(arguments.bundle, trusted=arguments.trusted))))
    except ControllerError as error:
        print(f"refused: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
