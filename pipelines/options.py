"""Options that several commands share, and what a shell completes.

Nothing heavy is imported before a command runs, so that --help and completion answer at once.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from pipelines import distributed
from pipelines.command import refuse
from pipelines.presets import PRESETS, TASKS
from pipelines.progress import Display

if TYPE_CHECKING:
    from pipelines.config import Request
    from pipelines.rundir import Run

# Names that are completed without importing what they are of.
ENGINES = ("mjx", "warp", "brax", "mujoco", "analytic")
PROFILES = ("c99", "holosoma", "mjlab", "ros2", "unitree")
ROBOTS = ("fr3", "fr3-sim", "ros2")
BASELINES = ("direct", "direct_long", "shallow_actor", "cloning", "dagger")
MOST_EPISODES = 1_000_000  # as of `teacher.config`


def complete_preset(incomplete: str) -> list[tuple[str, str]]:
    """Lists presets, and what they are."""
    return [(name, text) for name, (text, _) in PRESETS.items() if name.startswith(incomplete)]


def complete_task(incomplete: str) -> list[tuple[str, str]]:
    """Lists tasks of this program and of installed packages, and what they are."""
    packaged = dict.fromkeys(entry_points(group="fathom.tasks").names, "")
    return sorted(found for found in (packaged | TASKS).items() if found[0].startswith(incomplete))


def complete_run(incomplete: str) -> list[str]:
    """Lists runs and sweeps under runs/."""
    files = [file for kind in ("config", "sweep") for file in Path("runs").glob(f"*/{kind}.json")]
    return sorted(file.parent.name for file in files if file.parent.name.startswith(incomplete))


def complete_student(incomplete: str) -> list[str]:
    """Lists the sizes of students that runs under runs/ hold; before there are any, the default ones."""
    from pipelines.config import Config

    found = {path.parent.name for path in Path("runs").glob("*/export/*/spec.json")}
    found = found or set(Config().student.sizes)
    return sorted(name for name in found if name.startswith(incomplete))


def complete_policy(incomplete: str) -> list[str]:
    """Lists what of a run can be watched."""
    return [*among("teacher", "student")(incomplete), *complete_student(incomplete)]


def among(*names: str) -> Callable[[str], list[str]]:
    """Returns what completes one of these names."""

    def complete(incomplete: str) -> list[str]:
        return [name for name in names if name.startswith(incomplete)]

    return complete


def complete_field(incomplete: str) -> list[tuple[str, str]]:
    """Lists `group.field=`, and what it is."""
    from pipelines.config import Config, fields, groups

    known = groups(Config()).items()
    named = [(f"{name}.{field}=", told) for name, group in known for field, _, told in fields(group)]
    return [each for each in named if each[0].startswith(incomplete)]


def option(metavar: str | None, help: str, *names: str, complete: Any = None) -> Any:
    """Returns an option that takes a value, or several where its type is a list."""
    return typer.Option(None, *names, metavar=metavar, help=help, autocompletion=complete)


def choice(help: str, *names: str) -> Any:
    """Returns an option that takes one of these names."""
    return option("NAME", f"{help}. One of: {', '.join(names)}", complete=among(*names))


def _seed(help: str) -> Any:
    return typer.Option(None, "--seed", min=0, max=2**31 - 1, help=help)


def argument(metavar: str, help: str) -> Any:
    """Returns an argument that names a run, or what stands for one; it may be left out."""
    return typer.Argument(None, metavar=metavar, help=help, autocompletion=complete_run)


PRESET_NAME = typer.Argument(
    ..., metavar="NAME", help="a preset that `pipeline presets` lists", autocompletion=complete_preset
)
SETTINGS_FILE = option(
    "FILE.toml",
    "read settings from this file; --set overrides it. `presets show NAME --toml` prints one",
    "--config",
)
SET = option("GROUP.FIELD=VALUE", "change one setting; may be repeated", "--set", complete=complete_field)
TRUST = typer.Option(
    False, "--trust", help="execute the task file that the run keeps: this is code of whoever made the run"
)
RESUME = typer.Option(False, "--resume", help="continue where the run stopped; finished work is kept")
RUN = argument("[RUN]", "name or directory of a run. Default: the only run")
RUN_OR_SWEEP = argument("[RUN|SWEEP]", "a run, or a sweep for all its runs. Default: the only run")
STUDENT = option(
    "SIZE",
    "select this student, for example 2x64; the same as --set student.select=SIZE",
    complete=complete_student,
)
PROFILE = choice("add the files for this controller; may be repeated", *PROFILES, "c99:PREFIX")
HELD_OUT_SEED = _seed("use other held-out episodes than the default ones")
TOML = typer.Option(False, "--toml", help="print as a file for --config")


class First(NamedTuple):
    """Options of a command that begins a run, or goes on with one."""

    preset: str | None = option(
        None,
        "named settings of a whole run; `pipeline presets` lists them. Default: quickstart",
        complete=complete_preset,
    )
    task: str | None = option(
        "NAME",
        "what to learn: a task from `pipeline tasks`, your own file.py:NAME, or an arm's file.toml",
        complete=complete_task,
    )
    arm: str | None = option(
        "FILE|menagerie:NAME", "make the task from an arm's MJCF or URDF: its tip learns to reach points"
    )
    tip: str | None = option(
        "NAME", "with --arm: the site or body that should reach the goals. Default: the last one"
    )
    goal: str | None = choice("with --arm: what goals are. Default: point", "point", "pose", "joints")
    teacher: Path | None = option(
        "FILE.onnx", "take this policy as the teacher instead of training one: docs/own-teacher.md"
    )
    config: Path | None = SETTINGS_FILE
    set_: list[str] | None = SET
    seed: int | None = _seed("seed of all random numbers. Default: 0")
    until: str | None = option(
        "KEY=VALUE", "end training when an evaluation reaches this, for example time_at_goal=0.32"
    )
    run: str | None = option(
        "DIR", "name under runs/, or directory. Default: preset and seed", "--run", complete=complete_run
    )
    coordinator: str | None = option(
        "HOST:PORT", "address of the first of several processes; not needed with Slurm or MPI"
    )
    processes: int | None = typer.Option(None, min=1, help="number of processes that train one teacher")
    process: int | None = typer.Option(None, min=0, help="number of this process, from 0")
    trust: bool = TRUST
    resume: bool = RESUME

    def request(self, **own: str | None) -> "Request":
        """Reads what is asked for, and meets the run's other processes."""
        from pipelines.config import requested

        own |= {"task__name": self.task, "evaluate__until": self.until}
        asked = requested(self.preset, self.config, self.set_, **own)
        if self.arm is None:
            refuse("needs --arm", {"--tip": self.tip, "--goal": self.goal})
        else:
            refuse("--arm is a task already", {"--task": self.task})
            _ = asked.config  # refused before a file is written
            from pipelines.catalogue import task_of_arm

            own["task__name"] = task_of_arm(self.arm, self.tip, Display().say, self.goal or "point")
            asked = requested(self.preset, self.config, self.set_, **own)
        distributed.join(self.coordinator, self.processes, self.process)
        return asked

    @contextmanager
    def held(self, asked: "Request") -> Iterator["Run"]:
        """Holds the run, made or opened by the first of its processes; the others find it there."""
        from pipelines import stages
        from pipelines.rundir import open_run, run_path

        usual = f"{asked.base}-seed{self.seed}" if self.seed else asked.base
        path = run_path(usual if self.run is None else self.run)

        def found() -> "Run":
            if self.resume:
                refuse("a run that is resumed has its teacher", {"--teacher": self.teacher})
                return stages.resumed_run(path, asked, self.seed, self.trust)
            return open_run(str(path))

        @contextmanager
        def made() -> Iterator["Run"]:
            if not self.resume:
                refuse("a new run keeps no task file yet; name its file with --task", {"--trust": self.trust})
                stages.new_run(path, asked.config, asked.base, self.seed or 0, self.teacher)
            target = found()
            with target.locked():
                yield target

        with distributed.led(made()) as target:
            yield target or found()


class Later(NamedTuple):
    """Options by which a stage after the teacher changes its settings."""

    preset: str | None = option(
        None, "take the settings of later stages from this preset", "--preset", complete=complete_preset
    )
    config: Path | None = SETTINGS_FILE
    set_: list[str] | None = SET
    seed: int | None = _seed("seed of this stage. Default: the run's")
    resume: bool = RESUME

    def request(self, **own: str | None) -> "Request":
        from pipelines.config import requested

        return requested(self.preset, self.config, self.set_, **own)


class Where(NamedTuple):
    """Options that say what becomes of the code of a run's task."""

    task: str | None = option(
        "FILE.py:NAME", "execute this file for the task's code, in place of the run's copy", "--task"
    )
    trust: bool = TRUST


class HeldOut(NamedTuple):
    """Options that say in which episodes a policy is evaluated."""

    engine: str | None = choice("simulator. Default: as in the run's settings", *ENGINES)
    episodes: int | None = typer.Option(
        None, min=2, max=MOST_EPISODES, help="number of held-out episodes. Default: as in the run's settings"
    )
    seed: int | None = HELD_OUT_SEED


class Driving(NamedTuple):
    """Options by which a policy drives a robot."""

    robot: str | None = choice(
        "drive a robot: a real Franka FR3, a simulated one, or an arm in ROS 2", *ROBOTS
    )
    host: str | None = option("ADDRESS", "address of the robot's controller, for --robot fr3")
    goals: str | None = option(
        "N|X,Y,Z|FILE",
        "N goals drawn as in training, one point, or goals in a file. Default: 10; in ROS 2: as they come",
    )
    seconds: float | None = typer.Option(
        None, min=0.5, max=3600, help="seconds for each goal. Default: 5; where goals arrive in ROS 2: no end"
    )
    allow_far_goals: bool = typer.Option(
        False, "--allow-far-goals", help="accept goals outside the training range, with a warning"
    )
    tool: str | None = option(
        "X,Y,Z", "the point that should reach the goals, m from the flange, in its frame"
    )
    start: str | None = option("Q1,...,Q7", "joint positions at which fr3-sim begins, rad. Default: home")
    remap: list[str] | None = option(
        "NAME:=TOPIC", "another topic for joint_states, goal or commands of ros2; may be repeated"
    )
    base_frame: str | None = option("FRAME", "frame of the robot's base in goals of ros2. Default: base_link")
    log: Path | None = option("FILE.npz", "write the steps on the robot to this file")

    def refuse(self, why: str, fields: Iterable[str]) -> None:
        """Raises UsageError that names those of the options that were given."""
        refuse(why, {f"--{field.replace('_', '-')}": getattr(self, field) for field in fields})

    def drive(self, bundle: Path, seed: int, task: str | None) -> dict[str, Any]:
        """Drives the robot to its goals; returns the figures. UsageError for another robot's options."""
        how: dict[str, Any] = {"log": self.log, "far": self.allow_far_goals, "seed": seed, "task": task}
        if self.robot == "ros2":
            self.refuse("not with --robot ros2", ("host", "tool", "start"))
            from pipelines.robot import ros2

            how |= {"remap": self.remap, "base_frame": self.base_frame}
            return ros2.drive(bundle, Display(), self.goals, self.seconds, **how)
        self.refuse("only with --robot ros2", ("remap", "base_frame"))
        from pipelines.robot.driving import drive

        how |= {"host": self.host, "tool": self.tool, "start": self.start}
        how |= {"goals": self.goals or "10", "seconds": self.seconds or 5.0}
        return drive(bundle, Display(), str(self.robot), **how)
