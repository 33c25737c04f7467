"""Tasks by name."""

from collections.abc import Callable
from functools import cache

from teacher.errors import unknown_name
from teacher.tasks.base import AnalyticTask, MujocoTask, Start, State, Task, achieved_goal, goal_distance
from teacher.tasks.fr3 import Fr3Reach
from teacher.tasks.reacher import Reacher

TASKS: dict[str, Callable[[], Task]] = {"fr3_reach": Fr3Reach, "reacher": Reacher}

__all__ = [
    "TASKS",
    "AnalyticTask",
    "MujocoTask",
    "Start",
    "State",
    "Task",
    "achieved_goal",
    "goal_distance",
    "make_task",
]


@cache
def make_task(name: str) -> Task:
    """The task of that name; UsageError with the nearest name if there is none."""
    if name not in TASKS:
        raise unknown_name("task", name, TASKS)
    return TASKS[name]()
