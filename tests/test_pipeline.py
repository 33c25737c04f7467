"""The whole pipeline through the real command line, in the debug preset."""

import json
import re
import shutil
import signal
import subprocess
import time

from conftest import PIPELINE
from recovery import without_clock

from pipelines.config import preset
from teacher import checkpoint
from teacher.train import load_teacher

SIZES = preset("debug").student.sizes


def test_one_command_writes_a_report_and_prints_the_summary_with_its_documented_keys(debug_run):
    assert "<html" in (debug_run.path / "report.html").read_text()
    assert debug_run.printed == json.loads((debug_run.path / "summary.json").read_text())
    summary = debug_run.printed
    assert {"task", "engine", "seed", "wall_s"} <= set(summary) and summary["selected"] in SIZES
    assert {"depth", "width", "env_steps", "wall_s", "episodes", "time_at_goal"} <= set(summary["teacher"])
    documented = {
        "students": "parameters episodes success_final time_at_goal policy_error worst_decile critic",
        "export": "bundle parity_max_error observations latency_us_p50 latency_us_p99",
        "control": "engine episodes success_final final_distance missed_deadlines",
    }
    for part, keys in documented.items():
        assert all(set(keys.split()) <= set(summary[part][size]) for size in SIZES)
    for exported in summary["export"].values():
        assert exported["observations"] >= 1000 and 0 < exported["parity_max_error"] <= 1e-5


def test_a_teacher_trained_with_gpu_kernels_acts_without_them(debug_run, tmp_path):
    folder = shutil.copytree(debug_run.path / "teacher" / "checkpoints", tmp_path / "checkpoints")
    trained = load_teacher(folder)
    manifest = folder / str(trained.iteration) / checkpoint.MANIFEST
    saved = json.loads(manifest.read_text())
    saved["record"]["config"]["network"] |= {"fused": True, "precision": "bfloat16"}
    checkpoint.write_manifest(manifest.parent, saved)
    teacher = load_teacher(folder)
    assert teacher.config.network.fused
    assert not any(network.fused for network in teacher.networks)


def test_every_artifact_says_what_it_was_made_with(debug_run):
    teacher = load_teacher(debug_run.path / "teacher" / "checkpoints")
    sources = {"teacher": None, "students": teacher.source, "export": teacher.source}
    for stage, source in sources.items():
        config = json.loads((debug_run.path / stage / "config.json").read_text())
        assert config["preset"] == "debug"
        assert config["seed"] == 0
        assert config["source_sha256"] == source
        assert "jax" in json.loads((debug_run.path / stage / "versions.json").read_text())
    assert len((debug_run.path / "teacher" / "metrics.jsonl").read_text().splitlines()) == 4


def test_each_command_reports_in_json(debug_run, pipeline):
    folder = debug_run.path.parent.parent
    for command in (
        ["evaluate", "debug", "--episodes", "4", "--engine", "mujoco"],
        ["control", str(debug_run.path / "export" / "2x16"), "--episodes", "2", "--engine", "mjx"],
        ["tasks"],
        ["presets"],
    ):
        done = pipeline(*command, "--json", cwd=folder)
        assert done.returncode == 0, done.stderr
        assert isinstance(json.loads(done.stdout), dict)
    # Neither evaluation nor a control that asks for something else changes what the run says.
    assert json.loads((debug_run.path / "summary.json").read_text()) == debug_run.printed


def test_a_finished_run_resumes_and_exports_again_to_the_same_artifacts(debug_run, pipeline, tmp_path):
    copy = shutil.copytree(debug_run.path, tmp_path / "copy", symlinks=True)
    bundle = {path: path.read_bytes() for path in (copy / "export" / "2x16").rglob("*") if path.is_file()}
    assert pipeline("export", copy, cwd=tmp_path).returncode == 0
    assert all(path.read_bytes() == content for path, content in bundle.items())
    done = pipeline("run", "--run", copy, "--resume", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    again = json.loads(done.stdout)
    for stage in ("task", "teacher", "selected", "students", "export", "control"):
        assert without_clock(again[stage]) == without_clock(debug_run.printed[stage])


def test_students_that_keep_too_little_end_in_failure_after_all_is_written(debug_run, pipeline, tmp_path):
    copy = shutil.copytree(debug_run.path, tmp_path / "copy", symlinks=True)
    export = ("export", str(copy), "--resume", "--set", "student.min_retention=2")
    done = pipeline(*export, "--json", cwd=tmp_path)
    assert done.returncode == 1
    printed = json.loads(done.stdout)
    assert not printed["selected_passes"]
    assert f"error: {printed['selected_because']}" in done.stderr
    assert "Next: " in printed["selected_because"]
    assert json.loads((copy / "summary.json").read_text())["selected"] == printed["selected"]
    done = pipeline(*export, "--student", SIZES[1], "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["selected"] == SIZES[1]
    done = pipeline(*export, "--student", "9x9", cwd=tmp_path)
    assert done.returncode == 2
    assert "student.select '9x9'" in done.stderr


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path):
    metrics = tmp_path / "stopped" / "teacher" / "metrics.jsonl"
    endless = ["--set", "collect.total_steps=1000000", "--set", "evaluate.every=100000"]
    command = [*PIPELINE, "teacher", "--preset", "debug", "--run", str(tmp_path / "stopped"), *endless]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not (metrics.exists() and metrics.read_text()):
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        errors = process.stderr.read()
    assert process.returncode == 130
    done = int(re.search(r"stopped and saved after iteration (\d+); go on with --resume", errors)[1])
    assert checkpoint.saves(tmp_path / "stopped" / "teacher" / "checkpoints") == [done]
