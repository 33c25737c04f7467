"""The Franka Research 3: kinematics, limits, inertia and the arm's MuJoCo model.

The figures are Franka Robotics' published ones. The robot's own controller compensates gravity
and follows joint velocities, so the model does too.
"""

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
        spec.add_actuator(
            name=JOINTS[i],
            trntype=mujoco.mjtTrn.mjTRN_JOINT,
            target=JOINTS[i],
            gaintype=mujoco.mjtGain.mjGAIN_FIXED,
            biastype=mujoco.mjtBias.mjBIAS_AFFINE,
            gainprm=[gains[i]] + [0] * 9,
            biasprm=[0, 0, -gains[i]] + [0] * 7,
            ctrllimited=True,
            ctrlrange=[-VELOCITY[i], VELOCITY[i]],
        )
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
