"""Ten thousand malformed files, descriptions, inputs: refused by name each, none answered wrongly."""

import copy as copying
import hashlib
import json
import random
import shutil

import numpy as np
import pytest
from test_controller import SPEC, A, G, N, bundle, controller  # noqa: F401

from export.controller import CommandLimiter, ControllerError, load, with_content_hash

FILES, DESCRIPTIONS, GRAPHS, INPUTS, READINGS = 2500, 1500, 1000, 4000, 1000
CLOSE = 1e-3  # of an action, after a change that the golden vectors do not tell from rounding


@pytest.fixture
def altered(bundle, tmp_path):  # noqa: F811
    return shutil.copytree(bundle, tmp_path / "altered")


@pytest.fixture
def asked(bundle):  # noqa: F811
    """Observations and goals, and what the unaltered policy answers."""
    chance, policy = np.random.default_rng(5), load(bundle)
    obs = chance.normal(size=(20, N)).astype(np.float32)
    goals = chance.uniform(SPEC.goal.low, SPEC.goal.high, (20, G)).astype(np.float32)
    return obs, goals, np.stack([policy.step(o, g) for o, g in zip(obs, goals, strict=True)])


def require_right(policy, asked):
    obs, goals, actions = asked
    found = np.stack([policy.step(o, g) for o, g in zip(obs, goals, strict=True)])
    assert np.abs(found - actions).max() <= CLOSE


def damaged(chance, content):
    """Bytes that differ from `content`."""
    kind = chance.randrange(5)
    place = chance.randrange(len(content))
    if kind == 0:
        return content[:place]
    if kind == 1:
        flipped = bytearray(content)
        flipped[place] ^= 1 << chance.randrange(8)
        return bytes(flipped)
    if kind == 2:
        return content[:place] + chance.randbytes(chance.randrange(1, 64)) + content[place:]
    if kind == 3:
        end = place + chance.randrange(1, 64)
        return content[:place] + content[end:]
    return chance.randbytes(chance.randrange(0, 300))


def test_every_damaged_file_is_refused_by_name(altered):
    chance = random.Random(0)
    listed = json.loads((altered / "spec.json").read_bytes())["files"]
    names = ["spec.json", *sorted(listed.keys() - {"README.md"})]  # of which a warning tells
    for _ in range(FILES):
        file = altered / chance.choice(names)
        content = file.read_bytes()
        if chance.random() < 0.05:
            file.unlink()
        else:
            file.write_bytes(damaged(chance, content))
        with pytest.raises(ControllerError) as refusal:
            load(altered)
        assert str(file.relative_to(altered)) in str(refusal.value)
        file.write_bytes(content)
    load(altered)


def changed(chance, value):
    """A description in which one place, somewhere, is other than it was."""
    value = copying.deepcopy(value)
    parent, key = None, None
    inner = value
    while isinstance(inner, dict | list) and len(inner) and (parent is None or chance.random() < 0.85):
        parent = inner
        key = chance.choice(sorted(inner)) if isinstance(inner, dict) else chance.randrange(len(inner))
        inner = inner[key]
    if chance.random() < 0.25:
        del parent[key]
        return value
    others = [None, 0, -1, 1e300, "", "x", [], {}, True, [None], {"a": 1}, [inner], float("nan")]
    parent[key] = chance.choice([other for other in others if other != inner])
    return value


@pytest.mark.filterwarnings("ignore:README.md")
def test_every_changed_description_is_refused_or_changes_nothing(altered, asked):
    """Sealed again, so that only what is said can be wrong."""
    chance, file = random.Random(1), altered / "spec.json"
    record = json.loads(file.read_bytes())
    del record["sha256"]
    refused = 0
    for _ in range(DESCRIPTIONS):
        file.write_bytes(with_content_hash(json.dumps(changed(chance, record))))
        try:
            policy = load(altered)
        except ControllerError as refusal:
            refused += 1
            assert len(str(refusal)) > 10
        else:
            require_right(policy, asked)
            assert policy.spec == record["task"]
    assert refused > DESCRIPTIONS / 2


def test_every_damaged_graph_is_refused_even_if_its_hash_is_listed(altered, asked):
    chance, file = random.Random(2), altered / "policy.onnx"
    content, record = file.read_bytes(), json.loads((altered / "spec.json").read_bytes())
    del record["sha256"]
    for _ in range(GRAPHS):
        graph = damaged(chance, content)
        file.write_bytes(graph)
        record["files"]["policy.onnx"] = hashlib.sha256(graph).hexdigest()
        (altered / "spec.json").write_bytes(with_content_hash(json.dumps(record)))
        try:
            policy = load(altered)
        except ControllerError as refusal:
            assert len(str(refusal)) > 10
        else:
            require_right(policy, asked)


def malformed(chance, size):
    """Something that is no vector of `size` finite float32 numbers."""
    kind = int(chance.integers(8))
    good = chance.normal(size=size).astype(np.float32)
    if kind == 0:
        other = int(chance.choice([n for n in range(2 * size) if n != size]))
        return chance.normal(size=other).astype(np.float32)
    if kind == 1:
        types = [
            np.float64,
            np.float16,
            np.int32,
            np.int64,
            np.uint8,
            np.bool_,
            np.complex64,
            ">f4",
            "U3",
            object,
        ]
        return good.astype(types[int(chance.integers(len(types)))])
    if kind in (2, 3, 4):
        count = int(chance.integers(1, size + 1))
        good[chance.choice(size, count, replace=False)] = chance.choice([np.nan, np.inf, -np.inf], count)
        return good
    if kind == 5:
        return good.reshape([(1, size), (size, 1), (1, 1, size)][int(chance.integers(3))])
    if kind == 6:
        return [None, list(good), tuple(good), float(good[0]), "obs", {}, b"", object()][
            int(chance.integers(8))
        ]
    return np.float32(good[0])


def test_every_malformed_input_is_refused_and_the_next_answer_is_right(controller, asked):  # noqa: F811
    chance = np.random.default_rng(3)
    obs, goals, actions = asked
    for i in range(INPUTS):
        good = obs[i % 20], goals[i % 20], actions[i % 20]
        which = int(chance.integers(4))
        with pytest.raises(ControllerError, match=r"^(obs|goal|reading|action)[:.]"):
            if which == 0:
                controller.step(malformed(chance, N), good[1])
            elif which == 1:
                controller.step(good[0], malformed(chance, G))
            elif which == 2:
                controller.observe(malformed(chance, N))
            else:
                controller.distance(good[0], malformed(chance, A), good[1])
        np.testing.assert_array_equal(controller.step(*good[:2]), good[2])


def test_whatever_it_is_given_a_guard_commands_numbers_within_limits():
    chance = np.random.default_rng(4)
    guard = CommandLimiter(SPEC.for_robot())
    guard.start(np.zeros(N, np.float32))
    limits = np.array(SPEC.joints.velocity)
    refused = 0
    for _ in range(READINGS):
        action = (chance.normal(size=A) * 10.0 ** chance.integers(-3, 30)).astype(np.float32)
        reading = (chance.normal(size=N) * 10.0 ** chance.integers(-3, 30)).astype(np.float32)
        for values in (action, reading):
            if chance.random() < 0.3:
                values[chance.integers(len(values))] = chance.choice([np.nan, np.inf, -np.inf])
        try:
            command = guard(None if chance.random() < 0.1 else action, reading)
        except ControllerError as refusal:
            refused += 1
            assert "finite" in str(refusal)
        else:
            assert (np.abs(command) <= limits).all()
    assert 0 < refused < READINGS
