"""What can be learned here: the tasks, what they ask for and how fast they run, and tasks made of an arm's
model, which are kept as TOML, to be read and edited."""

import importlib
import re
import time
import timeit
import tomllib
from collections.abc import Callable, Sequence
from functools import cache, reduce
from pathlib import Path
from typing import Any, cast, get_args

import jax
import numpy as np

from pipelines import presets
from pipelines.files import JSON, write_text
from pipelines.progress import Display
from teacher.compilation import jit_physics
from teacher.errors import FathomError, UsageError, unknown_name
from teacher.rollout import simulation
from teacher.tasks import TASKS, Task, hidden_tasks, make_task, task_names
from teacher.tasks.arm import ArmDescription, ArmGoal, as_toml
from teacher.tasks.arm import describe as describe_arm
from teacher.tasks.chain import parsed
from teacher.tasks.engines import engines_of
from teacher.tasks.plausibility import doubts

STEPS = 20  # control steps of every environment in one compiled call
HOST_STEPS = 200  # control steps of the C engine's one environment in one call


def listed(names: Sequence[str], display: Display) -> dict[str, Task]:
    """Makes the tasks of these names or references; without any, all that this program and packages bring.

    Of all, one that cannot be made is named to the user and left out."""
    for name in names:
        if not warn_of_slips(name) and name not in TASKS:
            display.say(f"{name}: checked, and nothing looks wrong")
    if names:
        return {name: make_task(name) for name in names}
    found = {}
    for complaint in hidden_tasks():
        display.warn(complaint)
    for name in task_names():
        try:
            found[name] = make_task(name)
        except FathomError as error:
            display.warn(str(error))
    return found


@cache
def warn_of_slips(name: str) -> int:
    """Warns, once in a process, of what in a task of the user's own looks like a slip; says of how many."""
    slips = doubts(make_task(name)) if name not in TASKS else []
    for slip in slips:
        Display().warn(f"warning: task {make_task(name).spec.name!r}: {slip}")
    return len(slips)


def describe(tasks: dict[str, Task]) -> JSON:
    """Returns what `pipeline tasks --json` says of tasks."""
    return {
        name: {
            "spec": task.spec.model_dump(mode="json"),
            "engines": list(engines_of(task)),
            "layouts": list(task.layouts),
            "evaluation_layout": task.evaluation_layout,
            "randomised": task.randomise.alters_anything,
            "description": presets.TASKS.get(name) or (type(task).__doc__ or "").strip().partition("\n")[0],
        }
        for name, task in tasks.items()
    }


def measure(tasks: dict[str, Task], envs: int, display: Display) -> JSON:
    """Measures control steps per second of every task on each of its engines; each is named before.

    An engine on which a task fails has `error` in place of figures."""
    figures: JSON = {name: {} for name in tasks}
    for name, task in tasks.items():
        for engine in engines_of(task):
            display.say(f"{name} on {engine}")
            try:
                figures[name][engine] = measure_engine(name, engine, envs)
            except FathomError as error:
                figures[name][engine] = {"error": str(error)}
    device = jax.devices()[0]
    return {"device": f"{device.platform} {device.device_kind}", "environments": envs, "tasks": figures}


def measure_engine(task: str, engine: str, envs: int) -> JSON:
    """Measures steps per second of so many environments together, under random actions, with observations.

    The C engine takes one environment after another, so it is measured with one."""
    robot = simulation(task, engine)
    compiled = robot.engine.compiled
    envs, steps = (envs, STEPS) if compiled else (1, HOST_STEPS)
    start = robot.starts(jax.random.key(0), envs)
    shape = (steps, envs, robot.task.spec.action_size)
    actions = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)

    def step(state: Any, action: Any) -> tuple[Any, Any]:
        state = robot.step(state, action)
        return state, robot.observe(state)

    scan = jit_physics(lambda start, actions: jax.lax.scan(step, robot.reset(start), actions)[1])

    def call() -> None:
        if compiled:
            jax.block_until_ready(scan(start, actions))
        else:
            reduce(lambda state, action: step(state, action)[0], actions, robot.reset(start))

    begun = time.perf_counter()
    call()
    figures = {"compile_s": time.perf_counter() - begun} if compiled else {}
    calls, seconds = timeit.Timer(call).autorange()
    return {"environments": envs, "steps_per_s": calls * envs * steps / seconds, **figures}


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
    found = describe_arm(file, tip or "", cast(ArmGoal, goal))
    write_text(target, as_toml(found, Path.cwd()))
    say(f"{target} says what was decided; edit it as you like, --task {target} takes it")
    for line in _told(found):
        say(line)
    say("commands are joint velocities; the robot's own controller has to follow them and carry its weight")
    return str(target)


def _told(found: ArmDescription) -> list[str]:
    """Says what should come where, how near, and in which ranges."""
    joints, near = ", ".join(found.joints), f"{1e3 * found.radius:g} mm"
    ranges = (f"{low:g} to {high:g}" for low, high in zip(found.lower, found.upper, strict=True))
    limits = f"range (rad, m): {', '.join(ranges)}"
    if found.goal == "joints":
        comes = f"{len(found.joints)} joints come to goals within {found.radius:g}, all together: {joints}"
        return [comes, limits, "goals: 0.8 of that range"]
    if found.goal == "pose":
        near += f", where a turn by {np.rad2deg(found.angle):.0f} degrees counts as {near}"
    axes = zip("xyz", found.goal_low, found.goal_high, strict=False)
    goals = f"goals (m): {', '.join(f'{axis} {low:g} to {high:g}' for axis, low, high in axes)}"
    return [f"{len(found.joints)} joints bring {found.tip!r} to goals within {near}: {joints}", limits, goals]


def model_file(arm: str) -> Path:
    """Finds an arm's model: a file, `menagerie:NAME` (package mujoco-menagerie) or
    `robot_descriptions:NAME` (package robot_descriptions); these two load models over the network.

    Raises: UsageError for a name, a package or a file that is not there."""
    package, _, name = arm.partition(":")
    try:
        if package == "menagerie":
            menagerie = importlib.import_module("mujoco_menagerie")
            if name not in menagerie.names():
                raise unknown_name("arm of the menagerie", name, menagerie.names())
            robot = menagerie.get(name)
            return Path(robot.xml(robot.default_model))
        if package == "robot_descriptions":
            found = importlib.import_module(f"robot_descriptions.{name}")
            return Path(getattr(found, "MJCF_PATH", None) or found.URDF_PATH)
    except ImportError as error:
        needed = {"menagerie": "mujoco-menagerie"}.get(package, package)
        message = f"--arm {arm} needs the package {needed}: pip install {needed} ({error})"
        raise UsageError(message) from None
    if not Path(arm).is_file():
        raise UsageError(
            f"--arm {arm}: there is no such file; menagerie:NAME and robot_descriptions:NAME are known too"
        )
    return Path(arm)
