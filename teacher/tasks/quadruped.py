"""A quadruped of the Unitree Go2's dimensions (`models/go2.xml`) that walks to a point on the floor."""

from functools import cached_property
from pathlib import Path

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from teacher.randomization import DomainRandomization
from teacher.spec import ActionSpec, DeployedGoal, DeployedSpec, TaskSpec
from teacher.tasks.base import (
    Array,
    MujocoTask,
    Start,
    State,
    goal_of,
    hinge_spec,
    observation_terms,
    rotation_matrix,
    sensor_terms,
)

LEGS = ("FR", "FL", "RR", "RL")  # in the order of the robot's own interface
JOINTS = tuple(f"{leg}_{part}_joint" for leg in LEGS for part in ("hip", "thigh", "calf"))
MODEL = Path(__file__).with_name("models") / "go2.xml"
_MODEL = mujoco.MjModel.from_xml_path(str(MODEL))
# m: hip joints from the trunk's origin [4, 3], from there to the thigh joints [4], length of a thigh.
HIPS, SIDES = (np.stack([_MODEL.body(f"{leg}_{part}").pos for leg in LEGS]) for part in ("hip", "thigh"))
THIGH = -float(_MODEL.body("FL_calf").pos[2])
VELOCITY = (30.1, 30.1, 15.7) * 4  # rad/s

# rad: what the motors are asked for in standing; the rear feet are behind their hips, because knees give
# way under the weight and the feet then come forward.
STANDING = (0.0, 0.8, -1.5) * 2 + (0.0, 1.0, -1.5) * 2
SCALE = (0.3, 0.4, 0.4) * 4  # rad

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
    xp, dtype = qpos.__array_namespace__(), qpos.dtype
    hip, thigh = qpos[..., 7::3], qpos[..., 8::3]
    down, out = THIGH * xp.cos(thigh), xp.asarray(SIDES[:, 1], dtype=dtype)
    x = xp.asarray(HIPS[:, 0], dtype=dtype) - THIGH * xp.sin(thigh)
    y = xp.asarray(HIPS[:, 1], dtype=dtype) + out * xp.cos(hip) + down * xp.sin(hip)
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
        terms = observation_terms(
            ("base_position", axes, "m", "world"),
            ("base_axes", tuple(f"{a}_{b}" for a in ("ahead", "up") for b in axes), "1", "world"),
            ("base_velocity", axes, "m/s", "world"),
            ("base_angular_velocity", axes, "rad/s", "world"),
            ("joint_position", JOINTS, "rad", "joint"),
            ("joint_velocity", JOINTS, "rad/s", "joint"),
        )
        low, high = (-GOAL_RADIUS,) * 2, (GOAL_RADIUS,) * 2
        return TaskSpec(
            name="quad_reach",
            version=1,
            observation=terms,
            goal=goal_of(terms, "base_position", low, high, radii=(0.15, 0.3, 0.6)),
            action=ActionSpec(
                kind="joint_position",
                joints=JOINTS,
                unit="rad",
                scale=SCALE,
                offset=STANDING,
                stiffness=tuple(_MODEL.actuator_gainprm[:, 0].tolist()),
                damping=tuple((-_MODEL.actuator_biasprm[:, 2]).tolist()),
            ),
            joints=hinge_spec(_MODEL, (0.0,) * 7 + STANDING, VELOCITY),
            control_dt=0.02,
            episode_length=500,
            deployed=DeployedSpec(
                reading=sensor_terms(
                    ("gravity_direction", axes, "1", "body", 0.03),
                    ("base_angular_velocity", axes, "rad/s", "body", 0.1),
                    ("joint_position_from_default", JOINTS, "rad", "joint", 0.01),
                    ("joint_velocity", JOINTS, "rad/s", "joint", 0.5),
                    ("last_action", JOINTS, "1", "joint", 0.0),
                ),
                history=5,
                goal=DeployedGoal(
                    name="goal_from_base", entries=("ahead", "left"), unit="m", frame="heading"
                ),
            ),
        )

    def model(self, engine: str) -> mujoco.MjModel:
        return mujoco.MjModel.from_xml_path(str(MODEL))

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
