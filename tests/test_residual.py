import re

import equation
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from equation import random_blocks, value_and_gradients

from teacher.blocks import Settings
from teacher.config import BLOCK_DEPTH
from teacher.networks import run_blocks

NETWORKS, BLOCKS, ROWS, WIDTH = 2, 2, 6, 8


@pytest.fixture(scope="module")
def case():
    """Inputs, parameters and output directions of two networks."""
    rng = np.random.default_rng(2)
    x, directions = rng.normal(size=(2, NETWORKS, ROWS, WIDTH)).astype(np.float32)
    return tuple(x), tuple(random_blocks(rng, BLOCKS, WIDTH) for _ in range(NETWORKS)), directions


@jax.default_matmul_precision("highest")
def looped(inputs, blocks, settings):
    return tuple(
        equation.stack(x, tree, settings.residual_scale) for x, tree in zip(inputs, blocks, strict=True)
    )


def assert_close(a, b, rtol=1e-4, atol=1e-5):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


@pytest.mark.parametrize("batched", [False, True])
def test_both_passes_equal_a_loop_and_its_derivative(case, batched):
    settings = Settings(0.3, "float32", batched)
    found = value_and_gradients(run_blocks, case, settings)
    assert_close(found, value_and_gradients(looped, case, settings))
    for network in found[1][1]:  # no layer is left out
        for gradient in network:
            assert (np.abs(gradient).reshape(BLOCKS, BLOCK_DEPTH, -1).max(-1) > 1e-4).all()


def test_weights_learn_from_the_weight_grad_rows_alone_and_inputs_from_all(case):
    taught = 2
    settings = Settings(0.3, "float32", batched=True, weight_grad_rows=taught)
    out, (inputs, blocks) = value_and_gradients(run_blocks, case, settings)
    all_out, (all_inputs, _) = value_and_gradients(looped, case, settings)
    first = tuple(x[:taught] for x in case[0]), case[1], case[2][:, :taught]
    _, (_, first_blocks) = value_and_gradients(looped, first, settings)
    assert_close((out, inputs, blocks), (all_out, all_inputs, first_blocks))


@pytest.mark.parametrize(("batched", "mean"), [(False, 0), (True, 0), (True, 30)])
def test_bfloat16_products_stay_near_float32(case, batched, mean):
    """Whatever biases have in common: LayerNorm takes it off again."""
    inputs, blocks, directions = case
    shifted = tuple(each._replace(bias=each.bias + mean) for each in blocks)
    exact, rounded = (
        value_and_gradients(run_blocks, (inputs, shifted, directions), Settings(0.3, precision, batched))
        for precision in ("float32", "bfloat16")
    )
    for a, b in zip(jax.tree.leaves(exact), jax.tree.leaves(rounded), strict=True):
        assert b.dtype == jnp.float32
        error = np.linalg.norm(a - b) / np.linalg.norm(a)
        assert 0 < error < 0.03  # some products of rounding errors of 2**-9


def test_the_residual_stream_keeps_float32_increments(case):
    """One bfloat16 step at 100 is 0.5: branches that small would be rounded away one by one."""
    inputs, blocks, _ = case
    far = tuple(x + 100.0 for x in inputs)
    settings = Settings(0.01, "bfloat16", batched=False)
    moved = [np.asarray(y - x) for x, y in zip(far, run_blocks(far, blocks, settings), strict=True)]
    expected = [np.asarray(y - x) for x, y in zip(far, looped(far, blocks, settings), strict=True)]
    for a, b in zip(moved, expected, strict=True):
        assert np.linalg.norm(a - b) < 0.05 * np.linalg.norm(b)


@pytest.mark.parametrize("count", [1, NETWORKS])
def test_a_cpu_makes_plain_products_for_each_network(case, count):
    """With an axis of networks, even of one, XLA's CPU compiler copies weights to transpose them."""
    inputs, blocks, _ = case

    def value(inputs, blocks):
        return sum(out.sum() for out in run_blocks(inputs, blocks, Settings(0.3, "float32", batched=False)))

    traced = jax.make_jaxpr(jax.grad(value, argnums=(0, 1)))(inputs[:count], blocks[:count])
    products = re.findall(r"dimension_numbers=(.*)", str(traced))
    assert len(products) > 3 * BLOCK_DEPTH * count
    assert all(each.endswith("([], []))") for each in products), products


def test_weights_that_are_constant_cost_no_gradient(case):
    """XLA finds that nobody asks for it, in a loop over blocks as well."""
    inputs, blocks, _ = case

    def value(inputs, learned, fixed):
        both = run_blocks(inputs, (learned, fixed), Settings(0.3, "float32", batched=False))
        return sum(out.sum() for out in both)

    def products(argnums):
        program = jax.jit(jax.grad(value, argnums)).lower(inputs, *blocks).compile().as_text()
        return len(re.findall(rf"= f32\[{WIDTH},{WIDTH}\]\S* dot\(", program))

    assert products((0, 1)) == BLOCK_DEPTH
    assert products((0, 1, 2)) == 2 * BLOCK_DEPTH
