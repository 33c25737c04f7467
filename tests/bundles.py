"""A small policy and critic for fr3_reach and their bundle, which tests of export and controller share."""

import hashlib
import json
import subprocess
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np

from export.bundle import write_bundle
from export.controller import with_content_hash
from student.networks import init_student
from teacher.tasks import make_task

SPEC = make_task("fr3_reach").spec
N, G, A = SPEC.observation_size, SPEC.goal_size, SPEC.action_size
COUNT = 1000
PROVENANCE = {"observation_seed": 3, "checkpoint_sha256": "ab" * 32, "teacher": {"depth": 16}}


def layers(seed, sizes):
    draw = np.random.default_rng(seed)  # not JAX, which would compile to draw
    weights = [(draw.normal(size=pair) / np.sqrt(pair[0]), np.full(pair[1], 0.1)) for pair in pairwise(sizes)]
    return [(weight.astype(np.float32), bias.astype(np.float32)) for weight, bias in weights]


def apply(parameters, x):
    for weight, bias in parameters[:-1]:
        x = jax.nn.swish(x @ weight + bias)
    weight, bias = parameters[-1]
    return x @ weight + bias


POLICY, STATE_ACTION, GOAL = layers(0, (N + G, 64, 64, A)), layers(1, (N + A, 64, 32)), layers(2, (G, 64, 32))


def policy(obs, goal):
    return jnp.tanh(apply(POLICY, jnp.concatenate([obs, goal], axis=-1)))


def critic(obs, action, goal):
    difference = apply(STATE_ACTION, jnp.concatenate([obs, action], axis=-1)) - apply(GOAL, goal)
    return jnp.sqrt(jnp.sum(difference**2, axis=-1) + 1e-6)


def untrained(size, sizes):
    """A student's parameters without a critic, drawn as above."""
    shapes = jax.eval_shape(lambda key: init_student(key, size, size, sizes, 0), jax.random.key(0))
    draw = np.random.default_rng(3)
    return jax.tree.map(lambda leaf: draw.normal(size=leaf.shape).astype("f4") / leaf.shape[0] ** 0.5, shapes)


def drawn():
    """Observations [K, N], goals [K, G] and actions [K, A] as of rollouts."""
    random = np.random.default_rng(0)
    obs, actions = random.normal(size=(COUNT, N)), random.uniform(-1, 1, (COUNT, A))
    goals = random.uniform(SPEC.goal.low, SPEC.goal.high, (COUNT, G))
    return tuple(values.astype(np.float32) for values in (obs, goals, actions))


def export(directory, rollouts=None, policy=policy, critic=critic):
    return write_bundle(
        directory,
        SPEC,
        policy,
        critic,
        *(rollouts or drawn()),
        provenance=PROVENANCE,
        evaluate=lambda _: {"success": 0.9917},
    )


def rewrite(directory, change=lambda record: None, rehash=()):
    """Edits spec.json, as somebody would who also fits the hashes of the files named in `rehash`."""
    record = json.loads((directory / "spec.json").read_text())
    del record["sha256"]
    change(record)
    for name in rehash:
        record["files"][name] = hashlib.sha256((directory / name).read_bytes()).hexdigest()
    (directory / "spec.json").write_bytes(with_content_hash(json.dumps(record)))


def ran(*command, code=0, **options):
    """A finished process, which answered with this exit code."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, **options)
    assert done.returncode == code, done.stderr
    return done
