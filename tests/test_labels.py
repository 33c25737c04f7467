"""What students learn from: goals in the stated shares, the actions asked about, who led when."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from student.checkpoint import restore_state, save_state
from student.config import GoalShares, StudentConfig
from student.distill import Distiller, led_by_teacher
from student.labels import (
    ACTIONS,
    BEYOND,
    VisitedStates,
    draw_candidate_actions,
    draw_goals,
    draw_goals_beyond,
)
from teacher import checkpoint
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


def test_commanded_goals_are_the_ones_asked_for():
    assert (goals("commanded", visited()) == -1).all()


@pytest.mark.parametrize("steps", [LENGTH, 7])
def test_hindsight_goals_lie_ahead_in_the_same_episode(steps):
    trajectories = visited(steps)
    found = goals("hindsight", trajectories)
    step = np.arange(LENGTH)[:, None] % steps
    assert (found[..., 1] == np.arange(ENVS)).all()
    ahead = found[..., 0] - step
    assert (ahead >= 0).all()
    assert found[..., 0].max() == steps - 1
    early = ahead[step[:, 0] == 0]
    assert len(np.unique(early)) > 3  # at more than one distance
    assert early.mean() < LENGTH / 2


@pytest.mark.parametrize("discount", [0.6, 0.9])
def test_hindsight_goals_are_as_far_ahead_as_the_discount_says(discount):
    found = goals("hindsight", visited(), discount)
    ahead = (found[..., 0] - np.arange(LENGTH)[:, None])[: LENGTH - 10]  # the end of the episode cuts none
    for steps in (1, 3, 5):  # a geometric distribution: beyond k steps with the probability discount**k
        assert (ahead >= steps).mean() == pytest.approx(discount**steps, abs=0.05)


def test_cross_trajectory_goals_are_from_other_environments_at_any_time():
    found = goals("cross", visited())
    assert (found[..., 1] != np.arange(ENVS)).all()
    assert set(found[..., 0].ravel()) == set(range(LENGTH))


def test_goals_beyond_leave_the_range_by_a_little_in_one_entry():
    low, high = np.array(SPEC.goal.low), np.array(SPEC.goal.high)
    found = np.asarray(draw_goals_beyond(jax.random.key(1), SPEC, (LENGTH, ENVS)))
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
    action, carried_out = (
        jax.random.uniform(key, (5, 3), minval=-1, maxval=1) for key in jax.random.split(jax.random.key(3))
    )
    asked = np.asarray(draw_candidate_actions(jax.random.key(4), action, carried_out))
    assert asked.shape == (5, ACTIONS, 3)
    np.testing.assert_array_equal(asked[:, 0], action)
    np.testing.assert_array_equal(asked[:, 1], carried_out)
    assert np.abs(asked).max() <= 1
    assert len(np.unique(asked.reshape(-1, 3), axis=0)) == 5 * ACTIONS


def test_the_teacher_leads_its_share_and_others_in_the_next_segment():
    first, second = (led_by_teacher(0.25, segment, 40) for segment in (0, 1))
    assert len(first) == len(second) == 10
    assert not set(first) & set(second)
    everywhere = np.concatenate([led_by_teacher(0.25, segment, 40) for segment in range(4)])
    assert sorted(everywhere) == list(range(40))
    assert len(led_by_teacher(1.0, 3, 40)) == 40
    assert len(led_by_teacher(0.0, 3, 40)) == 0


@pytest.fixture(scope="module")
def distiller(debug_run):
    config = StudentConfig(
        sizes=("1x8", "2x8-relu"), critic="1x8", envs=16, rounds=4, teacher_rounds=1, mixed_rounds=2, seeds=2
    )
    return Distiller(config, load_teacher(debug_run.path / "teacher" / "checkpoints"))


def test_the_teachers_share_of_acting_falls(distiller):
    shares = [distiller.teacher_share(round_) for round_ in range(5)]
    assert shares[0] == 1
    assert shares[1] == 0.5
    assert shares[1:4] == sorted(shares[1:4], reverse=True)
    assert shares[3] == shares[4] == 0.15


def test_noise_is_the_students_present_error(distiller):
    teacher, params = distiller.teacher, distiller.teacher.params
    spec = teacher.spec
    observation, goal = jnp.zeros((2000, spec.observation_size)), jnp.zeros((2000, spec.goal_size))
    act = partial(distiller.teacher_action, params, observation, goal)
    plain = act(jnp.asarray(0.0), jax.random.key(0))
    np.testing.assert_array_equal(plain, teacher.act(params, observation, goal))
    noisy = act(jnp.asarray(0.01), jax.random.key(0))
    assert float((noisy - plain).std()) == pytest.approx(0.01, rel=0.05)
    state, metrics = distiller.iterate(distiller.init(jax.random.key(0)))
    assert float(state.error) == pytest.approx(
        np.mean([float(metrics[f"{name}/action_error"]) for name in distiller.config.sizes])
    )


def test_seeds_of_a_size_differ_and_the_one_longest_at_its_goals_is_kept(distiller):
    state, _ = distiller.iterate(distiller.init(jax.random.key(1)))
    first = jax.tree.leaves(state.ensemble.policies[0])[0]
    assert first.shape[0] == 2
    assert not np.allclose(first[0], first[1])
    for name, (kept, times) in distiller.best_seeds(state).items():
        assert name in distiller.config.sizes
        assert len(times) == 2
        assert times[kept] == max(times)


def test_students_learn_alike_whoever_else_is_trained(distiller):
    """Policies share labels, not gradients: the update of one does not depend on the others."""
    state = distiller.init(jax.random.key(2))
    state = distiller._label(state, distiller.teacher.params, distiller._visit(state))
    alone = Distiller(distiller.config.model_copy(update={"sizes": ("1x8",)}), distiller.teacher)
    ensemble = state.ensemble._replace(policies=state.ensemble.policies[:1])
    fewer = state._replace(ensemble=ensemble, optimiser=alone.optimiser.init(ensemble))
    of_one, _ = jax.jit(alone.update_many)(fewer)
    of_two, _ = jax.jit(distiller.update_many)(state)
    for one, two in zip(
        jax.tree.leaves(of_one.ensemble.policies[0]),
        jax.tree.leaves(of_two.ensemble.policies[0]),
        strict=True,
    ):
        np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-5)


def test_a_distillation_goes_on_from_its_save_with_the_same_labels(distiller, tmp_path):
    first, _ = distiller.iterate(distiller.init(jax.random.key(3)))
    save_state(tmp_path, distiller, first)
    restored = restore_state(tmp_path, distiller)
    for kept, saved in zip(jax.tree.leaves(first), jax.tree.leaves(restored), strict=True):
        assert kept.dtype == saved.dtype
        if not jax.dtypes.issubdtype(kept.dtype, jax.dtypes.prng_key):
            np.testing.assert_array_equal(kept, saved)
    uninterrupted, _ = distiller.iterate(first)
    resumed, _ = distiller.iterate(restored)
    for straight, interrupted in zip(
        jax.tree.leaves(uninterrupted.ensemble), jax.tree.leaves(resumed.ensemble), strict=True
    ):
        np.testing.assert_array_equal(straight, interrupted)


def test_a_save_of_other_settings_is_refused_naming_them(distiller, tmp_path):
    save_state(tmp_path, distiller, distiller.iterate(distiller.init(jax.random.key(4)))[0])
    other = Distiller(distiller.config.model_copy(update={"critic": "2x8"}), distiller.teacher)
    with pytest.raises(FathomError, match="begun with another student"):
        restore_state(tmp_path, other)


@pytest.mark.parametrize("finished", [True, False])
def test_a_save_with_the_names_of_earlier_versions_is_read_if_finished(
    distiller, tmp_path, monkeypatch, finished
):
    state, _ = distiller.iterate(distiller.init(jax.random.key(5)))
    save_state(tmp_path, distiller, state)

    def renamed(leaves):
        names = {".ensemble": ".family", ".candidate_actions": ".tried"}
        for now, before in names.items():
            leaves = {path.replace(now, before): leaf for path, leaf in leaves.items()}
        return leaves

    saved = checkpoint.load(tmp_path)
    step = distiller.config.rounds if finished else saved.step
    old = saved._replace(step=step, leaves=renamed(saved.leaves), rows=renamed(saved.rows))
    assert old.leaves.keys() != saved.leaves.keys() and old.rows.keys() != saved.rows.keys()
    monkeypatch.setattr(checkpoint, "load", lambda directory: old)
    if finished:
        restored = restore_state(tmp_path, distiller)
        np.testing.assert_array_equal(restored.labels.candidate_actions, state.labels.candidate_actions)
        jax.tree.map(np.testing.assert_array_equal, restored.ensemble, state.ensemble)
    else:
        with pytest.raises(FathomError, match="unfinished and of an older version"):
            restore_state(tmp_path, distiller)
