"""The exported controller in the loop: as a policy among others, and alone against the clock."""

import time
from typing import Any

import jax
import numpy as np

from export.controller import Controller
from teacher.evaluate import evaluation_starts, outcomes, summarise
from teacher.simulation import Policy, Simulation, Trajectories

RECORDED_EPISODES = 4


def batched(controller: Controller) -> Policy:
    """A policy over a batch that asks the controller row by row, as a robot does."""

    def policy(observation: np.ndarray, goal: np.ndarray) -> np.ndarray:
        observation, goal = observation.astype(np.float32), goal.astype(np.float32)
        return np.stack([controller.step(o, g) for o, g in zip(observation, goal, strict=True)])

    return policy


def control(
    controller: Controller, robot: Simulation, layout: str, episodes: int, seed: int | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Held-out episodes of the controller, one robot at a time, every step timed.

    A deadline is missed when an answer takes longer than the control period.
    Returns: figures for the summary; the first episodes as a recording (see `record`)."""
    starts = evaluation_starts(robot, episodes, layout, seed)
    seconds: list[float] = []

    def timed(observation: np.ndarray, goal: np.ndarray) -> np.ndarray:
        o, g = observation[0].astype(np.float32), goal[0].astype(np.float32)
        begun = time.perf_counter()
        action = controller.step(o, g)
        seconds.append(time.perf_counter() - begun)
        return np.broadcast_to(action, (len(goal), len(action)))  # the other rows are padding

    runs = [
        robot.rollout(timed, jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], starts)) for i in range(episodes)
    ]
    trajectories = jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=1), *runs)
    latency = np.array(seconds) * 1e6
    figures = {
        "engine": robot.engine_name,
        **summarise(outcomes(robot.task.spec, trajectories, starts.goal), layout),
        "latency_us_p50": float(np.percentile(latency, 50)),
        "latency_us_p99": float(np.percentile(latency, 99)),
        "latency_us_max": float(latency.max()),
        "steps": len(seconds),
        "missed_deadlines": int((np.array(seconds) > robot.task.spec.control_dt).sum()),
    }
    return figures, record(robot.task, trajectories, starts.goal)


def record(task: Any, trajectories: Trajectories, goal: np.ndarray) -> dict[str, Any]:
    """The first episodes as JSON: points of the robot [L][P][3] in metres, goal, distance at each step."""
    spec = task.spec
    count = min(RECORDED_EPISODES, goal.shape[0])
    points = np.asarray(task.skeleton(trajectories.qpos[1:, :count]))
    indices = list(spec.goal.observation_indices)
    achieved = trajectories.observation[1:, :count, indices]
    distance = np.linalg.norm(achieved - goal[:count], axis=-1)
    return {
        "control_dt": spec.control_dt,
        "success_radius": spec.goal.success_radius,
        "episodes": [
            {
                "goal": goal[i].astype(float).round(4).tolist(),
                "points": points[:, i].astype(float).round(4).tolist(),
                "distance": distance[:, i].astype(float).round(4).tolist(),
            }
            for i in range(count)
        ],
    }
