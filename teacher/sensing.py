"""What a robot's policy sees: noisy readings of the sensors, a short history of them; all pure.

Arrays may be NumPy or JAX, so that a simulation stepped from the host and compiled code see the same.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from teacher.spec import DeployedSpec
from teacher.tasks.base import State, Task

Array = Any  # NumPy or JAX


class Sensed(NamedTuple):
    """What policies see on E robots: the task's own observation and goal where it describes no sensors."""

    observation: Array  # [E, H * M]: readings with their noise, the newest first
    goal: Array  # [E, G']: as the robot knows it


def sense(task: Task, state: State, action: Array, keys: jax.Array, noise: float = 1.0) -> Array:
    """Reads the sensors once, [E, M], in the arrays' own precision.

    Args:
      action: [E, A], the last one that the policy chose; zero where an episode begins.
      keys: [E], of this step of each robot alone: no robot's noise depends on the others.
      noise: factor of the noise that `task.spec.deployed` names."""
    deployed = task.spec.deployed
    assert deployed is not None, f"{task.spec.name} describes no sensors"
    reading = task.reading(state, action)
    xp = reading.__array_namespace__()
    errors = xp.asarray(_standard_normal(keys, reading.shape[-1]), dtype=reading.dtype)
    return reading + xp.asarray(noise * noise_scale(deployed), dtype=reading.dtype) * errors


def noise_scale(deployed: DeployedSpec) -> np.ndarray:
    """Returns the standard deviation [M] of each entry of a reading."""
    return np.concatenate([np.full(len(term.entries), term.noise) for term in deployed.reading])


def extend_history(history: Array, reading: Array) -> Array:
    """Adds the reading [E, M] to the history [E, H, M] as its newest; the oldest is forgotten."""
    xp = reading.__array_namespace__()
    return xp.concatenate([reading[:, None], history[:, :-1]], axis=1)


@partial(jax.jit, static_argnums=1)
def _standard_normal(keys: jax.Array, size: int) -> jax.Array:
    """Draws [E, size]."""
    return jax.vmap(lambda key: jax.random.normal(key, (size,)))(keys)


@jax.jit
def fold_each(keys: jax.Array, numbers: Array) -> jax.Array:
    """Folds into each of the keys [E], or into one for all, its own number [E]."""
    return jax.vmap(jax.random.fold_in)(jnp.broadcast_to(keys, numbers.shape), numbers)
