"""The Franka Research 3 and its hand: kinematics and limits of the model in `models/fr3.xml`."""

import math
from pathlib import Path

import mujoco
import numpy as np

from teacher.spec import Floats, JointSpec
from teacher.tasks.base import Array
from teacher.tasks.chain import Chain

MODELS = Path(__file__).with_name("models")
_MODEL = mujoco.MjModel.from_xml_path(str(MODELS / "fr3.xml"))
JOINTS = tuple(f"fr3_joint{i}" for i in range(1, 8))
# Angles [..., 7] -> positions [..., 8, 3] (m) and rotations [..., 8, 3, 3] in the robot's base frame, of
# joints 1 to 7 and of the flange.
joint_frames = Chain(_MODEL, "flange").frames
ORIGINS, FLANGE = _MODEL.body_pos[1:8].tolist(), _MODEL.site("flange").pos.tolist()  # m: in their parents
LOWER, UPPER = (tuple(side) for side in _MODEL.jnt_range[:7].T.tolist())
VELOCITY = tuple(_MODEL.actuator_ctrlrange[:7, 1].tolist())
ACCELERATION = (10.0,) * 7  # rad/s^2
HOME = (0.0, -np.pi / 4, 0.0, -3 * np.pi / 4, 0.0, np.pi / 2, np.pi / 4)
LIMIT_MARGIN = 0.05  # rad
SLOWDOWN = 5.0  # 1/s
RETURN_SPEED = 1.0  # rad/s
# The hand on the flange.
TURN = -np.pi / 4  # rad: about the flange's z axis
TIP = 0.1034  # m: from the flange to the point between the fingertips
SIDE = 0.1  # m: from the flange to the pose's third point, in the direction in which the fingers open
WIDTH = "fr3_gripper_width"
POSE_ENTRIES = tuple(f"{point}_{axis}" for point in ("flange", "tip", "side") for axis in "xyz")


def joint_spec(lower: Floats = LOWER, upper: Floats = UPPER) -> JointSpec:
    """The arm's joints; limits may be tighter than its own."""
    return JointSpec(
        names=JOINTS,
        unit="rad",
        default=HOME,
        lower=lower,
        upper=upper,
        velocity=VELOCITY,
        slowdown=SLOWDOWN,
        margin=LIMIT_MARGIN,
        return_speed=RETURN_SPEED,
        acceleration=ACCELERATION,
    )


def flange_position(qpos: Array) -> Array:
    """Angles [..., 7] -> flange position [..., 3] in metres, in the base frame."""
    return joint_frames(qpos)[0][..., -1, :]


def tool_position(qpos: Array, tool: Floats | np.ndarray) -> Array:
    """Angles [..., 7] -> position [..., 3] in metres, in the base frame, of a point that the flange carries.

    Args: tool: the point in the flange's frame, m."""
    positions, rotations = joint_frames(qpos)
    offset = qpos.__array_namespace__().asarray(tool, dtype=qpos.dtype)
    return positions[..., -1, :] + rotations[..., -1, :, :] @ offset


def flange_pose(qpos: Array) -> Array:
    """Angles [..., 7] -> the flange's pose as three points [..., 9] in metres, in the base frame.

    The points are the flange, the tip between the fingers and one to the side: distances between
    poses then are in metres, turned or moved."""
    xp = qpos.__array_namespace__()
    positions, rotations = joint_frames(qpos)
    flange, rotation = positions[..., -1, :], rotations[..., -1, :, :]
    offsets = ((0.0, 0.0, TIP), (-SIDE * np.sin(TURN), SIDE * np.cos(TURN), 0.0))
    others = [flange + rotation @ xp.asarray(offset, dtype=qpos.dtype) for offset in offsets]
    return xp.concatenate([flange, *others], axis=-1)


def reach_down(tip: Array) -> Array:
    """Where the tip should be, [..., 3] m and within reach -> angles [..., 7] of an arm that brings it there
    with the hand pointing straight down; joints 3, 5 and 7 are as in the home pose."""
    xp = tip.__array_namespace__()
    x, y, z = tip[..., 0], tip[..., 1], tip[..., 2]
    # A triangle of shoulder, elbow and wrist, in the vertical plane of the base and the tip.
    elbow, wrist, upper_arm, forearm = ORIGINS[3][0], ORIGINS[6][0], -ORIGINS[2][1], ORIGINS[4][1]
    first, second = math.hypot(upper_arm, elbow), math.hypot(forearm, elbow)
    out, up = xp.hypot(x, y) - wrist, z + TIP + FLANGE[2] - ORIGINS[0][2]
    third = xp.hypot(out, up)
    at_elbow = xp.arccos((first**2 + second**2 - third**2) / (2 * first * second))
    at_shoulder = xp.arccos((first**2 + third**2 - second**2) / (2 * first * third))
    q2 = xp.arctan2(out, up) - at_shoulder - math.atan(elbow / upper_arm)
    q4 = at_elbow - math.pi - math.atan(elbow / upper_arm) - math.atan(elbow / forearm)
    zero = xp.zeros_like(x)
    return xp.stack([xp.arctan2(y, x), q2, zero, q4, zero, q2 - q4, zero + HOME[6]], axis=-1)
