"""Models of a user's own on the engines: they move as in the C engine, or are refused by what is lacking."""

from functools import cached_property

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

import teacher.rollout
from teacher.errors import UsageError
from teacher.rollout import Simulation
from teacher.spec import ActionSpec, GoalSpec, JointSpec, ObservationTerm, TaskSpec
from teacher.tasks import MujocoTask, Start
from teacher.tasks.engines import make_engine

SLIDE = """
<mujoco>
  <option timestep=".01" {option}/>
  <worldbody>
    <body name="cart">
      <joint name="slide" type="slide" axis="1 0 0" {joint}/>
      <geom name="cart" size=".05" mass="1" contype="0" conaffinity="0" {geom}/>
    </body>
  </worldbody>
  <actuator>{actuator}</actuator>
</mujoco>
"""
PARTS = {
    "option": 'integrator="implicitfast"',
    "joint": 'damping=".1"',
    "geom": "",
    "actuator": '<position joint="slide" kp="40" kv="8" ctrlrange="-.5 .5"/>',
}
CLOTH = 'name="cloth" type="grid" count="3 3 1" spacing=".1 .1 .1" radius=".01" dim="2" rigid="true"'
SERVO = '<position joint="slide" kp="40" kv="8" ctrlrange="-.5 .5" {}/>'


class Slide(MujocoTask):
    """A cart on a slide, of any model."""

    engines = ("mjx", "mujoco")

    def __init__(self, text: str):
        self.text = text

    @cached_property
    def spec(self):
        one = {"entries": ("slide",), "frame": "joint"}
        return TaskSpec(
            name="slide",
            version=1,
            observation=(
                ObservationTerm(name="joint_position", start=0, unit="m", **one),
                ObservationTerm(name="joint_velocity", start=1, unit="m/s", **one),
            ),
            goal=GoalSpec(
                name="place",
                unit="m",
                observation_indices=(0,),
                low=(-0.4,),
                high=(0.4,),
                success_radius=0.05,
                strict_radius=0.02,
                easy_radius=0.1,
                **one,
            ),
            action=ActionSpec(kind="joint_torque", joints=("slide",), unit="1", scale=(1,), offset=(0,)),
            joints=JointSpec(
                names=("slide",),
                unit="m",
                default=(0,),
                lower=(None,),
                upper=(None,),
                velocity=(None,),
                slowdown=0,
                margin=0,
            ),
            control_dt=0.05,
            episode_length=40,
        )

    def model(self, engine):
        return mujoco.MjModel.from_xml_string(self.text)

    def start(self, key, layout):
        model = self.model("mjx")
        goal = jax.random.uniform(key, (1,), minval=-0.4, maxval=0.4)
        return Start(jnp.zeros(model.nq), jnp.zeros(model.nv), goal)

    def observe(self, state):
        return state.qpos.__array_namespace__().concatenate(
            [state.qpos[..., :1], state.qvel[..., :1]], axis=-1
        )

    def control(self, state, action):
        return 0.4 * action.__array_namespace__().clip(action, -1, 1)

    def marker(self, goal):
        xp = goal.__array_namespace__()
        return xp.concatenate([goal, 0 * goal, 0 * goal], axis=-1)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(teacher.rollout, "ROLLOUT_BATCHES", (2,))


def moved(task, engine, value=1.0):
    """Observations of an episode under one action."""
    simulation = Simulation(task, engine)
    start = simulation.starts(jax.random.key(0), 2)
    return simulation.rollout(lambda o, g: np.full((len(g), 1), value, np.float32), start).observation


def slide(**parts):
    return Slide(SLIDE.format(**(PARTS | parts)))


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"actuator": SERVO.format('timeconst=".2"')},
        {"actuator": '<intvelocity joint="slide" kp="40" kv="8" actrange="-.5 .5" ctrlrange="-.5 .5"/>'},
        {"actuator": '<general joint="slide" dyntype="filter" dynprm=".1" gainprm="5" ctrlrange="-.5 .5"/>'},
        {"actuator": '<cylinder joint="slide" area="5" timeconst=".1" ctrlrange="-.5 .5"/>'},
        {
            "actuator": '<muscle joint="slide" ctrlrange="0 1" force="20" lengthrange="-1 1"/>',
            "option": 'integrator="Euler"',
        },
    ],
    ids=["servo", "timeconst", "intvelocity", "filter", "cylinder", "muscle"],
)
def test_actuators_with_a_state_of_their_own_move_as_in_the_c_engine(parts):
    in_mjx, in_c = (moved(slide(**parts), engine) for engine in ("mjx", "mujoco"))
    assert np.ptp(in_c[..., 0], axis=0).min() > 0.05
    np.testing.assert_allclose(in_mjx, in_c, atol=2e-3)


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ({"actuator": SERVO.format('delay=".15" nsample="16"')}, "a delay of actuators or sensors"),
        ({"option": 'integrator="implicit"'}, "mjINT_IMPLICIT"),
        (
            {"option": 'integrator="implicitfast" density="1.2"'},
            "implicitfast not implemented for fluid drag",
        ),
        (
            {"option": 'integrator="Euler" density="1.2"', "geom": 'fluidshape="ellipsoid"'},
            "fluidshape of geoms",
        ),
        ({"option": 'noslip_iterations="3"'}, "noslip_iterations"),
        ({"option": 'actuatorgroupdisable="1"'}, "actuatorgroupdisable"),
        (
            {"actuator": '<general joint="slide" dyntype="filter" ctrlrange="-1 1" actearly="true"/>'},
            "actearly of actuators",
        ),
        ({"actuator": '<adhesion body="cart" ctrlrange="0 1" gain="1"/>'}, "mjTRN_BODY"),
        ({"geom": f'/></body><body name="hung"><flexcomp {CLOTH}'}, "flexible bodies"),
        (
            {"actuator": '<muscle joint="slide" ctrlrange="0 1" force="20" lengthrange="-1 1"/>'},
            "muscles in the integrator implicitfast",
        ),
        ({"joint": 'damping=".1 .2 .3"'}, "polynomial damping of joints"),
        ({"joint": 'stiffness="1 2 3"'}, "polynomial stiffness of joints"),
        ({"actuator": SERVO.format('armature="3"')}, "armature of actuators"),
        ({"actuator": SERVO.format('damping="3"')}, "damping of actuators"),
        ({"geom": 'surfacevel="1 0 0"'}, "surfacevel of geoms"),
    ],
)
def test_what_mjx_does_not_have_is_refused_by_name(parts, told):
    try:
        task = slide(**parts)
        task.model("mjx")
    except ValueError as error:
        pytest.skip(f"MuJoCo {mujoco.__version__} has none of it: {error}")
    with pytest.raises(UsageError, match=f"task 'slide' on engine 'mjx': the engine does not have .*{told}"):
        make_engine(task, "mjx")
    make_engine(task, "mujoco")


def test_a_model_that_an_engine_lacks_leaves_nothing_behind(tmp_path, pipeline):
    text = SLIDE.format(**(PARTS | {"option": 'integrator="implicit"'}))
    (tmp_path / "slide.py").write_text(
        f"from test_engines import Slide\n\ndef made():\n    return Slide({text!r})\n"
    )
    done = pipeline("run", "--preset", "debug", "--task", "slide.py:made", "--run", "r", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "task 'slide' on engine 'mjx'" in " ".join(done.stderr.split())
    assert not (tmp_path / "r").exists()


# What a task sees beside its joints

ARM = """
<mujoco>
  <option timestep=".01" gravity="0 -3 -9"/>
  <worldbody>
    <body name="base" pos=".3 -.2 .5" euler="20 30 40"><freejoint/><geom size=".1" pos=".02 0 .03"/>
      <body name="arm" pos=".1 .2 0" euler="50 0 10">
        <joint name="slide" axis="1 2 0"/><geom size=".05" pos="0 0 .2"/>
        <site name="other"/> <site name="tip" pos=".1 .2 .3" euler="0 70 10"/>
      </body>
    </body>
  </worldbody>
  <actuator><motor joint="slide" ctrlrange="-1 1"/></actuator>
  <sensor>
    <gyro name="unused" site="other"/> <accelerometer name="acceleration" site="tip"/> <clock name="clock"/>
    <actuatorfrc name="torque" actuator="0"/>
  </sensor>
</mujoco>
""".replace('motor joint="slide"', 'motor name="0" joint="slide"')


class Seeing(Slide):
    """An arm on a free base that sees its tip, its base and its sensors."""

    sites, bodies, sensors = ("tip",), ("arm", "base"), ("torque", "acceleration", "clock")

    def observe(self, state):
        xp = state.qpos.__array_namespace__()
        frames = [part.reshape(*part.shape[:-2], -1) for part in (*state.sites, *state.bodies)]
        return xp.concatenate([state.qpos[..., -1:], *frames, state.sensors], axis=-1)

    def start(self, key, layout):
        qpos = jnp.array([0.3, -0.2, 0.5, 0.8, 0.0, 0.6, 0.0, 0.4])
        return Start(qpos, jnp.array([1.0, -2, 3, 2, 1, -1, 5]), jnp.zeros(1))


@pytest.mark.parametrize("sensors", [Seeing.sensors, ()])
def test_sites_bodies_and_sensors_are_the_same_in_mjx_and_in_the_c_engine(sensors):
    task = Seeing(ARM)
    task.sensors = sensors
    if not sensors:
        task.observe = lambda state: Seeing.observe(task, state._replace(sensors=state.qpos[..., :0]))
    in_mjx, in_c = (moved(task, engine, 0.7)[:10] for engine in ("mjx", "mujoco"))
    assert np.ptp(in_c, axis=0).max(0).min() > 0.01 * (len(sensors) == 0)
    np.testing.assert_allclose(in_mjx, in_c, atol=5e-3, rtol=1e-3)


def test_frames_and_sensors_are_those_of_mujoco():
    task = Seeing(ARM)
    simulation = Simulation(task, "mujoco")
    start = simulation.starts(jax.random.key(0), 1)
    state = simulation.reset(start)
    for _ in range(3):
        state = simulation.step(state, np.full((1, 1), 0.7))
    seen = simulation.engine.read(state.physics)
    model, data = task.model("mujoco"), mujoco.MjData(task.model("mujoco"))
    data.qpos, data.qvel, data.ctrl, data.time = seen.qpos[0], seen.qvel[0], seen.control[0], 0.15
    mujoco.mj_forward(model, data)
    velocity, turned = np.zeros(6), np.zeros(4)
    mujoco.mj_objectVelocity(model, data, mujoco.mjtObj.mjOBJ_SITE, model.site("tip").id, velocity, 0)
    mujoco.mju_mat2Quat(turned, data.site("tip").xmat)
    np.testing.assert_allclose(seen.sites.position[0, 0], data.site("tip").xpos, atol=1e-9)
    np.testing.assert_allclose(np.abs(seen.sites.orientation[0, 0] @ turned), 1, atol=1e-9)
    np.testing.assert_allclose(seen.sites.angular_velocity[0, 0], velocity[:3], atol=1e-9)
    np.testing.assert_allclose(seen.sites.velocity[0, 0], velocity[3:], atol=1e-9)
    for i, name in enumerate(task.bodies):
        mujoco.mj_objectVelocity(model, data, mujoco.mjtObj.mjOBJ_XBODY, model.body(name).id, velocity, 0)
        np.testing.assert_allclose(seen.bodies.position[0, i], data.body(name).xpos, atol=1e-9)
        np.testing.assert_allclose(seen.bodies.orientation[0, i], data.body(name).xquat, atol=1e-9)
        np.testing.assert_allclose(seen.bodies.velocity[0, i], velocity[3:], atol=1e-9)
        np.testing.assert_allclose(seen.bodies.angular_velocity[0, i], velocity[:3], atol=1e-9)
    sensors = [data.sensor(name).data for name in task.sensors]
    np.testing.assert_allclose(seen.sensors[0], np.concatenate(sensors), atol=1e-6)
