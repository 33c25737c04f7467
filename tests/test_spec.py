import json
import math

import pytest
from pydantic import ValidationError

from export.controller import CommandLimiter
from teacher.spec import ActionSpec, GoalSpec, JointSpec, ObservationTerm, TaskSpec
from teacher.tasks import TASKS, make_task

INF = math.inf


def term(name, start, *entries):
    return ObservationTerm(name=name, start=start, entries=entries, unit="m", frame="base")


def goal(**changes):
    fields = {"name": "place", "entries": ("x", "y"), "unit": "m", "frame": "base"}
    fields |= {"observation_indices": (2, 3), "low": (-1.0, -1.0), "high": (1.0, 1.0)}
    fields |= {"success_radius": 0.1, "strict_radius": 0.05, "easy_radius": 0.5}
    return GoalSpec(**(fields | changes))


def action(**changes):
    fields = {"kind": "joint_torque", "joints": ("a",), "unit": "N", "scale": (2.0,), "offset": (0.1,)}
    return ActionSpec(**(fields | changes))


def joints(**changes):
    fields = {"names": ("a", "b"), "unit": "rad", "default": (0.0, 0.1), "slowdown": 1.0, "margin": 0.0}
    fields |= {"lower": (-1.0, -2.0), "upper": (1.0, 2.0), "velocity": (3.0, 3.0)}
    return JointSpec(**(fields | changes))


def spec(**changes):
    fields = {"name": "toy", "version": 1, "control_dt": 0.05, "episode_length": 10}
    fields |= {"observation": (term("velocity", 0, "a", "b"), term("place", 2, "x", "y"))}
    return TaskSpec(**(fields | {"goal": goal(), "action": action(), "joints": joints()} | changes))


def driven(**changes):
    """A specification of a robot that is commanded by joint `a`."""
    read = (term("joint_position", 0, "a", "b"), term("place", 2, "x", "y"))
    return spec(**({"observation": read, "action": action(kind="joint_position")} | changes))


V, P = term("velocity", 0, "a", "b"), term("place", 2, "x", "y")


@pytest.mark.parametrize(
    ("part", "field", "value", "told"),
    [
        (spec, "observation", (V, term("place", 3, "x", "y")), "'place' starts at 3, expected 2"),
        (spec, "observation", (P, V), "'place' starts at 2, expected 0"),
        (spec, "observation", (), "the observation has no terms"),
        (spec, "observation", (term("place", 0, "a", "b"), P), "names 'place' more than once"),
        (spec, "goal", goal(observation_indices=(2, 4)), r"goal indices \[4\] point outside .* \[0, 4\)"),
        (spec, "goal", goal(observation_indices=(-1, 3)), r"goal indices \[-1\] point outside"),
        (spec, "control_dt", 0.0, "control_dt"),
        (spec, "episode_length", 0, "episode_length"),
        (spec, "versoin", 1, "versoin"),
        (goal, "observation_indices", (2,), "observation_indices has 1 entries, entries has 2"),
        (goal, "high", (0.0, 0.0, 0.0), "high has 3 entries, entries has 2"),
        (goal, "entries", (), "entries"),
        (goal, "low", (-INF, 0.0), "low.0\n.*finite"),
        (goal, "low", (2.0, 0.0), "goal entry 'x': low is 2, above high, 1"),
        (goal, "success_radius", 0.0, "success_radius"),
        (goal, "success_radius", math.nan, "success_radius\n.*"),
        (goal, "strict_radius", 0.2, "must not decrease"),
        (goal, "tool", (0.0, 0.1), "tool"),
        (action, "kind", "joint_velocty", "unknown kind 'joint_velocty'; did you mean 'joint_velocity'"),
        (action, "kind", ("joint_velocity", "other"), "kind has 2 entries, joints has 1"),
        (action, "scale", (1.0, 1.0), "scale has 2 entries, joints has 1"),
        (action, "scale", (0.0,), "scale.0\n.*greater than 0"),
        (action, "offset", (), "offset has 0 entries, joints has 1"),
        (action, "offset", (-INF,), "offset.0\n.*finite"),
        (action, "unit", "degrees/s", "must be in radians"),
        (action, "stiffness", (-1.0,), "stiffness.0\n.*greater than or equal to 0"),
        (joints, "default", (0.0,), "default has 1 entries, names has 2"),
        (joints, "default", (0.0, 3.0), r"joint 'b': default is 3, outside \[-2, 2\]"),
        (joints, "default", (0.0, INF), "default.1\n.*finite"),
        (joints, "lower", (1.0, -2.0), "joint 'a': lower is 1, not below upper, 1"),
        (joints, "lower", (INF, -2.0), "lower.0\n.*finite"),
        (joints, "upper", (1.0, math.nan), "upper.1\n.*finite"),
        (joints, "velocity", (1.0,), "velocity has 1 entries, names has 2"),
        (joints, "velocity", (3.0, -3.0), "velocity.1\n.*greater than 0"),
        (joints, "acceleration", (0.0, 1.0), "acceleration.0\n.*greater than 0"),
        (joints, "slowdown", -1.0, "slowdown"),
        (joints, "margin", 1.0, r"joint 'a': a margin of 1 leaves nothing of \[-1, 1\]"),
        (joints, "names", ("a", "a"), "names 'a' more than once"),
        (joints, "unit", "deg", "must be in radians, found 'deg'"),
        # What a robot's guard needs.
        (driven, "observation", (V, P), "no term joint_position or .* has an entry 'a'"),
        (driven, "joints", joints(names=("c", "b")), "on 'a': no such joint in joints.names, c, b"),
        (driven, "joints", joints(velocity=(None, 3.0)), "joints.velocity of it is None"),
        (
            driven,
            "action",
            action(kind="joint_position", offset=(4.0,)),
            r"offset is 4, outside .* \[-1, 1\]",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_name(part, field, value, told):
    part()
    with pytest.raises(ValidationError, match=told):
        part(**{field: value})


@pytest.mark.parametrize("kind", ["joint_velocity", "joint_position"])
def test_a_guard_can_be_made_of_what_is_accepted(kind):
    assert CommandLimiter(driven(action=action(kind=kind)).for_robot())


def test_joints_without_limits_are_null_all_the_way():
    free = joints(lower=(-INF, None), upper=(None, INF), velocity=(INF, 2.0))
    assert free.range_of("a") == (-INF, INF)
    written = spec(joints=free).model_dump_json()
    assert '"lower":[null,null],"upper":[null,null],"velocity":[null,2.0]' in written
    assert TaskSpec.model_validate_json(written).joints == free
    for name in TASKS:  # none is a large number that stands for none
        limits = make_task(name).spec.joints
        known = [value for part in (limits.lower, limits.upper, limits.velocity) for value in part if value]
        assert max(map(abs, known), default=0) < 1000, name


def test_what_a_policy_is_given_is_resolved_once_for_every_language():
    plain = spec().for_robot()
    assert plain["inputs"]["reading"] == plain["inputs"]["observation"] == plain["observation"]
    assert (plain["inputs"]["history"], plain["inputs"]["last_action"]) == (1, None)
    assert plain["inputs"]["goal"]["high"] == [1.0, 1.0]
    task = make_task("quad_reach").spec
    inputs = task.for_robot()["inputs"]
    width, terms, reading = task.deployed.reading_size, inputs["observation"], inputs["reading"]
    assert len(terms) == inputs["history"] * len(reading) == 5 * len(task.deployed.reading)
    # The newest reading first; each later one begins where the one before it ends.
    later = [term | {"start": term["start"] + width, "name": f"{term['name']}_t-1"} for term in reading]
    assert terms[: 2 * len(reading)] == [*reading, *later]
    start, stop = inputs["last_action"]
    (acted,) = (term for term in reading if term["name"] == "last_action")
    assert (start, stop - start) == (acted["start"], task.action_size)
    assert inputs["goal"]["frame"] == task.deployed.goal.frame != task.goal.frame


@pytest.mark.parametrize("name", ["quad_reach", "fr3_pick_place"])
def test_a_specification_from_a_robot_is_read_back_unless_its_inputs_are_others(name):
    task = make_task(name).spec
    record = json.loads(json.dumps(task.for_robot()))
    assert TaskSpec.from_robot(record) == task
    record["inputs"]["history"] = 4
    for other in (record, {key: value for key, value in record.items() if key != "inputs"}):
        with pytest.raises(ValueError, match="inputs are not those"):
            TaskSpec.from_robot(other)
