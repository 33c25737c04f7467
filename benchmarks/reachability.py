"""Is this goal within the time I have? How well a critic's distance foretells it.

    python benchmarks/reachability.py runs/quickstart --size 2x64 --json --plot calibration.png

The event: the policy comes within the success radius at some step of the next seconds, from a state of its
own episodes that is not there yet. The model is log-logistic, that of accelerated failure times: a distance
asks for a typical time, which is a power of it, and arrival times spread about that by a constant factor.
It is fitted on some episodes and judged on others. The references: the share that arrived while fitting,
and the same model of the plain Euclidean distance to the goal in place of the critic's.
"""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import matplotlib.pyplot as plt
import numpy as np
import scipy.optimize
import scipy.special
import scipy.stats
from measuring import Row, say, show

from student.assess import paired_interval
from student.networks import act, critic_distance
from student.saved import TrainedStudent, load_student
from teacher.errors import FathomError
from teacher.rollout import Simulation, Trajectories, on_robot, simulation_of
from teacher.spec import TaskSpec
from teacher.tasks import goal_distance
from teacher.train import load_teacher

BINS = 10  # of the reliability diagram
TIMES = 32  # questions asked in each episode
RIDGE = 1e-3  # of the slopes; keeps them finite where the answers can be told apart without error


class Questions(NamedTuple):
    """Q states with a time limit each, and whether the policy arrived in time; NumPy arrays."""

    observation: np.ndarray  # [Q, S']: as the policy saw it
    action: np.ndarray  # [Q, A]: the policy's
    goal: np.ndarray  # [Q, G']: as the policy saw it
    straight: np.ndarray  # [Q]: Euclidean distance to the goal, in its unit
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


def questions(spec: TaskSpec, lived: Trajectories, goal: np.ndarray, seed: int) -> Questions:
    """Cuts E episodes of L steps at random: TIMES a episode, less those where the goal was reached already.

    Step k is drawn evenly, the time limit log-evenly from one step to the episode's end.
    Args: lived: with what was sensed. goal [E, G]."""
    assert lived.sensed is not None, "the rollout was given no noise_key"
    length, episodes = lived.active.shape
    straight = goal_distance(spec, lived.observation, goal)  # [L + 1, E]
    near = straight <= spec.goal.success_radius
    near[1:] &= lived.active
    rng = np.random.default_rng(seed)
    step = rng.integers(length, size=(TIMES, episodes))
    limit = np.floor((length - step + 1.0) ** rng.random(step.shape)).astype(int)
    episode = np.broadcast_to(np.arange(episodes), step.shape)
    passed = np.concatenate([np.zeros((1, episodes), int), near.cumsum(0)])  # steps near before this one
    arrived = passed[step + limit + 1, episode] > passed[step + 1, episode]
    asked = ~near[step, episode] & lived.active[step, episode]
    step, limit, episode, arrived = (values[asked] for values in (step, limit, episode, arrived))
    return Questions(
        observation=lived.sensed.observation[step, episode],
        action=lived.action[step, episode],
        goal=lived.sensed.goal[step, episode],
        straight=straight[step, episode],
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


def foretold(fitted: Questions, held_out: Questions, distances: tuple[np.ndarray, np.ndarray]) -> Row:
    """Scores of the critic's estimate and of both references.

    Args: distances: the critic's, for `fitted` and for `held_out`, [Q] each.
    Raises: FathomError if all questions of one part have the same answer."""
    if any(len(np.unique(part.arrived)) < 2 for part in (fitted, held_out)):
        raise FathomError("the student arrives always or never: there is nothing to foretell")
    critic, straight = (
        fit(distance, fitted.seconds, fitted.arrived) for distance in (distances[0], fitted.straight)
    )
    arrived = held_out.arrived
    answer = critic.probability(distances[1], held_out.seconds)
    of_straight = straight.probability(held_out.straight, held_out.seconds)
    base = np.full(len(arrived), fitted.arrived.mean())
    return {
        "questions": len(arrived),
        "arrived": float(arrived.mean()),
        "brier": brier(answer, arrived),
        "brier_euclidean": brier(of_straight, arrived),
        "gain_over_euclidean_spread": gain_interval(of_straight, answer, held_out),
        "brier_base": brier(base, arrived),
        "gain_over_base_spread": gain_interval(base, answer, held_out),
        "ece": calibration_error(reliability(answer, arrived)),
        "ece_euclidean": calibration_error(reliability(of_straight, arrived)),
        "auc": area_under_curve(answer, arrived),
        "auc_euclidean": area_under_curve(of_straight, arrived),
        "bins": reliability(answer, arrived),
        "bins_euclidean": reliability(of_straight, arrived),
    }


def measure(simulation: Simulation, student: TrainedStudent, episodes: int) -> Row:
    """From this many episodes on training starts to fit on, and as many others."""
    policy = partial(jax.jit(act), student.params)
    distance = partial(jax.jit(critic_distance), student.params)

    def ask(number: int) -> Questions:
        start_key, noise_key = jax.random.split(jax.random.key(number))
        start = simulation.starts(start_key, episodes)
        lived = simulation.rollout(on_robot(policy), start, noise_key=noise_key)
        return questions(simulation.task.spec, lived, start.goal, number)

    say(f"{student.name}: {2 * episodes} episodes")
    fitted, held_out = ask(0), ask(1)
    distances = [
        np.asarray(distance(part.observation, part.action, part.goal)) for part in (fitted, held_out)
    ]
    return foretold(fitted, held_out, (distances[0], distances[1]))


def draw(found: Row, file: Path) -> None:
    """The calibration plot: what was foretold against what happened."""
    figure, axes = plt.subplots(figsize=(4.5, 4.5), layout="constrained")
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=1)
    for key, label in (("bins", "critic's distance"), ("bins_euclidean", "Euclidean distance")):
        points = [(each["predicted"], each["observed"]) for each in found[key]]
        axes.plot(*zip(*points, strict=True), marker="o", label=label)
    axes.set(xlabel="probability foretold", ylabel="share that arrived in time", xlim=(0, 1), ylim=(0, 1))
    axes.legend()
    figure.savefig(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path, help="a run with students")
    parser.add_argument("--size", default="2x64", help="the student (default %(default)s)")
    parser.add_argument("--episodes", type=int, default=1000, help="to fit on, and to judge on")
    parser.add_argument("--plot", type=Path, help="file for the calibration plot")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    try:
        teacher = load_teacher(given.run / "teacher" / "checkpoints")
        student = load_student(given.run / "students" / given.size)
        found = measure(simulation_of(teacher.config.task), student, given.episodes)
    except FathomError as error:
        sys.exit(f"Error: {error}")
    if given.plot:
        draw(found, given.plot)
    row: Row = {"task": teacher.spec.name, "size": given.size, **found}
    if not given.json:
        row = {key: value for key, value in row.items() if not key.startswith("bins")}
    show([row], given.json, settings=("task", "size"))


if __name__ == "__main__":
    main()
