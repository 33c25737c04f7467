"""How well a student's critic agrees with its teacher's, and with the time that it takes to a goal."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from teacher.losses import distance
from teacher.rollout import Simulation, Trajectories
from teacher.spec import TaskSpec
from teacher.tasks import goal_distance

Array = jax.Array
STATES, ACTIONS = 256, 32  # in which two critics are compared, and random actions in each
BINS = 10  # of equally many states
QUARTILES = (0.25, 0.5, 0.75)


class CriticQueries(NamedTuple):
    """B states with an action and a goal each, and what else a critic is evaluated at."""

    observation: Array  # [B, S]
    action: Array  # [B, A]
    goal: Array  # [B, G]: of each state
    goals: Array  # [B, G]: those of all states, or [B, B, G] where a goal looks different from each state
    random_actions: Array  # [K, B, A]


class CriticOutputs(NamedTuple):
    """A critic's outputs for its queries."""

    over_actions: Array  # [K, B]: distance to the state's own goal after each random action
    everywhere: Array  # [B, B]: from the state of a row, after its own action, to the goal of a column
    gradient: Array  # [B, A]: of the distance to the state's own goal, with respect to its action


class TimeToGoal(NamedTuple):
    """Q moments before a goal is reached, and how long it took from them; NumPy arrays.

    All are from the first half of an episode and are followed for half an episode, so that none is cut
    off by the episode's end."""

    step: np.ndarray  # [Q]: of the episode
    episode: np.ndarray  # [Q]
    straight: np.ndarray  # [Q]: Euclidean distance to the goal, in its unit
    seconds: np.ndarray  # [Q]: until the success radius is entered; inf where it was not in that time
    horizon: float  # seconds for which each moment was followed


def critic_queries(
    simulation: Simulation, trajectories: Trajectories, goal: np.ndarray
) -> tuple[CriticQueries, CriticQueries]:
    """Chooses one state an episode, so that no two share a goal, at times spread over its length.

    Returns: the same queries as the teacher observes them, and as its students do."""
    assert trajectories.sensed is not None, "the rollout was given no noise_key"
    length, episodes, size = trajectories.action.shape
    count = min(STATES, episodes)
    step, episode = np.arange(count) * length // count, np.arange(count)
    actions = jax.random.uniform(jax.random.key(0), (ACTIONS, count, size), minval=-1, maxval=1)
    action, own = jnp.asarray(trajectories.action[step, episode]), jnp.asarray(goal[episode])
    observation, sensed, seen_goal = (
        jnp.asarray(values[step, episode]) for values in (trajectories.observation, *trajectories.sensed)
    )
    of_teacher = CriticQueries(observation, action, own, own, actions)
    of_students = of_teacher._replace(observation=sensed, goal=seen_goal)
    if simulation.task.spec.deployed:
        qpos = jnp.asarray(trajectories.qpos[step, episode])
        pairs = (count, count, -1)
        goals = simulation.task.deployed_goal(
            jnp.repeat(qpos, count, axis=0).reshape(pairs), jnp.tile(own, (count, 1)).reshape(pairs)
        )
        of_students = of_students._replace(goals=goals)
    return of_teacher, of_students


def critic_outputs(
    embed_state_action: Callable[[Any, Array, Array], Array],
    embed_goal: Callable[[Any, Array], Array],
    params: Any,
    queries: CriticQueries,
) -> CriticOutputs:
    """Evaluates a critic, given by its two encoders and their parameters; pure."""
    observation, action, goal, goals, random_actions = queries

    def to_goal(action: Array) -> Array:
        return distance(embed_state_action(params, observation, action), embed_goal(params, goal))

    pairs = embed_state_action(params, observation, action)[:, None]
    return CriticOutputs(
        over_actions=jax.lax.map(to_goal, random_actions),
        everywhere=distance(pairs, embed_goal(params, goals)),
        gradient=jax.grad(lambda action: to_goal(action).sum())(action),
    )


def critic_agreement(student: CriticOutputs, teacher: CriticOutputs) -> dict[str, float]:
    """Compares the outputs of two critics; returns `students.SIZE.critic` of the summary."""
    ours, theirs = (jax.tree.map(np.asarray, outputs) for outputs in (student, teacher))
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
    """Computes Spearman's correlation over the first axis, averaged over the second."""
    a, b = (scipy.stats.rankdata(values, axis=0) for values in (ours, theirs))
    a, b = a - a.mean(0), b - b.mean(0)
    scale = np.sqrt((a**2).sum(0) * (b**2).sum(0))
    return float(np.mean(np.where(scale > 0, (a * b).sum(0) / np.where(scale > 0, scale, 1), 0)))


def times_to_goal(spec: TaskSpec, trajectories: Trajectories, goal: np.ndarray, count: int) -> TimeToGoal:
    """Measures at most `count` moments of E episodes with goals [E, G], evenly spread over them."""
    going = trajectories.active
    length = len(going)
    horizon = max(length // 2, 1)
    straight = goal_distance(spec, trajectories.observation, goal)  # [L + 1, E]
    near = straight <= spec.goal.success_radius
    near[1:] &= going
    upcoming = np.stack([near[1 + k : 1 + k + length - horizon] for k in range(horizon)])
    moments = np.argwhere(going[: length - horizon] & ~near[: length - horizon])
    rows = np.linspace(0, len(moments) - 1, min(count, len(moments))).round().astype(int)
    step, episode = moments[rows].T
    following = upcoming[:, step, episode]
    seconds = np.where(following.any(0), (1 + following.argmax(0)) * spec.control_dt, np.inf)
    return TimeToGoal(step, episode, straight[step, episode], seconds, horizon * spec.control_dt)


def calibration(times: TimeToGoal, distance: np.ndarray) -> dict[str, Any]:
    """Compares a critic's distances [Q] with the times that it really took.

    Returns: `students.SIZE.calibration` of the summary; nothing where fewer than BINS states came to their
    goal, for then there is hardly a time to compare with."""
    reached = np.isfinite(times.seconds)
    if reached.sum() < BINS:
        return {}
    bins = np.array_split(np.argsort(distance, kind="stable"), BINS)
    spread = [np.quantile(times.seconds[rows], QUARTILES, method="inverted_cdf").tolist() for rows in bins]
    figures = {
        "states": len(distance),
        "horizon_s": times.horizon,
        "distance": [float(np.median(distance[rows])) for rows in bins],
        "seconds": [[each if np.isfinite(each) else None for each in row] for row in spread],
        "arrived": [float(reached[rows].mean()) for rows in bins],
    }
    order = scipy.stats.rankdata(times.seconds)
    for key, value in (("rank_correlation", distance), ("rank_correlation_straight", times.straight)):
        if np.ptp(value) > 0 and np.ptp(order) > 0:
            figures[key] = float(scipy.stats.spearmanr(order, value).statistic)
    return figures
