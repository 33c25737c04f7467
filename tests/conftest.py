"""Shared between test files: the command line, and one debug run made through it."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

# Before JAX is imported, here and in every process started from here: what one process has
# compiled, the next one reads. Nothing else about a process changes.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", tempfile.mkdtemp(prefix="fathom-compiled-"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

# Tests are of one device; those of several make virtual ones.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")

PIPELINE = (sys.executable, "-c", "from pipelines.cli import main; main()")


class DebugRun(NamedTuple):
    path: Path
    printed: dict
    errors: str


@pytest.fixture(scope="session")
def pipeline() -> Callable[..., subprocess.CompletedProcess]:
    """Runs the command line in a process of its own."""

    def run(*arguments: str, cwd: Path, timeout: float = 300) -> subprocess.CompletedProcess:
        command = [*PIPELINE, *map(str, arguments)]
        return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False)

    return run


@pytest.fixture(scope="session")
def debug_run(tmp_path_factory, pipeline) -> DebugRun:
    """`pipeline run --preset debug`, as a user types it. Tests read it and leave it as it is.

    Of pytest's processes that run beside each other, the first makes it for all."""
    beside = "PYTEST_XDIST_WORKER" in os.environ
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if beside else base) / "debug"
    folder.mkdir(exist_ok=True)
    printed, errors = folder / "printed.json", folder / "errors.txt"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not printed.exists():
            shutil.rmtree(folder / "runs", ignore_errors=True)  # of one that failed
            done = pipeline("run", "--preset", "debug", "--json", cwd=folder, timeout=500)
            assert done.returncode == 0, done.stderr
            errors.write_text(done.stderr)
            printed.write_text(done.stdout)
    return DebugRun(folder / "runs" / "debug", json.loads(printed.read_text()), errors.read_text())
