"""Residual networks of any depth: parameters stacked over blocks and applied by a scan.

Depth counts the hidden Dense layers in residual blocks of four (Dense, LayerNorm, swish),
between one input and one output layer (arXiv:2503.14858, section 4 and appendix).
"""

from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from teacher.config import BLOCK_DEPTH, NetworkConfig

Array = jax.Array
Tree = Any  # nested arrays

LOG_STD_MIN, LOG_STD_MAX = -5.0, 2.0
NORM_EPSILON = 1e-6

# The published initialisation: uniform, variance 1 / (3 fan_in).
_kernel_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
_stacked_kernel_init = nn.initializers.variance_scaling(
    1 / 3, "fan_in", "uniform", in_axis=-2, out_axis=-1, batch_axis=(0, 1)
)


class Blocks(NamedTuple):
    """Parameters of all residual blocks: K blocks of four layers, width W."""

    kernel: Array  # [K, 4, W, W]
    bias: Array  # [K, 4, W]
    norm_scale: Array  # [K, 4, W]
    norm_bias: Array  # [K, 4, W]


def layer_norm(x: Array, scale: Array, bias: Array) -> Array:
    """[..., W] normalised over its last axis."""
    centred = x - x.mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + NORM_EPSILON) * scale + bias


def residual_block(x: Array, block: Blocks, branch_scale: float) -> Array:
    """One block [B, W] -> [B, W]; `block` holds one slice [4, ...] of the stacked parameters."""
    branch = x
    for layer in range(BLOCK_DEPTH):
        branch = branch @ block.kernel[layer] + block.bias[layer]
        branch = nn.swish(layer_norm(branch, block.norm_scale[layer], block.norm_bias[layer]))
    return x + branch_scale * branch


def residual_stack(x: Array, blocks: Blocks, branch_scale: float) -> Array:
    """All blocks in turn, [B, W] -> [B, W]; compile time does not grow with their number."""
    return jax.lax.scan(lambda h, block: (residual_block(h, block, branch_scale), None), x, blocks)[0]


class ResidualNetwork(nn.Module):
    """[B, inputs] -> [B, outputs].

    `published` adds every block's branch whole, so that the stream grows with depth and
    drowns the input; `scaled` adds 1/blocks of each, which keeps both from changing with depth.
    """

    depth: int
    width: int
    outputs: int
    architecture: str

    @nn.compact
    def __call__(self, x: Array) -> Array:
        count = self.depth // BLOCK_DEPTH
        shape = (count, BLOCK_DEPTH, self.width)
        blocks = Blocks(
            self.param("kernel", _stacked_kernel_init, (*shape, self.width)),
            self.param("bias", nn.initializers.zeros, shape),
            self.param("norm_scale", nn.initializers.ones, shape),
            self.param("norm_bias", nn.initializers.zeros, shape),
        )
        x = nn.Dense(self.width, kernel_init=_kernel_init, name="input")(x)
        x = nn.swish(nn.LayerNorm(epsilon=NORM_EPSILON, name="input_norm")(x))
        x = residual_stack(x, blocks, 1 / count if self.architecture == "scaled" else 1.0)
        return nn.Dense(self.outputs, kernel_init=_kernel_init, name="output")(x)


class Networks(NamedTuple):
    """The actor, and the critic's two encoders of state-action and goal."""

    actor: ResidualNetwork
    state_action: ResidualNetwork
    goal: ResidualNetwork


class Params(NamedTuple):
    """Everything that is learned; `log_entropy_weight` is a scalar."""

    actor: Tree
    state_action: Tree
    goal: Tree
    log_entropy_weight: Array


def make_networks(config: NetworkConfig, action_size: int) -> Networks:
    def network(depth: int, outputs: int) -> ResidualNetwork:
        return ResidualNetwork(depth, config.width, outputs, config.architecture)

    actor_depth = config.actor_depth or config.depth
    critic_depth = config.critic_depth or config.depth
    return Networks(
        actor=network(actor_depth, 2 * action_size),
        state_action=network(critic_depth, config.representation),
        goal=network(critic_depth, config.representation),
    )


def init_params(networks: Networks, key: Array, sizes: tuple[int, int, int]) -> Params:
    """Fresh parameters; `sizes` are those of observation, action and goal."""
    observation, action, goal = sizes
    actor_key, state_action_key, goal_key = jax.random.split(key, 3)
    return Params(
        actor=networks.actor.init(actor_key, jnp.zeros((1, observation + goal))),
        state_action=networks.state_action.init(state_action_key, jnp.zeros((1, observation + action))),
        goal=networks.goal.init(goal_key, jnp.zeros((1, goal))),
        log_entropy_weight=jnp.zeros(()),
    )


def action_distribution(
    networks: Networks, params: Tree, observation: Array, goal: Array
) -> tuple[Array, Array]:
    """[B, S], [B, G] -> mean and log standard deviation [B, A] of the action before tanh."""
    outputs = _forward(networks.actor, params, jnp.concatenate([observation, goal], axis=-1))
    mean, spread = jnp.split(outputs, 2, axis=-1)
    log_std = LOG_STD_MIN + 0.5 * (LOG_STD_MAX - LOG_STD_MIN) * (jnp.tanh(spread) + 1)
    return mean, log_std


def deterministic_action(networks: Networks, params: Tree, observation: Array, goal: Array) -> Array:
    """[B, S], [B, G] -> tanh of the mean [B, A]."""
    return jnp.tanh(action_distribution(networks, params, observation, goal)[0])


def embed_state_action(networks: Networks, params: Tree, observation: Array, action: Array) -> Array:
    """[B, S], [B, A] -> [B, R]."""
    return _forward(networks.state_action, params, jnp.concatenate([observation, action], axis=-1))


def embed_goal(networks: Networks, params: Tree, goal: Array) -> Array:
    """[B, G] -> [B, R]."""
    return _forward(networks.goal, params, goal)


def _forward(network: ResidualNetwork, params: Tree, x: Array) -> Array:
    # flax's type also covers networks with mutable state, which these have not.
    return cast(Array, network.apply(params, x))
