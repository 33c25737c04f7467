"""Learning, for minutes, on three seeds each (`pytest -m slow`)."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_quickstart_trains_distils_and_controls_to_its_marks(tmp_path, pipeline, seed):
    arguments = ["run", "--preset", "quickstart", "--seed", str(seed), "--json"]
    done = pipeline(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["teacher"]["depth"] >= 16
    assert summary["teacher"]["episodes"] >= 256
    assert summary["teacher"]["success_final"] >= 0.95
    student, robot = (summary[stage][summary["selected"]] for stage in ("students", "control"))
    assert student["retention"] >= 0.98
    assert robot["engine"] == "mujoco"
    assert robot["episodes"] >= 256
    assert robot["success_final"] >= 0.95
    assert robot["success_final"] >= 0.98 * summary["teacher"]["success_final"]
    assert robot["missed_deadlines"] == 0


@pytest.mark.slow
def test_a_teacher_of_depth_1024_actor_included_learns_from_its_first_updates(tmp_path, pipeline):
    """200 updates; blind guessing is right once in a batch."""
    words = ["--depths", "1024", "--seeds", "0,1,2", "--set", "collect.total_steps=16000"]
    done = pipeline("teacher", "--preset", "deep-smoke", *words, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    sweep = json.loads(done.stdout)
    folder = next((tmp_path / "runs").iterdir())
    assert len(sweep["runs"]) == 3
    for run in sweep["runs"]:
        lines = (folder / run["run"] / "teacher" / "metrics.jsonl").read_text().splitlines()
        last = json.loads(lines[-1])
        assert last["critic_accuracy"] >= 10 / 256
        assert last["saturation"] < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("arm", ["ur5e", "iiwa", "xarm7", "kinova3", "panda", "sawyer", "jaco"])
def test_arms_that_others_wrote_are_learned_from_their_models(tmp_path, pipeline, arm):
    robosuite = find_spec("robosuite")
    if robosuite is None:
        pytest.skip("robosuite is not installed")
    model = Path(robosuite.origin).parent / "models" / "assets" / "robots" / arm / "robot.xml"
    done = pipeline("run", "--arm", model, "--set", "student.sizes=2x32,2x64,3x64", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    robot = summary["control"][summary["selected"]]
    assert robot["engine"] == "mujoco" and robot["success_final"] >= 0.95
