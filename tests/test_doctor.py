"""What `pipeline doctor` finds, says and keeps to itself."""

import getpass
import platform
from pathlib import Path

import pytest

import pipelines
from pipelines import doctor
from pipelines.progress import Display


@pytest.mark.parametrize("broken", [False, True])
def test_what_fails_is_said_and_the_lines_to_paste_name_neither_user_nor_machine(
    monkeypatch, pipeline, tmp_path, broken
):
    def run_all(*_):
        message = f"{Path.home()}/lib/x.so of {getpass.getuser()} on {platform.node()}: no such symbol"
        if broken:
            raise RuntimeError(message)

    monkeypatch.setattr(pipelines, "run_all", run_all, raising=False)
    monkeypatch.setattr(doctor, "_graphics", lambda: {"found": "egl"})
    monkeypatch.setitem(doctor.EXTRAS, "magic", ("no_such_module", "pip install it"))
    done = pipeline("doctor", cwd=tmp_path)
    said = " ".join(done.stdout.split())
    assert "magic: missing; pip install it" in said and str(Path.home()) not in said
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert done.returncode == int(broken)
    error = "RuntimeError: ~/lib/x.so of USER on HOST: no such symbol"
    assert (error in said) == (error in done.stderr) == broken != ("preset debug: works" in said)


@pytest.mark.slow
def test_every_part_works_here():
    doctor.require_sound(doctor.examine(Display()))
