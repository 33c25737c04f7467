"""What an exported policy says of itself, after checking that it is still what was verified."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from rich.console import Group
from rich.markdown import Markdown
from rich.table import Table
from rich.text import Text

from export.bundle import model_card
from export.controller import CONTENT_HASH, OWN_METADATA, load, open_session, printable, read_graph
from export.graph import content_hash, graph_sha256
from pipelines.closed_loop import controller_errors
from pipelines.files import JSON
from teacher.errors import FathomError, UsageError
from teacher.spec import TaskSpec

FLOATS = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.DOUBLE: "float64"}


def inspect(path: Path) -> JSON:
    """Reads what a bundle, or one graph of whatever origin, says of itself.

    Returns: `file`, `inputs`, `outputs`, `opset`, `ir_version`, `parameters`, `graph_sha256`, `metadata` of
      others; of ours also `spec`, `certificate`, `judged`; of a bundle also `provenance` and `files`.
    Raises: UsageError if there is nothing to read; FathomError if a file was altered or is no graph."""
    if path.is_dir():
        with controller_errors():
            controller = load(path)
        listed = json.loads((path / "spec.json").read_bytes())["files"]
        graphs = {name: _graph(path / name) for name in listed if name.endswith(".onnx")}
        return graphs["policy.onnx"] | {
            "file": str(path),
            "provenance": controller.provenance,
            "golden_error": controller.max_golden_error,
            "files": listed,
            "graphs": {name: g["certificate"] for name, g in graphs.items() if "certificate" in g},
        }
    if not path.is_file():
        what = "not a plain file" if path.exists() or path.is_symlink() else "no such file or directory"
        raise UsageError(f"{path}: {what}; allowed: a bundle, or a graph (.onnx)")
    return _graph(path)


def _graph(path: Path) -> JSON:
    try:
        model = onnx.load(path, load_external_data=False)
        onnx.checker.check_model(model)
    except (DecodeError, onnx.checker.ValidationError, OSError) as error:
        raise FathomError(f"{path}: not an ONNX graph: {printable(str(error))}") from error
    properties = {each.key: each.value for each in model.metadata_props}
    signature = _signature(model.graph.input, skipped={each.name for each in model.graph.initializer})
    found = {
        "file": str(path),
        "inputs": signature,
        "outputs": _signature(model.graph.output),
        "opset": {each.domain or "ai.onnx": each.version for each in model.opset_import},
        "ir_version": model.ir_version,
        "parameters": sum(int(np.prod(each.dims)) for each in model.graph.initializer),
        "graph_sha256": graph_sha256(model),
        "metadata": {key: value for key, value in properties.items() if not key.startswith(OWN_METADATA)},
    }
    if f"{OWN_METADATA}certificate" not in properties:
        return found
    try:
        own = {key: json.loads(properties[OWN_METADATA + key]) for key in ("spec", "certificate", "judged")}
        TaskSpec.from_robot(own["spec"])
        verified = own["certificate"]["graph_sha256"]
    except (KeyError, TypeError, ValueError) as error:
        message = f"{path}: its description of itself was altered: {printable(str(error))}"
        raise FathomError(message) from error
    if verified != (here := found["graph_sha256"]):
        raise FathomError(f"{path}: SHA-256 of the graph is {here}, {verified} was verified: it was altered")
    if json.dumps(content_hash(model)) != properties.get(CONTENT_HASH):
        raise FathomError(f"{path}: what it says of itself is not what was written with it: it was altered")
    with controller_errors():  # what is only described is never run
        shapes = {name: tuple(each["shape"]) for name, each in signature.items()}
        read_graph(str(path), path.read_bytes(), shapes)
    return found | own


def _signature(values: Any, skipped: frozenset[str] | set[str] = frozenset()) -> JSON:
    return {
        value.name: {
            "type": FLOATS.get(value.type.tensor_type.elem_type, str(value.type.tensor_type.elem_type)),
            "shape": [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim],
        }
        for value in values
        if value.name not in skipped
    }


def differences(first: Path, second: Path) -> JSON:
    """Compares two that `inspect` describes.

    Returns: `fields` that differ, each with both values; `max_action_difference` over the recorded
      observations of a bundle among them, if both policies take the same inputs."""
    a, b = inspect(first), inspect(second)
    before, after = _flat(a), _flat(b)
    names = [name for name in before | after if name.split(".")[0] not in ("file", "files", "graphs")]
    pairs = {name: [before.get(name), after.get(name)] for name in names}
    fields = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
    found: JSON = {"compared": [str(first), str(second)], "fields": fields}
    recorded = next((path for path in (first, second) if path.is_dir()), None)
    if recorded and a["inputs"] == b["inputs"] and "spec" in a and "spec" in b:
        with np.load(recorded / "golden.npz") as golden:
            inputs = [{n: golden[n][i : i + 1] for n in a["inputs"]} for i in range(len(golden["actions"]))]
        files = (path / "policy.onnx" if path.is_dir() else path for path in (first, second))
        sessions = [open_session(file.read_bytes()) for file in files]
        actions = [np.stack([session.run(["actions"], row)[0] for row in inputs]) for session in sessions]
        found["max_action_difference"] = float(np.abs(actions[0] - actions[1]).max())
        found["observations"] = len(inputs)
    return found


def _flat(value: Any, prefix: str = "") -> JSON:
    """Returns nested objects as `a.b.c`: value; lists stay whole, but for those of objects."""
    if isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
        value = {str(each.get("name", i)): each for i, each in enumerate(value)}
    if not isinstance(value, dict):
        return {prefix: value}
    parts = [_flat(each, f"{prefix}.{key}" if prefix else str(key)) for key, each in value.items()]
    return {key: each for part in parts for key, each in part.items()}


def description(found: JSON) -> Group:
    """Shows what `inspect` gives; a `Terminal` writes out what would command it."""
    table = Table("", "name", "type", "shape")
    for kind in ("inputs", "outputs"):
        for name, each in found[kind].items():
            table.add_row(kind[:-1], name, each["type"], str(each["shape"]))
    opset = ", ".join(f"{domain} {version}" for domain, version in found["opset"].items())
    lines = [
        f"{found['file']}: {found['parameters']:,} parameters, opset {opset}, IR {found['ir_version']}",
        f"graph {found['graph_sha256']}",
    ]
    if "certificate" not in found:
        others = [f"{key}: {value}" for key, value in found["metadata"].items()]
        return Group(*map(Text, lines), table, *map(Text, others or ["it says nothing of itself"]))
    parity = found["certificate"]
    lines.append(
        f"parity: within {parity['max_abs_error']:.1e} of JAX on {parity['observations']:,} observations, "
        f"allowed {parity['tolerance']['absolute']:g}"
    )
    if "golden_error" in found:
        lines.append(f"recorded answers reproduced here to {found['golden_error']:.1e}")
    spec = TaskSpec.from_robot(found["spec"])
    card = model_card(spec, found.get("provenance", {}), found["judged"])
    return Group(*map(Text, lines), table, Markdown(card, hyperlinks=False))


def comparison(found: JSON) -> Group:
    """Shows what `differences` gives."""
    table = Table("field", *found["compared"])
    for name, values in found["fields"].items():
        table.add_row(name, *("" if value is None else str(value) for value in values))
    notes = "they differ in nothing" if not found["fields"] else f"{len(found['fields'])} fields differ"
    if "max_action_difference" in found:
        most = f"{found['max_action_difference']:.3g}"
        notes += f"; actions by at most {most} on {found['observations']} observations"
    return Group(*([table] if found["fields"] else []), Text(notes))
