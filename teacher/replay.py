"""Trajectories on the device: a ring of rows, immutable once written, and O(1) relabelling."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array


class Rows(NamedTuple):
    """One control step of every environment a row: T rows, N environments."""

    observation: Array  # [T, N, S]
    action: Array  # [T, N, A]
    outcome: Array  # [T, N, G]: what the goal's entries were after the action
    episode: Array  # [T, N] int32: counts each environment's episodes


class Replay(NamedTuple):
    """A ring that keeps the newest C rows."""

    rows: Rows  # T = C
    # [C, N] int32: entry (e mod C, n) is the number of the newest row of environment n's episode e.
    # A ring of C rows never holds two episodes that share an entry.
    newest: Array
    written: Array  # scalar int32: rows ever written; row i lies in slot i mod C


class Batch(NamedTuple):
    observation: Array  # [B, S]
    action: Array  # [B, A]
    goal: Array  # [B, G]: reached later in the same episode


def empty(capacity: int, environments: int, observation: int, action: int, goal: int) -> Replay:
    shape = (capacity, environments)
    rows = Rows(
        jnp.zeros((*shape, observation)),
        jnp.zeros((*shape, action)),
        jnp.zeros((*shape, goal)),
        jnp.zeros(shape, jnp.int32),
    )
    return Replay(rows, jnp.zeros(shape, jnp.int32), jnp.zeros((), jnp.int32))


def insert(replay: Replay, rows: Rows) -> Replay:
    """Writes T <= C new rows over the oldest."""
    capacity, environments = replay.newest.shape
    number = replay.written + jnp.arange(len(rows.episode), dtype=jnp.int32)
    stored = jax.tree.map(lambda ring, new: ring.at[number % capacity].set(new), replay.rows, rows)
    # Row numbers only grow, so the maximum is the newest, in whatever order the writes happen.
    newest = replay.newest.at[rows.episode % capacity, jnp.arange(environments)].max(number[:, None])
    return Replay(stored, newest, replay.written + len(rows.episode))


def future_offset(uniform: Array, remaining: Array, discount: float) -> Array:
    """Rows to look ahead: geometric, truncated to [0, remaining], by inverting its distribution.

    Args: uniform [B] in [0, 1); remaining [B] rows that the episode goes on for; offset k has
    probability proportional to discount**k.
    Returns: [B] int32."""
    log_discount = jnp.log(discount)
    mass = -jnp.expm1((remaining + 1) * log_discount)  # 1 - discount**(remaining + 1)
    offset = jnp.floor(jnp.log1p(-uniform * mass) / log_discount).astype(jnp.int32)
    return jnp.clip(offset, 0, remaining)


def sample(replay: Replay, key: Array, batch: int, discount: float) -> Batch:
    """State-actions drawn evenly, each with a goal that its own episode reaches later.

    The goal of row i is the outcome of row i + k, k >= 0: at the least what the action itself
    leads to, at the most the episode's newest row. It never comes from another episode."""
    capacity, environments = replay.newest.shape
    row_key, environment_key, future_key = jax.random.split(key, 3)
    held = jnp.minimum(replay.written, capacity)
    row = replay.written - 1 - jax.random.randint(row_key, (batch,), 0, held)
    environment = jax.random.randint(environment_key, (batch,), 0, environments)
    slot = row % capacity
    episode = replay.rows.episode[slot, environment]
    remaining = replay.newest[episode % capacity, environment] - row
    ahead = future_offset(jax.random.uniform(future_key, (batch,)), remaining, discount)
    return Batch(
        replay.rows.observation[slot, environment],
        replay.rows.action[slot, environment],
        replay.rows.outcome[(row + ahead) % capacity, environment],
    )
