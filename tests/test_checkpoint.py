"""Saves are whole or not there, store only what is new, and are checked when they are read."""

import json
import logging
import resource
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from teacher import checkpoint
from teacher.errors import FathomError

CAPACITY = 6


class State(NamedTuple):
    weights: jax.Array
    key: jax.Array
    step: jax.Array


def state(step: int) -> State:
    return State(jnp.arange(4.0) + step, jax.random.key(step), jnp.int32(step))


def ring(written: int) -> dict[str, jax.Array]:
    """A ring in which row i holds i, as it stands after `written` rows."""
    values = np.zeros((CAPACITY, 2), np.float32)
    for row in range(written):
        values[row % CAPACITY] = row
    return {"value": jnp.asarray(values)}


def save(directory, step: int, written: int) -> None:
    record = {"step": step}
    checkpoint.save(directory, step, state(step), record=record, rows=ring(written), written=written, keep=2)


def damage(file) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def array_file(directory, step: int):
    """The largest file of a save: it holds arrays."""
    files = [file for file in (directory / str(step) / checkpoint.STATE).rglob("*") if file.is_file()]
    return max(files, key=lambda file: file.stat().st_size)


HARM = pytest.mark.parametrize("harm", [damage, lambda file: file.unlink()], ids=["damaged", "gone"])


def test_state_and_rows_come_back_bit_for_bit_while_the_ring_fills_and_wraps(tmp_path):
    for step, written in enumerate([2, 5, 30], start=1):
        save(tmp_path, step, written)
        saved = checkpoint.load(tmp_path)
        restored = checkpoint.fill(jax.eval_shape(lambda: state(0)), saved.leaves, "save")
        expected = state(step)
        np.testing.assert_array_equal(restored.weights, expected.weights)
        np.testing.assert_array_equal(jax.random.key_data(restored.key), jax.random.key_data(expected.key))
        np.testing.assert_array_equal(saved.rows["['value']"], ring(written)["value"])
        assert saved.record == {"step": step}


def test_rows_are_written_once(tmp_path):
    save(tmp_path, 1, 3)
    first = {file: file.stat().st_mtime_ns for file in (tmp_path / "rows").iterdir()}
    save(tmp_path, 2, 5)
    for file, written_at in first.items():
        assert file.stat().st_mtime_ns == written_at
    (new,) = set((tmp_path / "rows").iterdir()) - set(first)
    with np.load(new) as arrays:
        np.testing.assert_array_equal(arrays["['value']"][:, 0], [3, 4])


def test_as_many_saves_are_kept_as_asked_and_no_row_that_none_of_them_needs(tmp_path):
    for step, written in enumerate([4, 8, 12, 16], start=1):
        save(tmp_path, step, written)
    assert checkpoint.saves(tmp_path) == [4, 3]
    needed = {
        segment["file"]
        for step in (3, 4)
        for segment in json.loads((tmp_path / str(step) / "manifest.json").read_text())["rows"]["segments"]
    }
    for folder in ("rows", "copies"):
        assert {file.name for file in (tmp_path / folder).iterdir()} == needed


def test_what_a_killed_save_left_is_cleared_and_what_others_put_there_is_not(tmp_path):
    save(tmp_path, 1, 2)
    (tmp_path / "best").mkdir()
    (tmp_path / "2.partial").mkdir()
    (tmp_path / "2.partial" / "junk").touch()
    (tmp_path / "rows" / "000000000002-000000000004.partial").touch()
    save(tmp_path, 2, 4)
    assert {path.name for path in tmp_path.iterdir()} == {"1", "2", "best", "rows", "copies"}
    assert all(file.suffix == ".npz" for file in (tmp_path / "rows").iterdir())


@HARM
def test_a_damaged_save_is_passed_over_and_said_so(tmp_path, caplog, harm):
    save(tmp_path, 1, 2)
    save(tmp_path, 2, 4)
    harmed = array_file(tmp_path, 2)
    harm(harmed)
    with caplog.at_level(logging.WARNING):
        assert checkpoint.load(tmp_path).step == 1
    assert str(harmed) in caplog.text
    assert "going on from save 1" in caplog.text
    checkpoint.rewind(tmp_path, 1)
    save(tmp_path, 3, 6)
    assert checkpoint.load(tmp_path).step == 3


@pytest.mark.parametrize("harmed", ["rows", "copies"])
@HARM
def test_damaged_rows_are_made_again_from_their_other_copy_and_that_is_said(tmp_path, caplog, harmed, harm):
    save(tmp_path, 1, 2)
    save(tmp_path, 2, 4)
    file = min((tmp_path / harmed).iterdir())  # both saves need it
    whole = file.read_bytes()
    harm(file)
    with caplog.at_level(logging.WARNING):
        saved = checkpoint.load(tmp_path)
    assert saved.step == 2
    np.testing.assert_array_equal(saved.rows["['value']"], ring(4)["value"])
    assert str(file) in caplog.text
    assert file.read_bytes() == whole


def test_a_run_does_not_build_on_rows_that_are_damaged_in_both_copies(tmp_path):
    save(tmp_path, 1, 2)
    save(tmp_path, 2, 4)
    files = [max((tmp_path / folder).iterdir()) for folder in ("rows", "copies")]
    for file in files:
        damage(file)
    checkpoint.rewind(tmp_path, checkpoint.load(tmp_path).step)
    save(tmp_path, 3, 5)
    saved = checkpoint.load(tmp_path)
    assert saved.step == 3
    np.testing.assert_array_equal(saved.rows["['value']"], ring(5)["value"])
    for folder in ("rows", "copies"):
        damage(max((tmp_path / folder).iterdir()))
        damage(min((tmp_path / folder).iterdir()))
    with pytest.raises(checkpoint.Damaged, match=r"rows/.* is damaged.* none of the 1 before is whole"):
        checkpoint.load(tmp_path)


def test_a_save_is_written_again_in_place_of_a_damaged_one_and_rows_once_where_one_is_kept(tmp_path):
    for step in (1, 1):
        checkpoint.save(tmp_path, step, state(1), record={}, rows=ring(2), written=2, keep=1)
        assert checkpoint.load(tmp_path).step == 1
        damage(array_file(tmp_path, 1))
    assert not (tmp_path / "copies").exists()


def test_no_change_of_a_manifest_goes_unnoticed(tmp_path):
    save(tmp_path, 1, 2)
    manifest = tmp_path / "1" / "manifest.json"
    whole = manifest.read_bytes()
    meaning = json.loads(whole)
    for place in range(0, len(whole), 23):
        changed = bytearray(whole)
        changed[place] ^= 1
        manifest.write_bytes(changed)
        try:
            checkpoint.load(tmp_path, rows=False)
        except FathomError:
            continue
        assert json.loads(changed) == meaning


def test_a_missing_a_foreign_and_an_unreadable_save_and_a_leaf_that_does_not_fit_are_named(tmp_path):
    with pytest.raises(FathomError, match=f"no checkpoint in {tmp_path}"):
        checkpoint.load(tmp_path)
    save(tmp_path, 1, 2)
    leaves = checkpoint.load(tmp_path).leaves
    other = State(jnp.zeros(5), jax.random.key(0), jnp.int32(0))
    with pytest.raises(FathomError, match=r"save: \.weights is float32\[4\].*needs float32\[5\]"):
        checkpoint.fill(other, leaves, "save")
    with pytest.raises(FathomError, match=r"holds no \['bias'\]"):
        checkpoint.fill({"bias": jnp.zeros(1)}, leaves, "save")
    manifest = tmp_path / "1" / "manifest.json"
    whole = manifest.read_text()
    for content, message in (
        (whole.replace('"format_version": 3', '"format_version": 9'), "version 9, this program reads 3"),
        ("{", r"manifest\.json cannot be read"),
    ):
        manifest.write_text(content)
        with pytest.raises(FathomError, match=message):
            checkpoint.load(tmp_path)


def test_a_full_disk_is_reported_and_earlier_saves_stay_whole(tmp_path):
    save(tmp_path, 1, 2)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))  # no file may grow beyond 64 bytes
    try:
        with pytest.raises(FathomError, match=r"cannot save checkpoint .*2: .*; earlier saves are intact"):
            save(tmp_path, 2, 4)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert checkpoint.load(tmp_path).step == 1
    assert checkpoint.saves(tmp_path) == [1]
    save(tmp_path, 2, 4)
    assert checkpoint.load(tmp_path).step == 2
