"""What every student of a run is measured against: its teacher, on the same held-out episodes."""

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
from student.networks import Student, act, embed_goal, embed_state_action
from teacher.compilation import jit_once
from teacher.evaluate import Outcomes, evaluation_layout, evaluation_starts, run_episodes, summarise
from teacher.simulation import Simulation, simulation_of
from teacher.tasks import Start
from teacher.trained import Teacher

AGREEMENT_STATES = 256
AGREEMENT_ACTIONS = 32  # at each of them


class Yardstick(NamedTuple):
    """A teacher's held-out episodes, and what its critic says about states in them."""

    teacher: Teacher
    simulation: Simulation
    layout: str
    starts: Start
    outcomes: Outcomes
    asked: tuple[Array, ...]  # of every critic: see assess.critic_answers
    answers: assess.CriticAnswers

    @classmethod
    def of(cls, teacher: Teacher, episodes: int) -> Self:
        simulation = simulation_of(teacher.config.task)
        layout = evaluation_layout(teacher.config)
        starts = evaluation_starts(simulation, episodes, layout)
        outcomes, lived = run_episodes(simulation, teacher.policy(), starts)
        length, _, size = lived.action.shape
        count = min(AGREEMENT_STATES, episodes)
        # One state an episode, so that no two share a goal, at times spread over its length.
        step, episode = np.arange(count) * length // count, np.arange(count)
        further = jax.random.uniform(jax.random.key(0), (AGREEMENT_ACTIONS, count, size), minval=-1, maxval=1)
        asked = (
            jnp.asarray(lived.observation[step, episode]),
            jnp.asarray(lived.action[step, episode]),
            jnp.asarray(starts.goal[episode]),
            further,
        )
        answers = _answers(teacher.embed_state_action, teacher.embed_goal, teacher.params, asked)
        return cls(teacher, simulation, layout, starts, outcomes, asked, answers)

    def closed_loop(self, controller: Controller) -> dict[str, Any]:
        """The controller's score on the same episodes, and its retention."""
        found, _ = run_episodes(self.simulation, closed_loop.batched(controller), self.starts)
        of_teacher = {"teacher_time_at_goal": float(self.outcomes.time_at_goal.mean())}
        return summarise(found, self.layout) | of_teacher | assess.retention(found, self.outcomes)

    def critic(self, student: Student) -> dict[str, float]:
        """How far the student's critic agrees with the teacher's."""
        answers = _answers(embed_state_action, embed_goal, student, self.asked)
        return assess.critic_agreement(answers, self.answers)


def _answers(
    embed_state_action: Callable, embed_goal: Callable, params: Any, asked: tuple[Array, ...]
) -> assess.CriticAnswers:
    """What a critic says; its parameters are an argument, for compiled in they would be gigabytes of code."""

    def answer(params: Any, *asked: Array) -> assess.CriticAnswers:
        critic = assess.Critic(partial(embed_state_action, params), partial(embed_goal, params))
        return assess.critic_answers(critic, *asked)

    answers: assess.CriticAnswers = jit_once(answer)(params, *asked)
    return answers


def own_experience(
    simulation: Simulation, student: Student, key: Array, episodes: int, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Observations [K, N], goals [K, G] and actions [K, A] from the student's own episodes, K = count."""
    length = simulation.task.spec.episode_length
    episodes = max(episodes, -(-count // length))
    starts = simulation.starts(key, episodes)
    lived = simulation.rollout(partial(jax.jit(act), student), starts)
    goal = np.broadcast_to(starts.goal, (length, *starts.goal.shape))
    rows = np.linspace(0, length * episodes - 1, count).round().astype(int)
    before, acted, _ = lived.steps()
    values = (before, goal, acted)
    observation, goal, action = (v.reshape(-1, v.shape[-1])[rows].astype(np.float32) for v in values)
    return observation, goal, action
