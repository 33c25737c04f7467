from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from teacher.replay import Rows, empty, future_offset, insert, relabelled, sample, windows
from teacher.sharding import Devices

ENVIRONMENTS, DRAWS = 4, 20_000

# One trace each for the shapes used below.
jit_insert = jax.jit(insert)
jit_sample = jax.jit(partial(sample, devices=Devices(jax.devices()[:1])), static_argnums=(2, 3))


def episode_numbers(rng, rows, shortest, longest):
    """[rows, ENVIRONMENTS]: episodes of random lengths, of every environment its own."""
    columns = []
    for _ in range(ENVIRONMENTS):
        lengths = rng.integers(shortest, longest + 1, size=rows)
        columns.append(np.repeat(np.arange(rows), lengths)[:rows])
    return np.stack(columns, axis=1).astype(np.int32)


def labelled_rows(episode):
    """Rows whose values say where they were written: (environment, episode, row number)."""
    rows, environments = episode.shape
    number = np.broadcast_to(np.arange(rows)[:, None], episode.shape)
    environment = np.broadcast_to(np.arange(environments), episode.shape)
    label = np.stack([environment, episode, number], axis=-1).astype(np.float32)
    return Rows(label, label[..., 2:] + 0.5, label, episode)


def filled(rows, capacity, pieces):
    """A replay of that capacity after the rows came in pieces of those lengths."""
    replay, start = empty(capacity, rows.episode.shape[1], 3, 1, 3), 0
    for piece in pieces:
        replay = jit_insert(replay, jax.tree.map(lambda leaf, s=start, p=piece: leaf[s : s + p], rows))
        start += piece
    assert start == len(rows.episode)
    return replay


@pytest.mark.parametrize(
    ("capacity", "pieces", "shortest", "longest"),
    [
        (16, (5, 5), 1, 6),  # not yet full
        (16, (16, 16, 3), 2, 9),  # whole rings at once, and a piece that does not divide the ring
        (7, (5,) * 8, 20, 30),  # episodes longer than the ring
        (7, (5,) * 8, 1, 1),  # every row an episode: their numbers wrap too
    ],
)
def test_goals_come_from_later_held_rows_of_the_same_episode(capacity, pieces, shortest, longest):
    total = sum(pieces)
    episode = episode_numbers(np.random.default_rng(0), total, shortest, longest)
    replay = filled(labelled_rows(episode), capacity, pieces)
    oldest = max(0, total - capacity)
    assert int(replay.written) == total

    batch = jit_sample(replay, jax.random.key(1), DRAWS, 0.8)
    environment, own_episode, row = np.asarray(batch.observation).astype(int).T
    goal_environment, goal_episode, goal_row = np.asarray(batch.goal).astype(int).T
    np.testing.assert_array_equal(np.asarray(batch.action)[:, 0], row + 0.5)
    np.testing.assert_array_equal(goal_environment, environment)
    np.testing.assert_array_equal(goal_episode, own_episode)
    np.testing.assert_array_equal(own_episode, episode[row, environment])
    assert (row >= oldest).all()
    assert (goal_row >= row).all()
    assert (goal_row < total).all()

    # every row is drawn, and from each every later row of its episode that is not too far ahead
    drawn = set(zip(environment, row, goal_row, strict=True))
    for n in range(ENVIRONMENTS):
        for i in range(oldest, total):
            last = max(j for j in range(i, total) if episode[j, n] == episode[i, n])
            assert {(n, i, j) for j in range(i, min(last, i + 3) + 1)} <= drawn


def test_rows_are_drawn_evenly():
    capacity = 8
    replay = filled(labelled_rows(np.zeros((13, ENVIRONMENTS), np.int32)), capacity, (5, 8))
    batch = jit_sample(replay, jax.random.key(2), 120_000, 0.9)
    environment, _, row = np.asarray(batch.observation).astype(int).T
    counts = np.bincount((row - 5) * ENVIRONMENTS + environment, minlength=capacity * ENVIRONMENTS)
    expected = 120_000 / (capacity * ENVIRONMENTS)
    assert len(counts) == capacity * ENVIRONMENTS
    assert np.abs(counts - expected).max() < 5 * expected**0.5


@pytest.mark.parametrize(("environments", "batch"), [(3, 8), (8, 3)])
def test_a_batch_takes_from_all_environments_alike(environments, batch):
    rows = labelled_rows(np.zeros((4, environments), np.int32))
    replay = filled(rows, 4, (4,))
    keys = jax.random.split(jax.random.key(6), 3000)
    batches = jax.vmap(lambda key: jit_sample(replay, key, batch, 0.5))(keys)
    environment = np.asarray(batches.observation)[..., 0].astype(int)
    each = np.bincount(environment.ravel(), minlength=environments)
    expected = environment.size / environments
    assert np.abs(each - expected).max() < 5 * expected**0.5
    # Each element has its own few environments, in order: a device's elements need no other's.
    assert (np.diff(environment.min(0)) >= 0).all()
    assert (np.ptp(environment, axis=0) <= -(-environments // batch)).all()


def test_windows_hold_consecutive_rows_each_used_at_most_once_and_goals_within_them():
    length, updates, batch, total, capacity = 6, 5, 4, 21, 16
    episode = episode_numbers(np.random.default_rng(3), total, 3, 9)
    replay = filled(labelled_rows(episode), capacity, (10, 11))
    firsts, sources = set(), []

    @jax.jit
    def drawn(key):
        one = Devices(jax.devices()[:1])
        dealt, last = windows(replay, key, length, updates, batch, one)
        return jax.vmap(lambda drawn: relabelled(replay, drawn, 0.8, last))(dealt), last

    for seed in range(300):
        batches, last = drawn(jax.random.key(seed))
        environment, own_episode, row = np.asarray(batches.observation).reshape(-1, 3).astype(int).T
        goal_environment, goal_episode, goal = np.asarray(batches.goal).reshape(-1, 3).astype(int).T
        assert len({*zip(environment, row, strict=True)}) == updates * batch
        end = np.asarray(last)[environment]
        assert ((end - length < row) & (row <= goal) & (goal <= end)).all()
        np.testing.assert_array_equal([goal_environment, goal_episode], [environment, own_episode])
        firsts |= {*enumerate((np.asarray(last) - length + 1).tolist())}
        sources.append(environment.reshape(updates, batch))
    # Every window that is held is chosen, of each environment by itself; batches mix the environments.
    assert firsts == {
        (n, i) for n in range(ENVIRONMENTS) for i in range(total - capacity, total - length + 1)
    }
    shares = np.bincount(np.ravel(sources), minlength=ENVIRONMENTS) / np.size(sources)
    np.testing.assert_allclose(shares, 1 / ENVIRONMENTS, atol=0.02)
    assert np.ptp(np.sort(sources, axis=-1), axis=(0, 1)).all()


def test_sampled_goals_follow_the_truncated_geometric():
    length, discount, draws = 5, 0.7, 200_000
    replay = filled(labelled_rows(np.zeros((length, 1), np.int32)), 8, (length,))
    batch = jit_sample(replay, jax.random.key(3), draws, discount)
    row, goal_row = (np.asarray(part)[:, 2].astype(int) for part in (batch.observation, batch.goal))
    for i in range(length):
        ahead = np.bincount(goal_row[row == i] - i)
        weights = discount ** np.arange(length - i)
        expected = weights / weights.sum()
        assert len(ahead) == length - i
        spread = (expected * (1 - expected) / ahead.sum()) ** 0.5
        assert (np.abs(ahead / ahead.sum() - expected) <= 5 * spread).all()


@pytest.mark.parametrize("discount", [0.3, 0.99, 0.9999])
@pytest.mark.parametrize("remaining", [0, 1, 400])
def test_offsets_invert_the_truncated_geometric_distribution(discount, remaining):
    count = 100_000
    uniform = ((np.arange(count) + 0.5) / count).astype(np.float32)
    offset = future_offset(uniform, jnp.full(count, remaining), discount)
    weights = discount ** np.arange(remaining + 1)
    found = np.bincount(offset, minlength=remaining + 1) / count
    assert offset.dtype == jnp.int32
    assert len(found) == remaining + 1
    np.testing.assert_allclose(np.cumsum(found), np.cumsum(weights) / weights.sum(), atol=2e-4)
    edges = jnp.array([0.0, 1e-38, np.nextafter(np.float32(1), np.float32(0))])
    least, small, most = future_offset(edges, jnp.full(3, remaining), discount)
    assert least == small == 0 and (remaining > 1 or most == remaining) and 0 <= most <= remaining


@pytest.mark.parametrize("unknown_share", [0.05, 1.0])
def test_rows_without_an_outcome_are_never_drawn_nor_goals_from_them(unknown_share):
    rng = np.random.default_rng(0)
    episode = episode_numbers(rng, 64, 2, 6)
    last = np.diff(episode, axis=0, append=-1) != 0
    unknown = last & (rng.uniform(size=episode.shape) < unknown_share)
    unknown[:-1] |= unknown[1:] & ~last[:-1] & (rng.uniform(size=(63, ENVIRONMENTS)) < unknown_share)
    rows = labelled_rows(episode)
    broken = rows._replace(
        achieved_goal=np.where(unknown[..., None], np.nan, rows.achieved_goal).astype(np.float32)
    )
    batch = jit_sample(filled(broken, 64, (32, 32)), jax.random.key(1), DRAWS, 0.8)
    environment, own_episode, row = np.asarray(batch.observation).astype(int).T
    assert not unknown[row, environment].any()
    assert len(np.unique(row * ENVIRONMENTS + environment)) == (~unknown).sum()
    np.testing.assert_array_equal(np.asarray(batch.goal)[:, :2], np.stack([environment, own_episode], -1))
    assert not unknown[np.asarray(batch.goal).astype(int)[:, 2], environment].any()
    whole = jit_sample(filled(rows, 64, (32, 32)), jax.random.key(1), DRAWS, 0.8)
    row, environment = (np.asarray(whole.observation)[:, i].astype(int) for i in (2, 0))
    kept = ~unknown[row, environment]
    np.testing.assert_array_equal(np.asarray(batch.action)[kept], np.asarray(whole.action)[kept])


def test_a_replay_without_any_outcome_gives_numbers_all_the_same():
    rows = labelled_rows(np.zeros((8, ENVIRONMENTS), np.int32))
    replay = filled(rows._replace(achieved_goal=np.full_like(rows.achieved_goal, np.nan)), 8, (8,))
    batch = jit_sample(replay, jax.random.key(1), DRAWS, 0.8)
    assert all(np.isfinite(part).all() for part in batch)
