"""A critic's distance beside the time that it really took."""

import numpy as np
import pytest

from student.calibration import BINS, calibration, waits
from teacher.rollout import Trajectories
from teacher.tasks import make_task

SPEC = make_task("reacher").spec
RADIUS, PERIOD = SPEC.goal.success_radius, SPEC.control_dt


def lived(distance):
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
    far = 3 * RADIUS
    arrives, never = [far, far, far, 0, 0, 0, 0], [far] * 7
    found = waits(SPEC, lived(np.transpose([arrives, never])), np.zeros((2, SPEC.goal_size)), 100)
    assert found.horizon == pytest.approx(3 * PERIOD)
    by_episode = {e: found.seconds[found.episode == e] / PERIOD for e in (0, 1)}
    np.testing.assert_allclose(by_episode[0], [3, 2, 1])
    assert np.isinf(by_episode[1]).all() and len(by_episode[1]) == 3
    np.testing.assert_allclose(found.straight, far)


def test_a_step_after_an_episode_s_end_is_neither_asked_about_nor_an_arrival():
    far = 3 * RADIUS
    ended = lived(np.transpose([[far, far, 0, 0, 0]]))
    ended.active[1:] = False
    found = waits(SPEC, ended, np.zeros((1, SPEC.goal_size)), 100)
    assert found.step.tolist() == [0] and np.isinf(found.seconds).all()


def known(seconds, straight):
    moments = waits(SPEC, lived(np.full((9, 1), 3 * RADIUS)), np.zeros((1, SPEC.goal_size)), 4)
    return moments._replace(
        seconds=np.asarray(seconds, float), straight=np.asarray(straight, float), horizon=8.0
    )


def test_a_distance_that_grows_with_the_time_orders_it_perfectly():
    seconds = np.repeat(np.arange(1.0, BINS + 1), 4)
    seconds[-4:] = np.inf
    figures = calibration(known(seconds, -seconds.clip(max=99)), distance=seconds.clip(max=99) ** 2)
    assert figures["rank_correlation"] == pytest.approx(1)
    assert figures["rank_correlation_straight"] == pytest.approx(-1)
    assert figures["seconds"][2] == [3, 3, 3] and figures["seconds"][-1] == [None] * 3
    assert figures["arrived"] == [1.0] * (BINS - 1) + [0.0]
    assert figures["distance"] == sorted(figures["distance"])


def test_without_arrivals_there_is_nothing_to_say():
    seconds = np.full(40, np.inf)
    assert calibration(known(seconds, np.ones(40)), distance=np.arange(40.0)) == {}
