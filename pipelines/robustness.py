"""How a policy and its teacher bear what they were not trained on, side by side in the same episodes."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from pipelines.judging import Yardstick
from student import assess
from student.config import NOISE, NOMINAL, OUTSIDE, SHARE
from teacher.evaluate import Outcomes, evaluation_noise_key, mean_interval, run_episodes
from teacher.randomise import ALTER_MODEL, UNPUSHED, Conditions, Randomisation
from teacher.sensing import Sensed
from teacher.simulation import Policy, Simulation, simulation
from teacher.spec import TaskSpec
from teacher.tasks import Start
from teacher.tasks.engines import ENGINES

JSON = dict[str, Any]
DELAYS = (1, 2, 3)  # control steps
PUSH = 0.5  # m/s or rad/s, where the task's own training has none
PUSHES = 5  # in an episode, on average


class Acting(NamedTuple):
    """A policy, which of the two views of a simulation it acts on, and what it usually sees there."""

    policy: Policy
    view: Callable[[np.ndarray, np.ndarray, Sensed], tuple[np.ndarray, np.ndarray]]
    spread: np.ndarray  # [S]: standard deviation of the observation's entries


class Trial(NamedTuple):
    """Starts and goals under some condition, and how noisy what policies see is there, in its spread."""

    start: Start
    noise: float = 0.0


def robustness(measure: Yardstick, policy: Policy, episodes: int) -> dict[str, JSON]:
    """A student and its teacher under every condition that the task's engine can produce.

    Args:
      policy: the student's, which acts on what is sensed.
      episodes: of each condition; the first of the held-out ones.
    Returns: by condition, the mean time at goal of `student` and `teacher` with intervals, the student's
      retention there, and `excess_drop`: by how much more its time at goal fell, from `nominal` to this
      condition, than the teacher's did. Its interval is over episodes."""
    where, seen = _simulation(measure), measure.seen
    start: Start = Start(*(part[:episodes] for part in measure.starts[:3]))
    student = Acting(policy, lambda observation, goal, sensed: sensed, seen.sensed.observation.std(0))
    of_teacher = measure.teacher.policy()
    teacher = Acting(
        of_teacher, lambda observation, goal, sensed: (observation, goal), seen.observation.std(0)
    )
    found: dict[str, JSON] = {}
    usual = None
    for name, trial in trials(where, start).items():
        ran = _run(where, student, trial), _run(where, teacher, trial)
        usual = usual or ran
        found[name] = _beside(*ran, *usual)
    return found


def trials(where: Simulation, start: Start) -> dict[str, Trial]:
    """Every condition by its name, `nominal` first. Args: start: without conditions, [E, ...] in NumPy."""
    episodes = len(start.goal)
    one = np.ones(episodes, np.float32)
    usual = Conditions(
        friction=one,
        mass=one,
        strength=one,
        delay=np.zeros(episodes, np.int32),
        seed=np.full(episodes, UNPUSHED, np.uint32),
    )

    def under(**changes: np.ndarray) -> Trial:
        return Trial(start._replace(conditions=usual._replace(**changes)))

    found = {NOMINAL: under(), "noise": under()._replace(noise=NOISE)}
    if where.randomise.push:
        found["push"] = under(seed=np.arange(episodes, dtype=np.uint32))
    for name in ALTER_MODEL:
        if share := getattr(where.randomise, name):
            found[f"{name}_less"] = under(**{name: one - np.float32(share)})
            found[f"{name}_more"] = under(**{name: one + np.float32(share)})
    for delay in DELAYS:
        found[f"delay_{delay}"] = under(delay=np.full(episodes, delay, np.int32))
    outside = beyond(where.task.spec, start.goal)
    found["goals_beyond"] = Trial(where.task.with_goal(start, outside)._replace(conditions=usual))
    return found


def beyond(spec: TaskSpec, goal: np.ndarray) -> np.ndarray:
    """Goals [E, G], each moved away from the middle of the training range to just outside of it.

    Entries that do not differ within the range stay."""
    low, high = np.asarray(spec.goal.low), np.asarray(spec.goal.high)
    middle, half = (low + high) / 2, (high - low) / 2
    offset = np.where(half > 0, goal - middle, 0)
    reach = np.abs(offset / np.where(half > 0, half, 1)).max(axis=1, keepdims=True)
    wanted = 1 + OUTSIDE * np.arange(1, len(goal) + 1)[:, None] / len(goal)
    return (goal + offset * (wanted / np.maximum(reach, 1e-3) - 1)).astype(goal.dtype)


def _simulation(measure: Yardstick) -> Simulation:
    """The yardstick's engine with all switched on that it can do, so that it compiles once for all trials."""
    task, engine = measure.simulation.task, measure.simulation.engine_name
    able, spec = ENGINES[engine], measure.simulation.task.spec
    switched: dict[str, float] = {"friction": SHARE, "mass": SHARE} if able.alters_model else {}
    if able.takes_pushes and task.pushed:
        interval = max(spec.episode_length / PUSHES, 1) * spec.control_dt
        switched |= {"push": task.randomise.push or PUSH, "push_interval_s": interval}
    randomise = Randomisation(latency=max(DELAYS), **switched)
    return simulation(measure.teacher.config.task.name, engine, randomise)


def _run(where: Simulation, acting: Acting, trial: Trial) -> Outcomes:
    steps = itertools.count()

    def policy(*seen: Any) -> Any:
        observation, goal = acting.view(*seen)
        noise = np.random.default_rng(next(steps)).standard_normal(observation.shape)
        noisy = observation + trial.noise * acting.spread * noise
        return acting.policy(noisy.astype(observation.dtype), goal)

    return run_episodes(where, policy, trial.start, evaluation_noise_key())[0]


def _beside(student: Outcomes, teacher: Outcomes, student_usual: Outcomes, teacher_usual: Outcomes) -> JSON:
    ours, theirs = student.time_at_goal, teacher.time_at_goal
    drop = (student_usual.time_at_goal - ours) - (teacher_usual.time_at_goal - theirs)
    return {
        "student": float(ours.mean()),
        "student_interval": list(mean_interval(ours)),
        "teacher": float(theirs.mean()),
        "teacher_interval": list(mean_interval(theirs)),
        "excess_drop": float(drop.mean()),
        "excess_drop_interval": list(mean_interval(drop)),
        **assess.retention(student, teacher),
    }
