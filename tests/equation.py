"""The published network (arXiv:2503.14858, section 4), one layer after the other, for NumPy and JAX alike.

h_0 = unit(x), h_k = h_(k-1) + factor * unit(unit(unit(unit(h_(k-1))))), and a Dense layer to the outputs;
unit(h) = swish(LayerNorm(h W + b)). The paper's factor is 1."""

import jax
import jax.numpy as jnp

from teacher.blocks import Blocks
from teacher.compilation import jit_once
from teacher.config import BLOCK_DEPTH


def unit(h, kernel, bias, norm_scale, norm_bias):
    return activation(h @ kernel + bias, norm_scale, norm_bias)


def activation(z, norm_scale, norm_bias):
    """swish(LayerNorm(z))"""
    xp = z.__array_namespace__()
    z = (z - z.mean(-1, keepdims=True)) / xp.sqrt(z.var(-1, keepdims=True) + 1e-6)
    z = norm_scale * z + norm_bias
    return z / (1 + xp.exp(-z))


def block(h, layers, factor):
    """One residual block: kernel [4, W, W], and bias, norm_scale and norm_bias [4, W]."""
    branch = h
    for layer in range(4):
        branch = unit(branch, *(leaf[layer] for leaf in layers))
    return h + factor * branch


def stack(h, blocks, factor):
    for number in range(len(blocks[0])):
        h = block(h, [leaf[number] for leaf in blocks], factor)
    return h


def network(params, x, factor, stack=stack):
    entry, norm, leave = params["input"], params["input_norm"], params["output"]
    h = unit(x, entry["kernel"], entry["bias"], norm["scale"], norm["bias"])
    h = stack(h, [params[name] for name in ("kernel", "bias", "norm_scale", "norm_bias")], factor)
    return h @ leave["kernel"] + leave["bias"]


def random_blocks(rng, count, width):
    """Parameters of `count` residual blocks, all of which matter."""
    shape = (count, BLOCK_DEPTH, width)
    parts = [(0, width**-0.5, (*shape, width)), (0, 0.1, shape), (1, 0.1, shape), (0, 0.1, shape)]
    return Blocks(*(jnp.float32(mean + rng.normal(scale=scale, size=size)) for mean, scale, size in parts))


def value_and_gradients(stacks, case, settings):
    """What `stacks` gives of a case, inputs and blocks of several networks, and its derivatives.

    Those of the inputs and of the blocks, in the case's directions of the outputs."""
    inputs, blocks, directions = case

    def value(inputs, blocks):
        out = stacks(inputs, blocks, settings)
        return sum((y * direction).sum() for y, direction in zip(out, directions, strict=True)), out

    (_, out), gradients = jit_once(jax.value_and_grad(value, argnums=(0, 1), has_aux=True))(inputs, blocks)
    return out, gradients
