"""The fused kernels against plain float32, interpreted on any device and run as they are on a Hopper GPU."""

from functools import partial
from typing import NamedTuple

import equation
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.pallas.mosaic_gpu.interpret.params import InterpretGPUParams

from teacher.blocks import Blocks
from teacher.kernels import fused

# A product rounds its weights and its operand, and its result is kept rounded: three times about
# 2^-9 / sqrt(3) = 1.1e-3, added in squares over a block's four layers 3.9e-3. The backward pass adds as much
# again on top of a rounded z: 5.5e-3. Anything forgotten in a layer moves a result by 1e-2 or more.
ROUNDING = 8e-3


class Case(NamedTuple):
    x: jax.Array
    dy: jax.Array
    blocks: Blocks
    residual_scale: float
    grad_rows: int


class Results(NamedTuple):
    y: jax.Array
    operands: jax.Array
    z: jax.Array
    dx: jax.Array
    dz: jax.Array


def make_case(networks=1, count=1, batch=16, width=64, residual_scale=0.7, grad_rows=None):
    rng = np.random.default_rng(networks + count + width)
    shape = (networks, count, 4, width)

    def normal(*size, mean=0.0, deviation=1.0):
        return jnp.asarray(rng.normal(mean, deviation, size), jnp.float32)

    blocks = Blocks(
        kernel=normal(*shape, width, deviation=width**-0.5),
        bias=normal(*shape, deviation=0.3),
        norm_scale=normal(*shape, mean=1.0, deviation=0.3),
        norm_bias=normal(*shape, deviation=0.3),
    )
    x, dy = normal(networks, batch, width), normal(networks, batch, width)
    return Case(x, dy, blocks, residual_scale, grad_rows or batch)


def interpreter():
    """False where the kernels can run as they are, else the interpreter, which also looks for races."""
    hopper = getattr(jax.devices()[0], "compute_capability", "") == "9.0"
    return False if hopper else InterpretGPUParams(detect_races=True)


@jax.default_matmul_precision("highest")
def reference_stack(x, blocks, perturbation, residual_scale):
    """One network: y, and what its layers see. `perturbation` [K, 4, B, W] is added to their products."""
    operands, pre_activations = [], []
    for block in range(len(blocks.kernel)):
        branch = x
        for at in ((block, layer) for layer in range(4)):
            operands.append(branch)
            pre_activations.append(branch @ blocks.kernel[at] + blocks.bias[at] + perturbation[at])
            branch = equation.activation(pre_activations[-1], blocks.norm_scale[at], blocks.norm_bias[at])
        x = x + residual_scale * branch
    return x, (jnp.stack(operands), jnp.stack(pre_activations))


def reference(case):
    """Results, and the gradients of all blocks' parameters from the first `grad_rows`."""

    def of_network(x, dy, blocks):
        none = jnp.zeros((*blocks.bias.shape[:2], *x.shape))
        y, pull, (operands, z) = jax.vjp(
            lambda *arguments: reference_stack(*arguments, case.residual_scale), x, blocks, none, has_aux=True
        )
        dx, _, dz = pull(dy)
        rows = slice(case.grad_rows)
        few = none[:, :, rows]
        _, learn = jax.vjp(
            lambda blocks: reference_stack(x[rows], blocks, few, case.residual_scale)[0], blocks
        )
        dz = dz.reshape(-1, *x.shape)[:, rows]
        return Results(y, operands[:, rows], z, dx, dz), *learn(dy[rows])

    results, gradients = jax.jit(jax.vmap(of_network))(case.x, case.dy, case.blocks)
    by_layer = {name: np.concatenate(getattr(results, name)) for name in ("operands", "z", "dz")}
    return results._replace(**by_layer), gradients


def run(case):
    """Results, and the gradients that follow from them."""
    return run_kernels(case.x, case.dy, case.blocks, case.residual_scale, case.grad_rows)


@partial(jax.jit, static_argnums=(3, 4))
def run_kernels(x, dy, blocks, *numbers):
    blocks = rounded(blocks)
    y, operands, z = fused.forward(x, blocks, *numbers, interpret=interpreter())
    dx, dz, sums = fused.backward(dy, z, blocks, *numbers, interpret=interpreter())
    return Results(y, operands, z, dx, dz), fused.gradients(operands, dz, sums, blocks)


def rounded(blocks):
    return blocks._replace(kernel=blocks.kernel.astype(jnp.bfloat16))


def relative_error(value, expected):
    value, expected = np.asarray(value, np.float32), np.asarray(expected, np.float32)
    return np.linalg.norm(value - expected) / np.linalg.norm(expected)


@pytest.fixture(
    scope="module",
    params=[(1, 1, 16, 256, 1.0, 16), (1, 2, 32, 64, 1e-3, 16)],
    ids=lambda params: "G{}-K{}-B{}-W{}-branch{}-R{}".format(*params),
)
def compared(request):
    case = make_case(*request.param)
    return case, *run(case), *reference(case)


@pytest.mark.parametrize("name", Results._fields)
def test_results_are_those_of_float32_up_to_rounding(compared, name):
    _, results, _, expected, _ = compared
    value, expected = getattr(results, name), getattr(expected, name)
    assert value.shape == expected.shape
    assert value.dtype == (jnp.float32 if name in ("y", "dx") else jnp.bfloat16)
    for index in range(len(value)):  # each network or layer by itself
        assert relative_error(value[index], expected[index]) < ROUNDING, index


@pytest.mark.parametrize("leaf", Blocks._fields)
def test_gradients_are_those_of_float32_up_to_rounding(compared, leaf):
    # Each carries the rounding of both passes, and loses a little more where rows cancel.
    _, _, gradients, _, expected = compared
    value, expected = getattr(gradients, leaf), getattr(expected, leaf)
    assert value.shape == expected.shape and value.dtype == jnp.float32
    for at in np.ndindex(value.shape[:3]):
        assert relative_error(value[at], expected[at]) < 2 * ROUNDING, at


def test_the_residual_stream_keeps_what_bfloat16_would_round_away(compared):
    # With a branch of a thousandth, an increment is below half a digit of bfloat16.
    case, results, _, expected, _ = compared
    assert relative_error(results.y - case.x, expected.y - case.x) < ROUNDING
    assert relative_error(results.dx - case.dy, expected.dx - case.dy) < ROUNDING


def test_a_row_does_not_depend_on_the_others():
    case = make_case(batch=32, width=128)
    others = jnp.arange(32) != 20
    changed = case._replace(
        x=jnp.where(others[:, None], -2 * case.x, case.x), dy=jnp.where(others[:, None], 3.0, case.dy)
    )
    for name, before, after in zip(Results._fields, run(case)[0], run(changed)[0], strict=True):
        before, after = np.asarray(before, np.float32), np.asarray(after, np.float32)
        np.testing.assert_array_equal(before[..., 20, :], after[..., 20, :], err_msg=name)
        assert (before[..., :20, :] != after[..., :20, :]).any(-1).all(), name


def test_supported_shapes():
    assert fused.supports(64, 16) and fused.supports(192, 48) and fused.supports(256, 512)
    assert not any(fused.supports(width, 512) for width in (0, 32, 96, 320, 512))
    assert not any(fused.supports(256, batch) for batch in (0, 8, 24, 100))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda case: {"x": case.x[:, :-1]}, r"x must be .* at most 256.*multiple of 16; got \[1, "),
        (lambda case: {"x": case.x[0]}, r"x must be \[networks, batch, width\]"),
        (lambda case: {"x": case.x.astype(jnp.bfloat16)}, r"x must be float32 \[1, 16, 64\]; got bfloat16"),
        (lambda case: {"blocks": case.blocks._replace(kernel=case.blocks.bias)}, "blocks.kernel must be"),
        (
            lambda case: {"blocks": case.blocks._replace(bias=case.blocks.bias[:, :, :3])},
            r"blocks.bias must be float32 \[1, 1, 4, 64\]; got float32 \[1, 1, 3, 64\]",
        ),
        (lambda case: {"grad_rows": 8}, "grad_rows must be a multiple of 16 and at most 16; got 8"),
    ],
)
def test_other_shapes_are_refused_with_those_allowed(change, message):
    case = make_case()
    case = case._replace(**change(case))
    with pytest.raises(ValueError, match=message):
        fused.forward(case.x, rounded(case.blocks), case.residual_scale, case.grad_rows)
    z = jnp.zeros((4, 32, 64), jnp.bfloat16)
    with pytest.raises(ValueError, match=r"z must be bfloat16 \[4, 16, 64\]; got bfloat16"):
        fused.backward(make_case().dy, z, rounded(make_case().blocks), 1.0)


def lowered_sizes(networks, count, batch, width):
    """Lengths of both programs as compiled for CUDA, the kernels' own code included."""
    shape = (networks, count, 4, width)
    stream = jax.ShapeDtypeStruct((networks, batch, width), jnp.float32)
    kernel = jax.ShapeDtypeStruct((*shape, width), jnp.bfloat16)
    blocks = Blocks(kernel, *3 * [jax.ShapeDtypeStruct(shape, jnp.float32)])
    z = jax.ShapeDtypeStruct((networks * count * 4, batch, width), jnp.bfloat16)
    programs = [
        jax.jit(lambda x, blocks: fused.forward(x, blocks, 0.5)).trace(stream, blocks),
        jax.jit(lambda dy, z, blocks: fused.backward(dy, z, blocks, 0.5)).trace(stream, z, blocks),
    ]
    return np.array([len(program.lower(lowering_platforms=("cuda",)).as_text()) for program in programs])


@pytest.mark.parametrize(("networks", "batch", "width"), [(1, 16, 64), (2, 512, 256)])
def test_code_for_cuda_does_not_grow_with_depth_at_any_width(networks, batch, width):
    shallow, deep = (lowered_sizes(networks, count, batch, width) for count in (1, 256))
    assert (shallow > 1e4).all()
    np.testing.assert_allclose(deep, shallow, rtol=0.02)
