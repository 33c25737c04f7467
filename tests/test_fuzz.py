"""Thousands of malformed files, descriptions, inputs: refused by name each, none answered wrongly."""

import random

import numpy as np
import pytest
from bundles import SPEC, A, G, N, rewrite

from export.controller import ControllerError, load

FILES, DESCRIPTIONS, GRAPHS, INPUTS = 600, 400, 300, 1200
CLOSE = 1e-3  # of an action, after a change that the golden vectors do not tell from rounding
ODD = [np.nan, np.inf, -np.inf]


@pytest.fixture
def asked(controller):
    """Observations and goals, and what the unaltered policy answers."""
    chance = np.random.default_rng(5)
    obs = chance.normal(size=(20, N)).astype(np.float32)
    goals = chance.uniform(SPEC.goal.low, SPEC.goal.high, (20, G)).astype(np.float32)
    return obs, goals, np.stack([controller.step(o, g) for o, g in zip(obs, goals, strict=True)])


def refused_or_right(folder, asked):
    """Whether the bundle is refused; one that is not has to answer as before."""
    try:
        policy = load(folder)
    except ControllerError as refusal:
        assert len(str(refusal)) > 10
        return True
    obs, goals, actions = asked
    found = np.stack([policy.step(o, g) for o, g in zip(obs, goals, strict=True)])
    assert np.abs(found - actions).max() <= CLOSE
    assert policy.spec == SPEC.for_robot()
    return False


def damaged(chance, content):
    """Bytes that differ from `content`: cut off, flipped, with more or fewer in between, or noise."""
    place, count = chance.randrange(len(content)), chance.randrange(1, 64)
    bit, end = bytes([content[place] ^ (1 << chance.randrange(8))]), content[place + count :]
    tails = [b"", bit + content[place + 1 :], chance.randbytes(count) + content[place:], end]
    return chance.choice([*(content[:place] + tail for tail in tails), chance.randbytes(count)])


def test_every_damaged_file_is_refused_by_name(copy):
    chance = random.Random(0)
    named = (path for path in copy.rglob("*") if path.is_file())
    files = sorted(path for path in named if path.name not in ("README.md", ".gitattributes"))
    for _ in range(FILES):
        file = chance.choice(files)
        content = file.read_bytes()
        if chance.random() < 0.05:
            file.unlink()
        else:
            file.write_bytes(damaged(chance, content))
        with pytest.raises(ControllerError) as refusal:
            load(copy)
        assert str(file.relative_to(copy)) in str(refusal.value)
        file.write_bytes(content)
    load(copy)


def change(chance, value):
    """Changes one place, somewhere, in a description."""
    parent, key, inner = None, None, value
    while isinstance(inner, dict | list) and len(inner) and (parent is None or chance.random() < 0.85):
        parent = inner
        key = chance.choice(sorted(inner)) if isinstance(inner, dict) else chance.randrange(len(inner))
        inner = inner[key]
    if chance.random() < 0.25:
        del parent[key]
        return
    others = [None, 0, -1, 1e300, "", "x", [], {}, True, [None], {"a": 1}, [inner], float("nan")]
    parent[key] = chance.choice([other for other in others if other != inner])


@pytest.mark.filterwarnings("ignore:README.md")
def test_every_changed_description_is_refused_or_changes_nothing(copy, asked):
    """Hashed again, so that only what is said can be wrong."""
    chance, content = random.Random(1), (copy / "spec.json").read_bytes()
    refused = 0
    for _ in range(DESCRIPTIONS):
        (copy / "spec.json").write_bytes(content)
        rewrite(copy, lambda record: change(chance, record))
        refused += refused_or_right(copy, asked)
    assert refused > DESCRIPTIONS / 2


def test_every_damaged_graph_is_refused_even_if_its_hash_is_listed(copy, asked):
    chance, content = random.Random(2), (copy / "policy.onnx").read_bytes()
    for _ in range(GRAPHS):
        (copy / "policy.onnx").write_bytes(damaged(chance, content))
        rewrite(copy, rehash=["policy.onnx"])
        refused_or_right(copy, asked)


def malformed(chance, size):
    """Something that is no vector of `size` finite float32 numbers."""
    good = chance.normal(size=size).astype(np.float32)
    odd = np.where(chance.permutation(size) <= chance.integers(size), chance.choice(ODD, size), good)
    wrong = [n for n in range(2 * size) if n != size]
    kinds = [
        *[odd.astype(np.float32)] * 8,
        *[chance.normal(size=n).astype(np.float32) for n in chance.choice(wrong, 3)],
        *[good.astype(kind) for kind in ("f8", "f2", "i4", "i8", "u1", "?", "c8", ">f4", "U3", "O")],
        *[good.reshape(shape) for shape in ((1, size), (size, 1), (1, 1, size))],
        *[None, list(good), tuple(good), float(good[0]), np.float32(good[0]), "obs", {}, b"", object()],
    ]
    return kinds[int(chance.integers(len(kinds)))]


def test_every_malformed_input_is_refused_and_the_next_answer_is_right(controller, asked):
    chance = np.random.default_rng(3)
    for i in range(INPUTS):
        obs, goal, action = (values[i % 20] for values in asked)
        kind = int(chance.integers(4))
        with pytest.raises(ControllerError, match=r"^(obs|goal|reading|action)[:.]"):
            if kind == 0:
                controller.step(malformed(chance, N), goal)
            elif kind == 1:
                controller.step(obs, malformed(chance, G))
            elif kind == 2:
                controller.observe(malformed(chance, N))
            else:
                controller.distance(obs, malformed(chance, A), goal)
        np.testing.assert_array_equal(controller.step(obs, goal), action)
