"""franky-sim in a process of its own: an FR3 that speaks the robot's protocol, and keeps a log at 1 kHz.

Run as a program: python -m pipelines.robot.simulated HOST LOG.npz Q1 ... Q7
"""

import gc
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.robot.limits import PERIOD, States
from teacher.errors import FathomError

HOST = "127.0.0.1"
READY = "ready"
START_S, STOP_S = 60, 30
PATIENCE_S = 0.02
NUMBER = struct.Struct("<Q")  # with which a command begins


@contextmanager
def simulated_robot(log: Path, start: Sequence[float]) -> Iterator[str]:
    """Yields the address of a simulated robot that begins at `start` [7], rad; writes `log` at the end."""
    words = [sys.executable, "-m", "pipelines.robot.simulated", HOST, str(log)]
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


def read_log(log: Path) -> States:
    try:
        with np.load(log) as arrays:
            return States(*(arrays[name] for name in States._fields))
    except (OSError, ValueError, KeyError) as error:
        raise FathomError(f"{log}: the simulated robot left no log: {error}") from error


def serve(host: str, log: Path, start: Sequence[float]) -> None:
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
    np.savez(log, **States(position, velocity, desired, moving > 0, numbers.astype(np.int64))._asdict())


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


if __name__ == "__main__":
    serve(sys.argv[1], Path(sys.argv[2]), [float(each) for each in sys.argv[3:]])
