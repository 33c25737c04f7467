"""The contrastive critic's and the actor's losses; arrays and numbers in, arrays out."""

import chex
import jax
import jax.numpy as jnp

Array = jax.Array

DISTANCE_EPSILON = 1e-8  # under the root, whose slope is infinite at zero


def pairwise_distance(a: Array, b: Array) -> Array:
    """Computes Euclidean distances, [B, R], [C, R] -> [B, C].

    The product form needs exact float32: TF32 would cancel the nearest pairs away."""
    product = jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST)
    squared = (a**2).sum(-1)[:, None] + (b**2).sum(-1)[None, :] - 2 * product
    return jnp.sqrt(jnp.maximum(squared, 0) + DISTANCE_EPSILON)


def distance(a: Array, b: Array) -> Array:
    """Computes the Euclidean distance, [..., R], [..., R] -> [...]."""
    return jnp.sqrt(((a - b) ** 2).sum(-1) + DISTANCE_EPSILON)


def infonce(logits: Array, penalty: float) -> Array:
    """Computes the contrastive critic loss of each state-action.

    Args:
      logits: [B, C], C a multiple of B; row i scores state-action i against every goal, its own in column i.
      penalty: weight of the squared log-partition, which keeps the logits from drifting.
    Returns: [B]. Sources: InfoNCE, arXiv:1807.03748 eq. 4; as a goal critic, arXiv:2206.07568."""
    chex.assert_is_divisible(logits.shape[1], len(logits))  # one column a row, of one or more devices
    log_partition = jax.nn.logsumexp(logits, axis=1)
    return log_partition - jnp.diagonal(logits) + penalty * log_partition**2


def retrieval_accuracy(logits: Array) -> Array:
    """Computes the share of the rows of [B, C] whose own goal scores highest."""
    return (logits.argmax(axis=1) == jnp.arange(len(logits))).mean()


def sample_squashed(mean: Array, log_std: Array, noise: Array) -> tuple[Array, Array]:
    """Draws from a tanh-Gaussian, with the log-probability of what is drawn.

    Args: [B, A] each; `noise` is standard normal.
    Returns: action [B, A] in [-1, 1] and log-probability [B]. The Jacobian of tanh is taken in
    its softplus form, 2 (log 2 - x - softplus(-2x)), which does not lose saturated actions."""
    before = mean + jnp.exp(log_std) * noise
    normal = -0.5 * noise**2 - log_std - 0.5 * jnp.log(2 * jnp.pi)
    jacobian = 2 * (jnp.log(2.0) - before - jax.nn.softplus(-2 * before))
    return jnp.tanh(before), (normal - jacobian).sum(-1)


def actor_loss(goal_distance: Array, log_probability: Array, temperature: Array) -> Array:
    """Computes the distance to the goal less an entropy bonus, one value per state, [B] each."""
    return goal_distance + temperature * log_probability


def temperature_loss(log_temperature: Array, log_probability: Array, target_entropy: float) -> Array:
    """Computes what moves the temperature until the policy's entropy meets its target.

    Source: arXiv:1812.05905, eq. 18."""
    return jnp.exp(log_temperature) * jax.lax.stop_gradient(-log_probability - target_entropy).mean()
