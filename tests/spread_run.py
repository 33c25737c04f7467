"""A teacher's run of two iterations, over some of a process's devices or over those of two processes.

    python spread_run.py FOLDER [COORDINATOR PROCESS]

writes the arrays of a run of two virtual devices, which saves, and of eight that go on with it; or those of
all devices of two processes. See test_devices.py."""

import sys
from pathlib import Path

import jax
import numpy as np
import probes

from pipelines import distributed
from teacher.checkpoint import leaf_paths
from teacher.compilation import jit_once
from teacher.config import CollectConfig, NetworkConfig, TaskConfig, TeacherConfig, UpdateConfig
from teacher.learner import Learner
from teacher.sharding import Devices
from teacher.train import restore_state, save_state, train

ENVS, STEPS = 8, 20
# Rows of 8 features have now and then next to no variance: LayerNorm then multiplies the rounding of sums in
# another order by hundreds (seen with jax 0.12, in 2 of 1,600 actions). Of 16 features none had.
CONFIG = TeacherConfig(
    task=TaskConfig(name=f"{probes.__file__}:Aim"),
    network=NetworkConfig(depth=8, width=16, repr_dim=4, precision="float32"),
    update=UpdateConfig(actor_lr=1e-3, critic_lr=1e-3, batch_size=24),
    collect=CollectConfig(
        envs=ENVS, unroll_length=STEPS, updates=2, buffer_rows=100, prefill=40, total_steps=2 * ENVS * STEPS
    ),
)


def spread_run(devices: Devices, save: Path | None = None, resume: Path | None = None) -> dict:
    """Runs to the end, `save`s after the first iteration, or goes on from what another saved then.

    Returns: arrays by the path of their leaf, metrics, and `held`: a device's numbers of the optimiser."""
    learner = Learner(CONFIG, devices)
    if devices.count == 1:
        learner._update = jit_once(learner.update_many, donate_argnums=0)  # sooner compiled
    start = restore_state(resume, learner)[0] if resume else learner.init(jax.random.key(0))
    for state, metrics in train(learner, start):
        if save and int(state.iteration) == 1:
            save_state(save, learner, state, None)
        last = state, metrics
    state, metrics = last
    held = sum(leaf.size for leaf in jax.tree.leaves(devices.local(state.optimiser)))
    state = devices.fetch(state._replace(key=jax.random.key_data(state.key)))
    return {path: np.asarray(leaf) for path, leaf in leaf_paths(state).items()} | metrics | {"held": held}


def main(folder: Path, *meeting: str) -> None:
    if not meeting:
        np.savez(folder / "two", **spread_run(Devices(jax.devices()[:2]), save=folder / "saved"))
        np.savez(folder / "eight", **spread_run(Devices(jax.devices()[:8]), resume=folder / "saved"))
        return
    distributed.join(meeting[0], 2, int(meeting[1]))
    devices = Devices()
    devices.connect()
    assert devices.count == 4
    arrays = spread_run(devices, save=folder / "saved")
    if jax.process_index() == 0:
        np.savez(folder / "processes", **arrays)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
