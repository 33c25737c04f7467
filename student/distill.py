"""Distillation: the student acts, the teacher labels (DAgger, arXiv:1011.0686); all pure.

The first rounds are the teacher's own with noise, so that labels cover recoveries
(DART, arXiv:1703.09327); after them every environment is driven by one of the students. Labels are
computed once, when a state is visited, and every student learns from all of them.
"""

import itertools
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from student import losses
from student.config import StudentConfig, parse_size
from student.networks import (
    Normaliser,
    Student,
    act,
    embed_goal,
    embed_state_action,
    init_student,
    normalise,
)
from teacher.compilation import jit_once
from teacher.losses import distance
from teacher.networks import Params
from teacher.simulation import Trajectories, training_simulation_of
from teacher.tasks import achieved_goal
from teacher.trained import Teacher

Array = jax.Array
STUDENT_NOISE = 0.05  # standard deviation on a student's actions: neighbours of its path
ACTIONS = 4  # that the teacher's critic is asked about in each state
NEARBY = 0.3  # standard deviation of the one that is drawn around the action carried out
PREFERENCE_WEIGHT = 10.0  # docs/results.md has what it buys


class Labels(NamedTuple):
    """Visited states and the teacher's answers; T steps, E environments."""

    observation: Array  # [T, E, S]
    goal: Array  # [T, E, G]: commanded
    outcome: Array  # [T, E, G]: what the goal's entries were after the action
    action: Array  # [T, E, A]: the teacher's
    tried: Array  # [T, E, K, A]: the action that was carried out, one near it, and arbitrary ones
    tried_features: Array  # [T, E, K, R]
    goal_features: Array  # [T, E, R]
    outcome_features: Array  # [T, E, R]


class DistillState(NamedTuple):
    """All that a distillation needs to go on exactly as it would have."""

    students: tuple[Student, ...]
    optimiser: Any
    normaliser: Normaliser
    labels: Labels  # T = rounds * episode length
    key: Array
    round: Array  # scalar int32


class Distiller:
    """The functions of one configuration and one teacher."""

    def __init__(self, config: StudentConfig, teacher: Teacher):
        self.config, self.teacher = config, teacher
        self.simulation = training_simulation_of(teacher.config)
        self.spec = teacher.spec
        decay = optax.cosine_decay_schedule(config.rate, config.rounds * config.updates, alpha=0.01)
        self.optimiser = optax.adam(decay)
        self.init = jit_once(self._init)
        self._act_as_teacher = jax.jit(self.teacher_action)
        self._act_as_students = jax.jit(self.students_action)
        self._label = jax.jit(self.label, donate_argnums=0)
        self._update = jax.jit(self.update_many, donate_argnums=0)

    def _init(self, key: Array) -> DistillState:
        spec, config = self.spec, self.config
        representation = self.teacher.config.network.representation
        student_key, run_key = jax.random.split(key)
        sizes = spec.sizes
        students = tuple(
            init_student(jax.random.fold_in(student_key, i), parse_size(name), sizes, representation)
            for i, name in enumerate(config.sizes)
        )
        observation, action, goal = ((jnp.zeros(n), jnp.ones(n)) for n in sizes)
        steps = (config.rounds * spec.episode_length, config.envs)
        labels = Labels(
            observation=jnp.zeros((*steps, spec.observation_size)),
            goal=jnp.zeros((*steps, spec.goal_size)),
            outcome=jnp.zeros((*steps, spec.goal_size)),
            action=jnp.zeros((*steps, spec.action_size)),
            tried=jnp.zeros((*steps, ACTIONS, spec.action_size)),
            tried_features=jnp.zeros((*steps, ACTIONS, representation)),
            goal_features=jnp.zeros((*steps, representation)),
            outcome_features=jnp.zeros((*steps, representation)),
        )
        return DistillState(
            students=students,
            optimiser=self.optimiser.init(students),
            normaliser=Normaliser(observation, action, goal),
            labels=labels,
            key=run_key,
            round=jnp.zeros((), jnp.int32),
        )

    def iterate(self, state: DistillState) -> tuple[DistillState, dict[str, Array]]:
        """One round: visit, label, update. The given state's buffers are reused."""
        visited, goal = self._visit(state)
        return self._update(self._label(state, self.teacher.params, *visited.steps(), goal))

    def _visit(self, state: DistillState) -> tuple[Trajectories, np.ndarray]:
        """One episode in every environment, and the goals [E, G] that were asked for."""
        start_key, noise_key = jax.random.split(self._round_key(state, 0))
        start = self.simulation.starts(start_key, self.config.envs, self.teacher.config.task.layout)
        calls = itertools.count()
        teacher_acts = int(state.round) < self.config.teacher_rounds

        def policy(observation: np.ndarray, goal: np.ndarray) -> Array:
            key = jax.random.fold_in(noise_key, next(calls))
            if teacher_acts:
                return self._act_as_teacher(self.teacher.params, observation, goal, key)
            return self._act_as_students(state.students, state.normaliser, observation, goal, key)

        return self.simulation.rollout(policy, start), start.goal

    def teacher_action(self, params: Params, observation: Array, goal: Array, key: Array) -> Array:
        """The teacher's action [E, A] with noise, so that labels show the way back."""
        return _with_noise(self.teacher.act(params, observation, goal), self.config.noise, key)

    def students_action(
        self,
        students: tuple[Student, ...],
        normaliser: Normaliser,
        observation: Array,
        goal: Array,
        key: Array,
    ) -> Array:
        """Environment e driven by student e mod S, [E, A]; every student learns from the others' paths."""
        observation = normalise(observation, normaliser.observation)
        goal = normalise(goal, normaliser.goal)
        actions = jnp.stack([act(student, observation, goal) for student in students])
        environment = jnp.arange(len(goal))
        chosen = actions[environment % len(students), environment]
        return _with_noise(chosen, STUDENT_NOISE, key)

    def label(
        self, state: DistillState, params: Params, before: Array, action: Array, after: Array, goal: Array
    ) -> DistillState:
        """Adds the teacher's answers on a round's steps: observations [L, E, S], actions [L, E, A]."""
        key = self._round_key(state, 1)
        nearby_key, arbitrary_key = jax.random.split(key)
        length, envs, size = action.shape
        arbitrary = jax.random.uniform(arbitrary_key, (length, envs, ACTIONS - 2, size), minval=-1, maxval=1)
        nearby = _with_noise(action, NEARBY, nearby_key)
        tried = jnp.concatenate([jnp.stack([action, nearby], axis=2), arbitrary], axis=2)
        new = jax.lax.map(
            lambda step: self._labels(params, step, goal),
            (before, after, tried),
        )
        write = partial(
            jax.lax.dynamic_update_slice_in_dim, start_index=state.round * self.spec.episode_length, axis=0
        )
        # Measured in the first round, in which the untrained students do not act yet.
        measured = Normaliser(_statistics(new.observation), _statistics(new.tried), _statistics(new.goal))
        return state._replace(
            labels=jax.tree.map(write, state.labels, new),
            normaliser=jax.tree.map(partial(jnp.where, state.round == 0), measured, state.normaliser),
        )

    def _labels(self, params: Params, step: tuple[Array, Array, Array], goal: Array) -> Labels:
        """One step of every environment: before [E, S], after [E, S], tried [E, K, A]; goal [E, G]."""
        before, after, tried = step
        teacher, outcome = self.teacher, achieved_goal(self.spec, after)
        embed = jax.vmap(partial(teacher.embed_state_action, params), in_axes=(None, 1), out_axes=1)
        return Labels(
            observation=before,
            goal=goal,
            outcome=outcome,
            action=teacher.act(params, before, goal),
            tried=tried,
            tried_features=embed(before, tried),
            goal_features=teacher.embed_goal(params, goal),
            outcome_features=teacher.embed_goal(params, outcome),
        )

    def _round_key(self, state: DistillState, purpose: int) -> Array:
        return jax.random.fold_in(jax.random.fold_in(state.key, state.round), purpose)

    def update_many(self, state: DistillState) -> tuple[DistillState, dict[str, Array]]:
        """`updates` updates on batches from all rounds so far; metrics are their means."""
        key = self._round_key(state, 2)
        held = (state.round + 1) * self.spec.episode_length

        def body(carry: tuple[Any, Any], key: Array) -> tuple[tuple[Any, Any], dict[str, Array]]:
            students, optimiser = carry
            step_key, environment_key = jax.random.split(key)
            step = jax.random.randint(step_key, (self.config.batch,), 0, held)
            environment = jax.random.randint(environment_key, (self.config.batch,), 0, self.config.envs)
            batch = jax.tree.map(lambda leaf: leaf[step, environment], state.labels)
            gradient, metrics = jax.grad(self._loss, has_aux=True)(students, state.normaliser, batch)
            change, optimiser = self.optimiser.update(gradient, optimiser, students)
            return (optax.apply_updates(students, change), optimiser), metrics

        keys = jax.random.split(key, self.config.updates)
        (students, optimiser), metrics = jax.lax.scan(body, (state.students, state.optimiser), keys)
        state = state._replace(students=students, optimiser=optimiser, round=state.round + 1)
        return state, jax.tree.map(jnp.mean, metrics)

    def _loss(
        self, students: tuple[Student, ...], normaliser: Normaliser, batch: Labels
    ) -> tuple[Array, dict[str, Array]]:
        """All students' losses added up: they share nothing, so each has its own gradient."""
        total = jnp.zeros(())
        metrics: dict[str, Array] = {}
        for name, student in zip(self.config.sizes, students, strict=True):
            policy, critic = student_losses(student, normaliser, batch)
            total = total + policy + critic
            metrics |= {f"{name}/policy_loss": policy, f"{name}/critic_loss": critic}
        return total, metrics


def student_losses(student: Student, normaliser: Normaliser, batch: Labels) -> tuple[Array, Array]:
    """Policy and critic loss of one student; `batch` holds [B, ...] of each label."""
    observation = normalise(batch.observation, normaliser.observation)
    tried = normalise(batch.tried, normaliser.action)
    goal = normalise(batch.goal, normaliser.goal)
    outcome = normalise(batch.outcome, normaliser.goal)

    policy = losses.policy_loss(act(student, observation, goal), batch.action)
    both = jnp.broadcast_to(observation[:, None], (*tried.shape[:2], observation.shape[-1]))
    features = embed_state_action(student, both, tried)
    goal_features, outcome_features = embed_goal(student, goal), embed_goal(student, outcome)
    preference = losses.preference_loss(
        distance(features, goal_features[:, None]),
        distance(batch.tried_features, batch.goal_features[:, None]),
    )
    critic = (
        losses.feature_loss(features, batch.tried_features)
        + losses.feature_loss(goal_features, batch.goal_features)
        + losses.feature_loss(outcome_features, batch.outcome_features)
        + PREFERENCE_WEIGHT * preference
        + losses.distance_loss(features[:, 0], goal_features, batch.tried_features[:, 0], batch.goal_features)
        + losses.distance_loss(
            features[:, -1], outcome_features, batch.tried_features[:, -1], batch.outcome_features
        )
    )
    return policy, critic


def _with_noise(action: Array, spread: float, key: Array) -> Array:
    return jnp.clip(action + spread * jax.random.normal(key, action.shape), -1, 1)


def _statistics(values: Array) -> tuple[Array, Array]:
    """Mean and standard deviation of the last axis's entries; constant entries keep unit scale."""
    axes = tuple(range(values.ndim - 1))
    std = values.std(axes)
    return values.mean(axes), jnp.where(std > 1e-6, std, 1.0)
