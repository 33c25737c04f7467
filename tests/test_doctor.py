"""What `pipeline doctor` finds, says and keeps to itself."""

import getpass
import platform
from pathlib import Path

import pytest

from pipelines import doctor, selftest
from pipelines.doctor import NOT_NEEDED, PACKAGES, block, examine, require_sound
from pipelines.progress import Display
from pipelines.selftest import Trial, trials
from teacher.errors import FathomError


@pytest.fixture
def broken(monkeypatch):
    """A machine on which learning fails with a message about the user's own files."""

    def learn():
        raise RuntimeError(
            f"{Path.home()}/lib/x.so of {getpass.getuser()} on {platform.node()}: no such symbol"
        )

    for part in ("_load", "_step_physics"):
        monkeypatch.setattr(selftest, part, lambda: "well")
    monkeypatch.setattr(selftest, "_learn", learn)
    monkeypatch.setattr(selftest, "_export", lambda bundle: "well")
    monkeypatch.setattr(selftest, "_control", lambda bundle: "well")
    monkeypatch.setattr(doctor, "_graphics", lambda: {"found": "egl"})


def test_a_failing_part_is_named_and_the_others_are_tried(broken):
    found = examine(Display())
    assert {part["part"]: part["passed"] for part in found["parts"]} == {
        "libraries": True,
        "physics": True,
        "learning": False,
        "export": True,
        "controller": True,
    }
    with pytest.raises(FathomError, match="learning: failed"):
        require_sound(found)


def test_the_lines_to_paste_name_neither_user_nor_machine(broken):
    found = examine(Display())
    text = block(found)
    assert "no such symbol" in " ".join(text.split())
    assert str(Path.home()) not in text
    failure = next(part["found"] for part in found["parts"] if not part["passed"])
    assert failure == "RuntimeError: ~/lib/x.so of USER on HOST: no such symbol"
    assert max(map(len, text.splitlines())) <= 80
    assert set(found["versions"]) <= {"python", *PACKAGES, *NOT_NEEDED}


def test_what_is_missing_comes_with_its_installation():
    assert doctor._package("json", "pip install it") == {"found": "installed"}
    assert doctor._package("no_such_module", "pip install it") == {"install": "pip install it"}


def test_a_bundles_controller_is_run(debug_run):
    assert "µs a step" in selftest._control(debug_run.path / "export" / "2x16")


@pytest.mark.slow
def test_every_part_works_here(tmp_path):
    found = list(trials(tmp_path))
    assert all(isinstance(trial, Trial) and trial.passed for trial in found), found
    assert sum(trial.seconds for trial in found) < 120
