"""Trajectories on the device: a ring of rows, immutable once written, and O(1) relabelling."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from teacher.sharding import Devices

Array = jax.Array


class Rows(NamedTuple):
    """One control step of every environment a row: T rows, N environments."""

    observation: Array  # [T, N, S]
    action: Array  # [T, N, A]
    achieved_goal: Array  # [T, N, G]: the goal's entries after the action; NaN: not known, never sampled
    episode: Array  # [T, N] int32: counts each environment's episodes


class Replay(NamedTuple):
    """A ring that keeps the newest C rows."""

    rows: Rows  # T = C
    # [C, N] int32: entry (e mod C, n) is the number of the newest row with a known goal of environment n's
    # episode e.
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
    """Writes T <= C new rows over the oldest. Those without a known goal are the last ones of an episode."""
    capacity, environments = replay.newest.shape
    number = replay.written + jnp.arange(len(rows.episode), dtype=jnp.int32)
    stored = jax.tree.map(lambda ring, new: ring.at[number % capacity].set(new), replay.rows, rows)
    # Row numbers only grow, so the maximum is the newest, in whatever order the writes happen.
    reached = jnp.where(_known(rows.achieved_goal), number[:, None], 0)
    newest = replay.newest.at[rows.episode % capacity, jnp.arange(environments)].max(reached)
    return Replay(stored, newest, replay.written + len(rows.episode))


def future_offset(uniform: Array, remaining: Array, discount: float) -> Array:
    """Draws how many rows to look ahead: geometric, in [0, remaining], by inverting its distribution.

    Args: uniform [B] in [0, 1); remaining [B] rows that the episode goes on for; offset k has
    probability proportional to discount**k.
    Returns: [B] int32."""
    log_discount = jnp.log(discount)
    mass = -jnp.expm1((remaining + 1) * log_discount)  # 1 - discount**(remaining + 1)
    offset = jnp.floor(jnp.log1p(-uniform * mass) / log_discount).astype(jnp.int32)
    return jnp.clip(offset, 0, remaining)


def sample(replay: Replay, key: Array, batch: int, discount: float, devices: Devices) -> Batch:
    """Draws this device's part of `batch` state-actions, each with a goal that its episode reaches later.

    Element b comes from environment (b N + r) // B, r evenly from 0 to N - 1: over a batch each
    environment is as likely as any other, and no device needs another's. Its row is drawn evenly.
    The goal of row i is the one achieved in row i + k, k >= 0: at the least what the action itself
    leads to, at the most the episode's newest row. It never comes from another episode.
    What element b is does not depend on the number of devices, where the goals of the rows drawn are known: a
    row without one gives way to the row of the nearest element before it, in a circle, or to zeros."""
    own_environments = replay.newest.shape[1]
    held = _held(replay)
    elements = devices.rows(batch)
    environments = own_environments * devices.count

    def draw(element: Array) -> tuple[Array, Array, Array]:
        row_key, environment_key, future_key = jax.random.split(jax.random.fold_in(key, element), 3)
        age = jax.random.randint(row_key, (), 0, held)
        jitter = jax.random.randint(environment_key, (), 0, environments)
        return age, jitter, jax.random.uniform(future_key, ())

    age, jitter, uniform = jax.vmap(draw)(elements)
    # In steps that do not overflow: the quotient and the remainder of b N, known beforehand.
    quotient, remainder = np.divmod(np.arange(batch, dtype=np.int64) * environments, batch)
    first = jnp.asarray(quotient, jnp.int32)[elements]
    environment = first + (jnp.asarray(remainder, jnp.int32)[elements] + jitter) // batch
    environment -= devices.index() * own_environments
    return relabelled(replay, (replay.written - 1 - age, environment, uniform), discount)


def windows(
    replay: Replay, key: Array, length: int, updates: int, batch: int, devices: Devices
) -> tuple[tuple[Array, Array, Array], Array]:
    """Chooses a window of consecutive rows of each environment and deals all of them out, each once at most.

    Every window that the replay holds is as likely, and every order. Each device deals its own environments,
    so that what is drawn depends on the number of devices.
    Returns: what `relabelled` takes, of each update's part of `batch`, [updates, B] each; last rows [N]."""
    row_key, order_key, future_key = jax.random.split(jax.random.fold_in(key, devices.index()), 3)
    oldest, environments = replay.written - _held(replay), replay.newest.shape[1]
    first = jax.random.randint(row_key, (environments,), oldest, replay.written - length + 1)
    shape = updates, batch // devices.count
    order = jax.random.permutation(order_key, environments * length)[: shape[0] * shape[1]].reshape(shape)
    environment = order // length
    row = first[environment] + order % length
    return (row, environment, jax.random.uniform(future_key, shape)), first + length - 1


def relabelled(
    replay: Replay, drawn: tuple[Array, Array, Array], discount: float, last: Array | None = None
) -> Batch:
    """Returns the state-actions that were drawn, each with a goal.

    Args: drawn: rows [B], their environments [B], and what decides how far ahead the goals lie [B], in
    [0, 1); last: rows [N] of each environment after which goals are not taken, if not the newest."""
    row, environment, uniform = drawn
    capacity = len(replay.newest)
    known = _known(replay.rows.achieved_goal[row % capacity, environment])
    nearest = jax.lax.cummax(jnp.where(known, jnp.arange(len(known)), -1))
    nearest = jnp.where(nearest < 0, nearest[-1], nearest)
    row, environment = row[nearest], environment[nearest]
    slot = row % capacity
    episode = replay.rows.episode[slot, environment]
    newest = replay.newest[episode % capacity, environment]
    if last is not None:
        newest = jnp.minimum(newest, last[environment])
    ahead = future_offset(uniform, newest - row, discount)
    batch = Batch(
        replay.rows.observation[slot, environment],
        replay.rows.action[slot, environment],
        replay.rows.achieved_goal[(row + ahead) % capacity, environment],
    )
    return jax.tree.map(lambda part: jnp.where(known.any(), part, 0), batch)


def unknown_goals(replay: Replay, newest: int) -> Array:
    """Tells which of the newest rows have no known goal, [newest, N], the newest first."""
    slots = (replay.written - 1 - jnp.arange(newest)) % len(replay.newest)
    return ~_known(replay.rows.achieved_goal[slots])


def _held(replay: Replay) -> Array:
    return jnp.minimum(replay.written, len(replay.newest))


def _known(achieved_goal: Array) -> Array:
    return jnp.isfinite(achieved_goal).all(-1)
