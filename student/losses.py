"""What a student is asked to match; arrays in, one number out."""

import optax
from jax import Array

from teacher.losses import pairwise_distance


def policy_loss(action: Array, label: Array) -> Array:
    """Huber loss between actions after tanh, [B, A] each: saturated joints count for what they do."""
    return optax.huber_loss(action, label).sum(-1).mean()


def feature_loss(features: Array, label: Array) -> Array:
    """Squared distance between embeddings, [..., R] each.

    It bounds the error of the distance for every pair, sampled or not:
    |d_S - d_T| <= |phi_S - phi_T| + |psi_S - psi_T|. Found strongest alone for two towers in
    CLIP-KD (arXiv:2307.12732)."""
    return ((features - label) ** 2).sum(-1).mean()


def distance_loss(state_action: Array, goal: Array, state_action_label: Array, goal_label: Array) -> Array:
    """Huber loss between all distances of a batch: [B, R] against [C, R], student and teacher."""
    student = pairwise_distance(state_action, goal)
    return optax.huber_loss(student, pairwise_distance(state_action_label, goal_label)).mean()
