"""Students: folding, judging, selecting, and the teacher they insist on."""

import json

import jax
import numpy as np
import pytest

from student import losses
from student.assess import Critic, critic_agreement, critic_answers, retention, select
from student.config import Size, parse_size
from student.networks import Normaliser, act, critic_distance, fold, init_student, normalise, parameter_count
from teacher.errors import FathomError
from teacher.evaluate import Outcomes
from teacher.trained import confirm, load_teacher

SIZES = (5, 2, 3)  # observation, action, goal


@pytest.fixture(scope="module")
def student():
    return init_student(jax.random.key(0), Size(2, 16), Size(3, 8), SIZES, representation=4)


def values(seed: int, size: int, count: int = 32):
    return jax.random.normal(jax.random.key(seed), (count, size))


def outcomes(time_at_goal) -> Outcomes:
    time = np.asarray(time_at_goal, float)
    return Outcomes(time, time > 0, time > 0, time > 0, time, 1 - time)


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
    np.testing.assert_allclose(
        act(folded, observation, goal), act(student, plain[0], plain[2]), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(
        critic_distance(folded, observation, action, goal),
        critic_distance(student, *plain),
        rtol=1e-4,
        atol=1e-5,
    )


def test_retention_is_a_ratio_of_paired_times():
    teacher = outcomes([0.5, 1.0, 0.5, 1.0] * 50)
    assert retention(teacher, teacher) == {"retention": 1.0, "retention_low": 1.0, "retention_high": 1.0}
    half = retention(outcomes(teacher.time_at_goal / 2), teacher)
    assert half["retention"] == pytest.approx(0.5)
    # The same ratio in every pair leaves nothing to the choice of episodes.
    assert half["retention_low"] == pytest.approx(half["retention_high"])
    mixed = retention(outcomes(teacher.time_at_goal * ([0, 1] * 100)), teacher)
    assert mixed["retention_low"] < mixed["retention"] < mixed["retention_high"]


def test_retention_of_a_teacher_that_never_arrives_is_absent():
    assert retention(outcomes([0.1, 0.0]), outcomes([0.0, 0.0])) == {}
    rarely = outcomes([0.1] + [0.0] * 15)
    assert retention(rarely, rarely) == {}


def test_a_critic_agrees_with_itself_and_not_with_its_opposite(student):
    observation, action, goal = (values(i, n) for i, n in enumerate(SIZES))

    def critic(sign: float) -> Critic:
        """One whose distance is |1000 + sign * (sum of the action)|, whatever the goal."""
        return Critic(
            lambda o, a: 1000 + sign * a.sum(-1, keepdims=True) + 0 * o[:, :1], lambda g: 0 * g[:, :1]
        )

    further = jax.random.uniform(jax.random.key(1), (8, *action.shape))
    up, down = (critic_answers(critic(sign), observation, action, goal, further) for sign in (1, -1))
    same = critic_agreement(up, up)
    assert same == {
        "spearman_actions": pytest.approx(1),
        "top1": 1.0,
        "gradient_cosine": pytest.approx(1, abs=1e-5),
    }
    opposite = critic_agreement(up, down)
    assert opposite["spearman_actions"] == pytest.approx(-1)
    assert opposite["gradient_cosine"] == pytest.approx(-1, abs=1e-5)


def test_the_smallest_student_that_surely_keeps_enough_is_selected():
    assessments = {
        "4x256": {"parameters": 300, "retention_low": 0.999, "time_at_goal": 0.9},
        "2x64": {"parameters": 100, "retention_low": 0.985, "time_at_goal": 0.89},
        "2x32": {"parameters": 50, "retention_low": 0.9, "time_at_goal": 0.85},
    }
    assert select(assessments, 0.98) == ("2x64", True)
    assert select(assessments, 1.0) == ("4x256", False)
    assert select({"2x8": {"parameters": 9, "time_at_goal": 0.0}}, 0.98) == ("2x8", False)


def test_a_teacher_is_confirmed_by_running_it(debug_run):
    teacher = load_teacher(debug_run.path / "teacher" / "checkpoints")
    score = confirm(teacher)
    assert score == teacher.evaluation


def test_a_teacher_that_scores_otherwise_than_stored_is_refused(debug_run):
    teacher = load_teacher(debug_run.path / "teacher" / "checkpoints")
    other = teacher._replace(evaluation={**teacher.evaluation, "time_at_goal_interval": [0.7, 0.8]})
    with pytest.raises(FathomError, match=r"0\.700 to 0\.800 is stored"):
        confirm(other)
    with pytest.raises(FathomError, match="not finished"):
        confirm(teacher._replace(evaluation=None))
    with pytest.raises(FathomError, match=r"not finished \(2 of 4 iterations\)"):
        confirm(teacher._replace(iteration=2))


def test_students_learn_what_they_are_shown(debug_run):
    """The losses of the debug run fall, though its teacher knows nothing."""
    lines = (debug_run.path / "students" / "metrics.jsonl").read_text().splitlines()
    first, last = json.loads(lines[0]), json.loads(lines[-1])
    losses = [key for key in first if key.endswith("_loss")]
    assert len(losses) == 4
    for key in losses:
        assert last[key] < first[key]


def test_preferences_among_actions_are_what_counts():
    label = 1 + jax.random.uniform(jax.random.key(0), (16, 4))
    offset = jax.random.normal(jax.random.key(1), (16, 1))
    assert losses.preference_loss(label + offset, label) < 1e-9
    reversed_order = 2 * label.mean(axis=1, keepdims=True) - label
    assert losses.preference_loss(reversed_order, label) > 0.5


def test_preferences_count_alike_near_and_far():
    label = 1 + jax.random.uniform(jax.random.key(0), (16, 4))
    wrong = label[:, ::-1]
    near, far = (float(losses.preference_loss(10 * k * wrong, 10 * k * label)) for k in (1, 10))
    np.testing.assert_allclose(near, far, rtol=0.05)
