"""A task so plain that all that physics do to it can be told by hand."""

from functools import cached_property

import jax
import jax.numpy as jnp
import mujoco

from teacher.randomization import DomainRandomization
from teacher.spec import ActionSpec, GoalSpec, JointSpec, ObservationTerm, TaskSpec
from teacher.tasks import MujocoTask, Start

MASS, FRICTION = 2.0, 0.5  # kg, 1
GAIN, FORCE_LIMIT = 40.0, 30.0  # N at full action, N
PERIOD, TIME_STEP = 0.02, 0.002  # s
STEPS = 30  # of an episode


class Sled(MujocoTask):
    """A sled that a force moves along the floor."""

    engines = ("mjx", "mujoco")
    pushed = (0,)
    randomise = DomainRandomization(friction=0.2, push_interval_s=3.0)

    @cached_property
    def spec(self):
        return TaskSpec(
            name="sled",
            version=1,
            observation=(
                ObservationTerm(name="position", start=0, entries=("x",), unit="m", frame="world"),
                ObservationTerm(name="velocity", start=1, entries=("x",), unit="m/s", frame="world"),
            ),
            goal=GoalSpec(
                name="position",
                entries=("x",),
                unit="m",
                frame="world",
                observation_indices=(0,),
                low=(-1.0,),
                high=(1.0,),
                success_radius=0.1,
                strict_radius=0.05,
                easy_radius=0.2,
            ),
            action=ActionSpec(kind="joint_torque", joints=("x",), unit="N", scale=(GAIN,), offset=(0.0,)),
            joints=JointSpec(
                names=("x",),
                unit="m",
                default=(0.0,),
                lower=(-9.0,),
                upper=(9.0,),
                velocity=(9.0,),
                slowdown=0.0,
                margin=0.0,
            ),
            control_dt=PERIOD,
            episode_length=STEPS,
        )

    def model(self, engine):
        spec = mujoco.MjSpec()
        spec.option.timestep = TIME_STEP
        spec.worldbody.add_geom(
            type=mujoco.mjtGeom.mjGEOM_PLANE, size=[0, 0, 0.1], friction=[FRICTION, 0.0, 0.0]
        )
        sled = spec.worldbody.add_body(
            name="sled", pos=[0, 0, 0.1], mass=MASS, inertia=[1, 1, 1], explicitinertial=True
        )
        for name, axis in (("x", [1, 0, 0]), ("z", [0, 0, 1])):
            sled.add_joint(name=name, type=mujoco.mjtJoint.mjJNT_SLIDE, axis=axis)
        sled.add_geom(
            type=mujoco.mjtGeom.mjGEOM_SPHERE,
            size=[0.1, 0, 0],
            friction=[FRICTION, 0.0, 0.0],
            solref=[0.05, 1.0],  # s: harder contacts come and go while a sled slides
            priority=1,
        )
        spec.add_actuator(
            name="x",
            trntype=mujoco.mjtTrn.mjTRN_JOINT,
            target="x",
            gainprm=[GAIN] + [0] * 9,
            forcelimited=True,
            forcerange=[-FORCE_LIMIT, FORCE_LIMIT],
        )
        return spec.compile()

    def start(self, key, layout):
        return Start(jnp.zeros(2), jnp.zeros(2), jax.random.uniform(key, (1,), minval=-1, maxval=1))

    def observe(self, state):
        xp = state.qpos.__array_namespace__()
        return xp.stack([state.qpos[..., 0], state.qvel[..., 0]], axis=-1)

    def control(self, state, action):
        return action.__array_namespace__().clip(action, -1, 1)

    def marker(self, goal):
        xp = goal.__array_namespace__()
        return xp.concatenate([goal, xp.zeros_like(goal), xp.zeros_like(goal)], axis=-1)
