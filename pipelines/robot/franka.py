"""Drives a Franka Research 3 through franky with the controller of a bundle."""

import time
from typing import Any

import numpy as np

from export.controller import Controller, Guard, inputs, run
from pipelines.robot.limits import ACCELERATION
from teacher.errors import FathomError
from teacher.tasks.fr3_arm import flange_position

HOLD_MS = 200  # for how long the robot follows a velocity when no newer one arrives
SPARE = 0.8  # share of the robot's acceleration limit that commands use


class Franka:
    """The robot as `export.controller.run` asks it: reading, writing, stopping."""

    def __init__(self, host: str, spec: dict[str, Any]) -> None:
        """Raises FathomError if the task is not this robot's, or it cannot be reached or stands in error."""
        import franky

        self._franky, self._terms = franky, inputs(spec)[0]
        unknown = [term["name"] for term in self._terms if term["name"] not in READABLE]
        if unknown or spec["action"]["kind"] != "joint_velocity" or len(spec["action"]["joints"]) != 7:
            raise FathomError(
                f"{spec['name']}: reads {unknown or 'what the robot has'} and commands "
                f"{spec['action']['kind']}; an FR3 gives {', '.join(READABLE)} and takes joint_velocity"
            )
        try:
            self._robot = franky.Robot(host, realtime_config=franky.RealtimeConfig.Ignore)
        except franky.Exception as error:
            raise FathomError(f"robot {host}: not reachable: {error}") from error
        if self._robot.has_errors:
            raise FathomError(f"robot {host}: in an error state: release it on the robot, then start again")
        self._taken, self._at = -1, time.monotonic()

    def positions(self) -> np.ndarray:
        """[7] rad."""
        return np.array(self._robot.state.q)

    def read(self) -> tuple[float, np.ndarray]:
        state = self._robot.state
        if (stamp := state.time.to_msec()) != self._taken:
            self._taken, self._at = stamp, time.monotonic()
        q, dq = np.array(state.q, np.float32), np.array(state.dq, np.float32)
        values = {"joint_position": q, "joint_velocity": dq, "flange_position": flange_position(q)}
        return self._at, np.concatenate([values[term["name"]] for term in self._terms]).astype(np.float32)

    def write(self, command: np.ndarray) -> None:
        motion = self._franky.JointVelocityMotion(command, self._franky.Duration(HOLD_MS))
        self._robot.move(motion, asynchronous=True)

    def stop(self) -> None:
        self._robot.move(self._franky.JointVelocityStopMotion())


READABLE = ("joint_position", "joint_velocity", "flange_position")


def reach(controller: Controller, robot: Franka, goals: np.ndarray, seconds: float) -> list[dict[str, Any]]:
    """Goals [K, 3] one after the other; for each what `run` counts, and `distance_m` at the end."""
    guard = Guard(controller.spec, acceleration=[SPARE * ACCELERATION] * 7)
    outcomes = []
    for goal in goals.astype(np.float32):
        outcome = run(controller, robot, goal, seconds, guard=guard)
        outcome["distance_m"] = float(np.linalg.norm(flange_position(robot.positions()) - goal))
        outcomes.append(outcome)
    return outcomes
