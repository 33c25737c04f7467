"""What metrics, panel and checkpoints add to the training of a teacher; prints JSON.

    python benchmarks/overhead.py --iterations 40 --rounds 3

In turn trains as `pipeline teacher` does, its panel on a terminal, metrics.jsonl, event files of TensorBoard
and saves as the preset has them, and with nothing but the learner's own iterations; every other round the
other way about. Evaluation is no part of it, nor are the first iterations, beside which it is compiled. The
overhead is the ratio of both times less one, its median over the rounds with the smallest and largest as its
spread.
"""

import argparse
import json
import os
import pty
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median

import jax
from measuring import device, say

from pipelines import Config, Display, new_run, preset, teach, with_values
from teacher import Learner

WARM_UP = 8  # iterations


def watched_s(folder: Path, config: Config) -> float:
    """Seconds of all iterations but the first and the last, after which it evaluates."""
    run = new_run(folder, config)
    errors = sys.stderr
    terminal()
    teach(run, Display())
    sys.stderr = errors
    lines = run.metrics("teacher")
    return lines[-2]["wall_s"] - lines[WARM_UP - 1]["wall_s"]


def bare_s(config: Config) -> float:
    """Seconds of the same iterations."""
    learner = Learner(config.teacher)
    state = learner.init(jax.random.key(0))
    for _ in range(WARM_UP):
        state, _ = learner.iterate(state)
    jax.block_until_ready(state)
    begun = time.monotonic()
    for _ in range(config.teacher.collect.iterations - 1 - WARM_UP):
        state, _ = learner.iterate(state)
    jax.block_until_ready(state)
    return time.monotonic() - begun


def terminal() -> None:
    """Makes standard error a terminal that somebody reads."""
    here, there = pty.openpty()
    sys.stderr = os.fdopen(there, "w")

    def read() -> None:
        while os.read(here, 65536):
            pass

    threading.Thread(target=read, daemon=True).start()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="quickstart")
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    collect = preset(arguments.preset).teacher.collect
    steps = arguments.iterations * collect.envs * collect.steps
    changes = [f"collect.total_steps={steps}", f"evaluate.every={arguments.iterations}"]
    config = with_values(preset(arguments.preset), [*changes, "track.tensorboard=true"])
    watched, bare = [], []
    with tempfile.TemporaryDirectory(prefix="fathom-overhead-") as folder:
        for number in range(arguments.rounds):
            for is_watched in (True, False) if number % 2 else (False, True):
                if is_watched:
                    watched.append(watched_s(Path(folder) / str(number), config))
                else:
                    bare.append(bare_s(config))
            say(f"round {number + 1}: {watched[-1]:.1f} s watched, {bare[-1]:.1f} s bare")
    overheads = [w / b - 1 for w, b in zip(watched, bare, strict=True)]
    figures = {
        "device": device(),
        "preset": arguments.preset,
        "iterations": arguments.iterations - 1 - WARM_UP,
        "watched_s": watched,
        "bare_s": bare,
        "overhead": median(overheads),
        "overhead_spread": [min(overheads), max(overheads)],
    }
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
