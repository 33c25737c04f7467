"""Whatever stops a run or damages its files: nothing whole is lost, and --resume ends in the same bits."""

import fcntl
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import termios
import time
import weakref
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import PIPELINE
from recovery import (
    SIZES,
    assert_readable,
    assert_same,
    beginning,
    fill,
    flip,
    halve,
    newest,
    pipeline_here,
    resuming,
    stage_at,
    started,
    stop_at_random,
    wait_for,
)

from pipelines.config import preset
from pipelines.progress import Display
from pipelines.rundir import Run, create_run
from pipelines.runtime import COMPILING, SAVING, Interrupted, deferred_interrupt, sigterm_as_ctrl_c
from pipelines.training import training
from teacher import checkpoint
from teacher.errors import FathomError


@pytest.fixture
def copied(debug_run, tmp_path) -> Path:
    """A finished debug run of one's own."""
    return Path(shutil.copytree(debug_run.path, tmp_path / "run", symlinks=True))


def resumed(run: Path) -> None:
    done = pipeline_here(*resuming(run))
    assert done.exit_code == 0, done.output


# Stopped


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> Path:
    """A run killed at a random moment of a random stage, and then taken up again."""
    run, random = tmp_path_factory.mktemp("killed") / "run", np.random.default_rng()
    stage, after = random.choice(["teacher", "students", "export"]), random.uniform(0, 3)
    process = started(*beginning(run), cwd=run.parent)
    wait_for(lambda: (run / stage / "config.json").exists(), process)
    time.sleep(after)
    print(f"killed {after:.2f} s after {stage} began, in {stage_at(run)}")
    process.kill()
    process.communicate()
    assert_readable(run)
    resumed(run)
    return run


def test_a_run_that_was_killed_ends_as_if_it_had_not_been(debug_run, killed):
    assert_same(killed, debug_run.path)


def test_an_interruption_between_saves_says_how_to_go_on(tmp_path):
    run = create_run(tmp_path / "run", preset("debug"), "debug", 0)
    told = f"kept in {run.path}: the same command with --resume goes on"
    with pytest.raises(Interrupted, match=re.escape(told)), run.locked():
        raise KeyboardInterrupt


def test_a_first_signal_waits_for_the_save_and_says_so_a_second_one_acts_at_once():
    said: list[str] = []
    with (
        pytest.raises(KeyboardInterrupt),
        sigterm_as_ctrl_c(),
        deferred_interrupt(said.append) as interruption,
    ):
        signal.raise_signal(signal.SIGTERM)
        wait_for(lambda: said, seconds=5)
        assert said == [SAVING]
        assert interruption.requested
        signal.raise_signal(signal.SIGTERM)
        pytest.fail("the second signal did nothing")


COMPUTES_IN_C = """
import hashlib
from pipelines.runtime import sigterm_as_ctrl_c
with sigterm_as_ctrl_c():
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # no handler is called before it returns
"""


def ticks(process: subprocess.Popen) -> int:
    """How long a process has computed, in hundredths of a second."""
    return sum(map(int, Path(f"/proc/{process.pid}/stat").read_text().split()[13:15]))


def test_a_signal_while_a_library_compiles_is_answered_and_a_second_one_ends_it():
    command = [sys.executable, "-c", COMPUTES_IN_C]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        said = ticks(process)
        wait_for(lambda: ticks(process) > said + 20)  # until then Python may hear, which the library does not
        process.send_signal(signal.SIGTERM)
        assert process.stderr.readline() == f"{COMPILING}\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 130


def terminal_of_its_own():
    """Run in a process before its program: with a terminal, and not with the ignorance of `nohup`."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def test_a_lost_terminal_saves_and_stops_as_sigterm_does(tmp_path):
    ours, theirs = pty.openpty()
    command = [*PIPELINE, *map(str, beginning(tmp_path / "run")), "--set", "collect.total_steps=200000"]
    process = subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=terminal_of_its_own,
    )
    os.close(theirs)
    saves = tmp_path / "run" / "teacher" / "checkpoints"
    lines = tmp_path / "run" / "teacher" / "metrics.jsonl"
    while not lines.exists() or not lines.read_text().count("\n"):
        if select.select([ours], [], [], 0.1)[0]:
            os.read(ours, 65536)
    os.close(ours)  # the kernel sends SIGHUP, and printing fails from now on
    assert process.wait(timeout=120) == 130
    assert checkpoint.load(saves).step == lines.read_text().count("\n")


@pytest.fixture(params=[signal.default_int_handler, signal.SIG_IGN], ids=["front", "background"])
def sigint(request):
    before = signal.signal(signal.SIGINT, request.param)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("sigint")
def test_a_signal_that_comes_where_python_drops_exceptions_is_not_forgotten():
    collected = type("Collected", (), {})()
    reference = weakref.ref(collected, lambda _: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(KeyboardInterrupt), sigterm_as_ctrl_c():
        del collected
        assert reference() is None
        wait_for(lambda: False, seconds=5)  # which fails if the signal was dropped


def test_a_signal_after_the_last_iteration_is_not_forgotten():
    with pytest.raises(KeyboardInterrupt), deferred_interrupt():
        signal.raise_signal(signal.SIGTERM)


def test_the_wall_clock_may_jump(tmp_path, monkeypatch):
    run = create_run(tmp_path / "run", preset("debug"), "debug", 0)
    run.begin_stage("teacher", None, 0)
    run.append_metrics("teacher", {"wall_s": 5.0})
    with training(run, "teacher", Display(), 1, 10, interval_s=1e4, unit="iterations") as stage:
        for now in (0.0, 4e9):
            monkeypatch.setattr(time, "time", lambda now=now: now)
            stage.record(5, {}, {})
            assert not stage.timer.due()
            assert 5.0 <= stage.wall_s < 60.0


def test_a_finished_teacher_trains_longer_and_ends_as_if_it_always_had(copied, tmp_path):
    resume, longer = ("teacher", "--run", copied, "--resume"), ("--set", "collect.total_steps=1600")
    done = pipeline_here(*resume, *longer)
    assert done.exit_code == 2 and "holds students of its teacher as it is" in done.output
    for part in ("students", "export"):
        shutil.rmtree(copied / part)
    done = pipeline_here(*resume, "--set", "collect.total_steps=640")
    assert done.exit_code == 2 and "collect.total_steps: found 640" in done.output
    whole = pipeline_here("teacher", "--preset", "debug", "--run", tmp_path / "whole", *longer)
    done = pipeline_here(*resume, *longer)
    assert (done.exit_code, whole.exit_code) == (0, 0), done.output
    found, expected = (
        checkpoint.load(run / "teacher" / "checkpoints") for run in (copied, tmp_path / "whole")
    )
    assert (found.step, found.fingerprint) == (5, expected.fingerprint)
    for file in (copied / "config.json", copied / "teacher" / "config.json"):
        assert json.loads(file.read_text())["config"]["teacher"]["collect"]["total_steps"] == 1600
    done = pipeline_here(*resume)
    assert done.exit_code == 0, done.output


# In use, full, read-only


def test_a_run_in_use_names_who_works_in_it_and_since_when(tmp_path):
    run = create_run(tmp_path / "run", preset("debug"), "debug", 0)
    with run.locked():
        done = pipeline_here(*resuming(run.path))
    assert done.exit_code == 1
    assert re.search(f"is in use by process {os.getpid()} of .* since 20", done.output)
    with run.locked():
        pass


def test_two_processes_that_add_to_a_summary_lose_nothing(tmp_path):
    run = create_run(tmp_path / "run", preset("debug"), "debug", 0)
    with ThreadPoolExecutor(20) as pool:
        [*pool.map(run.update_summary, ({"control": {str(i): {"episodes": i}}} for i in range(20)))]
    assert len(run.summary["control"]) == 20


@pytest.fixture
def small_disk(tmp_path):
    """A file system of eight megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_is_named_and_what_was_written_before_stays(small_disk):
    run = create_run(small_disk / "run", preset("debug"), "debug", 0)
    run.begin_stage("teacher", None, 0)
    run.append_metrics("teacher", {"iteration": 1})
    run.update_summary({"wall_s": 1.0})
    state, folder = {"weights": np.arange(5000.0)}, run.checkpoints
    checkpoint.save(folder, 1, state, record={}, keep=2)
    ballast = fill(small_disk)
    for write, file in (
        (lambda: run.update_summary({"selected_because": "x" * 9000}), "summary.json"),
        (lambda: run.append_metrics("teacher", {"text": "x" * 9000}), "metrics.jsonl"),
        (lambda: checkpoint.save(folder, 2, state, record={}, keep=2), str(folder / "2")),
        (lambda: run.begin_stage("students", None, 0), "students"),
    ):
        with pytest.raises(FathomError, match=rf"{file}.*No space left") as found:
            write()
        assert "\n" not in str(found.value)
    ballast.unlink()
    assert checkpoint.saves(folder) == [1]
    assert checkpoint.load(folder).step == 1
    run.rewind_metrics("teacher", 1, pytest.fail)
    assert run.metrics("teacher") == [{"iteration": 1}]
    assert run.summary == {"wall_s": 1.0}
    checkpoint.save(folder, 2, state, record={}, keep=2)
    assert checkpoint.load(folder).step == 2


def test_a_read_only_run_is_refused_by_name_and_can_still_be_evaluated(small_disk, debug_run):
    run = Path(shutil.copytree(debug_run.path / "teacher", small_disk / "run" / "teacher")).parent
    for name in ("config.json", "versions.json"):
        shutil.copy(debug_run.path / name, run / name)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    for command in (["run", "--run", run, "--resume"], ["distill", run]):
        done = pipeline_here(*command)
        assert done.exit_code == 1
        assert f"cannot write {run / '.lock'}: Read-only file system" in done.output
    done = pipeline_here("report", run)
    assert f"cannot write {run / 'report.html'}: Read-only file system" in done.output
    done = pipeline_here("evaluate", run, "--episodes", "2")
    assert done.exit_code == 0, done.output


# Damaged

SAVE = "teacher/checkpoints/4/manifest.json"  # the one there is


def test_a_run_damaged_in_every_artifact_is_made_whole(debug_run, killed, tmp_path):
    run = Path(shutil.copytree(killed, tmp_path / "run"))
    flip(newest(run / "teacher" / "checkpoints") / "manifest.json")
    shutil.rmtree(newest(run / "students" / "checkpoints") / "state")
    flip(next((run / "students" / "checkpoints" / "rows").iterdir()))
    halve(newest(run / "students" / SIZES[0]) / "manifest.json")
    (run / "export" / SIZES[0] / "spec.json").unlink()
    flip(run / "export" / SIZES[1] / "policy.onnx")
    halve(run / "control" / SIZES[1] / "recording.json")
    with (run / "students" / "metrics.jsonl").open("a") as stream:
        stream.write('{"round": 4, "la')
    halve(run / "summary.json")
    done = pipeline_here(*resuming(run))
    assert done.exit_code == 0, done.output
    for word in ("teacher: going on from iteration 3 of 4", "students: going on from round 2 of 3"):
        assert word in done.output
    for file in (run / "export" / SIZES[0], run / "export" / SIZES[1]):
        assert re.search(f"{re.escape(str(file))}: .*: exported again", done.output)
    assert "set aside as damaged-summary.json" in done.output
    assert_same(run, debug_run.path)


def test_lines_that_a_damaged_metrics_file_lost_are_said_and_the_rest_is_kept(debug_run, copied):
    file, said = copied / "teacher" / "metrics.jsonl", []
    first, second, *others = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(first + b"\xff" + second[1:] + b"".join(others))
    done = pipeline_here("report", copied)
    assert done.exit_code == 1 and "--resume" in done.output
    assert f"{file} is damaged in line 2" in done.output
    Run(copied).rewind_metrics("teacher", 4, said.append)
    assert said == [f"{file} was damaged: 1 of 4 lines are lost"]
    assert file.read_bytes() == first + b"".join(others)


def of_an_earlier_version(manifest: Path) -> None:
    saved = json.loads(manifest.read_text())
    del saved["record"]["student"]["batch_size"]
    checkpoint.write_manifest(manifest.parent, saved)


@pytest.mark.parametrize(
    ("harm", "damaged", "command", "remedy"),
    [
        (halve, "summary.json", ["report"], "--resume"),
        (halve, f"students/{SIZES[0]}/3/manifest.json", ["export"], "pipeline distill {run} --resume"),
        (flip, f"export/{SIZES[0]}/policy.onnx", ["control"], "pipeline export {run} --resume"),
        (halve, f"export/{SIZES[0]}/spec.json", ["report"], "pipeline export {run} --resume"),
        (halve, "config.json", ["run", "--resume", "--run"], "config.json cannot be read"),
        (halve, "students/config.json", ["distill", "--resume"], "remove it"),
        (
            of_an_earlier_version,
            "students/checkpoints/3/manifest.json",
            ["distill", "--resume"],
            "remove {run}/students, and pipeline distill {run} writes them again",
        ),
        (flip, SAVE, ["teacher", "--resume", "--run"], "to train from the start, remove {run}/teacher/check"),
    ],
)
def test_a_damaged_file_is_named_with_what_to_do(copied, harm, damaged, command, remedy):
    for older in checkpoint.saves(copied / "teacher" / "checkpoints")[1:]:  # of a slow machine
        shutil.rmtree(copied / "teacher" / "checkpoints" / str(older))
    harm(copied / damaged)
    done = pipeline_here(*command, copied)
    assert done.exit_code == 1, done.output
    assert isinstance(done.exception, SystemExit)  # and no traceback
    assert harm is of_an_earlier_version or Path(damaged).name in done.output
    assert remedy.format(run=copied) in done.output


def places(value, path=()):
    """Paths of all values within."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield (*path, key)
        yield from places(inner, (*path, key))


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("name", ["summary.json", "config.json", "teacher/metrics.jsonl"])
def test_no_damaged_or_missing_value_ends_in_a_traceback(copied, name):
    file, random = copied / name, np.random.default_rng(0)
    *before, last = file.read_text().splitlines() if name.endswith("l") else [file.read_text()]
    known = [*places(json.loads(last))]
    refused = 0
    for place in [known[i] for i in random.permutation(len(known))[:4]]:
        damaged = json.loads(last)
        part = damaged
        for key in place[:-1]:
            part = part[key]
        if random.random() < 0.3:
            del part[place[-1]]
        else:
            part[place[-1]] = [{}, [], "../../x", None, -1][random.integers(5)]
        file.write_text("\n".join([*before, json.dumps(damaged)]) + "\n")
        done = pipeline_here("report", copied)
        assert isinstance(done.exception, SystemExit | None), (place, done.exception)
        refused += done.exit_code != 0
        assert done.exit_code == 0 or str(copied) in done.output, (place, done.output)
    assert refused or name != "summary.json"


@pytest.mark.usefixtures("undrawn")
def test_a_selected_student_is_one_of_the_runs(copied):
    (copied / "versions.json").unlink()  # then they are not known
    assert pipeline_here("report", copied).exit_code == 0
    summary = json.loads((copied / "summary.json").read_text())
    (copied / "summary.json").write_text(json.dumps(summary | {"selected": "../../elsewhere"}))
    for words in (["control"], ["watch"], ["export", "--student", "2x16"]):
        done = pipeline_here(*words, copied)
        assert done.exit_code == 1 and "summary.json is damaged: selected" in done.output


# The bar: minutes each


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("number", "count"), [(signal.SIGKILL, 10), (signal.SIGTERM, 4)])
def test_runs_that_are_stopped_at_random_end_the_same(debug_run, tmp_path, number, count, seed):
    random, stages, runs = np.random.default_rng(seed), Counter[str](), []
    while not runs or stages.total() < count:
        run = tmp_path / f"run{len(runs)}"
        while not (run / "report.html").exists():
            process = started(*(resuming(run) if run.exists() else beginning(run)), cwd=tmp_path)
            stopped = stages.total() < count and stop_at_random(process, run, number, random)
            _, errors = process.communicate(timeout=300)
            assert "Traceback" not in errors, errors
            if not stopped:
                assert process.returncode == 0, errors
                continue
            if (run / "report.html").exists():  # all was done, and the process on its way out: no stop
                assert process.returncode in (0, 130, -number), errors
                continue
            print(f"seed {seed}: {number.name} {stopped}")
            assert process.returncode == (-number if number == signal.SIGKILL else 130), errors
            assert number == signal.SIGKILL or "--resume" in errors, errors
            stages[stopped.split()[0]] += 1
            assert_readable(run)
        runs.append(run)
        assert_same(run, debug_run.path)
    print(f"seed {seed}: {dict(stages)}, {stages.total()} in all; {len(runs)} runs, identical")
