"""Time to trace and compile one update at several depths, each in a process of its own; prints JSON.

python benchmarks/compile.py --depths 16 1024
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time


def measure(depth: int, width: int, batch: int) -> dict:
    """Seconds to trace and to compile one joint update, and the process's peak memory."""
    import jax

    from teacher.config import CollectConfig, NetworkConfig, TeacherConfig, UpdateConfig
    from teacher.learner import Learner
    from teacher.replay import Batch

    config = TeacherConfig(
        network=NetworkConfig(depth=depth, width=width),
        update=UpdateConfig(batch=batch),
        collect=CollectConfig(envs=batch, prefill=50, replay=100),
    )
    learner = Learner(config)
    state = jax.eval_shape(learner.init, jax.random.key(0))
    spec = learner.spec
    sizes = (spec.observation_size, spec.action_size, spec.goal_size)
    rows = Batch(*(jax.ShapeDtypeStruct((batch, size), "float32") for size in sizes))
    update = jax.jit(learner.update, donate_argnums=0)
    begun = time.perf_counter()
    lowered = update.lower((state.params, state.optimiser), rows, jax.random.key(0))
    traced = time.perf_counter()
    lowered.compile()
    compiled = time.perf_counter()
    return {
        "depth": depth,
        "width": width,
        "batch": batch,
        "trace_s": traced - begun,
        "compile_s": compiled - traced,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--depths", type=int, nargs="+", default=[16, 1024])
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--one", type=int, help="measure this depth in this process")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one, arguments.width, arguments.batch)))
        return
    # Nothing that an earlier run compiled may be found again.
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    rows = []
    for depth in arguments.depths:
        sizes = ["--width", str(arguments.width), "--batch", str(arguments.batch)]
        command = [sys.executable, __file__, "--one", str(depth), *sizes]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        rows.append(json.loads(done.stdout))
    print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
