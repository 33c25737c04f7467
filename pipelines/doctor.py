"""What is installed here, what is missing, and whether every part works.

The self-test is a run of the preset `debug`, stage by stage, in a folder that is then removed. It decides;
what is missing is needed only for what stands beside it."""

import getpass
import importlib.util
import os
import platform
import re
import tempfile
import textwrap
import time
from collections.abc import Callable
from importlib import import_module
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
            seconds, found = round(time.perf_counter() - begun, 2), _anonymous(found.replace(folder, ""))
            parts.append({"part": part, "passed": passed, "seconds": seconds, "found": found})
            display.say(_line(parts[-1]), "" if passed else "red")
    devices = _devices()
    gpus = [device for device in devices if device.startswith(("gpu", "cuda", "rocm"))]
    gpu = {"found": ", ".join(gpus)} if gpus else {"install": "pip install 'fathom-rl[gpu]'"}
    return {
        "system": {
            "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
            "cores": os.cpu_count(),
        },
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
        "devices": devices,
        "environment": {name: _anonymous(os.environ[name]) for name in ENVIRONMENT if name in os.environ},
        "extras": {"GPU": gpu, "pictures": _graphics()}
        | {name: _package(module, install) for name, (module, install) in EXTRAS.items()},
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
    lines += map(_line, found["parts"])
    folder = textwrap.TextWrapper(76, subsequent_indent=" " * 4)
    return "\n".join(folder.fill(line) for line in "\n".join(lines).splitlines())


def _line(part: JSON) -> str:
    result = "works" if part["passed"] else "FAILS"
    return f"{part['part']}: {result}, {part['seconds']:.1f} s, {part['found']}"


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
