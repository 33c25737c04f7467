"""ROS 2's messages as they are on the wire: DDS types under its names, in plain CDR, and their quality."""

from typing import Any

from cyclonedds.core import Policy, Qos
from cyclonedds.idl import make_idl_struct
from cyclonedds.idl.types import float64, int32, sequence, uint32
from cyclonedds.util import duration

from export.ros2_node import QUEUE

_PLAIN = Policy.DataRepresentation(use_cdrv0_representation=True)  # as ROS 2 writes messages
NEWEST = Qos(Policy.Reliability.BestEffort, Policy.History.KeepLast(QUEUE), _PLAIN)
RELIABLE = Qos(Policy.Reliability.Reliable(duration(milliseconds=100)), Policy.History.KeepLast(1), _PLAIN)


def _message(package: str, name: str, /, **fields: Any) -> Any:
    return make_idl_struct(name, f"{package}.msg.dds_.{name}_", fields)


Numbers = sequence[float64]
Time = _message("builtin_interfaces", "Time", sec=int32, nanosec=uint32)
Header = _message("std_msgs", "Header", stamp=Time, frame_id=str)
_columns = dict.fromkeys(("position", "velocity", "effort"), Numbers)
JointState = _message("sensor_msgs", "JointState", header=Header, name=sequence[str], **_columns)
Point = _message("geometry_msgs", "Point", x=float64, y=float64, z=float64)
PointStamped = _message("geometry_msgs", "PointStamped", header=Header, point=Point)
Quaternion = _message("geometry_msgs", "Quaternion", x=float64, y=float64, z=float64, w=float64)
Pose = _message("geometry_msgs", "Pose", position=Point, orientation=Quaternion)
PoseStamped = _message("geometry_msgs", "PoseStamped", header=Header, pose=Pose)
MultiArrayDimension = _message("std_msgs", "MultiArrayDimension", label=str, size=uint32, stride=uint32)
MultiArrayLayout = _message(
    "std_msgs", "MultiArrayLayout", dim=sequence[MultiArrayDimension], data_offset=uint32
)
Float64MultiArray = _message("std_msgs", "Float64MultiArray", layout=MultiArrayLayout, data=Numbers)
