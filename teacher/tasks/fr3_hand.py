"""The Franka Hand on the FR3's flange: its pose as points, and its MuJoCo model.

The figures are Franka Robotics' published ones, but for the fingers' shape: capsules, which
touch a cube's face at two points and so keep it from turning between them.
"""

import math
from typing import Any

import mujoco
import numpy as np

from teacher.tasks.base import Array
from teacher.tasks.fr3_arm import FLANGE, HOME, ORIGINS, add_capsule, joint_frames

TURN = -np.pi / 4  # rad: of the hand about the flange's z axis
TIP = 0.1034  # m: from the flange to the point between the fingertips
SIDE = 0.1  # m: from the flange to the pose's third point, in the direction in which the fingers open
FINGER_RADIUS = 0.01  # m
FINGER_JOINTS = ("fr3_finger_joint1", "fr3_finger_joint2")
FINGER_ORIGIN = 0.0584  # m: of the fingers' joints beyond the flange
FINGER_TRAVEL = 0.04  # m, of each finger
# Mass (kg), centre of mass (m), inertia about it (kg m^2).
HAND_INERTIA = (0.6544, (0.0, 0.0119, 0.0207), (0.00186, 0.0003, 0.00174, 0.0, 0.0, -2e-5))
FINGER_INERTIA = (0.0291, (0.0, 0.0153, 0.022), (8.5e-6, 8.5e-6, 1.8e-6, 0.0, 0.0, 0.0))
# The hand follows a width; its force (N) and its fingers' friction (N s/m) make 0.1 m/s the fastest.
WIDTH = "fr3_gripper_width"
WIDTH_GAIN, WIDTH_FORCE = 3000.0, 15.0
FINGER_DAMPING, FINGER_ARMATURE = 300.0, 3.0

POSE_ENTRIES = tuple(f"{point}_{axis}" for point in ("flange", "tip", "side") for axis in "xyz")
HAND_COLOUR, FINGER_COLOUR = (0.85, 0.85, 0.87, 1.0), (0.25, 0.26, 0.28, 1.0)


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


def tilted_pose(tip: Array, tilt: Array) -> Array:
    """The flange's pose [..., 9] with its tip at [..., 3] m and the hand tilted outwards by [...] rad.

    As joints 1, 2, 4 and 6 bring it about; written without their angles, which take long to compile."""
    xp = tip.__array_namespace__()
    x, y, zero = tip[..., 0], tip[..., 1], xp.zeros_like(tilt)
    out, along = xp.hypot(x, y), xp.sin(tilt)
    flange = tip + TIP * xp.stack([-along * x / out, -along * y / out, xp.cos(tilt)], axis=-1)
    side = flange + SIDE * xp.stack([y / out, -x / out, zero], axis=-1)
    return xp.concatenate([flange, tip, side], axis=-1)


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


def add_hand(
    spec: mujoco.MjSpec,
    link: mujoco.MjsBody,
    grips: bool,
    on_table: dict[str, Any],
    on_object: dict[str, Any],
) -> None:
    """Adds the hand to the arm's last link.

    Args:
      grips: whether the fingers move, by the actuator `fr3_gripper_width`; else they are closed.
      on_table, on_object: contact settings of what meets the table, and of what meets an object."""
    mass, centre, inertia = HAND_INERTIA
    hand = link.add_body(
        name="fr3_hand",
        pos=FLANGE,
        quat=[np.cos(TURN / 2), 0, 0, np.sin(TURN / 2)],
        mass=mass,
        ipos=centre,
        fullinertia=inertia,
        explicitinertial=True,
        gravcomp=1,
    )
    add_capsule(hand, (0.0, -0.07, 0.03), (0.0, 0.07, 0.03), 0.03, HAND_COLOUR)
    # One capsule from the last joint to the fingertips keeps all of the hand above the table.
    contact = {**on_table, "group": 3} if grips else {**on_table, **on_object}
    add_capsule(hand, (0.0, 0.0, -FLANGE[2]), (0.0, 0.0, TIP), FINGER_RADIUS, FINGER_COLOUR, **contact)
    if grips:
        _add_fingers(spec, hand, on_object)


def _add_fingers(spec: mujoco.MjSpec, hand: mujoco.MjsBody, contact: dict[str, Any]) -> None:
    mass, (_, out, along), inertia = FINGER_INERTIA
    for name, side in zip(FINGER_JOINTS, (1, -1), strict=True):
        finger = hand.add_body(
            name=name.replace("_joint", ""),
            pos=[0, 0, FINGER_ORIGIN],
            mass=mass,
            ipos=[0, side * out, along],
            fullinertia=inertia,
            explicitinertial=True,
            gravcomp=1,
        )
        finger.add_joint(
            name=name,
            type=mujoco.mjtJoint.mjJNT_SLIDE,
            axis=[0, side, 0],
            range=[0, FINGER_TRAVEL],
            limited=True,
            damping=FINGER_DAMPING,
            armature=FINGER_ARMATURE,
        )
        root, tip = ((0.0, side * FINGER_RADIUS, z) for z in (FINGER_RADIUS, TIP - FINGER_ORIGIN))
        add_capsule(finger, root, tip, FINGER_RADIUS, FINGER_COLOUR, **contact)
    leader, follower = FINGER_JOINTS
    mimic = spec.add_equality(
        type=mujoco.mjtEq.mjEQ_JOINT, objtype=mujoco.mjtObj.mjOBJ_JOINT, name1=follower, name2=leader
    )
    mimic.data[:5] = [0, 1, 0, 0, 0]
    spec.add_actuator(
        name=WIDTH,
        trntype=mujoco.mjtTrn.mjTRN_JOINT,
        target=leader,
        gear=[2, 0, 0, 0, 0, 0],  # the width is twice the finger's way
        gaintype=mujoco.mjtGain.mjGAIN_FIXED,
        biastype=mujoco.mjtBias.mjBIAS_AFFINE,
        gainprm=[WIDTH_GAIN] + [0] * 9,
        biasprm=[0, -WIDTH_GAIN] + [0] * 8,
        ctrllimited=True,
        ctrlrange=[0, 2 * FINGER_TRAVEL],
        forcelimited=True,
        forcerange=[-WIDTH_FORCE, WIDTH_FORCE],
    )
