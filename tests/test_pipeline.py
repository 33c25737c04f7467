"""The whole pipeline through the real command line, in the debug preset."""

import json
import os
import re
import shutil
import signal
import threading

from recovery import wait_for, without_clock

from pipelines.config import preset
from pipelines.rundir import Run
from teacher import checkpoint
from teacher.train import load_teacher

SIZES = preset("debug").student.sizes


def test_one_command_writes_a_report_and_prints_the_summary(debug_run):
    assert "<html" in (debug_run.path / "report.html").read_text()
    summary = debug_run.printed
    assert summary == json.loads((debug_run.path / "summary.json").read_text())
    assert summary["selected"] in SIZES
    for part in ("students", "export", "control"):
        assert summary[part].keys() == set(SIZES)
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
    for stage, source in (("teacher", None), ("students", teacher.source), ("export", teacher.source)):
        config = json.loads((debug_run.path / stage / "config.json").read_text())
        assert (config["preset"], config["seed"], config["source_sha256"]) == ("debug", 0, source)
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


def test_a_finished_run_exports_again_to_the_same_artifacts(debug_run, pipeline, tmp_path):
    copy = shutil.copytree(debug_run.path, tmp_path / "copy", symlinks=True)
    bundle = {path: path.read_bytes() for path in (copy / "export" / "2x16").rglob("*") if path.is_file()}
    assert pipeline("export", copy, cwd=tmp_path).returncode == 0
    assert all(path.read_bytes() == content for path, content in bundle.items())
    again = Run(copy).summary
    for stage in ("task", "teacher", "selected", "students", "export"):
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


def test_a_signal_saves_and_says_how_to_go_on(pipeline, tmp_path):
    stopped = Run(tmp_path / "stopped")

    def stop() -> None:
        wait_for(lambda: stopped.metrics("teacher"))
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    endless = ("--set", "collect.total_steps=1000000", "--set", "evaluate.every=100000")
    done = pipeline("teacher", "--preset", "debug", "--run", stopped.path, *endless, cwd=tmp_path)
    thread.join()
    assert done.returncode == 130
    last = int(re.search(r"stopped and saved after iteration (\d+); go on with --resume", done.stderr)[1])
    assert checkpoint.saves(stopped.checkpoints) == [last]
