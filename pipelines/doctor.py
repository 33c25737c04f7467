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
from contextlib import suppress
from pathlib import Path

import pipelines
from pipelines import graphics
from pipelines.files import JSON
from pipelines.progress import Display
from pipelines.rundir import versions
from teacher.errors import FathomError

EXTRAS = {  # what for, the module that it takes, how to install that
    "warp engine": ("warp", "with an NVIDIA GPU: pip install 'mujoco-mjx[warp]'"),
    "MP4 films": ("av", "pip install 'fathom-rl[video]'"),
    "Franka robot": ("franky", "pip install 'fathom-rl[robot]'"),
    "ROS 2 robot": ("cyclonedds", "pip install 'fathom-rl[ros2]'"),
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
    devices: list[str] = []
    with suppress(ImportError, RuntimeError):  # which the self-test explains
        import jax

        devices = [f"{device.platform} {device.device_kind}" for device in jax.devices()]
    gpus = ", ".join(device for device in devices if device.startswith(("gpu", "cuda", "rocm")))
    extras = {
        "GPU": {"found": gpus} if gpus else {"install": "pip install 'fathom-rl[gpu]'"},
        "pictures": _graphics(),
    }
    for name, (module, install) in EXTRAS.items():
        extras[name] = {"found": "installed"} if importlib.util.find_spec(module) else {"install": install}
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    return {
        "system": {"platform": system, "cores": os.cpu_count()},
        "versions": versions(),
        "devices": devices,
        "environment": {name: _anonymous(os.environ[name]) for name in ENVIRONMENT if name in os.environ},
        "extras": extras,
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
        *(
            f"{name}: {it.get('found') or 'missing; ' + it['install']}"
            for name, it in found["extras"].items()
        ),
        f"a run of the preset debug: {found.get('error', 'works')}, {found['seconds']} s",
    ]
    return "\n".join(
        textwrap.fill(line, 76, subsequent_indent="    ") for line in "\n".join(lines).splitlines()
    )


def _graphics() -> dict[str, str]:
    try:
        return {"found": graphics.library()}
    except graphics.NoGraphics:
        return {"install": graphics.INSTALL}


def _anonymous(text: str) -> str:
    """Without the user's home, name and host."""
    text, user = text.replace(str(Path.home()), "~"), ""
    with suppress(KeyError, OSError):  # a number without an entry
        user = getpass.getuser()
    for name, stand_in in ((platform.node(), "HOST"), (user, "USER")):
        text = re.sub(rf"\b{re.escape(name)}\b", stand_in, text) if name else text
    return text
