"""One joint update against the plain, separate updates of actor, critic and temperature."""

from functools import partial

import equation
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from teacher import losses
from teacher.compilation import jit_once
from teacher.config import CollectConfig, NetworkConfig, TaskConfig, TeacherConfig, UpdateConfig
from teacher.learner import Learner
from teacher.networks import LOG_STD_MAX, LOG_STD_MIN, init_params
from teacher.replay import Batch

BATCH = 12


def learner_of(**network):
    return Learner(
        TeacherConfig(
            task=TaskConfig(name="reacher", engine="mujoco"),
            network=NetworkConfig(width=8, repr_dim=4, precision="float32", **network),
            update=UpdateConfig(actor_lr=1e-3, critic_lr=2e-3, temperature_lr=5e-3, batch_size=BATCH),
            collect=CollectConfig(envs=BATCH),
        )
    )


def case(learner):
    sizes = learner.spec.observation_size, learner.spec.action_size, learner.spec.goal_size
    params = jit_once(lambda key: init_params(learner.networks, key, sizes))(jax.random.key(0))
    rng = np.random.default_rng(0)
    batch = Batch(*(rng.uniform(-1, 1, (BATCH, size)).astype(np.float32) for size in sizes))
    return params, batch, jax.random.key(1)


@jax.default_matmul_precision("highest")
def forward(network, params, *inputs):
    """A network with JAX's own derivative."""

    def stack(h, blocks, factor):
        return jax.lax.scan(lambda h, layers: (equation.block(h, layers, factor), None), h, blocks)[0]

    factor = min(1.0, 16 / network.depth)
    return equation.network(params["params"], jnp.concatenate(inputs, -1), factor, stack)


def noise_of(key, shape):
    """Each row's noise depends on its number alone."""
    return jnp.stack([jax.random.normal(jax.random.fold_in(key, row), shape[1:]) for row in range(shape[0])])


def critic_loss(critic, networks, batch, penalty):
    state_action, goal = critic
    data = forward(networks.state_action, state_action, batch.observation, batch.action)
    goals = forward(networks.goal, goal, batch.goal)
    logits = -jnp.sqrt(((data[:, None] - goals[None]) ** 2).sum(-1) + 1e-8)
    partition = jax.nn.logsumexp(logits, axis=1)
    return (partition - jnp.diagonal(logits) + penalty * partition**2).mean()


def actor_loss(actor, params, networks, batch, key):
    mean, spread = jnp.split(forward(networks.actor, actor, batch.observation, batch.goal), 2, -1)
    log_std = LOG_STD_MIN + (LOG_STD_MAX - LOG_STD_MIN) / 2 * (jnp.tanh(spread) + 1)
    action, log_probability = losses.sample_squashed(mean, log_std, noise_of(key, mean.shape))
    features = forward(networks.state_action, params.state_action, batch.observation, action)
    distance = jnp.sqrt(((features - forward(networks.goal, params.goal, batch.goal)) ** 2).sum(-1) + 1e-8)
    return (distance + jnp.exp(params.log_temperature) * log_probability).mean(), log_probability


@partial(jit_once, static_argnums=0)
def separate_updates(learner, params, batch, key):
    networks, update = learner.networks, learner.config.update

    def stepped(loss, value, rate):
        optimiser = optax.adam(rate)
        result, gradient = jax.value_and_grad(loss, has_aux=True)(value)
        change, _ = optimiser.update(gradient, optimiser.init(value))
        return optax.apply_updates(value, change), result, gradient

    critic, (critic_value, _), critic_gradient = stepped(
        lambda critic: (critic_loss(critic, networks, batch, update.logsumexp_penalty), None),
        (params.state_action, params.goal),
        update.critic_lr,
    )
    actor, (actor_value, log_probability), actor_gradient = stepped(
        lambda actor: actor_loss(actor, params, networks, batch, key), params.actor, update.actor_lr
    )
    target = update.target_entropy * learner.spec.action_size
    weight, _, _ = stepped(
        lambda weight: ((jnp.exp(weight) * (-log_probability - target)).mean(), None),
        params.log_temperature,
        update.temperature_lr,
    )
    metrics = {
        "critic_loss": critic_value,
        "actor_loss": actor_value,
        "actor_gradient_norm": optax.global_norm(actor_gradient),
        "critic_gradient_norm": optax.global_norm(critic_gradient),
    }
    return type(params)(actor, *critic, weight), metrics


@pytest.mark.parametrize("network", [{"depth": 20}, {"depth": 8, "actor_depth": 4}])
def test_one_joint_update_equals_separate_ones(network):
    learner = learner_of(**network)
    params, batch, key = case(learner)
    (joint, _), metrics = jit_once(learner.update)((params, learner.optimiser.init(params)), batch, key)
    separate, expected = separate_updates(learner, params, batch, key)
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-4)
    moved = jax.tree.map(lambda new, old: new - old, joint, params)
    plainly = jax.tree.map(lambda new, old: new - old, separate, params)
    # Adam's first step is the gradient's sign: where that is all but zero, rounding decides it.
    for group, a, b in zip(params._fields, moved, plainly, strict=True):
        a, b = (np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)]) for tree in (a, b))
        differing = np.abs(a - b) > 0.01 * np.abs(b).max()
        assert differing.mean() < 1e-3, group
