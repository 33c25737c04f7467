"""An arm's model file becomes a task: what was decided about it is kept as TOML, to be read and edited."""

import importlib
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np

from pipelines.files import write_text
from teacher.errors import UsageError, unknown_name
from teacher.tasks.arm import ArmDescription, ArmGoal, as_toml, describe
from teacher.tasks.chain import parsed


def task_of_arm(arm: str, tip: str | None, say: Callable[[str], None], goal: str = "point") -> str:
    """Writes `NAME.toml` where one is, for the arm's model, and returns it as a task's name.

    A file that is there already, edited or not, is taken as it is.

    Args: arm: a model's file, or one of those that `model_file` knows; tip: site or body that goals mean;
      say: told what was decided; goal: what goals are; of any but points
      the file is `NAME_GOAL.toml`.
    Raises: UsageError with what is wrong with the model, or with a file of that name of another arm."""
    if goal not in get_args(ArmGoal):
        raise unknown_name("--goal", goal, get_args(ArmGoal))
    file = model_file(arm)
    name = re.sub(r"\W+", "_", parsed(file).modelname or file.stem).strip("_").lower()
    target = Path(f"{name}.toml" if goal == "point" else f"{name}_{goal}.toml")
    if target.exists():
        try:
            known = tomllib.loads(target.read_text("utf-8-sig"))
        except ValueError as error:
            raise UsageError(f"{target}: {error}; without it, all is decided anew") from error
        if Path(str(known.get("model"))).resolve() != file.resolve() or tip not in (None, known.get("tip")):
            raise UsageError(
                f"{target} is of another arm or tip: move it away, or take it with --task {target}"
            )
        say(f"{target} is taken as it is; without it, all is decided anew")
        return str(target)
    found = describe(file, tip or "", cast(ArmGoal, goal))
    write_text(target, as_toml(found, Path.cwd()))
    for line in (
        f"{target} says what was decided; edit it as you like, --task {target} takes it",
        _told(found),
        "range (rad, m): "
        + ", ".join(f"{low:g} to {high:g}" for low, high in zip(found.lower, found.upper, strict=True)),
        "goals (m): "
        + ", ".join(
            f"{axis} {low:g} to {high:g}"
            for axis, low, high in zip("xyz", found.goal_low, found.goal_high, strict=False)
        )
        if found.goal != "joints"
        else "goals: 0.8 of that range",
        "commands are joint velocities; the robot's own controller has to follow them and carry its weight",
    ):
        say(line)
    return str(target)


def _told(found: ArmDescription) -> str:
    """Says what should come where, and how near."""
    joints, near = ", ".join(found.joints), f"{1e3 * found.radius:g} mm"
    if found.goal == "joints":
        return f"{len(found.joints)} joints come to goals within {found.radius:g}, all together: {joints}"
    turned = f", where a turn by {np.rad2deg(found.angle):.0f} degrees counts as {near}"
    return (
        f"{len(found.joints)} joints bring {found.tip!r} to goals within {near}"
        f"{turned if found.goal == 'pose' else ''}: {joints}"
    )


def model_file(arm: str) -> Path:
    """Finds an arm's model: a file, `menagerie:NAME` (package mujoco-menagerie) or
    `robot_descriptions:NAME` (package robot_descriptions); these two load models over the network.

    Raises: UsageError for a name, a package or a file that is not there."""
    package, _, name = arm.partition(":")
    if package == "menagerie":
        menagerie = _imported("mujoco_menagerie", "mujoco-menagerie", arm)
        if name not in menagerie.names():
            raise unknown_name("arm of the menagerie", name, menagerie.names())
        robot = menagerie.get(name)
        return Path(robot.xml(robot.default_model))
    if package == "robot_descriptions":
        found = _imported(f"robot_descriptions.{name}", "robot_descriptions", arm)
        return Path(getattr(found, "MJCF_PATH", None) or found.URDF_PATH)
    if not Path(arm).is_file():
        raise UsageError(
            f"--arm {arm}: there is no such file; menagerie:NAME and robot_descriptions:NAME are known too"
        )
    return Path(arm)


def _imported(module: str, package: str, arm: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(
            f"--arm {arm} needs the package {package}: pip install {package} ({error})"
        ) from None
