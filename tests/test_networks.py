import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pydantic import ValidationError

from teacher.config import CollectConfig, NetworkConfig, TaskConfig, TeacherConfig, UpdateConfig
from teacher.learner import Learner
from teacher.networks import (
    BLOCK_DEPTH,
    LOG_STD_MAX,
    LOG_STD_MIN,
    Blocks,
    action_distribution,
    embed_goal,
    embed_state_action,
    init_params,
    layer_norm,
    make_networks,
    residual_stack,
)
from teacher.replay import Batch

SIZES = OBSERVATION, ACTION, GOAL = 17, 7, 3


@pytest.fixture(scope="module")
def fresh():
    networks = make_networks(NetworkConfig(depth=16, width=32, representation=5), ACTION)
    return networks, jax.jit(lambda key: init_params(networks, key, SIZES))(jax.random.key(0))


def shapes(**config):
    networks = make_networks(NetworkConfig(**config), ACTION)
    return jax.eval_shape(lambda key: init_params(networks, key, SIZES), jax.random.key(0))


def inputs(batch):
    rng = np.random.default_rng(1)
    return [rng.normal(size=(batch, size)).astype(np.float32) for size in SIZES]


def random_blocks(count, width):
    rng = np.random.default_rng(2)
    shape = (count, BLOCK_DEPTH, width)
    return Blocks(
        *(
            jnp.asarray(offset + rng.normal(scale=scale, size=size), jnp.float32)
            for offset, scale, size in [
                (0, width**-0.5, (*shape, width)),
                (0, 0.1, shape),
                (1, 0.1, shape),
                (0, 0.1, shape),
            ]
        )
    )


def looped_stack(x, blocks, branch_scale):
    """The same residual network, one block and one layer at a time."""
    for block in range(len(blocks.kernel)):
        branch = x
        for layer in range(4):
            branch = branch @ blocks.kernel[block, layer] + blocks.bias[block, layer]
            mean = branch.mean(-1, keepdims=True)
            spread = jnp.sqrt(branch.var(-1, keepdims=True) + 1e-6)
            branch = (branch - mean) / spread * blocks.norm_scale[block, layer] + blocks.norm_bias[
                block, layer
            ]
            branch = branch * jax.nn.sigmoid(branch)
        x = x + branch_scale * branch
    return x


def test_the_scan_over_blocks_equals_a_loop():
    blocks = random_blocks(count=3, width=6)
    x, direction = np.random.default_rng(3).normal(size=(2, 4, 6)).astype(np.float32)

    def value_and_gradients(stack):
        def value(x, blocks):
            out = stack(x, blocks, 0.3)
            return (out * direction).sum(), out

        (_, out), gradients = jax.jit(jax.value_and_grad(value, argnums=(0, 1), has_aux=True))(x, blocks)
        return out, gradients

    scanned, looped = value_and_gradients(residual_stack), value_and_gradients(looped_stack)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), scanned, looped)
    for gradient in scanned[1][1]:  # no layer is left out
        assert (np.abs(gradient).reshape(3, BLOCK_DEPTH, -1).max(-1) > 1e-4).all()


def test_layer_norm_centres_and_scales_each_row():
    x = jnp.array([[1.0, 3.0], [10.0, 10.0]])
    expected = [[-1.0 * 2 + 5, 1.0 * 3 + 6], [5.0, 6.0]]
    np.testing.assert_allclose(
        layer_norm(x, jnp.array([2.0, 3.0]), jnp.array([5.0, 6.0])), expected, rtol=1e-5
    )


@pytest.mark.parametrize("depth", [4, 12, 64])
def test_depth_counts_hidden_layers(depth):
    params = shapes(depth=depth, width=5)
    for tree in (params.actor, params.state_action, params.goal):
        blocks, layers, rows, columns = tree["params"]["kernel"].shape
        assert (blocks * layers, rows, columns) == (depth, 5, 5)


@pytest.mark.parametrize(("depth", "nearest"), [(5, "4 or 8"), (18, "16 or 20"), (1023, "1020 or 1024")])
@pytest.mark.parametrize("field", ["depth", "actor_depth", "critic_depth"])
def test_a_depth_that_is_no_multiple_of_four_is_refused_with_its_neighbours(field, depth, nearest):
    with pytest.raises(
        ValidationError, match=rf"{field}\s+Value error, must be a multiple of 4, for example {nearest}"
    ):
        NetworkConfig(**{field: depth})


def test_actor_and_critic_depths_are_honoured():
    params = shapes(depth=8, width=4, actor_depth=12, critic_depth=16)
    counts = [len(tree["params"]["kernel"]) for tree in (params.actor, params.state_action, params.goal)]
    assert counts == [3, 4, 4]
    params = shapes(depth=8, width=4, critic_depth=4)
    assert [len(tree["params"]["kernel"]) for tree in (params.actor, params.goal)] == [2, 1]


def test_outputs_have_their_shapes_and_spreads_their_bounds(fresh):
    networks, params = fresh
    observation, action, goal = inputs(batch=6)
    distribution = jax.jit(lambda actor: action_distribution(networks, actor, observation, goal))
    mean, log_std = distribution(params.actor)
    assert mean.shape == log_std.shape == (6, ACTION)
    assert jax.eval_shape(
        lambda: embed_state_action(networks, params.state_action, observation, action)
    ).shape == (6, 5)
    assert jax.eval_shape(lambda: embed_goal(networks, params.goal, goal)).shape == (6, 5)

    for bias, bound in [(1e3, LOG_STD_MAX), (-1e3, LOG_STD_MIN)]:
        biased = jax.tree.map(np.array, params.actor)
        biased["params"]["output"]["bias"][ACTION:] = bias
        np.testing.assert_allclose(distribution(biased)[1], bound, atol=1e-5)


def test_fresh_kernels_are_uniform_with_a_third_of_the_fan_in_as_variance(fresh):
    inner = jax.tree.map(np.asarray, fresh[1].actor["params"])
    for kernel in (inner["input"]["kernel"], *inner["kernel"].reshape(-1, 32, 32), inner["output"]["kernel"]):
        fan_in = len(kernel)
        assert np.abs(kernel).max() <= fan_in**-0.5
        assert kernel.var() * 3 * fan_in == pytest.approx(1.0, abs=0.2)
    flat = inner["kernel"].reshape(16, -1)
    assert len(np.unique(flat, axis=0)) == 16  # no two layers start alike


def pre_tanh_scale_and_cosine(depth, architecture):
    """How a fresh network starts: rms of the actor's mean, cosine between different inputs' features."""
    networks = make_networks(NetworkConfig(depth=depth, width=64, architecture=architecture), ACTION)
    observation, action, goal = inputs(batch=64)

    @jax.jit
    def outputs(key):
        params = init_params(networks, key, SIZES)
        mean, _ = action_distribution(networks, params.actor, observation, goal)
        features = embed_state_action(networks, params.state_action, observation, action)
        return mean, features - params.state_action["params"]["output"]["bias"]

    mean, features = outputs(jax.random.key(0))
    features /= jnp.linalg.norm(features, axis=1, keepdims=True)
    cosine = (features @ features.T)[~np.eye(64, dtype=bool)].mean()
    return float(jnp.sqrt((mean**2).mean())), float(cosine)


def test_a_scaled_network_starts_alike_at_any_depth_and_a_published_one_does_not():
    (shallow_scale, shallow_cosine), (deep_scale, deep_cosine) = (
        pre_tanh_scale_and_cosine(depth, "scaled") for depth in (4, 256)
    )
    assert 0.5 * shallow_scale < deep_scale < 1.2 * shallow_scale
    assert deep_cosine < shallow_cosine + 0.15
    published_scale, published_cosine = pre_tanh_scale_and_cosine(256, "published")
    assert published_scale > 6 * shallow_scale
    assert published_cosine > 0.97


def test_what_the_update_compiles_does_not_grow_with_depth():
    def lowered(depth):
        config = TeacherConfig(
            task=TaskConfig(name="reacher", engine="mujoco"),
            network=NetworkConfig(depth=depth, width=8),
            update=UpdateConfig(batch=4),
            collect=CollectConfig(envs=4),
        )
        learner = Learner(config)
        sizes = learner.spec.observation_size, learner.spec.action_size, learner.spec.goal_size
        params = jax.eval_shape(lambda key: init_params(learner.networks, key, sizes), jax.random.key(0))
        optimiser = jax.eval_shape(learner.optimiser.init, params)
        batch = Batch(*(jax.ShapeDtypeStruct((4, size), jnp.float32) for size in sizes))
        text = jax.jit(learner.update).lower((params, optimiser), batch, jax.random.key(0)).as_text()
        return len(text.splitlines())

    assert abs(lowered(64) - lowered(16)) <= 4
