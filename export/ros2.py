"""Parameters of ros2_control for a task's commands, and which message each entry of a reading comes from."""

import json

import yaml

from teacher.errors import UsageError
from teacher.spec import TaskSpec

INTERFACES = {"joint_velocity": "velocity", "joint_position": "position"}
"""Interface of ros2_control that commands of a kind go to."""
_MESSAGES = {
    "joint_position": "sensor_msgs/msg/JointState.position",
    "joint_velocity": "sensor_msgs/msg/JointState.velocity",
    "base_angular_velocity": "sensor_msgs/msg/Imu.angular_velocity",
}


def require_ros2(spec: TaskSpec) -> None:
    """Raises UsageError for commands that no controller of ros2_control forwards."""
    if spec.action.kind not in INTERFACES:
        raise UsageError(
            f"profile ros2: action.kind of {spec.name} is {spec.action.kind}, "
            f"allowed: {', '.join(INTERFACES)}"
        )


def ros2(spec: TaskSpec) -> dict[str, str]:
    """Returns `controllers.yaml`, parameters of a controller that forwards commands, and `mapping.json`."""
    action, joints, interface = spec.action, spec.joints, INTERFACES[str(spec.action.kind)]
    name, rows = f"{spec.name}_{interface}", [joints.names.index(joint) for joint in action.joints]
    parameters = {
        "controller_manager": {
            "ros__parameters": {name: {"type": "forward_command_controller/ForwardCommandController"}}
        },
        name: {"ros__parameters": {"joints": list(action.joints), "interface_name": interface}},
    }
    reading = spec.deployed.reading if spec.deployed else spec.observation
    mapping = {
        "period_s": spec.control_dt,
        "reading": [
            term.model_dump(include={"name", "start", "entries", "unit", "frame"})
            | {"message": _MESSAGES.get(term.name)}
            for term in reading
        ],
        "goal": spec.sensed_goal.model_dump(include={"name", "entries", "unit", "frame", "low", "high"}),
        "command": {
            "topic": f"/{name}/commands",
            "message": "std_msgs/msg/Float64MultiArray.data",
            **action.model_dump(include={"joints", "unit", "scale", "offset"}),
            **{key: [getattr(joints, key)[row] for row in rows] for key in ("lower", "upper", "velocity")},
        },
    }
    return {
        "controllers.yaml": yaml.safe_dump(parameters, sort_keys=False, default_flow_style=None, width=110),
        "mapping.json": json.dumps(mapping, indent=2, allow_nan=False) + "\n",
    }
