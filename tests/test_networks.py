import equation
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pydantic import ValidationError

from teacher.compilation import jit_once
from teacher.config import NetworkConfig
from teacher.networks import (
    action_distribution,
    embed_state_action,
    init_params,
    make_networks,
)

SIZES = OBSERVATION, ACTION, GOAL = 17, 7, 3


@pytest.fixture(scope="module")
def fresh():
    networks = make_networks(NetworkConfig(depth=16, width=32, repr_dim=5), ACTION)
    return networks, jax.jit(lambda key: init_params(networks, key, SIZES))(jax.random.key(0))


def shapes(**config):
    networks = make_networks(NetworkConfig(**config), ACTION)
    return jax.eval_shape(lambda key: init_params(networks, key, SIZES), jax.random.key(0))


def inputs(batch):
    rng = np.random.default_rng(1)
    return [rng.normal(size=(batch, size)).astype(np.float32) for size in SIZES]


def test_depths_count_hidden_layers_and_may_differ():
    def depths(**config):
        params = shapes(**config)
        for kernel in (tree["params"]["kernel"] for tree in params[:3]):
            blocks, layers, rows, columns = kernel.shape
            assert (rows, columns) == (5, 5)
            yield blocks * layers

    assert [*depths(depth=64, width=5)] == [64, 64, 64]
    assert [*depths(depth=8, width=5, actor_depth=12, critic_depth=16)] == [12, 16, 16]
    assert [*depths(depth=8, width=5, critic_depth=4)] == [8, 4, 4]


@pytest.mark.parametrize(
    ("field", "depth", "nearest"),
    [("depth", 5, "4 or 8"), ("actor_depth", 18, "16 or 20"), ("critic_depth", 1023, "1020 or 1024")],
)
def test_a_depth_that_is_no_multiple_of_four_is_refused_with_its_neighbours(field, depth, nearest):
    with pytest.raises(
        ValidationError, match=rf"{field}\s+Value error, must be a multiple of 4, for example {nearest}"
    ):
        NetworkConfig(**{field: depth})


def test_fresh_kernels_are_uniform_with_a_third_of_the_fan_in_as_variance(fresh):
    inner = jax.tree.map(np.asarray, fresh[1].actor["params"])
    for kernel in (inner["input"]["kernel"], *inner["kernel"].reshape(-1, 32, 32), inner["output"]["kernel"]):
        fan_in = len(kernel)
        assert np.abs(kernel).max() <= fan_in**-0.5
        assert kernel.var() * 3 * fan_in == pytest.approx(1.0, abs=0.2)
    flat = inner["kernel"].reshape(16, -1)
    assert len(np.unique(flat, axis=0)) == 16  # no two layers start alike


def drawn_params(network, inputs, rng):
    """Parameters all of which matter: biases that are not zero, norms that are not one."""

    def draw(path, leaf):
        name, shape = path[-1].key, leaf.shape
        mean, spread = (0, shape[-2] ** -0.5) if name == "kernel" else (name.endswith("scale"), 0.1)
        return rng.normal(mean, spread, shape).astype(np.float32)

    shapes = jax.eval_shape(network.init, jax.random.key(0), np.zeros((1, inputs)))
    return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.mark.parametrize(
    ("architecture", "depth", "factor"),
    [
        ("published", 4, 1.0),
        ("published", 64, 1.0),
        ("scaled", 16, 1.0),
        # arXiv:2505.01618 with alpha = 1: (K / K_base)^-1 for K blocks, never more than 1; K_base = 4.
        ("scaled", 20, 4 / 5),
        ("scaled", 256, 4 / 64),
    ],
)
def test_a_network_is_the_published_equation_with_its_factor_on_each_branch(architecture, depth, factor):
    config = NetworkConfig(depth=depth, width=16, repr_dim=5, architecture=architecture, precision="float32")
    rng = np.random.default_rng(depth)
    for network, size in zip(
        make_networks(config, ACTION), (OBSERVATION + GOAL, OBSERVATION + ACTION, GOAL), strict=True
    ):
        params, x = drawn_params(network, size, rng), rng.normal(size=(6, size))
        expected = equation.network(jax.tree.map(np.float64, params["params"]), x, factor)
        found = jax.jit(network.apply)(params, x.astype(np.float32))
        np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("depth", [4, 64, 1024])
def test_a_fresh_network_of_any_depth_can_begin_to_learn(depth):
    """Its actions move, and differ between observations: no more is asked of a start than that."""
    networks = make_networks(NetworkConfig(depth=depth), ACTION)
    observation, action, goal = inputs(batch=32)

    @jit_once
    def outputs(key):
        actor = networks.actor.init(key, jnp.zeros((1, OBSERVATION + GOAL)))
        encoder = networks.state_action.init(key, jnp.zeros((1, OBSERVATION + ACTION)))
        mean, _ = action_distribution(networks, actor, observation, goal)
        return mean, embed_state_action(networks, encoder, observation, action)

    mean, features = map(np.asarray, outputs(jax.random.key(0)))
    assert 0.2 < np.sqrt((mean**2).mean()) < 1.5
    assert (np.abs(np.tanh(mean)) > 0.99).mean() < 0.01
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    assert (unit @ unit.T)[~np.eye(32, dtype=bool)].mean() < 0.95
