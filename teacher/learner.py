"""Contrastive goal-conditioned reinforcement learning: init, collect, update; all pure.

Sources: arXiv:2206.07568 (contrastive RL), arXiv:2408.11052 (InfoNCE with energy -distance, the
log-partition penalty, the learned temperature), arXiv:2503.14858 (depth).
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec as P

from teacher import losses, replay
from teacher.compilation import jit_once, jit_physics
from teacher.config import TeacherConfig
from teacher.errors import UsageError
from teacher.networks import (
    Networks,
    Params,
    act_and_embed_goal,
    action_distribution,
    deterministic_action,
    embed_both_actions,
    embed_goal,
    embed_state_action,
    init_params,
    make_networks,
    require_fused,
)
from teacher.replay import Batch, Replay, Rows
from teacher.rollout import Policy, choose, is_stable, training_simulation_of
from teacher.sharding import AXIS, Devices
from teacher.tasks import Start, achieved_goal

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
    average: Params  # what is evaluated, kept and distilled: from one iteration to the next a policy wavers
    optimiser: Any
    environments: Environments
    replay: Replay
    key: Array  # one key per run; each iteration folds its number in
    iteration: Array  # scalar int32


class Learner:
    """The functions of one configuration. Nothing here changes after construction."""

    def __init__(self, config: TeacherConfig, devices: Devices | None = None):
        if not isinstance(config, TeacherConfig):
            raise UsageError(
                f"Learner takes a TeacherConfig, found {type(config).__name__}: the one of a Config is "
                "config.teacher"
            )
        self.config = config
        self.devices = devices or Devices()
        require_devices(config, self.devices.all)
        self.simulation = training_simulation_of(config)
        self.spec = self.simulation.task.spec
        require_windows(config, self.spec.episode_length)
        self.networks = make_networks(config.network, self.spec.action_size)
        self.optimiser = make_optimiser(config)
        self.division = self._division()
        spread, key, whole = self.devices.spread, P(), P()
        self.init = jit_once(spread(self._init, key, self.division))
        self._collect = jit_physics(spread(self.collect, (self.division,), self.division), donate_argnums=0)
        self._update = jax.jit(
            spread(self.update_many, (self.division,), (self.division, whole)), donate_argnums=0
        )
        self._restart = jit_once(spread(self.restart, (self.division,), self.division))
        self._act = jax.jit(partial(deterministic_action, self.networks))
        self._distances = jit_once(self._critic_distances)

    def _division(self) -> Any:
        """Says how each array of a state is divided over the devices: partition specs in a state's form."""
        params = jax.eval_shape(self._init_params, jax.random.key(0))
        whole: Any = P()
        environments: Any = P(AXIS)
        rows: Any = P(None, AXIS)
        return TeacherState(
            params=whole,
            average=whole,
            optimiser=jax.tree.map(self.devices.layer_spec, jax.eval_shape(self.optimiser.init, params)),
            environments=environments,
            replay=Replay(rows=rows, newest=rows, written=whole),
            key=whole,
            iteration=whole,
        )

    def _init_params(self, key: Array) -> Params:
        return init_params(self.networks, key, self.spec.sizes)

    def _init(self, key: Array) -> TeacherState:
        """Begins a fresh run, nothing collected yet."""
        init_key, environment_key, run_key = jax.random.split(key, 3)
        params = self._init_params(init_key)
        collect, devices = self.config.collect, self.devices
        return TeacherState(
            params=params,
            average=params,
            optimiser=self.optimiser.init(devices.own_parts(params)),
            environments=self._new_environments(environment_key, run_key),
            replay=replay.empty(collect.buffer_rows, collect.envs // devices.count, *self.spec.sizes),
            key=run_key,
            iteration=jnp.zeros((), jnp.int32),
        )

    def _new_environments(self, key: Array, run_key: Array) -> Environments:
        start_key, step_key = jax.random.split(key)
        numbers = self.devices.rows(self.config.collect.envs)
        start = self._draw_starts(start_key, run_key, numbers)
        # Episodes end at different times, so that every batch of rows holds all their phases.
        phases = self.spec.episode_length if self.config.collect.sampling == "even" else 1
        draw = partial(jax.random.randint, shape=(), minval=0, maxval=phases)
        step = jax.vmap(draw)(_keys(step_key, numbers))
        return Environments(self.simulation.reset(start), start.goal, step, jnp.zeros_like(step))

    def policy(self, params: Params) -> Policy:
        """Returns the deterministic policy: tanh of the mean; compiled, on one device."""
        return partial(self._act, self.devices.local(params.actor))

    def distances(self, params: Params, observation: Array, action: Array, goals: Array) -> Array:
        """Computes the critic's distances, [Q, S], [Q, A], [K, G] -> [Q, K]; compiled, on one device."""
        found: Array = self._distances(self.devices.local(params), observation, action, goals)
        return found

    def _critic_distances(self, params: Params, observation: Array, action: Array, goals: Array) -> Array:
        pairs = embed_state_action(self.networks, params.state_action, observation, action)
        return losses.pairwise_distance(pairs, embed_goal(self.networks, params.goal, goals))

    def iterate(self, state: TeacherState) -> tuple[TeacherState, dict[str, Array]]:
        """Collects, then updates; compiled. The given state's buffers are reused."""
        collect = self.config.collect
        while int(state.replay.written) + collect.unroll_length < collect.prefill:
            state = self._collect(state)
        state, metrics = self._update(self._collect(state))
        # Apart, compiled where it is needed: XLA would round a collection that did this too in another way.
        return self._restart(state) if metrics["unstable_steps"] else state, metrics

    def restart(self, state: TeacherState) -> TeacherState:
        """Begins an episode in each of this device's environments whose physics became unstable."""
        key = jax.random.fold_in(jax.random.fold_in(state.key, state.iteration), 2)
        start = self._draw_starts(key, state.key, self.devices.rows(self.config.collect.envs))
        unstable = ~self.simulation.is_stable(state.environments.physics)
        return state._replace(environments=self._begun(state.environments, unstable, start))

    def collect(self, state: TeacherState) -> TeacherState:
        """Writes `collect.unroll_length` control steps of this device's environments to their replay.

        Rows in which physics became unstable have no known goal, and are not sampled."""
        steps = self.config.collect.unroll_length
        # Keyed by the rows written: before the first update several pieces are collected.
        key = jax.random.fold_in(jax.random.fold_in(state.key, state.replay.written), 0)
        step = partial(self._environment_step, state.params.actor, state.key)
        environments, rows = jax.lax.scan(step, state.environments, jax.random.split(key, steps))
        known = (is_stable(rows.observation) & is_stable(rows.achieved_goal))[..., None]
        rows = rows._replace(achieved_goal=jnp.where(known, rows.achieved_goal, jnp.nan))
        return state._replace(environments=environments, replay=replay.insert(state.replay, rows))

    def _environment_step(
        self, actor: dict[str, Any], run_key: Array, environments: Environments, key: Array
    ) -> tuple[Environments, Rows]:
        noise_key, start_key = jax.random.split(key)
        numbers = self.devices.rows(self.config.collect.envs)
        physics, goal, step, episode = environments
        observation = self.simulation.observe(physics)
        mean, log_std = action_distribution(self.networks, actor, observation, goal)
        action, _ = losses.sample_squashed(mean, log_std, _noise(noise_key, numbers, self.spec.action_size))
        physics = self.simulation.step(physics, action)
        achieved = achieved_goal(self.spec, self.simulation.observe(physics))
        rows = Rows(observation, action, achieved, episode)

        done = (step + 1 >= self.spec.episode_length) | self.simulation.ended(physics)
        start = self._draw_starts(start_key, run_key, numbers)
        goal = choose(self._renewed(start_key, numbers), start.goal, goal)
        return self._begun(Environments(physics, goal, step + 1, episode), done, start), rows

    def _begun(self, environments: Environments, done: Array, start: Start) -> Environments:
        """Begins a new episode in the environments that are done [N]."""
        physics, goal, step, episode = environments
        physics, goal = choose(done, (self.simulation.reset(start), start.goal), (physics, goal))
        return Environments(physics, goal, jnp.where(done, 0, step), episode + done)

    def _renewed(self, key: Array, numbers: Array) -> Array:
        """Draws which environments [N] are given another goal within their episode.

        One that waits at its goal, or at the wall before it, goes on from there: so places further away come
        into the replay, and ways that lead to no single goal."""
        mean = self.config.collect.goal_steps
        if mean is None:
            return jnp.zeros(len(numbers), bool)
        keys = _keys(jax.random.fold_in(key, 2**31 - 1), numbers)  # starts fold in smaller numbers
        return jax.vmap(jax.random.bernoulli, (0, None))(keys, 1 / mean)

    def _draw_starts(self, key: Array, run_key: Array, numbers: Array) -> Start:
        """Draws new starts of these environments, or the same ones for the whole run."""
        if self.config.collect.starts == "repeated":
            key = jax.random.fold_in(run_key, 2**31 - 1)  # iterations fold in smaller numbers
        return self.simulation.draw(key, numbers, self.config.task.layout)

    def update_many(self, state: TeacherState) -> tuple[TeacherState, dict[str, Array]]:
        """Makes `collect.updates` updates; metrics are their means.

        `unstable_steps` counts, of the newest `collect.unroll_length` steps of all environments, those
        without a known goal."""
        settings, devices, updates = self.config.update, self.devices, self.config.collect.updates
        key = jax.random.fold_in(state.key, state.iteration)
        dealt = last = None
        if self.config.collect.sampling == "windows":
            sizes = self.spec.episode_length, updates, settings.batch_size
            dealt, last = replay.windows(state.replay, jax.random.fold_in(key, 3), *sizes, devices)

        def body(carry: tuple[Params, Any], given: Any) -> tuple[tuple[Params, Any], dict[str, Array]]:
            key, rows = given
            sample_key, update_key = jax.random.split(key)
            if rows is None:
                drawn = sample_key, settings.batch_size, settings.discount, devices
                batch = replay.sample(state.replay, *drawn)
            else:
                batch = replay.relabelled(state.replay, rows, settings.discount, last)
            return self.update(carry, batch, update_key)

        keys = jax.random.split(jax.random.fold_in(key, 1), updates)
        (params, optimiser), metrics = jax.lax.scan(body, (state.params, state.optimiser), (keys, dealt))
        metrics = jax.tree.map(jnp.mean, metrics)
        unknown = replay.unknown_goals(state.replay, self.config.collect.unroll_length).sum()
        metrics["unstable_steps"] = devices.count * devices.mean(unknown.astype(jnp.float32))
        average = self._averaged(state.average, params, state.iteration)
        iteration = state.iteration + 1
        return state._replace(
            params=params, average=average, optimiser=optimiser, iteration=iteration
        ), metrics

    def _averaged(self, average: Params, params: Params, iteration: Array) -> Params:
        """Moves the average by an iteration's updates; the first ones count alike, for it began at none."""
        decay = self.config.update.ema_decay**self.config.collect.updates
        share = jnp.maximum(1 - decay, 1 / (iteration + 1))
        moved: Params = jax.tree.map(lambda mean, new: (1 - share) * mean + share * new, average, params)
        return moved

    def update(
        self, learned: tuple[Params, Any], batch: Batch, key: Array
    ) -> tuple[tuple[Params, Any], dict[str, Array]]:
        """Updates actor, encoders and temperature together, all from the same old parameters.

        Args: whole parameters, this device's part of the optimiser and of the batch."""
        params, optimiser = learned
        noise = _noise(key, self.devices.rows(self.config.update.batch_size), self.spec.action_size)
        loss = partial(joint_loss, networks=self.networks, batch=batch, config=self.config)
        gradient, metrics = jax.grad(loss, has_aux=True)(params, noise=noise, devices=self.devices)
        gradient = self.devices.mean_parts(gradient)
        metrics = self.devices.mean(metrics) | {
            "actor_gradient_norm": self.devices.norm(gradient.actor, params.actor),
            "critic_gradient_norm": self.devices.norm(
                (gradient.state_action, gradient.goal), (params.state_action, params.goal)
            ),
        }
        own = self.devices.own_parts(params)
        change, optimiser = self.optimiser.update(gradient, optimiser, own)
        return (self.devices.whole(optax.apply_updates(own, change), params), optimiser), metrics


def require_devices(config: TeacherConfig, devices: Sequence[jax.Device]) -> None:
    """Raises UsageError if a run of this configuration cannot be divided over the devices or needs others."""
    count, batch = len(devices), config.update.batch_size
    for setting, total in (("collect.envs", config.collect.envs), ("update.batch_size", batch)):
        if total % count:
            below = total - total % count
            fitting = " or ".join(str(value) for value in (below, below + count) if value)
            raise UsageError(
                f"{setting}: found {total}, which {count} devices do not divide evenly; {fitting} would do"
            )
    require_fused(config.network, batch // count, devices)


def require_windows(config: TeacherConfig, length: int) -> None:
    """Raises UsageError if windows of an episode's length are asked for that have not all been collected, or
    hold too few rows."""
    collect, batch = config.collect, config.update.batch_size
    if collect.sampling == "even":
        return
    if collect.prefill < length:
        raise UsageError(
            f"collect.prefill: found {collect.prefill}, but collect.sampling=windows takes windows of an "
            f"episode, {length} control steps, from the first update on"
        )
    if collect.updates * batch > collect.envs * length:
        raise UsageError(
            f"collect.updates: found {collect.updates}, but collect.sampling=windows uses each of "
            f"collect.envs * {length} = {collect.envs * length} rows at most once: at most "
            f"{collect.envs * length // batch} with update.batch_size={batch}"
        )


def _keys(key: Array, numbers: Array) -> Array:
    """Makes one key for each number [N]."""
    return jax.vmap(partial(jax.random.fold_in, key))(numbers)


def _noise(key: Array, numbers: Array, size: int) -> Array:
    """Draws standard normal noise [N, size]; each row depends on its number alone."""
    return jax.vmap(lambda key: jax.random.normal(key, (size,)))(_keys(key, numbers))


def make_optimiser(config: TeacherConfig) -> optax.GradientTransformation:
    """Makes Adam with one rate each for actor, encoders and temperature."""
    rates = config.update
    adam = {
        "actor": optax.adam(rates.actor_lr),
        "critic": optax.adam(rates.critic_lr),
        "entropy": optax.adam(rates.temperature_lr),
    }
    return optax.multi_transform(adam, Params._make(("actor", "critic", "critic", "entropy")))


def joint_loss(
    params: Params,
    *,
    networks: Networks,
    batch: Batch,
    config: TeacherConfig,
    noise: Array,
    devices: Devices,
) -> tuple[Array, dict[str, Array]]:
    """Computes the sum of the critic's, the actor's and the temperature's loss, over this device's rows.

    Goals are embedded once for both, and are the negatives of all devices' state-actions. The
    actor's loss sees the critic's parameters and goal embeddings as constants, so that each
    network has the gradient of its own loss alone. noise: [B, A], standard normal."""
    update = config.update
    mean, log_std, goal_features = act_and_embed_goal(networks, params, batch.observation, batch.goal)
    action, log_probability = losses.sample_squashed(mean, log_std, noise)
    data_features, policy_features = embed_both_actions(
        networks, params.state_action, batch.observation, batch.action, action
    )
    logits = -losses.pairwise_distance(data_features, devices.gather(goal_features))
    critic = losses.infonce(logits, update.logsumexp_penalty).mean()
    distance = losses.distance(policy_features, jax.lax.stop_gradient(goal_features))
    temperature = jnp.exp(jax.lax.stop_gradient(params.log_temperature))
    actor = losses.actor_loss(distance, log_probability, temperature).mean()
    target = update.target_entropy * action.shape[-1]
    entropy = losses.temperature_loss(params.log_temperature, log_probability, target)

    metrics = {
        "critic_loss": critic,
        "critic_accuracy": losses.retrieval_accuracy(logits),
        "actor_loss": actor,
        "entropy": -log_probability.mean(),
        "entropy_weight": temperature,
        "saturation": (jnp.abs(action) > SATURATED).mean(),
    }
    return critic + actor + entropy, metrics
