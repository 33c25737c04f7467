"""How much of its teacher a student keeps: in closed loop, and in its critic."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import scipy.stats

from teacher.evaluate import CONFIDENCE, EpisodeMetrics
from teacher.losses import distance

Array = jax.Array


class Critic(NamedTuple):
    """The two encoders of a critic; its distance is that between their answers."""

    state_action: Callable[[Array, Array], Array]  # [B, S], [B, A] -> [B, R]
    goal: Callable[[Array], Array]  # [..., G] -> [..., R]


class CriticAnswers(NamedTuple):
    """What a critic says about B states, their actions and goals, and K more actions at each."""

    over_actions: Array  # [K, B]: distance to the state's own goal after each further action
    everywhere: Array  # [B, B]: from the state of a row, after its own action, to the goal of a column
    gradient: Array  # [B, A]: of the distance to the state's own goal, with respect to its action


def paired_interval(statistic: Callable[..., np.ndarray], *samples: np.ndarray) -> list[float] | None:
    """Percentile bootstrap over episodes, which are drawn together from all samples [E].

    Args: statistic: of samples [..., E] and `axis`, NaN where it is undefined.
    Returns: low and high; None if the statistic is undefined for so many draws that there is no interval."""
    with warnings.catch_warnings():  # an interval that does not exist comes as NaN, which is asked for below
        warnings.simplefilter("ignore", scipy.stats.DegenerateDataWarning)
        interval = scipy.stats.bootstrap(
            samples,
            statistic,
            paired=True,
            vectorized=True,
            confidence_level=CONFIDENCE,
            method="percentile",
            n_resamples=2000,
            rng=0,
        ).confidence_interval
    found = [float(interval.low), float(interval.high)]
    return found if np.isfinite(found).all() else None


def retention(student: EpisodeMetrics, teacher: EpisodeMetrics) -> dict[str, float]:
    """Time at goal of the student over that of the teacher, on the same starts and goals.

    Returns: `retention` with its bootstrap interval over pairs of episodes, `retention_low` and
    `retention_high`; nothing if the teacher was at a goal so rarely that the ratio has no interval."""
    kept, interval = _kept(student.time_at_goal, teacher.time_at_goal)
    if interval is None:
        return {}
    return {"retention": kept, "retention_low": interval[0], "retention_high": interval[1]}


def beside_teacher(student: EpisodeMetrics, teacher: EpisodeMetrics) -> dict[str, Any]:
    """What retention does not tell, on the same starts and goals; intervals are over pairs of episodes.

    Returns:
      success_retention: episodes that end in success over the teacher's; absent as retention is.
      final_distance_change: how much further from the goal the student ends, in the goal's unit.
      hardest_decile: mean time at goal of `student` and `teacher` in the tenth of episodes in which the
        teacher is at its goal for the shortest time, and the interval of their difference.
      worst_decile: the same, but for each in its own worst tenth. The first is about goals that are hard
        for the teacher, the second also about goals that only the student has lost."""
    found: dict[str, Any] = {}
    kept, interval = _kept(student.success_final, teacher.success_final)
    if interval is not None:
        found |= {"success_retention": kept, "success_retention_interval": interval}
    change = np.asarray(student.final_distance) - np.asarray(teacher.final_distance)
    found["final_distance_change"] = float(change.mean())
    found["final_distance_change_interval"] = paired_interval(np.mean, change)
    ours, theirs = (np.asarray(each.time_at_goal, float) for each in (student, teacher))
    hardest = np.argsort(theirs, kind="stable")[: _tenth(len(theirs))]
    for name, samples, mean in (
        ("hardest_decile", (ours[hardest], theirs[hardest]), np.mean),
        ("worst_decile", (ours, theirs), _worst_tenth),
    ):
        found[name] = {
            "student": float(mean(samples[0], axis=-1)),
            "teacher": float(mean(samples[1], axis=-1)),
            "difference_interval": _difference_interval(mean, *samples),
        }
    return found


def _difference_interval(mean: Callable[..., Any], ours: np.ndarray, theirs: np.ndarray) -> list[float]:
    def difference(ours: np.ndarray, theirs: np.ndarray, axis: int) -> Any:
        return mean(ours, axis=axis) - mean(theirs, axis=axis)

    if len(ours) < 2:  # a single pair has no other draw
        return [float(difference(ours, theirs, -1))] * 2
    interval = paired_interval(difference, ours, theirs)
    assert interval is not None, "times at goal are finite"
    return interval


def _kept(student: Any, teacher: Any) -> tuple[float, list[float] | None]:
    kept, of = np.asarray(student, float), np.asarray(teacher, float)
    if of.sum() == 0:
        return 0.0, None
    return float(kept.sum() / of.sum()), paired_interval(_ratio, kept, of)


def _ratio(kept: np.ndarray, of: np.ndarray, axis: int) -> np.ndarray:
    total = of.sum(axis)
    return np.where(total > 0, kept.sum(axis) / np.where(total > 0, total, 1), np.nan)


def _worst_tenth(values: np.ndarray, axis: int) -> np.ndarray:
    """Mean of the lowest tenth along the last axis."""
    assert axis == -1 or axis == values.ndim - 1
    return np.asarray(np.sort(values)[..., : _tenth(values.shape[-1])].mean(-1))


def _tenth(count: int) -> int:
    return -(-count // 10)


def critic_answers(
    critic: Critic, observation: Array, action: Array, goal: Array, goals: Array, further: Array
) -> CriticAnswers:
    """States [B, S], actions [B, A], own goals [B, G] and further actions [K, B, A]; pure.

    `goals` [B, G] are those of all states, or [B, B, G] where a goal looks different from each state."""

    def to_goal(a: Array) -> Array:
        return distance(critic.state_action(observation, a), critic.goal(goal))

    return CriticAnswers(
        over_actions=jax.lax.map(to_goal, further),
        everywhere=distance(critic.state_action(observation, action)[:, None], critic.goal(goals)),
        gradient=jax.grad(lambda a: to_goal(a).sum())(action),
    )


def critic_agreement(student: CriticAnswers, teacher: CriticAnswers) -> dict[str, float]:
    """How alike two critics answered.

    Returns:
      spearman_actions: mean rank correlation of the distances over the actions at one state; 0 where
        one critic does not tell them apart.
      spearman_states: the same over the states from which one goal is asked for.
      best_action: share of the states in which both find the same of the further actions best.
      top1: share of the state-actions for which both find the same goal nearest.
      gradient_cosine: mean cosine of the gradients with respect to the action.
      distance_error: mean absolute difference of the distances from all states to all goals.
      distance_error_relative: the same, in standard deviations of the teacher's distances."""
    ours, theirs = (jax.tree.map(np.asarray, answers) for answers in (student, teacher))
    g, h = ours.gradient, theirs.gradient
    cosine = (g * h).sum(-1) / (np.linalg.norm(g, axis=-1) * np.linalg.norm(h, axis=-1) + 1e-12)
    error = np.abs(ours.everywhere - theirs.everywhere).mean()
    spread = theirs.everywhere.std()
    return {
        "spearman_actions": _rank_correlation(ours.over_actions, theirs.over_actions),
        "spearman_states": _rank_correlation(ours.everywhere, theirs.everywhere),
        "best_action": float((ours.over_actions.argmin(0) == theirs.over_actions.argmin(0)).mean()),
        "top1": float((ours.everywhere.argmin(1) == theirs.everywhere.argmin(1)).mean()),
        "gradient_cosine": float(cosine.mean()),
        "distance_error": float(error),
    } | ({"distance_error_relative": float(error / spread)} if spread > 0 else {})


def _rank_correlation(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Spearman's over the first axis, averaged over the second."""
    a, b = (scipy.stats.rankdata(values, axis=0) for values in (ours, theirs))
    a, b = a - a.mean(0), b - b.mean(0)
    scale = np.sqrt((a**2).sum(0) * (b**2).sum(0))
    return float(np.mean(np.where(scale > 0, (a * b).sum(0) / np.where(scale > 0, scale, 1), 0)))
