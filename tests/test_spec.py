import pytest
from pydantic import ValidationError

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
        (joints, "velocity", (0.0,), "velocity has 1 entries, names has 2"),
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


def test_a_spec_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        spec().control_dt = 0.1


@pytest.mark.parametrize("name", TASKS)
def test_json_carries_every_task_unchanged(name):
    before = make_task(name).spec
    after = TaskSpec.model_validate_json(before.model_dump_json())
    assert after == before
    assert after.model_dump_json() == before.model_dump_json()
