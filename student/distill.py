"""Distillation: the students act, the teacher labels (DAgger, arXiv:1011.0686).

In the first rounds the teacher acts, with noise as large as the students' present error, so that labels
cover recoveries (DART, arXiv:1703.09327). Then teacher and students take turns within an episode, and
finally the students act in most environments. Labels are computed once, when a state is visited, and every
student learns from all of them.
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
from student.labels import Labels, VisitedStates, compute_labels, empty_labels
from student.networks import Normaliser, Student, act, embed_goal, embed_state_action, init_student, normalise
from teacher.compilation import jit_once
from teacher.evaluate import episode_metrics
from teacher.losses import distance
from teacher.networks import Params
from teacher.policy_file import AnyTeacher
from teacher.rollout import Policy, begin, on_robot, training_simulation_of
from teacher.tasks import Start

Array = jax.Array
SEGMENTS = 4  # of an episode, each led by the teacher or by a student
TEACHER_SHARE = (0.5, 0.15)  # of the environments that the teacher leads once students act: falling, final
COMPARED_EPISODES = 128  # in which the initialisations of a size are compared
WEIGHTS = {"policy": 1.0, "features": 1.0, "goal_features": 1.0, "distance": 1.0, "gradient": 1.0}
WEIGHTS |= {"preference": 10.0}


class StudentEnsemble(NamedTuple):
    """Parameters of all students, trained at once; in a state, leaves have a leading axis over seeds."""

    policies: tuple[Any, ...]  # one of each size
    state_action: Any
    goal: Any

    def student(self, number: int) -> Student:
        """Returns the student of one size, by its position in the settings."""
        return Student(self.policies[number], self.state_action, self.goal)


class DistillState(NamedTuple):
    """Everything that a distillation resumes from."""

    ensemble: StudentEnsemble
    optimiser: Any
    normaliser: Normaliser
    error: Array  # scalar: root mean square of the students' action errors
    labels: Labels  # T = rounds * episode length
    key: Array
    round: Array  # scalar int32


class Distiller:
    """Pure functions of one configuration and one teacher; only the rollout runs from the host."""

    def __init__(self, config: StudentConfig, teacher: AnyTeacher):
        self.config, self.teacher = config, teacher
        self.simulation = training_simulation_of(teacher.config)
        self.spec = teacher.spec
        # A goal relative to the robot has as many descriptions as there are states, so that the teacher's one
        # embedding of it cannot be matched: only distances can.
        self.same_goals = self.spec.sensed_goal.frame == self.spec.goal.frame
        decay = optax.cosine_decay_schedule(config.lr, config.rounds * config.updates, alpha=0.01)
        self.optimiser = optax.adam(decay)
        self.init = jit_once(self._init)
        self._act_as_teacher = jax.jit(self.teacher_action)
        self._act_as_students = jax.jit(self.students_action)
        self._label = jax.jit(self.label, donate_argnums=0)
        self._update = jax.jit(self.update_many, donate_argnums=0)

    def _init(self, key: Array) -> DistillState:
        spec, config = self.spec, self.config
        representation = self.teacher.representation
        ensemble_key, run_key = jax.random.split(key)
        sizes, critic = spec.sensed_sizes, parse_size(config.critic)

        def of_seed(key: Array) -> StudentEnsemble:
            students = [
                init_student(jax.random.fold_in(key, i), parse_size(name), critic, sizes, representation)
                for i, name in enumerate(config.sizes)
            ]
            policies = tuple(student.policy for student in students)
            return StudentEnsemble(policies, students[0].state_action, students[0].goal)

        ensemble = jax.vmap(of_seed)(jax.random.split(ensemble_key, config.seeds))
        observation, action, goal = ((jnp.zeros(n), jnp.ones(n)) for n in sizes)
        return DistillState(
            ensemble=ensemble,
            optimiser=self.optimiser.init(ensemble),
            normaliser=Normaliser(observation, action, goal),
            error=jnp.asarray(config.noise, jnp.float32),  # not weak: `label` would compile twice
            labels=empty_labels(spec, representation, config.rounds * spec.episode_length, config.envs),
            key=run_key,
            round=jnp.zeros((), jnp.int32),
        )

    def iterate(self, state: DistillState) -> tuple[DistillState, dict[str, Array]]:
        """Runs one round, visit, label and update; returns the state, and metrics by name.

        The given state's buffers are reused."""
        labelled = self._label(state, self.teacher.params, self._visit(state))
        updated: tuple[DistillState, dict[str, Array]] = self._update(labelled)
        return updated

    def _visit(self, state: DistillState) -> VisitedStates:
        """Runs one episode in every environment, in which teacher and students act as the round has it."""
        start_key, noise_key, sensor_key = jax.random.split(self._round_key(state, 0), 3)
        start = self.simulation.starts(start_key, self.config.envs, self.teacher.config.task.layout)
        share, segment = self.teacher_share(int(state.round)), max(self.spec.episode_length // SEGMENTS, 1)
        calls = itertools.count()
        answers: list[np.ndarray] = []  # of a recurrent teacher, which follows all episodes, whoever acts
        batches: dict[int, Policy] = {}

        def policy(observation: np.ndarray, goal: np.ndarray, sensed: Any) -> np.ndarray:
            call = next(calls)
            # Every batch is asked for in each step.
            step, batch = divmod(call, -(-self.config.envs // len(goal)))
            led = led_by_teacher(share, step // segment, len(goal))
            action = np.array(self._act_as_students(state.ensemble, state.normaliser, *sensed))
            if self.teacher.recurrent:
                follow = batches.setdefault(batch, begin(self.teacher.policy(), len(goal)))
                answers.append(follow(observation, goal))
            if len(led):
                spread, key = state.error if self.config.noise else 0.0, jax.random.fold_in(noise_key, call)
                if answers:
                    action[led] = perturbed(answers[-1][led], spread, key)
                else:
                    seen = observation[led], goal[led]
                    action[led] = self._act_as_teacher(self.teacher.params, *seen, spread, key)
            return action

        trajectories = self.simulation.rollout(policy, start, noise_key=sensor_key)
        before, action, after = trajectories.steps()
        qpos, sensed = trajectories.before_steps(trajectories.qpos), trajectories.sensed_steps().observation
        visited = VisitedStates(before, action, after, qpos, sensed, trajectories.active.sum(0), start.goal)
        if not answers:
            return visited
        answer = np.reshape(answers, (len(action), -1, action.shape[-1]))[:, : self.config.envs]
        return visited._replace(answer=trajectories.before_steps(answer))

    def teacher_share(self, round_: int) -> float:
        """Returns the share of the environments in which the teacher acts in a round."""
        since = round_ - self.config.teacher_rounds
        return 1.0 if since < 0 else float(np.interp(since, (0, self.config.mixed_rounds), TEACHER_SHARE))

    def teacher_action(
        self, params: Params, observation: Array, goal: Array, spread: Array, key: Array
    ) -> Array:
        """Computes the teacher's action [E, A] with noise, so that labels cover recoveries."""
        return perturbed(self.teacher.act(params, observation, goal), spread, key)

    def students_action(
        self, ensemble: StudentEnsemble, normaliser: Normaliser, observation: Array, goal: Array
    ) -> Array:
        """Computes actions [E, A], those of student e mod S in environment e: each learns from all paths."""
        actions = self._actions(ensemble, normaliser, observation, goal)
        environment = jnp.arange(len(goal))
        return actions[environment % len(actions), environment]

    def _actions(
        self, ensemble: StudentEnsemble, normaliser: Normaliser, observation: Array, goal: Array
    ) -> Array:
        """Computes the actions of every size and, within it, every seed: [sizes * seeds, E, A]."""
        observation = normalise(observation, normaliser.observation)
        goal = normalise(goal, normaliser.goal)
        each = [
            jax.vmap(act, in_axes=(0, None, None))(ensemble.student(i), observation, goal)
            for i in range(len(self.config.sizes))
        ]
        return jnp.concatenate(each)

    def label(self, state: DistillState, params: Params, visited: VisitedStates) -> DistillState:
        """Adds the teacher's labels of a round's steps."""
        key = self._round_key(state, 1)
        new = compute_labels(self.teacher, params, self.simulation.task, visited, self.config.goals, key)
        first = state.round * self.spec.episode_length
        write = partial(jax.lax.dynamic_update_slice_in_dim, start_index=first, axis=0)
        # Measured in the first round, in which the untrained students do not act yet.
        actions = new.action if new.candidate_actions is None else new.candidate_actions
        measured = Normaliser(*map(_statistics, (new.observation, actions, new.goal)))
        return state._replace(
            labels=jax.tree.map(write, state.labels, new),
            normaliser=jax.tree.map(partial(jnp.where, state.round == 0), measured, state.normaliser),
        )

    def _round_key(self, state: DistillState, purpose: int) -> Array:
        return jax.random.fold_in(jax.random.fold_in(state.key, state.round), purpose)

    def update_many(self, state: DistillState) -> tuple[DistillState, dict[str, Array]]:
        """Makes `updates` updates on batches from all rounds so far; metrics are their means."""
        key = self._round_key(state, 2)
        held = (state.round + 1) * self.spec.episode_length
        normaliser = state.normaliser

        def body(carry: tuple[Any, Any], key: Array) -> tuple[tuple[Any, Any], dict[str, Array]]:
            ensemble, optimiser = carry
            step_key, environment_key = jax.random.split(key)
            step = jax.random.randint(step_key, (self.config.batch_size,), 0, held)
            environment = jax.random.randint(environment_key, (self.config.batch_size,), 0, self.config.envs)
            batch = _normalised(jax.tree.map(lambda leaf: leaf[step, environment], state.labels), normaliser)
            gradient = jax.vmap(jax.grad(self._loss, has_aux=True), in_axes=(0, None))
            gradients, metrics = gradient(ensemble, batch)
            change, optimiser = self.optimiser.update(gradients, optimiser, ensemble)
            return (optax.apply_updates(ensemble, change), optimiser), jax.tree.map(jnp.mean, metrics)

        keys = jax.random.split(key, self.config.updates)
        (ensemble, optimiser), metrics = jax.lax.scan(body, (state.ensemble, state.optimiser), keys)
        metrics = jax.tree.map(jnp.mean, metrics)
        error = jnp.stack([metrics[f"{name}/action_error"] for name in self.config.sizes]).mean()
        state = state._replace(ensemble=ensemble, optimiser=optimiser, error=error, round=state.round + 1)
        return state, metrics

    def _loss(self, ensemble: StudentEnsemble, batch: Labels) -> tuple[Array, dict[str, Array]]:
        """Computes the sum of one seed's losses: policies share nothing, so each has its own gradient.

        batch: [B, ...] of each label, normalised."""
        critic: dict[str, Array] = {}
        if ensemble.student(0).has_critic:
            # Half of the batch is large enough for the critic, whose forward passes dominate the cost.
            half = jax.tree.map(lambda leaf: leaf[: max(len(leaf) // 2, 1)], batch)
            critic = critic_losses(ensemble.student(0), half, self.same_goals)
        total = sum((WEIGHTS[name] * term for name, term in critic.items()), jnp.zeros(()))
        metrics = {f"critic/{name}_loss": term for name, term in critic.items()}
        for i, name in enumerate(self.config.sizes):
            action = act(ensemble.student(i), batch.observation, batch.goal)
            policy = losses.policy_loss(action, batch.action)
            total = total + WEIGHTS["policy"] * policy
            metrics[f"{name}/policy_loss"] = policy
            metrics[f"{name}/action_error"] = jnp.sqrt(((action - batch.action) ** 2).mean())
        return total, metrics

    def best_seeds(self, state: DistillState) -> dict[str, tuple[int, list[float]]]:
        """Returns for each size the seed longest at goals on fresh training starts, and all seeds' times."""
        count = len(self.config.sizes) * self.config.seeds
        start_key, sensor_key = jax.random.split(self._round_key(state, 3))
        start: Start = self.simulation.starts(start_key, COMPARED_EPISODES, self.teacher.config.task.layout)
        actions = jax.jit(self._actions)
        scores = []
        for member in range(count):

            def policy(observation: Any, goal: Any, member: int = member) -> Array:
                each: Array = actions(state.ensemble, state.normaliser, observation, goal)
                return each[member]

            trajectories = self.simulation.rollout(on_robot(policy), start, noise_key=sensor_key)
            scores.append(float(episode_metrics(self.spec, trajectories, start.goal).time_at_goal.mean()))
        of_sizes = np.reshape(scores, (len(self.config.sizes), self.config.seeds))
        best = ((int(times.argmax()), times.tolist()) for times in of_sizes)
        return dict(zip(self.config.sizes, best, strict=True))


def led_by_teacher(share: float, segment: int, environments: int) -> np.ndarray:
    """Returns the environments in which the teacher acts in this segment; the next segment has others."""
    count = round(share * environments)
    return (np.arange(count) + segment * count) % environments


def perturbed(action: Array, spread: Array | float, key: Array) -> Array:
    """Adds Gaussian noise to actions [E, A] in [-1, 1]."""
    return jnp.clip(action + spread * jax.random.normal(key, action.shape), -1, 1)


def critic_losses(student: Student, batch: Labels, same_goals: bool) -> dict[str, Array]:
    """Computes the losses of the students' critic by name; `batch` is [B, ...] of each label, normalised."""
    actions = batch.candidate_actions
    repeated = jnp.broadcast_to(batch.observation[:, None], (*actions.shape[:2], batch.observation.shape[-1]))
    features = embed_state_action(student, repeated, actions)
    goal_features = embed_goal(student, batch.goal)
    distances = distance(features, goal_features[:, None])

    def to_goal(action: Array) -> Array:
        return distance(embed_state_action(student, batch.observation, action), goal_features).sum()

    of_actions = {
        "preference": losses.preference_loss(distances, batch.distance),
        "gradient": losses.gradient_loss(jax.grad(to_goal)(actions[:, 0]), batch.gradient),
    }
    if not same_goals:
        return of_actions | {"distance": losses.distance_loss(distances, batch.distance)}
    return of_actions | {
        "features": losses.feature_loss(features, batch.features),
        "goal_features": losses.feature_loss(goal_features, batch.goal_features),
    }


def _normalised(batch: Labels, normaliser: Normaliser) -> Labels:
    batch = batch._replace(
        observation=normalise(batch.observation, normaliser.observation),
        goal=normalise(batch.goal, normaliser.goal),
    )
    if batch.features is None:
        return batch
    return batch._replace(
        candidate_actions=normalise(batch.candidate_actions, normaliser.action),
        features=batch.features.astype(jnp.float32),
        gradient=batch.gradient * normaliser.action[1],
    )


def _statistics(values: Array) -> tuple[Array, Array]:
    """Computes mean and standard deviation over all axes but the last; constant entries keep unit scale."""
    axes = tuple(range(values.ndim - 1))
    std = values.std(axes)
    return values.mean(axes), jnp.where(std > 1e-6, std, 1.0)
