"""What a robot's policy sees: noisy readings of the sensors, a short history of them; all pure.

Arrays may be NumPy or JAX, so that a simulation stepped from the host and compiled code see the same.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from teacher.spec import DeployedSpec
from teacher.tasks.base import State, Task

Array = Any  # NumPy or JAX


def sense(task: Task, state: State, action: Array, key: jax.Array, noise: float = 1.0) -> Array:
    """One reading of the sensors [E, M], in the arrays' own precision.

    Args:
      action: [E, A], the last one that the policy chose; zero where an episode begins.
      key: of this step alone; the noise of row i depends on it and on i, not on the other rows.
      noise: factor of the noise that `task.spec.deployed` names."""
    deployed = task.spec.deployed
    assert deployed is not None, f"{task.spec.name} describes no sensors"
    reading = task.reading(state, action)
    xp = reading.__array_namespace__()
    errors = xp.asarray(_standard_normal(key, *reading.shape), dtype=reading.dtype)
    return reading + xp.asarray(noise * noise_scale(deployed), dtype=reading.dtype) * errors


def noise_scale(deployed: DeployedSpec) -> np.ndarray:
    """Standard deviation [M] of each entry of a reading."""
    return np.concatenate([np.full(len(term.entries), term.noise) for term in deployed.reading])


def begin_history(deployed: DeployedSpec, reading: Array) -> Array:
    """The history [E, H, M] of episodes whose first reading [E, M] this is: nothing but that reading."""
    xp = reading.__array_namespace__()
    return xp.repeat(reading[:, None], deployed.history, axis=1)


def extend_history(history: Array, reading: Array) -> Array:
    """History [E, H, M] with the reading [E, M] as its newest; the oldest is forgotten."""
    xp = reading.__array_namespace__()
    return xp.concatenate([reading[:, None], history[:, :-1]], axis=1)


def deployed_observation(history: Array) -> Array:
    """History [E, H, M] -> what a policy on the robot sees, [E, H * M]; the newest reading first."""
    return history.reshape(len(history), -1)


@partial(jax.jit, static_argnums=(1, 2))
def _standard_normal(key: jax.Array, rows: int, size: int) -> jax.Array:
    """[rows, size]; each row depends on its number alone."""

    def draw(number: jax.Array) -> jax.Array:
        return jax.random.normal(jax.random.fold_in(key, number), (size,))

    return jax.vmap(draw)(jnp.arange(rows))
