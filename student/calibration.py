"""What a critic's distance is worth as a clock: how long it took from states that it called as far."""

from typing import Any, NamedTuple

import numpy as np
import scipy.stats

from teacher.rollout import Trajectories
from teacher.spec import TaskSpec
from teacher.tasks import goal_distance

BINS = 10  # of equally many states
QUARTILES = (0.25, 0.5, 0.75)


class Waits(NamedTuple):
    """Q moments before a goal is reached, and what followed; NumPy arrays.

    All are from the first half of an episode and are followed for half an episode, so that none is cut
    off by the episode's end."""

    step: np.ndarray  # [Q]: of the episode
    episode: np.ndarray  # [Q]
    straight: np.ndarray  # [Q]: Euclidean distance to the goal, in its unit
    seconds: np.ndarray  # [Q]: until the success radius is entered; inf where it was not in that time
    horizon: float  # seconds for which each moment was followed


def waits(spec: TaskSpec, lived: Trajectories, goal: np.ndarray, count: int) -> Waits:
    """At most `count` moments of E episodes with goals [E, G], evenly spread over them."""
    length = len(lived.active)
    horizon = max(length // 2, 1)
    straight = goal_distance(spec, lived.observation, goal)  # [L + 1, E]
    near = straight <= spec.goal.success_radius
    near[1:] &= lived.active
    upcoming = np.stack([near[1 + k : 1 + k + length - horizon] for k in range(horizon)])
    asked = np.argwhere(lived.active[: length - horizon] & ~near[: length - horizon])
    rows = np.linspace(0, len(asked) - 1, min(count, len(asked))).round().astype(int)
    step, episode = asked[rows].T
    following = upcoming[:, step, episode]
    seconds = np.where(following.any(0), (1 + following.argmax(0)) * spec.control_dt, np.inf)
    return Waits(step, episode, straight[step, episode], seconds, horizon * spec.control_dt)


def calibration(found: Waits, distance: np.ndarray) -> dict[str, Any]:
    """How long states with critic's distances [Q] were from their goals in time.

    Returns:
      states, horizon_s: how many, and for how long each was followed.
      distance: median of each bin of equally many states, in rising order.
      seconds: quartiles of the time to the goal in each bin; None where it is beyond the horizon.
      arrived: share of each bin that came to the goal within the horizon.
      rank_correlation: Spearman's, of distance and time; later than the horizon counts as latest.
      rank_correlation_straight: the same of the plain distance to the goal.
    Nothing where fewer than BINS states came to their goal: there is hardly a time to compare with."""
    reached = np.isfinite(found.seconds)
    if reached.sum() < BINS:
        return {}
    bins = np.array_split(np.argsort(distance, kind="stable"), BINS)
    spread = [np.quantile(found.seconds[rows], QUARTILES, method="inverted_cdf").tolist() for rows in bins]
    figures = {
        "states": len(distance),
        "horizon_s": found.horizon,
        "distance": [float(np.median(distance[rows])) for rows in bins],
        "seconds": [[each if np.isfinite(each) else None for each in row] for row in spread],
        "arrived": [float(reached[rows].mean()) for rows in bins],
    }
    order = scipy.stats.rankdata(found.seconds)
    for key, value in (("rank_correlation", distance), ("rank_correlation_straight", found.straight)):
        if np.ptp(value) > 0 and np.ptp(order) > 0:
            figures[key] = float(scipy.stats.spearmanr(order, value).statistic)
    return figures
