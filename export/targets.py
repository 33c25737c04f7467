"""Files for controllers that exist: our policy in the names, order, metadata and files of each target.

A target takes names, order, gains and scales from the task's specification alone, and refuses one that lacks
what the controller needs, or that it would read wrongly: none of them can be told that a number is absent.

How each controller uses what is written here was read in its own source: unitree_rl_lab's deploy folder,
mjlab and legged_control2 (comma-separated metadata), holosoma_inference (metadata of JSON, and settings)."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import yaml
from onnx.helper import make_node, make_tensor_value_info, set_model_props

from export.c import controller_cpp, policy_c
from export.graph import wrapped
from teacher.errors import UsageError, unknown_name
from teacher.spec import GoalSpec, TaskSpec

Files = dict[str, bytes]
Golden = Mapping[str, np.ndarray]
"""Recorded answers: `obs` [K, N], `goal` [K, G], `actions` [K, A], and others of the same rows."""
Graphs = Mapping[str, onnx.ModelProto]
"""By name, annotated; `policy`: inputs `obs` [1, N], `goal` [1, G]; `policy_flat`: input `obs` [1, N + G]."""

SENSORS = {
    "gravity_direction": ("1", "body"),
    "base_angular_velocity": ("rad/s", "body"),
    "base_velocity": ("m/s", "body"),
    "joint_position": ("rad", "joint"),
    "joint_position_from_default": ("rad", "joint"),
    "joint_velocity": ("rad/s", "joint"),
    "last_action": ("1", "joint"),
}
"""Terms of a reading that these controllers have too: unit and frame. Joints are in the order of actions."""

_LEG = ["hip_pitch", "hip_roll", "hip_yaw", "knee", "ankle_pitch", "ankle_roll"]
_ARM = ["shoulder_pitch", "shoulder_roll", "shoulder_yaw", "elbow", "wrist_roll", "wrist_pitch", "wrist_yaw"]
MOTORS = {
    "Go2": [f"{leg}_{part}_joint" for leg in ("FR", "FL", "RR", "RL") for part in ("hip", "thigh", "calf")],
    "G1": [
        *(f"{side}_{part}_joint" for side in ("left", "right") for part in _LEG),
        *(f"waist_{way}_joint" for way in ("yaw", "roll", "pitch")),
        *(f"{side}_{part}_joint" for side in ("left", "right") for part in _ARM),
    ],
}
"""Joints in the order of the motors in Unitree's own interface (unitree_sdk2), by robot."""


class _Runner(NamedTuple):
    """What a controller calls the terms of its observation, and what it gives as a command."""

    terms: Mapping[str, str]
    command: str
    command_size: int
    longest_history: float = np.inf
    action_scale: float | None = None  # one number in its settings, in place of one for each joint


def _terms(position: str, velocity: str, last_action: str) -> dict[str, str]:
    return {
        "gravity_direction": "projected_gravity",
        "base_angular_velocity": "base_ang_vel",
        "joint_position": position,
        "joint_position_from_default": position,
        "joint_velocity": velocity,
        "last_action": last_action,
    }


_RUNNERS = {
    "mjlab": _Runner(
        _terms("joint_pos", "joint_vel", "actions") | {"base_velocity": "base_lin_vel"}, "command", 3
    ),
    # It begins a history with zeros, ours with the first reading: no policy was trained on those.
    "holosoma": _Runner(_terms("dof_pos", "dof_vel", "actions"), "command_lin_vel", 2, 1, action_scale=0.25),
    "unitree": _Runner(_terms("joint_pos_rel", "joint_vel_rel", "last_action"), "velocity_commands", 3),
}
STICK = (-1.0, 1.0)  # what unitree's runner takes a command's entries from

INTERFACES = {"joint_velocity": "velocity", "joint_position": "position"}
"""Interface of ros2_control that commands of a kind go to."""
_MESSAGES = {
    "joint_position": "sensor_msgs/msg/JointState.position",
    "joint_velocity": "sensor_msgs/msg/JointState.velocity",
    "base_angular_velocity": "sensor_msgs/msg/Imu.angular_velocity",
}


class _Layout(NamedTuple):
    """A controller's observation, and how ours, the goal behind it, comes from it: [N + G] each."""

    terms: dict[str, tuple[int, int]]  # in its order: entries of a reading, readings, the oldest first
    taken: np.ndarray  # from which entry
    factor: np.ndarray
    offset: np.ndarray


def require_targets(names: Iterable[str], spec: TaskSpec) -> None:
    """Raises UsageError if there is no target of a name, or none for such a task, naming the field."""
    for name in names:
        kind, colon, _ = name.partition(":")
        if kind not in TARGETS or (colon and kind != "c99"):
            raise unknown_name("profile", name, [*TARGETS, "c99:PREFIX"])
        try:
            if name in _RUNNERS:
                _require_joint_positions(spec)
                _layout(name, spec)
            if name == "unitree":
                _motors(spec)
                _stick_ranges(spec)
            if name == "ros2" and spec.action.kind not in INTERFACES:
                raise ValueError(f"action.kind is {spec.action.kind}, allowed: {', '.join(INTERFACES)}")
        except ValueError as error:
            raise UsageError(f"profile {name}: {spec.name}: {error}") from None


def target_files(names: Iterable[str], spec: TaskSpec, graphs: Graphs, golden: Golden) -> Files:
    """Returns what those controllers load, by path inside the bundle; `require_targets` comes before.

    Raises FathomError for an operator that has no C version."""
    files: Files = {}
    for name in names:
        kind, _, prefix = name.partition(":")
        # A program has one controller in C++, whatever the number of its policies.
        found = policy_c(graphs["policy"], spec, prefix) if prefix else TARGETS[kind](spec, graphs, golden)
        for path, content in found.items():
            files[f"deploy/{kind}/{path}"] = content.encode() if isinstance(content, str) else content
    return files


def _c99(spec: TaskSpec, graphs: Graphs, golden: Golden) -> dict[str, str]:
    return policy_c(graphs["policy"], spec) | controller_cpp(spec, golden)


def _require_joint_positions(spec: TaskSpec) -> None:
    action = spec.action
    if action.kind != "joint_position":
        found = ", ".join(dict.fromkeys(action.kinds))
        raise ValueError(f"action.kind is {found}; that controller takes joint_position")
    for field in ("stiffness", "damping"):
        if getattr(action, field) is None:
            raise ValueError(f"states no action.{field}")
    if action.offset != _home(spec):
        raise ValueError(
            f"action.offset {list(action.offset)} is not joints.default {list(_home(spec))}; that controller "
            "adds actions to the default pose"
        )


def _home(spec: TaskSpec) -> tuple[float, ...]:
    """Returns default positions of the joints that actions move, in their order."""
    home = dict(zip(spec.joints.names, spec.joints.default, strict=True))
    return tuple(home[joint] for joint in spec.action.joints)


def _layout(name: str, spec: TaskSpec) -> _Layout:
    """Finds every entry of our observation and goal in what the controller observes.

    Raises ValueError for a term that it lacks, or has in another unit, frame or order."""
    runner, history, goal = _RUNNERS[name], spec.history, spec.sensed_goal
    if history > runner.longest_history:
        raise ValueError(
            f"deployed.history is {history}, allowed: 1; that controller fills others with zeros"
        )
    if len(goal.entries) > runner.command_size:
        raise ValueError(
            f"the goal has {len(goal.entries)} entries, {runner.command} of that controller carries "
            f"{runner.command_size}"
        )
    ours = {}
    for term in spec.reading:
        if term.name not in runner.terms or runner.terms[term.name] in ours:
            raise ValueError(f"that controller has no term for {term.name}; it has {sorted(runner.terms)}")
        unit, frame = SENSORS[term.name]
        entries = spec.action.joints if frame == "joint" else ("x", "y", "z")
        if (term.unit, term.frame, term.entries) != (unit, frame, entries):
            raise ValueError(
                f"{term.name} is in {term.unit}, {term.frame} frame, entries {', '.join(term.entries)}; that "
                f"controller has it in {unit}, {frame} frame, entries {', '.join(entries)}"
            )
        ours[runner.terms[term.name]] = term
    terms = {theirs: (len(term.entries), history) for theirs, term in ours.items()}
    terms |= {runner.command: (runner.command_size, 1)}
    if name == "holosoma":
        terms = dict(sorted(terms.items()))
    width, begin = spec.reading[-1].stop, 0
    taken = np.zeros(history * width + len(goal.entries), np.int64)
    factor, offset = np.ones(len(taken), np.float32), np.zeros(len(taken), np.float32)
    for theirs, (size, readings) in terms.items():
        if theirs == runner.command:
            taken[history * width :] = begin + np.arange(len(goal.entries))
        for age in range(history if theirs in ours else 0):
            term = ours[theirs]
            rows = slice(age * width + term.start, age * width + term.stop)
            taken[rows] = begin + (history - 1 - age) * size + np.arange(size)
            if term.name == "joint_position":
                offset[rows] = _home(spec)
            if term.name == "last_action" and runner.action_scale:
                factor[rows] = runner.action_scale / np.array(spec.action.scale)
        begin += size * readings
    return _Layout(terms, taken, factor, offset)


def _motors(spec: TaskSpec) -> list[str]:
    """Returns joints in the order of the robot's motors."""
    for motors in MOTORS.values():
        if sorted(motors) == sorted(spec.action.joints):
            return motors
    known = ", ".join(f"{robot} ({joints[0]}, ...)" for robot, joints in MOTORS.items())
    raise ValueError(
        f"action.joints are {', '.join(spec.action.joints)}; the order of motors is known of {known}"
    )


def _stick_ranges(spec: TaskSpec) -> list[list[float]]:
    """Returns a stick's range for each entry of the goal: its travel, inside the training range if known."""
    goal, ranges = spec.sensed_goal, []
    for i, entry in enumerate(goal.entries):
        trained = (goal.low[i], goal.high[i]) if isinstance(goal, GoalSpec) else STICK
        ranges.append([max(STICK[0], trained[0]), min(STICK[1], trained[1])])
        if ranges[-1][0] > ranges[-1][1]:
            raise ValueError(f"goal.{entry} was trained in {trained}; that controller's stick gives {STICK}")
    return ranges


def _mjlab(spec: TaskSpec, graphs: Graphs, golden: Golden) -> Files:
    action, layout = spec.action, _layout("mjlab", spec)
    histories = [history for _, history in layout.terms.values()]
    values: dict[str, Iterable[Any]] = {
        "joint_names": action.joints,
        "joint_stiffness": _digits(action.stiffness),
        "joint_damping": _digits(action.damping),
        "default_joint_pos": _digits(_home(spec)),
        "command_names": ["twist"],
        "observation_names": layout.terms,
        "observation_terms_scale": ["1" for _ in histories],
        "observation_terms_clip": ["-inf;inf" for _ in histories],
        "observation_terms_history_length": [str(history if history > 1 else 0) for history in histories],
        "observation_terms_flatten_history_dim": ["1" for _ in histories],
        "observation_history_lengths": map(str, histories),
        "action_scale": _digits(action.scale),
    }
    # Readers split at commas and trim nothing.
    metadata = {key: ",".join(value) for key, value in values.items()}
    metadata["run_path"] = f"{spec.name}-{spec.version}"
    return {"policy.onnx": _adapted(graphs["policy_flat"], layout, metadata)}


def _digits(numbers: Iterable[float] | None) -> list[str]:
    """Writes nine digits, which give a float32 back exactly."""
    return [f"{number:.9g}" for number in numbers or ()]


def _holosoma(spec: TaskSpec, graphs: Graphs, golden: Golden) -> Files:
    action, layout, scale = spec.action, _layout("holosoma", spec), _RUNNERS["holosoma"].action_scale
    assert scale is not None
    # What that controller takes from its own settings, whatever the file says.
    settings = {
        "task": {"rl_rate": 1 / spec.control_dt, "policy_action_scale": scale, "use_phase": False},
        "robot": {"dof_names": action.joints, "default_dof_angles": _home(spec)},
        "observation": {
            "obs_dict": {"actor_obs": list(layout.terms)},
            "obs_dims": {name: size for name, (size, _) in layout.terms.items()},
            "obs_scales": dict.fromkeys(layout.terms, 1.0),
            "history_length_dict": {"actor_obs": 1},
        },
    }
    said = {"dof_names": action.joints, "kp": action.stiffness, "kd": action.damping, "settings": settings}
    metadata = {key: json.dumps(value) for key, value in said.items()}
    by = np.array(action.scale) / scale
    policy = _adapted(graphs["policy_flat"], layout, metadata, "actor_obs", "action", by)
    return {"policy.onnx": policy, "settings.json": _json(settings).encode()}


def _unitree(spec: TaskSpec, graphs: Graphs, golden: Golden) -> Files:
    action, layout, motors = spec.action, _layout("unitree", spec), _motors(spec)
    places = [motors.index(joint) for joint in action.joints]
    by_motor = np.argsort(places)
    ranges = [*_stick_ranges(spec), [0.0, 0.0], [0.0, 0.0]]
    stick = zip(("lin_vel_x", "lin_vel_y", "ang_vel_z"), ranges, strict=False)
    command = {
        "clip": None,  # it would clip the target in rad, not the action
        "joint_names": list(action.joints),
        "scale": list(action.scale),
        "offset": list(action.offset),
        "joint_ids": None,
    }
    described = {
        "joint_ids_map": places,
        "step_dt": spec.control_dt,
        "stiffness": np.array(action.stiffness)[by_motor].tolist(),
        "damping": np.array(action.damping)[by_motor].tolist(),
        "default_joint_pos": list(_home(spec)),
        "commands": {"base_velocity": {"ranges": dict(stick) | {"heading": None}}},
        "actions": {"JointPositionAction": command},
        "observations": {
            name: {"params": {}, "clip": None, "scale": [1.0] * size, "history_length": history}
            for name, (size, history) in layout.terms.items()
        },
    }
    policy = _adapted(graphs["policy_flat"], layout, {})
    return {"params/deploy.yaml": _yaml(described).encode(), "exported/policy.onnx": policy}


def _ros2(spec: TaskSpec, graphs: Graphs, golden: Golden) -> dict[str, str]:
    """Writes a forwarding controller's parameters, where a reading's entries come from, and a node."""
    action, joints, interface = spec.action, spec.joints, INTERFACES[str(spec.action.kind)]
    name, rows = ros2_controller(spec.for_robot()), [joints.names.index(joint) for joint in action.joints]
    kind = {"type": "forward_command_controller/ForwardCommandController"}
    parameters = {
        "controller_manager": {"ros__parameters": {name: kind}},
        name: {"ros__parameters": {"joints": list(action.joints), "interface_name": interface}},
    }
    inputs = spec.for_robot()["inputs"]
    mapping = {
        "period_s": spec.control_dt,
        "reading": [term | {"message": _MESSAGES.get(term["name"])} for term in inputs["reading"]],
        "goal": inputs["goal"],
        "command": {
            "topic": f"/{name}/commands",
            "message": "std_msgs/msg/Float64MultiArray.data",
            **action.model_dump(include={"joints", "unit", "scale", "offset"}),
            **{key: [getattr(joints, key)[row] for row in rows] for key in ("lower", "upper", "velocity")},
        },
    }
    node = Path(__file__).with_name("ros2_node.py").read_text()
    return {"controllers.yaml": _yaml(parameters), "mapping.json": _json(mapping), "node.py": node}


def ros2_controller(spec: Mapping[str, Any]) -> str:
    """Returns the name of the controller that takes a task's commands, from its specification for robots."""
    return f"{spec['name']}_{INTERFACES[spec['action']['kind']]}"


TARGETS: Mapping[str, Callable[[TaskSpec, Graphs, Golden], Mapping[str, str | bytes]]] = {
    "c99": _c99,
    "mjlab": _mjlab,
    "holosoma": _holosoma,
    "unitree": _unitree,
    "ros2": _ros2,
}


class _Plain(yaml.SafeDumper):
    """Without anchors, which the readers of such files need not know."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _yaml(value: Any) -> str:
    return str(yaml.dump(value, Dumper=_Plain, sort_keys=False, default_flow_style=None, width=110))


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def _adapted(
    flat: onnx.ModelProto,
    layout: _Layout,
    metadata: Mapping[str, str],
    given: str = "obs",
    answer: str = "actions",
    scale: np.ndarray | None = None,
) -> bytes:
    """Returns the flat policy's graph over a controller's own observation.

    Args:
      metadata: one dialect to a file; our own stays out, since it is of another graph.
      given, answer: names of input and output.
      scale: [A], by which answers are multiplied for that controller."""
    constants = {"ours.by.Gather": layout.taken}
    before = [make_node("Gather", [given, "ours.by.Gather"], ["ours.Gather"], axis=1)]
    for operator, values in (("Mul", layout.factor), ("Add", layout.offset)):
        if (values != (operator == "Mul")).any():
            constants[f"ours.by.{operator}"] = values[None]
            names = [before[-1].output[0], f"ours.by.{operator}"]
            before.append(make_node(operator, names, [f"ours.{operator}"]))
    before[-1].output[0] = "ours.obs"
    after = []
    if scale is not None:
        constants["ours.by.scale"] = scale.astype(np.float32)[None]
        after = [make_node("Mul", ["ours.actions", "ours.by.scale"], [answer])]
    renamed = {"obs": "ours.obs", "actions": "ours.actions" if after else answer}
    model = wrapped(flat, renamed, before, after, constants)
    size = sum(size * history for size, history in layout.terms.values())
    model.graph.input[0].CopyFrom(make_tensor_value_info(given, onnx.TensorProto.FLOAT, [1, size]))
    model.graph.output[0].name = answer
    set_model_props(model, dict(metadata))
    return bytes(model.SerializeToString(deterministic=True))
