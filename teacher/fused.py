"""The residual stack as two GPU kernels: one runs every block forward, one walks them backward.

Small batches through narrow, very deep networks leave a GPU waiting between kernels. Here a thread
block keeps ROWS rows of the batch on chip from the first block to the last, while the layers'
weights stream past them from global memory; one rolled loop runs all layers, so that depth changes
neither code nor compile time.

On chip everything is seen features first, [W, ROWS]: z = kernel^T h then has its features on the
dimension that Hopper's matrix instruction (wgmma) takes in multiples of 64, and the few rows on the
one that it takes in multiples of 8. Memory, global and shared, keeps rows first, so that copies move
whole 128-byte lines.

Source: persistent kernels for recurrent networks, for example FlashRNN, arXiv:2412.07752.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from teacher.config import BLOCK_DEPTH
from teacher.onchip import (
    CHUNK,
    MAX_WIDTH,
    PLAIN_INTERPRETER,
    ROWS,
    Ref,
    Slots,
    chunk_of_step,
    fetch,
    load_per_feature,
    normalise,
    product,
    pull_back,
    receive,
    select,
    send,
    sigmoid,
    slots_of,
    tile,
    weight_slots,
    when,
    write,
)
from teacher.residual import Blocks

Array = jax.Array


class _Shape(NamedTuple):
    networks: int
    layers: int
    batch: int
    width: int


TAKES = (
    f"the kernels take a width that is a multiple of {CHUNK} and at most {MAX_WIDTH}, "
    f"and a batch that is a multiple of {ROWS}"
)


def supports(width: int, batch: int) -> bool:
    """Whether the kernels take networks of this width on batches of this size."""
    return 0 < width <= MAX_WIDTH and width % CHUNK == 0 and batch > 0 and batch % ROWS == 0


def forward(
    x: Array, blocks: Blocks, branch_scale: float, *, interpret: Any = False
) -> tuple[Array, Array, Array]:
    """All residual blocks of G independent networks, in one launch.

    Products take bfloat16 operands and sum in float32; normalisation, swish and the residual stream
    are float32.

    Args:
      x: [G, B, W] float32; B a multiple of 16, W of 64 and at most 256.
      blocks: float32, each leaf with a leading axis G: kernel [G, K, 4, W, W], the others [G, K, 4, W].
      branch_scale: multiplies each block's branch; a number, since it is compiled in.
      interpret: False compiles for a Hopper GPU. True, or JAX's `InterpretGPUParams`, runs the same
        kernel slowly on any device.
    Returns:
      y: [G, B, W] float32, the residual stream after the last block.
      inputs: [G, K, B, W] bfloat16, every block's input.
      z: [G, K, 4, B, W] bfloat16, every layer's pre-activation, bias included.
    Raises: ValueError for other shapes or dtypes."""
    shape = _checked("x", x, blocks)
    networks, layers, batch, width = shape
    y, inputs, z = plgpu.kernel(
        partial(_forward_kernel, shape, float(branch_scale), _is_plain(interpret)),
        out_type=(
            jax.ShapeDtypeStruct((networks, batch, width), jnp.float32),
            jax.ShapeDtypeStruct((networks * layers // BLOCK_DEPTH, batch, width), jnp.bfloat16),
            jax.ShapeDtypeStruct((networks * layers, batch, width), jnp.bfloat16),
        ),
        scratch_types={
            "weights": weight_slots(width),
            "stream": slots_of(1, ROWS, width, dtype=jnp.float32),
            "operand": tile(ROWS, width),
            "z_tile": tile(ROWS, width),
        },
        **_launch(shape, interpret),
    )(
        x,
        _weights(blocks).swapaxes(1, 2),  # features first: the outputs of a layer, not its inputs
        *(leaf.reshape(-1, width) for leaf in (blocks.bias, blocks.norm_scale, blocks.norm_bias)),
    )
    of_block = (networks, layers // BLOCK_DEPTH)
    return y, inputs.reshape(*of_block, batch, width), z.reshape(*of_block, BLOCK_DEPTH, batch, width)


def backward(
    dy: Array, z: Array, blocks: Blocks, branch_scale: float, *, interpret: Any = False
) -> tuple[Array, Array]:
    """From the cotangent of `forward`'s y to those of x and of every layer's output, in one launch.

    All parameters' gradients follow from d, z and `forward`'s inputs, in bulk and elsewhere: d pulled
    back through swish and normalisation is the cotangent of z.

    Args:
      dy: [G, B, W] float32.
      z: [G, K, 4, B, W] bfloat16, from `forward`.
      blocks, branch_scale, interpret: as in `forward`.
    Returns:
      dx: [G, B, W] float32, the residual stream's cotangent, which is float32 all the way.
      d: [G, K, 4, B, W] bfloat16, the cotangent of every layer's output, after swish.
    Raises: ValueError for other shapes or dtypes."""
    shape = _checked("dy", dy, blocks)
    networks, layers, batch, width = shape
    per_layer = (networks, layers // BLOCK_DEPTH, BLOCK_DEPTH, batch, width)
    _require("z", z, per_layer, jnp.bfloat16)
    dx, d = plgpu.kernel(
        partial(_backward_kernel, shape, float(branch_scale), _is_plain(interpret)),
        out_type=(
            jax.ShapeDtypeStruct((networks, batch, width), jnp.float32),
            jax.ShapeDtypeStruct((networks * layers, batch, width), jnp.bfloat16),
        ),
        scratch_types={
            "weights": weight_slots(width),
            "stream": slots_of(1, ROWS, width, dtype=jnp.float32),
            "pre_activations": slots_of(2, ROWS, width),
            "operand": tile(ROWS, width),
            "d_tile": tile(ROWS, width),
        },
        **_launch(shape, interpret),
    )(
        dy,
        z.reshape(-1, batch, width),
        _weights(blocks),
        *(leaf.reshape(-1, width) for leaf in (blocks.norm_scale, blocks.norm_bias)),
    )
    return dx, d.reshape(per_layer)


def _forward_kernel(
    shape: _Shape,
    branch_scale: float,
    plain: bool,
    x_gmem: Ref,
    weights_gmem: Ref,
    bias_gmem: Ref,
    norm_scale_gmem: Ref,
    norm_bias_gmem: Ref,
    y_gmem: Ref,
    inputs_gmem: Ref,
    z_gmem: Ref,
    *,
    weights: Slots,
    stream: Slots,
    operand: Ref,
    z_tile: Ref,
) -> None:
    network, rows = lax.axis_index("network"), pl.ds(lax.axis_index("rows") * ROWS, ROWS)
    first_layer = network * shape.layers
    first_block = network * (shape.layers // BLOCK_DEPTH)

    def fetch_weights(step: Array | int) -> None:
        layer, columns, slot = chunk_of_step(step, weights)
        fetch(weights_gmem.at[first_layer + layer, :, columns], weights, slot)

    fetch(x_gmem.at[network, rows], stream, 0)
    for step in range(weights.tiles.shape[0]):
        fetch_weights(step)
    x = receive(stream, 0, plain)
    write(operand, x, plain)
    plgpu.commit_smem()  # shows what the threads wrote to copies and wgmma
    plgpu.copy_smem_to_gmem(operand, inputs_gmem.at[first_block, rows])

    def run_layer(layer: Array, x: Array) -> Array:
        # Loaded ahead of the product, which hides their latency.
        bias, norm_scale, norm_bias = (
            load_per_feature(vectors.at[first_layer + layer], plain)
            for vectors in (bias_gmem, norm_scale_gmem, norm_bias_gmem)
        )
        z = product(weights, operand, layer, shape.layers, fetch_weights, plain) + bias
        # The previous layer's copies out of `z_tile` and `operand` must have read them before they are
        # written again, and no wgmma reads `operand` any more: `product` has waited for all of them.
        plgpu.wait_smem_to_gmem(0, wait_read_only=True)
        write(z_tile, z, plain)
        normalised, _ = normalise(z)
        branch = normalised * norm_scale + norm_bias
        branch *= sigmoid(branch)
        ends_block = lax.rem(layer, BLOCK_DEPTH) == BLOCK_DEPTH - 1
        x = select(ends_block, x + branch_scale * branch, x)
        write(operand, select(ends_block, x, branch), plain)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(z_tile, z_gmem.at[first_layer + layer, rows])
        next_block = first_block + lax.div(layer + 1, BLOCK_DEPTH)
        more = layer + 1 < shape.layers
        when(ends_block & more, plgpu.copy_smem_to_gmem, operand, inputs_gmem.at[next_block, rows])
        return x

    send(lax.fori_loop(0, shape.layers, run_layer, x), stream, y_gmem.at[network, rows], plain)


def _backward_kernel(
    shape: _Shape,
    branch_scale: float,
    plain: bool,
    dy_gmem: Ref,
    z_gmem: Ref,
    weights_gmem: Ref,
    norm_scale_gmem: Ref,
    norm_bias_gmem: Ref,
    dx_gmem: Ref,
    d_gmem: Ref,
    *,
    weights: Slots,
    stream: Slots,
    pre_activations: Slots,
    operand: Ref,
    d_tile: Ref,
) -> None:
    network, rows = lax.axis_index("network"), pl.ds(lax.axis_index("rows") * ROWS, ROWS)
    first_layer = network * shape.layers

    def fetch_weights(step: Array | int) -> None:
        walked, columns, slot = chunk_of_step(step, weights)
        layer = shape.layers - 1 - walked
        fetch(weights_gmem.at[first_layer + layer, :, columns], weights, slot)

    def fetch_z(layer: Array | int, slot: Array | int) -> None:
        fetch(z_gmem.at[first_layer + layer, rows], pre_activations, slot)

    fetch(dy_gmem.at[network, rows], stream, 0)
    fetch_z(shape.layers - 1, 0)
    for step in range(weights.tiles.shape[0]):
        fetch_weights(step)
    dy = receive(stream, 0, plain)

    def run_layer(walked: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        stream_cotangent, d = carry
        layer = shape.layers - 1 - walked
        norm_scale, norm_bias = (
            load_per_feature(vectors.at[first_layer + layer], plain)
            for vectors in (norm_scale_gmem, norm_bias_gmem)
        )
        slot = lax.rem(walked, 2)
        z = receive(pre_activations, slot, plain).astype(jnp.float32)
        # The other slot was read a layer ago, and every thread has passed a `commit_smem` since.
        when(layer > 0, fetch_z, layer - 1, 1 - slot)
        dz = pull_back(d, z, norm_scale, norm_bias)
        # The previous layer's copy out of `d_tile` must have read it before it is written again, and no
        # wgmma reads `operand` any more: `product` has waited for all of them.
        plgpu.wait_smem_to_gmem(0, wait_read_only=True)
        write(d_tile, d, plain)
        write(operand, dz, plain)
        plgpu.commit_smem()  # shows what the threads wrote to copies and wgmma
        plgpu.copy_smem_to_gmem(d_tile, d_gmem.at[first_layer + layer, rows])
        below = product(weights, operand, walked, shape.layers, fetch_weights, plain)
        starts_block = lax.rem(layer, BLOCK_DEPTH) == 0
        stream_cotangent = select(starts_block, stream_cotangent + below, stream_cotangent)
        return stream_cotangent, select(starts_block, branch_scale * stream_cotangent, below)

    dx, _ = lax.fori_loop(0, shape.layers, run_layer, (dy, branch_scale * dy))
    send(dx, stream, dx_gmem.at[network, rows], plain)


def _weights(blocks: Blocks) -> Array:
    """[G * 4K, W, W] in bfloat16."""
    return blocks.kernel.reshape(-1, *blocks.kernel.shape[-2:]).astype(jnp.bfloat16)


def _launch(shape: _Shape, interpret: Any) -> dict[str, Any]:
    launch = {
        "grid": (shape.networks, shape.batch // ROWS),
        "grid_names": ("network", "rows"),
        # tanh and rsqrt as the hardware approximates them, which is finer than bfloat16; for sums over
        # features as much scratch memory as JAX advises for Hopper.
        "compiler_params": plgpu.CompilerParams(approx_math=True, reduction_scratch_bytes=6144),
    }
    if interpret is True:
        from jax._src.pallas.mosaic_gpu.interpret.params import InterpretGPUParams

        interpret = InterpretGPUParams()
    return launch | {"interpret": interpret} if interpret else launch


def _is_plain(interpret: Any) -> bool:
    """Whether references are read as they are, and transposed as values."""
    return bool(interpret) and PLAIN_INTERPRETER


def _checked(name: str, stream: Array, blocks: Blocks) -> _Shape:
    if stream.ndim != 3 or not stream.shape[0] or not supports(stream.shape[2], stream.shape[1]):
        raise ValueError(f"{name} must be [networks, batch, width]; {TAKES}; got {list(stream.shape)}")
    networks, batch, width = stream.shape
    count = blocks.kernel.shape[1] if blocks.kernel.ndim == 5 else 0
    if not count:
        raise ValueError(
            f"blocks.kernel must be [networks, blocks, {BLOCK_DEPTH}, width, width] with one block or more; "
            f"got {list(blocks.kernel.shape)}"
        )
    vectors = (networks, count, BLOCK_DEPTH, width)
    _require(name, stream, stream.shape, jnp.float32)
    _require("blocks.kernel", blocks.kernel, (*vectors, width), jnp.float32)
    for leaf in ("bias", "norm_scale", "norm_bias"):
        _require(f"blocks.{leaf}", getattr(blocks, leaf), vectors, jnp.float32)
    return _Shape(networks, count * BLOCK_DEPTH, batch, width)


def _require(name: str, array: Array, shape: tuple[int, ...], dtype: Any) -> None:
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(
            f"{name} must be {jnp.dtype(dtype).name} {list(shape)}; got {array.dtype} {list(array.shape)}"
        )
