"""What every student of a run is measured against: its teacher, on the same held-out episodes."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from export.controller import Controller
from pipelines import closed_loop
from student import assess
from student.calibration import Waits, calibration, waits
from student.networks import Student, act, embed_goal, embed_state_action, parameter_count
from teacher.compilation import jit_once
from teacher.evaluate import (
    EpisodeMetrics,
    evaluation_layout,
    evaluation_noise_key,
    evaluation_starts,
    run_episodes,
    summarise,
)
from teacher.rollout import Simulation, Trajectories, on_robot, simulation_of
from teacher.sensing import Sensed
from teacher.tasks import Start
from teacher.train import Teacher

AGREEMENT_STATES = 256
AGREEMENT_ACTIONS = 32  # at each of them
ERROR_STATES = 2048  # in which actions are compared, and times to the goal
TIMED = 50  # answers of a teacher


class Asked(NamedTuple):
    """What every critic is asked, as `assess.critic_answers` has it; as the teacher sees it, or a student."""

    observation: Array
    action: Array
    goal: Array
    goals: Array
    further: Array


class Seen(NamedTuple):
    """N states of some policy's episodes, evenly over steps and episodes; NumPy arrays."""

    observation: np.ndarray  # [N, S]
    goal: np.ndarray  # [N, G]
    sensed: Sensed  # [N, ...]
    action: np.ndarray  # [N, A]: the policy's

    @classmethod
    def of(cls, lived: Trajectories, goal: np.ndarray, count: int) -> Self:
        """From L steps of E episodes with goals [E, G]."""
        before, action, _ = lived.steps()
        length, episodes = action.shape[:2]
        rows = np.linspace(0, length * episodes - 1, count).round().astype(int)
        goal = np.broadcast_to(goal, (length, *goal.shape))
        values = (before, goal, *lived.sensed_steps(), action)
        observation, goal, *sensed, action = (v.reshape(-1, v.shape[-1])[rows] for v in values)
        return cls(observation, goal, Sensed(*sensed), action)


class Yardstick(NamedTuple):
    """A teacher's held-out episodes, and what its critic says about states in them."""

    teacher: Teacher
    simulation: Simulation
    layout: str
    starts: Start
    outcomes: EpisodeMetrics
    seen: Seen
    asked: Asked  # of students' critics
    answers: assess.CriticAnswers  # the teacher's, to the same questions

    @classmethod
    def of(cls, teacher: Teacher, episodes: int) -> Self:
        simulation = simulation_of(teacher.config.task)
        layout = evaluation_layout(teacher.config)
        starts = evaluation_starts(simulation, episodes, layout)
        policy = teacher.policy()
        outcomes, lived = run_episodes(
            simulation, lambda observation, goal, _: policy(observation, goal), starts, evaluation_noise_key()
        )
        seen = Seen.of(lived, starts.goal, ERROR_STATES)
        of_teacher, of_students = _questions(simulation, lived, starts.goal)
        answers = _asking(teacher.embed_state_action, teacher.embed_goal)(teacher.params, *of_teacher)
        return cls(teacher, simulation, layout, starts, outcomes, seen, of_students, answers)

    def closed_loop(self, controller: Controller) -> dict[str, Any]:
        """The controller's score on the same episodes, and what it keeps of its teacher's.

        `policy_error` is the root mean square difference of an action's entries from the teacher's, on
        states of the teacher's episodes and of its own."""
        policy = closed_loop.batched(controller)
        found, lived = run_episodes(self.simulation, on_robot(policy), self.starts, evaluation_noise_key())
        own, teachers = Seen.of(lived, self.starts.goal, ERROR_STATES), self.seen
        timed = calibration(*_asked_for_times(self.simulation, controller, lived, self.starts.goal))
        label = np.asarray(self.teacher.policy()(own.observation, own.goal))
        return (
            summarise(found, self.layout)
            | {
                "teacher_time_at_goal": float(self.outcomes.time_at_goal.mean()),
                "teacher_parameters": parameter_count(self.teacher.params.actor),
                "policy_error": {
                    "teacher_states": _rms(policy(*teachers.sensed) - teachers.action),
                    "own_states": _rms(own.action - label),
                },
            }
            | assess.retention(found, self.outcomes)
            | assess.beside_teacher(found, self.outcomes)
            | ({"calibration": timed} if timed else {})
        )

    def critic(self, student: Student) -> dict[str, float]:
        """How far the student's critic agrees with the teacher's."""
        return assess.critic_agreement(_ask_student(student, *self.asked), self.answers)


def _questions(simulation: Simulation, lived: Trajectories, goal: np.ndarray) -> tuple[Asked, Asked]:
    """One state an episode, so that no two share a goal, at times spread over its length: the same
    questions as the teacher sees them, and as its students do."""
    assert lived.sensed is not None, "the rollout was given no noise_key"
    length, episodes, size = lived.action.shape
    count = min(AGREEMENT_STATES, episodes)
    step, episode = np.arange(count) * length // count, np.arange(count)
    further = jax.random.uniform(jax.random.key(0), (AGREEMENT_ACTIONS, count, size), minval=-1, maxval=1)
    action, own = jnp.asarray(lived.action[step, episode]), jnp.asarray(goal[episode])
    of_teacher = Asked(jnp.asarray(lived.observation[step, episode]), action, own, own, further)
    sensed = Sensed(*(jnp.asarray(values[step, episode]) for values in lived.sensed))
    goals = own
    if simulation.task.spec.deployed:
        qpos = jnp.asarray(lived.qpos[step, episode])
        pairs = (count, count, -1)
        goals = simulation.task.deployed_goal(
            jnp.repeat(qpos, count, axis=0).reshape(pairs), jnp.tile(own, (count, 1)).reshape(pairs)
        )
    return of_teacher, Asked(sensed.observation, action, sensed.goal, goals, further)


def _asking(embed_state_action: Callable, embed_goal: Callable) -> Callable[..., assess.CriticAnswers]:
    """A compiled function of a critic's parameters and what it is asked.

    The parameters are an argument, for compiled in they would be gigabytes of code."""

    def answer(params: Any, *asked: Array) -> assess.CriticAnswers:
        critic = assess.Critic(partial(embed_state_action, params), partial(embed_goal, params))
        return assess.critic_answers(critic, *asked)

    return jit_once(answer)


_ask_student = _asking(embed_state_action, embed_goal)  # compiles once for critics of one size


def _asked_for_times(
    simulation: Simulation, controller: Controller, lived: Trajectories, goal: np.ndarray
) -> tuple[Waits, np.ndarray]:
    """Moments of the controller's own episodes, and its critic's distances [Q] in them."""
    moments = waits(simulation.task.spec, lived, goal, ERROR_STATES)
    assert lived.sensed is not None, "the rollout was given no noise_key"
    values = (*lived.sensed, lived.action)
    observation, seen, action = (v[moments.step, moments.episode].astype(np.float32) for v in values)
    rows = zip(observation, action, seen, strict=True)
    return moments, np.array([controller.distance(o, a, g) for o, a, g in rows])


def teacher_latency(teacher: Teacher) -> float:
    """Microseconds of one answer of the teacher in JAX, on the devices here: the median of TIMED."""
    observation, goal = (np.zeros((1, size), np.float32) for size in teacher.spec.sizes[::2])
    policy = teacher.policy()
    np.asarray(policy(observation, goal))  # compiles
    seconds = []
    for _ in range(TIMED):
        begun = time.perf_counter()
        np.asarray(policy(observation, goal))
        seconds.append(time.perf_counter() - begun)
    return 1e6 * float(np.median(seconds))


def _rms(difference: np.ndarray) -> float:
    return float(np.sqrt((difference**2).mean()))


def own_experience(
    simulation: Simulation, student: Student, key: Array, episodes: int, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the student sees of observations [K, N] and goals [K, G], and its actions [K, A], K = count.

    All from its own episodes."""
    episodes = max(episodes, -(-count // simulation.task.spec.episode_length))
    start_key, noise_key = jax.random.split(key)
    starts = simulation.starts(start_key, episodes)
    lived = simulation.rollout(on_robot(partial(jax.jit(act), student)), starts, noise_key=noise_key)
    seen = Seen.of(lived, starts.goal, count)
    observation, goal, action = (v.astype(np.float32) for v in (*seen.sensed, seen.action))
    return observation, goal, action
