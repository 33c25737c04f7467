"""Residual networks of any depth: parameters stacked over blocks and applied by a scan.

Depth counts the hidden Dense layers in residual blocks of four (Dense, LayerNorm, swish),
between one input and one output layer (arXiv:2503.14858, section 4 and appendix).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from teacher.blocks import NORM_EPSILON, Blocks, Settings, residual_stacks
from teacher.config import BLOCK_DEPTH, NetworkConfig, Precision
from teacher.errors import UsageError

Array = jax.Array
Tree = Any  # nested arrays

BASE_BLOCKS = 4  # residual blocks up to which `scaled` is the published network
LOG_STD_MIN, LOG_STD_MAX = -5.0, 2.0
# The first and the last layer cost nothing beside the hidden ones and lose nothing either.
_EXACT = jax.lax.Precision.HIGHEST

# The published initialisation: uniform, variance 1 / (3 fan_in).
_kernel_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
_stacked_kernel_init = nn.initializers.variance_scaling(
    1 / 3, "fan_in", "uniform", in_axis=-2, out_axis=-1, batch_axis=(0, 1)
)


def residual_scale(architecture: str, depth: int) -> float:
    """Returns what each block's branch is multiplied with before it is added to the stream.

    `scaled` is the base-depth rule of arXiv:2505.01618 (alpha = 1), under which Adam's learning rate does not
    change with depth; with BASE_BLOCKS = 4, networks of up to 16 layers are the published ones."""
    return min(1.0, BASE_BLOCKS * BLOCK_DEPTH / depth) if architecture == "scaled" else 1.0


def is_batched() -> bool:
    """Returns whether the default device wants `Settings.batched`: all but a CPU do."""
    return jax.default_backend() != "cpu"


def has_fused_kernels(devices: Sequence[jax.Device]) -> bool:
    """Returns whether the fused kernels are for all of these devices."""
    return all("H100" in device.device_kind or "H200" in device.device_kind for device in devices)


def require_fused(config: NetworkConfig, batch: int, devices: Sequence[jax.Device]) -> None:
    """Raises UsageError if the fused kernels are asked for and cannot take `batch` rows on each device."""
    if not config.fused:
        return
    from teacher.kernels import fused  # slow to import, and most runs do without

    if not has_fused_kernels(devices):
        kinds = ", ".join(sorted({device.device_kind for device in devices}))
        raise UsageError(f"network.fused: found {kinds}; the kernels are for H100 and H200")
    for width in config.widths:
        if not fused.supports(width, batch):
            raise UsageError(
                f"network.fused: found width {width} and a batch of {batch} on each device; {fused.TAKES}"
            )


class ResidualNetwork(nn.Module):
    """[B, inputs] -> [B, outputs].

    `published` adds every block's branch whole; `scaled` does so up to BASE_BLOCKS blocks, and from there on
    adds BASE_BLOCKS/blocks of each, so that the sum of all branches keeps its size.
    """

    depth: int
    width: int
    outputs: int
    architecture: str
    precision: Precision
    fused: bool = False

    def setup(self) -> None:
        shape = (self.depth // BLOCK_DEPTH, BLOCK_DEPTH, self.width)
        self.blocks = Blocks(
            self.param("kernel", _stacked_kernel_init, (*shape, self.width)),
            self.param("bias", nn.initializers.zeros, shape),
            self.param("norm_scale", nn.initializers.ones, shape),
            self.param("norm_bias", nn.initializers.zeros, shape),
        )
        self.input = nn.Dense(self.width, kernel_init=_kernel_init, precision=_EXACT)
        self.input_norm = nn.LayerNorm(epsilon=NORM_EPSILON)
        self.output = nn.Dense(self.outputs, kernel_init=_kernel_init, precision=_EXACT)

    @property
    def settings(self) -> Settings:
        return Settings(residual_scale(self.architecture, self.depth), self.precision, is_batched())

    def __call__(self, x: Array) -> Array:
        return self.leave(run_blocks((self.enter(x),), (self.blocks,), self.settings, self.fused)[0])

    def enter(self, x: Array) -> Array:
        """Computes what the first block is given: [B, inputs] -> [B, W]."""
        return nn.swish(self.input_norm(self.input(x)))

    def leave(self, x: Array) -> Array:
        """Computes the outputs from what the last block gave: [B, W] -> [B, outputs]."""
        return self.output(x)


class Networks(NamedTuple):
    """The actor, and the critic's two encoders of state-action and goal."""

    actor: ResidualNetwork
    state_action: ResidualNetwork
    goal: ResidualNetwork


class Params(NamedTuple):
    """Everything that is learned; `log_temperature` is a scalar."""

    actor: Tree
    state_action: Tree
    goal: Tree
    log_temperature: Array


def make_networks(config: NetworkConfig, action_size: int) -> Networks:
    def network(depth: int, width: int, outputs: int) -> ResidualNetwork:
        return ResidualNetwork(depth, width, outputs, config.architecture, config.precision, config.fused)

    actor, critic = zip(config.depths, config.widths, strict=True)
    return Networks(
        actor=network(*actor, 2 * action_size),
        state_action=network(*critic, config.repr_dim),
        goal=network(*critic, config.repr_dim),
    )


def init_params(networks: Networks, key: Array, sizes: tuple[int, int, int]) -> Params:
    """Initialises parameters; `sizes` are those of observation, action and goal."""
    observation, action, goal = sizes
    actor_key, state_action_key, goal_key = jax.random.split(key, 3)
    return Params(
        actor=networks.actor.init(actor_key, jnp.zeros((1, observation + goal))),
        state_action=networks.state_action.init(state_action_key, jnp.zeros((1, observation + action))),
        goal=networks.goal.init(goal_key, jnp.zeros((1, goal))),
        log_temperature=jnp.zeros(()),
    )


def action_distribution(
    networks: Networks, params: Tree, observation: Array, goal: Array
) -> tuple[Array, Array]:
    """Computes mean and log standard deviation [B, A] of the action before tanh, at [B, S], [B, G]."""
    return _mean_and_log_std(_apply(networks.actor, params, _pair(observation, goal)))


def deterministic_action(networks: Networks, params: Tree, observation: Array, goal: Array) -> Array:
    """Computes tanh of the mean action, [B, S], [B, G] -> [B, A]."""
    return jnp.tanh(action_distribution(networks, params, observation, goal)[0])


def embed_state_action(networks: Networks, params: Tree, observation: Array, action: Array) -> Array:
    """Embeds states with actions, [B, S], [B, A] -> [B, R]."""
    return _apply(networks.state_action, params, _pair(observation, action))


def embed_goal(networks: Networks, params: Tree, goal: Array) -> Array:
    """Embeds goals, [B, G] -> [B, R]."""
    return _apply(networks.goal, params, goal)


def act_and_embed_goal(
    networks: Networks, params: Params, observation: Array, goal: Array
) -> tuple[Array, Array, Array]:
    """Computes `action_distribution` and `embed_goal` in one forward pass, over blocks of equal shapes.

    Args: [B, S], [B, G]. Returns: mean [B, A], log standard deviation [B, A], embedding [B, R]."""
    actor, encoder = networks.actor, networks.goal
    if (actor.depth, actor.width) != (encoder.depth, encoder.width):
        mean, log_std = action_distribution(networks, params.actor, observation, goal)
        return mean, log_std, embed_goal(networks, params.goal, goal)
    members = (actor, params.actor), (encoder, params.goal)
    entered = tuple(
        _apply(network, tree, x, "enter")
        for (network, tree), x in zip(members, (_pair(observation, goal), goal), strict=True)
    )
    left = run_blocks(entered, tuple(_blocks(tree) for _, tree in members), actor.settings, actor.fused)
    outputs, embedding = (
        _apply(network, tree, x, "leave") for (network, tree), x in zip(members, left, strict=True)
    )
    return *_mean_and_log_std(outputs), embedding


def embed_both_actions(
    networks: Networks, params: Tree, observation: Array, data: Array, policy: Array
) -> tuple[Array, Array]:
    """Embeds each state with two actions, in one pass over the weights of a deep network, or side by side.

    Args: [B, S], [B, A], [B, A]; the parameters learn from `data` alone and are constants for
    `policy`, whose derivative is that of the action.
    Returns: [B, R] each."""
    network, fixed, count = networks.state_action, jax.lax.stop_gradient(params), len(data)
    entered = (
        _apply(network, params, _pair(observation, data), "enter"),
        _apply(network, fixed, _pair(observation, policy), "enter"),
    )
    if network.settings.batched or network.fused:
        settings = network.settings._replace(weight_grad_rows=count)
        (both,) = run_blocks((jnp.concatenate(entered),), (_blocks(params),), settings, network.fused)
        of_data, of_policy = both[:count], both[count:]
    else:
        of_data, of_policy = run_blocks(entered, (_blocks(params), _blocks(fixed)), network.settings)
    return _apply(network, params, of_data, "leave"), _apply(network, fixed, of_policy, "leave")


def run_blocks(
    inputs: tuple[Array, ...], blocks: tuple[Blocks, ...], settings: Settings, fused: bool = False
) -> tuple[Array, ...]:
    """Applies the blocks of several networks of equal shape, [B, W] each: here alone a backend is chosen."""

    if fused:
        from teacher.kernels.fused import fused_stacks, supports

        if supports(width=inputs[0].shape[1], batch=len(inputs[0])):
            return tuple(fused_stacks(jnp.stack(inputs), blocks, settings))
    return residual_stacks(inputs, blocks, settings)


def _mean_and_log_std(outputs: Array) -> tuple[Array, Array]:
    mean, spread = jnp.split(outputs, 2, axis=-1)
    return mean, LOG_STD_MIN + 0.5 * (LOG_STD_MAX - LOG_STD_MIN) * (jnp.tanh(spread) + 1)


def _pair(a: Array, b: Array) -> Array:
    return jnp.concatenate([a, b], axis=-1)


def _blocks(params: Tree) -> Blocks:
    return Blocks(*(params["params"][name] for name in Blocks._fields))


def _apply(network: nn.Module, params: Tree, x: Array, method: str = "__call__") -> Array:
    # flax's type also covers networks with mutable state, which these have not.
    return cast(Array, network.apply(params, x, method=method))
