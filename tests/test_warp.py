"""MJX over warp: an engine where that package is installed, and only there."""

import importlib.util

import jax
import numpy as np
import pytest

from teacher.rollout import simulation
from teacher.tasks import make_task
from teacher.tasks.engines import engines_of


@pytest.mark.parametrize("installed", [True, False])
def test_warp_is_offered_where_it_is_installed(installed, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: installed or None)
    assert engines_of(make_task("reacher")) == ("mjx", "brax", "mujoco") + ("warp",) * installed


def test_what_mjx_does_not_run_warp_does_not_run(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    task = make_task("reacher")
    monkeypatch.setattr(type(task), "engines", ("brax", "mujoco"))
    assert engines_of(task) == ("brax", "mujoco")


@pytest.mark.slow  # minutes to compile on a CPU
def test_warp_and_the_c_engine_agree(capfd):
    pytest.importorskip("warp")
    ends = []
    for engine in ("warp", "mujoco"):
        robot = simulation("reacher", engine)
        start = robot.starts(jax.random.key(0), 4)
        ends.append(robot.rollout(lambda observation, goal: np.sign(observation[:, :2]), start, 3).qpos[-1])
    np.testing.assert_allclose(*ends, atol=1e-4)
    assert capfd.readouterr().out == ""  # what a program reads is not mixed with announcements
