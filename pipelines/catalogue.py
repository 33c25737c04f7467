"""What can be learned here: the tasks, what they ask for, and how fast they run."""

from collections.abc import Sequence
from typing import Any

import jax
from rich.text import Text

from pipelines import throughput
from pipelines.progress import Display
from teacher.errors import FathomError
from teacher.tasks import Task, hidden_tasks, make_task, task_names
from teacher.tasks.engines import engines_of

JSON = dict[str, Any]


def listed(names: Sequence[str], display: Display) -> dict[str, Task]:
    """The tasks of these names or references; without any, all that this program and packages bring.

    Of all, one that cannot be made is named to the user and left out."""
    if names:
        return {name: make_task(name) for name in names}
    found = {}
    complaints = hidden_tasks()
    for name in task_names():
        try:
            found[name] = make_task(name)
        except FathomError as error:
            complaints.append(str(error))
    for complaint in complaints:
        display.warn(complaint)
    return found


def describe(tasks: dict[str, Task]) -> JSON:
    """What `pipeline tasks --json` says of tasks."""
    return {name: _description(task) for name, task in tasks.items()}


def _description(task: Task) -> JSON:
    spec = task.spec
    return {
        "name": spec.name,
        "engines": list(engines_of(task)),
        "observation": spec.observation_size,
        "goal": spec.goal_size,
        "action": spec.action_size,
        "control_dt": spec.control_dt,
        "episode_length": spec.episode_length,
        "success_radius": spec.goal.success_radius,
        "goal_unit": spec.goal.unit,
        "layouts": list(task.layouts),
        "evaluation_layout": task.evaluation_layout,
        "randomised": task.randomise.alters_anything,
        "description": (type(task).__doc__ or "").strip().partition("\n")[0],
    }


def measure(tasks: dict[str, Task], envs: int, display: Display) -> JSON:
    """Control steps per second of every task on each of its engines; each is told as it comes.

    An engine on which a task fails has `error` in place of figures."""
    figures: JSON = {}
    for name, task in tasks.items():
        figures[name] = {}
        for engine in engines_of(task):
            with display.console.status(Text(f"{name} on {engine}")):
                try:
                    found: JSON = throughput.measure(name, engine, envs)
                except FathomError as error:
                    found = {"error": str(error)}
            figures[name][engine] = found
            display.say(f"{name} on {engine}: {_told(found)}")
    device = jax.devices()[0]
    return {"device": f"{device.platform} {device.device_kind}", "environments": envs, "tasks": figures}


def _told(found: JSON) -> str:
    if "error" in found:
        return str(found["error"])
    compiled = f", compiled in {found['compile_s']:.0f} s" if "compile_s" in found else ""
    return f"{found['steps_per_s']:,.0f} steps/s{compiled}"
