import json
import math

import pytest
from pydantic import ValidationError

from export.controller import CommandLimiter
from teacher.spec import ActionSpec, GoalSpec, JointSpec, ObservationTerm, TaskSpec
from teacher.tasks import TASKS, make_task


def term(name, start, *entries):
    return ObservationTerm(name=name, start=start, entries=entries, unit="m", frame="base")


def goal(**changes):
    fields = {
        "name": "place",
        "entries": ("x", "y"),
        "unit": "m",
        "frame": "base",
        "observation_indices": (2, 3),
        "low": (-1.0, -1.0),
        "high": (1.0, 1.0),
        "success_radius": 0.1,
        "strict_radius": 0.05,
        "easy_radius": 0.5,
    }
    return GoalSpec(**(fields | changes))


def action(**changes):
    fields = {"kind": "joint_torque", "joints": ("a",), "unit": "N", "scale": (2.0,), "offset": (0.1,)}
    return ActionSpec(**(fields | changes))


def test_a_kind_of_action_is_known_and_may_differ_by_joint():
    both = action(
        kind=("joint_velocity", "gripper_width"), joints=("a", "b"), scale=(1.0, 1.0), offset=(0.0, 0.0)
    )
    assert both.kinds == ("joint_velocity", "gripper_width")
    assert action(kind="joint_torque").kinds == ("joint_torque",)
    assert ActionSpec.model_validate(both.model_dump(mode="json")) == both
    with pytest.raises(ValidationError, match="unknown kind 'joint_velocty'; did you mean 'joint_velocity'"):
        action(kind="joint_velocty")
    with pytest.raises(ValidationError, match="kind has 2 entries, joints has 1"):
        action(kind=("joint_velocity", "other"))


def joints(**changes):
    fields = {
        "names": ("a", "b"),
        "unit": "rad",
        "default": (0.0, 0.1),
        "lower": (-1.0, -2.0),
        "upper": (1.0, 2.0),
        "velocity": (3.0, 3.0),
        "slowdown": 1.0,
        "margin": 0.0,
    }
    return JointSpec(**(fields | changes))


def spec(**changes):
    fields = {
        "name": "toy",
        "version": 1,
        "observation": (term("velocity", 0, "a", "b"), term("place", 2, "x", "y")),
        "goal": goal(),
        "action": action(),
        "joints": joints(),
        "control_dt": 0.05,
        "episode_length": 10,
    }
    return TaskSpec(**(fields | changes))


def test_sizes_count_entries():
    toy = spec()
    assert (toy.observation_size, toy.goal_size, toy.action_size) == (4, 2, 1)
    assert [(part.start, part.stop) for part in toy.observation] == [(0, 2), (2, 4)]


@pytest.mark.parametrize(
    ("start", "problem"), [(3, "a gap"), (1, "an overlap"), (0, "two terms at the same place")]
)
def test_terms_that_do_not_tile_are_refused_by_name(start, problem):
    with pytest.raises(ValidationError, match=rf"'place' starts at {start}, expected 2"):
        spec(observation=(term("velocity", 0, "a", "b"), term("place", start, "x", "y")))


def test_the_first_term_starts_at_zero():
    with pytest.raises(ValidationError, match=r"'place' starts at 2, expected 0"):
        spec(observation=(term("place", 2, "x", "y"), term("velocity", 0, "a", "b")))


def test_an_observation_without_terms_is_refused():
    with pytest.raises(ValidationError, match="the observation has no terms"):
        spec(observation=())


@pytest.mark.parametrize(("indices", "outside"), [((2, 4), "[4]"), ((-1, 3), "[-1]"), ((9, 8), "[9, 8]")])
def test_goal_indices_outside_the_observation_are_listed(indices, outside):
    with pytest.raises(ValidationError) as error:
        spec(goal=goal(observation_indices=indices))
    assert f"goal indices {outside} point outside the observation [0, 4)" in str(error.value)


@pytest.mark.parametrize(
    ("part", "field", "value", "message"),
    [
        (goal, "observation_indices", (2,), "observation_indices has 1 entries, entries has 2"),
        (goal, "low", (0.0,), "low has 1 entries, entries has 2"),
        (goal, "high", (0.0, 0.0, 0.0), "high has 3 entries, entries has 2"),
        (action, "scale", (1.0, 1.0), "scale has 2 entries, joints has 1"),
        (action, "offset", (), "offset has 0 entries, joints has 1"),
        (joints, "default", (0.0,), "default has 1 entries, names has 2"),
        (joints, "lower", (0.0,), "lower has 1 entries, names has 2"),
        (joints, "upper", (0.0,), "upper has 1 entries, names has 2"),
        (joints, "velocity", (1.0,), "velocity has 1 entries, names has 2"),
    ],
)
def test_fields_of_different_lengths_are_refused_by_name(part, field, value, message):
    with pytest.raises(ValidationError, match=message):
        part(**{field: value})


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        (goal, "entries", ()),
        (goal, "success_radius", 0.0),
        (joints, "slowdown", -1.0),
        (spec, "control_dt", 0.0),
        (spec, "episode_length", 0),
        (spec, "versoin", 1),
    ],
)
def test_a_bad_or_misspelt_field_is_named(part, field, value):
    with pytest.raises(ValidationError, match=field):
        part(**{field: value})


INF = math.inf


@pytest.mark.parametrize(
    ("part", "changes", "told"),
    [
        (joints, {"lower": (1.0, -2.0)}, "joint 'a': lower is 1, not below upper, 1"),
        (joints, {"default": (0.0, 3.0)}, r"joint 'b': default is 3, outside \[-2, 2\]"),
        (joints, {"margin": 1.0}, r"joint 'a': a margin of 1 leaves nothing of \[-1, 1\]"),
        (joints, {"velocity": (3.0, -3.0)}, "velocity.1\n.*greater than 0"),
        (joints, {"acceleration": (0.0, 1.0)}, "acceleration.0\n.*greater than 0"),
        (joints, {"lower": (INF, -2.0)}, "lower.0\n.*finite"),
        (joints, {"upper": (1.0, math.nan)}, "upper.1\n.*finite"),
        (joints, {"default": (0.0, INF)}, "default.1\n.*finite"),
        (joints, {"names": ("a", "a")}, "names 'a' more than once"),
        (joints, {"unit": "deg"}, "must be in radians, found 'deg'"),
        (action, {"scale": (0.0,)}, "scale.0\n.*greater than 0"),
        (action, {"offset": (-INF,)}, "offset.0\n.*finite"),
        (action, {"unit": "degrees/s"}, "must be in radians"),
        (action, {"stiffness": (-1.0,)}, "stiffness.0\n.*greater than or equal to 0"),
        (goal, {"low": (-INF, 0.0)}, "low.0\n.*finite"),
        (goal, {"low": (2.0, 0.0)}, "goal entry 'x': low is 2, above high, 1"),
        (goal, {"success_radius": math.nan}, "success_radius\n.*"),
        (spec, {"control_dt": INF}, "control_dt\n.*finite"),
    ],
)
def test_numbers_that_cannot_be_are_refused_by_name(part, changes, told):
    with pytest.raises(ValidationError, match=told):
        part(**changes)


def test_terms_are_told_apart_by_name():
    with pytest.raises(ValidationError, match="names 'place' more than once"):
        spec(observation=(term("place", 0, "a", "b"), term("place", 2, "x", "y")))


def driven(kind, **changes):
    """A specification of a robot that is commanded by joint `a`."""
    read = (term("joint_position", 0, "a", "b"), term("place", 2, "x", "y"))
    fields = {"observation": read, "action": action(kind=kind), "joints": joints()}
    return spec(**(fields | changes))


@pytest.mark.parametrize("kind", ["joint_velocity", "joint_position"])
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"observation": spec().observation}, "no term joint_position or .* has an entry 'a'"),
        ({"joints": joints(names=("c", "b"))}, "on 'a': no such joint in joints.names, c, b"),
        ({"joints": joints(velocity=(None, 3.0))}, "joints.velocity of it is None"),
    ],
)
def test_what_a_guard_needs_is_asked_of_the_specification(kind, changes, told):
    accepted = driven(kind).for_robot()
    assert CommandLimiter(accepted)
    with pytest.raises(ValidationError, match=told):
        driven(kind, **changes)


def test_a_position_to_begin_with_lies_within_its_limits():
    with pytest.raises(ValidationError, match=r"offset is 4, outside its limits \[-1, 1\]"):
        driven("joint_position", action=action(kind="joint_position", offset=(4.0,)))


def test_joints_without_limits_are_null_all_the_way():
    free = joints(lower=(-INF, None), upper=(None, INF), velocity=(INF, 2.0))
    assert (free.lower, free.upper, free.velocity) == ((None, None), (None, None), (None, 2.0))
    assert free.range_of("a") == (-INF, INF)
    written = spec(joints=free).model_dump_json()
    assert '"lower":[null,null],"upper":[null,null],"velocity":[null,2.0]' in written
    assert TaskSpec.model_validate_json(written).joints == free


@pytest.mark.parametrize("name", TASKS)
def test_no_limit_of_a_task_is_a_number_that_stands_for_none(name):
    limits = make_task(name).spec.joints
    assert all(
        abs(value or 0) < 1000 for part in (limits.lower, limits.upper, limits.velocity) for value in part
    )


def test_a_spec_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        spec().control_dt = 0.1


@pytest.mark.parametrize("name", TASKS)
def test_json_carries_every_task_unchanged(name):
    before = make_task(name).spec
    after = TaskSpec.model_validate_json(before.model_dump_json())
    assert after == before
    assert after.model_dump_json() == before.model_dump_json()


def test_what_a_policy_is_given_is_resolved_once_for_every_language():
    plain = spec().for_robot()
    assert plain["inputs"]["reading"] == plain["inputs"]["observation"] == plain["observation"]
    assert (plain["inputs"]["history"], plain["inputs"]["last_action"]) == (1, None)
    assert plain["inputs"]["goal"]["high"] == [1.0, 1.0]
    task = make_task("quad_reach").spec
    inputs = task.for_robot()["inputs"]
    width, terms = task.deployed.reading_size, inputs["observation"]
    assert len(terms) == inputs["history"] * len(inputs["reading"]) == 5 * len(task.deployed.reading)
    # The newest reading first; each later one begins where the one before it ends.
    later = [
        term | {"start": term["start"] + width, "name": f"{term['name']}_t-1"} for term in inputs["reading"]
    ]
    assert terms[: 2 * len(inputs["reading"])] == [*inputs["reading"], *later]
    start, stop = inputs["last_action"]
    (acted,) = (term for term in inputs["reading"] if term["name"] == "last_action")
    assert (start, stop - start) == (acted["start"], task.action_size)
    assert inputs["goal"]["frame"] == task.deployed.goal.frame != task.goal.frame


def test_a_specification_from_a_robot_is_read_back_unless_its_inputs_are_others():
    task = make_task("quad_reach").spec
    record = json.loads(json.dumps(task.for_robot()))
    assert TaskSpec.from_robot(record) == task
    record["inputs"]["history"] = 4
    for other in (record, {key: value for key, value in record.items() if key != "inputs"}):
        with pytest.raises(ValueError, match="inputs are not those"):
            TaskSpec.from_robot(other)
