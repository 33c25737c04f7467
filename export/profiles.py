"""Files for controllers that exist: our policy in the names, metadata and files that each of them reads.

Also C99, with a controller in C++, for where no graphs are run. A profile takes names, order, gains and
scales from the task's specification alone, and refuses one that lacks what the controller needs: none of them
can be told that a number is absent.

Formats: mjlab 1.6 and legged_control2 (comma-separated metadata), holosoma (metadata of JSON), unitree_rl_lab
(`params/deploy.yaml`)."""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import onnx
import yaml

from export.c99 import c99
from export.cpp import cpp
from export.graph import OWN_METADATA, graph_sha256
from teacher.errors import UsageError, unknown_name
from teacher.spec import GoalSpec, TaskSpec

Files = dict[str, bytes]
Golden = Mapping[str, np.ndarray]
"""Recorded answers: `obs` [K, N], `goal` [K, G], `actions` [K, A]."""
Graphs = Mapping[str, onnx.ModelProto]
"""By name, annotated; `policy`: inputs `obs` [1, N], `goal` [1, G]; `policy_flat`: input `obs` [1, N + G]."""


def require_profiles(names: Iterable[str], spec: TaskSpec) -> None:
    """UsageError if there is no profile of a name, or none for such a task."""
    for name in names:
        if name not in PROFILES:
            raise unknown_name("profile", name, PROFILES)
        if PROFILES[name] is not _c99:
            _require_joint_positions(name, spec)


def profile_files(names: Iterable[str], spec: TaskSpec, graphs: Graphs, golden: Golden) -> Files:
    """What those controllers load, by path inside the bundle.

    Raises UsageError as `require_profiles` does, FathomError for an operator that has no C version."""
    names = list(names)
    require_profiles(names, spec)
    return {
        f"deploy/{name}/{path}": content
        for name in names
        for path, content in PROFILES[name](spec, graphs, golden).items()
    }


def _c99(spec: TaskSpec, graphs: Graphs, golden: Golden) -> Files:
    policy = graphs["policy"]
    texts = c99(policy, spec, graph_sha256(policy)) | cpp(spec, golden)
    return {path: text.encode() for path, text in texts.items()}


def _require_joint_positions(name: str, spec: TaskSpec) -> None:
    action, joints = spec.action, spec.joints
    if action.kind != "joint_position":
        raise UsageError(
            f"profile {name}: action.kind of {spec.name} is {', '.join(dict.fromkeys(action.kinds))}; "
            "that controller takes joint_position"
        )
    for field in ("stiffness", "damping"):
        if getattr(action, field) is None:
            raise UsageError(f"profile {name}: the specification of {spec.name} states no action.{field}")
    if action.joints != joints.names:
        raise UsageError(
            f"profile {name}: action.joints {list(action.joints)} are not joints.names {list(joints.names)}; "
            "that controller has one order for both"
        )
    if action.offset != joints.default:
        raise UsageError(
            f"profile {name}: action.offset {list(action.offset)} is not joints.default "
            f"{list(joints.default)}; that controller adds actions to the default pose"
        )


def _mjlab(spec: TaskSpec, graphs: Graphs, golden: Golden) -> Files:
    action = spec.action
    assert action.stiffness is not None and action.damping is not None
    values = {
        "run_path": f"{spec.name}-{spec.version}",
        "joint_names": ",".join(action.joints),
        "joint_stiffness": _csv(action.stiffness),
        "joint_damping": _csv(action.damping),
        "default_joint_pos": _csv(spec.joints.default),
        "command_names": _command(spec),
        "observation_names": ",".join([*(term.name for term in spec.sensed_observation), _command(spec)]),
        "action_scale": _csv(action.scale),
    }
    return {"policy.onnx": _with_metadata(graphs["policy_flat"], values)}


def _holosoma(spec: TaskSpec, graphs: Graphs, golden: Golden) -> Files:
    action = spec.action
    values = {
        "dof_names": action.joints,
        "kp": action.stiffness,
        "kd": action.damping,
        "default_joint_angles": spec.joints.default,
        "action_scale": action.scale,
        "observation_names": [*(term.name for term in spec.sensed_observation), _command(spec)],
        "command_ranges": _goal_ranges(spec),
        "robot_urdf": None,
        "robot_urdf_path": None,
    }
    renamed = _renamed(graphs["policy_flat"], {"obs": "actor_obs", "actions": "action"})
    return {"policy.onnx": _with_metadata(renamed, {key: json.dumps(value) for key, value in values.items()})}


def _unitree(spec: TaskSpec, graphs: Graphs, golden: Golden) -> Files:
    action, joints = spec.action, spec.joints
    term: dict[str, Any] = {"params": {}, "clip": None, "history_length": 1}
    described = {
        "joint_ids_map": [joints.names.index(joint) for joint in action.joints],
        "step_dt": spec.control_dt,
        "stiffness": list(action.stiffness or ()),
        "damping": list(action.damping or ()),
        "default_joint_pos": list(joints.default),
        "commands": {_command(spec): {"ranges": _goal_ranges(spec)}},
        "actions": {
            "JointPositionAction": {
                "clip": [[-1.0, 1.0]] * len(action.joints),
                "joint_names": list(action.joints),
                "scale": list(action.scale),
                "offset": list(action.offset),
                "joint_ids": None,
            }
        },
        "observations": {
            **{each.name: {**term, "scale": [1.0] * len(each.entries)} for each in spec.sensed_observation},
            _command(spec): {**term, "scale": [1.0] * len(spec.sensed_goal.entries)},
        },
    }
    side = yaml.dump(described, Dumper=_Plain, sort_keys=False, default_flow_style=None, width=110)
    return {
        "params/deploy.yaml": side.encode(),
        "exported/policy.onnx": graphs["policy_flat"].SerializeToString(deterministic=True),
    }


class _Plain(yaml.SafeDumper):
    """Without anchors, which the readers of such files need not know."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


PROFILES: Mapping[str, Callable[[TaskSpec, Graphs, Golden], Files]] = {
    "c99": _c99,
    "mjlab": _mjlab,
    "holosoma": _holosoma,
    "unitree": _unitree,
}


def _command(spec: TaskSpec) -> str:
    """The goal's name beside the observation's terms, of which it often is one."""
    return f"{spec.sensed_goal.name}_goal"


def _goal_ranges(spec: TaskSpec) -> dict[str, list[float]] | None:
    """[low, high] by entry of the goal; None where the robot's frame is not the one that it was drawn in."""
    goal = spec.sensed_goal
    if not isinstance(goal, GoalSpec):
        return None
    return {entry: [low, high] for entry, low, high in zip(goal.entries, goal.low, goal.high, strict=True)}


def _csv(numbers: Iterable[float]) -> str:
    """Nine digits give a float32 back exactly; readers split at commas and trim nothing."""
    return ",".join(f"{number:.9g}" for number in numbers)


def _with_metadata(model: onnx.ModelProto, values: Mapping[str, str]) -> bytes:
    """One dialect to a file: what is ours is JSON, on which a reader of commas stumbles only if it looks."""
    dialect = onnx.ModelProto()
    dialect.CopyFrom(model)
    own = {each.key: each.value for each in model.metadata_props if each.key.startswith(OWN_METADATA)}
    onnx.helper.set_model_props(dialect, {**own, **values})
    return dialect.SerializeToString(deterministic=True)


def _renamed(model: onnx.ModelProto, names: Mapping[str, str]) -> onnx.ModelProto:
    """The graph with other names of inputs and outputs; without our seal, which is of another graph."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for part in (*copy.graph.input, *copy.graph.output):
        part.name = names.get(part.name, part.name)
    for node in copy.graph.node:
        for ends in (node.input, node.output):
            ends[:] = [names.get(end, end) for end in ends]
    copy.ClearField("metadata_props")
    return copy
