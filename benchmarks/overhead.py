"""What metrics, panel and checkpoints add to the training of a teacher; prints JSON.

    python benchmarks/overhead.py --iterations 40 --rounds 3

In turn trains as `pipeline teacher` does, its panel on a terminal, metrics.jsonl, event files of TensorBoard
and saves as the preset has them, and with nothing but the learner's own iterations. Evaluation is no part of
it, nor is the first iteration, which compiles. The overhead is the ratio of both times less one, its median
over the rounds with the smallest and largest as its spread.
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

from pipelines import Config, Display, Run, new_run, preset, teach, with_values
from teacher import Learner


def watched_s(folder: Path, config: Config) -> tuple[float, int]:
    """Seconds between the first iteration's end and the last's, and how many saves fell between them."""
    run = new_run(folder, config)
    teach(run, Display())
    lines = run.metrics("teacher")
    return lines[-2]["wall_s"] - lines[0]["wall_s"], saves_before(run, lines[-2]["iteration"])


def saves_before(run: Run, iteration: int) -> int:
    return sum(int(file.name) <= iteration for file in run.checkpoints.iterdir() if file.name.isdigit())


def bare_s(config: Config) -> float:
    """Seconds of the same iterations."""
    learner = Learner(config.teacher)
    state, _ = learner.iterate(learner.init(jax.random.key(0)))
    jax.block_until_ready(state)
    begun = time.monotonic()
    for _ in range(config.teacher.collect.iterations - 2):
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
    errors = sys.stderr
    watched, bare, saves = [], [], []
    with tempfile.TemporaryDirectory(prefix="fathom-overhead-") as folder:
        for number in range(arguments.rounds):
            terminal()
            seconds, count = watched_s(Path(folder) / str(number), config)
            sys.stderr = errors
            watched.append(seconds)
            saves.append(count)
            bare.append(bare_s(config))
            say(f"round {number + 1}: {watched[-1]:.1f} s watched, {count} saves; {bare[-1]:.1f} s bare")
    overheads = [w / b - 1 for w, b in zip(watched, bare, strict=True)]
    figures = {
        "device": device(),
        "preset": arguments.preset,
        "iterations": arguments.iterations - 2,
        "watched_s": watched,
        "bare_s": bare,
        "saves_kept": saves,
        "overhead": median(overheads),
        "overhead_spread": [min(overheads), max(overheads)],
    }
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
