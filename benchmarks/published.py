"""The published update of contrastive RL with deep networks, to measure against.

Written from the description in arXiv:2503.14858 (section 4, appendix and table 7), in the form that
its programs have: layers unrolled in Python, actor, temperature and critic updated one after the
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
from flax.training.train_state import TrainState

from teacher.config import BLOCK_DEPTH
from teacher.replay import Batch

Array = jax.Array
Tree = Any  # nested arrays

REPRESENTATION = 64
RATE = 3e-4
PENALTY = 0.1
TARGET_ENTROPY = -0.5  # per action dimension
LOG_STD_MIN, LOG_STD_MAX = -5.0, 2.0

_dense = partial(nn.Dense, kernel_init=nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"))


def _trunk(x: Array, depth: int, width: int) -> Array:
    """[B, inputs] -> [B, W]: one input layer, then residual blocks of four; called within a module."""

    def layer(x: Array) -> Array:
        return nn.swish(nn.LayerNorm()(_dense(width)(x)))

    x = layer(x)
    for _ in range(depth // BLOCK_DEPTH):
        skip = x
        for _ in range(BLOCK_DEPTH):
            x = layer(x)
        x = x + skip
    return x


class Encoder(nn.Module):
    """[B, inputs] -> [B, R]."""

    depth: int
    width: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return _dense(REPRESENTATION)(_trunk(x, self.depth, self.width))


class Actor(nn.Module):
    """[B, S + G] -> mean and log standard deviation [B, A] of the action before tanh."""

    depth: int
    width: int
    actions: int

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        x = _trunk(x, self.depth, self.width)
        mean, spread = _dense(self.actions, name="mean")(x), jnp.tanh(_dense(self.actions, name="log_std")(x))
        return mean, LOG_STD_MIN + 0.5 * (LOG_STD_MAX - LOG_STD_MIN) * (spread + 1)


class State(NamedTuple):
    """Parameters and Adam of each; `critic` has both encoders by name, `temperature` its logarithm."""

    actor: TrainState
    critic: TrainState
    temperature: TrainState


Update = Callable[[State, Batch, Array], tuple[State, dict[str, Array]]]


def make(sizes: tuple[int, int, int], depth: int, width: int) -> tuple[Callable[[Array], State], Update]:
    """Returns `init(key)` and `update(state, batch, key)`, pure, for `sizes` of observation, action, goal."""
    observation, action, goal = sizes
    actor, encoder = Actor(depth, width, action), Encoder(depth, width)

    def init(key: Array) -> State:
        actor_key, state_action_key, goal_key = jax.random.split(key, 3)
        critic = {
            "state_action": encoder.init(state_action_key, jnp.zeros((1, observation + action))),
            "goal": encoder.init(goal_key, jnp.zeros((1, goal))),
        }
        policy = actor.init(actor_key, jnp.zeros((1, observation + goal)))
        trees = policy, critic, {"log": jnp.zeros(())}
        adam = optax.adam(RATE)
        return State(*(TrainState.create(apply_fn=None, params=p, tx=adam) for p in trees))

    def update(state: State, batch: Batch, key: Array) -> tuple[State, dict[str, Array]]:
        (actor_value, log_probability), of_actor = jax.value_and_grad(
            partial(actor_loss, actor, encoder), has_aux=True
        )(state.actor.params, state.critic.params, state.temperature.params["log"], batch, key)
        temperature_value, of_temperature = jax.value_and_grad(temperature_loss)(
            state.temperature.params, log_probability, action
        )
        (critic_value, accuracy), of_critic = jax.value_and_grad(partial(critic_loss, encoder), has_aux=True)(
            state.critic.params, batch
        )
        gradients = State(of_actor, of_critic, of_temperature)
        metrics = {
            "actor_loss": actor_value,
            "entropy": -log_probability.mean(),
            "temperature": jnp.exp(state.temperature.params["log"]),
            "temperature_loss": temperature_value,
            "critic_loss": critic_value,
            "critic_accuracy": accuracy,
        }
        return State(*(s.apply_gradients(grads=g) for s, g in zip(state, gradients, strict=True))), metrics

    return init, update


def actor_loss(
    actor: Actor,
    encoder: Encoder,
    params: Tree,
    critic: Tree,
    log_temperature: Array,
    batch: Batch,
    key: Array,
) -> tuple[Array, Array]:
    """Computes the mean distance to the goal with an entropy bonus, and the log-probabilities [B]."""
    mean, log_std = actor.apply(params, jnp.concatenate([batch.observation, batch.goal], axis=-1))
    std = jnp.exp(log_std)
    before = mean + std * jax.random.normal(key, mean.shape)
    action = jnp.tanh(before)
    log_probability = jax.scipy.stats.norm.logpdf(before, mean, std) - jnp.log(1 - action**2 + 1e-6)
    log_probability = log_probability.sum(-1)
    pair = encoder.apply(critic["state_action"], jnp.concatenate([batch.observation, action], axis=-1))
    distance = jnp.sqrt(((pair - encoder.apply(critic["goal"], batch.goal)) ** 2).sum(-1))
    return (distance + jnp.exp(log_temperature) * log_probability).mean(), log_probability


def temperature_loss(temperature: Tree, log_probability: Array, actions: int) -> Array:
    """Computes the loss that moves the temperature until the entropy meets its target; [B] -> scalar."""
    excess = jax.lax.stop_gradient(-log_probability - TARGET_ENTROPY * actions)
    return (jnp.exp(temperature["log"]) * excess).mean()


def critic_loss(encoder: Encoder, critic: Tree, batch: Batch) -> tuple[Array, Array]:
    """Computes mean InfoNCE with the log-partition penalty, and the share of goals retrieved."""
    pair = encoder.apply(critic["state_action"], jnp.concatenate([batch.observation, batch.action], axis=-1))
    difference = pair[:, None, :] - encoder.apply(critic["goal"], batch.goal)[None, :, :]
    logits = -jnp.sqrt((difference**2).sum(-1))
    log_partition = jax.nn.logsumexp(logits, axis=1)
    loss = (log_partition - jnp.diagonal(logits)).mean() + PENALTY * (log_partition**2).mean()
    return loss, (logits.argmax(axis=1) == jnp.arange(len(logits))).mean()
