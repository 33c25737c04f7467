"""franky-sim in a process of its own: an FR3 that speaks the robot's protocol, and keeps a log at 1 kHz.

Run as a program: python -m pipelines.robot.simulated HOST LOG.npz Q1 ... Q7
"""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from teacher.errors import FathomError

HOST = "127.0.0.1"
READY = "ready"


@contextmanager
def simulated_robot(log: Path, start: Sequence[float], host: str = HOST) -> Iterator[str]:
    """The address of a simulated robot that begins at `start` [7], rad; `log` is written at the end."""
    command = [sys.executable, "-m", "pipelines.robot.simulated", host, str(log), *map(repr, map(float, start))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        if process.stdout.readline().strip() != READY:
            _, errors = process.communicate(timeout=10)
            raise FathomError(f"the simulated robot did not start: {errors.strip().splitlines()[-1:]}")
        yield host
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)


def read_log(log: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions, velocities and desired velocities [T, 7], one state a millisecond."""
    with np.load(log) as arrays:
        return arrays["q"], arrays["dq"], arrays["dq_d"]


def serve(host: str, log: Path, start: Sequence[float]) -> None:
    """Until SIGTERM."""
    import franky_sim
    from franky_sim.mujoco_simulator import MujocoSimulator

    states: list[Any] = []
    with MujocoSimulator() as simulator:
        robot = simulator.add_robot(initial_q=tuple(start))
        with franky_sim.SimulationServer(simulator, hostname_candidates=[host]) as server:
            running = True

            def stop(*_: Any) -> None:
                nonlocal running
                running = False

            signal.signal(signal.SIGTERM, stop)
            print(READY, flush=True)
            due = time.monotonic()
            while running:
                server.run_once(realtime=False)
                state = robot.state
                states.append((*state.q, *state.dq, *state.dq_d))
                due = max(due + 0.001, time.monotonic() - 0.01)
                time.sleep(max(0.0, due - time.monotonic()))
    q, dq, dq_d = np.split(np.array(states), 3, axis=1)
    np.savez(log, q=q, dq=dq, dq_d=dq_d)


if __name__ == "__main__":
    serve(sys.argv[1], Path(sys.argv[2]), [float(each) for each in sys.argv[3:]])
