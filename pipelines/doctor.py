"""What is installed here, what is missing, and whether every part works.

The self-test decides; what is missing is needed only for what stands beside it."""

import getpass
import importlib.util
import os
import platform
import re
import shutil
import tempfile
import textwrap
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from pipelines.progress import Display
from pipelines.rundir import PACKAGES
from pipelines.selftest import trials
from teacher.errors import FathomError

JSON = dict[str, Any]
NOT_NEEDED = (  # by everyone
    "jax-cuda12-plugin",
    "warp-lang",
    "av",
    "franky-control",
    "franky-sim",
    "tensorboardX",
    "wandb",
)
ENVIRONMENT = ("JAX_PLATFORMS", "XLA_FLAGS", "CUDA_VISIBLE_DEVICES", "MUJOCO_GL")


def examine(display: Display) -> JSON:
    """Looks, then tries every part.

    Returns: `system`, `versions`, `devices`, `environment`; `extras`, each with `found` or `install`;
      `parts`, each with `part`, `passed`, `seconds`, `found`; `passed`."""
    with tempfile.TemporaryDirectory(prefix="fathom-doctor-") as folder:
        parts = []
        for trial in trials(Path(folder)):
            result = f"{trial.part}: {'works' if trial.passed else 'fails'}, {trial.seconds:.1f} s"
            display.say(result, "" if trial.passed else "red")
            found = _anonymous(trial.found.replace(folder, ""))
            parts.append(trial._replace(found=found, seconds=round(trial.seconds, 2))._asdict())
    devices = _devices()
    return {
        "system": {
            "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
            "cores": os.cpu_count(),
        },
        "versions": _versions(),
        "devices": devices,
        "environment": {name: _anonymous(os.environ[name]) for name in ENVIRONMENT if name in os.environ},
        "extras": _extras(devices),
        "parts": parts,
        "passed": all(part["passed"] for part in parts),
    }


def require_sound(found: JSON) -> None:
    """FathomError naming the parts that failed."""
    if failed := [part["part"] for part in found["parts"] if not part["passed"]]:
        raise FathomError(f"{', '.join(failed)}: failed, see above")


def page(found: JSON) -> Group:
    """Tables for a person, and the lines to paste."""
    parts = Table("part", "result", "seconds", "found", title="self-test", title_justify="left")
    for part in found["parts"]:
        result = Text("works", "green") if part["passed"] else Text("fails", "red")
        parts.add_row(part["part"], result, f"{part['seconds']:.1f}", part["found"])
    extras = Table("for", "found", "to install", title="extras", title_justify="left")
    for name, extra in found["extras"].items():
        extras.add_row(name, extra.get("found", "missing"), extra.get("install", ""))
    return Group(parts, extras, "for a bug report:\n", Text(block(found)))


def block(found: JSON) -> str:
    """Plain lines that say it all, and nothing of who and where the user is."""
    lines = [f"{found['system']['platform']}, {found['system']['cores']} cores"]
    lines += [f"device {device}" for device in found["devices"]]
    lines += [f"{name} {number}" for name, number in found["versions"].items()]
    lines += [f"{name}={value}" for name, value in found["environment"].items()]
    lines += [f"{name}: {extra.get('found', 'missing')}" for name, extra in found["extras"].items()]
    lines += [
        f"{part['part']}: {'works' if part['passed'] else 'FAILS'}, {part['seconds']:.1f} s, {part['found']}"
        for part in found["parts"]
    ]
    folded = [
        textwrap.fill(line, 76, initial_indent="    ", subsequent_indent="        ")
        for line in "\n".join(lines).splitlines()
    ]
    return "\n".join(folded)


def _versions() -> dict[str, str]:
    """Of Python and the packages; those that are missing too, if everyone needs them."""
    found = {"python": platform.python_version()}
    for package in (*PACKAGES, *NOT_NEEDED):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            if package in PACKAGES:
                found[package] = "missing"
    return found


def _devices() -> list[str]:
    """What JAX computes on; none if it cannot be asked, which the self-test explains."""
    try:
        import jax

        return [f"{device.platform} {device.device_kind}" for device in jax.devices()]
    except (ImportError, RuntimeError):
        return []


def _extras(devices: Iterable[str]) -> dict[str, JSON]:
    """What some need: `found`, or how to `install` it."""
    gpus = [device for device in devices if device.startswith(("gpu", "cuda", "rocm"))]
    driver = "NVIDIA driver is here" if shutil.which("nvidia-smi") else "with an NVIDIA GPU"
    return {
        "GPU": {"found": ", ".join(gpus)} if gpus else {"install": f"{driver}: pip install 'fathom-rl[gpu]'"},
        "warp engine": _package("warp", "with an NVIDIA GPU: pip install 'mujoco-mjx[warp]'"),
        "pictures": _graphics(),
        "MP4 films": _package("av", "pip install 'fathom-rl[video]'"),
        "Franka robot": _package("franky", "pip install 'fathom-rl[robot]'"),
        "TensorBoard": _package("tensorboardX", "pip install 'fathom-rl[tensorboard]'"),
        "Weights & Biases": _package("wandb", "pip install 'fathom-rl[wandb]'"),
    }


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
    for name, stand_in in ((platform.node(), "HOST"), (_user(), "USER")):
        if name:
            text = re.sub(rf"\b{re.escape(name)}\b", stand_in, text)
    return text


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a number without an entry
        return ""
