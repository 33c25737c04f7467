"""A short teacher run over several devices, in a process of its own; see test_devices.py.

Prints nothing; writes the run's arrays to the .npz named in the JSON of its only argument:
`out`, `devices` (how many of those there are), `iterations`, and optionally `checkpoints` (a
directory), `resume`, `coordinator`, `processes` and `process`.
"""

import json
import sys
from pathlib import Path

import jax
import numpy as np

from teacher.checkpoint import leaf_paths
from teacher.config import CollectConfig, NetworkConfig, TaskConfig, TeacherConfig, UpdateConfig
from teacher.devices import Devices
from teacher.learner import Learner
from teacher.train import restore_state, save_state, train

ENVS, STEPS = 8, 20


def config(iterations: int) -> TeacherConfig:
    return TeacherConfig(
        task=TaskConfig(name="reacher", engine="mjx"),
        network=NetworkConfig(depth=16, width=8, representation=4, precision="float32"),
        update=UpdateConfig(actor_rate=1e-3, critic_rate=1e-3, batch=24),
        collect=CollectConfig(
            envs=ENVS, steps=STEPS, updates=2, replay=100, prefill=40, total_steps=iterations * ENVS * STEPS
        ),
    )


def main(settings: dict) -> None:
    if "coordinator" in settings:
        jax.distributed.initialize(settings["coordinator"], settings["processes"], settings["process"])
    devices = Devices(jax.devices()[: settings["devices"]])
    assert devices.count == settings["devices"]
    learner = Learner(config(settings["iterations"]), devices)
    checkpoints = Path(settings.get("checkpoints", "")).absolute()
    if settings.get("resume"):
        start, _ = restore_state(checkpoints, learner)
    else:
        start = learner.init(jax.random.key(0))
    state, metrics = start, {}
    for state, metrics in train(learner, start):  # noqa: B007
        pass
    if "checkpoints" in settings and not settings.get("resume"):
        save_state(checkpoints, learner, state, None)
    whole = devices.fetch(state._replace(key=jax.random.key_data(state.key)))
    kept = learner.devices.local(state.optimiser)
    if jax.process_index() == 0:
        arrays = {path: np.asarray(leaf) for path, leaf in leaf_paths(whole).items()}
        arrays["held"] = np.array([leaf.size for leaf in jax.tree.leaves(kept)])
        np.savez(settings["out"], **arrays, **metrics)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
