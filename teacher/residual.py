"""The residual stack, where nearly all of an update's time goes: a scan over stacked blocks.

Its derivative is written by hand. The walk forward keeps each block's input and each layer's
normalised pre-activation; the walk back recomputes swish and its slope from them, and nothing else
is stored. How the walks are laid out on a device never changes a result by more than rounding.
"""

from collections.abc import Callable
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


def merges() -> bool:
    """Whether walks over the default device are merged: several networks' products into one batched
    product, all weight gradients into another after the walk back, sums into what they are taken of.

    A GPU waits for the number of kernels. On a CPU a batched product is slower than its parts, a sum
    slower than a product with ones, and a block's gradients are cheapest while its activations are
    at hand."""
    return jax.default_backend() != "cpu"


class Settings(NamedTuple):
    """What is computed, beside the parameters."""

    branch_scale: float
    precision: Precision
    fused: bool = False
    """all blocks in one GPU kernel (`teacher.fused`) for every batch that it takes"""
    taught_rows: int | None = None
    """weights learn from this many first rows; the others' derivative is that of their input alone"""


def matmul(a: Array, b: Array, precision: Precision) -> Array:
    """[..., M, K] @ [..., K, N] -> float32 [..., M, N], with operands as `precision` says."""
    if precision == "bfloat16":
        a, b = a.astype(jnp.bfloat16), b.astype(jnp.bfloat16)
        return jnp.matmul(a, b, preferred_element_type=jnp.float32)
    exact = precision == "float32"
    # HIGH is TensorFloat-32 where the hardware has it, and float32 elsewhere.
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST if exact else jax.lax.Precision.HIGH)


def normalise(z: Array) -> tuple[Array, Array]:
    """[..., W] -> the same with mean 0 and variance 1 over its last axis, and what divided it, [..., 1]."""
    centred = z - z.mean(-1, keepdims=True)
    rate = jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + NORM_EPSILON)
    return centred * rate, rate


def residual_stacks(
    inputs: tuple[Array, ...], blocks: tuple[Blocks, ...], settings: Settings, merged: bool | None = None
) -> tuple[Array, ...]:
    """Several networks of equal depth and width, side by side; compile time does not grow with depth.

    Args: inputs: [B, W] float32 each; blocks: one per input.
    Returns: [B, W] float32 each."""
    return _stacks(inputs, blocks, settings, merges() if merged is None else merged)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _stacks(
    inputs: tuple[Array, ...], blocks: tuple[Blocks, ...], settings: Settings, merged: bool
) -> tuple[Array, ...]:
    def body(x: Any, block: Any) -> tuple[Any, None]:
        return _each(partial(_block, settings=settings), merged)(x, block)[0], None

    if _is_fused(inputs, settings):
        return _fused_forward(inputs, blocks, settings)[0]
    out, _ = jax.lax.scan(body, _joined(inputs, merged), _joined(_operands(blocks, settings), merged, axis=1))
    return _parted(out, merged)


def _stacks_forward(
    inputs: tuple[Array, ...], blocks: tuple[Blocks, ...], settings: Settings, merged: bool
) -> tuple[tuple[Array, ...], Any]:
    def body(x: Any, block: Any) -> tuple[Any, Any]:
        out, layers = _each(partial(_block, settings=settings), merged)(x, block)
        return out, (_each(partial(_kept, settings=settings), merged)(x), layers)

    if _is_fused(inputs, settings):
        outputs, *kept = _fused_forward(inputs, blocks, settings)
        return outputs, (blocks, *kept)
    out, kept = jax.lax.scan(
        body, _joined(inputs, merged), _joined(_operands(blocks, settings), merged, axis=1)
    )
    return _parted(out, merged), (blocks, *kept)


def _stacks_backward(
    settings: Settings, merged: bool, saved: Any, cotangents: tuple[Array, ...]
) -> tuple[tuple[Array, ...], tuple[Blocks, ...]]:
    if _is_fused(cotangents, settings):
        return _fused_backward(cotangents, saved, settings, merged)
    blocks, block_inputs, layers = saved
    walk = _each(partial(_block_backward, settings=settings, merged=merged), merged)
    gradients = _each(partial(_block_gradients, settings=settings, merged=merged), merged)

    def body(cotangent: Any, of_block: Any) -> tuple[Any, Any]:
        block, block_input, layers = of_block
        below, cotangents = walk(cotangent, block, layers)
        return below, cotangents if merged else gradients(block, block_input, layers, cotangents)

    over = (_joined(_operands(blocks, settings), merged, axis=1), block_inputs, layers)
    below, walked = jax.lax.scan(body, _joined(cotangents, merged), over, reverse=True)
    if merged:
        walked = jax.vmap(gradients)(*over, walked)
    return _parted(below, merged), tuple(_parted(walked, merged, axis=1))


_stacks.defvjp(_stacks_forward, _stacks_backward)


class Layers(NamedTuple):
    """What the walk forward keeps of one block's four layers."""

    normalised: Array  # [4, B, W]
    rate: Array  # [4, B, 1]


def _is_fused(group: tuple[Array, ...], settings: Settings) -> bool:
    if not settings.fused:
        return False
    from teacher import fused

    rows, width = group[0].shape
    return fused.supports(width, rows)


def _fused_forward(
    inputs: tuple[Array, ...], blocks: tuple[Blocks, ...], settings: Settings
) -> tuple[tuple[Array, ...], Array, Array]:
    """Outputs, and what the kernel keeps: block inputs [G, K, B, W] and pre-activations [G, K, 4, B, W]."""
    from teacher import fused  # it takes its types from here

    out, block_inputs, z = fused.forward(jnp.stack(inputs), _stack(list(blocks)), settings.branch_scale)
    return tuple(out), block_inputs, z


def _fused_backward(
    cotangents: tuple[Array, ...], saved: Any, settings: Settings, merged: bool
) -> tuple[tuple[Array, ...], tuple[Blocks, ...]]:
    """What `_stacks_backward` gives, the walk by one kernel and all weight gradients after it."""
    from teacher import fused

    blocks, block_inputs, z = saved
    stacked = _stack(list(blocks))
    below, outputs = fused.backward(jnp.stack(cotangents), z, stacked, settings.branch_scale)
    gradients = jax.vmap(jax.vmap(partial(_block_gradients, settings=settings, merged=merged)))
    found = gradients(stacked, block_inputs, Layers(*normalise(_full(z))), outputs)
    return tuple(below), tuple(Blocks(*leaves) for leaves in zip(*found, strict=True))


def _block(x: Array, block: Blocks, settings: Settings) -> tuple[Array, Layers]:
    """[B, W] -> [B, W]."""
    branch, layers = x, []
    for layer in range(BLOCK_DEPTH):
        z = matmul(branch, block.kernel[layer], settings.precision) + block.bias[layer]
        normalised, rate = normalise(z)
        layers.append(Layers(_kept(normalised, settings), rate))
        branch = jax.nn.swish(normalised * block.norm_scale[layer] + block.norm_bias[layer])
    return x + settings.branch_scale * branch, _stack(layers)


def _block_backward(
    cotangent: Array, block: Blocks, kept: Layers, settings: Settings, merged: bool
) -> tuple[Array, Array]:
    """[B, W] -> [B, W] below the block, and the cotangents [4, B, W] of its layers' outputs."""
    below, cotangents = settings.branch_scale * cotangent, []
    for layer in reversed(range(BLOCK_DEPTH)):
        cotangents.append(_kept(below, settings))
        _, _, dz = _through_layer(below, *_layer(block, kept, layer), merged)
        below = matmul(dz, block.kernel[layer].T, settings.precision)
    return cotangent + below, jnp.stack(cotangents[::-1])


def _block_gradients(
    block: Blocks, block_input: Array, kept: Layers, cotangents: Array, settings: Settings, merged: bool
) -> Blocks:
    """Gradients of a block's parameters from what both walks kept; inputs [B, W], cotangents [4, B, W]."""
    taught = slice(settings.taught_rows)
    block_input, cotangents = block_input[taught], _full(cotangents[:, taught])
    kept = jax.tree.map(lambda rows: rows[:, taught], kept)
    below, gradients = block_input, []
    for layer in range(BLOCK_DEPTH):
        normalised, rate, scale, bias = _layer(block, kept, layer)
        output, dy, dz = _through_layer(cotangents[layer], normalised, rate, scale, bias, merged)
        kernel = matmul(below.T, dz, settings.precision)
        bias, norm_scale, norm_bias = (_over_rows(rows, merged) for rows in (dz, dy * normalised, dy))
        gradients.append(Blocks(kernel, bias, norm_scale, norm_bias))
        below = output
    return _stack(gradients)


def _through_layer(
    cotangent: Array, normalised: Array, rate: Array, scale: Array, bias: Array, merged: bool
) -> tuple[Array, Array, Array]:
    """One layer's output [B, W] again, and the cotangents of what swish and LayerNorm were given."""
    y = normalised * scale + bias
    gate = jax.nn.sigmoid(y)
    output = y * gate
    dy = cotangent * (gate + output * (1 - gate))
    shift = _over_features(dy, scale, merged) / len(scale)
    tilt = _over_features(dy * normalised, scale, merged) / len(scale)
    return output, dy, rate * (dy * scale - shift - normalised * tilt)


def _layer(block: Blocks, kept: Layers, layer: int) -> tuple[Array, Array, Array, Array]:
    norm = block.norm_scale[layer], block.norm_bias[layer]
    return _full(kept.normalised[layer]), kept.rate[layer], *norm


def _over_features(rows: Array, weights: Array, merged: bool) -> Array:
    """[B, W], [W] -> weighted sums [B, 1]."""
    return (rows * weights).sum(-1, keepdims=True) if merged else _exact(rows, weights[:, None])


def _over_rows(rows: Array, merged: bool) -> Array:
    """[B, W] -> sums [W]."""
    return rows.sum(0) if merged else _exact(jnp.ones((1, len(rows))), rows)[0]


def _exact(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _stack(layers: list) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)


def _operands(blocks: tuple[Blocks, ...], settings: Settings) -> tuple[Blocks, ...]:
    """Weights rounded once for all layers, not layer by layer."""
    return tuple(each._replace(kernel=_kept(each.kernel, settings)) for each in blocks)


def _kept(x: Array, settings: Settings) -> Array:
    """As an operand of a product, which is all that is needed of it later."""
    return x.astype(jnp.bfloat16) if settings.precision == "bfloat16" else x


def _full(x: Array) -> Array:
    return x.astype(jnp.float32)


def _each(function: Callable, merged: bool) -> Callable:
    """`function` on every network of a joined group."""
    if merged:
        return jax.vmap(function)

    def in_turn(*groups: tuple) -> Any:
        results = [function(*each) for each in zip(*groups, strict=True)]
        # Several values of each network become several groups, as they do with vmap.
        return tuple(zip(*results, strict=True)) if type(results[0]) is tuple else tuple(results)

    return in_turn


def _joined(group: tuple, merged: bool, axis: int = 0) -> Any:
    """A group of equal pytrees as `_each` takes it: stacked along `axis`, or as it is."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves, axis), *group) if merged else group


def _parted(joined: Any, merged: bool, axis: int = 0) -> tuple:
    if not merged:
        return joined
    count = jax.tree.leaves(joined)[0].shape[axis]
    return tuple(jax.tree.map(partial(_part, index=i, axis=axis), joined) for i in range(count))


def _part(leaf: Array, index: int, axis: int) -> Array:
    return jax.lax.index_in_dim(leaf, index, axis, keepdims=False)
