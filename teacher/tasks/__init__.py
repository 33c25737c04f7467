"""Tasks by name: this program's, those of installed packages, and those in a file of the user's own."""

import importlib.util
import os
import re
import sys
from collections.abc import Callable
from functools import cache, partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from teacher.config import ARM, StoredName, task_reference
from teacher.errors import FathomError, UsageError, unknown_name
from teacher.tasks.arm import arm_task
from teacher.tasks.base import AnalyticTask, MujocoTask, Start, State, Task, achieved_goal, goal_distance
from teacher.tasks.cubes import CUBES
from teacher.tasks.fr3_arm import Fr3Reach
from teacher.tasks.locomotion import LOCOMOTION
from teacher.tasks.mazes import LABYRINTH
from teacher.tasks.quadruped import QuadReach
from teacher.tasks.reacher import Reacher
from teacher.tasks.validation import own_code, require_sound
from teacher.tasks.wheel_maze import WheelMaze, WheelPark

TASKS: dict[str, Callable[[], Any]] = {
    **CUBES,
    "fr3_reach": Fr3Reach,
    "fr3_reach_sensed": partial(Fr3Reach, sensed=True),
    "quad_reach": QuadReach,
    "reacher": Reacher,
    "wheel_labyrinth": partial(WheelMaze, "wheel_labyrinth", LABYRINTH),
    "wheel_maze": WheelMaze,
    "wheel_park": WheelPark,
    **LOCOMOTION,
}
LARGEST = 2**26  # bytes of a model's file that is kept with a run
LONGEST = 256  # bytes of a file's name
GROUP = "fathom.tasks"  # of entry points: a task's name = a class, or a function that makes the task
_EXECUTABLE: dict[str, str] = {}  # reference to a task in a file -> the one that is executed for it
_BESIDE: dict[Path, list[Path]] = {}  # task file that was executed -> modules beside it that it imported

__all__ = [
    "GROUP",
    "TASKS",
    "AnalyticTask",
    "MujocoTask",
    "Start",
    "State",
    "Task",
    "achieved_goal",
    "execute",
    "goal_distance",
    "hidden_tasks",
    "is_file",
    "make_task",
    "task_files",
    "task_names",
]


def make_task(name: str) -> Task:
    """Makes the task of that name, once in a process: one of TASKS, of an installed package (entry points of
    the group `fathom.tasks`), or of a file (`path/to/file.py:NAME`, a class or a function that makes it, or
    `path/to/arm.toml`, which describes an arm).

    The file of a `StoredName` is executed only where a user named it, or trusted a run that keeps it.
    Raises: UsageError with the nearest name if there is none, for such a file, and with what is wrong with
      the task; FathomError if it cannot be made."""
    return _made(executable(name))


@cache
def _made(name: str) -> Task:
    if name.endswith(f"{ARM}:"):
        maker: Any = partial(arm_task, Path(name[:-1]))
    else:
        maker = _from_file(name) if is_file(name) else TASKS.get(name) or _from_package(name)
    if not callable(maker):
        found = type(maker).__name__
        raise FathomError(f"task {name!r}: is a {found}, not a class or a function that makes a task")
    with own_code(f"task {name!r} cannot be made", maker):
        task = maker()
    if not isinstance(task, Task):
        raise FathomError(f"task {name!r}: made a {type(task).__name__}, not a teacher.tasks.Task")
    if name not in TASKS:
        require_sound(task, name)
    if not is_file(name) and task.spec.name != name:
        raise FathomError(f"task {name!r} calls itself {task.spec.name!r}: the two must be the same")
    return task


def task_names() -> list[str]:
    """Returns the names of this program's tasks and of those that installed packages bring."""
    return [*TASKS, *(name for name in _installed() if name not in TASKS)]


def hidden_tasks() -> list[str]:
    """Returns a sentence about each task of a package that is out of reach behind one of TASKS."""
    return [
        f"task {name!r} of package {_package(entry)} is out of reach: this program has one of that name"
        for name, entry in _installed().items()
        if name in TASKS
    ]


def executable(name: str) -> str:
    """The reference by which a task is made; for a file, the one that a user stands for.

    Raises: UsageError for a file that an artifact names, and nobody else."""
    reference = str(task_reference(name))  # one key of a cache, whoever names the task
    if not is_file(reference):
        return reference
    if ".py:" in reference and isinstance(name, StoredName) and reference not in _EXECUTABLE:
        file, _, made = reference.rpartition(":")
        raise UsageError(
            f"the task is code in a file, {file}, which is not executed because a run or a settings file "
            f"names it: add --task path/to/{Path(file).name}:{made}, or --trust if you trust whoever made "
            "the run, to execute the copy that it keeps"
        )
    return _EXECUTABLE.setdefault(reference, reference)


def execute(reference: str, stored: str) -> None:
    """Executes the file of `reference`, which a user stands for, wherever artifacts name the one `stored`."""
    _EXECUTABLE[task_reference(stored)] = task_reference(reference)


def is_file(name: str) -> bool:
    """Whether a task's name is a reference to a file."""
    return ".py:" in name or name.endswith((ARM, f"{ARM}:"))


def task_files(name: str) -> dict[str, Path]:
    """The file of a task that was made and what it is made of, by relative path: modules beside it that it
    imported, and files in its folder or below that one of all these names (MJCF, its parts, meshes)."""
    file = Path(executable(name).rpartition(":")[0])
    found, folders, names = {file, *_BESIDE.get(file, ())}, {file.parent}, set[str]()
    unread, known = set(found), 0
    while unread or known != len(folders):
        known = len(folders)
        names.update(*map(_quoted, unread))
        paths = {Path(os.path.normpath(folder / each)) for folder in folders for each in names}
        below = {path for path in paths if path.is_relative_to(file.parent)}
        folders |= {path for path in below if path.is_dir()}
        folders |= {path.parent for path in below if path.is_file()}
        unread = {path for path in below - found if path.is_file() and path.stat().st_size <= LARGEST}
        found |= unread
    return {str(each.relative_to(file.parent)): each for each in sorted(found)}


def _quoted(file: Path) -> set[str]:
    """What may be a path in a program or a model: all between quotes, and its last part."""
    content = file.read_bytes()
    if b"\0" in content:  # a mesh or a picture
        return set()
    pieces = re.findall(r"""["'}]([^"'{}\n]{1,255})(?=["'{])""", content.decode(errors="replace"))
    paths = {path for piece in pieces if (path := piece.strip("/")) and len(path.encode()) < LONGEST}
    return paths | {Path(path).name for path in paths}


def _installed() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else "of unknown name"


def _from_package(name: str) -> Any:
    installed = _installed()
    if name.endswith(".py"):
        raise UsageError(f"task {name!r}: say which task of the file, {name}:NAME")
    if name not in installed:
        refusal = unknown_name("task", name, task_names())
        raise UsageError(f"{refusal}; a task of your own is named path/to/file.py:NAME")
    entry = installed[name]
    with own_code(f"task {name!r} of package {_package(entry)} cannot be loaded"):
        return entry.load()


def _from_file(reference: str) -> Any:
    """`/whole/path/file.py:NAME` -> what NAME is in that file."""
    file, _, name = task_reference(reference).rpartition(":")
    module = _module(Path(file))
    if not hasattr(module, name):
        made_here = [
            key
            for key, value in vars(module).items()
            if callable(value) and getattr(value, "__module__", None) == module.__name__
        ]
        raise unknown_name(f"task in {file}", name, made_here)
    return getattr(module, name)


@cache
def _module(file: Path) -> ModuleType:
    """The file, executed once in a process."""
    if not file.is_file():
        raise UsageError(f"there is no task file {file}")
    name = str(file)  # no other module is called that
    found = importlib.util.spec_from_file_location(name, file)
    assert found is not None and found.loader is not None, f"{file} ends in .py"
    module = importlib.util.module_from_spec(found)
    # Last, so that a file beside it hides no module of this program.
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    sys.modules[name] = module
    before = set(sys.modules)
    try:
        with own_code(f"task file {file} cannot be executed", module):
            found.loader.exec_module(module)
    except FathomError:
        del sys.modules[name]
        raise
    imported = {each: getattr(sys.modules[each], "__file__", None) for each in sys.modules.keys() - before}
    _BESIDE[file] = [
        Path(source) for each, source in imported.items() if source and _is_beside(file, each, source)
    ]
    return module


def _is_beside(file: Path, module: str, source: str) -> bool:
    """Whether a module lies in the file's folder by its own name, and is not installed somewhere below."""
    top = file.parent / module.partition(".")[0]
    return Path(source) == top.with_suffix(".py") or Path(source).is_relative_to(top)
