"""Learning, for minutes: the quickstart reaches its marks on three seeds (`pytest -m slow`)."""

import json

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_quickstart_trains_distils_and_controls_to_its_marks(tmp_path, pipeline, seed):
    arguments = ["run", "--preset", "quickstart", "--seed", str(seed), "--json"]
    done = pipeline(*arguments, cwd=tmp_path, timeout=3600)
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
