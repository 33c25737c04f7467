"""What is installed here, what is missing, and whether every part works.

The self-test is a run of the preset `debug` in a folder that is then removed. It decides; what is missing is
needed only for what stands beside it."""

import getpass
import importlib.util
import os
import platform
import re
import tempfile
import textwrap
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pipelines
from pipelines.progress import Display
from pipelines.rundir import PACKAGES
from teacher.errors import FathomError

JSON = dict[str, Any]
EXTRAS = {  # what for, the module that it takes, how to install that
    "warp engine": ("warp", "with an NVIDIA GPU: pip install 'mujoco-mjx[warp]'"),
    "MP4 films": ("av", "pip install 'fathom-rl[video]'"),
    "Franka robot": ("franky", "pip install 'fathom-rl[robot]'"),
    "TensorBoard": ("tensorboardX", "pip install 'fathom-rl[tensorboard]'"),
    "Weights & Biases": ("wandb", "pip install 'fathom-rl[wandb]'"),
}
ENVIRONMENT = ("JAX_PLATFORMS", "XLA_FLAGS", "CUDA_VISIBLE_DEVICES", "MUJOCO_GL")


def examine(display: Display) -> JSON:
    """Looks, then carries out a small run.

    Returns: `system`, `versions`, `devices`, `environment`; `extras`, each with `found` or `install`;
      `seconds` of the run, `passed`, and `error` if it did not."""
    begun, error = time.perf_counter(), ""
    with tempfile.TemporaryDirectory(prefix="fathom-doctor-") as folder:
        try:
            # Imported when they are asked for: that they can be is part of what is tried.
            pipelines.run_all(pipelines.new_run(Path(folder) / "run", pipelines.preset("debug")), display)
        except Exception as broken:  # whatever is broken here is what was looked for
            error = _anonymous(f"{type(broken).__name__}: {broken}".replace(folder, ""))
    devices = _devices()
    gpus = [device for device in devices if device.startswith(("gpu", "cuda", "rocm"))]
    gpu = {"found": ", ".join(gpus)} if gpus else {"install": "pip install 'fathom-rl[gpu]'"}
    packages = {name: _package(module, install) for name, (module, install) in EXTRAS.items()}
    cores, system = os.cpu_count(), f"{platform.system()} {platform.release()} {platform.machine()}"
    return {
        "system": {"platform": system, "cores": cores},
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
        "devices": devices,
        "environment": {name: _anonymous(os.environ[name]) for name in ENVIRONMENT if name in os.environ},
        "extras": {"GPU": gpu, "pictures": _graphics(), **packages},
        "seconds": round(time.perf_counter() - begun, 1),
        "passed": not error,
        **({"error": error} if error else {}),
    }


def require_sound(found: JSON) -> None:
    """Raises FathomError if the run failed."""
    if not found["passed"]:
        raise FathomError(f"a run of the preset debug failed: {found['error']}")


def page(found: JSON) -> str:
    """Returns all of it as lines for a bug report, with nothing of who and where the user is."""
    lines = [
        f"{found['system']['platform']}, {found['system']['cores']} cores",
        *(f"device {device}" for device in found["devices"]),
        *(f"{name} {number}" for name, number in found["versions"].items()),
        *(f"{name}={value}" for name, value in found["environment"].items()),
    ]
    for name, extra in found["extras"].items():
        lines.append(f"{name}: {extra.get('found') or 'missing; ' + extra['install']}")
    lines.append(f"a run of the preset debug: {found.get('error', 'works')}, {found['seconds']} s")
    folder = textwrap.TextWrapper(76, subsequent_indent=" " * 4)
    return "\n".join(folder.fill(line) for line in "\n".join(lines).splitlines())


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def _devices() -> list[str]:
    """What JAX computes on; none if it cannot be asked, which the self-test explains."""
    try:
        import jax

        return [f"{device.platform} {device.device_kind}" for device in jax.devices()]
    except (ImportError, RuntimeError):
        return []


def _package(module: str, install: str) -> JSON:
    return {"found": "installed"} if importlib.util.find_spec(module) else {"install": install}


def _graphics() -> JSON:
    from pipelines import graphics

    try:
        return {"found": graphics.library()}
    except graphics.NoGraphics:
        return {"install": graphics.INSTALL}


def _anonymous(text: str) -> str:
    """Without the user's home, name and host."""
    text = text.replace(str(Path.home()), "~")
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a number without an entry
        user = ""
    for name, stand_in in ((platform.node(), "HOST"), (user, "USER")):
        text = re.sub(rf"\b{re.escape(name)}\b", stand_in, text) if name else text
    return text
