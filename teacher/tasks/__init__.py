"""Tasks by name."""

from collections.abc import Callable
from functools import cache, partial

from teacher.tasks.base import AnalyticTask, MujocoTask, Start, State, Task, achieved_goal, goal_distance
from teacher.tasks.fr3 import Fr3Reach
from teacher.tasks.fr3_cube import fr3_pick_place, fr3_push_easy, fr3_push_hard
from teacher.tasks.locomotion import LOCOMOTION
from teacher.tasks.quadruped import QuadReach
from teacher.tasks.reacher import Reacher
from teacher.tasks.registry import build_task, executable, known_tasks
from teacher.tasks.wheel_maze import WheelMaze, wheel_labyrinth

TASKS: dict[str, Callable[[], Task]] = {
    "fr3_pick_place": fr3_pick_place,
    "fr3_push_easy": fr3_push_easy,
    "fr3_push_hard": fr3_push_hard,
    "fr3_reach": Fr3Reach,
    "fr3_reach_sensed": partial(Fr3Reach, sensed=True),
    "quad_reach": QuadReach,
    "reacher": Reacher,
    "wheel_labyrinth": wheel_labyrinth,
    "wheel_maze": WheelMaze,
    **LOCOMOTION,
}

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
    "task_names",
]


def make_task(name: str) -> Task:
    """The task of that name, once in a process: one of TASKS, of an installed package (entry points of
    the group `fathom.tasks`), or of a file (`path/to/file.py:NAME`, a class or a function that makes it).

    The file of a `StoredName` is executed only where a user named it, or trusted a run that keeps it.
    Raises: UsageError with the nearest name if there is none, for such a file, and with what is wrong with
      the task; FathomError if it cannot be made."""
    return _made(executable(name))


@cache
def _made(name: str) -> Task:
    return build_task(name, TASKS)


def task_names() -> list[str]:
    """Of this program's tasks and those of installed packages."""
    return known_tasks(TASKS)
