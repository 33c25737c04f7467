"""What students learn from: goals in the stated shares, the actions asked about, who led when."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import student.distill
import teacher.rollout
from student.checkpoint import restore_state, save_state
from student.config import GoalShares, StudentConfig
from student.distill import SEGMENTS, Distiller, led_by_teacher
from student.labels import (
    ACTIONS,
    BEYOND,
    VisitedStates,
    draw_candidate_actions,
    draw_goals,
    draw_goals_beyond,
)
from teacher.compilation import jit_once
from teacher.errors import FathomError
from teacher.tasks import make_task
from teacher.train import load_teacher

SPEC = make_task("fr3_reach").spec
LENGTH, ENVS = 40, 30
KINDS = GoalShares._fields


def visited(steps=LENGTH) -> VisitedStates:
    """Episodes of so many steps, repeated: after step t of environment e, the goal's entries are t, e, 0."""
    own = np.arange(LENGTH)[:, None] % np.full(ENVS, steps)
    after = np.zeros((LENGTH, ENVS, SPEC.observation_size), np.float32)
    after[..., SPEC.goal.observation_indices[0]] = own
    after[..., SPEC.goal.observation_indices[1]] = np.arange(ENVS)
    return VisitedStates(
        before=after,
        action=np.zeros((LENGTH, ENVS, SPEC.action_size), np.float32),
        after=after,
        qpos=after,
        sensed=after,
        steps=np.full(ENVS, steps),
        goal=np.full((ENVS, SPEC.goal_size), -1, np.float32),
    )


def goals(kind, trajectories, discount=0.9):
    shares = GoalShares(*(float(name == kind) for name in KINDS))
    return np.asarray(draw_goals(jax.random.key(0), SPEC, trajectories, shares, discount))


def test_commanded_goals_are_the_ones_asked_for_and_cross_trajectory_ones_from_anywhere_else():
    assert (goals("commanded", visited()) == -1).all()
    found = goals("cross", visited())
    assert (found[..., 1] != np.arange(ENVS)).all()
    assert set(found[..., 0].ravel()) == set(range(LENGTH))


@pytest.mark.parametrize(("steps", "discount"), [(LENGTH, 0.6), (LENGTH, 0.9), (7, 0.9)])
def test_hindsight_goals_lie_ahead_in_the_same_episode_as_far_as_the_discount_says(steps, discount):
    found = goals("hindsight", visited(steps), discount)
    assert (found[..., 1] == np.arange(ENVS)).all()
    ahead = found[..., 0] - np.arange(LENGTH)[:, None] % steps
    assert (ahead >= 0).all() and found[..., 0].max() == steps - 1
    if steps == LENGTH:
        for far in (1, 3, 5):  # a geometric distribution; the end of the episode cuts none of the first
            assert (ahead[: LENGTH - 10] >= far).mean() == pytest.approx(discount**far, abs=0.05)


def test_goals_beyond_leave_the_range_by_a_little_in_one_entry():
    low, high = np.array(SPEC.goal.low), np.array(SPEC.goal.high)
    found = np.asarray(draw_goals_beyond(jax.random.key(1), SPEC, jnp.zeros((LENGTH, ENVS, SPEC.goal_size))))
    out = np.maximum(low - found, found - high) / (high - low)
    assert ((out > 0).sum(-1) <= 1).all()
    assert (out > 0).any(-1).mean() > 0.99
    assert out.max() <= BEYOND + 1e-6
    assert (found > high).any() and (found < low).any()


def test_each_kind_of_goal_has_its_share():
    shares = GoalShares(0.4, 0.3, 0.2, 0.1)
    found = np.asarray(draw_goals(jax.random.key(2), SPEC, visited(), shares, 0.9))
    own = found[..., 1] == np.arange(ENVS)
    elsewhere = np.isin(found[..., 1], np.arange(ENVS)) & ~own
    commanded = (found == -1).all(-1)
    counted = [commanded, own, elsewhere, ~(commanded | own | elsewhere)]
    np.testing.assert_allclose([kind.mean() for kind in counted], shares, atol=0.05)


def test_the_critic_is_asked_about_the_teachers_action_the_one_carried_out_and_others():
    keys = jax.random.split(jax.random.key(3))
    action, carried_out = (jax.random.uniform(key, (5, 3), minval=-1, maxval=1) for key in keys)
    asked = np.asarray(draw_candidate_actions(jax.random.key(4), action, carried_out))
    assert asked.shape == (5, ACTIONS, 3)
    np.testing.assert_array_equal(asked[:, :2], np.stack([action, carried_out], axis=1))
    assert np.abs(asked).max() <= 1
    assert len(np.unique(asked.reshape(-1, 3), axis=0)) == 5 * ACTIONS


def test_the_teacher_leads_its_share_and_others_in_the_next_segment():
    led = [led_by_teacher(0.25, segment, 40) for segment in range(4)]
    assert list(map(len, led)) == [10] * 4
    assert sorted(np.concatenate(led)) == list(range(40))
    assert len(led_by_teacher(1.0, 3, 40)) == 40
    assert len(led_by_teacher(0.0, 3, 40)) == 0


@pytest.fixture(scope="module")
def distiller(debug_run):
    config = StudentConfig(
        sizes=("1x8", "2x8-relu"),
        critic="1x8",
        envs=16,
        rounds=4,
        teacher_rounds=1,
        mixed_rounds=2,
        seeds=2,
        updates=30,
    )
    made = Distiller(config, load_teacher(debug_run.path / "teacher" / "checkpoints"))
    for name, function in (("_label", made.label), ("_update", made.update_many)):
        setattr(made, name, jit_once(function, donate_argnums=0))  # sooner compiled
    return made


def test_the_teachers_share_of_acting_falls(distiller):
    shares = [distiller.teacher_share(round_) for round_ in range(5)]
    assert shares[:2] == [1, 0.5]
    assert shares[1:4] == sorted(shares[1:4], reverse=True)
    assert shares[3] == shares[4] == 0.15


def test_noise_is_the_students_present_error(distiller):
    teacher, spec = distiller.teacher, distiller.teacher.spec
    observation, goal = jnp.zeros((2000, spec.observation_size)), jnp.zeros((2000, spec.goal_size))
    act = partial(distiller.teacher_action, teacher.params, observation, goal)
    plain, noisy = (act(jnp.asarray(spread), jax.random.key(0)) for spread in (0.0, 0.01))
    np.testing.assert_array_equal(plain, teacher.act(teacher.params, observation, goal))
    assert float((noisy - plain).std()) == pytest.approx(0.01, rel=0.05)
    state, metrics = distiller.iterate(distiller.init(jax.random.key(0)))
    errors = [float(metrics[f"{name}/action_error"]) for name in distiller.config.sizes]
    assert float(state.error) == pytest.approx(np.mean(errors))


def test_seeds_of_a_size_differ_and_the_one_longest_at_its_goals_is_kept(distiller):
    state, _ = distiller.iterate(distiller.init(jax.random.key(1)))
    first = jax.tree.leaves(state.ensemble.policies[0])[0]
    assert first.shape[0] == 2 and not np.allclose(first[0], first[1])
    best = distiller.best_seeds(state)
    assert tuple(best) == distiller.config.sizes
    for kept, times in best.values():
        assert len(times) == 2 and times[kept] == max(times)


def test_labels_hold_the_gradient_of_the_teachers_distance(distiller):
    """Against differences of its distances, one entry of the action after the other."""
    state, teacher = distiller.init(jax.random.key(0)), distiller.teacher
    labels = distiller._label(state, teacher.params, distiller._visit(state)).labels
    observation, goal, action, gradient = (
        np.asarray(leaf[3]) for leaf in (labels.observation, labels.goal, labels.action, labels.gradient)
    )
    for entry, step in enumerate(1e-2 * np.eye(action.shape[-1], dtype=np.float32)):
        moved = (action + step, action - step)
        ahead, behind = (np.asarray(teacher.distance(teacher.params, observation, a, goal)) for a in moved)
        np.testing.assert_allclose(gradient[:, entry], (ahead - behind) / 2e-2, atol=2e-3, rtol=0.02)


def test_students_learn_alike_whoever_else_is_trained(distiller):
    """Policies share labels, not gradients: the update of one does not depend on the others."""
    state = distiller.init(jax.random.key(2))
    state = distiller._label(state, distiller.teacher.params, distiller._visit(state))
    alone = Distiller(distiller.config.model_copy(update={"sizes": ("1x8",)}), distiller.teacher)
    ensemble = state.ensemble._replace(policies=state.ensemble.policies[:1])
    fewer = state._replace(ensemble=ensemble, optimiser=alone.optimiser.init(ensemble))
    of_one, _ = jit_once(alone.update_many)(fewer)
    of_two, _ = distiller._update(state)
    one, two = of_one.ensemble.policies[0], of_two.ensemble.policies[0]
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5), one, two)


def test_a_distillation_goes_on_from_its_save_with_the_same_labels_and_settings(distiller, tmp_path):
    first, _ = distiller.iterate(distiller.init(jax.random.key(3)))
    save_state(tmp_path, distiller, first)
    restored = restore_state(tmp_path, distiller)
    assert [a.dtype for a in jax.tree.leaves(first)] == [a.dtype for a in jax.tree.leaves(restored)]
    jax.tree.map(np.testing.assert_array_equal, first._replace(key=0), restored._replace(key=0))
    uninterrupted, resumed = (distiller.iterate(state)[0].ensemble for state in (first, restored))
    jax.tree.map(np.testing.assert_array_equal, uninterrupted, resumed)
    other = Distiller(distiller.config.model_copy(update={"critic": "2x8"}), distiller.teacher)
    with pytest.raises(FathomError, match="begun with another student"):
        restore_state(tmp_path, other)


def test_a_step_counts_once_however_many_batches_an_episode_has(distiller, monkeypatch):
    monkeypatch.setattr(teacher.rollout, "ROLLOUT_BATCHES", (4,))
    led = []

    def recorded(share, segment, environments):
        led.append((segment, environments))
        return led_by_teacher(share, segment, environments)

    monkeypatch.setattr(student.distill, "led_by_teacher", recorded)
    distiller._visit(distiller.init(jax.random.key(0)))
    length, batches = distiller.spec.episode_length, distiller.config.envs // 4
    segment = length // SEGMENTS
    assert led == [(step // segment, 4) for step in range(length) for _ in range(batches)]
