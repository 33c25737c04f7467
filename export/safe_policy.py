"""A policy that answers whatever it is asked, for controllers that check nothing themselves.

What needs memory (limits of rates, timeouts) cannot live in a graph without state; the controller has it.
"""

from typing import NamedTuple

import numpy as np
import onnx
from onnx.helper import make_node, make_tensor_value_info

from export.controller import at_rest, open_session
from export.graph import wrapped
from teacher.errors import FathomError
from teacher.spec import GoalSpec, TaskSpec

LARGEST = float(np.finfo(np.float32).max)
NARROWEST = 1e-6  # of a range that excess is divided by: some entries never vary
ASKED = 1000  # rows of observations with which the graph is compared and disturbed


class Ranges(NamedTuple):
    """Between which values the policy was trained and evaluated, entry by entry."""

    observation: tuple[np.ndarray, np.ndarray]
    goal: tuple[np.ndarray, np.ndarray]


def ranges(spec: TaskSpec, observations: np.ndarray, goals: np.ndarray) -> Ranges:
    """Returns the ranges of observations [K, N], and of goals: in training if known, else of goals [K, G]."""
    goal = spec.sensed_goal
    if isinstance(goal, GoalSpec):
        trained = np.array(goal.low, np.float32), np.array(goal.high, np.float32)
    else:
        trained = goals.min(axis=0), goals.max(axis=0)
    return Ranges((observations.min(axis=0), observations.max(axis=0)), trained)


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
    for name, (low, high) in (("obs", trained.observation), ("goal", trained.goal)):
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


def check_safe(safe: onnx.ModelProto, obs: np.ndarray, goal: np.ndarray, expected: np.ndarray) -> None:
    """Compares with the policy's own answers, then disturbs every entry of the inputs.

    Args: obs [K, N], goal [K, G], expected [K, A]: what ONNX Runtime answered to the plain graph.
    Raises FathomError if an answer differs, or is not the held one where an input is not finite."""
    session = open_session(safe.SerializeToString(deterministic=True))
    (hold,) = (onnx.numpy_helper.to_array(i) for i in safe.graph.initializer if i.name == "safe.hold")
    for i in np.linspace(0, len(obs) - 1, min(ASKED, len(obs))).round().astype(int):
        found = session.run(["actions"], {"obs": obs[i : i + 1], "goal": goal[i : i + 1]})[0]
        if not np.array_equal(found[0], np.clip(expected[i], -1, 1)):
            raise FathomError(
                f"policy_safe differs from policy at observation {i}: {found[0]}, {expected[i]}"
            )
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
