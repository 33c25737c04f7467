"""Trackers get what metrics.jsonl holds, once, and cannot stop a training."""

import json
import sys

import numpy as np
import pytest
from events import read_events, told

from pipelines.config import preset, with_values
from pipelines.rundir import Run, create_run
from pipelines.stages import check
from pipelines.training import recorded
from teacher.errors import UsageError


def line(iteration: int) -> dict:
    score = {"time_at_goal": iteration / 9, "time_at_goal_interval": [0.0, 0.5], "layout": "all"}
    return {
        "iteration": iteration,
        "env_steps": 320 * iteration,
        "wall_s": 2.0 * iteration,
        "critic_loss": 1 / iteration,
        **({"evaluation": score} if iteration % 2 == 0 else {}),
    }


@pytest.fixture
def begun(tmp_path):
    """A run with settings of tracking, whose teacher has begun."""

    def begin(*settings: str) -> Run:
        run = create_run(tmp_path / "run", with_values(preset("debug"), settings), "debug", 0)
        run.begin_stage("teacher", None, 0)
        return run

    return begin


def train(run: Run, first: int, last: int) -> list[str]:
    """The lines of these iterations, as the teacher's stage records them; what was said."""
    said: list[str] = []
    run.rewind_metrics("teacher", first - 1, pytest.fail)
    with recorded(run, "teacher", said.append) as record:
        for iteration in range(first, last + 1):
            record(line(iteration))
    return said


def expected(lines: list[dict]) -> list[tuple[int, dict[str, float]]]:
    """Step and numbers of each line, flat, in TensorBoard's precision; text is left out."""
    found = []
    for each in lines:
        numbers = {key: each[key] for key in ("iteration", "env_steps", "wall_s", "critic_loss")}
        if "evaluation" in each:
            numbers["evaluation/time_at_goal"] = each["evaluation"]["time_at_goal"]
            numbers |= {"evaluation/time_at_goal_low": 0.0, "evaluation/time_at_goal_high": 0.5}
        found.append((each["env_steps"], {key: float(np.float32(value)) for key, value in numbers.items()}))
    return found


def test_nothing_is_tracked_unless_asked_for(begun):
    run = begun()
    assert train(run, 1, 3) == []
    written = {file.name for file in (run.path / "teacher").iterdir()}
    assert written == {"config.json", "versions.json", "metrics.jsonl"}


def test_tensorboard_holds_what_metrics_jsonl_holds_even_after_resuming_from_before_the_end(begun):
    run = begun("track.tensorboard=true")
    assert train(run, 1, 5) == []
    assert told(run.path / "teacher" / "tensorboard") == expected([line(n) for n in range(1, 6)])
    assert train(run, 4, 7) == []  # the last save was after the third
    assert told(run.path / "teacher" / "tensorboard") == expected(run.metrics("teacher"))
    assert [each["iteration"] for each in run.metrics("teacher")] == list(range(1, 8))
    times = [event.wall_time for event in read_events(run.path / "teacher" / "tensorboard")]
    assert times[:3] == pytest.approx([times[0], times[0] + 2, times[0] + 4])


@pytest.mark.parametrize("later", [False, True])
def test_a_tracker_that_fails_is_named_once_and_the_training_goes_on(begun, later):
    run = begun("track.tensorboard=true")
    if not later:
        (run.path / "teacher" / "tensorboard").write_text("in the way")
    said: list[str] = []
    with recorded(run, "teacher", said.append) as record:
        record(line(1))
        record(line(2) | {"critic_loss": 10**400})  # a number that no tracker's format has
        record(line(3))
    (complaint,) = said
    assert "track.tensorboard failed and is off" in complaint and ("File exists" in complaint) != later
    assert len(run.metrics("teacher")) == 3


@pytest.mark.parametrize(
    ("name", "package", "value"), [("tensorboard", "tensorboardX", "true"), ("wandb", "wandb", "arms")]
)
def test_a_package_that_is_not_there_is_refused_naming_the_extra(monkeypatch, name, package, value):
    monkeypatch.setitem(sys.modules, package, None)
    config = with_values(preset("debug"), [f"track.{name}={value}"])
    with pytest.raises(UsageError, match=rf"track\.{name}: .* {package} .*fathom-rl\[{name}\]"):
        check(config)


def test_weights_and_biases_offline_keep_a_run_across_resumptions(begun, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = begun("track.wandb=fathom-test")
    assert train(run, 1, 3) == []
    first = json.loads((run.path / "teacher" / "wandb.json").read_text())
    assert train(run, 3, 5) == []
    assert json.loads((run.path / "teacher" / "wandb.json").read_text()) == first
    kept = [*(run.path / "teacher" / "wandb").glob("offline-run-*/*.wandb")]
    assert len(kept) == 2
    assert all(first["id"] in file.name for file in kept)
