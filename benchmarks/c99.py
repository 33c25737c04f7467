"""Latency of a bundle's policy in C99, in ONNX Runtime alone, and with all checks of the controller.

    python benchmarks/c99.py BUNDLE...

One thread, batch 1; the three take turns in rounds, on observations that the bundle carries. Prints JSON:
for each bundle the median over rounds of a round's median in microseconds, with the least and the greatest,
and what the checks add to ONNX Runtime's own `run`, by rounds.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx

from export.c import policy_c
from export.controller import load, open_session
from teacher.spec import TaskSpec

ROUNDS, STEPS = 15, 2000
FLAGS = ("-std=c99", "-O2", "-D_POSIX_C_SOURCE=199309L")
MAIN = """
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include "policy.h"
static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e6 * (double)t.tv_sec + 1e-3 * (double)t.tv_nsec;
}
static int less(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}
int main(int count, char **words) {
    static float obs[POLICY_OBS_SIZE], goal[POLICY_GOAL_SIZE], actions[POLICY_ACTION_SIZE];
    int steps = count > 1 ? atoi(words[1]) : 1000;
    double *took = malloc(sizeof(double) * (size_t)steps), sum = 0.0;
    for (int i = 0; i < steps; i++) {
        for (int j = 0; j < POLICY_OBS_SIZE; j++) obs[j] = 0.01f * (float)((i + 7 * j) % 100);
        double begun = now();
        policy_step(obs, goal, actions);
        took[i] = now() - begun;
        sum += actions[0];
    }
    qsort(took, (size_t)steps, sizeof(double), less);
    printf("%.4f %.4f\\n", took[steps / 2], sum);
    return 0;
}
"""


def compiled(bundle: Path, folder: Path) -> Path:
    model = onnx.load(bundle / "policy.onnx")
    spec = TaskSpec.from_robot(json.loads((bundle / "spec.json").read_bytes())["task"])
    for name, text in {**policy_c(model, spec), "main.c": MAIN}.items():
        (folder / name).write_text(text)
    program = folder / "policy"
    sources = [folder / "policy.c", folder / "main.c"]
    subprocess.run(["gcc", *FLAGS, *sources, "-lm", "-o", program], check=True)
    return program


def median(step, rows) -> float:
    took = np.empty(STEPS)
    for i in range(STEPS):
        row = rows[i % len(rows)]
        begun = time.perf_counter()
        step(row)
        took[i] = time.perf_counter() - begun
    return float(np.median(took)) * 1e6


def measure(bundle: Path) -> dict:
    controller = load(bundle)
    session = open_session((bundle / "policy.onnx").read_bytes())
    with np.load(bundle / "golden.npz") as golden:
        rows = list(zip(golden["obs"], golden["goal"], strict=True))
    action = np.zeros(len(controller.spec["action"]["joints"]), np.float32)
    found: dict[str, list[float]] = {"c99": [], "onnxruntime": [], "controller": []}
    with tempfile.TemporaryDirectory() as folder:
        program = compiled(bundle, Path(folder))
        for _ in range(ROUNDS):
            done = subprocess.run([program, str(10 * STEPS)], check=True, capture_output=True, text=True)
            found["c99"].append(float(done.stdout.split()[0]))
            feeds = [{"obs": obs[None], "goal": goal[None]} for obs, goal in rows]
            found["onnxruntime"].append(median(lambda feed: session.run(["actions"], feed), feeds))
            found["controller"].append(median(lambda row: controller.step(*row, out=action), rows))
    found["checks"] = [a - b for a, b in zip(found["controller"], found["onnxruntime"], strict=True)]
    figures = {
        name: {"us": float(np.median(each)), "least": min(each), "greatest": max(each)}
        for name, each in found.items()
    }
    return {"bundle": bundle.name, "rounds": ROUNDS, "flags": FLAGS, **figures}


if __name__ == "__main__":
    print(json.dumps([measure(Path(each)) for each in sys.argv[1:]], indent=2))
