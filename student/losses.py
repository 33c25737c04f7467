"""What a student is asked to match; arrays in, one number out.

Each term earned its place, and others did not: docs/results.md has the measurements."""

import jax.numpy as jnp
import optax
from jax import Array

SPREAD_FLOOR = 0.05  # of distances over actions, which at a goal may be next to nothing
SLOPE_FLOOR = 0.05  # of a gradient's length, which is next to nothing where the teacher's action is best


def policy_loss(action: Array, label: Array) -> Array:
    """Huber loss between actions after tanh, [B, A] each: saturated joints count for what they do."""
    return optax.huber_loss(action, label).sum(-1).mean()


def feature_loss(features: Array, label: Array) -> Array:
    """Squared distance between embeddings, [..., R] each.

    It bounds the error of the distance for every pair, sampled or not:
    |d_S - d_T| <= |phi_S - phi_T| + |psi_S - psi_T|. Found strongest alone for two towers in
    CLIP-KD (arXiv:2307.12732)."""
    return ((features - label) ** 2).sum(-1).mean()


def distance_loss(distance: Array, label: Array) -> Array:
    """Huber loss between distances, [...] each; where embeddings agree it adds nothing."""
    return optax.huber_loss(distance, label).mean()


def preference_loss(distance: Array, label: Array) -> Array:
    """Huber loss between the distances of K actions at one state, [B, K] each, less their mean.

    What a policy asks of its critic. An offset that a state and a goal give to all actions reorders none,
    but outweighs their differences in the other terms; so do states far away, where actions differ more,
    unless differences are taken in units of the teacher's own spread."""
    spread = label.std(axis=1, keepdims=True) + SPREAD_FLOOR
    student, teacher = ((d - d.mean(axis=1, keepdims=True)) / spread for d in (distance, label))
    return optax.huber_loss(student, teacher).mean()


def gradient_loss(gradient: Array, label: Array) -> Array:
    """Huber loss between gradients of the distance with respect to one action, [B, A] each.

    In units of the label's length, floored: without a floor, states whose gradient is next to nothing
    outweigh all others (Sobolev training, arXiv:1706.04859, of the one derivative that an actor asks for)."""
    length = jnp.linalg.norm(label, axis=1, keepdims=True) + SLOPE_FLOOR
    return optax.huber_loss(gradient / length, label / length).sum(-1).mean()
