"""A SCARA of two joints, as a newcomer writes it: sound, for slips to be planted in."""

from functools import cached_property

import jax
import jax.numpy as jnp
import mujoco

from teacher.spec import ActionSpec, GoalSpec, JointSpec, ObservationTerm, TaskSpec
from teacher.tasks import MujocoTask, Start

JOINTS, AXES, SPEED = ("shoulder", "elbow"), ("x", "y"), 2.0
MJCF = """
<mujoco model="scara">
  <compiler angle="radian"/>
  <option timestep="0.005" integrator="implicitfast" iterations="4" ls_iterations="8"/>
  <default>
    <geom type="capsule" size=".02" contype="0" conaffinity="0"/>
    <joint axis="0 0 1" armature=".05"/>
    <velocity kv="5" ctrlrange="-2 2" forcerange="-20 20"/>
  </default>
  <worldbody>
    <body pos="0 0 .2"> <joint name="shoulder" range="-2 2"/> <geom fromto="0 0 0 .3 0 0"/>
      <body pos=".3 0 0"> <joint name="elbow" range="-2.4 2.4"/> <geom fromto="0 0 0 .25 0 0"/>
        <site name="tip" pos=".25 0 0"/>
      </body>
    </body>
  </worldbody>
  <actuator> <velocity joint="shoulder"/> <velocity joint="elbow"/> </actuator>
</mujoco>
"""


class Scara(MujocoTask):
    """The tip of a SCARA comes to a point."""

    engines = ("mjx", "mujoco")
    sites = ("tip",)
    marker_height = 0.2

    @cached_property
    def spec(self):
        return TaskSpec(
            name="scara",
            version=1,
            control_dt=0.05,
            episode_length=100,
            observation=(
                ObservationTerm(name="joint_position", start=0, entries=JOINTS, unit="rad", frame="joint"),
                ObservationTerm(name="tip", start=2, entries=AXES, unit="m", frame="world"),
                ObservationTerm(name="joint_velocity", start=4, entries=JOINTS, unit="rad/s", frame="joint"),
            ),
            goal=GoalSpec(
                name="tip",
                entries=AXES,
                unit="m",
                frame="world",
                observation_indices=(2, 3),
                low=(0.25, -0.25),
                high=(0.45, 0.25),
                strict_radius=0.01,
                success_radius=0.02,
                easy_radius=0.04,
            ),
            action=ActionSpec(
                kind="joint_velocity", joints=JOINTS, unit="rad/s", scale=(SPEED, SPEED), offset=(0, 0)
            ),
            joints=JointSpec(
                names=JOINTS,
                unit="rad",
                default=(0, 1),
                lower=(-2, -2.4),
                upper=(2, 2.4),
                velocity=(3, 3),
                slowdown=0,
                margin=0,
            ),
        )

    def model(self, engine):
        return mujoco.MjModel.from_xml_string(MJCF)

    def start(self, key, layout):
        pose_key, goal_key = jax.random.split(key)
        qpos = jnp.array([0.0, 1.0]) + jax.random.uniform(pose_key, (2,), minval=-0.5, maxval=0.5)
        low, high = jnp.array(self.spec.goal.low), jnp.array(self.spec.goal.high)
        return Start(qpos, jnp.zeros(2), jax.random.uniform(goal_key, (2,), minval=low, maxval=high))

    def observe(self, state):
        xp = state.qpos.__array_namespace__()
        return xp.concatenate([state.qpos, state.sites.position[..., 0, :2], state.qvel], -1)

    def control(self, state, action):
        return SPEED * action.__array_namespace__().clip(action, -1, 1)
