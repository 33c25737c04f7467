"""A policy that answers whatever it is asked, for controllers that check nothing themselves.

What needs memory (limits of rates, timeouts) cannot live in a graph without state; the controller has it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import onnx
from onnx import helper, numpy_helper

from export.controller import at_rest, open_session
from teacher.errors import FathomError
from teacher.spec import GoalSpec, TaskSpec

LARGEST = float(np.finfo(np.float32).max)
NARROWEST = 1e-6  # of a range that excess is divided by: some entries never vary
ASKED = 1000  # rows of observations with which the graph is compared and disturbed


class Ranges(NamedTuple):
    """Between which values the policy was trained and judged, entry by entry."""

    observation: tuple[np.ndarray, np.ndarray]
    goal: tuple[np.ndarray, np.ndarray]


def ranges(spec: TaskSpec, observations: np.ndarray, goals: np.ndarray) -> Ranges:
    """Of observations [K, N], what was seen; of goals [K, G], the training range, where the task has one."""
    goal = spec.sensed_goal
    if isinstance(goal, GoalSpec):
        trained = np.array(goal.low, np.float32), np.array(goal.high, np.float32)
    else:
        trained = goals.min(axis=0), goals.max(axis=0)
    return Ranges((observations.min(axis=0), observations.max(axis=0)), trained)


def excess(values: np.ndarray, trained: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """[K]: by how much rows [K, S] lie outside a range, in widths of it; what `outside` holds of them."""
    low, high = trained
    beyond = np.maximum(np.maximum(low - values, values - high), np.float32(0))
    return np.asarray((beyond / np.maximum(high - low, np.float32(NARROWEST))).max(axis=1), np.float32)


def hold_action(spec: TaskSpec) -> np.ndarray:
    """[A]: what commands no motion, as far as a graph without memory can; see `controller.at_rest`."""
    action = spec.action
    hold = (np.array(at_rest(action.model_dump(mode="json"))) - action.offset) / action.scale
    return np.clip(hold, -1, 1).astype(np.float32) + np.float32(0)  # -0 becomes 0


def safe_policy_graph(policy: onnx.ModelProto, spec: TaskSpec, trained: Ranges) -> onnx.ModelProto:
    """The policy, with answers to inputs that it was not made for.

    Args:
      policy: inputs `obs` [1, N] and `goal` [1, G], output `actions` [1, A].
    Returns: the same inputs and `actions`, clipped to [-1, 1], `hold_action` where an input or the policy's
      answer is not finite; and `outside` [1, 2], by how much observation and goal lie outside their ranges,
      as a fraction of the range's width, 0 within, the largest float where they are not finite."""
    model = onnx.ModelProto()
    model.CopyFrom(policy)
    graph = model.graph
    graph.name = "policy_safe"
    inner = {"obs": "safe.obs", "goal": "safe.goal", "actions": "safe.raw"}
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [inner.get(name, name) for name in names]
    constants = {
        "safe.lowest": -LARGEST,
        "safe.largest": LARGEST,
        "safe.zero": 0.0,
        "safe.half": 0.5,
        "safe.low": -1.0,
        "safe.high": 1.0,
        "safe.hold": hold_action(spec)[None],
    }
    before = [node for name in ("obs", "goal") for node in _finite(name, f"safe.{name}")]
    after = _finite("safe.raw", "safe.clean")
    for name, (low, high) in (("obs", trained.observation), ("goal", trained.goal)):
        edges = {"from": low, "to": high, "width": np.maximum(high - low, NARROWEST)}
        constants |= {f"safe.{name}.{key}": value[None] for key, value in edges.items()}
        after += _excess(name)
    after += [
        helper.make_node("Min", ["obs.all", "goal.all"], ["safe.asked"]),
        helper.make_node("Min", ["safe.asked", "safe.raw.all"], ["safe.all"]),
        helper.make_node("Greater", ["safe.all", "safe.half"], ["safe.sound"]),
        helper.make_node("Clip", ["safe.clean", "safe.low", "safe.high"], ["safe.clipped"]),
        helper.make_node("Where", ["safe.sound", "safe.clipped", "safe.hold"], ["actions"]),
        helper.make_node("Concat", ["obs.outside", "goal.outside"], ["outside"], axis=1),
    ]
    nodes = [*before, *graph.node, *after]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in constants.items()
    )
    graph.output.append(helper.make_tensor_value_info("outside", onnx.TensorProto.FLOAT, [1, 2]))
    onnx.checker.check_model(model, full_check=True)
    return model


def check_safe(safe: onnx.ModelProto, obs: np.ndarray, goal: np.ndarray, expected: np.ndarray) -> None:
    """Compares with the policy's own answers, then disturbs every entry of the inputs.

    Args: obs [K, N], goal [K, G], expected [K, A]: what ONNX Runtime answered to the plain graph.
    Raises FathomError if an answer differs, or is not the held one where an input is not finite."""
    session = open_session(safe.SerializeToString(deterministic=True))
    (hold,) = (numpy_helper.to_array(i) for i in safe.graph.initializer if i.name == "safe.hold")
    for i in np.linspace(0, len(obs) - 1, min(ASKED, len(obs))).round().astype(int):
        found = session.run(["actions"], {"obs": obs[i : i + 1], "goal": goal[i : i + 1]})[0]
        if not np.array_equal(found[0], np.clip(expected[i], -1, 1)):
            raise FathomError(
                f"policy_safe differs from policy at observation {i}: {found[0]}, {expected[i]}"
            )
    for name, size in (("obs", obs.shape[1]), ("goal", goal.shape[1])):
        for entry in range(size):
            for value in (np.nan, np.inf, -np.inf):
                feed = {"obs": obs[:1].copy(), "goal": goal[:1].copy()}
                feed[name][0, entry] = value
                found, outside = session.run(["actions", "outside"], feed)
                if not np.array_equal(found, hold) or not np.isfinite(outside).all():
                    raise FathomError(f"policy_safe: {name}[{entry}] = {value} is answered with {found[0]}")


def _finite(name: str, clean: str) -> list[onnx.NodeProto]:
    """`clean`: the entries that are finite, 0 for others; `NAME.all` [1, 1]: 1.0 if all are.

    Runtimes differ in how they compare NaN: MNN takes it for less than any number, so both ends are asked;
    tinygrad makes `>=` of the negation of `<`, so both are strict, and the largest float is out."""
    make = helper.make_node
    return [
        make("Greater", [name, "safe.lowest"], [f"{name}.above"]),
        make("Less", [name, "safe.largest"], [f"{name}.below"]),
        make("And", [f"{name}.above", f"{name}.below"], [f"{name}.finite"]),
        make("Where", [f"{name}.finite", name, "safe.zero"], [clean]),
        make("Cast", [f"{name}.finite"], [f"{name}.ones"], to=onnx.TensorProto.FLOAT),
        make("ReduceMin", [f"{name}.ones"], [f"{name}.all"], axes=[1], keepdims=1),
    ]


def _excess(name: str) -> list[onnx.NodeProto]:
    """`NAME.outside` [1, 1]."""
    make, own = helper.make_node, f"safe.{name}"
    steps: Sequence[tuple[str, list[str], str]] = (
        ("Sub", [f"{own}.from", own], f"{name}.short"),
        ("Sub", [own, f"{own}.to"], f"{name}.over"),
        ("Max", [f"{name}.short", f"{name}.over"], f"{name}.most"),
        ("Max", [f"{name}.most", "safe.zero"], f"{name}.beyond"),
        ("Div", [f"{name}.beyond", f"{own}.width"], f"{name}.relative"),
        ("Min", [f"{name}.relative", "safe.largest"], f"{name}.bounded"),
    )
    return [
        *(make(operator, inputs, [output]) for operator, inputs, output in steps),
        make("ReduceMax", [f"{name}.bounded"], [f"{name}.excess"], axes=[1], keepdims=1),
        make("Greater", [f"{name}.all", "safe.half"], [f"{name}.sound"]),
        make("Where", [f"{name}.sound", f"{name}.excess", "safe.largest"], [f"{name}.outside"]),
    ]
