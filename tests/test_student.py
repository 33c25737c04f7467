"""Students: folding, losses, and the teacher they insist on."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pipelines.train_students import warn_of_larger_students
from student import losses
from student.config import Size, StudentConfig, parse_size
from student.distill import Distiller
from student.networks import Normaliser, act, critic_distance, fold, init_student, normalise, parameter_count
from teacher.errors import FathomError
from teacher.train import confirm, load_teacher

SIZES = (5, 2, 3)  # observation, action, goal


@pytest.fixture(scope="module")
def student():
    return init_student(jax.random.key(0), Size(2, 16), Size(3, 8), SIZES, representation=4)


def values(seed: int, size: int, count: int = 32):
    return jax.random.normal(jax.random.key(seed), (count, size))


def test_size_counts_hidden_layers(student):
    kernels = [layer["kernel"].shape for layer in student.policy["params"].values()]
    assert kernels == [(8, 16), (16, 16), (16, 2)]
    assert parameter_count(student.policy) == 8 * 16 + 16 + 16 * 16 + 16 + 16 * 2 + 2
    assert parse_size("3x128") == (3, 128, "swish")
    assert parse_size("3x128-relu") == (3, 128, "relu")


def test_folding_the_normalisation_changes_no_answer(student):
    statistics = [(values(i, n, 1)[0], 0.5 + values(i + 9, n, 1)[0] ** 2) for i, n in enumerate(SIZES)]
    normaliser = Normaliser(*statistics)
    observation, action, goal = (10 * values(i + 20, n) for i, n in enumerate(SIZES))
    plain = [normalise(v, s) for v, s in zip((observation, action, goal), statistics, strict=True)]
    folded = fold(student, normaliser)
    close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    close(act(folded, observation, goal), act(student, plain[0], plain[2]))
    close(critic_distance(folded, observation, action, goal), critic_distance(student, *plain))


def test_a_teacher_is_confirmed_by_running_it_and_refused_if_it_scores_otherwise_than_stored(debug_run):
    teacher = load_teacher(debug_run.path / "teacher" / "checkpoints")
    assert confirm(teacher) == teacher.evaluation
    better = teacher.evaluation | {"time_at_goal_interval": [0.7, 0.8]}
    for change, message in (
        ({"evaluation": better}, r"0\.700 to 0\.800 is stored"),
        ({"evaluation": None}, "not finished"),
        ({"iteration": 2}, r"not finished \(2 of 4 iterations\)"),
    ):
        with pytest.raises(FathomError, match=message):
            confirm(teacher._replace(**change))


def test_students_learn_what_they_are_shown(debug_run):
    """The losses of the debug run fall, though its teacher knows nothing."""
    lines = (debug_run.path / "students" / "metrics.jsonl").read_text().splitlines()
    first, last = json.loads(lines[0]), json.loads(lines[-1])
    losses = [key for key in first if key.endswith("_loss")]
    assert {"2x16/policy_loss", "3x16/policy_loss", "critic/preference_loss"} < set(losses)
    for key in losses:
        assert last[key] < first[key]


def test_preferences_among_actions_are_what_counts_alike_near_and_far():
    label = 1 + jax.random.uniform(jax.random.key(0), (16, 4))
    offset = jax.random.normal(jax.random.key(1), (16, 1))
    assert losses.preference_loss(label + offset, label) < 1e-9
    reversed_order = 2 * label.mean(axis=1, keepdims=True) - label
    assert losses.preference_loss(reversed_order, label) > 0.5
    near, far = (float(losses.preference_loss(k * label[:, ::-1], k * label)) for k in (10, 100))
    np.testing.assert_allclose(near, far, rtol=0.05)


def test_gradients_count_by_their_direction_wherever_there_is_one():
    label = jax.random.normal(jax.random.key(0), (16, 4))
    assert losses.gradient_loss(label, label) == 0
    steep, flat = (float(losses.gradient_loss(-k * label, k * label)) for k in (100, 10))
    np.testing.assert_allclose(steep, flat, rtol=0.05)
    # Where the teacher's action is best its gradient is noise, of which little is asked.
    assert losses.gradient_loss(-1e-3 * label, 1e-3 * label) < 1e-2 * flat


def test_a_student_no_smaller_than_its_teacher_is_said(debug_run):
    teacher = load_teacher(debug_run.path / "teacher" / "checkpoints")
    said = []

    class Told:
        say = warn = staticmethod(said.append)

    warn_of_larger_students(Distiller(StudentConfig(sizes=("2x4", "4x64")), teacher), Told())
    assert len(said) == 1
    assert "student 4x64 is no smaller than its teacher" in said[0]


def test_the_policy_loss_sums_over_actions_and_averages_over_states():
    """By hand: Huber's loss of 0.5 is 0.125, of 3 it is 2.5."""
    action = jnp.array([[0.5, 0.5, 0.0], [3.0, 0.0, 0.0]])
    np.testing.assert_allclose(losses.policy_loss(action, jnp.zeros((2, 3))), (0.25 + 2.5) / 2, rtol=1e-6)
