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
from onnx.helper import make_node, make_tensor_value_info

from export.controller import CONTENT_HASH, OWN_METADATA, at_rest, open_session
from teacher.errors import FathomError
from teacher.spec import GoalSpec, TaskSpec

_LOADING = threading.Lock()
OPSET = 13
IR_VERSION = 7
RANDOM_OPERATORS = ("Random", "Bernoulli", "Multinomial")
LARGEST = float(np.finfo(np.float32).max)
NARROWEST = 1e-6  # of a range that excess is divided by: some entries never vary

Policy = Callable[[jax.Array, jax.Array], jax.Array]
"""(obs [1, N], goal [1, G]) -> actions [1, A] in [-1, 1]."""

Critic = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
"""(obs [1, N], action [1, A], goal [1, G]) -> distance [1]."""

Ranges = dict[str, tuple[np.ndarray, np.ndarray]]
"""Of `obs` and `goal`: the lowest and highest values of each entry in training and evaluation."""


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


# A policy that answers whatever it is asked, for controllers that check nothing themselves. What needs memory
# (limits of rates, timeouts) cannot live in a graph without state; the controller has it.


def ranges(spec: TaskSpec, observations: np.ndarray, goals: np.ndarray) -> Ranges:
    """Returns the ranges of observations [K, N], and of goals: in training if known, else of goals [K, G]."""
    goal = spec.sensed_goal
    if isinstance(goal, GoalSpec):
        trained = np.array(goal.low, np.float32), np.array(goal.high, np.float32)
    else:
        trained = goals.min(axis=0), goals.max(axis=0)
    return {"obs": (observations.min(axis=0), observations.max(axis=0)), "goal": trained}


def excess(values: np.ndarray, trained: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Returns by how much rows [K, S] lie outside a range, in widths of it [K]; `outside` holds it."""
    low, high = trained
    beyond = np.maximum(np.maximum(low - values, values - high), np.float32(0))
    return np.asarray((beyond / np.maximum(high - low, np.float32(NARROWEST))).max(axis=1), np.float32)


def hold_action(spec: TaskSpec) -> np.ndarray:
    """Returns what commands no motion [A], as far as a graph without memory can; see `controller.at_rest`."""
    action = spec.action
    hold = (np.array(at_rest(action.model_dump(mode="json"))) - action.offset) / action.scale
    return np.clip(hold, -1, 1).astype(np.float32) + np.float32(0)  # -0 becomes 0


def safe_policy_graph(policy: onnx.ModelProto, spec: TaskSpec, trained: Ranges) -> onnx.ModelProto:
    """Returns the policy with answers to inputs that it was not made for.

    Args:
      policy: inputs `obs` [1, N] and `goal` [1, G], output `actions` [1, A].
    Returns: the same inputs and `actions`, clipped to [-1, 1], `hold_action` where an input or the policy's
      answer is not finite; and `outside` [1, 2], by how much observation and goal lie outside their ranges,
      as a fraction of the range's width, 0 within, the largest float where they are not finite."""
    constants = {
        "safe.lowest": -LARGEST,
        "safe.largest": LARGEST,
        "safe.zero": 0.0,
        "safe.half": 0.5,
        "safe.low": -1.0,
        "safe.high": 1.0,
        "safe.hold": hold_action(spec)[None],
    }
    before = [*_finite("obs", "safe.obs"), *_finite("goal", "safe.goal")]
    after = _finite("safe.raw", "safe.clean")
    for name, (low, high) in trained.items():
        edges = {"from": low, "to": high, "width": np.maximum(high - low, NARROWEST)}
        constants |= {f"safe.{name}.{key}": value[None] for key, value in edges.items()}
        after += _excess(name)
    after += [
        make_node("Min", ["obs.all", "goal.all"], ["safe.asked"]),
        make_node("Min", ["safe.asked", "safe.raw.all"], ["safe.all"]),
        make_node("Greater", ["safe.all", "safe.half"], ["safe.sound"]),
        make_node("Clip", ["safe.clean", "safe.low", "safe.high"], ["safe.clipped"]),
        make_node("Where", ["safe.sound", "safe.clipped", "safe.hold"], ["actions"]),
        make_node("Concat", ["obs.outside", "goal.outside"], ["outside"], axis=1),
    ]
    inner = {"obs": "safe.obs", "goal": "safe.goal", "actions": "safe.raw"}
    arrays = {name: np.asarray(value, np.float32) for name, value in constants.items()}
    model = wrapped(policy, inner, before, after, arrays)
    model.graph.name = "policy_safe"
    model.graph.output.append(make_tensor_value_info("outside", onnx.TensorProto.FLOAT, [1, 2]))
    onnx.checker.check_model(model, full_check=True)
    return model


def check_safe(safe: onnx.ModelProto, obs: np.ndarray, goal: np.ndarray) -> None:
    """Disturbs every entry of the first of the inputs obs [K, N] and goal [K, G].

    Raises FathomError if the answer is not the held one where an input is not finite."""
    session = open_session(safe.SerializeToString(deterministic=True))
    (hold,) = (onnx.numpy_helper.to_array(i) for i in safe.graph.initializer if i.name == "safe.hold")
    for name, values in (("obs", obs), ("goal", goal)):
        for entry in range(values.shape[1]):
            for value in (np.nan, np.inf, -np.inf):
                feed = {"obs": obs[:1].copy(), "goal": goal[:1].copy()}
                feed[name][0, entry] = value
                found, outside = session.run(["actions", "outside"], feed)
                if not np.array_equal(found, hold) or not np.isfinite(outside).all():
                    raise FathomError(f"policy_safe: {name}[{entry}] = {value} is answered with {found[0]}")


def _finite(name: str, clean: str) -> list[onnx.NodeProto]:
    """Makes `clean`, the entries that are finite, 0 for others; `NAME.all` [1, 1]: 1.0 if all are.

    Runtimes differ in how they compare NaN: MNN takes it for less than any number, so both ends are asked;
    tinygrad makes `>=` of the negation of `<`, so both are strict, and the largest float is out."""
    return [
        make_node("Greater", [name, "safe.lowest"], [f"{name}.above"]),
        make_node("Less", [name, "safe.largest"], [f"{name}.below"]),
        make_node("And", [f"{name}.above", f"{name}.below"], [f"{name}.finite"]),
        make_node("Where", [f"{name}.finite", name, "safe.zero"], [clean]),
        make_node("Cast", [f"{name}.finite"], [f"{name}.ones"], to=onnx.TensorProto.FLOAT),
        make_node("ReduceMin", [f"{name}.ones"], [f"{name}.all"], axes=[1], keepdims=1),
    ]


def _excess(name: str) -> list[onnx.NodeProto]:
    """Makes `NAME.outside` [1, 1]."""
    own = f"safe.{name}"
    return [
        make_node("Sub", [f"{own}.from", own], [f"{name}.short"]),
        make_node("Sub", [own, f"{own}.to"], [f"{name}.over"]),
        make_node("Max", [f"{name}.short", f"{name}.over"], [f"{name}.most"]),
        make_node("Max", [f"{name}.most", "safe.zero"], [f"{name}.beyond"]),
        make_node("Div", [f"{name}.beyond", f"{own}.width"], [f"{name}.relative"]),
        make_node("Min", [f"{name}.relative", "safe.largest"], [f"{name}.bounded"]),
        make_node("ReduceMax", [f"{name}.bounded"], [f"{name}.excess"], axes=[1], keepdims=1),
        make_node("Greater", [f"{name}.all", "safe.half"], [f"{name}.sound"]),
        make_node("Where", [f"{name}.sound", f"{name}.excess", "safe.largest"], [f"{name}.outside"]),
    ]
