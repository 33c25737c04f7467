"""OpenGL without a display: which of its libraries works here."""

import importlib
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from teacher.errors import FathomError

VARIABLE = "MUJOCO_GL"  # MuJoCo's own name for the choice
INSTALL = "install EGL (Debian, Ubuntu: apt install libegl1) or OSMesa (apt install libosmesa6)"
PROBE = """
import mujoco, mujoco.{0} as gl
context = gl.GLContext(8, 8)
context.make_current()
mujoco.MjrContext(mujoco.MjModel.from_xml_string("<mujoco/>"), 100).free()
context.free()
"""
PROBE_S = 60.0


class NoGraphics(FathomError):
    """No picture can be drawn on this machine."""


@cache
def library() -> str:
    """Returns the first of MuJoCo's OpenGL libraries that draws here; NoGraphics if none does.

    Each is tried in a process of its own: PyOpenGL keeps the first that it loads, and a broken driver
    ends its process."""
    refused = [] if candidates() else [f"{VARIABLE}={os.environ[VARIABLE]}"]
    for name in candidates():
        command, environment = [sys.executable, "-c", PROBE.format(name)], {**os.environ, VARIABLE: name}
        try:
            subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=PROBE_S, check=True
            )
            return name
        except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
            refused.append(f"{name}: {[str(error), *str(error.stderr or '').splitlines()][-1]}")
    raise NoGraphics(f"no pictures can be drawn here: {INSTALL} ({'; '.join(refused)})")


def candidates() -> tuple[str, ...]:
    """Returns what to try, in this order: the user's choice alone, if there is one; it may be none."""
    if chosen := os.environ.get(VARIABLE, "").strip().lower():
        return (chosen,) if chosen in ("egl", "osmesa", "glfw", "cgl") else ()
    if platform.system() == "Linux":
        return ("egl", "osmesa", "glfw") if has_display() else ("egl", "osmesa")
    return ("cgl", "glfw") if platform.system() == "Darwin" else ("glfw",)


def has_display() -> bool:
    """Whether windows can be opened, as far as a look at the environment tells."""
    return platform.system() != "Linux" or any(os.environ.get(n) for n in ("DISPLAY", "WAYLAND_DISPLAY"))


@contextmanager
def context(width: int, height: int) -> Iterator[None]:
    """Makes an OpenGL context current inside; NoGraphics if there is none to be had."""
    name = library()
    try:
        made = importlib.import_module(f"mujoco.{name}").GLContext(width, height)
        made.make_current()
    except Exception as error:  # these libraries' own exceptions share no other base
        raise NoGraphics(f"no pictures can be drawn here: {name}: {error}; {INSTALL}") from error
    try:
        yield
    finally:
        made.free()
