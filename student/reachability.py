"""Is this goal within the time I have? A calibrated probability from the critic's distance.

The event: the policy is within the success radius at some step of the next seconds, from a state that is
not there yet. The model is log-logistic, that of accelerated failure times: a distance asks for a typical
time, which is a power of it, and arrival times spread about that by a constant factor.
"""

from typing import Any, NamedTuple

import numpy as np
import scipy.optimize
import scipy.special
import scipy.stats

from teacher.evaluate import CONFIDENCE
from teacher.simulation import Trajectories
from teacher.spec import TaskSpec
from teacher.tasks import goal_distance

BINS = 10  # of the reliability diagram
TIMES = 32  # questions asked in each episode
RIDGE = 1e-3  # of the slopes; keeps them finite where the answers can be told apart without error


class Questions(NamedTuple):
    """Q states with a time limit each, and whether the policy arrived in time; NumPy arrays."""

    observation: np.ndarray  # [Q, S]
    action: np.ndarray  # [Q, A]: the policy's
    goal: np.ndarray  # [Q, G]
    seconds: np.ndarray  # [Q]
    arrived: np.ndarray  # [Q] bool
    episode: np.ndarray  # [Q]: its number


class Reachability(NamedTuple):
    """logit P = intercept - distance * log(distance) + seconds * log(seconds); no slope is negative."""

    intercept: float
    distance: float
    seconds: float

    def probability(self, distance: np.ndarray, seconds: np.ndarray) -> np.ndarray:
        """Distances [Q] and time limits [Q], all positive -> probabilities [Q] of arriving in time."""
        time = self.seconds * np.log(seconds)
        answer: np.ndarray = scipy.special.expit(self.intercept - self.distance * np.log(distance) + time)
        return answer


def stretched(spec: TaskSpec, goal: np.ndarray, factor: float) -> np.ndarray:
    """Goals [E, G], moved away from the middle of the training range by this factor."""
    middle = (np.asarray(spec.goal.low) + np.asarray(spec.goal.high)) / 2
    return (middle + factor * (goal - middle)).astype(goal.dtype)


def questions(spec: TaskSpec, lived: Trajectories, goal: np.ndarray, seed: int) -> Questions:
    """Cuts E episodes of L steps at random: TIMES a episode, less those where the goal was reached already.

    Step k is drawn evenly, the time limit log-evenly from one step to the episode's end.
    Args: goal [E, G]."""
    length, episodes = lived.going.shape
    near = goal_distance(spec, lived.observation, goal) <= spec.goal.success_radius  # [L + 1, E]
    near[1:] &= lived.going
    rng = np.random.default_rng(seed)
    step = rng.integers(length, size=(TIMES, episodes))
    limit = np.floor((length - step + 1.0) ** rng.random(step.shape)).astype(int)
    episode = np.broadcast_to(np.arange(episodes), step.shape)
    passed = np.concatenate([np.zeros((1, episodes), int), near.cumsum(0)])  # steps near before this one
    arrived = passed[step + limit + 1, episode] > passed[step + 1, episode]
    asked = ~near[step, episode] & lived.going[step, episode]
    step, limit, episode, arrived = (values[asked] for values in (step, limit, episode, arrived))
    return Questions(
        observation=lived.observation[step, episode],
        action=lived.action[step, episode],
        goal=goal[episode],
        seconds=limit * spec.control_dt,
        arrived=arrived,
        episode=episode,
    )


def fit(distance: np.ndarray, seconds: np.ndarray, arrived: np.ndarray) -> Reachability:
    """Maximum likelihood on Q questions, [Q] each, some of them with either answer."""
    inputs = np.stack([-np.log(distance), np.log(seconds)], axis=1)
    mean, std = inputs.mean(0), inputs.std(0) + 1e-9
    columns = np.column_stack([np.ones(len(inputs)), (inputs - mean) / std])

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        logit, slopes = columns @ weights, np.append(0, weights[1:])
        value = (np.logaddexp(0, logit) - arrived * logit).mean() + RIDGE / 2 * (slopes**2).sum()
        return value, columns.T @ (scipy.special.expit(logit) - arrived) / len(arrived) + RIDGE * slopes

    bounds = [(None, None), (0, None), (0, None)]
    found = scipy.optimize.minimize(loss, np.zeros(3), jac=True, method="L-BFGS-B", bounds=bounds).x
    slopes = found[1:] / std
    return Reachability(*map(float, (found[0] - slopes @ mean, *slopes)))


def brier(probability: np.ndarray, happened: np.ndarray) -> float:
    """Mean squared error of probabilities [Q] (Brier 1950)."""
    return float(((probability - happened) ** 2).mean())


def reliability(probability: np.ndarray, happened: np.ndarray) -> list[dict[str, float]]:
    """For each tenth of the scale in which there are any of Q probabilities: their mean `predicted`, the
    share `observed` of what happened, and their `count`."""
    number = np.minimum((probability * BINS).astype(int), BINS - 1)
    return [
        {
            "predicted": float(probability[number == i].mean()),
            "observed": float(happened[number == i].mean()),
            "count": int((number == i).sum()),
        }
        for i in np.unique(number)
    ]


def calibration_error(bins: list[dict[str, float]]) -> float:
    """Expected calibration error: |predicted - observed| over all questions (arXiv:1706.04599 eq. 3)."""
    gaps = [abs(each["predicted"] - each["observed"]) for each in bins]
    return float(np.average(gaps, weights=[each["count"] for each in bins]))


def area_under_curve(probability: np.ndarray, happened: np.ndarray) -> float:
    """How often what happened was given more than what did not, of Q probabilities with both answers."""
    statistic = scipy.stats.mannwhitneyu(probability[happened], probability[~happened]).statistic
    return float(statistic / (happened.sum() * (~happened).sum()))


def gain_interval(worse: np.ndarray, better: np.ndarray, asked: Questions) -> list[float]:
    """Bootstrap interval over episodes of how much lower the Brier score of `better` [Q] is."""
    gain = (worse - asked.arrived) ** 2 - (better - asked.arrived) ** 2
    counts = np.bincount(asked.episode)
    sums = np.bincount(asked.episode, weights=gain)[counts > 0]
    interval = scipy.stats.bootstrap(
        (sums, counts[counts > 0]),
        lambda gains, questions, axis: gains.sum(axis) / questions.sum(axis),
        paired=True,
        vectorized=True,
        confidence_level=CONFIDENCE,
        method="percentile",
        n_resamples=2000,
        rng=0,
    ).confidence_interval
    return [float(interval.low), float(interval.high)]


def foretold(
    spec: TaskSpec, fitted: Questions, held_out: Questions, distances: tuple[np.ndarray, np.ndarray]
) -> dict[str, Any]:
    """Fits on some episodes, judges on others.

    The references are the share of `fitted` that arrived, and the same model of the Euclidean distance to
    the goal in place of the critic's.
    Args: distances: the critic's, for `fitted` and for `held_out`, [Q] each.
    Returns: `brier`, `brier_base`, `brier_euclidean`, `ece`, `auc`, `bins`, the intervals by which the
      score is lower than its references', and `holds`: whether it surely is. If so, the `coefficients`.
      Nothing if all questions of one part have the same answer."""
    if any(len(np.unique(asked.arrived)) < 2 for asked in (fitted, held_out)):
        return {}
    straight = [goal_distance(spec, asked.observation, asked.goal) for asked in (fitted, held_out)]
    base = np.full(len(held_out.arrived), fitted.arrived.mean())
    model, euclidean_model = (
        fit(distance, fitted.seconds, fitted.arrived) for distance in (distances[0], straight[0])
    )
    answer = model.probability(distances[1], held_out.seconds)
    euclidean = euclidean_model.probability(straight[1], held_out.seconds)
    bins = reliability(answer, held_out.arrived)
    over_base, over_euclidean = (gain_interval(other, answer, held_out) for other in (base, euclidean))
    figures = {
        "questions": len(base),
        "brier": brier(answer, held_out.arrived),
        "brier_base": brier(base, held_out.arrived),
        "brier_euclidean": brier(euclidean, held_out.arrived),
        "gain_over_base_interval": over_base,
        "gain_over_euclidean_interval": over_euclidean,
        "ece": calibration_error(bins),
        "auc": area_under_curve(answer, held_out.arrived),
        "bins": bins,
        "holds": min(over_base[0], over_euclidean[0]) > 0,
    }
    return figures | ({"coefficients": model._asdict()} if figures["holds"] else {})
