"""The queue for a GPU keeps what parts print and records what breaks; planted faults are of code that is."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import gpu
import jax
import layer_kernels
import mutations
import numpy as np


def python(code, minutes=1.0):
    return gpu.Part([sys.executable, "-c", code], minutes)


@pytest.fixture
def queue(monkeypatch, tmp_path):
    """Runs the queue on three parts of a moment; returns each part's file."""
    parts = {
        "good": python("open('{work}/count', 'a').write('x'); print('[{\"figure\": 1}]')"),
        "bad": python("import sys; print('half'); sys.exit('no such kernel')"),
        "slow": python("import time; time.sleep(60)", minutes=0.02),
    }
    monkeypatch.setattr(gpu, "QUEUE", parts)
    monkeypatch.setattr(gpu, "card", lambda: "jax 0, a card")

    def run(*words):
        monkeypatch.setattr(
            sys, "argv", ["gpu.py", "--out", f"{tmp_path}/out", "--work", f"{tmp_path}/work", *words]
        )
        gpu.main()
        return {path.stem: json.loads(path.read_text()) for path in (tmp_path / "out").iterdir()}

    return run


def test_each_part_leaves_its_figures_or_the_error_that_ended_it(queue, tmp_path, capsys):
    found = queue("--minutes", "1", "--json")
    assert found["good"]["result"] == [{"figure": 1}] and "error" not in found["good"]
    assert found["good"]["device"] == "jax 0, a card" and found["slow"]["seconds"] >= 1
    assert found["bad"]["error"] == "exit code 1: no such kernel\n" and found["bad"]["printed"] == "half\n"
    assert found["slow"]["error"].startswith("stopped after 1 s")
    again = queue("--minutes", "1", "--json", "--parts", "good", "bad")
    assert again["good"] == found["good"] and (tmp_path / "work" / "count").read_text() == "x"
    assert "good: there already" in capsys.readouterr().err


def test_nothing_is_begun_when_time_is_up(queue):
    assert queue("--minutes", "0.1") == {}


def test_the_queue_names_files_and_options_that_exist():
    for part in gpu.QUEUE.values():
        files = [word for word in part.command if word.endswith(".py")]
        assert all((gpu.TOP / file).exists() for file in files), files


def test_planted_faults_are_of_lines_that_the_code_has():
    faults = list(mutations.faults(mutations.FAULTS))
    assert [each for each in faults if each.line not in (mutations.ROOT / each.file).read_text()] == []


def test_a_layer_as_one_kernel_computes_what_the_scan_does():
    """Interpreted, of two chunks of weights and two thread blocks."""
    given = layer_kernels.random_stack(8, 128, 128)
    found, expected = (
        jax.jit(layer_kernels.both("float32", interpret=True)[name])(*given) for name in ("triton", "xla")
    )
    for each, true in zip(found, expected, strict=True):
        assert np.abs(true).max() > 0.1
        np.testing.assert_allclose(each, true, atol=1e-5 * np.abs(true).max())
