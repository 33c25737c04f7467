"""Shared between test files: the command line, and one debug run made through it."""

import contextlib
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
from typer.testing import CliRunner

from pipelines.cli import app

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
    """Runs the command line in a directory, here: this process has compiled most of what it needs."""

    def run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess:
        words = [str(argument) for argument in arguments]
        with contextlib.chdir(cwd):
            done = CliRunner().invoke(app, words, catch_exceptions=False)
        return subprocess.CompletedProcess(words, done.exit_code, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def debug_run(tmp_path_factory) -> DebugRun:
    """`pipeline run --preset debug`, in a process of its own. Tests read it and leave it as it is.

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
            command = [*PIPELINE, "run", "--preset", "debug", "--json"]
            done = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, timeout=500, check=False
            )
            assert done.returncode == 0, done.stderr
            errors.write_text(done.stderr)
            printed.write_text(done.stdout)
    return DebugRun(folder / "runs" / "debug", json.loads(printed.read_text()), errors.read_text())


@pytest.fixture(scope="session")
def rollouts():
    from bundles import drawn  # which imports JAX

    return drawn()


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """The bundle of a small policy for fr3_reach, and how its graphs were verified."""
    from bundles import export

    directory = tmp_path_factory.mktemp("export") / "small"
    return directory, export(directory)


@pytest.fixture(scope="session")
def bundle(exported):
    return exported[0]


@pytest.fixture(scope="session")
def controller(bundle):
    from export.controller import load

    return load(bundle)


@pytest.fixture
def undrawn(monkeypatch) -> None:
    """Leaves a page's figures empty, for tests of its words: drawing takes most of a page's time."""
    from pipelines.report import plot

    monkeypatch.setattr(plot.Canvas, "savefig", lambda self, file, **_: file.write("<svg></svg>"))


@pytest.fixture
def copy(bundle, tmp_path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "copy"))
