"""The contrastive critic's and the actor's losses; arrays and numbers in, arrays out."""

import chex
import jax
import jax.numpy as jnp

Array = jax.Array

DISTANCE_EPSILON = 1e-8  # under the root, whose slope is infinite at zero


def pairwise_distance(a: Array, b: Array) -> Array:
    """[B, R], [C, R] -> Euclidean distances [B, C].

    The product form needs exact float32: TF32 would cancel the nearest pairs away."""
    product = jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST)
    squared = (a**2).sum(-1)[:, None] + (b**2).sum(-1)[None, :] - 2 * product
    return jnp.sqrt(jnp.maximum(squared, 0) + DISTANCE_EPSILON)


def distance(a: Array, b: Array) -> Array:
    """[..., R], [..., R] -> Euclidean distance [...]."""
    return jnp.sqrt(((a - b) ** 2).sum(-1) + DISTANCE_EPSILON)


def infonce(logits: Array, penalty: float, first: Array | int = 0) -> Array:
    """Contrastive critic loss, one value per state-action.

    Args:
      logits: [B, C]; row i scores state-action i against every goal, its own in column first + i.
      penalty: weight of the squared log-partition, which keeps the logits from drifting.
      first: column of the first row's own goal, where the rows are part of a larger batch.
    Returns: [B]. Sources: InfoNCE, arXiv:1807.03748 eq. 4; as a goal critic, arXiv:2206.07568."""
    chex.assert_is_divisible(logits.shape[1], len(logits))  # one column a row, of one or more devices
    log_partition = jax.nn.logsumexp(logits, axis=1)
    return log_partition - _own(logits, first) + penalty * log_partition**2


def retrieval_accuracy(logits: Array, first: Array | int = 0) -> Array:
    """Share of the rows of [B, C] whose own goal, in column first + row, scores highest."""
    return (logits.argmax(axis=1) == first + jnp.arange(len(logits))).mean()


def _own(logits: Array, first: Array | int) -> Array:
    """The diagonal that begins in column `first`."""
    return jnp.diagonal(jax.lax.dynamic_slice_in_dim(logits, first, len(logits), axis=1))


def sample_squashed(mean: Array, log_std: Array, noise: Array) -> tuple[Array, Array]:
    """A tanh-Gaussian sample and its log-probability.

    Args: [B, A] each; `noise` is standard normal.
    Returns: action [B, A] in [-1, 1] and log-probability [B]. The Jacobian of tanh is taken in
    its softplus form, 2 (log 2 - x - softplus(-2x)), which does not lose saturated actions."""
    before = mean + jnp.exp(log_std) * noise
    normal = -0.5 * noise**2 - log_std - 0.5 * jnp.log(2 * jnp.pi)
    jacobian = 2 * (jnp.log(2.0) - before - jax.nn.softplus(-2 * before))
    return jnp.tanh(before), (normal - jacobian).sum(-1)


def actor_loss(goal_distance: Array, log_probability: Array, entropy_weight: Array) -> Array:
    """Nearness of the goal with an entropy bonus, one value per state, [B] each."""
    return goal_distance + entropy_weight * log_probability


def entropy_weight_loss(log_weight: Array, log_probability: Array, target_entropy: float) -> Array:
    """Moves the weight until the policy's entropy meets its target (arXiv:1812.05905, eq. 18)."""
    return jnp.exp(log_weight) * jax.lax.stop_gradient(-log_probability - target_entropy).mean()
