import re
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import Probe, name_of, uniform

from teacher.compilation import jit_once
from teacher.config import CollectConfig, NetworkConfig, TaskConfig, TeacherConfig, UpdateConfig
from teacher.errors import Diverged, FathomError, UsageError
from teacher.learner import Learner, TeacherState
from teacher.tasks import TASKS
from teacher.train import require_sound, train

ENVS, STEPS, ITERATIONS = 64, 60, 3
PREFILL = 90  # no multiple of STEPS: two pieces


class Drift(Probe):
    """Actions move a point a little and are seen afterwards; beyond an edge they are no numbers any more."""

    length, radius = 100, 0.1  # episodes end in the middle of an iteration
    EDGE = np.inf

    def draw(self, key, layout):
        return uniform(key, 0, 0.1), jnp.zeros(2), uniform(key, 1, 1.0)

    def move(self, position, more, control):
        xp = control.__array_namespace__()
        return position + 0.02 * control, xp.where(position[..., :1] > self.EDGE, xp.nan, control)


@pytest.fixture(scope="module")
def learner_of():
    """Makes a learner of a task: as small as it goes, soon compiled, and with one update for all."""
    made = []

    def learner_of(task, **collect):
        patch.setitem(TASKS, name_of(task), task)
        sizes = {"envs": ENVS, "unroll_length": STEPS, "updates": 5, "buffer_rows": 400, "prefill": PREFILL}
        update = UpdateConfig(
            actor_lr=1e-3, critic_lr=2e-3, temperature_lr=5e-3, batch_size=16, ema_decay=0.9
        )
        collect = sizes | {"total_steps": ITERATIONS * ENVS * STEPS} | collect
        made.append(
            Learner(
                TeacherConfig(
                    task=TaskConfig(name=name_of(task)),
                    network=NetworkConfig(depth=4, width=8, repr_dim=4),
                    update=update,
                    collect=CollectConfig(**collect),
                )
            )
        )
        if len(made) == 1:
            made[0]._update = jit_once(made[0].update_many, donate_argnums=0)
        made[-1]._update = made[0]._update
        made[-1]._collect = jit_once(made[-1].collect, donate_argnums=0)
        return made[-1]

    with pytest.MonkeyPatch.context() as patch:
        yield learner_of


@pytest.fixture(scope="module")
def learner(learner_of):
    return learner_of(Drift)


class Run(NamedTuple):
    states: list[TeacherState]  # before, and after each iteration; NumPy arrays
    metrics: list[dict[str, float]]


def snapshot(state):
    return jax.tree.map(np.array, state._replace(key=jax.random.key_data(state.key)))


def whole_run(learner, seed):
    fresh = learner.init(jax.random.key(seed))
    run = Run([snapshot(fresh)], [])
    for state, metrics in train(learner, fresh):
        run.states.append(snapshot(state))
        run.metrics.append(metrics)
    return run


@pytest.fixture(scope="module")
def run(learner):
    return whole_run(learner, seed=0)


def test_a_run_has_its_length_and_stays_finite(run):
    assert [int(state.iteration) for state in run.states] == [0, 1, 2, 3]
    written = [int(state.replay.written) for state in run.states]
    assert written == [0, 2 * STEPS, 3 * STEPS, 4 * STEPS]  # the first update waits for the prefill
    for state in run.states:
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    for metrics in run.metrics:
        assert all(np.isfinite(value) for value in metrics.values())
        assert 0 <= metrics["critic_accuracy"] <= 1 and 0 <= metrics["saturation"] <= 1
    assert all((state.key == run.states[0].key).all() for state in run.states)
    weight = np.exp(run.states[-1].params.log_temperature)
    assert run.metrics[-1]["entropy_weight"] == pytest.approx(weight, abs=0.1)


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(learner, run):
    again, other = whole_run(learner, seed=0), whole_run(learner, seed=1)
    jax.tree.map(np.testing.assert_array_equal, again.states[-1], run.states[-1])
    assert again.metrics == run.metrics
    for mine, others in zip(other.states[-1].replay.rows[:2], run.states[-1].replay.rows[:2], strict=True):
        assert (mine != others).any()


def test_the_average_is_the_moving_one_of_the_parameters(learner, run):
    """Of the first iterations the plain mean, then one that forgets."""
    mean = jax.tree.map(np.zeros_like, run.states[0].params)
    for iteration, state in enumerate(run.states[1:]):
        share = max(1 - 0.9**5, 1 / (iteration + 1))
        mean = jax.tree.map(lambda old, new, share=share: old + share * (new - old), mean, state.params)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), state.average, mean)


def test_each_iteration_draws_batches_and_noise_of_its_own(learner, run):
    def updated(iteration):
        state = jax.tree.map(jnp.array, run.states[1]._replace(key=None))
        state = state._replace(key=jax.random.key(0), iteration=jnp.int32(iteration))
        return learner._update(state)[1]

    first, again, other = map(updated, (5, 5, 6))
    assert first == again
    for key in ("critic_loss", "actor_loss", "entropy"):
        assert first[key] != other[key]


@pytest.fixture(scope="module")
def rows(run):
    replay = run.states[-1].replay
    return jax.tree.map(lambda leaf: leaf[: int(replay.written)], replay.rows)


def test_episodes_have_the_specs_length_begin_afresh_and_end_at_different_times(learner, rows):
    assert set(np.unique(np.diff(rows.episode, axis=0))) == {0, 1}
    np.testing.assert_array_equal(rows.episode[0], 0)
    starts, first = [], set()
    for n, column in enumerate(rows.episode.T):
        begins = np.flatnonzero(np.diff(column, prepend=-1))
        np.testing.assert_array_equal(np.diff(begins[1:]), learner.spec.episode_length)
        assert len(begins) >= 3 and begins[1] <= learner.spec.episode_length
        first.add(begins[1])
        seen = rows.observation[:, n]
        assert (seen[begins, 2:] == 0).all() and (np.abs(seen[begins, :2]) <= 0.1).all()
        assert (np.delete(seen, begins, axis=0)[:, 2:] != 0).all()  # after an action
        starts.extend(seen[begins, :2])
    assert len(first) > ENVS / 2
    assert len(np.unique(starts, axis=0)) == len(starts)


def test_repeated_starts_give_every_environment_one_goal_for_the_whole_run(learner_of):
    repeating = learner_of(Drift, starts="repeated")
    state = repeating.init(jax.random.key(0))
    before = np.array(state.environments.goal)
    state = repeating._collect(repeating._collect(state))
    assert (np.array(state.environments.episode) > 0).all()
    np.testing.assert_allclose(state.environments.goal, before, atol=1e-6)
    assert len(np.unique(before, axis=0)) == ENVS


def test_windows_come_from_environments_in_lockstep_and_change_what_is_learned(learner_of):
    learner = learner_of(Drift, prefill=Drift.length, sampling="windows")
    state = learner.init(jax.random.key(0))
    assert not np.array(state.environments.step).any()
    state = learner._collect(learner._collect(state))
    assert len(np.unique(state.environments.step)) == 1
    metrics = jit_once(learner.update_many)(state)[1]
    assert all(np.isfinite(value) for value in metrics.values())
    assert metrics["critic_loss"] != learner._update(state)[1]["critic_loss"]  # which draws evenly


@pytest.mark.parametrize(
    ("collect", "message"),
    [
        ({"prefill": 99}, "collect.prefill: found 99, .* an episode, 100 control steps"),
        (
            {"prefill": 100, "updates": 401},
            r"collect.updates: found 401, .* \* 100 = 6400 .* at most 400 ",
        ),
    ],
)
def test_windows_that_hold_too_few_rows_are_refused(learner_of, collect, message):
    with pytest.raises(UsageError, match=message):
        learner_of(Drift, sampling="windows", **collect)


def test_an_outcome_is_what_the_next_row_of_its_episode_observes(learner, rows):
    reached = rows.observation[1:][..., list(learner.spec.goal.observation_indices)]
    goes_on = np.diff(rows.episode, axis=0) == 0
    np.testing.assert_allclose(rows.achieved_goal[:-1][goes_on], reached[goes_on], atol=1e-6)
    carried_out = rows.observation[1:][goes_on][:, 2:]  # as a drifting point shows it
    np.testing.assert_allclose(rows.action[:-1][goes_on], carried_out, atol=1e-6)
    assert (np.abs(rows.achieved_goal[:-1] - reached)[~goes_on].max(-1) > 1e-3).all()  # not the next start's


def test_a_goal_stays_for_an_episode_and_changes_with_it(run):
    goals = [run.states[0].environments.goal]
    for before, after in zip(run.states, run.states[1:], strict=False):
        same = before.environments.episode == after.environments.episode
        assert not same.all()
        np.testing.assert_array_equal(before.environments.goal[same], after.environments.goal[same])
        assert (before.environments.goal[~same] != after.environments.goal[~same]).all()
        goals.append(after.environments.goal[~same])
    goals = np.concatenate(goals)
    assert len(np.unique(goals, axis=0)) == len(goals)
    assert (np.abs(goals) <= 1).all()


def test_goals_change_within_an_episode_as_often_as_asked(learner, learner_of):
    wandering = learner_of(Drift, goal_steps=5, unroll_length=1)
    states = [learner.init(jax.random.key(0))]
    for _ in range(100):
        states.append(wandering._collect(jax.tree.map(jnp.copy, states[-1])))
    episode, goal, step = (
        np.array([getattr(state.environments, name) for state in states])
        for name in ("episode", "goal", "step")
    )
    goes_on = np.diff(episode, axis=0) == 0
    changed = (np.diff(goal, axis=0) != 0).any(-1)
    assert changed[~goes_on].all() and changed.any(0).all()  # in every environment
    within = changed[goes_on]
    assert abs(within.mean() - 1 / 5) < 4 * np.sqrt(0.2 * 0.8 / within.size)
    np.testing.assert_array_equal(np.diff(step, axis=0)[goes_on], 1)  # the episode itself is not cut


def with_changed(learner, group, change):
    """A fresh state in which `change` was applied to the leaves of one group of parameters."""
    state = learner.init(jax.random.key(0))
    changed = jax.tree.map(lambda leaf: jnp.array(change(np.array(leaf))), getattr(state.params, group))
    return state._replace(params=state.params._replace(**{group: changed}))


def test_actions_are_drawn_anew_for_each_step_environment_and_piece(learner):
    blind = with_changed(learner, "actor", np.zeros_like)  # its actions are noise alone
    state, _ = learner.iterate(blind)
    actions = np.asarray(state.replay.rows.action[: int(state.replay.written)])
    assert len(actions) == 2 * STEPS
    assert len(np.unique(actions)) > 0.99 * actions.size
    assert np.abs(actions).max() <= 1
    np.testing.assert_allclose(actions.mean(), 0, atol=0.05)


def one_nan(leaf):
    leaf.flat[0] = np.nan
    return leaf


def test_a_nan_in_the_parameters_stops_the_run_naming_a_quantity(learner, run):
    with pytest.raises(Diverged, match="became nan in iteration 1") as error:
        next(train(learner, with_changed(learner, "goal", one_nan)))
    assert re.match(r"\w+", str(error.value)).group() in run.metrics[0]


BLIND = np.log(16) + 0.1 * np.log(16) ** 2  # loss of a critic that guesses one goal of a batch of 16


@pytest.mark.parametrize(
    ("losses", "ends"),
    [
        ([10_349.0, 700.0, 90.0, *[2.0] * 30], None),  # recovers
        ([10_349.0] * 33, 21),  # stays bad
        ([2.0] * 25 + [11 * BLIND] + [2.0] * 7, 26),  # explodes late
        ([9 * BLIND] * 33, None),
    ],
)
def test_a_large_first_loss_may_come_down_and_one_that_stays_or_comes_late_ends_the_run(
    learner, losses, ends
):
    """With 50 updates an iteration the 21st is the first to begin after 1,000."""
    collect = learner.config.collect.model_copy(update={"updates": 50})
    config = learner.config.model_copy(update={"collect": collect})
    for iteration, loss in enumerate(losses, 1):  # a run that goes on knows nothing of earlier losses
        if iteration == ends:
            with pytest.raises(
                Diverged, match=f"reached {re.escape(f'{loss:.3g}')} in iteration {iteration},"
            ):
                require_sound({"critic_loss": loss}, iteration, config)
            return
        require_sound({"critic_loss": loss}, iteration, config)
    assert ends is None


# Physics that leave the finite numbers


def brittle(edge):
    return type(f"Brittle{1000 * edge:.0f}", (Drift,), {"EDGE": edge})


def test_an_environment_that_breaks_ends_its_episode_and_learning_goes_on(learner_of, run):
    """Two of them come beyond the edge while the first updates are waited for."""
    collected = 2 * STEPS
    whole = jax.tree.map(lambda leaf: leaf[:collected], run.states[1].replay.rows)
    edge = float(np.sort(whole.observation[..., 0].max(0))[-3])
    broken = whole_run(learner_of(brittle(edge)), seed=0)
    rows = jax.tree.map(lambda leaf: leaf[:collected], broken.states[1].replay.rows)
    unknown = np.isnan(rows.achieved_goal).any(-1)
    assert 0 < unknown[STEPS:].sum() == broken.metrics[0]["unstable_steps"]
    untouched = ~unknown.any(0)
    assert ENVS - 4 <= untouched.sum() < ENVS
    for mine, others in zip(rows, whole, strict=True):
        np.testing.assert_array_equal(mine[:, untouched], others[:, untouched])
    for state, metrics in zip(broken.states[1:], broken.metrics, strict=True):
        kept = state._replace(replay=None)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(kept))
        assert all(np.isfinite(value) for value in metrics.values())
    assert (broken.states[1].environments.step[unknown[-1]] == 0).all()


def test_a_run_in_which_too_many_break_says_that_the_simulation_did(learner_of):
    learner = learner_of(brittle(0.002))
    told = (
        r"the simulation of task 'probe_brittle2' on engine 'analytic' became unstable: \d+ of the 3840 "
        r"control steps of iteration 1, first in environment \d+ where it saw position.x = nan, .*; a smaller"
    )
    with pytest.raises(FathomError, match=told):
        next(train(learner, learner.init(jax.random.key(0))))


def test_a_broken_episode_of_a_rollout_stands_still_before_the_break(learner_of):
    floor = learner_of(brittle(0.2)).simulation
    ran = floor.rollout(
        lambda o, goal: np.ones((len(goal), 2), np.float32), floor.starts(jax.random.key(0), 3)
    )
    assert np.isfinite(ran.observation).all()
    for episode, steps in enumerate(ran.active.sum(0)):
        assert 0 < steps < 20
        rest = ran.qpos[steps:, episode]
        assert 0.2 < rest[0, 0] <= 0.22
        np.testing.assert_array_equal(rest, np.broadcast_to(rest[0], rest.shape))
