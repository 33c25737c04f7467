"""What `pipeline doctor` finds, says and keeps to itself."""

import getpass
import platform
from pathlib import Path

import pytest

import pipelines
from pipelines import doctor
from pipelines.doctor import examine, page, require_sound
from pipelines.progress import Display
from teacher.errors import FathomError


def test_what_fails_is_said_and_the_lines_to_paste_name_neither_user_nor_machine(monkeypatch):
    def run_all(*_):
        message = f"{Path.home()}/lib/x.so of {getpass.getuser()} on {platform.node()}: no such symbol"
        raise RuntimeError(message)

    monkeypatch.setattr(pipelines, "run_all", run_all, raising=False)
    monkeypatch.setattr(doctor, "_graphics", lambda: "egl")
    monkeypatch.setitem(doctor.EXTRAS, "magic", ("no_such_module", "pip install it"))
    found = examine(Display())
    assert found["error"] == "RuntimeError: ~/lib/x.so of USER on HOST: no such symbol"
    with pytest.raises(FathomError, match="no such symbol"):
        require_sound(found)
    text = page(found)
    assert "no such symbol" in " ".join(text.split()) and "magic: missing; pip install it" in text
    assert str(Path.home()) not in text
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.slow
def test_every_part_works_here():
    require_sound(examine(Display()))
