"""How well a critic agrees with another, and its distance with the time that it really took."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from student.critic import (
    BINS,
    CriticOutputs,
    CriticQueries,
    calibration,
    critic_agreement,
    critic_outputs,
    times_to_goal,
)
from teacher.rollout import Trajectories
from teacher.tasks import make_task

SIZES = (5, 2, 3)  # observation, action, goal
AGREEMENT = {"spearman_actions", "spearman_states", "best_action", "top1", "gradient_cosine"}
AGREEMENT |= {"distance_error", "distance_error_relative"}
SPEC = make_task("reacher").spec
RADIUS, PERIOD = SPEC.goal.success_radius, SPEC.control_dt


def values(seed: int, size: int, count: int = 32):
    return jax.random.normal(jax.random.key(seed), (count, size))


def test_a_critic_agrees_with_itself_and_not_with_its_opposite():
    observation, action, goal = (values(i, n) for i, n in enumerate(SIZES))

    def pair(sign, observation, action):
        """Of a critic whose distance is |1000 + sign * (sum of the action)|, whatever the goal."""
        return 1000 + sign * action.sum(-1, keepdims=True) + 0 * observation[:, :1]

    random_actions = jax.random.uniform(jax.random.key(1), (8, *action.shape))
    queries = CriticQueries(observation, action, goal, goal, random_actions)
    up, down = (critic_outputs(pair, lambda _, g: 0 * g[..., :1], sign, queries) for sign in (1, -1))
    same = critic_agreement(up, up)
    assert same.keys() == AGREEMENT
    for key in AGREEMENT:
        assert same[key] == pytest.approx(0 if key.startswith("distance_error") else 1, abs=1e-5), key
    opposite = critic_agreement(up, down)
    for key in ("spearman_actions", "spearman_states", "gradient_cosine"):
        assert opposite[key] == pytest.approx(-1, abs=1e-5), key
    assert opposite["best_action"] == 0
    assert opposite["distance_error"] == pytest.approx(2 * np.abs(action.sum(-1)).mean(), rel=1e-3)


def test_an_offset_of_each_goal_reorders_neither_states_nor_actions_but_is_an_error():
    rng = np.random.default_rng(0)
    outputs = CriticOutputs(rng.random((8, 6)), rng.random((6, 6)), rng.random((6, 2)))
    shifted = outputs._replace(everywhere=outputs.everywhere + np.arange(6.0))
    found = critic_agreement(shifted, outputs)
    assert found["spearman_states"] == pytest.approx(1)
    assert found["distance_error"] == pytest.approx(2.5)
    assert found["distance_error_relative"] == pytest.approx(2.5 / outputs.everywhere.std())


def test_goals_may_look_different_from_each_state():
    """A critic of positions, and the same one of the way from each state to each goal."""
    position, goal, random_actions = values(0, 2), values(1, 2), values(2, 2)[None]
    action = jnp.zeros_like(position)
    own, every = goal - position, goal[None] - position[:, None]
    of_ways = CriticQueries(0 * position, action, own, every, random_actions)
    of_positions = CriticQueries(position, action, goal, goal, random_actions)
    found = critic_outputs(lambda _, o, a: a, lambda _, g: g, None, of_ways)
    expected = critic_outputs(lambda _, o, a: o + a, lambda _, g: g, None, of_positions)
    for values_found, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(values_found, wanted, rtol=1e-4, atol=1e-5)


def episodes(distance):
    """Episodes whose distance to a goal at the origin is [L + 1, E]."""
    distance = np.asarray(distance, float)
    observation = np.zeros((*distance.shape, SPEC.observation_size))
    observation[..., SPEC.goal.observation_indices[0]] = distance
    length, episodes = len(distance) - 1, distance.shape[1]
    return Trajectories(
        np.zeros((length + 1, episodes, 1)),
        observation,
        np.zeros((length, episodes, SPEC.action_size)),
        np.ones((length, episodes), bool),
    )


def test_times_are_counted_from_outside_the_radius_and_for_half_an_episode():
    far, goals = 3 * RADIUS, np.zeros((2, SPEC.goal_size))
    arrives, never = [far, far, far, 0, 0, 0, 0], [far] * 7
    found = times_to_goal(SPEC, episodes(np.transpose([arrives, never])), goals, 100)
    assert found.horizon == pytest.approx(3 * PERIOD)
    of_arriving, of_never = (found.seconds[found.episode == e] / PERIOD for e in (0, 1))
    np.testing.assert_allclose(of_arriving, [3, 2, 1])
    assert np.isinf(of_never).all() and len(of_never) == 3
    np.testing.assert_allclose(found.straight, far)
    # A step after an episode's end is neither asked about nor an arrival.
    ended = episodes(np.transpose([[far, far, 0, 0, 0]]))
    ended.active[1:] = False
    found = times_to_goal(SPEC, ended, goals[:1], 100)
    assert found.step.tolist() == [0] and np.isinf(found.seconds).all()


def known(seconds, straight):
    moments = times_to_goal(SPEC, episodes(np.full((9, 1), 3 * RADIUS)), np.zeros((1, SPEC.goal_size)), 4)
    return moments._replace(seconds=np.asarray(seconds), straight=np.asarray(straight), horizon=8.0)


def test_a_distance_that_grows_with_the_time_orders_it_perfectly():
    seconds = np.repeat(np.arange(1.0, BINS + 1), 4)
    seconds[-4:] = np.inf
    figures = calibration(known(seconds, -seconds.clip(max=99)), distance=seconds.clip(max=99) ** 2)
    assert figures["rank_correlation"] == pytest.approx(1)
    assert figures["rank_correlation_straight"] == pytest.approx(-1)
    assert figures["seconds"][2] == [3, 3, 3] and figures["seconds"][-1] == [None] * 3
    assert figures["arrived"] == [1.0] * (BINS - 1) + [0.0]
    assert figures["distance"] == sorted(figures["distance"])
    never = np.full(40, np.inf)
    assert calibration(known(never, np.ones(40)), distance=np.arange(40.0)) == {}
