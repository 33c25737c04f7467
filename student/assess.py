"""How much of its teacher a student keeps: in closed loop, and in its critic."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from teacher.evaluate import CONFIDENCE, Outcomes
from teacher.losses import distance, pairwise_distance

Array = jax.Array
ACTIONS_PER_STATE = 32


class Critic(NamedTuple):
    """The two encoders of a critic; its distance is that between their answers."""

    state_action: Callable[[Array, Array], Array]  # [B, S], [B, A] -> [B, R]
    goal: Callable[[Array], Array]  # [B, G] -> [B, R]

    def distance(self, observation: Array, action: Array, goal: Array) -> Array:
        """[B, S], [B, A], [B, G] -> [B]."""
        return distance(self.state_action(observation, action), self.goal(goal))


def retention(student: Outcomes, teacher: Outcomes) -> dict[str, float]:
    """Time at goal of the student over that of the teacher, on the same starts and goals.

    Returns: `retention` with its bootstrap interval over pairs of episodes, `retention_low` and
    `retention_high`; nothing if the teacher never was at a goal, for then there is no ratio."""
    kept, of = np.asarray(student.time_at_goal), np.asarray(teacher.time_at_goal)
    if of.sum() == 0:
        return {}
    interval = scipy.stats.bootstrap(
        (kept, of),
        lambda a, b, axis: a.sum(axis) / np.maximum(b.sum(axis), 1e-12),
        paired=True,
        vectorized=True,
        confidence_level=CONFIDENCE,
        method="percentile",
        n_resamples=2000,
        rng=0,
    ).confidence_interval
    return {
        "retention": float(kept.sum() / of.sum()),
        "retention_low": float(interval.low),
        "retention_high": float(interval.high),
    }


def critic_agreement(
    student: Critic, teacher: Critic, observation: Array, action: Array, goal: Array, key: Array
) -> dict[str, float]:
    """How alike two critics are on B visited states [B, S], actions [B, A] and goals [B, G].

    Returns:
      spearman_actions: mean rank correlation of the distances over 32 uniform actions at one state.
      top1: share of the state-actions for which both find the same of the B goals nearest.
      gradient_cosine: mean cosine of the distances' gradients with respect to the action.
    """
    count, size = action.shape
    actions = jax.random.uniform(key, (ACTIONS_PER_STATE, count, size), minval=-1, maxval=1)

    def over_actions(critic: Critic) -> np.ndarray:
        return np.asarray(jax.vmap(critic.distance, (None, 0, None))(observation, actions, goal))

    def nearest(critic: Critic) -> Array:
        return pairwise_distance(critic.state_action(observation, action), critic.goal(goal)).argmin(axis=1)

    def gradient(critic: Critic) -> Array:
        return jax.grad(lambda a: critic.distance(observation, a, goal).sum())(action)

    ranks = [scipy.stats.rankdata(over_actions(c), axis=0) for c in (student, teacher)]
    centred = [r - r.mean(0) for r in ranks]
    spearman = (centred[0] * centred[1]).sum(0) / np.sqrt((centred[0] ** 2).sum(0) * (centred[1] ** 2).sum(0))
    a, b = gradient(student), gradient(teacher)
    cosine = (a * b).sum(-1) / (jnp.linalg.norm(a, axis=-1) * jnp.linalg.norm(b, axis=-1) + 1e-12)
    return {
        "spearman_actions": float(np.mean(spearman)),
        "top1": float((nearest(student) == nearest(teacher)).mean()),
        "gradient_cosine": float(cosine.mean()),
    }


def select(assessments: dict[str, dict[str, Any]], threshold: float) -> tuple[str, bool]:
    """The smallest student whose retention's lower bound reaches `threshold`.

    Args: assessments: by size, with `parameters`, `time_at_goal` and, if defined, `retention_low`.
    Returns: its size and True; if none reaches it, the one longest at its goals and False."""
    passing = [s for s, a in assessments.items() if a.get("retention_low", -1.0) >= threshold]
    if passing:
        return min(passing, key=lambda s: assessments[s]["parameters"]), True
    return max(assessments, key=lambda s: assessments[s]["time_at_goal"]), False
