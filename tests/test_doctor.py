"""What `pipeline doctor` finds, says and keeps to itself."""

import getpass
import platform
from pathlib import Path

import pytest

from pipelines import doctor
from pipelines.doctor import examine, page, require_sound, trials
from pipelines.progress import Display
from teacher.errors import FathomError


def test_a_failing_part_is_named_and_the_lines_to_paste_name_neither_user_nor_machine(monkeypatch):
    def learn():
        message = f"{Path.home()}/lib/x.so of {getpass.getuser()} on {platform.node()}: no such symbol"
        raise RuntimeError(message)

    def broken_trials(folder):
        return dict.fromkeys(trials(folder), lambda: "well") | {"learning": learn}

    monkeypatch.setattr(doctor, "trials", broken_trials)
    monkeypatch.setattr(doctor, "_graphics", lambda: {"found": "egl"})
    monkeypatch.setitem(doctor.EXTRAS, "magic", ("no_such_module", "pip install it"))
    found = examine(Display())
    passed = {part["part"]: part["passed"] for part in found["parts"]}
    assert [part for part, well in passed.items() if not well] == ["learning"] and len(passed) == 5
    with pytest.raises(FathomError, match="learning: failed"):
        require_sound(found)
    failure = next(part["found"] for part in found["parts"] if not part["passed"])
    assert failure == "RuntimeError: ~/lib/x.so of USER on HOST: no such symbol"
    text = page(found)
    assert "no such symbol" in " ".join(text.split()) and "magic: missing; pip install it" in text
    assert str(Path.home()) not in text
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.slow
def test_every_part_works_here():
    found = examine(Display())
    require_sound(found)
    assert "µs a step" in found["parts"][-1]["found"]
