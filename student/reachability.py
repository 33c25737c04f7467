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

from student.assess import paired_interval
from teacher.simulation import Trajectories
from teacher.spec import TaskSpec
from teacher.tasks import goal_distance

BINS = 10  # of the reliability diagram
TIMES = 32  # questions asked in each episode
RIDGE = 1e-3  # of the slopes; keeps them finite where the answers can be told apart without error


class Questions(NamedTuple):
    """Q states with a time limit each, and whether the policy arrived in time; NumPy arrays."""

    observation: np.ndarray  # [Q, S']: as the policy saw it
    action: np.ndarray  # [Q, A]: the policy's
    goal: np.ndarray  # [Q, G']: as the policy saw it
    straight: np.ndarray  # [Q]: Euclidean distance to the goal, in its unit
    beyond: np.ndarray  # [Q] bool: whether the goal is outside of the training range
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
    Args: lived: with what was sensed. goal [E, G]."""
    assert lived.sensed is not None, "the rollout was given no noise_key"
    length, episodes = lived.going.shape
    straight = goal_distance(spec, lived.observation, goal)  # [L + 1, E]
    near = straight <= spec.goal.success_radius
    near[1:] &= lived.going
    rng = np.random.default_rng(seed)
    step = rng.integers(length, size=(TIMES, episodes))
    limit = np.floor((length - step + 1.0) ** rng.random(step.shape)).astype(int)
    episode = np.broadcast_to(np.arange(episodes), step.shape)
    passed = np.concatenate([np.zeros((1, episodes), int), near.cumsum(0)])  # steps near before this one
    arrived = passed[step + limit + 1, episode] > passed[step + 1, episode]
    asked = ~near[step, episode] & lived.going[step, episode]
    step, limit, episode, arrived = (values[asked] for values in (step, limit, episode, arrived))
    outside = (goal < np.asarray(spec.goal.low)) | (goal > np.asarray(spec.goal.high))
    beyond = np.asarray(outside.any(axis=-1))
    return Questions(
        observation=lived.sensed.observation[step, episode],
        action=lived.action[step, episode],
        goal=lived.sensed.goal[step, episode],
        straight=straight[step, episode],
        beyond=beyond[episode],
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

    def mean(gains: np.ndarray, questions: np.ndarray, axis: int) -> np.ndarray:
        return np.asarray(gains.sum(axis) / questions.sum(axis))

    interval = paired_interval(mean, sums, counts[counts > 0])
    assert interval is not None, "every episode has a question"
    return interval


def foretold(
    fitted: Questions, held_out: Questions, distances: tuple[np.ndarray, np.ndarray]
) -> dict[str, Any]:
    """Fits on some episodes, judges on others.

    The references are the share of `fitted` that arrived, and the same model of the Euclidean distance to
    the goal in place of the critic's.
    Args: distances: the critic's, for `fitted` and for `held_out`, [Q] each.
    Returns: `brier`, `brier_base`, `brier_euclidean`, `ece`, `auc`, `bins`; the intervals by which the
      score is lower than its references'; `goals`, how it is for goals `inside` of the training range and
      `beyond`; the model's `coefficients`, None unless the score surely is lower than both references'.
      Only the last if all questions of one part have the same answer, or those held out one episode."""
    parts = (fitted.arrived, held_out.arrived, held_out.episode)
    if any(len(np.unique(part)) < 2 for part in parts):
        return {"coefficients": None}
    model, of_straight = (
        fit(distance, fitted.seconds, fitted.arrived) for distance in (distances[0], fitted.straight)
    )
    arrived = held_out.arrived
    answer = model.probability(distances[1], held_out.seconds)
    references = {
        "base": np.full(len(arrived), fitted.arrived.mean()),
        "euclidean": of_straight.probability(held_out.straight, held_out.seconds),
    }
    gains = {name: gain_interval(other, answer, held_out) for name, other in references.items()}
    kinds = {"inside": ~held_out.beyond, "beyond": held_out.beyond}
    return {
        **_scores(answer, references, arrived),
        "auc": area_under_curve(answer, arrived),
        "bins": reliability(answer, arrived),
        "goals": {
            kind: _scores(
                answer[rows], {name: each[rows] for name, each in references.items()}, arrived[rows]
            )
            for kind, rows in kinds.items()
            if rows.any()
        },
        **{f"gain_over_{name}_interval": interval for name, interval in gains.items()},
        "coefficients": model._asdict() if min(low for low, _ in gains.values()) > 0 else None,
    }


def _scores(answer: np.ndarray, references: dict[str, np.ndarray], arrived: np.ndarray) -> dict[str, float]:
    return {
        "questions": len(arrived),
        "arrived": float(arrived.mean()),
        "brier": brier(answer, arrived),
        **{f"brier_{name}": brier(other, arrived) for name, other in references.items()},
        "ece": calibration_error(reliability(answer, arrived)),
    }
