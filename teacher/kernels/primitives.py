"""What a thread block does in the fused kernels: products of streamed weights, normalisation, copies.

Arrays are registers [W, ROWS], features first; memory, shared and global, keeps rows first.
`plain` says that the kernel is interpreted by a version of JAX that cannot interpret all of it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from teacher.blocks import NORM_EPSILON

Array = jax.Array
Ref = Any  # of Pallas: a view of global or shared memory

ROWS = 16  # of the batch in one thread block; an array [W, ROWS] takes 32 registers of a thread's 255
CHUNK = 64  # inputs of a layer in one weight slot: 128 bytes of bfloat16, the widest swizzle
MAX_WIDTH = 256  # the backward pass then takes 214 KB of the 227 KB of shared memory that a thread block has

# JAX 0.10 interprets neither transposed references nor `plgpu.load`, though it compiles both.
PLAIN_INTERPRETER = jax.__version_info__ < (0, 11)


class Slots(NamedTuple):
    """Shared memory that asynchronous copies fill, and a barrier each that says when."""

    tiles: Ref
    arrived: Ref


def product(
    weights: Slots,
    operand: Ref,
    number: Array,
    layers: int,
    fetch: Callable[[Array], None],
    plain: bool,
    *,
    transposed: bool,
) -> Array:
    """Multiplies a layer's weights [W, W], or their transpose, with the transposed operand [ROWS, W].

    Slots are those of `weight_slots`, with the same `transposed`. The layer is the `number`-th of `layers`
    in the order of the pass. Once no wgmma reads a slot any more, it is filled with the next chunk that has
    none yet: weights arrive while epilogues run.

    Returns: float32 [W, ROWS]; no wgmma is in flight then."""
    slots, width = weights.tiles.shape[0], operand.shape[1]
    chunks = width // CHUNK
    first = number * chunks

    def refill(chunk: int) -> None:
        step = first + chunk + slots
        when(step < layers * chunks, fetch, step)

    def arrived(chunk: int) -> Ref:
        slot = lax.rem(first + chunk, slots)
        plgpu.barrier_wait(weights.arrived.at[slot])
        tile = weights.tiles.at[slot]
        return tile.transpose((1, 0)) if transposed and not plain else tile

    def accumulate(total: Ref) -> Array:
        for chunk in range(chunks):
            columns = operand.at[:, pl.ds(chunk * CHUNK, CHUNK)]
            plgpu.wgmma(total, arrived(chunk), columns.transpose((1, 0)))
            if chunk:
                plgpu.wgmma_wait(1)  # for all but this chunk's
                refill(chunk - 1)
        plgpu.wgmma_wait(0)
        refill(chunks - 1)
        return total[...]

    if not plain:
        return pl.run_scoped(accumulate, plgpu.ACC((width, ROWS), jnp.float32))
    product = jnp.zeros((width, ROWS), jnp.float32)
    for chunk in range(chunks):
        columns = operand[:, pl.ds(chunk * CHUNK, CHUNK)].T
        tile = arrived(chunk)[...]
        product += jnp.dot(tile.T if transposed else tile, columns, preferred_element_type=jnp.float32)
        refill(chunk)
    return product


def chunk_of_step(step: Array | int, weights: Slots) -> tuple[Array, Any, Array]:
    """Returns the number of a chunk's layer, the chunk's columns or rows there, and its slot.

    Args: step: the chunk's own number. Layers and chunks are counted in the order of the pass."""
    slots = weights.tiles.shape[0]
    chunks = slots - 1
    layer, chunk = lax.div(step, chunks), lax.rem(step, chunks)
    return layer, pl.ds(chunk * CHUNK, CHUNK), lax.rem(step, slots)


def fetch(source: Ref, slots: Slots, slot: Array | int) -> None:
    """Starts a copy into a slot, after a barrier of all threads, so that none still reads the slot."""
    plgpu.copy_gmem_to_smem(source, slots.tiles.at[slot], slots.arrived.at[slot])


def receive(slots: Slots, slot: Array | int, plain: bool) -> Array:
    """Waits for a slot [ROWS, W]; its contents as registers [W, ROWS]."""
    plgpu.barrier_wait(slots.arrived.at[slot])
    tile = slots.tiles.at[slot]
    if plain:
        return tile[...].T
    value = plgpu.layout_cast(tile.transpose((1, 0))[...], plgpu.Layout.WGMMA_TRANSPOSED)
    return plgpu.layout_cast(value, plgpu.Layout.WGMMA)


def write(tile: Ref, value: Array, plain: bool) -> None:
    """Writes registers [W, ROWS] into shared memory [ROWS, W], rounded to its dtype."""
    value = value.astype(tile.dtype)
    if plain:
        tile[...] = value.T
    else:
        tile.transpose((1, 0))[...] = plgpu.layout_cast(value, plgpu.Layout.WGMMA_TRANSPOSED)


def send(value: Array, slots: Slots, destination: Ref, plain: bool) -> None:
    """Writes registers [W, ROWS] to global memory [ROWS, W] by way of the first slot."""
    write(slots.tiles.at[0], value, plain)
    plgpu.commit_smem()
    plgpu.copy_smem_to_gmem(slots.tiles.at[0], destination)
    plgpu.wait_smem_to_gmem(0)  # shared memory ends with the kernel, which no copy out of it may outlive


def load_per_feature(vector: Ref, plain: bool) -> Array:
    """Loads a layer's parameters [W] from global memory, repeated over the rows: [W, ROWS]."""
    if plain:
        values = vector[...]
    else:
        index = ((),) if PLAIN_INTERPRETER else ()  # an argument that later versions dropped
        values = plgpu.load(vector, *index, layout=plgpu.Layout.WGMMA.reduce(1), optimized=False)
    return lax.broadcast_in_dim(values, (len(values), ROWS), (0,))


def feature_mean(x: Array) -> Array:
    """Averages [W, ROWS] over the features, and repeats that over them."""
    return lax.broadcast_in_dim(jnp.sum(x, axis=0) * (1 / len(x)), x.shape, (1,))


def normalise(z: Array) -> tuple[Array, Array]:
    """Normalises z [W, ROWS] over its features; returns also the inverse of their standard deviation."""
    centred = z - feature_mean(z)
    inv_std = lax.rsqrt(feature_mean(centred * centred) + NORM_EPSILON)
    return centred * inv_std, inv_std


def sigmoid(x: Array) -> Array:
    return 0.5 + 0.5 * jnp.tanh(0.5 * x)  # one instruction, where exponential and division are two


def pull_back(d: Array, z: Array, norm_scale: Array, norm_bias: Array) -> tuple[Array, Array, Array]:
    """Turns d, the cotangent of swish(normalised * norm_scale + norm_bias), into that of z; all [W, ROWS].

    Returns: dz; `normalised` again; the cotangent of what swish was given."""
    normalised, inv_std = normalise(z)
    scaled = normalised * norm_scale + norm_bias
    gate = sigmoid(scaled)
    d_scaled = d * gate * (1 + scaled * (1 - gate))
    d_normalised = d_scaled * norm_scale
    along = feature_mean(d_normalised * normalised)
    dz = inv_std * (d_normalised - feature_mean(d_normalised) - normalised * along)
    return dz, normalised, d_scaled


def select(condition: Array, if_true: Array, if_false: Array) -> Array:
    """Chooses by one scalar condition, repeated here because not every lowering does that."""
    return lax.select(lax.broadcast_in_dim(condition, if_true.shape, ()), if_true, if_false)


def when(condition: Array, action: Callable[..., None], *args: Any) -> None:
    pl.when(condition)(lambda: action(*args))


def tile(*shape: int, dtype: Any = jnp.bfloat16) -> Any:
    """Describes shared memory in the swizzled tiles that both wgmma and the copy engine know."""
    tiling = plgpu.TilingTransform((8, 128 // jnp.dtype(dtype).itemsize))
    return plgpu.SMEM(shape, dtype, transforms=(tiling, plgpu.SwizzleTransform(128)))


def slots_of(count: int, *shape: int, dtype: Any = jnp.bfloat16) -> Slots:
    return Slots(tile(count, *shape, dtype=dtype), plgpu.Barrier(num_barriers=count))


def weight_slots(width: int, *, transposed: bool) -> Slots:
    """Makes slots for a layer's chunks and one more.

    Each takes CHUNK columns of the weights, rows if the transpose is wanted. The one more keeps slots
    changing from layer to layer, and so keeps the compiler from holding the addresses of all their tiles in
    registers throughout the loop."""
    return slots_of(width // CHUNK + 1, *((CHUNK, width) if transposed else (width, CHUNK)))
