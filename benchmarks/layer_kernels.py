"""One layer as one kernel (Pallas, through Triton) against what XLA makes of it, in both passes.

    python benchmarks/layer_kernels.py --depths 64 256 1024 --precision tensorfloat32 bfloat16    (a GPU)

A stack of residual blocks is gone through as an update does, forward and back to the input, with what it
keeps for the weights' gradients; those are the same products either way and are left out. `error` is the
largest of the three results' distances from float32, over their size, XLA's and Triton's. Without a GPU the
kernels are interpreted, slowly: right, but no figure of speed.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import jax
import jax.numpy as jnp
import measuring
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from measuring import Row, say

from teacher.blocks import (
    BLOCKS_A_STEP,
    Blocks,
    Settings,
    _block,
    _block_backward,
    _layer_backward,
    normalise,
)
from teacher.config import BLOCK_DEPTH, Precision

Array = jax.Array
ROWS, CHUNK = 64, 64  # of a thread block; of the weights that are on chip at once
SCALE = 0.1  # of branches
FEWEST, SECONDS = 5, 2.0


def _product(a: Array, b: Array, precision: Precision, interpret: bool) -> Array:
    if precision == "bfloat16":
        return jnp.dot(a.astype(jnp.bfloat16), b.astype(jnp.bfloat16), preferred_element_type=jnp.float32)
    if interpret:
        return jnp.dot(a, b)
    exact = precision == "float32"
    to = jax.lax.DotAlgorithmPreset.F32_F32_F32 if exact else jax.lax.DotAlgorithmPreset.TF32_TF32_F32
    return jnp.dot(a, b, precision=to)


def _forward_kernel(x, *refs, product: Callable) -> None:  # type: ignore[no-untyped-def]
    """z = x W + bias and swish(LayerNorm(z)) of ROWS rows; of a block's last layer, added to the stream."""
    *stream, kernel, bias, scale, shift, z_out, out = refs
    width = kernel.shape[1]
    z = jnp.zeros((x.shape[0], width), jnp.float32) + bias[...][None]
    for at in range(0, width, CHUNK):
        z = z + product(x[:, at : at + CHUNK], kernel[at : at + CHUNK, :])
    z_out[...] = z.astype(z_out.dtype)
    y = normalise(z).rows * scale[...][None] + shift[...][None]
    h = y * jax.nn.sigmoid(y)
    out[...] = stream[0][...] + SCALE * h if stream else h


def _backward_kernel(cotangent, z, *refs, factor: float, product: Callable) -> None:  # type: ignore[no-untyped-def]
    """The cotangent of what a layer was given; of a block's first layer, with that of the stream."""
    *stream, kernel, scale, shift, below = refs
    settings = Settings(SCALE, "float32", batched=True)
    kept = z[...].astype(jnp.float32)
    *_, dz = _layer_backward(factor * cotangent[...], kept, scale[...], shift[...], settings)
    width = kernel.shape[0]
    for at in range(0, width, CHUNK):
        part = product(dz, kernel[at : at + CHUNK, :].T)
        below[:, at : at + CHUNK] = part + stream[0][:, at : at + CHUNK] if stream else part


def _launch(
    kernel: Callable,
    rows: tuple[Array, ...],
    whole: tuple[Array, ...],
    results: tuple[Any, ...],
    interpret: bool,
) -> Any:
    """Calls a kernel with ROWS rows at a time of some arrays, and others whole."""
    batch, width = rows[0].shape
    of_rows = pl.BlockSpec((ROWS, width), lambda i: (i, 0))
    of_whole = [pl.BlockSpec(each.shape, lambda i, each=each: (0,) * each.ndim) for each in whole]
    return pl.pallas_call(
        kernel,
        out_shape=[jax.ShapeDtypeStruct((batch, width), dtype) for dtype in results],
        grid=(batch // ROWS,),
        in_specs=[of_rows] * len(rows) + of_whole,
        out_specs=[of_rows] * len(results),
        interpret=interpret,
        compiler_params=triton.CompilerParams(num_warps=8, num_stages=2),
    )(*rows, *whole)


def block_forward(x: Array, block: Blocks, precision: Precision, interpret: bool) -> tuple[Array, Array]:
    """Does what `teacher.blocks._block` does with `batched`: [B, W] -> [B, W], and z of all layers."""
    keep = jnp.bfloat16 if precision == "bfloat16" else jnp.float32
    product = partial(_product, precision=precision, interpret=interpret)
    h, kept = x, []
    for layer in range(BLOCK_DEPTH):
        stream = (x,) if layer == BLOCK_DEPTH - 1 else ()
        whole = tuple(leaf[layer] for leaf in block)
        kernel = partial(_forward_kernel, product=product)
        z, h = _launch(kernel, (h, *stream), whole, (keep, jnp.float32), interpret)
        kept.append(z)
    return h, jnp.stack(kept)


def block_backward(
    cotangent: Array, block: Blocks, kept: Array, precision: Precision, interpret: bool
) -> tuple[Array, Array]:
    """Does what `teacher.blocks._block_backward` does."""
    keep = jnp.bfloat16 if precision == "bfloat16" else jnp.float32
    product = partial(_product, precision=precision, interpret=interpret)
    below, cotangents = cotangent, []
    for layer in reversed(range(BLOCK_DEPTH)):
        factor = SCALE if layer == BLOCK_DEPTH - 1 else 1.0
        cotangents.append((factor * below).astype(keep))
        stream = (cotangent,) if layer == 0 else ()
        whole = block.kernel[layer], block.norm_scale[layer], block.norm_bias[layer]
        kernel = partial(_backward_kernel, factor=factor, product=product)
        (below,) = _launch(kernel, (below, kept[layer], *stream), whole, (jnp.float32,), interpret)
    return below, jnp.stack(cotangents[::-1])


def passes(x: Array, blocks: Blocks, *, forward: Callable, backward: Callable) -> tuple[Array, Array, Array]:
    """Goes through all blocks and back: [B, W] -> outputs, their cotangents below [B, W], and of layers."""
    out, kept = jax.lax.scan(forward, x, blocks, unroll=BLOCKS_A_STEP)
    below, cotangents = jax.lax.scan(
        lambda carry, each: backward(carry, *each), out, (blocks, kept), reverse=True, unroll=BLOCKS_A_STEP
    )
    return out, below, cotangents


def both(precision: Precision, interpret: bool) -> dict[str, Callable]:
    """Returns `passes` by XLA and by Triton."""
    settings = Settings(SCALE, precision, batched=True)
    given = {"precision": precision, "interpret": interpret}
    return {
        "xla": partial(
            passes,
            forward=partial(_block, settings=settings),
            backward=partial(_block_backward, settings=settings),
        ),
        "triton": partial(
            passes, forward=partial(block_forward, **given), backward=partial(block_backward, **given)
        ),
    }


def random_stack(depth: int, batch: int, width: int) -> tuple[Array, Blocks]:
    keys = iter(jax.random.split(jax.random.key(0), 5))
    shape = (depth // BLOCK_DEPTH, BLOCK_DEPTH, width)

    def normal(mean: float, deviation: float, *sizes: int) -> Array:
        return mean + deviation * jax.random.normal(next(keys), sizes)

    blocks = Blocks(
        normal(0, width**-0.5, *shape, width),
        normal(0, 0.1, *shape),
        normal(1, 0.1, *shape),
        normal(0, 0.1, *shape),
    )
    return normal(0, 1, batch, width), blocks


def row(depth: int, batch: int, width: int, precision: Precision) -> Row:
    say(f"depth {depth}, {precision}")
    given = random_stack(depth, batch, width)
    true = jax.jit(both("float32", True)["xla"])(*given)
    figures: Row = {"depth": depth, "batch": batch, "width": width, "precision": precision}
    figures["device"] = measuring.device()
    compiled = {
        name: jax.jit(function) for name, function in both(precision, jax.default_backend() != "gpu").items()
    }
    times: dict[str, list[float]] = {name: [] for name in compiled}
    for name, function in compiled.items():
        found = function(*given)
        distances = [jnp.abs(a - b).max() / jnp.abs(b).max() for a, b in zip(found, true, strict=True)]
        figures[f"{name}_error"] = float(max(distances))
    begun = time.perf_counter()
    while len(times["xla"]) < FEWEST or time.perf_counter() - begun < SECONDS:
        for name, function in compiled.items():
            start = time.perf_counter()
            jax.block_until_ready(function(*given))
            times[name].append(1e3 * (time.perf_counter() - start))
    for name, taken in times.items():
        figures[f"{name}_ms"], figures[f"{name}_ms_spread"] = measuring.middle(np.array(taken))
    figures["ratio"], figures["spread"] = measuring.middle(np.array(times["xla"]) / np.array(times["triton"]))
    return figures


def main() -> None:
    parser = measuring.parser_of(__doc__)
    parser.add_argument("--depths", type=int, nargs="+", default=[64])
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--precision", choices=get_args(Precision), nargs="+", default=["tensorfloat32"])
    asked = parser.parse_args()
    rows = [row(depth, asked.batch, asked.width, each) for depth in asked.depths for each in asked.precision]
    measuring.show(rows, asked.json, settings=("width", "batch", "device"))


if __name__ == "__main__":
    main()
