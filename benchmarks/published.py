"""The published update of contrastive RL with deep networks, to measure against.

Written from the description in arXiv:2503.14858 (section 4, appendix and table 7), in the form that
its programs have: layers unrolled in Python, actor, entropy weight and critic updated one after the
other, each with a gradient and an Adam of its own, and the pairwise energies taken from the [B, B, R]
tensor of differences. There is no epsilon under its root, and the Jacobian of tanh is the logarithm
of 1 - a^2 + 1e-6.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from teacher.config import BLOCK_DEPTH
from teacher.replay import Batch

Array = jax.Array
Tree = Any  # nested arrays

REPRESENTATION = 64
RATE = 3e-4
PENALTY = 0.1
TARGET_ENTROPY = -0.5  # per action
LOG_STD_MIN, LOG_STD_MAX = -5.0, 2.0

_kernel_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def _layer(x: Array, width: int) -> Array:
    x = nn.Dense(width, kernel_init=_kernel_init)(x)
    return nn.swish(nn.LayerNorm()(x))


def _trunk(x: Array, depth: int, width: int) -> Array:
    """[B, inputs] -> [B, W]: one input layer, then residual blocks of four; called within a module."""
    x = _layer(x, width)
    for _ in range(depth // BLOCK_DEPTH):
        skip = x
        for _ in range(BLOCK_DEPTH):
            x = _layer(x, width)
        x = x + skip
    return x


class Encoder(nn.Module):
    """[B, inputs] -> [B, R]."""

    depth: int
    width: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = _trunk(x, self.depth, self.width)
        return nn.Dense(REPRESENTATION, kernel_init=_kernel_init)(x)


class Actor(nn.Module):
    """[B, S + G] -> mean and log standard deviation [B, A] of the action before tanh."""

    depth: int
    width: int
    actions: int

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        x = _trunk(x, self.depth, self.width)
        mean = nn.Dense(self.actions, kernel_init=_kernel_init, name="mean")(x)
        spread = jnp.tanh(nn.Dense(self.actions, kernel_init=_kernel_init, name="log_std")(x))
        return mean, LOG_STD_MIN + 0.5 * (LOG_STD_MAX - LOG_STD_MIN) * (spread + 1)


class Learned(NamedTuple):
    """Parameters and the Adam that moves them."""

    params: Tree
    optimiser: Any


class State(NamedTuple):
    """`critic` holds both encoders' parameters by name; `entropy` the logarithm of the weight."""

    actor: Learned
    critic: Learned
    entropy: Learned


Update = Callable[[State, Batch, Array], tuple[State, dict[str, Array]]]


def make(sizes: tuple[int, int, int], depth: int, width: int) -> tuple[Callable[[Array], State], Update]:
    """`init(key)` and `update(state, batch, key)`, both pure, for `sizes` of observation, action, goal."""
    observation, action, goal = sizes
    actor, encoder = Actor(depth, width, action), Encoder(depth, width)
    adam = optax.adam(RATE)

    def fresh(params: Tree) -> Learned:
        return Learned(params, adam.init(params))

    def init(key: Array) -> State:
        actor_key, state_action_key, goal_key = jax.random.split(key, 3)
        critic = {
            "state_action": encoder.init(state_action_key, jnp.zeros((1, observation + action))),
            "goal": encoder.init(goal_key, jnp.zeros((1, goal))),
        }
        policy = actor.init(actor_key, jnp.zeros((1, observation + goal)))
        return State(fresh(policy), fresh(critic), fresh(jnp.zeros(())))

    def descend(learned: Learned, gradient: Tree) -> Learned:
        change, optimiser = adam.update(gradient, learned.optimiser, learned.params)
        return Learned(optax.apply_updates(learned.params, change), optimiser)

    def update(state: State, batch: Batch, key: Array) -> tuple[State, dict[str, Array]]:
        actor_gradient = jax.value_and_grad(partial(actor_loss, actor, encoder), has_aux=True)
        (actor_value, log_probability), gradient = actor_gradient(
            state.actor.params, state.critic.params, state.entropy.params, batch, key
        )
        new_actor = descend(state.actor, gradient)

        entropy_gradient = jax.value_and_grad(entropy_weight_loss)
        entropy_value, gradient = entropy_gradient(state.entropy.params, log_probability, action)
        new_entropy = descend(state.entropy, gradient)

        critic_gradient = jax.value_and_grad(partial(critic_loss, encoder), has_aux=True)
        (critic_value, accuracy), gradient = critic_gradient(state.critic.params, batch)
        new_critic = descend(state.critic, gradient)

        metrics = {
            "actor_loss": actor_value,
            "entropy": -log_probability.mean(),
            "entropy_weight": jnp.exp(state.entropy.params),
            "entropy_weight_loss": entropy_value,
            "critic_loss": critic_value,
            "critic_accuracy": accuracy,
        }
        return State(new_actor, new_critic, new_entropy), metrics

    return init, update


def actor_loss(
    actor: Actor, encoder: Encoder, params: Tree, critic: Tree, log_weight: Array, batch: Batch, key: Array
) -> tuple[Array, Array]:
    """Mean distance to the goal with an entropy bonus, and the log-probabilities [B]."""
    mean, log_std = actor.apply(params, jnp.concatenate([batch.observation, batch.goal], axis=-1))
    std = jnp.exp(log_std)
    before = mean + std * jax.random.normal(key, mean.shape)
    action = jnp.tanh(before)
    log_probability = jax.scipy.stats.norm.logpdf(before, mean, std) - jnp.log(1 - action**2 + 1e-6)
    log_probability = log_probability.sum(-1)
    state_action = jnp.concatenate([batch.observation, action], axis=-1)
    state_action_features = encoder.apply(critic["state_action"], state_action)
    goal_features = encoder.apply(critic["goal"], batch.goal)
    distance = jnp.sqrt(((state_action_features - goal_features) ** 2).sum(-1))
    return (distance + jnp.exp(log_weight) * log_probability).mean(), log_probability


def entropy_weight_loss(log_weight: Array, log_probability: Array, actions: int) -> Array:
    """Moves the weight until the entropy meets its target; log-probabilities are [B]."""
    excess = jax.lax.stop_gradient(-log_probability - TARGET_ENTROPY * actions)
    return (jnp.exp(log_weight) * excess).mean()


def critic_loss(encoder: Encoder, critic: Tree, batch: Batch) -> tuple[Array, Array]:
    """Mean InfoNCE with the log-partition penalty, and the share of goals retrieved."""
    state_action = jnp.concatenate([batch.observation, batch.action], axis=-1)
    state_action_features = encoder.apply(critic["state_action"], state_action)
    goal_features = encoder.apply(critic["goal"], batch.goal)
    difference = state_action_features[:, None, :] - goal_features[None, :, :]
    logits = -jnp.sqrt((difference**2).sum(-1))
    log_partition = jax.nn.logsumexp(logits, axis=1)
    loss = (log_partition - jnp.diagonal(logits)).mean() + PENALTY * (log_partition**2).mean()
    return loss, (logits.argmax(axis=1) == jnp.arange(len(logits))).mean()
