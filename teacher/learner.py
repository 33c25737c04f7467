"""Contrastive goal-conditioned reinforcement learning: init, collect, update; all pure.

Sources: arXiv:2206.07568 (contrastive RL), arXiv:2408.11052 (InfoNCE with energy -distance, the
log-partition penalty, the learned entropy weight), arXiv:2503.14858 (depth).
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from teacher import losses, replay
from teacher.compilation import jit_once, jit_physics
from teacher.config import TeacherConfig
from teacher.networks import (
    Networks,
    Params,
    act_and_embed_goal,
    action_distribution,
    deterministic_action,
    embed_both_actions,
    init_params,
    make_networks,
)
from teacher.replay import Batch, Replay, Rows
from teacher.simulation import Policy, simulation_of
from teacher.tasks import achieved_goal

Array = jax.Array
SATURATED = 0.99  # an action beyond this is at its limit


class Environments(NamedTuple):
    """N environments between two iterations."""

    physics: Any
    goal: Array  # [N, G]
    step: Array  # [N] int32: control steps since the episode began
    episode: Array  # [N] int32


class TeacherState(NamedTuple):
    """All that a run needs to go on exactly as it would have."""

    params: Params
    optimiser: Any
    environments: Environments
    replay: Replay
    key: Array  # one key per run; each iteration folds its number in
    iteration: Array  # scalar int32


class Learner:
    """The functions of one configuration. Nothing here changes after construction."""

    def __init__(self, config: TeacherConfig):
        self.config = config
        self.simulation = simulation_of(config.task)
        self.spec = self.simulation.task.spec
        self.networks = make_networks(config.network, self.spec.action_size)
        self.optimiser = make_optimiser(config)
        self.init = jit_once(self._init)
        self._collect = jit_physics(self.collect, donate_argnums=0)
        self._update = jax.jit(self.update_many, donate_argnums=0)
        self._act = jax.jit(partial(deterministic_action, self.networks))

    def _init(self, key: Array) -> TeacherState:
        """A fresh run, nothing collected yet."""
        init_key, environment_key, run_key = jax.random.split(key, 3)
        sizes = (self.spec.observation_size, self.spec.action_size, self.spec.goal_size)
        params = init_params(self.networks, init_key, sizes)
        collect = self.config.collect
        return TeacherState(
            params=params,
            optimiser=self.optimiser.init(params),
            environments=self._new_environments(environment_key),
            replay=replay.empty(collect.replay, collect.envs, *sizes),
            key=run_key,
            iteration=jnp.zeros((), jnp.int32),
        )

    def _new_environments(self, key: Array) -> Environments:
        start_key, step_key = jax.random.split(key)
        count = self.config.collect.envs
        start = self.simulation.draw(start_key, count)
        # Episodes end at different times, so that every batch of rows holds all their phases.
        step = jax.random.randint(step_key, (count,), 0, self.spec.episode_length)
        return Environments(self.simulation.reset(start), start.goal, step, jnp.zeros(count, jnp.int32))

    def policy(self, params: Params) -> Policy:
        """The deterministic policy: tanh of the mean; compiled."""
        return partial(self._act, params.actor)

    def iterate(self, state: TeacherState) -> tuple[TeacherState, dict[str, Array]]:
        """Collect, then update; compiled. The given state's buffers are reused."""
        collect = self.config.collect
        while int(state.replay.written) + collect.steps < collect.prefill:
            state = self._collect(state)
        return self._update(self._collect(state))

    def collect(self, state: TeacherState) -> TeacherState:
        """`collect.steps` control steps of every environment, written to the replay."""
        steps = self.config.collect.steps
        # Keyed by the rows written: before the first update several pieces are collected.
        key = jax.random.fold_in(jax.random.fold_in(state.key, state.replay.written), 0)
        step = partial(self._environment_step, state.params.actor)
        environments, rows = jax.lax.scan(step, state.environments, jax.random.split(key, steps))
        return state._replace(environments=environments, replay=replay.insert(state.replay, rows))

    def _environment_step(
        self, actor: dict, environments: Environments, key: Array
    ) -> tuple[Environments, Rows]:
        noise_key, start_key = jax.random.split(key)
        physics, goal, step, episode = environments
        observation = self.simulation.observe(physics)
        mean, log_std = action_distribution(self.networks, actor, observation, goal)
        noise = jax.random.normal(noise_key, mean.shape)
        action, _ = losses.sample_squashed(mean, log_std, noise)
        physics = self.simulation.step(physics, action)
        outcome = achieved_goal(self.spec, self.simulation.observe(physics))
        rows = Rows(observation, action, outcome, episode)

        done = step + 1 >= self.spec.episode_length
        start = self.simulation.draw(start_key, len(goal))
        fresh = self.simulation.reset(start), start.goal
        physics, goal = jax.tree.map(
            lambda new, old: jnp.where(done.reshape(-1, *[1] * (old.ndim - 1)), new, old),
            fresh,
            (physics, goal),
        )
        return Environments(physics, goal, jnp.where(done, 0, step + 1), episode + done), rows

    def update_many(self, state: TeacherState) -> tuple[TeacherState, dict[str, Array]]:
        """`collect.updates` updates; metrics are their means."""
        config = self.config
        key = jax.random.fold_in(jax.random.fold_in(state.key, state.iteration), 1)

        def body(carry: tuple[Params, Any], key: Array) -> tuple[tuple[Params, Any], dict[str, Array]]:
            sample_key, update_key = jax.random.split(key)
            batch = replay.sample(state.replay, sample_key, config.update.batch, config.update.discount)
            return self.update(carry, batch, update_key)

        keys = jax.random.split(key, config.collect.updates)
        (params, optimiser), metrics = jax.lax.scan(body, (state.params, state.optimiser), keys)
        state = state._replace(params=params, optimiser=optimiser, iteration=state.iteration + 1)
        return state, jax.tree.map(jnp.mean, metrics)

    def update(
        self, learned: tuple[Params, Any], batch: Batch, key: Array
    ) -> tuple[tuple[Params, Any], dict[str, Array]]:
        """One joint update of actor, encoders and entropy weight, all from the same old parameters."""
        params, optimiser = learned
        loss = partial(joint_loss, networks=self.networks, batch=batch, config=self.config)
        gradient, metrics = jax.grad(loss, has_aux=True)(params, key=key)
        metrics |= {
            "actor_gradient_norm": optax.global_norm(gradient.actor),
            "critic_gradient_norm": optax.global_norm((gradient.state_action, gradient.goal)),
        }
        change, optimiser = self.optimiser.update(gradient, optimiser, params)
        return (optax.apply_updates(params, change), optimiser), metrics


def make_optimiser(config: TeacherConfig) -> optax.GradientTransformation:
    """Adam with one rate each for actor, encoders and entropy weight."""
    rates = config.update
    adam = {
        "actor": optax.adam(rates.actor_rate),
        "critic": optax.adam(rates.critic_rate),
        "entropy": optax.adam(rates.entropy_rate),
    }
    return optax.multi_transform(adam, Params._make(("actor", "critic", "critic", "entropy")))


def joint_loss(
    params: Params, *, networks: Networks, batch: Batch, config: TeacherConfig, key: Array
) -> tuple[Array, dict[str, Array]]:
    """Sum of the critic's, the actor's and the entropy weight's loss.

    Goals are embedded once for both. The actor's loss sees the critic's parameters and goal
    embeddings as constants, so that each network has the gradient of its own loss alone."""
    update = config.update
    mean, log_std, goal_features = act_and_embed_goal(networks, params, batch.observation, batch.goal)
    action, log_probability = losses.sample_squashed(mean, log_std, jax.random.normal(key, mean.shape))
    data_features, policy_features = embed_both_actions(
        networks, params.state_action, batch.observation, batch.action, action
    )
    logits = -losses.pairwise_distance(data_features, goal_features)
    critic = losses.infonce(logits, update.penalty).mean()
    distance = losses.distance(policy_features, jax.lax.stop_gradient(goal_features))
    weight = jnp.exp(jax.lax.stop_gradient(params.log_entropy_weight))
    actor = losses.actor_loss(distance, log_probability, weight).mean()
    target = update.target_entropy * action.shape[-1]
    entropy = losses.entropy_weight_loss(params.log_entropy_weight, log_probability, target)

    metrics = {
        "critic_loss": critic,
        "critic_accuracy": losses.retrieval_accuracy(logits),
        "actor_loss": actor,
        "entropy": -log_probability.mean(),
        "entropy_weight": weight,
        "saturation": (jnp.abs(action) > SATURATED).mean(),
    }
    return critic + actor + entropy, metrics
