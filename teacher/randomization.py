"""What may differ between one episode's physics and another's, so that a policy does not rely on it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Array = Any  # NumPy or JAX
ALTER_MODEL = ("friction", "mass", "strength")  # fields that change a model's numbers
UNPUSHED = np.uint32(2**32 - 1)  # seed of an episode without pushes


class DomainRandomization(NamedTuple):
    """How far physics differ between episodes; the fields are those of `RandomiseConfig`."""

    friction: float = 0.0
    mass: float = 0.0
    strength: float = 0.0
    latency: int = 0
    push: float = 0.0
    push_interval_s: float = 5.0
    noise: float = 1.0  # of sensors; physics do not see it

    @property
    def alters_model(self) -> bool:
        return any(getattr(self, name) for name in ALTER_MODEL)

    @property
    def alters_anything(self) -> bool:
        return self.alters_model or bool(self.latency or self.push)


class PhysicsParams(NamedTuple):
    """One episode's own physics; fields may carry leading batch axes."""

    friction: Array  # factor of the model's
    mass: Array  # factor of masses and inertias
    strength: Array  # factor of actuators' gains and force limits
    delay: Array  # int32: control steps by which actions come late
    seed: Array  # uint32: of its pushes; `UNPUSHED`: none


def draw(spread: DomainRandomization, key: jax.Array) -> PhysicsParams:
    """Draws the conditions of one episode."""
    friction_key, mass_key, strength_key, delay_key, seed_key = jax.random.split(key, 5)

    def factor(key: jax.Array, share: float) -> jax.Array:
        return jax.random.uniform(key, minval=1 - share, maxval=1 + share)

    return PhysicsParams(
        friction=factor(friction_key, spread.friction),
        mass=factor(mass_key, spread.mass),
        strength=factor(strength_key, spread.strength),
        delay=jax.random.randint(delay_key, (), 0, spread.latency + 1),
        seed=jax.random.bits(seed_key),
    )


def pushes(
    spread: DomainRandomization, conditions: PhysicsParams, step: Array, control_dt: float, size: int
) -> jax.Array:
    """Draws sudden changes of velocity [E, size] before control step [E]; mostly zero."""

    def push(seed: jax.Array, step: jax.Array) -> jax.Array:
        when, where = jax.random.split(jax.random.fold_in(jax.random.key(seed), step))
        happens = jax.random.bernoulli(when, control_dt / spread.push_interval_s) & (seed != UNPUSHED)
        return happens * jax.random.uniform(where, (size,), minval=-spread.push, maxval=spread.push)

    return jax.vmap(push)(jnp.asarray(conditions.seed), jnp.asarray(step))
