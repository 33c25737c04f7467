"""The Franka Research 3 and its hand: kinematics, limits, inertia and MuJoCo models.

The figures are Franka Robotics' published ones. The robot's own controller compensates gravity
and follows joint velocities, so the model does too. The fingers' shape is ours: capsules, which
touch a cube's face at two points and so keep it from turning between them.
"""

import math
from typing import Any

import mujoco
import numpy as np

from teacher.spec import Floats, JointSpec
from teacher.tasks.base import Array

JOINTS = tuple(f"fr3_joint{i}" for i in range(1, 8))
# Origin of each joint in its parent (metres) and roll about the parent's x axis (quarter turns).
ORIGINS = (
    (0.0, 0.0, 0.333),
    (0.0, 0.0, 0.0),
    (0.0, -0.316, 0.0),
    (0.0825, 0.0, 0.0),
    (-0.0825, 0.384, 0.0),
    (0.0, 0.0, 0.0),
    (0.088, 0.0, 0.0),
)
QUARTER_ROLLS = (0, -1, 1, 1, -1, 1, 1)
FLANGE = (0.0, 0.0, 0.107)
LOWER = (-2.7437, -1.7837, -2.9007, -3.0421, -2.8065, 0.5445, -3.0159)
UPPER = (2.7437, 1.7837, 2.9007, -0.1518, 2.8065, 4.5169, 3.0159)
VELOCITY = (2.62, 2.62, 2.62, 2.62, 5.26, 4.18, 5.26)
ACCELERATION = (10.0,) * 7  # rad/s^2
HOME = (0.0, -np.pi / 4, 0.0, -3 * np.pi / 4, 0.0, np.pi / 2, np.pi / 4)
LIMIT_MARGIN = 0.05  # rad
SLOWDOWN = 5.0  # 1/s
RETURN_SPEED = 1.0  # rad/s
# Links 1 to 7: mass (kg), centre of mass (m), inertia about it xx yy zz xy xz yz (kg m^2).
INERTIA = (
    (2.9275, (0.0, -0.01813, -0.0386), (0.02393, 0.02248, 0.00635, 1.3e-5, -1.14e-4, -0.001995)),
    (2.9355, (0.00318, -0.07432, 0.00881), (0.04194, 0.02515, 0.0617, 2.03e-4, 0.004078, -0.004225)),
    (2.2449, (0.0407, -0.00482, -0.02897), (0.0241, 0.01974, 0.01904, 0.002405, -0.002856, -0.002104)),
    (2.6156, (-0.04591, 0.06305, -0.00852), (0.03453, 0.02888, 0.04125, 0.01322, 0.01015, -9.76e-4)),
    (2.3271, (-0.0016, 0.02925, -0.0973), (0.05161, 0.04788, 0.01642, -0.005715, -0.003567, 0.01067)),
    (1.817, (0.05971, -0.04103, -0.01017), (0.005412, 0.01406, 0.01608, 0.006193, 0.001422, -0.001314)),
    (0.6271, (0.00452, 0.00863, -0.01616), (2.109e-4, 1.772e-4, 5.993e-5, -2.43e-5, 4.56e-5, 8.74e-5)),
)
# Motor inertia seen at the joint and gain of the velocity servo: the arm follows a commanded
# velocity within some 20 ms, as the robot's own controller does.
ARMATURE = 0.2
SERVO_GAIN = (200.0, 200.0, 150.0, 150.0, 60.0, 60.0, 40.0)

LINK_RADIUS = 0.045  # m
LINK_COLOUR = (0.9, 0.9, 0.92, 1.0)

# The hand on the flange.
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


def joint_frames(qpos: Array) -> tuple[Array, Array]:
    """Forward kinematics: angles [..., 7] -> positions [..., 8, 3] (m) and rotations [..., 8, 3, 3].

    Frames of joints 1 to 7 and of the flange, in the robot's base frame.
    """
    xp = qpos.__array_namespace__()
    position = xp.zeros((*qpos.shape[:-1], 3), qpos.dtype)
    rotation = xp.broadcast_to(xp.eye(3, dtype=qpos.dtype), (*qpos.shape[:-1], 3, 3))
    positions, rotations = [], []
    for joint in range(7):
        position = position + rotation @ xp.asarray(ORIGINS[joint], dtype=qpos.dtype)
        roll = QUARTER_ROLLS[joint]
        turn = [[1, 0, 0], [0, 1 - abs(roll), -roll], [0, roll, 1 - abs(roll)]]
        cos, sin = xp.cos(qpos[..., joint]), xp.sin(qpos[..., joint])
        zero, one = xp.zeros_like(cos), xp.ones_like(cos)
        about_z = xp.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one], axis=-1)
        rotation = rotation @ xp.asarray(turn, dtype=qpos.dtype) @ about_z.reshape(*cos.shape, 3, 3)
        positions.append(position)
        rotations.append(rotation)
    positions.append(position + rotation @ xp.asarray(FLANGE, dtype=qpos.dtype))
    rotations.append(rotation)
    return xp.stack(positions, axis=-2), xp.stack(rotations, axis=-3)


def flange_position(qpos: Array) -> Array:
    """Angles [..., 7] -> flange position [..., 3] in metres, in the base frame."""
    return joint_frames(qpos)[0][..., -1, :]


def tool_position(qpos: Array, tool: Floats | np.ndarray) -> Array:
    """Angles [..., 7] -> position [..., 3] in metres, in the base frame, of a point that the flange carries.

    Args: tool: the point in the flange's frame, m."""
    positions, rotations = joint_frames(qpos)
    offset = qpos.__array_namespace__().asarray(tool, dtype=qpos.dtype)
    return positions[..., -1, :] + rotations[..., -1, :, :] @ offset


def slowed(velocity: Array, qpos: Array, joints: JointSpec) -> Array:
    """Joint velocities [..., 7] in rad/s, cut so that joints slow down and stop before their limits.

    A joint beyond one comes back, at RETURN_SPEED at most."""
    xp, dtype = qpos.__array_namespace__(), qpos.dtype
    upper = joints.slowdown * (xp.asarray(joints.upper, dtype=dtype) - joints.margin - qpos)
    lower = joints.slowdown * (xp.asarray(joints.lower, dtype=dtype) + joints.margin - qpos)
    return xp.clip(velocity, xp.minimum(lower, RETURN_SPEED), xp.maximum(upper, -RETURN_SPEED))


def add_arm(spec: mujoco.MjSpec, gains: Floats = SERVO_GAIN) -> mujoco.MjsBody:
    """Adds the arm, standing at the origin, with a velocity servo on each joint.

    Args:
      gains: of the servos, N m s/rad.
    Returns: link 7, which bears the site `flange`. Nothing of the arm collides."""
    parent = spec.worldbody
    ends = (*ORIGINS[1:], FLANGE)
    add_capsule(parent, (0.0, 0.0, LINK_RADIUS), ORIGINS[0], LINK_RADIUS, LINK_COLOUR)
    for i in range(7):
        mass, centre, inertia = INERTIA[i]
        angle = QUARTER_ROLLS[i] * np.pi / 2
        parent = parent.add_body(
            name=f"fr3_link{i + 1}",
            pos=ORIGINS[i],
            quat=[np.cos(angle / 2), np.sin(angle / 2), 0, 0],
            mass=mass,
            ipos=centre,
            fullinertia=inertia,
            explicitinertial=True,
            gravcomp=1,
        )
        parent.add_joint(
            name=JOINTS[i],
            type=mujoco.mjtJoint.mjJNT_HINGE,
            axis=[0, 0, 1],
            range=[LOWER[i], UPPER[i]],
            limited=mujoco.mjtLimited.mjLIMITED_FALSE,
            armature=ARMATURE,
        )
        if np.linalg.norm(ends[i]) > 0:
            add_capsule(parent, (0.0, 0.0, 0.0), ends[i], LINK_RADIUS, LINK_COLOUR)
        servo = spec.add_actuator(
            name=JOINTS[i],
            trntype=mujoco.mjtTrn.mjTRN_JOINT,
            target=JOINTS[i],
            ctrllimited=True,
            ctrlrange=[-VELOCITY[i], VELOCITY[i]],
        )
        servo.set_to_velocity(gains[i])
    parent.add_site(name="flange", pos=FLANGE)
    return parent


def add_capsule(
    body: mujoco.MjsBody, start: Floats, end: Floats, radius: float, colour: Floats, **contact: Any
) -> None:
    """A capsule between two points of the body (m), which collides only if `contact` says so."""
    body.add_geom(
        type=mujoco.mjtGeom.mjGEOM_CAPSULE,
        fromto=[*start, *end],
        size=[radius, 0, 0],
        rgba=colour,
        **{"contype": 0, "conaffinity": 0, **contact},
    )


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
    servo = spec.add_actuator(
        name=WIDTH,
        trntype=mujoco.mjtTrn.mjTRN_JOINT,
        target=leader,
        gear=[2, 0, 0, 0, 0, 0],  # the width is twice the finger's way
        ctrllimited=True,
        ctrlrange=[0, 2 * FINGER_TRAVEL],
        forcelimited=True,
        forcerange=[-WIDTH_FORCE, WIDTH_FORCE],
    )
    servo.set_to_position(WIDTH_GAIN)
