"""Runs over several devices and processes, against the same run on one."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, nullcontext
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import PIPELINE
from spread_run import spread_run

from pipelines import distributed
from teacher import checkpoint
from teacher.config import CollectConfig, TeacherConfig, UpdateConfig
from teacher.errors import FathomError, UsageError
from teacher.learner import require_devices
from teacher.sharding import Devices

PROGRAM = Path(__file__).with_name("spread_run.py")


@contextmanager
def processes(*commands, devices, cwd=None):
    """Starts commands with so many virtual devices each; none is left behind, spinning."""
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    environment = os.environ | {"XLA_FLAGS": flags}  # sooner compiled
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = [subprocess.Popen([*map(str, each)], cwd=cwd, env=environment, **pipes) for each in commands]
    try:
        yield started
    finally:
        for process in started:
            process.kill()


def ended(started):
    """Exit codes and what was written to standard error and output."""
    written = [process.communicate(timeout=300) for process in started]
    return [process.returncode for process in started], [errors for _, errors in written], written[1:]


@pytest.fixture(scope="module")
def single():
    return spread_run(Devices(jax.devices()[:1]))


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


def test_two_devices_do_what_one_does_and_eight_that_go_on_with_their_save_too(tmp_path, single):
    with processes([sys.executable, PROGRAM, tmp_path], devices=8) as started:
        codes, errors, _ = ended(started)
    assert codes == [0], errors
    two, eight = (dict(np.load(tmp_path / f"{name}.npz")) for name in ("two", "eight"))
    assert_same_run(two, single)
    assert_same_run(eight, single)
    assert single["held"] > 7 * eight["held"]  # each holds its share of the optimiser


def free_address():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return f"localhost:{probe.getsockname()[1]}"


@pytest.mark.alone
def test_two_processes_of_two_devices_do_what_one_does_and_their_save_resumes_on_one(tmp_path, single):
    command = [sys.executable, PROGRAM, tmp_path, free_address()]
    with processes([*command, 0], [*command, 1], devices=2) as started:
        codes, errors, _ = ended(started)
    assert codes == [0, 0], errors
    assert_same_run(dict(np.load(tmp_path / "processes.npz")), single)
    assert_same_run(spread_run(Devices(jax.devices()[:1]), resume=tmp_path / "saved"), single)


@pytest.mark.alone
def test_processes_stop_together_with_everything_saved_and_one_that_fails_ends_the_other(tmp_path):
    file = tmp_path / "runs" / "debug" / "teacher" / "metrics.jsonl"

    def lines():
        return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []

    @contextmanager
    def pair(*words, lines_more):
        """Two processes of the command line that train together, after some iterations."""
        command = [*PIPELINE, "teacher", "--preset", "debug", "--json", *words, "--processes", 2]
        command += ["--coordinator", free_address(), "--process"]
        wanted, deadline = len(lines()) + lines_more, time.monotonic() + 200
        with processes([*command, 0], [*command, 1], devices=1, cwd=tmp_path) as started:
            while len(lines()) < wanted:
                assert time.monotonic() < deadline
                assert all(process.poll() is None for process in started)
                time.sleep(0.2)
            yield started

    settings = ("--set", "collect.total_steps=1000000", "--set", "checkpoint.interval_s=0")
    with pair(*settings, lines_more=3) as started:
        started[1].send_signal(signal.SIGTERM)
        codes, errors, ((printed, _),) = ended(started)
    assert codes == [130, 130], errors
    assert "{" not in printed
    assert [line["iteration"] for line in lines()] == list(range(1, len(lines()) + 1))
    assert checkpoint.saves(tmp_path / "runs" / "debug" / "teacher" / "checkpoints")[0] == len(lines())
    with pair("--resume", lines_more=1) as started:
        file.unlink()
        file.mkdir()  # what the first writes next, it cannot
        codes, errors, _ = ended(started)
    assert codes[0] == 1 and codes[1] != 0, errors
    assert "cannot write" in errors[0]


@contextmanager
def refused():
    raise UsageError("exists already")
    yield


def test_where_the_first_cannot_begin_none_does(monkeypatch):
    told = []
    monkeypatch.setattr(distributed, "agreed", lambda *flags: told.append(flags) or flags)
    with pytest.raises(UsageError, match="exists already"), distributed.led(refused()):
        pytest.fail("it began")
    assert told == [(False,)]
    monkeypatch.setattr(distributed, "is_first", lambda: False)
    with distributed.led(refused()) as nothing:  # another one does not enter
        assert nothing is None
    monkeypatch.setattr(distributed, "agreed", lambda *flags: (False,))
    with pytest.raises(FathomError, match="the first process stopped"), distributed.led(nullcontext()):
        pytest.fail("it began")


def test_what_the_devices_do_not_divide_is_refused_with_what_would_do():
    def require(envs, batch_size):
        asked = TeacherConfig(collect=CollectConfig(envs=envs), update=UpdateConfig(batch_size=batch_size))
        require_devices(asked, 3 * jax.devices()[:1])

    require(6, 9)
    with pytest.raises(UsageError, match=r"collect\.envs: found 8, which 3 devices .* 6 or 9 would do"):
        require(8, 9)
    with pytest.raises(UsageError, match=r"update\.batch_size: found 2, .* evenly; 3 would do"):
        require(6, 2)


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
