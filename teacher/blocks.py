"""The residual stack, where nearly all of an update's time goes: a scan over stacked blocks.

Its derivative is written by hand. The forward pass keeps each block's input and each layer's
normalised pre-activation; the backward pass recomputes swish and its slope from them, and nothing
else is stored.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from teacher.config import BLOCK_DEPTH, Precision

Array = jax.Array

NORM_EPSILON = 1e-6


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
    """few large operations, for a GPU: all blocks' weight gradients in one product after the backward pass.

    A GPU waits for the number of kernels. On a CPU a block's gradients are cheapest while its activations
    are at hand, and a product with ones is faster than a sum. Results differ by rounding alone."""
    weight_grad_rows: int | None = None
    """weights learn from this many first rows; the others' derivative is that of their input alone"""


class Layers(NamedTuple):
    """What the forward pass keeps of one block's four layers."""

    normalised: Array  # [4, B, W]
    inv_std: Array  # [4, B, 1]


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def residual_stack(x: Array, blocks: Blocks, settings: Settings) -> Array:
    """Applies all blocks: [B, W] float32 -> [B, W] float32; compile time does not grow with depth."""

    def body(x: Array, block: Blocks) -> tuple[Array, None]:
        return _block(x, block, settings)[0], None

    return jax.lax.scan(body, x, _rounded(blocks, settings))[0]


def _forward(x: Array, blocks: Blocks, settings: Settings) -> tuple[Array, Any]:
    def body(x: Array, block: Blocks) -> tuple[Array, tuple[Array, Layers]]:
        out, layers = _block(x, block, settings)
        return out, (_operand(x, settings), layers)

    out, (inputs, layers) = jax.lax.scan(body, x, _rounded(blocks, settings))
    return out, (blocks, inputs, layers)


def _backward(settings: Settings, saved: Any, cotangent: Array) -> tuple[Array, Blocks]:
    blocks, inputs, layers = saved
    gradients = partial(block_gradients, settings=settings)

    def body(cotangent: Array, of_block: Any) -> tuple[Array, Any]:
        block, block_input, layers = of_block
        below, cotangents = _block_backward(cotangent, block, layers, settings)
        return below, cotangents if settings.batched else gradients(block, block_input, layers, cotangents)

    of_blocks = _rounded(blocks, settings), inputs, layers
    below, found = jax.lax.scan(body, cotangent, of_blocks, reverse=True)
    return below, jax.vmap(gradients)(*of_blocks, found) if settings.batched else found


residual_stack.defvjp(_forward, _backward)


def _block(x: Array, block: Blocks, settings: Settings) -> tuple[Array, Layers]:
    """Applies one block: [B, W] -> [B, W]."""
    branch, layers = x, []
    for layer in range(BLOCK_DEPTH):
        z = matmul(branch, block.kernel[layer], settings.precision) + block.bias[layer]
        normalised, inv_std = normalise(z)
        layers.append(Layers(_operand(normalised, settings), inv_std))
        branch = jax.nn.swish(normalised * block.norm_scale[layer] + block.norm_bias[layer])
    return x + settings.residual_scale * branch, _stack(layers)


def _block_backward(
    cotangent: Array, block: Blocks, layers: Layers, settings: Settings
) -> tuple[Array, Array]:
    """Computes the cotangent [B, W] below a block, and those of its layers' outputs [4, B, W]."""
    below, cotangents = settings.residual_scale * cotangent, []
    for layer in reversed(range(BLOCK_DEPTH)):
        cotangents.append(_operand(below, settings))
        _, _, dz = _layer_backward(below, block, layers, layer, settings)
        below = matmul(dz, block.kernel[layer].T, settings.precision)
    return cotangent + below, jnp.stack(cotangents[::-1])


def block_gradients(
    block: Blocks, block_input: Array, layers: Layers, cotangents: Array, settings: Settings
) -> Blocks:
    """Computes the gradients of one block's parameters.

    Args: block_input: [B, W]; cotangents: [4, B, W], of the layers' outputs, after swish."""
    rows = slice(settings.weight_grad_rows)
    below, cotangents = block_input[rows], cotangents[:, rows].astype(jnp.float32)
    layers = jax.tree.map(lambda leaf: leaf[:, rows], layers)
    gradients = []
    for layer in range(BLOCK_DEPTH):
        output, dy, dz = _layer_backward(cotangents[layer], block, layers, layer, settings)
        normalised = layers.normalised[layer].astype(jnp.float32)
        kernel = matmul(below.T, dz, settings.precision)
        vectors = (_sum_over_rows(leaf, settings) for leaf in (dz, dy * normalised, dy))
        gradients.append(Blocks(kernel, *vectors))
        below = output
    gradient: Blocks = _stack(gradients)
    return gradient


def _layer_backward(
    cotangent: Array, block: Blocks, layers: Layers, layer: int, settings: Settings
) -> tuple[Array, Array, Array]:
    """Returns a layer's output [B, W] again, and the cotangents of what swish and LayerNorm were given."""
    normalised, scale = layers.normalised[layer].astype(jnp.float32), block.norm_scale[layer]
    y = normalised * scale + block.norm_bias[layer]
    gate = jax.nn.sigmoid(y)
    output = y * gate
    dy = cotangent * (gate + output * (1 - gate))
    shift = _weighted_sum(dy, scale, settings) / len(scale)
    tilt = _weighted_sum(dy * normalised, scale, settings) / len(scale)
    return output, dy, layers.inv_std[layer] * (dy * scale - shift - normalised * tilt)


def matmul(a: Array, b: Array, precision: Precision) -> Array:
    """Multiplies [..., M, K] @ [..., K, N] -> float32 [..., M, N], with operands as `precision` says."""
    if precision == "bfloat16":
        a, b = a.astype(jnp.bfloat16), b.astype(jnp.bfloat16)
        return jnp.matmul(a, b, preferred_element_type=jnp.float32)
    exact = precision == "float32"
    # HIGH is TensorFloat-32 where the hardware has it, and float32 elsewhere.
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST if exact else jax.lax.Precision.HIGH)


def normalise(z: Array) -> tuple[Array, Array]:
    """Normalises rows [..., W] to mean 0 and variance 1; returns 1 / their deviation [..., 1] too."""
    centred = z - z.mean(-1, keepdims=True)
    inv_std = jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + NORM_EPSILON)
    return centred * inv_std, inv_std


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


def _stack(trees: list) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _rounded(blocks: Blocks, settings: Settings) -> Blocks:
    """Rounds the weights once for all layers, not layer by layer."""
    return blocks._replace(kernel=_operand(blocks.kernel, settings))


def _operand(x: Array, settings: Settings) -> Array:
    """Rounds to what a product takes, which is all that is needed of it later."""
    return x.astype(jnp.bfloat16) if settings.precision == "bfloat16" else x
