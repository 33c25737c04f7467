"""Control steps per second of a task on an engine, on the machine at hand."""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from teacher.compilation import jit_physics
from teacher.rollout import Simulation, simulation
from teacher.tasks import Start

STEPS = 20  # control steps of every environment in one compiled call
HOST_STEPS = 200  # control steps of the C engine's one environment in one call
SECONDS = 1.0  # of measuring
FEWEST_CALLS = 3


def measure(task: str, engine: str, envs: int) -> dict[str, Any]:
    """Steps per second of so many environments together, under random actions and with their observations.

    The C engine takes one environment after another, so it is measured with one."""
    robot = simulation(task, engine)
    compiled = robot.engine.compiled
    envs, steps = (envs, STEPS) if compiled else (1, HOST_STEPS)
    start = robot.starts(jax.random.key(0), envs)
    shape = (steps, envs, robot.task.spec.action_size)
    actions = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    advance = _compiled(robot) if compiled else _stepped(robot)
    begun = time.perf_counter()
    advance(start, actions)
    figures = {"compile_s": time.perf_counter() - begun} if compiled else {}
    rates = call_rates(lambda: advance(start, actions), SECONDS, FEWEST_CALLS)
    return {"environments": envs, "steps_per_s": envs * steps * float(np.median(rates)), **figures}


def call_rates(call: Callable[[], Any], seconds: float, fewest: int) -> list[float]:
    """Calls per second, each call timed alone: for so long, and at least so often."""
    rates: list[float] = []
    started = time.perf_counter()
    while len(rates) < fewest or time.perf_counter() - started < seconds:
        begun = time.perf_counter()
        call()
        rates.append(1 / (time.perf_counter() - begun))
    return rates


def _compiled(robot: Simulation) -> Callable[[Start, np.ndarray], Any]:
    def step(state: Any, action: Any) -> tuple[Any, Any]:
        state = robot.step(state, action)
        return state, robot.observe(state)

    scan = jit_physics(lambda start, actions: jax.lax.scan(step, robot.reset(start), actions)[1])
    return lambda start, actions: jax.block_until_ready(scan(start, actions))


def _stepped(robot: Simulation) -> Callable[[Start, np.ndarray], None]:
    def advance(start: Start, actions: np.ndarray) -> None:
        state = robot.reset(start)
        for action in actions:
            state = robot.step(state, action)
            robot.observe(state)

    return advance
