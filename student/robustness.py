"""How robust a student and its teacher are to what they were not trained for, in the same episodes."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from student.config import NOISE, NOMINAL, OUTSIDE, SHARE
from student.evaluate import ReferenceEpisodes, retention
from teacher.evaluate import EpisodeMetrics, evaluation_noise_key, mean_interval, run_episodes
from teacher.randomization import ALTER_MODEL, UNPUSHED, DomainRandomization, PhysicsParams
from teacher.rollout import Policy, Simulation, Told, all_seeing, on_robot
from teacher.rollout import simulation as simulation_named
from teacher.spec import TaskSpec
from teacher.tasks import Start
from teacher.tasks.engines import ENGINES

JSON = dict[str, Any]
DELAYS = (1, 2, 3)  # control steps
PUSH = 0.5  # m/s or rad/s, where the task's own training has none
PUSHES = 5  # in an episode, on average


def robustness(reference: ReferenceEpisodes, policy: Policy, episodes: int) -> dict[str, JSON]:
    """Runs a student and its teacher under every condition that the task's engine can produce.

    Args:
      policy: the student's, which acts on what is sensed.
      episodes: of each condition; the first of the held-out ones.
    Returns: by condition, the mean time at goal of `student` and `teacher` with intervals, the student's
      retention there, and `excess_drop`: by how much more its time at goal fell, from `nominal` to this
      condition, than the teacher's did. Its interval is over episodes."""
    simulation, states = _simulation(reference), reference.states
    start: Start = Start(*(part[:episodes] for part in reference.starts[:3]))
    spreads = states.sensed.observation.std(0), states.observation.std(0)
    of_teacher = reference.teacher.policy()
    found: dict[str, JSON] = {}
    nominal = None
    trials = conditions(simulation, start)
    simulation.prepare(trials[NOMINAL])  # once, not in both threads
    for name, changed in trials.items():
        noise = NOISE if name == "noise" else 0.0
        policies = (
            on_robot(_noisy(policy, noise * spreads[0])),
            all_seeing(_noisy(of_teacher, noise * spreads[1])),
        )
        run = partial(run_episodes, simulation, start=changed, noise_key=evaluation_noise_key())
        with ThreadPoolExecutor(len(policies)) as threads:  # the teacher's computes while the student's waits
            both = [outcomes for outcomes, _ in threads.map(run, policies)]
        nominal = nominal or both
        found[name] = _compare(both, nominal)
    return found


def conditions(simulation: Simulation, start: Start) -> dict[str, Start]:
    """Returns starts under every condition by name, `nominal` first, from `start` [E, ...] in NumPy.

    Those of `noise` are nominal: it is what policies observe that differs."""
    episodes = len(start.goal)
    one, undelayed = np.ones(episodes, np.float32), np.zeros(episodes, np.int32)
    unpushed = np.full(episodes, UNPUSHED, np.uint32)
    usual = PhysicsParams(friction=one, mass=one, strength=one, delay=undelayed, seed=unpushed)

    def under(**changes: np.ndarray) -> Start:
        changed: Start = start._replace(conditions=usual._replace(**changes))
        return changed

    found = {NOMINAL: under(), "noise": under()}
    if simulation.randomise.push:
        found["push"] = under(seed=np.arange(episodes, dtype=np.uint32))
    for name in ALTER_MODEL:
        if share := getattr(simulation.randomise, name):
            found[f"{name}_less"] = under(**{name: one - np.float32(share)})
            found[f"{name}_more"] = under(**{name: one + np.float32(share)})
    for delay in DELAYS:
        found[f"delay_{delay}"] = under(delay=np.full(episodes, delay, np.int32))
    outside = goals_beyond(simulation.task.spec, start.goal)
    found["goals_beyond"] = simulation.task.with_goal(start, outside)._replace(conditions=usual)
    return found


def goals_beyond(spec: TaskSpec, goal: np.ndarray) -> np.ndarray:
    """Moves each goal [E, G] away from the middle of the training range to just outside of it.

    Entries that do not differ within the range stay, and so does a pose's rotation."""
    low, high = np.asarray(spec.goal.low), np.asarray(spec.goal.high)
    middle, half = (low + high) / 2, (high - low) / 2
    half[spec.goal.movable :] = 0
    offset = np.where(half > 0, goal - middle, 0)
    reach = np.abs(offset / np.where(half > 0, half, 1)).max(axis=1, keepdims=True)
    wanted = 1 + OUTSIDE * np.arange(1, len(goal) + 1)[:, None] / len(goal)
    return (goal + offset * (wanted / np.maximum(reach, 1e-3) - 1)).astype(goal.dtype)


def _simulation(reference: ReferenceEpisodes) -> Simulation:
    """Returns the reference's task and engine with everything switched on, so that it compiles once for all
    trials."""
    task, engine = reference.simulation.task, reference.simulation.engine_name
    able, spec = ENGINES[engine], task.spec
    switched: dict[str, float] = {"friction": SHARE, "mass": SHARE} if able.alters_model else {}
    if able.takes_pushes and task.pushed:
        interval = max(spec.episode_length / PUSHES, 1) * spec.control_dt
        switched |= {"push": task.randomise.push or PUSH, "push_interval_s": interval}
    randomise = DomainRandomization(latency=max(DELAYS), **switched)
    return simulation_named(reference.teacher.config.task.name, engine, randomise)


def _noisy(policy: Policy, scale: np.ndarray) -> Policy:
    """Adds Gaussian noise of this scale [S] to what the policy observes, the same in calls of one number."""
    steps = itertools.count()

    def noisy(observation: np.ndarray, goal: np.ndarray) -> Any:
        noise = np.random.default_rng(next(steps)).standard_normal(observation.shape)
        return (observation + scale * noise).astype(observation.dtype), goal

    return Told(policy, noisy)


def _compare(both: list[EpisodeMetrics], nominal: list[EpisodeMetrics]) -> JSON:
    """Compares student and teacher under a condition with each other, and with themselves without it."""
    ours, theirs = (each.time_at_goal for each in both)
    drop = (nominal[0].time_at_goal - ours) - (nominal[1].time_at_goal - theirs)
    figures: JSON = {}
    for key, values in (("student", ours), ("teacher", theirs), ("excess_drop", drop)):
        figures |= {key: float(values.mean()), f"{key}_interval": mean_interval(values)}
    return figures | retention(*both)
