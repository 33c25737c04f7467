"""Runs that are stopped, damaged and taken up again: what they hold, and what of it must be the same."""

import hashlib
import json
import os
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from conftest import PIPELINE
from typer.testing import CliRunner, Result

from export.controller import load as load_controller
from pipelines.cli import app
from pipelines.config import preset
from pipelines.rundir import Run
from teacher import checkpoint

SIZES = preset("debug").student.sizes
STAGES = ("begin", "teacher", "students", "export", "control", "report")  # as `stage_at` names them
CLOCKED = ("wall_s", "latency_us", "missed_deadlines")  # beginnings of the keys that a clock decides


def pipeline_here(*arguments: object) -> Result:
    """The command line in this process, which has compiled most of it already."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def started(*arguments: object, cwd: Path) -> subprocess.Popen:
    command = [*PIPELINE, *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace"
    )


def beginning(run: Path) -> list[object]:
    return ["run", "--preset", "debug", "--run", run, "--set", "checkpoint.interval_s=0"]


def resuming(run: Path) -> list[object]:
    return ["run", "--run", run, "--resume"]


def stop_at_random(
    process: subprocess.Popen, run: Path, number: int, random: np.random.Generator
) -> str | None:
    """Sends the signal at a random moment of a random stage, half of the times while a file is being written.

    Returns: which stage the run was in, and when that was; None if the process ended before."""
    ahead = STAGES[STAGES.index(stage_at(run)) :]
    drawn = ahead[random.integers(len(ahead))]
    wait_for(lambda: STAGES.index(stage_at(run)) >= STAGES.index(drawn), process, seconds=300, every_s=0.1)
    begun, moment, writing = time.monotonic(), random.uniform(2, 10), bool(random.integers(2))
    wait_for(lambda: time.monotonic() > begun + moment, process)
    if writing:
        wait_for(lambda: is_writing(run) or time.monotonic() > begun + moment + 5, process)
    if process.poll() is not None:
        return None
    process.send_signal(number)
    written = ", writing" if writing and is_writing(run) else ""
    return f"{stage_at(run)} {time.monotonic() - begun:.2f} s after {drawn} began{written}"


def is_writing(run: Path) -> bool:
    return any(name.endswith(".partial") for _, folders, files in os.walk(run) for name in (*folders, *files))


def result(run: Path) -> dict[str, Any]:
    """All that a finished run holds and that does not depend on a clock, by a name for people."""
    found: dict[str, Any] = {"summary": without_clock(Run(run).summary)}
    for stage in ("teacher", "students"):
        found[f"{stage} metrics"] = without_clock(Run(run).metrics(stage))
        found[f"{stage} save"] = _saved(run / stage / "checkpoints")
    for size in SIZES:
        found[f"student {size}"] = _saved(run / "students" / size)
    for folder in ("export", "control"):
        files = sorted(file for size in SIZES for file in (run / folder / size).rglob("*") if file.is_file())
        found |= {str(file.relative_to(run)): _sha256(file.read_bytes()) for file in files}
    return found


def assert_same(run: Path, uninterrupted: Path) -> None:
    found, expected = result(run), result(uninterrupted)
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []


def assert_readable(run: Path) -> None:
    """Of what a killed run left, the newest of every artifact is whole."""
    for folder in ("teacher/checkpoints", "students/checkpoints", *(f"students/{size}" for size in SIZES)):
        if saves := checkpoint.saves(run / folder):
            checkpoint.load(run / folder, step=saves[0])
    for bundle in (run / "export" / size for size in SIZES):
        if bundle.exists():
            load_controller(bundle)
    for recording in run.glob("control/*/recording.json"):
        json.loads(recording.read_text())
    for stage in ("teacher", "students"):
        Run(run).metrics(stage)


def stage_at(run: Path) -> str:
    """The stage that a run is in, or is to finish next."""
    if not run.exists():
        return "begin"
    summary = Run(run).summary
    for stage in ("teacher", "students"):
        if stage not in summary:
            return stage
    return next((s for s in ("export", "control") if len(summary.get(s, {})) < len(SIZES)), "report")


def without_clock(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: without_clock(v) for key, v in values.items() if not key.startswith(CLOCKED)}
    return [without_clock(value) for value in values] if isinstance(values, list) else values


def _saved(directory: Path) -> tuple[int, str, dict[str, str]]:
    saved = checkpoint.load(directory)
    return saved.step, saved.fingerprint, {name: _sha256(rows.tobytes()) for name, rows in saved.rows.items()}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def wait_for(
    condition: Callable[[], Any],
    process: subprocess.Popen | None = None,
    seconds: float = 120,
    every_s: float = 0.002,
) -> None:
    end = time.monotonic() + seconds
    while not condition() and (process is None or process.poll() is None):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(every_s)


def fill(folder: Path) -> Path:
    """Leaves no byte free; returns the file to remove again."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as stream, suppress(OSError):
        while True:
            stream.write(bytes(4096))
    return ballast


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def halve(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def newest(directory: Path) -> Path:
    return directory / str(checkpoint.saves(directory)[0])
