"""A Franka Research 3 through franky, as `export.controller.run` asks for a robot."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from teacher.errors import FathomError, UsageError
from teacher.tasks.fr3_arm import ACCELERATION, HOME, JOINTS, flange_position, tool_position

HOLD_MS = 200  # for how long the robot follows a velocity when no newer one arrives
# Share of the acceleration limits that ramps between commands use. libfranka filters what is sent: after a
# state that never came, it catches up at 1.4 times the ramp's acceleration, after two at 1.8 times.
PLANNED = 0.55
READABLE = ("joint_position", "joint_velocity", "flange_position", "tool_position")
FLANGE = (0.0, 0.0, 0.0)  # in its own frame


def require_drivable(spec: dict[str, Any]) -> None:
    """Raises UsageError if an FR3 cannot give what a policy reads, or not take what it commands."""
    name, action = spec["name"], spec["action"]
    if unknown := [term["name"] for term in spec["inputs"]["reading"] if term["name"] not in READABLE]:
        raise UsageError(f"{name}: reads {', '.join(unknown)}; an FR3 gives {', '.join(READABLE)}")
    if (action["kind"], action["unit"]) != ("joint_velocity", "rad/s"):
        found = f"{action['kind']} in {action['unit']}"
        raise UsageError(f"{name}: commands {found}; an FR3 takes joint_velocity in rad/s")
    if action["joints"] != list(JOINTS):
        raise UsageError(f"{name}: commands joints {action['joints']}, an FR3 has, in order, {list(JOINTS)}")


class Franka:
    """Reads, writes and stops one robot. Nothing moves before the first `write`."""

    def __init__(self, host: str, spec: dict[str, Any]) -> None:
        """Raises UsageError if the task is not this robot's; FathomError if it cannot be reached, stands in
        error, or is not ready to move."""
        require_drivable(spec)
        try:
            import franky
        except ImportError as error:
            need = "driving an FR3 needs franky: pip install 'fathom-rl[robot]'"
            raise UsageError(f"{need} ({error})") from error
        self._franky: Any = franky
        self._terms, self._host = spec["inputs"]["reading"], host
        self._tool = spec["goal"].get("tool") or FLANGE
        self.latest = np.array(HOME)  # joint positions [7] as last read, rad
        config = self._franky.RealtimeConfig
        try:  # with a real-time control thread where the kernel has them
            try:
                self._robot = self._franky.Robot(host, realtime_config=config.Enforce)
            except self._franky.RealtimeException:
                self._robot = self._franky.Robot(host, realtime_config=config.Ignore)
        except self._franky.Exception as error:
            raise FathomError(f"robot {host}: not reachable: {error}") from error
        state = self._robot.state
        mode = state.robot_mode
        if self._robot.has_errors or mode == self._franky.RobotMode.Reflex:
            found = f"in an error state ({state.current_errors})"
            raise FathomError(f"robot {host}: {found}: release it, then start again")
        if mode != self._franky.RobotMode.Idle:
            raise FathomError(f"robot {host}: its mode is {mode.name}; allowed: Idle, with FCI activated")
        # franky plans between commands with the limits of an older robot, some of which are wider.
        planned = self._robot.joint_acceleration_limit
        planned.set(np.minimum(planned.max, PLANNED * np.array(ACCELERATION)))
        self._taken, self._at = -1, time.monotonic()

    def read(self) -> tuple[float, np.ndarray]:
        with self._named():
            state = self._robot.state
        if (stamp := state.time.to_msec()) != self._taken:
            self._taken, self._at = stamp, time.monotonic()
        q, dq = np.array(state.q, np.float32), np.array(state.dq, np.float32)
        self.latest = q
        values = {"joint_position": q, "joint_velocity": dq, "flange_position": flange_position(q)}
        values["tool_position"] = tool_position(q, self._tool)
        return self._at, np.concatenate([values[term["name"]] for term in self._terms]).astype(np.float32)

    def write(self, command: np.ndarray) -> None:
        with self._named():
            motion = self._franky.JointVelocityMotion(command, self._franky.Duration(HOLD_MS))
            self._robot.move(motion, asynchronous=True)

    def stop(self) -> None:
        """Returns when the robot stands; one that stopped itself is left as it is."""
        with self._named("could not be told to stop"):
            if not self._robot.has_errors:
                self._robot.move(self._franky.JointVelocityStopMotion())

    @contextmanager
    def _named(self, what: str = "stopped") -> Iterator[None]:
        try:
            yield
        # RuntimeError: of the library that libfranka reads sockets with.
        except (self._franky.Exception, RuntimeError) as error:
            known = isinstance(error, self._franky.Exception)
            if known and not isinstance(error, self._franky.NetworkException):
                raise FathomError(f"robot {self._host}: {what}: {error}") from error
            raise FathomError(
                f"robot {self._host}: the connection is lost ({error}): a Franka stops by itself when no "
                "commands arrive; see that it stands"
            ) from error
