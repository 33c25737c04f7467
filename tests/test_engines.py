"""Models of a user's own on the engines: they move as in the C engine, or are refused by what is lacking."""

import jax
import mujoco
import numpy as np
import pytest
from sled import Slide

import teacher.rollout
from teacher.errors import UsageError
from teacher.rollout import Simulation
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


MUSCLE = '<muscle joint="slide" ctrlrange="0 1" force="20" lengthrange="-1 1"/>'
# By integrator: actuators with a state of their own, each on a cart of its own, and one without.
WITH_A_STATE = {
    "implicitfast": (
        SERVO.format(""),
        SERVO.format('timeconst=".2"'),
        '<intvelocity joint="slide" kp="40" kv="8" actrange="-.5 .5" ctrlrange="-.5 .5"/>',
        '<general joint="slide" dyntype="filter" dynprm=".1" gainprm="5" ctrlrange="-.5 .5"/>',
        '<cylinder joint="slide" area="5" timeconst=".1" ctrlrange="-.5 .5"/>',
    ),
    "Euler": (SERVO.format('timeconst=".2"'), MUSCLE),
}


class Carts(Slide):
    """Several carts that are commanded alike and seen one after another."""

    def observe(self, state):
        return state.qpos

    def control(self, state, action):
        xp = state.qpos.__array_namespace__()
        return xp.broadcast_to(super().control(state, action), state.qpos.shape)


@pytest.mark.parametrize("integrator", WITH_A_STATE)
def test_actuators_with_a_state_of_their_own_move_as_in_the_c_engine(integrator):
    def carts(actuator):
        option = f'integrator="{integrator}"'
        return mujoco.MjSpec.from_string(SLIDE.format(**PARTS | {"option": option, "actuator": actuator}))

    spec = carts("")
    for i, actuator in enumerate(WITH_A_STATE[integrator]):
        spec.attach(carts(actuator), prefix=f"{i}_", frame=spec.worldbody.add_frame())
    spec.delete(spec.body("cart"))
    task = Carts(spec.to_xml())
    in_mjx, in_c = (moved(task, engine) for engine in ("mjx", "mujoco"))
    assert in_c.shape[-1] == len(WITH_A_STATE[integrator])
    assert np.ptp(in_c, axis=0).min() > 0.05
    np.testing.assert_allclose(in_mjx, in_c, atol=2e-3)


EARLY = '<general joint="slide" dyntype="filter" ctrlrange="-1 1" actearly="true"/>'


REFUSED = [
    ("actuator", SERVO.format('delay=".15" nsample="16"'), "a delay of actuators or sensors"),
    ("option", 'integrator="implicit"', "mjINT_IMPLICIT"),
    ("option", 'integrator="implicitfast" density="1.2"', "implicitfast not implemented for fluid drag"),
    ("option", 'noslip_iterations="3"', "noslip_iterations"),
    ("option", 'actuatorgroupdisable="1"', "disableactuator"),
    ("actuator", EARLY, "actearly"),
    ("actuator", '<adhesion body="cart" ctrlrange="0 1" gain="1"/>', "mjTRN_BODY"),
    ("actuator", MUSCLE, "muscles in the integrator implicitfast"),
    ("actuator", SERVO.format('armature="3"'), "armature"),
    ("actuator", SERVO.format('damping="3"'), "damping"),
    ("geom", f'/></body><body name="hung"><flexcomp {CLOTH}', "flex"),
    ("geom", 'fluidshape="ellipsoid"', "fluid"),
    ("geom", 'surfacevel="1 0 0"', "surfacevel"),
    ("joint", 'damping=".1 .2 .3"', "dampingpoly"),
    ("joint", 'stiffness="1 2 3"', "stiffnesspoly"),
]


@pytest.mark.parametrize(("part", "text", "told"), REFUSED)
def test_what_mjx_does_not_have_is_refused_by_name(part, text, told):
    try:
        task = slide(**{part: text})
        task.model("mjx")
    except ValueError as error:
        pytest.skip(f"MuJoCo {mujoco.__version__} has none of it: {error}")
    with pytest.raises(UsageError, match=f"task 'slide' on engine 'mjx': the engine does not have .*{told}"):
        make_engine(task, "mjx")
    make_engine(task, "mujoco")


def test_a_model_that_an_engine_lacks_leaves_nothing_behind(tmp_path, pipeline):
    text = SLIDE.format(**(PARTS | {"option": 'integrator="implicit"'}))
    (tmp_path / "slide.py").write_text(f"from sled import Slide\n\ndef made():\n    return Slide({text!r})\n")
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


@pytest.mark.parametrize(("engine", "tolerance"), [("mujoco", 1e-9), ("mjx", 1e-4)])
@pytest.mark.parametrize("sensors", [Seeing.sensors, ()])
def test_frames_and_sensors_are_those_of_mujoco_in_the_state_that_is_seen(engine, tolerance, sensors):
    task = Seeing(ARM)
    task.sensors = sensors
    made = make_engine(task, engine)

    def run(qpos, qvel, control):
        return made.read(made.step(made.init(qpos, qvel, ()), control, ()))

    qpos, qvel = np.array([[0.3, -0.2, 0.5, 0.8, 0, 0.6, 0, 0.4]]), np.array([[1.0, -2, 3, 2, 1, -1, 5]])
    seen = (jax.jit(run) if made.compiled else run)(qpos, qvel, np.full((1, 1), 0.28))
    model = task.model("mujoco")
    data = mujoco.MjData(model)
    data.qpos, data.qvel, data.ctrl, data.time = seen.qpos[0], seen.qvel[0], seen.control[0], 0.05
    mujoco.mj_forward(model, data)
    velocity, turned = np.zeros(6), np.zeros(4)
    mujoco.mju_mat2Quat(turned, data.site("tip").xmat)
    assert abs(seen.sites.orientation[0, 0] @ turned) == pytest.approx(1)
    of_bodies = [(seen.bodies, i, data.body(name), "XBODY") for i, name in enumerate(task.bodies)]
    for frames, i, thing, kind in [(seen.sites, 0, data.site("tip"), "SITE"), *of_bodies]:
        mujoco.mj_objectVelocity(model, data, getattr(mujoco.mjtObj, f"mjOBJ_{kind}"), thing.id, velocity, 0)
        np.testing.assert_allclose(frames.position[0, i], thing.xpos, atol=tolerance)
        np.testing.assert_allclose(frames.velocity[0, i], velocity[3:], atol=tolerance)
        np.testing.assert_allclose(frames.angular_velocity[0, i], velocity[:3], atol=tolerance)
        if kind == "XBODY":
            np.testing.assert_allclose(frames.orientation[0, i], thing.xquat, atol=tolerance)
    expected = [value for name in sensors for value in data.sensor(name).data]
    found = [] if seen.sensors is None else seen.sensors[0]
    np.testing.assert_allclose(found, expected, atol=1000 * tolerance if made.compiled else 1e-6, rtol=1e-3)
