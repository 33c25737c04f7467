"""Deadlines missed at 1 kHz by the control loop and by an empty one, while the other core is busy.

    python benchmarks/deadlines.py BUNDLE

The two take turns, a second each, for a minute each; both sleep until a period begins and count it as missed
if it is over before their work is done. The loop has all its checks and its log; the robot answers at once.
Prints JSON.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from export.controller import CommandLimiter, Log, load, punctual, run

PERIOD, SECONDS = 0.001, 60
BUSY = "while True: pass"


class Still:
    """Stands at the middle of its range."""

    def __init__(self, spec: dict) -> None:
        self._reading = np.zeros(sum(len(term["entries"]) for term in spec["inputs"]["reading"]), np.float32)

    def read(self):
        return time.monotonic(), self._reading

    def write(self, command):
        pass

    def stop(self):
        pass


def empty(seconds: float) -> int:
    missed = period = 0
    start = time.monotonic()
    while period < round(seconds / PERIOD):
        wait = start + period * PERIOD - time.monotonic()
        if wait > 0:
            punctual(wait)
        over = max(0, int((time.monotonic() - start) / PERIOD) - period)
        missed += over
        period += max(over, 1)
    return missed


def main(bundle: Path) -> dict:
    controller = load(bundle)
    controller.spec["control_dt"] = PERIOD
    goal = np.array(controller.spec["goal"]["low"], np.float32)
    limiter, log, robot = CommandLimiter(controller.spec), Log(controller.spec, 1000), Still(controller.spec)
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[:1])
    others = [
        subprocess.Popen(["taskset", "-c", str(core), sys.executable, "-c", BUSY]) for core in cores[1:]
    ]
    found: dict[str, list[int]] = {"empty": [], "controller": []}
    longest = 0.0
    try:
        for _ in range(SECONDS):
            found["empty"].append(empty(1.0))
            outcome = run(controller, robot, goal, 1.0, limiter=limiter, log=log)
            found["controller"].append(outcome["missed_deadlines"])
            longest = max(longest, outcome["latency_us_max"])
    finally:
        for other in others:
            other.kill()
    periods = round(SECONDS / PERIOD)
    return {
        "bundle": bundle.name,
        "periods": periods,
        "busy_cores": len(others),
        "missed": {name: sum(each) for name, each in found.items()},
        "allowed": sum(found["empty"]) + periods // 1000,
        "longest_step_us": longest,
    }


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1])), indent=2))
