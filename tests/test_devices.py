"""Runs over several devices and processes, against the same run on one."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import PIPELINE

from pipelines import distributed
from teacher import checkpoint
from teacher.errors import UsageError
from teacher.sharding import require_even

PROGRAM = Path(__file__).with_name("spread_run.py")
FLAG = "--xla_force_host_platform_device_count"


def started(here: int, **settings) -> subprocess.Popen:
    """The program with `here` virtual devices in its process."""
    environment = os.environ | {"XLA_FLAGS": f"{FLAG}={here}"}
    return subprocess.Popen(
        [sys.executable, PROGRAM, json.dumps(settings)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(*processes: subprocess.Popen) -> None:
    """Waits for all; none is left behind, spinning, if one fails or hangs."""
    try:
        for process in processes:
            _, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors
    finally:
        for process in processes:
            process.kill()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("spread")


def run(folder, devices, name, **settings):
    out = folder / f"{name}.npz"
    finished(started(devices, out=str(out), devices=devices, **settings))
    return dict(np.load(out))


@pytest.fixture(scope="module")
def single(folder):
    return run(folder, 1, "single")


@pytest.fixture(scope="module")
def double(folder):
    return run(folder, 2, "double", save=str(folder / "saved"))


def assert_same_run(spread, single):
    assert spread.keys() == single.keys()
    for name, expected in single.items():
        if name == "held":
            continue
        # Sums in another order are off by the rounding of their largest terms, not of what is left of them.
        largest = np.abs(expected).max(initial=1.0)
        np.testing.assert_allclose(spread[name], expected, rtol=2e-4, atol=2e-5 * largest, err_msg=name)
    # Integers, and what the environments drew, do not depend on the order of sums.
    for name in (".environments.step", ".environments.goal", ".replay.rows.episode", ".replay.newest"):
        np.testing.assert_array_equal(spread[name], single[name])


def test_two_devices_do_what_one_does(double, single):
    assert_same_run(double, single)


def test_eight_devices_do_what_one_does(folder, single):
    eight = run(folder, 8, "eight")
    assert_same_run(eight, single)
    assert single["held"] > 7 * eight["held"]  # each holds its share of the optimiser


@pytest.mark.parametrize("devices", [1, 8])
def test_what_two_devices_saved_others_go_on_with(folder, double, devices):
    resumed = run(folder, devices, f"on {devices}", resume=str(folder / "saved"))
    assert_same_run(resumed, double)


def free_address():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return f"localhost:{probe.getsockname()[1]}"


@pytest.mark.alone
def test_two_processes_of_two_devices_do_what_one_does_and_their_save_resumes_on_one(folder, single):
    out, saved, coordinator = folder / "two.npz", folder / "saved by two", free_address()
    shared = {"out": str(out), "devices": 4, "save": str(saved), "coordinator": coordinator, "processes": 2}
    finished(*(started(2, **shared, process=number) for number in range(2)))
    assert_same_run(dict(np.load(out)), single)
    assert_same_run(run(folder, 1, "from two", resume=str(saved)), single)


class Pair:
    """Two processes of the command line that train together."""

    def __init__(self, folder, *words):
        meeting = ["--coordinator", free_address(), "--processes", "2", "--process"]
        command = [*PIPELINE, "teacher", "--preset", "debug", "--json", *words, *meeting]
        self.processes = [
            subprocess.Popen(
                [*command, str(number)],
                cwd=folder,
                env=os.environ | {"XLA_FLAGS": f"{FLAG}=1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for number in range(2)
        ]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()

    def wait_for(self, condition):
        deadline = time.monotonic() + 200
        while not condition():
            assert time.monotonic() < deadline
            assert all(process.poll() is None for process in self.processes)
            time.sleep(0.2)

    def end(self):
        """Exit codes and what was written to standard error and output."""
        written = [process.communicate(timeout=100) for process in self.processes]
        codes = [process.returncode for process in self.processes]
        return codes, [errors for _, errors in written], [out for out, _ in written]


LONG = ("--set", "collect.total_steps=1000000", "--set", "checkpoint.interval_s=0")


def metrics_in(folder):
    file = folder / "runs" / "debug" / "teacher" / "metrics.jsonl"
    return file.read_text().splitlines() if file.is_file() else []


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run of two processes, of which the second was asked to stop."""
    folder = tmp_path_factory.mktemp("pair")
    with Pair(folder, *LONG) as pair:
        pair.wait_for(lambda: len(metrics_in(folder)) > 2)
        pair.processes[1].send_signal(signal.SIGTERM)
        return folder, *pair.end()


@pytest.mark.alone
def test_processes_stop_together_and_everything_is_saved(stopped):
    folder, codes, errors, printed = stopped
    assert codes == [130, 130], errors
    assert "{" not in printed[1]
    lines = [json.loads(line) for line in metrics_in(folder)]
    assert [line["iteration"] for line in lines] == list(range(1, len(lines) + 1))
    assert checkpoint.saves(folder / "runs" / "debug" / "teacher" / "checkpoints")[0] == len(lines)


@pytest.mark.alone
def test_one_that_cannot_begin_ends_the_other(stopped):
    with Pair(stopped[0]) as pair:
        codes, errors, _ = pair.end()
    assert codes[0] == 2
    assert codes[1] != 0
    assert "exists and is never overwritten" in errors[0]


@pytest.mark.alone
def test_one_that_fails_ends_the_other(stopped):
    folder = stopped[0]
    before = len(metrics_in(folder))
    with Pair(folder, "--resume") as pair:
        pair.wait_for(lambda: len(metrics_in(folder)) > before)
        file = folder / "runs" / "debug" / "teacher" / "metrics.jsonl"
        file.unlink()
        file.mkdir()  # what the first writes next, it cannot
        codes, errors, _ = pair.end()
    assert codes[0] == 1, errors
    assert codes[1] != 0
    assert "cannot write" in errors[0]


def test_what_the_devices_do_not_divide_is_refused_with_what_would_do():
    require_even(3, collect__envs=6, update__batch_size=9)
    with pytest.raises(UsageError, match=r"collect\.envs: found 8, which 3 devices .* 6 or 9 would do"):
        require_even(3, collect__envs=8)
    with pytest.raises(UsageError, match=r"update\.batch_size: found 2, .* evenly; 3 would do"):
        require_even(3, update__batch_size=2)


@pytest.mark.parametrize(
    ("environment", "ids"),
    [
        ("", "not joined"),
        ("SLURM_STEP_NUM_TASKS=1 SLURM_STEP_NUM_NODES=1", "not joined"),
        ("SLURM_STEP_NUM_TASKS=2 SLURM_STEP_NUM_NODES=2", []),  # a process takes all of its machine's devices
        ("SLURM_STEP_NUM_TASKS=16 SLURM_STEP_NUM_NODES=2", None),
        ("OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_LOCAL_SIZE=1", []),
        ("OMPI_COMM_WORLD_SIZE=8 OMPI_COMM_WORLD_LOCAL_SIZE=8", None),
        ("KUBERNETES_SERVICE_HOST=10.0.0.1", "not joined"),
        ("KUBERNETES_SERVICE_HOST=10.0.0.1 JOB_COMPLETION_INDEX=0", None),
    ],
)
def test_a_launcher_that_started_several_processes_is_recognised(monkeypatch, environment, ids):
    asked = []
    monkeypatch.setattr(
        jax.distributed, "initialize", lambda *_, **how: asked.append(how["local_device_ids"])
    )
    for name, _, value in (setting.partition("=") for setting in environment.split()):
        monkeypatch.setenv(name, value)
    distributed.join(None, None, None)
    assert asked == ([] if ids == "not joined" else [ids])
