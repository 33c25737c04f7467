"""How good a policy is: per-episode metrics and their intervals."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import scipy.stats

from teacher.config import TeacherConfig
from teacher.rollout import Simulation, Trajectories
from teacher.spec import TaskSpec
from teacher.tasks import Start, achieved_goal, goal_distance, make_task

CONFIDENCE = 0.95
# Evaluation has its own stream, the same for every run: held out from training, and paired.
EVALUATION_SEED = 2_100_000_001


class EpisodeMetrics(NamedTuple):
    """One value per episode, [E]; NumPy arrays."""

    time_at_goal: Any  # share of the episode's steps within the success radius
    success_final: Any  # whether the last step was
    success_any: Any  # whether any step was
    strict_final: Any  # whether the last step was within the stricter radius
    time_near_goal: Any  # share of the episode's steps within the easy radius
    final_distance: Any  # in the goal's unit
    final_angle: Any = None  # rad, of poses

    def __repr__(self) -> str:
        """Tells the means over the episodes."""
        known = {name: values for name, values in self._asdict().items() if values is not None}
        means = ", ".join(f"{name} {np.mean(values):.3g}" for name, values in known.items())
        return f"<EpisodeMetrics, means of {len(self.final_distance)} episodes: {means}>"


def episode_metrics(spec: TaskSpec, trajectories: Trajectories, goal: Any) -> EpisodeMetrics:
    """Scores L steps of E episodes with goals [E, G]; no step after an episode's end is at the goal."""
    distance = goal_distance(spec, trajectories.observation[1:], goal)
    angle = None
    if spec.goal.lever is not None:
        turned = (achieved_goal(spec, trajectories.observation[-1]) - goal)[..., spec.goal.movable :]
        chord = (turned**2).sum(-1) ** 0.5 / (2 * spec.goal.lever)
        angle = 2 * np.arcsin(np.minimum(1, chord))
    near = (distance <= spec.goal.success_radius) & trajectories.active
    return EpisodeMetrics(
        time_at_goal=near.mean(0),
        success_final=near[-1],
        success_any=near.any(0),
        strict_final=(distance[-1] <= spec.goal.strict_radius) & trajectories.active[-1],
        time_near_goal=((distance <= spec.goal.easy_radius) & trajectories.active).mean(0),
        final_distance=distance[-1],
        final_angle=angle,
    )


def evaluation_layout(config: TeacherConfig) -> str:
    """Returns how goals are laid out in evaluation: as the settings say, or else the task."""
    return config.evaluate.layout or make_task(config.task.name).evaluation_layout


def evaluation_starts(simulation: Simulation, episodes: int, layout: str, seed: int | None = None) -> Start:
    """Draws the first `episodes` held-out starts and goals of the task; others with a seed."""
    key = jax.random.key(EVALUATION_SEED if seed is None else seed)
    return simulation.starts(key, episodes, layout)


def evaluation_noise_key(seed: int | None = None) -> jax.Array:
    """Returns the key of the sensors' noise, the same for every policy that is compared."""
    return jax.random.fold_in(jax.random.key(EVALUATION_SEED if seed is None else seed), 1)


def run_episodes(
    simulation: Simulation, policy: Callable[..., Any], start: Start, noise_key: jax.Array | None = None
) -> tuple[EpisodeMetrics, Trajectories]:
    """Runs and scores episodes of any policy on any engine; arguments as of `Simulation.rollout`."""
    trajectories = simulation.rollout(policy, start, noise_key=noise_key)
    return episode_metrics(simulation.task.spec, trajectories, start.goal), trajectories


def share_interval(successes: int, episodes: int) -> list[float]:
    """Computes the Wilson interval of a share."""
    interval = scipy.stats.binomtest(successes, episodes).proportion_ci(CONFIDENCE, method="wilson")
    return [float(interval.low), float(interval.high)]


def mean_interval(values: np.ndarray) -> list[float]:
    """Computes a percentile bootstrap of the mean of [E] values, the same for the same values."""
    interval = paired_interval(np.mean, values)
    assert interval is not None  # every draw has a mean
    return interval


def paired_interval(statistic: Callable[..., np.ndarray], *samples: np.ndarray) -> list[float] | None:
    """Computes a percentile bootstrap over episodes, which are drawn together from all samples [E].

    Args: statistic: of samples [..., E] and `axis`, NaN where it is undefined.
    Returns: low and high; None if the statistic is undefined for so many draws that there is no interval."""
    with warnings.catch_warnings():  # an interval that does not exist comes as NaN, which is checked below
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


def summarise(result: EpisodeMetrics, layout: str) -> dict[str, Any]:
    """Averages over episodes, each `key` with its interval as `key_interval`, and how goals were laid out."""
    episodes = len(result.final_distance)
    summary: dict[str, Any] = {"episodes": episodes, "layout": layout}
    for key, values in result._asdict().items():
        if values is None:
            continue
        summary[key] = float(np.mean(values))
        is_share = values.dtype == bool
        interval = share_interval(int(values.sum()), episodes) if is_share else mean_interval(values)
        summary[f"{key}_interval"] = interval
    return summary
