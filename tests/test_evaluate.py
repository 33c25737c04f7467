"""EpisodeMetrics of episodes, by hand."""

from types import SimpleNamespace

import numpy as np
import pytest

from teacher.evaluate import episode_metrics, share_interval, summarise
from teacher.rollout import Trajectories

SPEC = SimpleNamespace(
    goal=SimpleNamespace(
        observation_indices=(1,), success_radius=1.0, strict_radius=0.5, easy_radius=2.0, lever=None
    )
)
GOAL = np.array([[10.0], [10.0]])


def lived(achieved, going):
    """Trajectories of the goal's entry [L + 1, E] after each action, the first before."""
    achieved = np.asarray(achieved, float)
    observation = np.stack([np.full_like(achieved, 10.0), achieved], axis=-1)
    return Trajectories(observation, observation, np.zeros((len(achieved) - 1, 2, 1)), np.array(going))


def test_times_and_radii_by_hand():
    path = lived([[0, 10], [8.5, 10.4], [9.2, 10.4], [9.8, 10.7], [9.8, 13.0]], [[True, True]] * 4)
    found = episode_metrics(SPEC, path, GOAL)
    np.testing.assert_allclose(found.time_at_goal, [0.75, 0.75])
    np.testing.assert_allclose(found.time_near_goal, [1.0, 0.75])
    assert found.success_final.tolist() == [True, False]
    assert found.success_any.tolist() == [True, True]
    assert found.strict_final.tolist() == [True, False]
    np.testing.assert_allclose(found.final_distance, [0.2, 3.0])


def test_a_robot_that_fell_at_the_goal_is_not_there_any_more():
    path = lived([[0, 0], [10, 10], [10, 10], [10, 10], [10, 10]], [[True, True]] * 2 + [[True, False]] * 2)
    found = episode_metrics(SPEC, path, GOAL)
    np.testing.assert_allclose(found.time_at_goal, [1.0, 0.5])
    np.testing.assert_allclose(found.time_near_goal, [1.0, 0.5])
    assert found.success_final.tolist() == [True, False]
    assert found.strict_final.tolist() == [True, False]
    assert found.success_any.all()


def test_steps_of_an_episode_that_ended_early_are_its_own_repeated():
    path = lived([[0, 0], [1, 1], [2, 2], [3, 2], [4, 2]], [[True, True]] * 2 + [[True, False]] * 2)
    path = path._replace(action=np.arange(8.0).reshape(4, 2, 1))
    before, action, after = path.steps()
    np.testing.assert_array_equal(before[..., 1].T, [[0, 1, 2, 3], [0, 1, 0, 1]])
    np.testing.assert_array_equal(after[..., 1].T, [[1, 2, 3, 4], [1, 2, 1, 2]])
    np.testing.assert_array_equal(action[..., 0].T, [[0, 2, 4, 6], [1, 3, 1, 3]])


def test_a_summary_names_the_layout_and_the_episodes():
    path = lived([[0, 0], [10, 10], [10, 9.4]], [[True, True]] * 2)
    figures = summarise(episode_metrics(SPEC, path, GOAL), "far")
    assert (figures["layout"], figures["episodes"]) == ("far", 2)
    assert figures["success_final"] == 1.0
    assert figures["success_final_interval"][0] < 1.0


@pytest.mark.parametrize(("successes", "episodes"), [(0, 16), (1, 2), (7, 10), (250, 256), (256, 256)])
def test_shares_have_wilson_intervals(successes, episodes):
    """By Wilson's formula (1927) with the normal's 97.5 % quantile."""
    z = 1.959963984540054
    share, spread = successes / episodes, z**2 / episodes
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * (share * (1 - share) / episodes + spread / (4 * episodes)) ** 0.5
    expected = (max(0, middle - half), min(1, middle + half))
    np.testing.assert_allclose(share_interval(successes, episodes), expected, atol=1e-9)
