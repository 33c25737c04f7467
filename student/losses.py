"""Losses of distillation: arrays in, one number out. docs/results.md measures what each term is worth."""

import jax.numpy as jnp
import optax
from jax import Array

SPREAD_FLOOR = 0.05  # of distances over actions, whose spread may vanish at a goal
GRADIENT_FLOOR = 0.05  # of a gradient's norm, which vanishes where the teacher's action is optimal


def policy_loss(action: Array, label: Array) -> Array:
    """Computes the Huber loss between actions after tanh, [B, A] each, so that saturated entries count by
    their effect."""
    return optax.huber_loss(action, label).sum(-1).mean()


def feature_loss(features: Array, label: Array) -> Array:
    """Computes the squared distance between embeddings, [..., R] each.

    It bounds the error of the distance for every pair, sampled or not:
    |d_S - d_T| <= |phi_S - phi_T| + |psi_S - psi_T|. The strongest single loss for two towers in
    CLIP-KD (arXiv:2307.12732)."""
    return ((features - label) ** 2).sum(-1).mean()


def distance_loss(distance: Array, label: Array) -> Array:
    """Computes the Huber loss between distances, [...] each."""
    return optax.huber_loss(distance, label).mean()


def preference_loss(distance: Array, label: Array) -> Array:
    """Computes the Huber loss between the centred distances of K actions at one state, [B, K] each.

    This is what a policy asks of its critic: an offset common to all actions of a state reorders none, but
    outweighs their differences in the other losses. Differences are in units of the teacher's own spread,
    or far states, where actions differ more, would dominate."""
    spread = label.std(axis=1, keepdims=True) + SPREAD_FLOOR
    student, teacher = ((d - d.mean(axis=1, keepdims=True)) / spread for d in (distance, label))
    return optax.huber_loss(student, teacher).mean()


def gradient_loss(gradient: Array, label: Array) -> Array:
    """Computes the Huber loss between gradients of the distance with respect to the action, [B, A] each.

    Sobolev training (arXiv:1706.04859) of the one derivative that an actor uses, in units of the label's
    norm, with a floor: without it, states whose gradient vanishes outweigh all others."""
    norm = jnp.linalg.norm(label, axis=1, keepdims=True) + GRADIENT_FLOOR
    return optax.huber_loss(gradient / norm, label / norm).sum(-1).mean()
