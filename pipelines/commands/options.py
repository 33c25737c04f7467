"""Options of the command line that several commands share, or that are long to say."""

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from pipelines.commands import completion


class Command(TyperCommand):
    """A command that refuses an option's second value, beside which the first would not count."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        order: list[Any] = self.make_parser(ctx).parse_args(args=list(args))[2]
        for param, count in Counter(order).items():
            takes_one = not (getattr(param, "multiple", False) or getattr(param, "is_flag", False))
            if count > 1 and takes_one and not ctx.resilient_parsing:
                raise typer.BadParameter("it is given twice: leave out one of them", ctx=ctx, param=param)
        return super().parse_args(ctx, args)


class App(typer.Typer):
    """A program of such commands."""

    def command(self, *arguments: Any, **options: Any) -> Any:
        return super().command(*arguments, cls=Command, **options)


Preset = Annotated[
    str | None,
    typer.Option(
        help="named settings; `pipeline presets` lists them. Default: quickstart",
        autocompletion=completion.presets,
    ),
]
PresetName = Annotated[str, typer.Argument(metavar="NAME", autocompletion=completion.presets)]
SettingsFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE.toml",
        help="settings on top of the preset's, below --set; `pipeline presets show NAME --toml` prints one",
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="GROUP.FIELD=VALUE",
        help="change one setting; may be repeated",
        autocompletion=completion.fields,
    ),
]
Task = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="the same as --set task.name=NAME: one of `pipeline tasks`, or your own, path/to/file.py:NAME",
        autocompletion=completion.tasks,
    ),
]
LaterTask = Annotated[
    str | None,
    typer.Option(
        "--task",
        metavar="FILE.py:NAME",
        help="where the task is, if it is code in a file: your file is executed in place of the run's",
    ),
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust", help="execute the copy of a task file that the run keeps: code of whoever made the run"
    ),
]
Seed = Annotated[int | None, typer.Option(min=0, max=2**31 - 1, help="of all randomness. Default: 0")]
RunOption = Annotated[
    str | None,
    typer.Option(
        "--run",
        metavar="DIR",
        help="run directory, or a name under runs/. Default: the preset's name and the seed",
        autocompletion=completion.runs,
    ),
]
RunArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[RUN]",
        help="run directory or name; not needed if there is only one",
        autocompletion=completion.runs,
    ),
]
RunOrStudy = Annotated[
    str | None,
    typer.Argument(
        metavar="[RUN|STUDY]",
        help="directory or name of a run, or of a study for all its runs; not needed if there is only one",
        autocompletion=completion.runs,
    ),
]
LaterPreset = Annotated[
    str | None,
    typer.Option(
        "--preset",
        help="take this preset's settings for the stages after the teacher",
        autocompletion=completion.presets,
    ),
]
LaterSeed = Annotated[
    int | None, typer.Option("--seed", min=0, max=2**31 - 1, help="of this stage. Default: the run's")
]
LaterRun = Annotated[
    str | None,
    typer.Option("--run", metavar="DIR", help="the same as the argument", autocompletion=completion.runs),
]
Vary = Annotated[
    list[str] | None,
    typer.Option(
        metavar="GROUP.FIELD=V1,V2,...", help="one run for each value; repeated, one for each combination"
    ),
]
Depths = Annotated[
    str | None, typer.Option(metavar="D1,D2,...", help="the same as --vary network.depth=D1,D2,...")
]
Until = Annotated[
    str | None,
    typer.Option(
        metavar="KEY=VALUE",
        help="the same as --set evaluate.until=KEY=VALUE: end training once an evaluation reaches this, "
        "for example time_at_goal=0.32",
    ),
]
Seeds = Annotated[str | None, typer.Option(metavar="S1,S2,...", help="one run for each seed")]
Coordinator = Annotated[
    str | None,
    typer.Option(metavar="HOST:PORT", help="where a run's processes meet; not needed under Slurm or MPI"),
]
Processes = Annotated[int | None, typer.Option(min=1, help="how many processes train one teacher together")]
Process = Annotated[int | None, typer.Option(min=0, help="which of them this is, from 0")]
Baselines = Annotated[
    str | None,
    typer.Option(
        metavar="all|NAME,...",
        help="also train what distillation is compared with: direct, direct_long, shallow_actor, cloning, "
        "dagger",
    ),
]
Student = Annotated[
    str | None,
    typer.Option(metavar="SIZE", help="select this student; the same as --set student.choose=SIZE"),
]
Profiles = Annotated[
    list[str] | None,
    typer.Option(
        "--profile",
        metavar="NAME",
        help="add the files of a controller: c99 (c99:PREFIX for other names in C), holosoma, mjlab, ros2, "
        "unitree; may be repeated",
    ),
]
SigningKey = Annotated[
    Path | None,
    typer.Option(
        "--sign",
        metavar="KEY",
        help="sign every bundle with this private key (ed25519, PEM), for load(bundle, trusted=...)",
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="go on where the run stopped; finished work is kept")]
Engine = Annotated[str | None, typer.Option(help="simulator; default: as the run sets it")]


def _bounded(episodes: int | None) -> int | None:
    """Looks the bound up only for a number that was given: it takes what is slow to import."""
    if episodes is not None:
        from teacher.config import MOST_EPISODES

        if episodes > MOST_EPISODES:
            raise typer.BadParameter(f"found {episodes:,}, allowed are at most {MOST_EPISODES:,}")
    return episodes


Episodes = Annotated[
    int | None,
    typer.Option(min=2, callback=_bounded, help="held-out episodes; default: as the run sets it"),
]
HeldOutSeed = Annotated[
    int | None, typer.Option("--seed", min=0, max=2**31 - 1, help="other held-out episodes than every run's")
]
Robot = Annotated[
    str | None,
    typer.Option(metavar="fr3|fr3-sim", help="drive this robot instead: a Franka FR3, or one simulated here"),
]
Host = Annotated[str | None, typer.Option(metavar="ADDRESS", help="of the robot's control, for --robot fr3")]
Goals = Annotated[
    str | None,
    typer.Option(
        metavar="N|X,Y,Z|FILE",
        help="draw N as in training, go to one, or to each line of a file. Default: 10",
    ),
]
Seconds = Annotated[float | None, typer.Option(help="on the robot, for each goal. Default: 5")]
FarGoals = Annotated[
    bool, typer.Option("--allow-far-goals", help="take goals outside the training range, with a warning")
]
Tool = Annotated[
    str | None,
    typer.Option(
        "--tool",
        metavar="X,Y,Z",
        help="the point that goals mean, m from the flange in its frame",
    ),
]
Pose = Annotated[
    str | None, typer.Option("--start", metavar="Q1,...,Q7", help="where fr3-sim begins, rad. Default: home")
]
LogFile = Annotated[
    Path | None, typer.Option("--log", metavar="FILE.npz", help="where every step on the robot is written")
]
Toml = Annotated[bool, typer.Option("--toml", help="print a file that --config takes")]
Json = Annotated[bool, typer.Option("--json", help="print one JSON object for machines")]
Debug = Annotated[
    bool, typer.Option("--debug", help="show the traceback of an error, and what dependencies warn of")
]
