"""The planar two-joint arm of brax's packaged model, without its target body."""

from functools import cached_property
from importlib.metadata import distribution

import jax
import jax.numpy as jnp
import mujoco

from teacher.spec import ActionSpec, TaskSpec
from teacher.tasks.base import Array, MujocoTask, Start, State, goal_of, hinge_spec, observation_terms

JOINTS = ("joint0", "joint1")
LINK, FINGERTIP = 0.1, 0.11  # m: length of the first link, fingertip beyond the second joint
TIME_STEP = 0.005  # s
GEAR = 25.0  # N m at full action
START_SPREAD = 0.1  # rad
REACH = 0.2  # m: goals lie in the disc that the published task uses


def fingertip_position(qpos: Array) -> Array:
    """Angles [..., 2] -> fingertip [..., 2] in metres, in the base frame."""
    xp = qpos.__array_namespace__()
    angles = xp.stack([qpos[..., 0], qpos[..., 0] + qpos[..., 1]], axis=-1)
    lengths = xp.asarray([LINK, FINGERTIP], dtype=qpos.dtype)
    return xp.stack([(lengths * xp.cos(angles)).sum(-1), (lengths * xp.sin(angles)).sum(-1)], axis=-1)


class Reacher(MujocoTask):
    """Two joint torques at 50 Hz bring the fingertip to a point in the plane."""

    engines = ("mjx", "brax", "mujoco")
    pushed = (0, 1)
    marker_height = 0.01

    @cached_property
    def spec(self) -> TaskSpec:
        terms = observation_terms(
            ("joint_direction", ("cos_joint0", "cos_joint1", "sin_joint0", "sin_joint1"), "1", "joint"),
            ("joint_velocity", JOINTS, "rad/s", "joint"),
            ("fingertip_position", ("x", "y"), "m", "base"),
        )
        return TaskSpec(
            name="reacher",
            version=2,
            observation=terms,
            goal=goal_of(terms, "fingertip_position", (-REACH,) * 2, (REACH,) * 2, radii=(0.02, 0.05, 0.1)),
            action=ActionSpec(
                kind="joint_torque", joints=JOINTS, unit="fraction", scale=(1.0, 1.0), offset=(0.0, 0.0)
            ),
            joints=hinge_spec(self.model("mjx"), (0.0, 0.0)),  # the first one turns freely
            control_dt=0.02,
            episode_length=100,
        )

    def model(self, engine: str) -> mujoco.MjModel:
        # Found, not imported: importing brax takes a second and prints.
        spec = mujoco.MjSpec.from_file(str(distribution("brax").locate_file("brax/envs/assets/reacher.xml")))
        spec.delete(spec.body("target"))
        # For brax: its settings count the target's body and joints, which are gone, and it
        # knows no body without a joint.
        spec.delete(spec.numeric("init_qpos"))
        for name in ("constraint_stiffness", "constraint_vel_damping"):
            numeric = spec.numeric(name)
            numeric.data, numeric.size = list(numeric.data)[:2], 2
        spec.compiler.fusestatic = True
        # brax's own settings for its spring pipeline; one model for every engine.
        spec.option.timestep = TIME_STEP
        for actuator in spec.actuators:
            actuator.gear = [GEAR, 0, 0, 0, 0, 0]
        return spec.compile()

    def start(self, key: Array, layout: str) -> Start:
        start_key, radius_key, angle_key = jax.random.split(key, 3)
        qpos = jax.random.uniform(start_key, (2,), minval=-START_SPREAD, maxval=START_SPREAD)
        radius = REACH * jax.random.uniform(radius_key) ** 0.5
        angle = jax.random.uniform(angle_key, minval=-jnp.pi, maxval=jnp.pi)
        return Start(qpos, jnp.zeros(2), radius * jnp.stack([jnp.cos(angle), jnp.sin(angle)]))

    def observe(self, state: State) -> Array:
        qpos, qvel = state.qpos, state.qvel
        xp = qpos.__array_namespace__()
        return xp.concatenate([xp.cos(qpos), xp.sin(qpos), qvel, fingertip_position(qpos)], axis=-1)
