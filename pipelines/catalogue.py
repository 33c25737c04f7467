"""What can be learned here: the tasks, what they ask for, and how fast they run."""

import time
from collections.abc import Callable, Sequence
from functools import cache, reduce
from typing import Any

import jax
import numpy as np
from rich.text import Text

from pipelines import presets
from pipelines.files import JSON
from pipelines.progress import Display
from teacher.compilation import jit_physics
from teacher.errors import FathomError
from teacher.rollout import simulation
from teacher.tasks import TASKS, Task, hidden_tasks, make_task, task_names
from teacher.tasks.engines import engines_of
from teacher.tasks.plausibility import doubts

STEPS = 20  # control steps of every environment in one compiled call
HOST_STEPS = 200  # control steps of the C engine's one environment in one call
SECONDS = 1.0  # of measuring
FEWEST_CALLS = 3


def listed(names: Sequence[str], display: Display) -> dict[str, Task]:
    """Makes the tasks of these names or references; without any, all that this program and packages bring.

    Of all, one that cannot be made is named to the user and left out."""
    if names:
        for name in names:
            if not warn_of_slips(name) and name not in TASKS:
                display.say(f"{name}: checked, and nothing looks wrong")
        return {name: make_task(name) for name in names}
    found = {}
    for complaint in hidden_tasks():
        display.warn(complaint)
    for name in task_names():
        try:
            found[name] = make_task(name)
        except FathomError as error:
            display.warn(str(error))
    return found


@cache
def warn_of_slips(name: str) -> int:
    """Warns, once in a process, of what in a task of the user's own looks like a slip; says of how many."""
    slips = doubts(make_task(name)) if name not in TASKS else []
    for slip in slips:
        Display().warn(f"warning: task {make_task(name).spec.name!r}: {slip}")
    return len(slips)


def describe(tasks: dict[str, Task]) -> JSON:
    """Returns what `pipeline tasks --json` says of tasks."""
    return {
        name: {
            "spec": task.spec.model_dump(mode="json"),
            "engines": list(engines_of(task)),
            "layouts": list(task.layouts),
            "evaluation_layout": task.evaluation_layout,
            "randomised": task.randomise.alters_anything,
            "description": presets.TASKS.get(name) or (type(task).__doc__ or "").strip().partition("\n")[0],
        }
        for name, task in tasks.items()
    }


def measure(tasks: dict[str, Task], envs: int, display: Display) -> JSON:
    """Measures control steps per second of every task on each of its engines; each is told as it comes.

    An engine on which a task fails has `error` in place of figures."""
    figures: JSON = {}
    for name, task in tasks.items():
        figures[name] = {}
        for engine in engines_of(task):
            with display.console.status(Text(f"{name} on {engine}")):
                try:
                    found = measure_engine(name, engine, envs)
                    told = f"{found['steps_per_s']:,.0f} steps/s"
                    told += f", compiled in {found['compile_s']:.0f} s" if "compile_s" in found else ""
                except FathomError as error:
                    found, told = {"error": str(error)}, str(error)
            figures[name][engine] = found
            display.say(f"{name} on {engine}: {told}")
    device = jax.devices()[0]
    return {"device": f"{device.platform} {device.device_kind}", "environments": envs, "tasks": figures}


def measure_engine(task: str, engine: str, envs: int) -> JSON:
    """Measures steps per second of so many environments together, under random actions, with observations.

    The C engine takes one environment after another, so it is measured with one."""
    robot = simulation(task, engine)
    compiled = robot.engine.compiled
    envs, steps = (envs, STEPS) if compiled else (1, HOST_STEPS)
    start = robot.starts(jax.random.key(0), envs)
    shape = (steps, envs, robot.task.spec.action_size)
    actions = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)

    def step(state: Any, action: Any) -> tuple[Any, Any]:
        state = robot.step(state, action)
        return state, robot.observe(state)

    scan = jit_physics(lambda start, actions: jax.lax.scan(step, robot.reset(start), actions)[1])

    def call() -> None:
        if compiled:
            jax.block_until_ready(scan(start, actions))
        else:
            reduce(lambda state, action: step(state, action)[0], actions, robot.reset(start))

    begun = time.perf_counter()
    call()
    figures = {"compile_s": time.perf_counter() - begun} if compiled else {}
    rates = call_rates(call, SECONDS, FEWEST_CALLS)
    return {"environments": envs, "steps_per_s": envs * steps * float(np.median(rates)), **figures}


def call_rates(call: Callable[[], Any], seconds: float, fewest: int) -> list[float]:
    """Returns calls per second, each call timed alone: for so long, and at least so often."""
    rates: list[float] = []
    started = time.perf_counter()
    while len(rates) < fewest or time.perf_counter() - started < seconds:
        begun = time.perf_counter()
        call()
        rates.append(1 / (time.perf_counter() - begun))
    return rates
