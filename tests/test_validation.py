"""A task with a fault is refused before anything starts, naming what is wrong and the numbers."""

import re

import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from test_own_task import WHEELS, written

from teacher.errors import UsageError
from teacher.spec import TaskSpec
from teacher.tasks import MujocoTask, Start, make_task
from teacher.tasks.mazes import Maze
from teacher.tasks.validation import require_sound


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> type:
    """The class of the documented robot, which has no fault."""
    return type(make_task(written(tmp_path_factory.mktemp("sound"), WHEELS, "TwoWheels")))


def sound_values(broken) -> dict:
    """The specification of the class that `broken` derives from, as values to change."""
    return type(broken).__base__().spec.model_dump()


def edited(**changes) -> property:
    """The robot's specification with other values; `goal__low` is a field of its goal."""

    def spec(self):
        values = sound_values(self)
        for path, value in changes.items():
            part, _, field = path.rpartition("__")
            (values[part] if part else values)[field] = value
        return TaskSpec.model_validate(values)

    return property(spec)


def model_with(*replacements: tuple[str, str]):
    text = re.search(r'"""(.*?)"""', WHEELS, re.DOTALL)[1]
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new)
    return lambda self, engine: mujoco.MjModel.from_xml_string(text)


def start_with(**changes):
    return lambda self, key, layout: Start(jnp.zeros(9), jnp.zeros(8), jnp.zeros(2))._replace(**changes)


TENDONS = """<tendon>
    <fixed name="left_wheel" actuatorfrcrange="-1 1"> <joint joint="left_wheel" coef="1"/> </fixed>
    <fixed name="right_wheel" actuatorfrcrange="-1 1"> <joint joint="right_wheel" coef="1"/> </fixed>
  </tendon>
  <actuator>"""
LIMITS = 'ctrlrange="-10 10" forcerange="-1 1"'


def wrong_axis(state):
    xp = state.qpos.__array_namespace__()
    return xp.concatenate([state.qpos[..., :7], state.qpos[..., :7]], axis=0)


def spec(told, **changes):
    return {"spec": edited(**changes)}, told


def start(told, **changes):
    return {"start": start_with(**changes)}, r"start\(key, 'all'\)" + told


def model(told, *replacements):
    return {"model": model_with(*replacements)}, told


def other(name, value, told):
    return {name: value}, told


def method(name, function, told):
    return {name: lambda self, *arguments: function(*arguments)}, rf"{name}\(.*\) {told}"


def far_unknown(self, key, layout):
    return {"all": start_with()(self, key, 0)}[layout]


DEGREES = {
    "model": model_with(('name="left_wheel" axis', 'name="left_wheel" range="-60 90" axis')),
    "spec": edited(joints__lower=(-60, None), joints__upper=(90, None)),
}
FAULTS = [
    spec("TaskSpec: goal: low has 1 entries, entries has 2", goal__low=(-1,)),
    spec("joints.velocity.0: Input should be greater than 0, found -5", joints__velocity=(-5, 10)),
    spec("episode_length is 1", episode_length=1),
    spec("goal: a pose has 12 entries in m .* found 2 in m", goal__lever=0.4),
    spec(r"spec\.action\.joints: unknown joint of the model 'tail'", action__joints=("left_wheel", "tail")),
    spec("control period 0.025 s is no multiple of the model's time step 0.01 s", control_dt=0.025),
    (DEGREES, "'left_wheel' goes from -60 to 90 rad, in the model from -1.047 to 1.571: one is in degrees"),
    other("sites", ("top",), "unknown site of the model 'top'"),
    other("engines", "mjx", "engines must be a tuple of names, found 'mjx'"),
    other("engines", ("mjx", "mujco"), r"'mujco'; did you mean 'mujoco'\?"),
    other("engines", ("analytic",), "'analytic' needs an AnalyticTask"),
    other("engines", ("mujoco", "mjx"), "first engine is 'mujoco', but teachers are"),
    other("layouts", ("near", "far", "near"), "layouts names 'near' twice"),
    other("evaluation_layout", "far", "evaluation_layout is 'far', not one of layouts: all"),
    ({"layouts": ("all", "far"), "start": far_unknown}, r"start\(key, 'far'\) failed: KeyError: 'far'"),
    other("start", lambda self, key, layout: {}, "returns a dict, not a Start"),
    start(r": goal entry 'x' is 40, outside \[-1, 1\] of spec.goal \(256 of 256", goal=jnp.array([40.0, 0])),
    start(r": qvel is not finite in 256 of 256 starts, entries \[0, 1, 2", qvel=jnp.full(8, jnp.nan)),
    start(": goal has 3 entries, spec.goal has 2", goal=jnp.zeros(3)),
    start(r": qpos must be a float32 vector, found int32\[9\]", qpos=jnp.zeros(9, int)),
    start(": qpos has 7 entries and qvel 8, the model has nq 9 and nv 8", qpos=jnp.zeros(7)),
    other("model", lambda self, engine: None, "returns a NoneType, not a mujoco.MjModel"),
    model(r"model\('mjx'\) failed: ValueError: .*'wheel'", ('joint="right_wheel"', 'joint="wheel"')),
    model("actuator 0 has no limits: give it a ctrlrange or a forcerange", (LIMITS, "")),
    model(
        r"spec\.joints: unknown joint of the model 'left_wheel'; did you mean 'left_weel'\?",
        ("left_wheel", "left_weel"),
    ),
    method("control", lambda state, action: action[..., :1], "has 1 entries, the model has actuators: 2"),
    method("observe", lambda state: state.qpos, r"has 9 entries, spec\.observation has 7"),
    method("observe", wrong_axis, r"has shape \[4, 3, 7\] for states \[2, 3\], expected \[2, 3, 7\]"),
    method(
        "observe",
        lambda state: jnp.zeros((*state.qpos.shape[:-1], 7)),
        "answers NumPy's arrays with a ArrayImpl",
    ),
    method("observe", lambda state: np.asarray(state.qpos)[..., :7], "failed: TracerArrayConversionError"),
    method("ended", lambda state: state.qpos[..., 2], "has numbers of float32, expected bool"),
    method("marker", lambda goal: goal, "has 2 entries, a point has 3"),
    (
        {"marker": MujocoTask.marker, "spec": edited(goal__unit="cm")},
        r"marker\(goal\): goals in cm need one of their own",
    ),
    method("reference_policy", lambda seen, goal: seen[..., :3], r"has 3 entries, spec\.action has 2"),
    other("maze", "#####", r"maze is a str, not a teacher\.tasks\.mazes\.Maze"),
    (
        {"maze": Maze("####\n#S.#\n####", 0.5), "spec": edited(goal__unit="cm")},
        r"must be x and y in it, in m; spec\.goal has x, y in cm",
    ),
    other("pushed", (0, 8), r"pushed: entries \[8\] lie outside qvel \[0, 8\)"),
    ({"engines": ("mjks",), "layouts": ()}, "layouts is empty(.|\n)*unknown engine 'mjks'"),  # all at once
]


@pytest.mark.parametrize(("changes", "told"), FAULTS)
def test_every_fault_is_refused_with_its_reason(sound, changes, told):
    broken = type("Broken", (sound,), changes)
    with pytest.raises(UsageError, match=f"task 'broken': .*{told}"):
        require_sound(broken(), "broken")


FORCE = ('_wheel" axis=', '_wheel" actuatorfrcrange="-1 1" axis=')


@pytest.mark.parametrize(
    "limits",
    [
        [(LIMITS, 'ctrlrange="-10 10"')],
        [(LIMITS, 'forcerange="-1 1"')],
        [(LIMITS, ""), FORCE],
        [(LIMITS, ""), FORCE, ("y joint=", "y jointinparent=")],
        [(LIMITS, ""), ("<actuator>", TENDONS), ("y joint=", "y tendon=")],
    ],
)
def test_an_actuator_needs_one_limit_of_any_kind(sound, limits):
    limited = type("Limited", (sound,), {"model": model_with(*limits)})
    require_sound(limited(), "limited")
