"""What is installed here, what is missing, and whether every part works.

The self-test is a run of the preset `debug`, stage by stage, in a folder that is then removed. It decides;
what is missing is needed only for what stands beside it."""

import getpass
import importlib.util
import os
import platform
import re
import shutil
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

import pipelines
from pipelines.progress import Display
from pipelines.rundir import PACKAGES
from teacher.errors import FathomError

JSON = dict[str, Any]
NOT_NEEDED = (  # by everyone
    *("jax-cuda12-plugin", "warp-lang", "av", "franky-control", "franky-sim", "tensorboardX", "wandb"),
)
SIZE = "2x16"  # of the student that is tried
ENVIRONMENT = ("JAX_PLATFORMS", "XLA_FLAGS", "CUDA_VISIBLE_DEVICES", "MUJOCO_GL")


def examine(display: Display) -> JSON:
    """Looks, then tries every part.

    Returns: `system`, `versions`, `devices`, `environment`; `extras`, each with `found` or `install`;
      `parts`, each with `part`, `passed`, `seconds`, `found`; `passed`."""
    parts = []
    with tempfile.TemporaryDirectory(prefix="fathom-doctor-") as folder:
        for part, attempt in trials(Path(folder) / "run").items():
            begun = time.perf_counter()
            try:
                passed, found = True, attempt()
            except Exception as error:  # whatever is broken here is what was looked for
                passed, found = False, f"{type(error).__name__}: {error}"
            seconds = round(time.perf_counter() - begun, 2)
            result, style = ("works", "") if passed else ("fails", "red")
            display.say(f"{part}: {result}, {seconds:.1f} s", style)
            found = _anonymous(found.replace(folder, ""))
            parts.append({"part": part, "passed": passed, "seconds": seconds, "found": found})
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


def trials(path: Path) -> dict[str, Callable[[], str]]:
    """Returns what tries each part, in this order, and answers with a figure; the run is made at `path`.

    Names of `pipelines` are imported when they are asked for: that they can be is part of what is tried."""

    def load() -> str:
        tasks = import_module("teacher.tasks").task_names()
        import_module("pipelines.all_stages")  # which imports all that computes
        return f"{len(tasks)} tasks"

    def learn() -> str:
        config = pipelines.with_values(pipelines.preset("debug"), [f"student.sizes={SIZE}"])
        found = pipelines.teach(pipelines.new_run(path, config, "debug"))
        return f"{found['env_steps']:,} environment steps in {found['wall_s']:.1f} s, depth {found['depth']}"

    def distill() -> str:
        return f"a student of {pipelines.distill(pipelines.Run(path))[SIZE]['parameters']:,} parameters"

    def export() -> str:
        found = pipelines.export(pipelines.Run(path))["export"][SIZE]
        observations = f"{found['observations']:,} observations"
        return f"ONNX agrees with JAX to {found['parity_max_error']:.1e} on {observations}"

    def control() -> str:
        found = pipelines.control(pipelines.Run(path).bundles / SIZE)
        return f"{found['latency_us_p50']:.0f} µs a step (median of {found['steps']:,})"

    named = {"libraries": load, "learning": learn, "distillation": distill}
    return named | {"export": export, "controller": control}


def require_sound(found: JSON) -> None:
    """Raises FathomError naming the parts that failed."""
    if failed := [part["part"] for part in found["parts"] if not part["passed"]]:
        raise FathomError(f"{', '.join(failed)}: failed, see above")


def page(found: JSON) -> Group:
    """Draws tables for a person, and the lines to paste."""
    parts = Table("part", "result", "seconds", "found", title="self-test", title_justify="left")
    for part in found["parts"]:
        result = Text("works", "green") if part["passed"] else Text("fails", "red")
        parts.add_row(part["part"], result, f"{part['seconds']:.1f}", part["found"])
    extras = Table("for", "found", "to install", title="extras", title_justify="left")
    for name, extra in found["extras"].items():
        extras.add_row(name, extra.get("found", "missing"), extra.get("install", ""))
    return Group(parts, extras, "for a bug report:\n", Text(block(found)))


def block(found: JSON) -> str:
    """Returns plain lines that say it all, and nothing of who and where the user is."""
    lines = [
        f"{found['system']['platform']}, {found['system']['cores']} cores",
        *(f"device {device}" for device in found["devices"]),
        *(f"{name} {number}" for name, number in found["versions"].items()),
        *(f"{name}={value}" for name, value in found["environment"].items()),
        *(f"{name}: {extra.get('found', 'missing')}" for name, extra in found["extras"].items()),
    ]
    for part in found["parts"]:
        result = "works" if part["passed"] else "FAILS"
        lines.append(f"{part['part']}: {result}, {part['seconds']:.1f} s, {part['found']}")
    folder = textwrap.TextWrapper(76, initial_indent=" " * 4, subsequent_indent=" " * 8)
    return "\n".join(folder.fill(line) for line in "\n".join(lines).splitlines())


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
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a number without an entry
        user = ""
    for name, stand_in in ((platform.node(), "HOST"), (user, "USER")):
        if name:
            text = re.sub(rf"\b{re.escape(name)}\b", stand_in, text)
    return text
