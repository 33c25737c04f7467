"""The fused kernels against plain float32, interpreted on any device and run as they are on a Hopper GPU."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from equation import random_blocks, value_and_gradients
from jax._src.pallas.mosaic_gpu.interpret.params import InterpretGPUParams

from teacher.blocks import Blocks, Settings
from teacher.kernels import fused
from teacher.networks import run_blocks

# A product rounds its weights and its operand, and its result is kept rounded: three times about
# 2^-9 / sqrt(3) = 1.1e-3, added in squares over a block's four layers 3.9e-3. The backward pass adds as much
# again on top of a rounded z: 5.5e-3, on the average. Anything forgotten in a layer moves a result by 1e-2 or
# more.
ROUNDING = 9e-3


def case_of(networks, count, batch, width):
    rng = np.random.default_rng(networks + count + width)
    x, directions = rng.normal(size=(2, networks, batch, width)).astype(np.float32)
    # Means that LayerNorm takes off again, and of which a rounded z would keep nothing else.
    blocks = (random_blocks(rng, count, width) for _ in range(networks))
    return tuple(x), tuple(each._replace(bias=each.bias + 30) for each in blocks), directions


@pytest.fixture(autouse=True)
def interpreter(monkeypatch):
    """Looks for races too; where the kernels can run as they are, there is none."""
    hopper = getattr(jax.devices()[0], "compute_capability", "") == "9.0"
    interpret = False if hopper else InterpretGPUParams(detect_races=True)
    for name in ("forward", "backward"):
        monkeypatch.setattr(fused, name, partial(getattr(fused, name), interpret=interpret))


def kernels(case, settings):
    return value_and_gradients(partial(run_blocks, fused=True), case, settings._replace(precision="bfloat16"))


def relative_error(value, expected):
    return np.linalg.norm(value - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize(("shape", "scale"), [((1, 1, 16, 256), 1.0), ((2, 2, 32, 64), 1e-3)])
def test_values_and_gradients_are_those_of_float32_up_to_rounding(shape, scale):
    case = case_of(*shape)
    settings = Settings(scale, "float32", batched=True, weight_grad_rows=16)
    expected, found = value_and_gradients(run_blocks, case, settings), kernels(case, settings)
    (x, _, directions), (y, (dx, gradients)), (true_y, (true_dx, true_gradients)) = case, found, expected
    for network in range(shape[0]):
        # With a branch of a thousandth, an increment is below half a digit of bfloat16.
        assert relative_error(y[network] - x[network], true_y[network] - x[network]) < ROUNDING
        moved, expected_move = (each[network] - directions[network] for each in (dx, true_dx))
        assert relative_error(moved, expected_move) < ROUNDING
        # Each carries the rounding of both passes, and loses a little more where rows cancel.
        for leaf in Blocks._fields:
            value, true = (getattr(each[network], leaf) for each in (gradients, true_gradients))
            assert value.dtype == jnp.float32
            for at in np.ndindex(true.shape[:2]):  # each layer by itself
                assert relative_error(value[at], true[at]) < 2 * ROUNDING, (leaf, at)


def test_supported_shapes():
    assert fused.supports(64, 16) and fused.supports(192, 48) and fused.supports(256, 512)
    assert not any(fused.supports(width, 512) for width in (0, 32, 96, 320, 512))
    assert not any(fused.supports(256, batch) for batch in (0, 8, 24, 100))


def lowered_size(count, networks, batch, width):
    """Length of both programs as compiled for CUDA, the kernels' own code included."""
    shape = (networks, count, 4, width)
    x = jax.ShapeDtypeStruct((networks, batch, width), jnp.float32)
    kernel = jax.ShapeDtypeStruct((*shape, width), jnp.bfloat16)
    blocks = Blocks(kernel, *3 * [jax.ShapeDtypeStruct(shape, jnp.float32)])
    z = jax.ShapeDtypeStruct((networks * count * 4, batch, width), jnp.bfloat16)

    def both(x, z, blocks):
        given = {"residual_scale": 0.5, "interpret": False}
        return fused.forward(x, blocks, **given), fused.backward(x, z, blocks, **given)

    return len(jax.jit(both).trace(x, z, blocks).lower(lowering_platforms=("cuda",)).as_text())


@pytest.mark.parametrize(("networks", "batch", "width"), [(1, 16, 64), (2, 512, 256)])
def test_code_for_cuda_does_not_grow_with_depth_at_any_width(networks, batch, width):
    shallow, deep = (lowered_size(count, networks, batch, width) for count in (1, 256))
    assert shallow > 2e4
    assert deep == pytest.approx(shallow, rel=0.02)
