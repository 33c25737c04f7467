"""Files for controllers that exist: our policy in the names, order, metadata and files of each of them.

Also C99, with a controller in C++, for where no graphs are run, and parameters of ros2_control. A profile
takes names, order, gains and scales from the task's specification alone, and refuses one that lacks what the
controller needs, or that it would read wrongly: none of them can be told that a number is absent.

How each controller uses what is written here was read in its own source: unitree_rl_lab's deploy folder,
mjlab and legged_control2 (comma-separated metadata), holosoma_inference (metadata of JSON, and settings)."""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import onnx
import yaml
from onnx import helper, numpy_helper

from export.c99 import c99
from export.cpp import cpp
from export.graph import graph_sha256
from export.ros2 import require_ros2, ros2
from teacher.errors import UsageError, unknown_name
from teacher.spec import GoalSpec, ObservationTerm, TaskSpec

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

_LEGS = [f"{leg}_{part}" for leg in ("FR", "FL", "RR", "RL") for part in ("hip", "thigh", "calf")]
_LEG = ["hip_pitch", "hip_roll", "hip_yaw", "knee", "ankle_pitch", "ankle_roll"]
_ARM = ["shoulder_pitch", "shoulder_roll", "shoulder_yaw", "elbow", "wrist_roll", "wrist_pitch", "wrist_yaw"]
MOTORS = {
    "Go2": [f"{joint}_joint" for joint in _LEGS],
    "G1": [
        f"{joint}_joint"
        for joint in [
            *(f"{side}_{part}" for side in ("left", "right") for part in _LEG),
            *("waist_yaw", "waist_roll", "waist_pitch"),
            *(f"{side}_{part}" for side in ("left", "right") for part in _ARM),
        ]
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


_RUNNERS = {
    "mjlab": _Runner(
        {
            "gravity_direction": "projected_gravity",
            "base_angular_velocity": "base_ang_vel",
            "base_velocity": "base_lin_vel",
            "joint_position": "joint_pos",
            "joint_position_from_default": "joint_pos",
            "joint_velocity": "joint_vel",
            "last_action": "actions",
        },
        command="command",
        command_size=3,
    ),
    "holosoma": _Runner(
        {
            "gravity_direction": "projected_gravity",
            "base_angular_velocity": "base_ang_vel",
            "joint_position": "dof_pos",
            "joint_position_from_default": "dof_pos",
            "joint_velocity": "dof_vel",
            "last_action": "actions",
        },
        command="command_lin_vel",
        command_size=2,
        longest_history=1,  # it begins with zeros, ours with the first reading
        action_scale=0.25,
    ),
    "unitree": _Runner(
        {
            "gravity_direction": "projected_gravity",
            "base_angular_velocity": "base_ang_vel",
            "joint_position": "joint_pos_rel",
            "joint_position_from_default": "joint_pos_rel",
            "joint_velocity": "joint_vel_rel",
            "last_action": "last_action",
        },
        command="velocity_commands",
        command_size=3,
    ),
}
STICK = (-1.0, 1.0)  # what unitree's runner takes a command's entries from


class _Term(NamedTuple):
    """A term of a controller's observation: `history` readings of it, the oldest first."""

    name: str
    size: int
    history: int


class _Layout(NamedTuple):
    """A controller's observation, and how ours, the goal behind it, comes from it: [N + G] each."""

    terms: list[_Term]
    taken: np.ndarray  # from which entry
    factor: np.ndarray
    offset: np.ndarray

    @property
    def size(self) -> int:
        return sum(term.size * term.history for term in self.terms)


def require_profiles(names: Iterable[str], spec: TaskSpec) -> None:
    """Raises UsageError if there is no profile of a name, or none for such a task, naming the field."""
    for name in names:
        kind, colon, _ = name.partition(":")
        if kind not in PROFILES or (colon and kind != "c99"):
            raise unknown_name("profile", name, [*PROFILES, "c99:PREFIX"])
        if name in _RUNNERS:
            _require_joint_positions(name, spec)
            _layout(name, spec)
        if name == "unitree":
            _motors(spec)
            _stick_ranges(spec)
        if name == "ros2":
            require_ros2(spec)


def profile_files(names: Iterable[str], spec: TaskSpec, graphs: Graphs, golden: Golden) -> Files:
    """Returns what those controllers load, by path inside the bundle.

    Raises UsageError as `require_profiles` does, FathomError for an operator that has no C version."""
    names = list(names)
    require_profiles(names, spec)
    files: Files = {}
    for name in names:
        kind, colon, prefix = name.partition(":")
        found = _c99_files(spec, graphs, prefix) if colon else PROFILES[name](spec, graphs, golden)
        files |= {f"deploy/{kind}/{path}": content for path, content in found.items()}
    return files


def _c99_files(spec: TaskSpec, graphs: Graphs, prefix: str) -> Files:
    """Without the controller in C++, of which a program has one."""
    policy = graphs["policy"]
    return {path: text.encode() for path, text in c99(policy, spec, graph_sha256(policy), prefix).items()}


def _c99(spec: TaskSpec, graphs: Graphs, golden: Golden) -> Files:
    controller = {path: text.encode() for path, text in cpp(spec, golden).items()}
    return _c99_files(spec, graphs, "policy") | controller


def _require_joint_positions(name: str, spec: TaskSpec) -> None:
    action = spec.action
    if action.kind != "joint_position":
        raise UsageError(
            f"profile {name}: action.kind of {spec.name} is {', '.join(dict.fromkeys(action.kinds))}; "
            "that controller takes joint_position"
        )
    for field in ("stiffness", "damping"):
        if getattr(action, field) is None:
            raise UsageError(f"profile {name}: the specification of {spec.name} states no action.{field}")
    unknown = [joint for joint in action.joints if joint not in spec.joints.names]
    if unknown:
        raise UsageError(f"profile {name}: action.joints {unknown} are not among joints.names")
    if action.offset != _home(spec):
        raise UsageError(
            f"profile {name}: action.offset {list(action.offset)} is not joints.default "
            f"{list(_home(spec))}; that controller adds actions to the default pose"
        )


def _home(spec: TaskSpec) -> tuple[float, ...]:
    """Default positions of the joints that actions move, in their order."""
    home = dict(zip(spec.joints.names, spec.joints.default, strict=True))
    return tuple(home[joint] for joint in spec.action.joints)


def _layout(name: str, spec: TaskSpec) -> _Layout:
    """Finds every entry of our observation and goal in what the controller observes.

    Raises UsageError for a term that it lacks, or has in another unit, frame or order."""
    runner, deployed, goal = _RUNNERS[name], spec.deployed, spec.sensed_goal
    reading: tuple[ObservationTerm, ...] = deployed.reading if deployed else spec.observation
    history = deployed.history if deployed else 1
    if history > runner.longest_history:
        raise UsageError(
            f"profile {name}: deployed.history of {spec.name} is {history}, allowed: 1; that controller "
            "fills the history of its first steps with zeros, which no policy here was trained on"
        )
    if len(goal.entries) > runner.command_size:
        raise UsageError(
            f"profile {name}: the goal of {spec.name} has {len(goal.entries)} entries, "
            f"{runner.command} of that controller carries {runner.command_size}"
        )
    for term in reading:
        _require_sensor(name, spec, term)
    pairs: list[tuple[_Term, ObservationTerm | None]] = [
        (_Term(runner.terms[term.name], len(term.entries), history), term) for term in reading
    ]
    pairs.append((_Term(runner.command, runner.command_size, 1), None))
    if name == "holosoma":  # sorts by name
        pairs.sort(key=lambda pair: pair[0].name)
    width = sum(len(term.entries) for term in reading)
    size = history * width
    taken = np.zeros(size + len(goal.entries), np.int64)
    factor, offset = np.ones(len(taken), np.float32), np.zeros(len(taken), np.float32)
    begin = 0
    for theirs, ours in pairs:
        if ours is None:
            taken[size:] = begin + np.arange(len(goal.entries))
        for age in range(history if ours else 0):
            assert ours is not None
            rows = slice(age * width + ours.start, age * width + ours.stop)
            taken[rows] = begin + (history - 1 - age) * theirs.size + np.arange(theirs.size)
            if ours.name == "joint_position":
                offset[rows] = _home(spec)
            if ours.name == "last_action" and runner.action_scale:
                factor[rows] = runner.action_scale / np.array(spec.action.scale)
        begin += theirs.size * theirs.history
    return _Layout([theirs for theirs, _ in pairs], taken, factor, offset)


def _require_sensor(name: str, spec: TaskSpec, term: ObservationTerm) -> None:
    known = _RUNNERS[name].terms
    if term.name not in known:
        raise UsageError(
            f"profile {name}: that controller has no term for {term.name} of {spec.name}; "
            f"it has {', '.join(sorted(known))}"
        )
    entries = spec.action.joints if SENSORS[term.name][1] == "joint" else ("x", "y", "z")
    found, needed = (*(term.unit, term.frame), term.entries), (*SENSORS[term.name], entries)
    if found != needed:
        raise UsageError(
            f"profile {name}: {term.name} of {spec.name} is in {term.unit}, {term.frame} frame, entries "
            f"{', '.join(term.entries)}; that controller has it in {needed[0]}, {needed[1]} frame, entries "
            f"{', '.join(entries)}"
        )


def _motors(spec: TaskSpec) -> list[str]:
    """Joints in the order of the robot's motors."""
    for motors in MOTORS.values():
        if sorted(motors) == sorted(spec.action.joints):
            return motors
    raise UsageError(
        f"profile unitree: action.joints of {spec.name} are {', '.join(spec.action.joints)}; the order of "
        f"motors is known of {', '.join(f'{robot} ({joints[0]}, ...)' for robot, joints in MOTORS.items())}"
    )


def _stick_ranges(spec: TaskSpec) -> list[list[float]]:
    """Of the goal's entries, what a stick may ask for: its travel, inside the training range where known."""
    goal, ranges = spec.sensed_goal, []
    for i, entry in enumerate(goal.entries):
        low, high = STICK
        if isinstance(goal, GoalSpec):
            low, high = max(low, goal.low[i]), min(high, goal.high[i])
        if low > high:
            assert isinstance(goal, GoalSpec)
            raise UsageError(
                f"profile unitree: goal.{entry} of {spec.name} was trained in [{goal.low[i]:g}, "
                f"{goal.high[i]:g}]; that controller's stick gives {STICK[0]:g} to {STICK[1]:g}"
            )
        ranges.append([low, high])
    return ranges


def _mjlab(spec: TaskSpec, graphs: Graphs, golden: Golden) -> Files:
    action, layout = spec.action, _layout("mjlab", spec)
    assert action.stiffness is not None and action.damping is not None
    terms = layout.terms
    values = {
        "run_path": f"{spec.name}-{spec.version}",
        "joint_names": ",".join(action.joints),
        "joint_stiffness": _csv(action.stiffness),
        "joint_damping": _csv(action.damping),
        "default_joint_pos": _csv(_home(spec)),
        "command_names": "twist",
        "observation_names": ",".join(term.name for term in terms),
        "observation_terms_scale": ",".join("1" for _ in terms),
        "observation_terms_clip": ",".join("-inf;inf" for _ in terms),
        "observation_terms_history_length": ",".join(
            str(term.history if term.history > 1 else 0) for term in terms
        ),
        "observation_terms_flatten_history_dim": ",".join("1" for _ in terms),
        "observation_history_lengths": ",".join(str(term.history) for term in terms),
        "action_scale": _csv(action.scale),
    }
    return {"policy.onnx": _adapted(graphs["policy_flat"], layout, values)}


def _holosoma(spec: TaskSpec, graphs: Graphs, golden: Golden) -> Files:
    action, layout, scale = spec.action, _layout("holosoma", spec), _RUNNERS["holosoma"].action_scale
    assert scale is not None
    values = {"dof_names": action.joints, "kp": action.stiffness, "kd": action.damping}
    # What that controller takes from its own settings, whatever the file says.
    settings = {
        "task": {"rl_rate": 1 / spec.control_dt, "policy_action_scale": scale, "use_phase": False},
        "robot": {"dof_names": action.joints, "default_dof_angles": _home(spec)},
        "observation": {
            "obs_dict": {"actor_obs": [term.name for term in layout.terms]},
            "obs_dims": {term.name: term.size for term in layout.terms},
            "obs_scales": {term.name: 1.0 for term in layout.terms},
            "history_length_dict": {"actor_obs": 1},
        },
    }
    metadata = {key: json.dumps(value) for key, value in (values | {"settings": settings}).items()}
    return {
        "policy.onnx": _adapted(
            graphs["policy_flat"], layout, metadata, "actor_obs", "action", np.array(action.scale) / scale
        ),
        "settings.json": _json(settings),
    }


def _unitree(spec: TaskSpec, graphs: Graphs, golden: Golden) -> Files:
    action, layout, motors = spec.action, _layout("unitree", spec), _motors(spec)
    places = [motors.index(joint) for joint in action.joints]
    ranges = [*_stick_ranges(spec), [0.0, 0.0], [0.0, 0.0]]
    described = {
        "joint_ids_map": places,
        "step_dt": spec.control_dt,
        "stiffness": _in_places(places, action.stiffness),
        "damping": _in_places(places, action.damping),
        "default_joint_pos": list(_home(spec)),
        "commands": {
            "base_velocity": {
                "ranges": dict(zip(("lin_vel_x", "lin_vel_y", "ang_vel_z"), ranges, strict=False))
                | {"heading": None}
            }
        },
        "actions": {
            "JointPositionAction": {
                "clip": None,  # it would clip the target in rad, not the action
                "joint_names": list(action.joints),
                "scale": list(action.scale),
                "offset": list(action.offset),
                "joint_ids": None,
            }
        },
        "observations": {
            term.name: {
                "params": {},
                "clip": None,
                "scale": [1.0] * term.size,
                "history_length": term.history,
            }
            for term in layout.terms
        },
    }
    side = yaml.dump(described, Dumper=_Plain, sort_keys=False, default_flow_style=None, width=110)
    return {
        "params/deploy.yaml": side.encode(),
        "exported/policy.onnx": _adapted(graphs["policy_flat"], layout, {}),
    }


def _in_places(places: list[int], values: Iterable[float] | None) -> list[float]:
    """By motor, from values by action."""
    by_motor = dict(zip(places, values or (), strict=True))
    return [by_motor[motor] for motor in sorted(by_motor)]


class _Plain(yaml.SafeDumper):
    """Without anchors, which the readers of such files need not know."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


PROFILES: Mapping[str, Callable[[TaskSpec, Graphs, Golden], Files]] = {
    "c99": _c99,
    "mjlab": _mjlab,
    "holosoma": _holosoma,
    "unitree": _unitree,
    "ros2": lambda spec, graphs, golden: {path: text.encode() for path, text in ros2(spec).items()},
}


def _csv(numbers: Iterable[float]) -> str:
    """Nine digits give a float32 back exactly; readers split at commas and trim nothing."""
    return ",".join(f"{number:.9g}" for number in numbers)


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()


def _adapted(
    flat: onnx.ModelProto,
    layout: _Layout,
    metadata: Mapping[str, str],
    given: str = "obs",
    answer: str = "actions",
    scale: np.ndarray | None = None,
) -> bytes:
    """The flat policy's graph over a controller's own observation.

    Args:
      metadata: one dialect to a file; our own stays out, since it proves another graph.
      given, answer: names of input and output.
      scale: [A], by which answers are multiplied for that controller.
    Returns: the file; input [1, layout.size]."""
    model = onnx.ModelProto()
    model.CopyFrom(flat)
    model.ClearField("metadata_props")
    graph = model.graph
    inner = {"obs": "ours.obs", "actions": answer if scale is None else "ours.actions"}
    for node in graph.node:
        for ends in (node.input, node.output):
            ends[:] = [inner.get(end, end) for end in ends]
    for part in graph.output:
        part.name = answer
    del graph.input[:]
    graph.input.append(helper.make_tensor_value_info(given, onnx.TensorProto.FLOAT, [1, layout.size]))
    steps: list[tuple[str, np.ndarray]] = [("Gather", layout.taken)]
    if (layout.factor != 1).any():
        steps.append(("Mul", layout.factor[None]))
    if layout.offset.any():
        steps.append(("Add", layout.offset[None]))
    before, last = [], given
    for i, (operator, values) in enumerate(steps):
        result = "ours.obs" if i == len(steps) - 1 else f"ours.{operator}"
        graph.initializer.append(numpy_helper.from_array(values, f"ours.by.{operator}"))
        before.append(helper.make_node(operator, [last, f"ours.by.{operator}"], [result]))
        last = result
    before[0].attribute.append(helper.make_attribute("axis", 1))
    after = []
    if scale is not None:
        graph.initializer.append(numpy_helper.from_array(scale.astype(np.float32)[None], "ours.by.scale"))
        after.append(helper.make_node("Mul", ["ours.actions", "ours.by.scale"], [answer]))
    nodes = [*before, *graph.node, *after]
    del graph.node[:]
    graph.node.extend(nodes)
    helper.set_model_props(model, dict(metadata))
    return model.SerializeToString(deterministic=True)
