"""MJX over warp: an engine where that package is installed, and only there."""

import importlib.util

import jax
import numpy as np
import pytest

from teacher.rollout import simulation
from teacher.tasks import make_task
from teacher.tasks.engines import engines_of


@pytest.mark.parametrize("installed", [True, False])
@pytest.mark.parametrize("known", [("mjx", "brax", "mujoco"), ("brax", "mujoco")])
def test_warp_is_offered_where_it_is_installed_and_mjx_runs_the_task(known, installed, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: installed or None)
    task = make_task("reacher")
    monkeypatch.setattr(type(task), "engines", known)
    assert engines_of(task) == known + ("warp",) * (installed and "mjx" in known)


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
