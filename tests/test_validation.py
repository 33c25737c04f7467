"""A task with a fault is refused before anything starts, naming what is wrong and the numbers."""

import re

import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from test_own_task import WHEELS, written

from teacher.errors import FathomError, UsageError
from teacher.spec import TaskSpec
from teacher.tasks import Start, make_task
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


def moved_term(self):
    values = sound_values(self)
    values["observation"][2]["start"] = 5
    return TaskSpec.model_validate(values)


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


def wrong_axis(self, state):
    xp = state.qpos.__array_namespace__()
    return xp.concatenate([state.qpos[..., :7], state.qpos[..., :7]], axis=0)


FAULTS = {
    "a gap in the observation": (
        {"spec": property(moved_term)},
        "TaskSpec: observation term 'velocity' starts at 5, expected 4: terms must tile",
    ),
    "a goal outside the observation": (
        {"spec": edited(goal__observation_indices=(0, 9))},
        r"goal indices \[9\] point outside the observation \[0, 7\)",
    ),
    "a goal of another size": (
        {"spec": edited(goal__low=(-1,))},
        "low has 1 entries, entries has 2",
    ),
    "a field of no meaning": ({"spec": edited(control_dt=-1)}, "control_dt: Input should be greater than 0"),
    "no specification": ({"spec": {}}, "spec is a dict, not a TaskSpec"),
    "an episode of one step": ({"spec": edited(episode_length=1)}, "episode_length is 1"),
    "a range upside down": ({"spec": edited(goal__low=(2, -1))}, "goal entry 'x': low is 2, above high, 1"),
    "a limit that is no number": (
        {"spec": edited(joints__velocity=(-5, 10))},
        "joints.velocity.0: Input should be greater than 0, found -5",
    ),
    "limits in degrees": (
        {
            "model": model_with(('name="left_wheel" axis', 'name="left_wheel" range="-60 90" axis')),
            "spec": edited(joints__lower=(-60, None), joints__upper=(90, None)),
        },
        "lower of 'left_wheel' is -60, degrees. the model has -1.047 rad",
    ),
    "a site that the model lacks": ({"sites": ("top",)}, "unknown site of the model 'top'"),
    "a sensor that the model lacks": ({"sensors": ("imu",)}, "unknown sensor of the model 'imu'"),
    "goals outside what is said": (
        {"start": start_with(goal=jnp.array([40.0, 0]))},
        r"start\(key, 'all'\): goal entry 'x' is 40, outside \[-1, 1\] of spec.goal \(256 of 256",
    ),
    "starts that are no numbers": (
        {"start": start_with(qvel=jnp.full(8, jnp.nan))},
        r"start\(key, 'all'\): qvel is not finite in 256 of 256 starts, entries \[0, 1, 2, 3, 4, 5, 6, 7\]",
    ),
    "no engine": ({"engines": ()}, "engines is empty"),
    "an engine in place of engines": ({"engines": "mjx"}, "engines must be a tuple of names, found 'mjx'"),
    "an unknown engine": ({"engines": ("mjx", "mujco")}, r"'mujco'; did you mean 'mujoco'\?"),
    "an engine of another kind": ({"engines": ("analytic",)}, "'analytic' needs an AnalyticTask"),
    "nothing to train in": ({"engines": ("mujoco", "mjx")}, "first engine is 'mujoco', but teachers are"),
    "no layout": ({"layouts": ()}, "layouts is empty"),
    "evaluation on a layout that there is not": (
        {"layouts": ("near", "far"), "evaluation_layout": "all"},
        "evaluation_layout is 'all', not one of layouts: near, far",
    ),
    "a layout twice": ({"layouts": ("near", "far", "near")}, "layouts names 'near' twice"),
    "a layout that start does not know": (
        {
            "layouts": ("all", "far"),
            "start": lambda self, key, layout: {"all": start_with()(self, key, 0)}[layout],
        },
        r"start\(key, 'far'\) failed: KeyError: 'far'",
    ),
    "a start of another kind": ({"start": lambda self, key, layout: {}}, "returns a dict, not a Start"),
    "a goal longer than the specification's": (
        {"start": start_with(goal=jnp.zeros(3))},
        "goal has 3 entries, spec.goal has 2",
    ),
    "whole numbers": ({"start": start_with(goal=jnp.arange(2))}, "goal must be a float32 vector"),
    "a start of another model": (
        {"start": start_with(qpos=jnp.zeros(7))},
        "qpos has 7 entries and qvel 8, the model has nq 9 and nv 8",
    ),
    "no model": ({"model": lambda self, engine: None}, "returns a NoneType, not a mujoco.MjModel"),
    "a model that does not compile": (
        {"model": model_with(('joint="right_wheel"', 'joint="wheel"'))},
        r"model\('mjx'\) failed: ValueError: .*'wheel'",
    ),
    "an actuator without limits": (
        {"model": model_with((LIMITS, ""))},
        "actuator 0 has no limits: give it a ctrlrange or a forcerange",
    ),
    "a joint that the model lacks": (
        {"model": model_with(("left_wheel", "left_weel"))},
        r"spec\.joints: unknown joint of the model 'left_wheel'; did you mean 'left_weel'\?",
    ),
    "an action on a joint that the model lacks": (
        {"spec": edited(action__joints=("left_wheel", "tail"))},
        r"spec\.action\.joints: unknown joint of the model 'tail'",
    ),
    "more controls than actions": (
        {"control": lambda self, state, action: action[..., :1]},
        r"control\(state, action\) has 1 entries, the model has actuators: 2",
    ),
    "a period of no whole steps": (
        {"spec": edited(control_dt=0.025)},
        "control period 0.025 s is no multiple of the model's time step 0.01 s",
    ),
    "an observation of another size": (
        {"observe": lambda self, state: state.qpos},
        r"observe\(state\) has 9 entries, spec\.observation has 7",
    ),
    "an observation along the wrong axis": (
        {"observe": wrong_axis},
        r"observe\(state\) has shape \[4, 3, 7\] for states \[2, 3\], expected \[2, 3, 7\]",
    ),
    "a method for JAX alone": (
        {"observe": lambda self, state: jnp.zeros((*state.qpos.shape[:-1], 7))},
        r"observe\(state\) answers NumPy's arrays with a ArrayImpl",
    ),
    "a method for NumPy alone": (
        {"observe": lambda self, state: np.asarray(state.qpos)[..., :7]},
        r"observe\(state\) failed: TracerArrayConversionError",
    ),
    "an end for all": ({"ended": lambda self, state: state.qpos.any()}, r"ended\(state\) has shape \[\]"),
    "an end by degrees": (
        {"ended": lambda self, state: state.qpos[..., 2]},
        r"ended\(state\) has numbers of float32, expected bool",
    ),
    "a marker in the plane": (
        {"marker": lambda self, goal: goal},
        r"marker\(goal\) has 2 entries, a point has 3",
    ),
    "a reference that is no method": (
        {"reference_policy": "ahead"},
        "reference_policy is a str, not a method",
    ),
    "a reference for other actions": (
        {"reference_policy": lambda self, observation, goal: observation[..., :3]},
        r"reference_policy\(observation, goal\) has 3 entries, spec\.action has 2",
    ),
    "a reference for one state at a time": (
        {"reference_policy": lambda self, observation, goal: goal[0]},
        r"reference_policy\(observation, goal\) has shape \[3, 2\] for states \[2, 3\], expected \[2, 3, 2\]",
    ),
    "a reference for JAX alone": (
        {"reference_policy": lambda self, observation, goal: jnp.tanh(goal)},
        r"reference_policy\(observation, goal\) answers NumPy's arrays with a ArrayImpl",
    ),
    "a maze in words": ({"maze": "#####"}, r"maze is a str, not a teacher\.tasks\.mazes\.Maze"),
    "a maze for no place": (
        {"maze": Maze("####\n#S.#\n####", 0.5), "spec": edited(goal__unit="cm")},
        r"maze: the first two entries of a goal must be x and y in it, in m; spec\.goal has x, y in cm",
    ),
    "a push on nothing": ({"pushed": (0, 8)}, r"pushed: entries \[8\] lie outside qvel \[0, 8\)"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_refused_with_its_reason(sound, fault):
    changes, told = FAULTS[fault]
    broken = type("Broken", (sound,), changes)
    with pytest.raises(UsageError, match=f"task 'broken': .*{told}"):
        require_sound(broken(), "broken", tried=True)


@pytest.mark.parametrize(
    "limits",
    [
        [(LIMITS, 'ctrlrange="-10 10"')],
        [(LIMITS, 'forcerange="-1 1"')],
        [(LIMITS, ""), ('_wheel" axis=', '_wheel" actuatorfrcrange="-1 1" axis=')],
        [
            (LIMITS, ""),
            ('_wheel" axis=', '_wheel" actuatorfrcrange="-1 1" axis='),
            ("y joint=", "y jointinparent="),
        ],
        [(LIMITS, ""), ("<actuator>", TENDONS), ("y joint=", "y tendon=")],
    ],
    ids=[
        "of control",
        "of force",
        "of the joint's force",
        "of the joint's in its parent",
        "of the tendon's force",
    ],
)
def test_an_actuator_needs_one_limit_of_any_kind(sound, limits):
    limited = type("Limited", (sound,), {"model": model_with(*limits)})
    require_sound(limited(), "limited")


def test_all_that_is_wrong_with_a_specification_is_said_at_once(sound):
    broken = type("Broken", (sound,), {"engines": ("mjks",), "layouts": ()})
    with pytest.raises(FathomError, match=r"layouts is empty(.|\n)*unknown engine 'mjks'"):
        require_sound(broken(), "broken")
