"""What `pipeline doctor` finds, says and keeps to itself."""

import getpass
import platform
from pathlib import Path

import pytest

from pipelines import doctor
from pipelines.doctor import NOT_NEEDED, PACKAGES, block, examine, require_sound, trials
from pipelines.progress import Display
from teacher.errors import FathomError


@pytest.fixture
def broken(monkeypatch):
    """A machine on which learning fails with a message about the user's own files."""

    def learn():
        raise RuntimeError(
            f"{Path.home()}/lib/x.so of {getpass.getuser()} on {platform.node()}: no such symbol"
        )

    def broken_trials(folder):
        return dict.fromkeys(trials(folder), lambda: "well") | {"learning": learn}

    monkeypatch.setattr(doctor, "trials", broken_trials)
    monkeypatch.setattr(doctor, "_graphics", lambda: {"found": "egl"})


def test_a_failing_part_is_named_and_the_others_are_tried(broken):
    found = examine(Display())
    passed = {part["part"]: part["passed"] for part in found["parts"]}
    assert [part for part, well in passed.items() if not well] == ["learning"] and len(passed) == 5
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


@pytest.mark.slow
def test_every_part_works_here():
    found = examine(Display())
    require_sound(found)
    assert "µs a step" in found["parts"][-1]["found"]
