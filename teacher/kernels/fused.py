"""The residual stack as two GPU kernels: one for the forward and one for the backward pass.

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

import chex
import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from teacher.blocks import Blocks, Settings, centred
from teacher.config import BLOCK_DEPTH
from teacher.kernels import primitives as chip

Array = jax.Array
Ref = chip.Ref


class _Shape(NamedTuple):
    networks: int
    layers: int
    batch: int
    width: int
    grad_rows: int  # the first rows of the batch, those from which weights learn


TAKES = (
    f"the kernels take a width that is a multiple of {chip.CHUNK} and at most {chip.MAX_WIDTH}, "
    f"and a batch that is a multiple of {chip.ROWS}"
)


def supports(width: int, batch: int) -> bool:
    """Tells whether the kernels take networks of this width on batches of this size."""
    return 0 < width <= chip.MAX_WIDTH and width % chip.CHUNK == 0 and batch > 0 and batch % chip.ROWS == 0


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def fused_stacks(x: Array, blocks: tuple[Blocks, ...], settings: Settings) -> Array:
    """Applies all blocks of G networks, as `teacher.blocks.residual_stacks` does.

    Args: x: [G, B, W] of a shape that `supports` takes. Returns: [G, B, W]."""
    return _forward(x, blocks, settings)[0]


def _forward(x: Array, blocks: tuple[Blocks, ...], settings: Settings) -> tuple[Array, Any]:
    numbers = settings.residual_scale, settings.weight_grad_rows
    y, operands, z = forward(x, side_by_side(blocks), *numbers)
    return y, (blocks, operands, z)


def _backward(settings: Settings, saved: Any, dy: Array) -> tuple[Array, tuple[Blocks, ...]]:
    blocks, operands, z = saved
    # Weights are rounded once more: else those of all networks would be held from the forward pass on.
    blocks, dy = lax.optimization_barrier((blocks, dy))
    rounded = side_by_side(blocks)
    dx, dz, sums = backward(dy, z, rounded, settings.residual_scale, settings.weight_grad_rows)
    found = gradients(operands, dz, sums, rounded)
    return dx, tuple(Blocks(*(leaf[network] for leaf in found)) for network in range(len(blocks)))


def side_by_side(blocks: tuple[Blocks, ...]) -> Blocks:
    """Joins the parameters of G networks as the kernels take them: rounded before a copy is made."""
    rounded = (each._replace(kernel=each.kernel.astype(jnp.bfloat16)) for each in map(centred, blocks))
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *rounded)


fused_stacks.defvjp(_forward, _backward)


def gradients(operands: Array, dz: Array, sums: Array, like: Blocks) -> Blocks:
    """Computes all parameters' gradients, in the shapes of `like`: one product of all layers, and sums.

    Args: operands, from `forward`; dz and sums, from `backward`."""
    kernel = jnp.einsum("lri,lro->lio", operands, dz, preferred_element_type=jnp.float32)
    found = kernel, *sums.sum(1).swapaxes(0, 1)
    return Blocks(*(leaf.reshape(to.shape) for leaf, to in zip(found, like, strict=True)))


def forward(
    x: Array, blocks: Blocks, residual_scale: float, grad_rows: int | None = None, *, interpret: Any = False
) -> tuple[Array, Array, Array]:
    """Applies all residual blocks of G independent networks, in one launch.

    Products take bfloat16 operands and sum in float32; normalisation, swish and the residual stream
    are float32.

    Args:
      x: [G, B, W] float32; B a multiple of 16, W of 64 and at most 256.
      blocks: kernel [G, K, 4, W, W] bfloat16, the others [G, K, 4, W] float32.
      residual_scale: multiplies each block's branch; a number, since it is compiled in.
      grad_rows: weights learn from this many first rows, a multiple of 16; None: from all. R below.
      interpret: False compiles for a Hopper GPU; JAX's `InterpretGPUParams` run the same kernel slowly on
        any device.
    Returns:
      y: [G, B, W] float32, the residual stream after the last block.
      operands: [G * 4K, R, W] bfloat16, what every layer was given.
      z: [G * 4K, B, W] bfloat16, every layer's pre-activation, bias included.
    The caller has asked `supports`."""
    shape = _shape(x, blocks, grad_rows)
    of_layers = (shape.networks * shape.layers, shape.batch, shape.width)
    y, operands, z = plgpu.kernel(
        partial(_forward_kernel, shape, float(residual_scale), _is_plain(interpret)),
        out_type=(
            jax.ShapeDtypeStruct(x.shape, jnp.float32),
            jax.ShapeDtypeStruct((of_layers[0], shape.grad_rows, shape.width), jnp.bfloat16),
            jax.ShapeDtypeStruct(of_layers, jnp.bfloat16),
        ),
        scratch_types={
            "weights": chip.weight_slots(shape.width, transposed=True),
            "stream": chip.slots_of(1, chip.ROWS, shape.width, dtype=jnp.float32),
            "operand": chip.tile(chip.ROWS, shape.width),
            "z_tile": chip.tile(chip.ROWS, shape.width),
        },
        **_launch(shape, interpret),
    )(
        x,
        _weights(blocks),
        *(leaf.reshape(-1, shape.width) for leaf in (blocks.bias, blocks.norm_scale, blocks.norm_bias)),
    )
    return y, operands, z


def backward(
    dy: Array,
    z: Array,
    blocks: Blocks,
    residual_scale: float,
    grad_rows: int | None = None,
    *,
    interpret: Any = False,
) -> tuple[Array, Array, Array]:
    """Computes from the cotangent of `forward`'s y that of x, and what `gradients` takes, in one launch.

    Args:
      dy: [G, B, W] float32.
      z: [G * 4K, B, W] bfloat16, from `forward`.
      blocks, residual_scale, grad_rows, interpret: as in `forward`.
    Returns:
      dx: [G, B, W] float32, the residual stream's cotangent, which is float32 all the way.
      dz: [G * 4K, R, W] bfloat16, the cotangent of every layer's pre-activation.
      sums: [G * 4K, R / 16, 3, W] float32, sums over 16 rows each of dz, of the cotangent of what
        norm_scale multiplies with what it multiplies, and of the cotangent of what norm_bias is added to.
    The caller has asked `supports`."""
    shape = _shape(dy, blocks, grad_rows)
    layers = shape.networks * shape.layers
    chex.assert_shape(z, (layers, shape.batch, shape.width))
    chex.assert_type(z, jnp.bfloat16)
    dx, dz, sums = plgpu.kernel(
        partial(_backward_kernel, shape, float(residual_scale), _is_plain(interpret)),
        out_type=(
            jax.ShapeDtypeStruct(dy.shape, jnp.float32),
            jax.ShapeDtypeStruct((layers, shape.grad_rows, shape.width), jnp.bfloat16),
            jax.ShapeDtypeStruct((layers, shape.grad_rows // chip.ROWS, 3, shape.width), jnp.float32),
        ),
        scratch_types={
            "weights": chip.weight_slots(shape.width, transposed=False),
            "stream": chip.slots_of(1, chip.ROWS, shape.width, dtype=jnp.float32),
            "pre_activations": chip.slots_of(2, chip.ROWS, shape.width),
            "operand": chip.tile(chip.ROWS, shape.width),
        },
        **_launch(shape, interpret),
    )(
        dy,
        z,
        _weights(blocks),
        *(leaf.reshape(-1, shape.width) for leaf in (blocks.norm_scale, blocks.norm_bias)),
    )
    return dx, dz, sums


def _forward_kernel(
    shape: _Shape,
    residual_scale: float,
    plain: bool,
    *refs: Ref,
    weights: chip.Slots,
    stream: chip.Slots,
    operand: Ref,
    z_tile: Ref,
) -> None:
    x_gmem, weights_gmem, bias_gmem, norm_scale_gmem, norm_bias_gmem, y_gmem, operands_gmem, z_gmem = refs
    network, tile = lax.axis_index("network"), lax.axis_index("rows")
    rows, learns = pl.ds(tile * chip.ROWS, chip.ROWS), tile < shape.grad_rows // chip.ROWS
    first_layer = network * shape.layers

    def keep_operand(layer: Array | int, exists: Array | bool) -> None:
        destination = operands_gmem.at[first_layer + layer, rows]
        chip.when(learns & exists, plgpu.copy_smem_to_gmem, operand, destination)

    def fetch_weights(step: Array | int) -> None:
        layer, inputs, slot = chip.chunk_of_step(step, weights)
        chip.fetch(weights_gmem.at[first_layer + layer, inputs], weights, slot)

    chip.fetch(x_gmem.at[network, rows], stream, 0)
    for step in range(weights.tiles.shape[0]):
        fetch_weights(step)
    x = chip.receive(stream, 0, plain)
    chip.write(operand, x, plain)
    plgpu.commit_smem()  # shows what the threads wrote to copies and wgmma
    keep_operand(0, True)

    def run_layer(layer: Array, x: Array) -> Array:
        # Loaded ahead of the product, which hides their latency.
        bias, norm_scale, norm_bias = (
            chip.load_per_feature(vectors.at[first_layer + layer], plain)
            for vectors in (bias_gmem, norm_scale_gmem, norm_bias_gmem)
        )
        z = chip.product(weights, operand, layer, shape.layers, fetch_weights, plain, transposed=True) + bias
        # The previous layer's copies out of `z_tile` and `operand` must have read them before they are
        # written again, and no wgmma reads `operand` any more: `product` has waited for all of them.
        plgpu.wait_smem_to_gmem(0, wait_read_only=True)
        chip.write(z_tile, z, plain)
        normalised, _ = chip.normalise(z)
        branch = normalised * norm_scale + norm_bias
        branch *= chip.sigmoid(branch)
        ends_block = lax.rem(layer, BLOCK_DEPTH) == BLOCK_DEPTH - 1
        x = chip.select(ends_block, x + residual_scale * branch, x)
        chip.write(operand, chip.select(ends_block, x, branch), plain)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(z_tile, z_gmem.at[first_layer + layer, rows])
        keep_operand(layer + 1, layer + 1 < shape.layers)
        return x

    chip.send(lax.fori_loop(0, shape.layers, run_layer, x), stream, y_gmem.at[network, rows], plain)


def _backward_kernel(
    shape: _Shape,
    residual_scale: float,
    plain: bool,
    *refs: Ref,
    weights: chip.Slots,
    stream: chip.Slots,
    pre_activations: chip.Slots,
    operand: Ref,
) -> None:
    dy_gmem, z_gmem, weights_gmem, norm_scale_gmem, norm_bias_gmem, dx_gmem, dz_gmem, sums_gmem = refs
    network, tile = lax.axis_index("network"), lax.axis_index("rows")
    rows, learns = pl.ds(tile * chip.ROWS, chip.ROWS), tile < shape.grad_rows // chip.ROWS
    first_layer = network * shape.layers

    def fetch_weights(step: Array | int) -> None:
        number, columns, slot = chip.chunk_of_step(step, weights)
        layer = shape.layers - 1 - number
        chip.fetch(weights_gmem.at[first_layer + layer, :, columns], weights, slot)

    def fetch_z(layer: Array | int, slot: Array | int) -> None:
        chip.fetch(z_gmem.at[first_layer + layer, rows], pre_activations, slot)

    chip.fetch(dy_gmem.at[network, rows], stream, 0)
    fetch_z(shape.layers - 1, 0)
    for step in range(weights.tiles.shape[0]):
        fetch_weights(step)
    dy = chip.receive(stream, 0, plain)

    def run_layer(step: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        stream_cotangent, d = carry
        layer = shape.layers - 1 - step
        norm_scale, norm_bias = (
            chip.load_per_feature(vectors.at[first_layer + layer], plain)
            for vectors in (norm_scale_gmem, norm_bias_gmem)
        )
        slot = lax.rem(step, 2)
        z = chip.receive(pre_activations, slot, plain).astype(jnp.float32)
        # The other slot was read a layer ago, and every thread has passed a `commit_smem` since.
        chip.when(layer > 0, fetch_z, layer - 1, 1 - slot)
        dz, normalised, d_scaled = chip.pull_back(d, z, norm_scale, norm_bias)
        # The previous layer's copy out of `operand` must have read it before it is written again, and no
        # wgmma reads it any more: `product` has waited for all of them.
        plgpu.wait_smem_to_gmem(0, wait_read_only=True)
        chip.write(operand, dz, plain)
        plgpu.commit_smem()  # shows what the threads wrote to copies and wgmma

        def keep_gradients() -> None:
            plgpu.copy_smem_to_gmem(operand, dz_gmem.at[first_layer + layer, rows])
            for number, of_rows in enumerate((dz, d_scaled * normalised, d_scaled)):
                sums_gmem[first_layer + layer, tile, number] = jnp.sum(of_rows, axis=1)

        chip.when(learns, keep_gradients)
        below = chip.product(weights, operand, step, shape.layers, fetch_weights, plain, transposed=False)
        starts_block = lax.rem(layer, BLOCK_DEPTH) == 0
        stream_cotangent = chip.select(starts_block, stream_cotangent + below, stream_cotangent)
        return stream_cotangent, chip.select(starts_block, residual_scale * stream_cotangent, below)

    dx, _ = lax.fori_loop(0, shape.layers, run_layer, (dy, residual_scale * dy))
    chip.send(dx, stream, dx_gmem.at[network, rows], plain)


def _weights(blocks: Blocks) -> Array:
    """Returns all kernels [G * 4K, W, W]."""
    return blocks.kernel.reshape(-1, *blocks.kernel.shape[-2:])


def _launch(shape: _Shape, interpret: Any) -> dict[str, Any]:
    launch = {
        "grid": (shape.networks, shape.batch // chip.ROWS),
        "grid_names": ("network", "rows"),
        # tanh and rsqrt as the hardware approximates them, which is finer than bfloat16; for sums over
        # features as much scratch memory as JAX advises for Hopper.
        "compiler_params": plgpu.CompilerParams(approx_math=True, reduction_scratch_bytes=6144),
    }
    return launch | {"interpret": interpret} if interpret else launch


def _is_plain(interpret: Any) -> bool:
    """Tells whether references are read as they are, and transposed as values."""
    return bool(interpret) and chip.PLAIN_INTERPRETER


def _shape(stream: Array, blocks: Blocks, grad_rows: int | None) -> _Shape:
    networks, batch, width = stream.shape
    layers = (networks, blocks.kernel.shape[1], BLOCK_DEPTH, width)
    chex.assert_shape([blocks.kernel, *blocks[1:]], [(*layers, width), layers, layers, layers])
    chex.assert_type([stream, *blocks], [jnp.float32, jnp.bfloat16, *[jnp.float32] * 3])
    learn = batch if grad_rows is None else grad_rows
    chex.assert_is_divisible(learn, chip.ROWS)
    return _Shape(networks, layers[1] * BLOCK_DEPTH, batch, width, learn)
