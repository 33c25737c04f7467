"""What one update costs at several depths, from tracing to its end, each in a process of its own.

    python benchmarks/compile.py
    python benchmarks/compile.py --json --depths 16 1024

`peak_mb` is the most host memory that a process held which traced, compiled and ran one update of random
rows, its state's buffers reused; `device_peak_mb`, where there is a GPU, the most memory on it.
"""

import json
import os
import resource
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import jax
from measuring import Row, init_learned, learner_of, parser_of, random_batch, say, show

from teacher.compilation import jit_once
from teacher.config import NetworkConfig


def measure(depth: int, width: int, batch: int) -> Row:
    """Seconds to trace, compile and run one joint update, and the process's peak memory."""
    rows = random_batch(batch)
    learner = learner_of(NetworkConfig(depth=depth, width=width), rows)
    init = partial(init_learned, learner, rows)
    key = jax.random.key(0)
    shapes = jax.eval_shape(init, key)
    update = jax.jit(learner.update, donate_argnums=0)
    begun = time.perf_counter()
    lowered = update.lower(shapes, rows, key)
    traced = time.perf_counter()
    compiled = lowered.compile()
    ready = time.perf_counter()
    state = jax.block_until_ready(jit_once(init)(key))
    started = time.perf_counter()
    state, _ = compiled(state, rows, key)
    jax.block_until_ready(state)
    figures: Row = {"depth": depth, "width": width, "batch": batch}
    figures |= {"trace_s": traced - begun, "compile_s": ready - traced}
    figures |= {"update_s": time.perf_counter() - started}
    figures |= {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    memory = jax.devices()[0].memory_stats()
    return figures | ({"device_peak_mb": memory["peak_bytes_in_use"] / 2**20} if memory else {})


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--depths", type=int, nargs="+", default=[16, 1024])
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--one", type=int, metavar="DEPTH", help="measure this depth in this process")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one, arguments.width, arguments.batch)))
        return
    # Nothing that an earlier run compiled may be found again.
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    rows = []
    for depth in arguments.depths:
        say(f"depth {depth}")
        sizes = ["--width", str(arguments.width), "--batch", str(arguments.batch)]
        command = [sys.executable, str(Path(__file__)), "--one", str(depth), *sizes]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        rows.append(json.loads(done.stdout))
    show(rows, arguments.json, settings=("width", "batch"))


if __name__ == "__main__":
    main()
