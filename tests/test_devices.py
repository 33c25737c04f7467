"""Runs over several devices and processes, against the same run on one."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from teacher.devices import Devices
from teacher.errors import UsageError

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


def finished(process: subprocess.Popen) -> None:
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("spread")


def run(folder, devices, name=None, iterations=1, **settings):
    out = folder / f"{name or devices}.npz"
    finished(started(devices, out=str(out), devices=devices, iterations=iterations, **settings))
    return dict(np.load(out))


@pytest.fixture(scope="module")
def single(folder):
    return run(folder, 1)


@pytest.fixture(scope="module")
def double(folder):
    return run(folder, 2, checkpoints=str(folder / "saved"))


def assert_same_run(spread, single):
    assert spread.keys() == single.keys()
    for name, expected in single.items():
        if name == "held":
            continue
        np.testing.assert_allclose(spread[name], expected, rtol=2e-4, atol=2e-5, err_msg=name)
    # Integers, and what the environments drew, do not depend on the order of sums.
    for name in (".environments.step", ".environments.goal", ".replay.rows.episode", ".replay.newest"):
        np.testing.assert_array_equal(spread[name], single[name])


def test_two_devices_do_what_one_does(double, single):
    assert_same_run(double, single)


def test_eight_devices_do_what_one_does(folder, single):
    eight = run(folder, 8)
    assert_same_run(eight, single)
    assert single["held"].sum() > 7 * eight["held"].sum()  # each holds its share of the optimiser


def test_two_processes_do_what_one_does(folder, single):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        coordinator = f"localhost:{probe.getsockname()[1]}"
    out = folder / "processes.npz"
    both = [
        started(
            1,
            out=str(out),
            devices=2,
            iterations=1,
            coordinator=coordinator,
            processes=2,
            process=number,
            checkpoints=str(folder / "saved by two"),
        )
        for number in range(2)
    ]
    for process in both:
        finished(process)
    assert_same_run(dict(np.load(out)), single)
    resumed = run(
        folder,
        1,
        "resumed from processes",
        iterations=2,
        checkpoints=str(folder / "saved by two"),
        resume=True,
    )
    assert_same_run(resumed, run(folder, 1, "straight", iterations=2))


@pytest.mark.parametrize("devices", [1, 8])
def test_what_two_devices_saved_others_go_on_with(folder, double, devices):
    saved = {"checkpoints": str(folder / "saved"), "resume": True}
    as_saved = run(folder, devices, f"restored on {devices}", **saved)
    for name in as_saved.keys() & double.keys() - {"held"}:
        np.testing.assert_array_equal(as_saved[name], double[name], err_msg=name)
    straight, resumed = (
        run(folder, count, f"two iterations on {count} {len(more)}", iterations=2, **more)
        for count, more in ((2, {}), (devices, saved))
    )
    assert_same_run(resumed, straight)


def test_what_the_devices_do_not_divide_is_refused_with_what_would_do():
    devices = Devices(jax.devices() * 3)
    devices.require_even(collect__envs=6, update__batch=9)
    with pytest.raises(UsageError, match=r"collect\.envs: found 8, which 3 devices .* 6 or 9 would do"):
        devices.require_even(collect__envs=8)
    with pytest.raises(UsageError, match=r"update\.batch: found 2, .* evenly; 3 would do"):
        devices.require_even(update__batch=2)
