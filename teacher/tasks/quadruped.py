"""A quadruped of the Unitree Go2's dimensions that walks to a point on the floor.

Kinematics, limits and inertia are Unitree's published figures (github.com/unitreerobotics/unitree_ros,
go2_description). Its joints follow positions, as the robot's own motor controllers do.
"""

from functools import cached_property

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from teacher.randomization import DomainRandomization
from teacher.spec import (
    ActionSpec,
    DeployedGoal,
    DeployedSpec,
    GoalSpec,
    JointSpec,
    SensorTerm,
    TaskSpec,
)
from teacher.tasks.base import Array, MujocoTask, Start, State, observation_terms, rotation_matrix

LEGS = ("FR", "FL", "RR", "RL")  # in the order of the robot's own interface
JOINTS = tuple(f"{leg}_{part}_joint" for leg in LEGS for part in ("hip", "thigh", "calf"))
AHEAD, LEFT = (1, 1, -1, -1), (-1, 1, -1, 1)  # side of each leg

HIP = (0.1934, 0.0465)  # m: hip joint from the trunk's origin, ahead and to the side
SIDE, THIGH, CALF = 0.0955, 0.213, 0.213  # m: hip to thigh joint, thigh to calf joint, calf joint to foot
FOOT_RADIUS = 0.022  # m
TRUNK = (0.3762, 0.0935, 0.114)  # m: length, width, height
# Mass (kg), centre of mass (m), inertia about it xx yy zz xy xz yz (kg m^2); legs: the front left one.
TRUNK_INERTIA = (6.921, (0.021112, 0, -0.005366), (0.02448, 0.098077, 0.107, 1.2166e-4, 0.0014849, -3.12e-5))
HIP_INERTIA = (0.678, (-0.0054, 0.00194, -1.05e-4), (4.8e-4, 8.84e-4, 5.96e-4, -3.01e-6, 1.11e-6, -1.42e-6))
THIGH_INERTIA = (1.152, (-0.00374, -0.0223, -0.0327), (0.00584, 0.0058, 0.00103, 8.72e-5, -2.89e-4, 8.08e-4))
CALF_INERTIA = (0.154, (0.00548, -9.75e-4, -0.115), (0.00108, 0.0011, 3.29e-5, 3.4e-7, 1.72e-5, 8.28e-6))
FOOT_INERTIA = (0.04, (0.0, 0.0, 0.0), (9.6e-6, 9.6e-6, 9.6e-6, 0.0, 0.0, 0.0))

FRONT = ((-1.0472, 1.0472), (-1.5708, 3.4907), (-2.7227, -0.83776))  # rad: hip, thigh, calf
REAR = ((-1.0472, 1.0472), (-0.5236, 4.5379), (-2.7227, -0.83776))
LOWER, UPPER = zip(*(FRONT + FRONT + REAR + REAR), strict=True)
TORQUE = (23.7, 23.7, 45.43) * 4  # N m
VELOCITY = (30.1, 30.1, 15.7) * 4  # rad/s
ARMATURE = 0.01  # kg m^2: of a motor's rotor, seen at the joint
STIFFNESS, DAMPING = 25.0, 0.5  # N m/rad and N m s/rad: gains of the motor controllers

# rad: what the motors are asked for in standing; the rear feet are behind their hips, because knees give
# way under the weight and the feet then come forward.
STANDING = (0.0, 0.8, -1.5) * 2 + (0.0, 1.0, -1.5) * 2
SCALE = (0.3, 0.4, 0.4) * 4  # rad
FRICTION = 0.8
# Impedance of the feet's contact: rubber that gives way by a centimetre under the robot's weight. One Newton
# step solves it well, where it would leave errors of 0.03 rad a control step with MuJoCo's default.
RUBBER = (0.1, 0.95, 0.02, 0.5, 2.0)
TIME_STEP = 0.005  # s

START_HEIGHT = 0.34  # m: the feet just above the floor
START_SPREAD = 0.1  # rad: of joints and heading
GOAL_RADIUS = 2.0  # m: of the disc around the start in which goals lie
FALLEN_HEIGHT = 0.15  # m: of the trunk's origin; it stands at 0.27
FALLEN_COSINE = 0.5  # of the angle between the trunk's z axis and the vertical
KNEE_HEIGHT = 0.02  # m: of a knee that touches the floor; the model's knees would pass through it


def rotation(qpos: Array) -> Array:
    """Configurations [..., 19] -> the trunk's rotation matrix [..., 3, 3], body to world."""
    return rotation_matrix(qpos[..., 3:7])


def knee_height(qpos: Array) -> Array:
    """Configurations [..., 19] -> heights [..., 4] of the calf joints above the floor, in metres."""
    xp = qpos.__array_namespace__()
    ahead, left = xp.asarray(AHEAD, dtype=qpos.dtype), xp.asarray(LEFT, dtype=qpos.dtype)
    hip, thigh = qpos[..., 7::3], qpos[..., 8::3]
    down, out = THIGH * xp.cos(thigh), left * SIDE
    x = ahead * HIP[0] - THIGH * xp.sin(thigh)
    y = left * HIP[1] + out * xp.cos(hip) + down * xp.sin(hip)
    z = out * xp.sin(hip) - down * xp.cos(hip)
    upwards = rotation(qpos)[..., 2, :, None]
    return qpos[..., 2:3] + upwards[..., 0, :] * x + upwards[..., 1, :] * y + upwards[..., 2, :] * z


class QuadReach(MujocoTask):
    """Twelve joint positions at 50 Hz walk the trunk to a point on the floor."""

    engines = ("mjx", "mujoco")
    pushed = (0, 1)
    randomise = DomainRandomization(friction=0.4, mass=0.15, strength=0.1, latency=1, push=0.5)

    @cached_property
    def spec(self) -> TaskSpec:
        axes = ("x", "y", "z")
        return TaskSpec(
            name="quad_reach",
            version=1,
            observation=observation_terms(
                ("base_position", axes, "m", "world"),
                ("base_axes", tuple(f"{a}_{b}" for a in ("ahead", "up") for b in axes), "1", "world"),
                ("base_velocity", axes, "m/s", "world"),
                ("base_angular_velocity", axes, "rad/s", "world"),
                ("joint_position", JOINTS, "rad", "joint"),
                ("joint_velocity", JOINTS, "rad/s", "joint"),
            ),
            goal=GoalSpec(
                name="base_position",
                entries=("x", "y"),
                unit="m",
                frame="world",
                observation_indices=(0, 1),
                low=(-GOAL_RADIUS,) * 2,
                high=(GOAL_RADIUS,) * 2,
                success_radius=0.3,
                strict_radius=0.15,
                easy_radius=0.6,
            ),
            action=ActionSpec(
                kind="joint_position",
                joints=JOINTS,
                unit="rad",
                scale=SCALE,
                offset=STANDING,
                stiffness=(STIFFNESS,) * 12,
                damping=(DAMPING,) * 12,
            ),
            joints=JointSpec(
                names=JOINTS,
                unit="rad",
                default=STANDING,
                lower=LOWER,
                upper=UPPER,
                velocity=VELOCITY,
                slowdown=0.0,
                margin=0.0,
            ),
            control_dt=0.02,
            episode_length=500,
            deployed=DeployedSpec(
                reading=(
                    _sensor("gravity_direction", 0, axes, "1", "body", 0.03),
                    _sensor("base_angular_velocity", 3, axes, "rad/s", "body", 0.1),
                    _sensor("joint_position_from_default", 6, JOINTS, "rad", "joint", 0.01),
                    _sensor("joint_velocity", 18, JOINTS, "rad/s", "joint", 0.5),
                    _sensor("last_action", 30, JOINTS, "1", "joint", 0.0),
                ),
                history=5,
                goal=DeployedGoal(
                    name="goal_from_base", entries=("ahead", "left"), unit="m", frame="heading"
                ),
            ),
        )

    def model(self, engine: str) -> mujoco.MjModel:
        spec = mujoco.MjSpec()
        spec.modelname = "quadruped"
        spec.compiler.degree = False
        spec.compiler.fusestatic = True  # a foot moves with its calf
        option = spec.option
        option.timestep = TIME_STEP
        # One Newton step a time step, as fast as MJX goes; with fewer steps of its line search, feet that
        # land would leave the two engines apart.
        option.integrator = mujoco.mjtIntegrator.mjINT_EULER
        option.disableflags |= mujoco.mjtDisableBit.mjDSBL_EULERDAMP
        option.cone = mujoco.mjtCone.mjCONE_PYRAMIDAL
        option.solver = mujoco.mjtSolver.mjSOL_NEWTON
        option.iterations, option.ls_iterations = 1, 8
        spec.worldbody.add_light(pos=[0, 0, 3])
        spec.worldbody.add_geom(
            name="floor",
            type=mujoco.mjtGeom.mjGEOM_PLANE,
            size=[0, 0, 0.05],
            contype=1,
            conaffinity=0,
            friction=[FRICTION, 0.02, 0.01],
            rgba=[0.6, 0.64, 0.68, 1],
        )
        trunk = spec.worldbody.add_body(name="trunk", pos=[0, 0, START_HEIGHT], **_inertial(TRUNK_INERTIA))
        trunk.add_freejoint(name="trunk")
        trunk.add_geom(
            type=mujoco.mjtGeom.mjGEOM_BOX,
            size=np.array(TRUNK) / 2,
            rgba=[0.25, 0.27, 0.3, 1],
            contype=0,
            conaffinity=0,
        )
        for leg in range(4):
            _add_leg(spec, trunk, leg)
        return spec.compile()

    def start(self, key: Array, layout: str) -> Start:
        joint_key, heading_key, radius_key, angle_key = jax.random.split(key, 4)
        spread = START_SPREAD
        joints = jnp.asarray(STANDING) + jax.random.uniform(joint_key, (12,), minval=-spread, maxval=spread)
        half = jax.random.uniform(heading_key, minval=-spread, maxval=spread) / 2
        zero = jnp.zeros(())
        base = jnp.stack([zero, zero, zero + START_HEIGHT, jnp.cos(half), zero, zero, jnp.sin(half)])
        radius = GOAL_RADIUS * jax.random.uniform(radius_key) ** 0.5
        angle = jax.random.uniform(angle_key, minval=-jnp.pi, maxval=jnp.pi)
        goal = radius * jnp.stack([jnp.cos(angle), jnp.sin(angle)])
        return Start(jnp.concatenate([base, joints]), jnp.zeros(18), goal)

    def observe(self, state: State) -> Array:
        qpos, qvel = state.qpos, state.qvel
        xp = qpos.__array_namespace__()
        axes = rotation(qpos)
        # MuJoCo gives a free body's angular velocity in the body's frame.
        turning = (axes @ qvel[..., 3:6, None])[..., 0]
        parts = [qpos[..., :3], axes[..., 0], axes[..., 2], qvel[..., :3], turning]
        return xp.concatenate([*parts, qpos[..., 7:], qvel[..., 6:]], axis=-1)

    def control(self, state: State, action: Array) -> Array:
        """Joint positions in rad."""
        xp, dtype = action.__array_namespace__(), state.qpos.dtype
        return xp.asarray(STANDING, dtype=dtype) + xp.asarray(SCALE, dtype=dtype) * xp.clip(action, -1, 1)

    def ended(self, state: State) -> Array:
        """Whether the trunk is down or a knee on the floor."""
        qpos = state.qpos
        low = (qpos[..., 2] < FALLEN_HEIGHT) | (knee_height(qpos) < KNEE_HEIGHT).any(-1)
        return low | (rotation(qpos)[..., 2, 2] < FALLEN_COSINE)

    def reading(self, state: State, action: Array) -> Array:
        xp = action.__array_namespace__()
        qpos, qvel = state.qpos, state.qvel
        gravity = -rotation(qpos)[..., 2, :]
        joints = qpos[..., 7:] - xp.asarray(STANDING, dtype=qpos.dtype)
        parts = [gravity, qvel[..., 3:6], joints, qvel[..., 6:], xp.clip(action, -1, 1)]
        return xp.concatenate(parts, axis=-1)

    def deployed_goal(self, qpos: Array, goal: Array) -> Array:
        """Metres ahead and to the left, along the floor."""
        xp = goal.__array_namespace__()
        way = goal - qpos[..., :2]
        axes = rotation(qpos)
        heading = xp.arctan2(axes[..., 1, 0], axes[..., 0, 0])
        cos, sin = xp.cos(heading), xp.sin(heading)
        x, y = way[..., 0], way[..., 1]
        return xp.stack([cos * x + sin * y, cos * y - sin * x], axis=-1)

    def marker(self, goal: Array) -> Array:
        xp = goal.__array_namespace__()
        return xp.concatenate([goal, xp.zeros_like(goal[..., :1])], axis=-1)


def _sensor(
    name: str, start: int, entries: tuple[str, ...], unit: str, frame: str, noise: float
) -> SensorTerm:
    return SensorTerm(name=name, start=start, entries=entries, unit=unit, frame=frame, noise=noise)


def _inertial(inertia: tuple, ahead: int = 1, left: int = 1) -> dict:
    """A body's mass and inertia; of its mirror image in the sides' signs."""
    mass, (x, y, z), (xx, yy, zz, xy, xz, yz) = inertia
    return {
        "mass": mass,
        "ipos": [ahead * x, left * y, z],
        "fullinertia": [xx, yy, zz, ahead * left * xy, ahead * xz, left * yz],
        "explicitinertial": True,
    }


def _add_leg(spec: mujoco.MjSpec, trunk: mujoco.MjsBody, leg: int) -> None:
    ahead, left = AHEAD[leg], LEFT[leg]
    ends = ([0, left * SIDE, 0], [0, 0, -THIGH], [0, 0, -CALF])
    origins = ([ahead * HIP[0], left * HIP[1], 0], *ends)
    inertia = (
        _inertial(HIP_INERTIA, ahead, left),
        _inertial(THIGH_INERTIA, 1, left),
        _inertial(CALF_INERTIA, 1, left),
    )
    parent = trunk
    for part in range(3):
        number = 3 * leg + part
        name = JOINTS[number]
        parent = parent.add_body(name=name.removesuffix("_joint"), pos=origins[part], **inertia[part])
        parent.add_joint(
            name=name,
            type=mujoco.mjtJoint.mjJNT_HINGE,
            axis=[1, 0, 0] if part == 0 else [0, 1, 0],
            range=[LOWER[number], UPPER[number]],
            limited=part == 2,  # actions keep the other joints far from their limits
            armature=ARMATURE,
        )
        parent.add_geom(
            type=mujoco.mjtGeom.mjGEOM_CAPSULE,
            fromto=[0, 0, 0, *ends[part]],
            size=[(0.04, 0.022, 0.014)[part], 0, 0],
            rgba=[0.85, 0.86, 0.88, 1],
            contype=0,
            conaffinity=0,
        )
        servo = spec.add_actuator(
            name=name,
            trntype=mujoco.mjtTrn.mjTRN_JOINT,
            target=name,
            ctrllimited=True,
            ctrlrange=[LOWER[number], UPPER[number]],
            forcelimited=True,
            forcerange=[-TORQUE[number], TORQUE[number]],
        )
        servo.set_to_position(STIFFNESS, kv=DAMPING)
    foot = parent.add_body(name=f"{LEGS[leg]}_foot", pos=origins[3], **_inertial(FOOT_INERTIA))
    foot.add_geom(
        name=f"{LEGS[leg]}_foot",
        type=mujoco.mjtGeom.mjGEOM_SPHERE,
        size=[FOOT_RADIUS, 0, 0],
        contype=0,
        conaffinity=1,
        solimp=RUBBER,
        friction=[FRICTION, 0.02, 0.01],
        rgba=[0.1, 0.1, 0.1, 1],
    )
