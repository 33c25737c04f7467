"""The exported controller in the loop: as a policy among others, and alone against the clock."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import jax
import numpy as np

from export.controller import Controller, ControllerError
from pipelines.render import Recording, record
from teacher.errors import FathomError
from teacher.evaluate import episode_metrics, evaluation_noise_key, evaluation_starts, summarise
from teacher.rollout import Policy, Simulation, on_robot

RECORDED_EPISODES = 4
ROBOTS = 256  # side by side; what compiled engines step at once


def batched(controller: Controller) -> Policy:
    """Returns a policy over a batch that steps the controller row by row, as a robot does."""

    def policy(observation: np.ndarray, goal: np.ndarray) -> np.ndarray:
        observation, goal = observation.astype(np.float32), goal.astype(np.float32)
        return np.stack([controller.step(o, g) for o, g in zip(observation, goal, strict=True)])

    return policy


@contextmanager
def controller_errors() -> Iterator[None]:
    """Turns a controller's errors into this program's own."""
    try:
        yield
    except ControllerError as error:
        raise FathomError(str(error)) from error


def control(
    controller: Controller, robot: Simulation, layout: str, episodes: int, seed: int | None = None
) -> tuple[dict[str, Any], Recording | None]:
    """Runs held-out episodes of the controller, a robot each, every answer timed by itself.

    Each robot's controller is given readings of its sensors and keeps their history. A deadline is missed
    when an answer takes longer than the control period.
    Returns: figures for the summary; the first episodes to look at, if the task can be drawn."""
    starts, noise_key = evaluation_starts(robot, episodes, layout, seed), evaluation_noise_key(seed)
    deployed = robot.task.spec.deployed
    entries = deployed.reading_size if deployed else robot.task.spec.observation_size
    seconds: list[float] = []

    def timed(observation: np.ndarray, goal: np.ndarray, controllers: list[Controller]) -> np.ndarray:
        readings, goals = observation[:, :entries].astype(np.float32), goal.astype(np.float32)
        actions = []
        for own, reading, g in zip(controllers, readings, goals, strict=False):  # the other rows are padding
            begun = time.perf_counter()
            actions.append(own.step(own.observe(reading), g))
            seconds.append(time.perf_counter() - begun)
        return np.stack([*actions, *[actions[-1]] * (len(goal) - len(actions))])

    runs = []
    for first in range(0, episodes, ROBOTS):
        some = jax.tree.map(lambda leaf, first=first: leaf[first : first + ROBOTS], starts)
        policy = partial(timed, controllers=[controller.twin() for _ in some.goal])
        runs.append(robot.rollout(on_robot(policy), some, noise_key=jax.random.fold_in(noise_key, first)))
    trajectories = jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=1), *runs)
    latency = np.array(seconds) * 1e6
    figures = {
        "engine": robot.engine_name,
        **summarise(episode_metrics(robot.task.spec, trajectories, starts.goal), layout),
        "latency_us_p50": float(np.percentile(latency, 50)),
        "latency_us_p99": float(np.percentile(latency, 99)),
        "latency_us_max": float(latency.max()),
        "steps": len(seconds),
        "missed_deadlines": int((np.array(seconds) > robot.task.spec.control_dt).sum()),
    }
    return figures, record(robot.task, trajectories, starts.goal, RECORDED_EPISODES)
