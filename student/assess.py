"""How much of its teacher a student keeps: in closed loop, and in its critic."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import scipy.stats

from teacher.evaluate import CONFIDENCE, Outcomes
from teacher.losses import distance, pairwise_distance

Array = jax.Array


class Critic(NamedTuple):
    """The two encoders of a critic; its distance is that between their answers."""

    state_action: Callable[[Array, Array], Array]  # [B, S], [B, A] -> [B, R]
    goal: Callable[[Array], Array]  # [B, G] -> [B, R]


class CriticAnswers(NamedTuple):
    """What a critic says about B states, their actions and goals, and K more actions at each."""

    over_actions: Array  # [K, B]: distance to the state's own goal after each further action
    nearest: Array  # [B]: which of the B goals is nearest after the state's own action
    gradient: Array  # [B, A]: of the distance to the state's own goal, with respect to its action


def retention(student: Outcomes, teacher: Outcomes) -> dict[str, float]:
    """Time at goal of the student over that of the teacher, on the same starts and goals.

    Returns: `retention` with its bootstrap interval over pairs of episodes, `retention_low` and
    `retention_high`; nothing if the teacher was at a goal so rarely that the ratio has no interval."""
    kept, of = np.asarray(student.time_at_goal), np.asarray(teacher.time_at_goal)
    if of.sum() == 0:
        return {}
    with warnings.catch_warnings():  # an interval that does not exist comes as NaN, which is asked for below
        warnings.simplefilter("ignore", scipy.stats.DegenerateDataWarning)
        interval = scipy.stats.bootstrap(
            (kept, of),
            _ratio,
            paired=True,
            vectorized=True,
            confidence_level=CONFIDENCE,
            method="percentile",
            n_resamples=2000,
            rng=0,
        ).confidence_interval
    if not np.isfinite([interval.low, interval.high]).all():
        return {}
    return {
        "retention": float(kept.sum() / of.sum()),
        "retention_low": float(interval.low),
        "retention_high": float(interval.high),
    }


def _ratio(kept: np.ndarray, of: np.ndarray, axis: int) -> np.ndarray:
    total = of.sum(axis)
    return np.where(total > 0, kept.sum(axis) / np.where(total > 0, total, 1), np.nan)


def critic_answers(
    critic: Critic, observation: Array, action: Array, goal: Array, further: Array
) -> CriticAnswers:
    """[B, S], [B, A], [B, G] and further actions [K, B, A]; pure."""

    def to_goal(a: Array) -> Array:
        return distance(critic.state_action(observation, a), critic.goal(goal))

    everywhere = pairwise_distance(critic.state_action(observation, action), critic.goal(goal))
    return CriticAnswers(
        over_actions=jax.lax.map(to_goal, further),
        nearest=everywhere.argmin(axis=1),
        gradient=jax.grad(lambda a: to_goal(a).sum())(action),
    )


def critic_agreement(student: CriticAnswers, teacher: CriticAnswers) -> dict[str, float]:
    """How alike two critics answered.

    Returns:
      spearman_actions: mean rank correlation of the distances over the actions at one state; 0 where
        one critic does not tell them apart.
      top1: share of the state-actions for which both find the same goal nearest.
      gradient_cosine: mean cosine of the gradients with respect to the action."""
    ranks = [scipy.stats.rankdata(np.asarray(a.over_actions), axis=0) for a in (student, teacher)]
    a, b = (rank - rank.mean(0) for rank in ranks)
    scale = np.sqrt((a**2).sum(0) * (b**2).sum(0))
    spearman = np.where(scale > 0, (a * b).sum(0) / np.where(scale > 0, scale, 1), 0)
    g, h = np.asarray(student.gradient), np.asarray(teacher.gradient)
    cosine = (g * h).sum(-1) / (np.linalg.norm(g, axis=-1) * np.linalg.norm(h, axis=-1) + 1e-12)
    return {
        "spearman_actions": float(np.mean(spearman)),
        "top1": float(np.mean(np.asarray(student.nearest) == np.asarray(teacher.nearest))),
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
