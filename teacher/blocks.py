"""The residual stack, where nearly all of an update's time goes: a scan over stacked blocks.

A layer takes h to y * sigmoid(y), with z = h W + b, n = (z - mean) * inv_std and y = n * scale + bias; four
layers of x are a block's branch, and a block gives x + residual_scale * branch.

The derivative is written by hand. The forward pass keeps each block's input and, of each layer, what
LayerNorm gave or was given; the backward pass recomputes the rest from them, and nothing else is stored.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from teacher.config import BLOCK_DEPTH, Precision

Array = jax.Array

NORM_EPSILON = 1e-6
# Where kernels count: blocks in a step of a scan, which has kernels of its own; and blocks whose weight
# gradients are computed together, more of which would need more memory.
BLOCKS_A_STEP, BLOCKS_AT_ONCE = 8, 32


class Blocks(NamedTuple):
    """Parameters of all residual blocks: K blocks of four layers, width W."""

    kernel: Array  # [K, 4, W, W]
    bias: Array  # [K, 4, W]
    norm_scale: Array  # [K, 4, W]
    norm_bias: Array  # [K, 4, W]


class Settings(NamedTuple):
    """What is computed, beside the parameters."""

    residual_scale: float
    precision: Precision
    batched: bool
    """few large operations, for a GPU: many blocks' weight gradients in one product after the backward pass.

    A GPU waits for the number of kernels: LayerNorm and swish are one, in both passes, as long as they have
    one result. So what LayerNorm was given is kept, and normalised again. On a CPU that costs more than to
    keep what it gave, a block's gradients are cheapest while its activations are at hand, and a product
    with ones is faster than a sum. Results differ by rounding alone."""
    weight_grad_rows: int | None = None
    """if batched: weights learn from this many first rows; the others' derivative is that of their input
    alone"""


class Normalised(NamedTuple):
    """What LayerNorm gave: rows of mean 0 and variance 1, and 1 / the deviation that they had."""

    rows: Array  # [..., B, W]
    inv_std: Array  # [..., B, 1]


Kept = Array | Normalised
"""What the forward pass keeps of layers: what LayerNorm was given [..., B, W], or what it gave."""


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def residual_stacks(
    inputs: tuple[Array, ...], blocks: tuple[Blocks, ...], settings: Settings
) -> tuple[Array, ...]:
    """Applies all blocks of several networks of equal shape, each to its own input: [B, W] float32 -> [B, W].

    Compile time does not grow with depth. The networks go through one scan: a GPU computes them in the same
    kernels, and a CPU's cores have as many chains of products that do not wait for each other."""
    return _forward(inputs, blocks, settings)[0]


def _forward(
    inputs: tuple[Array, ...], blocks: tuple[Blocks, ...], settings: Settings
) -> tuple[tuple[Array, ...], Any]:
    step = _forward_together if settings.batched else _forward_each
    out, kept = _scan(step, _carried(inputs, settings), _rounded(blocks, settings), settings)
    return tuple(out), (blocks, kept)


def _backward(
    settings: Settings, saved: Any, cotangents: tuple[Array, ...]
) -> tuple[tuple[Array, ...], tuple[Blocks, ...]]:
    blocks, kept = saved
    step = _backward_together if settings.batched else _backward_each
    of_blocks = _rounded(blocks, settings), kept
    below, found = _scan(step, _carried(cotangents, settings), of_blocks, settings, reverse=True)
    if settings.batched:
        gradients = partial(_gradients_of_networks, settings=settings)
        found = jax.lax.map(lambda each: gradients(*each), (*of_blocks, found), batch_size=BLOCKS_AT_ONCE)
        # Before anything else goes on: what was kept can then be forgotten.
        below, found = jax.lax.optimization_barrier((below, found))
    return tuple(below), found


residual_stacks.defvjp(_forward, _backward)


def _carried(rows: tuple[Array, ...], settings: Settings) -> Any:
    return jnp.stack(rows) if settings.batched else rows


def _scan(step: Callable, carry: Any, xs: Any, settings: Settings, **how: bool) -> Any:
    unroll = BLOCKS_A_STEP if settings.batched else 1
    return jax.lax.scan(partial(step, settings=settings), carry, xs, unroll=unroll, **how)


def _forward_each(
    inputs: tuple[Array, ...], blocks: tuple[Blocks, ...], settings: Settings
) -> tuple[tuple[Array, ...], tuple[Any, ...]]:
    """Applies one block of each network, [B, W] each; keeps what the block and its layers were given."""
    found = [_block(x, block, settings) for x, block in zip(inputs, blocks, strict=True)]
    kept = ((_operand(x, settings), layers) for x, (_, layers) in zip(inputs, found, strict=True))
    return tuple(out for out, _ in found), tuple(kept)


def _forward_together(x: Array, blocks: tuple[Blocks, ...], settings: Settings) -> tuple[Array, Array]:
    """Applies one block of each network: [G, B, W] -> [G, B, W]; what is kept is one array, [5, G, B, W].

    Parameters are put side by side when their turn comes: a copy of all would be held until the gradients
    are there. Layers come before networks: else XLA would turn all of it around for the backward pass."""
    layers: Any
    out, layers = jax.vmap(partial(_block, settings=settings), (0, 0), (0, 1))(x, _stack(blocks))
    return out, jnp.concatenate([_operand(x, settings)[None], layers])


def _backward_each(
    cotangents: tuple[Array, ...], of_block: tuple[Any, Any], settings: Settings
) -> tuple[tuple[Array, ...], tuple[Blocks, ...]]:
    below, gradients = [], []
    for cotangent, block, (block_input, layers) in zip(cotangents, *of_block, strict=True):
        under, of_layers = _block_backward(cotangent, block, layers, settings)
        below.append(under)
        gradients.append(block_gradients(block, block_input, layers, of_layers, settings))
    return tuple(below), tuple(gradients)


def _backward_together(
    cotangent: Array, of_block: tuple[Any, Array], settings: Settings
) -> tuple[Array, Array]:
    blocks, kept = of_block
    backward = jax.vmap(partial(_block_backward, settings=settings), (0, 0, 1), (0, 1))
    below, of_layers = backward(cotangent, _stack(blocks), kept[1:])
    return below, of_layers


def _gradients_of_networks(
    blocks: tuple[Blocks, ...], kept: Array, cotangents: Array, settings: Settings
) -> tuple[Blocks, ...]:
    return tuple(
        gradients_together(block, kept[0, network], kept[1:, network], cotangents[:, network], settings)
        for network, block in enumerate(blocks)
    )


def _block(x: Array, block: Blocks, settings: Settings) -> tuple[Array, Kept]:
    """Applies one block: [B, W] -> [B, W]."""
    branch, layers = x, []
    for layer in range(BLOCK_DEPTH):
        z = matmul(branch, block.kernel[layer], settings.precision) + block.bias[layer]
        normalised, inv_std = normalise(z)
        given = Normalised(_operand(normalised, settings), inv_std)
        layers.append(_operand(z, settings) if settings.batched else given)
        branch = jax.nn.swish(normalised * block.norm_scale[layer] + block.norm_bias[layer])
    return x + settings.residual_scale * branch, _stack(layers)


def _block_backward(cotangent: Array, block: Blocks, layers: Kept, settings: Settings) -> tuple[Array, Array]:
    """Computes the cotangent [B, W] below a block, and those of its layers' outputs [4, rows, W], of the
    rows that weights learn from."""
    below, cotangents = settings.residual_scale * cotangent, []
    for layer in reversed(range(BLOCK_DEPTH)):
        cotangents.append(_operand(below[: settings.weight_grad_rows], settings))
        *_, dz = _layer_backward(below, *_layer(block, layers, layer), settings)
        below = matmul(dz, block.kernel[layer].T, settings.precision)
    return cotangent + below, jnp.stack(cotangents[::-1])


def block_gradients(
    block: Blocks, block_input: Array, layers: Kept, cotangents: Array, settings: Settings
) -> Blocks:
    """Computes the gradients of one block's parameters, layer by layer.

    Args: block_input: [B, W]; cotangents: [4, B, W], of the layers' outputs, after swish."""
    below, gradients = block_input, []
    for layer in range(BLOCK_DEPTH):
        of_layer, below = _layer_gradients(below, cotangents[layer], *_layer(block, layers, layer), settings)
        gradients.append(of_layer)
    gradient: Blocks = _stack(gradients)
    return gradient


def gradients_together(
    block: Blocks, block_input: Array, layers: Kept, cotangents: Array, settings: Settings
) -> Blocks:
    """Computes what `block_gradients` does, of all layers at once, from the rows that weights learn from."""
    rows = slice(settings.weight_grad_rows)
    block_input, layers = block_input[rows], jax.tree.map(lambda leaf: leaf[:, rows], layers)
    normalised, _ = _normalised(layers)
    outputs = jax.nn.swish(normalised * block.norm_scale[:, None] + block.norm_bias[:, None])
    below = jnp.concatenate([block_input[None].astype(jnp.float32), outputs[:-1]])
    of_layers = below, cotangents, layers, block.norm_scale, block.norm_bias
    gradient: Blocks = jax.vmap(partial(_layer_gradients, settings=settings))(*of_layers)[0]
    return gradient


def _layer(block: Blocks, layers: Kept, layer: int) -> tuple[Kept, Array, Array]:
    """Returns what was kept of a layer, and its scale and bias after LayerNorm."""
    return jax.tree.map(lambda leaf: leaf[layer], layers), block.norm_scale[layer], block.norm_bias[layer]


def _layer_gradients(
    below: Array, cotangent: Array, kept: Kept, scale: Array, bias: Array, settings: Settings
) -> tuple[Blocks, Array]:
    """Computes the gradients of a layer's parameters, and its output [rows, W] again.

    Args: below: [rows, W], what the layer was given; cotangent: [rows, W], of its output."""
    output, dy, dz = _layer_backward(cotangent.astype(jnp.float32), kept, scale, bias, settings)
    normalised, _ = _normalised(kept)
    kernel = matmul(below.T, dz, settings.precision)
    vectors = (_sum_over_rows(leaf, settings) for leaf in (dz, dy * normalised, dy))
    return Blocks(kernel, *vectors), output


def _layer_backward(
    cotangent: Array, kept: Kept, scale: Array, bias: Array, settings: Settings
) -> tuple[Array, Array, Array]:
    """Returns a layer's output [B, W] again, and the cotangents of what swish and LayerNorm were given."""
    normalised, inv_std = _normalised(kept)
    y = normalised * scale + bias
    gate = jax.nn.sigmoid(y)
    output = y * gate
    dy = cotangent * (gate + output * (1 - gate))
    shift = _weighted_sum(dy, scale, settings) / len(scale)
    tilt = _weighted_sum(dy * normalised, scale, settings) / len(scale)
    return output, dy, inv_std * (dy * scale - shift - normalised * tilt)


def _normalised(kept: Kept) -> Normalised:
    """Returns what LayerNorm gave, in float32: kept, or computed from what it was given."""
    if isinstance(kept, Normalised):
        return kept._replace(rows=kept.rows.astype(jnp.float32))
    return normalise(kept.astype(jnp.float32))


def matmul(a: Array, b: Array, precision: Precision) -> Array:
    """Multiplies [..., M, K] @ [..., K, N] -> float32 [..., M, N], with operands as `precision` says."""
    if precision == "bfloat16":
        a, b = a.astype(jnp.bfloat16), b.astype(jnp.bfloat16)
        return jnp.matmul(a, b, preferred_element_type=jnp.float32)
    exact = precision == "float32"
    # HIGH is TensorFloat-32 where the hardware has it, and float32 elsewhere.
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST if exact else jax.lax.Precision.HIGH)


def normalise(z: Array) -> Normalised:
    """Normalises rows [..., W] to mean 0 and variance 1."""
    centred = z - z.mean(-1, keepdims=True)
    inv_std = jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + NORM_EPSILON)
    return Normalised(centred * inv_std, inv_std)


def _weighted_sum(rows: Array, weights: Array, settings: Settings) -> Array:
    """Sums each row, weighted: [B, W], [W] -> [B, 1]."""
    if settings.batched:
        return (rows * weights).sum(-1, keepdims=True)
    return jnp.matmul(rows, weights[:, None], precision=jax.lax.Precision.HIGHEST)


def _sum_over_rows(rows: Array, settings: Settings) -> Array:
    """Sums over the rows: [B, W] -> [W]."""
    if settings.batched:
        return rows.sum(0)
    return jnp.matmul(jnp.ones((1, len(rows))), rows, precision=jax.lax.Precision.HIGHEST)[0]


def _stack(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def centred(blocks: Blocks) -> Blocks:
    """Takes off the weights what LayerNorm takes off their products, the mean over a layer's outputs.

    No result changes. But what LayerNorm is given can then be kept in bfloat16: beside a large mean, little
    would be left of the rest. Gradients need no centring, since LayerNorm's own have no mean."""
    kernel, bias = blocks.kernel, blocks.bias
    return blocks._replace(
        kernel=kernel - kernel.mean(-1, keepdims=True), bias=bias - bias.mean(-1, keepdims=True)
    )


def _rounded(blocks: tuple[Blocks, ...], settings: Settings) -> tuple[Blocks, ...]:
    """Rounds the weights once for all layers, not layer by layer."""
    if settings.batched and settings.precision == "bfloat16":
        blocks = tuple(map(centred, blocks))
    return tuple(each._replace(kernel=_operand(each.kernel, settings)) for each in blocks)


def _operand(x: Array, settings: Settings) -> Array:
    """Rounds to what a product takes, which is all that is needed of it later."""
    return x.astype(jnp.bfloat16) if settings.precision == "bfloat16" else x
