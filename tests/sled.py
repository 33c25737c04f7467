"""Tasks so plain that all that physics do to them can be told by hand."""

from functools import cached_property

import jax
import jax.numpy as jnp
import mujoco

from teacher.randomization import DomainRandomization
from teacher.spec import ActionSpec, JointSpec, TaskSpec
from teacher.tasks import MujocoTask, Start
from teacher.tasks.base import goal_of, observation_terms

MASS, FRICTION = 2.0, 0.5  # kg, 1
GAIN, FORCE_LIMIT = 40.0, 30.0  # N at full action, N
PERIOD, TIME_STEP = 0.02, 0.002  # s
STEPS = 30  # of an episode
MJCF = f"""
<mujoco>
  <option timestep="{TIME_STEP}"/>
  <worldbody>
    <geom type="plane" size="0 0 0.1" friction="{FRICTION} 0 0"/>
    <body name="sled" pos="0 0 0.1">
      <inertial mass="{MASS}" pos="0 0 0.1" diaginertia="1 1 1"/>
      <joint name="x" type="slide" axis="1 0 0"/> <joint name="z" type="slide" axis="0 0 1"/>
      <geom size="0.1" friction="{FRICTION} 0 0" solref="0.05 1" priority="1"/>
    </body>
  </worldbody>
  <actuator><motor name="x" joint="x" gear="1" forcerange="-{FORCE_LIMIT} {FORCE_LIMIT}"/></actuator>
</mujoco>"""  # solref in s: harder contacts come and go while a sled slides


def toy_spec(name, terms, reach, radius, *, limit=None, scale=1.0, dt, length, kind="other"):
    """A specification whose goal, action and joints are about the first of the terms.

    Args: terms: as `observation_terms` takes them; reach: of goals around zero; limit: of joints."""
    observation, (first, axes, unit, _) = observation_terms(*terms), terms[0]

    def each(value):
        return (value,) * len(axes)

    return TaskSpec(
        name=name,
        version=1,
        observation=observation,
        goal=goal_of(observation, first, each(-reach), each(reach), (radius / 2, radius, 2 * radius)),
        action=ActionSpec(kind=kind, joints=axes, unit=unit, scale=each(scale), offset=each(0.0)),
        joints=JointSpec(
            names=axes,
            unit=unit,
            default=each(0.0),
            lower=each(limit and -limit),
            upper=each(limit),
            velocity=each(limit),
            slowdown=0.0,
            margin=0.0,
        ),
        control_dt=dt,
        episode_length=length,
    )


class Slide(MujocoTask):
    """Something of any model that slides along x."""

    engines = ("mjx", "mujoco")

    def __init__(self, text):
        self.text = text

    @cached_property
    def spec(self):
        terms = (("position", ("slide",), "m", "world"), ("velocity", ("slide",), "m/s", "world"))
        return toy_spec("slide", terms, 0.4, 0.05, scale=0.4, dt=0.05, length=40, kind="joint_torque")

    def model(self, engine):
        return mujoco.MjModel.from_xml_string(self.text)

    def start(self, key, layout):
        model, reach = self.model("mjx"), self.spec.goal.high[0]
        goal = jax.random.uniform(key, (1,), minval=-reach, maxval=reach)
        return Start(jnp.zeros(model.nq), jnp.zeros(model.nv), goal)

    def observe(self, state):
        xp = state.qpos.__array_namespace__()
        return xp.stack([state.qpos[..., 0], state.qvel[..., 0]], axis=-1)

    def marker(self, goal):
        xp = goal.__array_namespace__()
        return xp.concatenate([goal, 0 * goal, 0 * goal], axis=-1)


class Sled(Slide):
    """A sled that a force moves along the floor."""

    pushed = (0,)
    randomise = DomainRandomization(friction=0.2, push_interval_s=3.0)

    def __init__(self):
        super().__init__(MJCF)

    @cached_property
    def spec(self):
        terms = (("position", ("x",), "m", "world"), ("velocity", ("x",), "m/s", "world"))
        how = {"limit": 9.0, "dt": PERIOD, "length": STEPS, "kind": "joint_torque"}
        return toy_spec("sled", terms, 1.0, 0.1, scale=GAIN, **how)
