"""Policies and critics written in JAX as ONNX graphs that old runtimes load as well.

Opset 13 with IR 7 is read by every ONNX Runtime since 1.6, hence by every robot's computer seen so far.
"""

import hashlib
import json
import threading
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import onnx
from jax2onnx import to_onnx
from jax2onnx.plugins import plugin_system

from export.controller import CONTENT_HASH, OWN_METADATA
from teacher.errors import FathomError
from teacher.spec import TaskSpec

_LOADING = threading.Lock()
OPSET = 13
IR_VERSION = 7
RANDOM_OPERATORS = ("Random", "Bernoulli", "Multinomial")

Policy = Callable[[jax.Array, jax.Array], jax.Array]
"""(obs [1, N], goal [1, G]) -> actions [1, A] in [-1, 1]."""

Critic = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
"""(obs [1, N], action [1, A], goal [1, G]) -> distance [1]."""


def policy_graph(policy: Policy, spec: TaskSpec) -> onnx.ModelProto:
    """Returns a graph of inputs `obs` [1, N] and `goal` [1, G], output `actions` [1, A]; float32.

    Raises FathomError if the policy's answer has another shape or type, or no ONNX form."""
    observation, action, goal = spec.sensed_sizes
    return _convert(policy, "policy", {"obs": observation, "goal": goal}, "actions", (1, action))


def flat_policy_graph(policy: Policy, spec: TaskSpec) -> onnx.ModelProto:
    """Returns the same policy for controllers that can feed one tensor only.

    Input `obs` [1, N + G], the observation followed by the goal; output `actions` [1, A]; float32.
    Raises FathomError as `policy_graph` does."""
    size, action, goal = spec.sensed_sizes

    def flat_policy(both: jax.Array) -> jax.Array:
        return policy(both[:, :size], both[:, size:])

    return _convert(flat_policy, "policy_flat", {"obs": size + goal}, "actions", (1, action))


def critic_graph(critic: Critic, spec: TaskSpec) -> onnx.ModelProto:
    """Returns a graph of inputs `obs` [1, N], `action` [1, A] and `goal` [1, G], output `distance` [1].

    Raises FathomError as `policy_graph` does."""
    inputs = dict(zip(("obs", "action", "goal"), spec.sensed_sizes, strict=True))
    return _convert(critic, "critic", inputs, "distance", (1,))


def _convert(
    function: Callable[..., jax.Array], name: str, inputs: dict[str, int], output: str, shape: tuple[int, ...]
) -> onnx.ModelProto:
    arguments = [np.zeros((1, size), np.float32) for size in inputs.values()]
    answer = jax.eval_shape(function, *arguments)
    found, needed = f"{answer.dtype}{list(answer.shape)}", f"float32{list(shape)}"
    if found != needed:
        raise FathomError(f"{name}: {output} would be {found}, the task needs {needed}")
    load_converters()
    # Without jit nothing is nested: jax2onnx 0.17 cannot convert a nested jit under JAX 0.12, and a scan
    # over stacked layers becomes its layers instead of a Loop node.
    with jax.disable_jit():
        model: onnx.ModelProto = to_onnx(
            function, arguments, model_name=name, opset=OPSET, input_names=list(inputs), output_names=[output]
        )
    model.ir_version = IR_VERSION
    _scrub(model)
    _check_graph(model, name)
    return model


def load_converters() -> None:
    """Lets jax2onnx import its converters for JAX and Flax, once; may run beside other work.

    Left to itself it imports all, and those for Equinox compile for seconds when they are imported."""
    with _LOADING:
        if not plugin_system._already_imported_plugins:
            for library in ("jax", "flax"):
                folder = Path(plugin_system.__file__).with_name(library)
                plugin_system._import_tree(folder, f"jax2onnx.plugins.{library}")
            plugin_system._already_imported_plugins = True


def graph_sha256(model: onnx.ModelProto) -> str:
    """Returns the SHA-256 of operators, weights and versions alone: annotating a file leaves it as it was."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    _scrub(bare)
    for field in ("producer_name", "producer_version", "domain", "model_version"):
        bare.ClearField(field)
    return hashlib.sha256(bare.SerializeToString(deterministic=True)).hexdigest()


def content_hash(model: onnx.ModelProto) -> str:
    """Returns the SHA-256 of the graph and of our own metadata, in whatever order it stands."""
    own = sorted(
        (each.key, each.value)
        for each in model.metadata_props
        if each.key.startswith(OWN_METADATA) and each.key != CONTENT_HASH
    )
    return hashlib.sha256(json.dumps([graph_sha256(model), own]).encode()).hexdigest()


def _scrub(model: onnx.ModelProto) -> None:
    """Drops what may vary between two exports of one function: stack traces and descriptions."""
    model.ClearField("metadata_props")
    for part in (model, model.graph, *model.graph.node, *model.graph.input, *model.graph.output):
        part.ClearField("doc_string")
    for node in model.graph.node:
        node.ClearField("metadata_props")


def _check_graph(model: onnx.ModelProto, name: str) -> None:
    used = {(opset.domain, opset.version) for opset in model.opset_import}
    if used != {("", OPSET)} or model.functions:
        raise FathomError(f"{name}: uses operators {sorted(used)}, allowed: ONNX opset {OPSET} alone")
    drawn = {node.op_type for node in model.graph.node if node.op_type.startswith(RANDOM_OPERATORS)}
    if drawn:
        raise FathomError(f"{name}: draws random numbers ({', '.join(drawn)}); export its mode instead")
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise FathomError(f"{name}: not a valid graph at opset {OPSET}: {error}") from error


def wrapped(
    model: onnx.ModelProto,
    renamed: dict[str, str],
    before: list[onnx.NodeProto],
    after: list[onnx.NodeProto],
    constants: dict[str, np.ndarray],
) -> onnx.ModelProto:
    """Returns a copy of a graph with nodes before and after its own, and without metadata.

    Args: renamed: values of its own nodes by another name; constants: by name, the weights of the others."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.ClearField("metadata_props")
    for node in copy.graph.node:
        for names in (node.input, node.output):
            names[:] = [renamed.get(name, name) for name in names]
    nodes = [*before, *copy.graph.node, *after]
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    weights = (onnx.numpy_helper.from_array(value, name) for name, value in constants.items())
    copy.graph.initializer.extend(weights)
    return copy
