"""A teacher's run of two iterations over several devices, in a process of its own; see test_devices.py.

Writes the run's arrays to the .npz named in the JSON of its only argument: `out`, `devices` (how many
of those there are), and optionally `save` (a directory for the state after the first iteration),
`resume` (such a directory), `coordinator`, `processes` and `process`.
"""

import json
import sys
from pathlib import Path

import jax
import numpy as np

from pipelines import distributed
from teacher.checkpoint import leaf_paths
from teacher.config import CollectConfig, NetworkConfig, TaskConfig, TeacherConfig, UpdateConfig
from teacher.learner import Learner
from teacher.sharding import Devices
from teacher.train import restore_state, save_state, train

ENVS, STEPS = 8, 20


# Rows of 8 features have now and then next to no variance: LayerNorm then multiplies the rounding of sums in
# another order by hundreds (seen with jax 0.12, in 2 of 1,600 actions). Of 16 features none had.
CONFIG = TeacherConfig(
    task=TaskConfig(name="reacher", engine="mjx"),
    network=NetworkConfig(depth=16, width=16, repr_dim=4, precision="float32"),
    update=UpdateConfig(actor_lr=1e-3, critic_lr=1e-3, batch_size=24),
    collect=CollectConfig(
        envs=ENVS, unroll_length=STEPS, updates=2, buffer_rows=100, prefill=40, total_steps=2 * ENVS * STEPS
    ),
)


def main(settings: dict) -> None:
    distributed.join(settings.get("coordinator"), settings.get("processes"), settings.get("process"))
    devices = Devices()
    devices.connect()
    assert devices.count == settings["devices"]
    learner = Learner(CONFIG, devices)
    if "resume" in settings:
        start, _ = restore_state(Path(settings["resume"]), learner)
    else:
        start = learner.init(jax.random.key(0))
    for state, metrics in train(learner, start):
        last = state, metrics
        if "save" in settings and int(state.iteration) == 1:
            save_state(Path(settings["save"]), learner, state, None)
    state, metrics = last
    held = sum(leaf.size for leaf in jax.tree.leaves(devices.local(state.optimiser)))
    state = devices.fetch(state._replace(key=jax.random.key_data(state.key)))
    if jax.process_index() == 0:
        arrays = {path: np.asarray(leaf) for path, leaf in leaf_paths(state).items()}
        np.savez(settings["out"], **arrays, **metrics, held=held)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
