"""franky-sim in a process of its own: an FR3 that speaks the robot's protocol, and counts what it breaks.

Run as a program: python -m pipelines.robot.simulated HOST FIGURES.json Q1 ... Q7
"""

import gc
import json
import select
import signal
import struct
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from teacher.errors import FathomError
from teacher.tasks.fr3_arm import ACCELERATION, JOINTS, LOWER, UPPER

HOST = "127.0.0.1"
READY = "ready"
START_S, STOP_S = 60, 30
PATIENCE_S = 0.02
NUMBER = struct.Struct("<Q")  # with which a command begins
PERIOD = 0.001  # s, between two states of the robot
LOST = 20  # commands in a row, after which the robot ends the motion
SLACK = 1e-3  # rad/s, of a joint that rests beside its limit
KEYS = ("lower", "upper", "velocity", "deceleration_limit", "velocity_offset")


class States(NamedTuple):
    """Of a robot, one a millisecond: [T, 7], rad and rad/s."""

    position: np.ndarray
    velocity: np.ndarray
    desired: np.ndarray
    """velocity that the robot was told"""
    moving: np.ndarray
    """[T] bool: whether a motion was in progress"""
    answered: np.ndarray
    """[T] int: number of the state to which the newest command is the answer; unchanged while none arrives"""


@contextmanager
def simulated_robot(figures: Path, start: Sequence[float]) -> Iterator[str]:
    """Yields the address of a simulated robot that begins at `start` [7], rad; at the end it writes the
    `violations` of its states, one a millisecond, as JSON to `figures`."""
    words = [sys.executable, "-m", "pipelines.robot.simulated", HOST, str(figures)]
    process = subprocess.Popen(
        [*words, *map(repr, map(float, start))],
        stdin=subprocess.PIPE,  # closed when this process ends, however it does: then the robot ends too
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for who drives the robot; it stands until it is stopped
    )
    try:
        assert process.stdout is not None
        begun, _, _ = select.select([process.stdout], [], [], START_S)
        if not begun:
            raise FathomError(f"the simulated robot did not start within {START_S} s")
        if process.stdout.readline().strip() != READY:
            _, errors = process.communicate(timeout=STOP_S)
            why = " ".join(errors.strip().splitlines()[-1:]) or "it ended"
            raise FathomError(f"the simulated robot did not start: {why}; is another one running?")
        yield HOST
    finally:
        process.terminate()
        try:
            process.communicate(timeout=STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def serve(host: str, figures: Path, start: Sequence[float]) -> None:
    """Serves until SIGTERM, or the end of its input: who started it is gone."""
    import franky_sim
    from franky_sim.mujoco_simulator import MujocoSimulator

    states: list[Any] = []
    with MujocoSimulator() as simulator:
        robot = simulator.add_robot(initial_q=tuple(start))
        with franky_sim.SimulationServer(simulator, hostname_candidates=[host]) as server:
            stopped = threading.Event()
            signal.signal(signal.SIGTERM, lambda *_: stopped.set())

            def end_with_input() -> None:
                sys.stdin.read()
                stopped.set()

            threading.Thread(target=end_with_input, daemon=True).start()
            answered = _noting_answers(server.robot_servers[0])
            gc.disable()  # nothing here is garbage, and a search for it outlasts many milliseconds
            print(READY, flush=True)
            due = time.monotonic()
            while not stopped.is_set():
                _await_answer(server.robot_servers[0], answered)
                server.run_once(realtime=False)
                state, moving = robot.state, server.robot_servers[0].current_motion_id > 0
                states.append((*state.q, *state.dq, *state.dq_d, moving, answered[0]))
                due = max(due + PERIOD, time.monotonic() - 0.01)
                time.sleep(max(0.0, due - time.monotonic()))
    position, velocity, desired, rest = np.split(np.array(states), [7, 14, 21], axis=1)
    moving, numbers = rest.T
    found = violations(States(position, velocity, desired, moving > 0, numbers.astype(np.int64)))
    figures.write_text(json.dumps(found))


def _await_answer(server: Any, answered: list[int]) -> None:
    """Waits for a motion's next command. Robot and controller share a machine here: its pauses are not lost
    packets of a robot's network, and stop the robot's time instead, up to PATIENCE_S."""
    before, until = answered[0], time.monotonic() + PATIENCE_S
    while server.current_motion_id and answered[0] == before and time.monotonic() < until:
        server.process_commands()
        time.sleep(0)


def _noting_answers(server: Any) -> list[int]:
    """Returns a list of one number, kept up to date: of the state that the newest command answers."""
    answered, handle = [0], server._handle_udp_command

    def noted(data: bytes) -> None:
        (answered[0],) = NUMBER.unpack_from(data)
        handle(data)

    server._handle_udp_command = noted
    return answered


def velocity_range(q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the least and greatest velocity [..., 7] that the FR3 may have at positions [..., 7], rad/s.

    Towards `upper` at most -offset + sqrt(2 * deceleration * (upper - q)), towards `lower` likewise, never
    above `velocity` (libfranka, "Limits for Franka Research 3"), as the simulator's URDF states them."""
    from franky_sim.urdf import FR3_URDF

    root, rows = ElementTree.fromstring(FR3_URDF), []
    for joint in JOINTS:
        parts = root.findall(f".//joint[@name='{joint.removeprefix('fr3_')}']/*")
        stated = {key: value for part in parts for key, value in part.attrib.items()}
        rows.append([float(stated[key]) for key in KEYS])
    lower, upper, velocity, deceleration, offset = np.array(rows).T

    def towards(edge: np.ndarray) -> np.ndarray:
        braking = np.sqrt(np.maximum(2 * deceleration * edge, 0)) - offset
        return np.clip(braking, 0, velocity)

    return -towards(q - lower), towards(upper - q)


def violations(states: States) -> dict[str, Any]:
    """Counts where a robot's states break its limits of position, velocity or acceleration.

    Positions are held against the published limits, which are tighter than the URDF's mechanical ones.
    Velocities are the measured and the desired ones; accelerations those of the desired velocities within a
    motion, which is what the robot refuses: measured ones are its servo's, and without a motion nothing is
    desired. They lie between one command and the next, over the time between the states that the two answer:
    a packet that the network brings a millisecond late is counted as that.
    Returns: `limit_violations`, states in which a joint breaks a limit, and for each kind how many; `states`;
    `late_packets`, states of a motion without a new command; the largest acceleration in rad/s^2."""
    low, high = velocity_range(states.position)
    desired = np.where(states.moving[:, None], states.desired, 0)
    fast = [(v > high + SLACK) | (v < low - SLACK) for v in (states.velocity, desired)]
    fresh = np.diff(states.answered, prepend=-1) != 0
    arrivals = np.flatnonzero(states.moving & fresh)
    motion = np.cumsum(~states.moving)[arrivals]
    same = motion[1:] == motion[:-1]
    before, after = arrivals[:-1][same], arrivals[1:][same]
    passed = np.clip(states.answered[after] - states.answered[before], 1, LOST) * PERIOD
    acceleration = np.zeros_like(states.desired)
    acceleration[after] = np.abs(states.desired[after] - states.desired[before]) / passed[:, None]
    broken = {
        "position": ((states.position < LOWER) | (states.position > UPPER)).any(axis=1),
        "velocity": (fast[0] | fast[1]).any(axis=1),
        "acceleration": (acceleration > ACCELERATION).any(axis=1),
    }
    return {
        "limit_violations": int(np.any(list(broken.values()), axis=0).sum()),
        "violations": {kind: int(found.sum()) for kind, found in broken.items()},
        "states": len(desired),
        "late_packets": int((states.moving & ~fresh).sum()),
        "largest_acceleration": float(acceleration.max(initial=0)),
    }


if __name__ == "__main__":
    serve(sys.argv[1], Path(sys.argv[2]), [float(each) for each in sys.argv[3:]])
