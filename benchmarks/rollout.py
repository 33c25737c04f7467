"""Control steps per second while collecting, over tasks, engines, environments and depths.

    python benchmarks/rollout.py
    python benchmarks/rollout.py --json --tasks fr3_reach --envs 256 4096 --depths 16 1024     (with a GPU)

What is timed is what a run does between its updates: observe, ask the actor for an action with noise,
step the simulator, start finished episodes anew, write the rows to the replay. A step is one control
step of one environment. Spreads are quartiles over calls.
"""

import time

import jax
from measuring import Row, device, middle, parser_of, say, show

from pipelines.catalogue import call_rates
from teacher.compilation import jit_physics
from teacher.config import CollectConfig, NetworkConfig, TaskConfig, TeacherConfig
from teacher.learner import Learner
from teacher.sharding import Devices
from teacher.tasks import make_task
from teacher.tasks.engines import ENGINES

SECONDS = 2.0  # of measuring in each row
FEWEST_CALLS = 3
STEPS = 10  # control steps of every environment in one call


def measure(task: str, engine: str, envs: int, depth: int, width: int) -> Row:
    """Steps per second: calls within SECONDS, unless FEWEST_CALLS take longer."""
    config = TeacherConfig(
        task=TaskConfig(name=task, engine=engine),
        network=NetworkConfig(depth=depth, width=width),
        collect=CollectConfig(envs=envs, unroll_length=STEPS, buffer_rows=100),
    )
    learner = Learner(config, Devices(jax.devices()[:1]))
    collect = jit_physics(learner.collect, donate_argnums=0)
    name = f"{task}, {engine}, {envs} environments, depth {depth}"
    begun = time.perf_counter()
    state = jax.block_until_ready(collect(learner.init(jax.random.key(0))))
    say(f"{name}: compiled in {time.perf_counter() - begun:.1f} s")

    def call() -> None:
        nonlocal state
        state = jax.block_until_ready(collect(state))

    rates = [envs * STEPS * rate for rate in call_rates(call, SECONDS, FEWEST_CALLS)]
    figures: Row = {"task": task, "engine": engine, "envs": envs, "depth": depth}
    figures |= {"width": width, "device": device()}
    figures["steps_per_s"], figures["spread"] = middle(rates)
    return figures


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--tasks", nargs="+", default=["fr3_reach", "reacher"])
    parser.add_argument("--envs", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--depths", type=int, nargs="+", default=[4, 64, 256])
    parser.add_argument("--width", type=int, default=64)
    arguments = parser.parse_args()
    rows = [
        measure(task, engine, envs, depth, arguments.width)
        for task in arguments.tasks
        for engine in make_task(task).engines
        if ENGINES[engine].compiled  # no teacher is trained in others
        for envs in arguments.envs
        for depth in arguments.depths
    ]
    show(rows, arguments.json, settings=("width", "device"))


if __name__ == "__main__":
    main()
