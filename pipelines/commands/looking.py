"""Commands that show something: runs, bundles, tasks, settings, this machine."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.commands.answering import display, print_figures, refuse, reported
from pipelines.commands.options import (
    App,
    Debug,
    HeldOutSeed,
    Json,
    LaterRun,
    LaterTask,
    PresetName,
    RunArgument,
    RunOrStudy,
    Toml,
    Trust,
)

if TYPE_CHECKING:
    from pipelines.showing import Shown

commands = App()


@commands.command()
def watch(
    target: Annotated[
        str | None, typer.Argument(metavar="[RUN|BUNDLE]", help="not needed if there is only one run")
    ] = None,
    run_option: LaterRun = None,
    policy: Annotated[
        str | None,
        typer.Option(metavar="WHICH", help="of a run: teacher, student or a size. Default: its student"),
    ] = None,
    task: LaterTask = None,
    trust: Trust = False,
    engine: Annotated[str | None, typer.Option(help="simulator; default: as for control")] = None,
    episodes: Annotated[int, typer.Option(min=1, help="held-out episodes")] = 3,
    seed: HeldOutSeed = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="a .gif, .mp4 or .html; default: GIF and page")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Look at a policy's episodes: a film, and a page in which to turn the scene. Needs no display."""
    with reported(debug):
        from pipelines import watching
        from pipelines.progress import printable
        from pipelines.targets import named

        watching.require_suffix(out)
        subject = watching.chosen(named(target, run_option), policy, task, trust)
        files = watching.watch(subject, display(), engine=engine, episodes=episodes, seed=seed, out=out)
        print(
            json.dumps({"written": [str(f) for f in files]})
            if as_json
            else printable("\n".join(map(str, files)))
        )


@commands.command()
def inspect(
    target: Annotated[Path, typer.Argument(metavar="BUNDLE|FILE.onnx", help="what to look into")],
    other: Annotated[
        Path | None, typer.Argument(metavar="[BUNDLE|FILE.onnx]", help="what to compare it with")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say what an exported policy expects, answers and is worth, from its files alone; compare two."""
    with reported(debug):
        from pipelines import inspecting

        first = inspecting.inspect(target)
        if other is None:
            print_figures(first, as_json, inspecting.description)
        else:
            found = inspecting.differences(target, first, other, inspecting.inspect(other))
            print_figures(found, as_json, inspecting.comparison)


@commands.command()
def report(
    run: RunOrStudy = None,
    run_option: LaterRun = None,
    task: LaterTask = None,
    trust: Trust = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a run's or a study's report, one page that opens in any browser."""
    with reported(debug):
        from pipelines.progress import printable
        from pipelines.report import write_report, write_study_report
        from pipelines.request import stand_for
        from pipelines.study import find_study
        from pipelines.targets import existing, named

        name = named(run, run_option)
        if (study := find_study(name)) is not None:
            stand_for(study.all_runs, task, trust)
            page = write_study_report(study)
        else:
            page = write_report(existing(name, None, task, trust))
        print(json.dumps({"report": str(page)}) if as_json else printable(str(page)))


@commands.command()
def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN RUN...", help="run directories or names")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="default: compare.html beside the first run")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show runs side by side, in a table and as a page: what was set differently, and what came of it."""
    with reported(debug):
        from pipelines import side_by_side, tables
        from pipelines.report import write_comparison
        from pipelines.rundir import understood

        opened = side_by_side.opened(runs)
        page = out or next(iter(opened.values())).path.parent / "compare.html"
        with understood(*(each.path for each in opened.values())):
            figures = side_by_side.beside_each_other(opened)
            write_comparison(figures, list(opened.values()), page)
            print_figures(figures | {"page": str(page)}, as_json, tables.side_by_side)


@commands.command()
def tasks(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="of tasks, or path/to/file.py:NAME. Default: all"),
    ] = None,
    table: Annotated[
        bool, typer.Option("--table", help="measure how fast each runs on its engines, here; minutes for all")
    ] = False,
    envs: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="with --table: environments simulated at once")
    ] = 256,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List the tasks and what they ask for; checks your own."""
    with reported(debug):
        from pipelines import catalogue, tables

        progress = display()
        found = catalogue.listed(names or [], progress)
        if table:
            print_figures(catalogue.measure(found, envs, progress), as_json, tables.throughput)
        else:
            print_figures(catalogue.describe(found), as_json, tables.tasks)


presets = App(invoke_without_command=True)
commands.add_typer(presets, name="presets")


@presets.callback()
def list_presets(context: typer.Context, as_json: Json = False, debug: Debug = False) -> None:
    """List the presets; show one."""
    if context.invoked_subcommand is not None:
        return
    with reported(debug):
        from pipelines import tables
        from pipelines.presets import PRESETS

        listed = {
            name: {"description": text, "config": config.model_dump(mode="json")}
            for name, (text, config) in PRESETS.items()
        }
        print_figures(listed, as_json, tables.presets)


@presets.command("show")
def show_preset(name: PresetName, as_toml: Toml = False, as_json: Json = False, debug: Debug = False) -> None:
    """All settings of one preset, and what each of them is."""
    with reported(debug):
        from pipelines import showing

        _print_settings(showing.of_preset(name), as_toml, as_json)


@commands.command()
def config(
    run: RunArgument = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="print the JSON schema of --config, for editors")
    ] = False,
    as_toml: Toml = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """All settings of a run, and what each of them is."""
    with reported(debug):
        from pipelines import settings_file, showing
        from pipelines.rundir import open_run

        if schema:
            refuse("not with --schema", {"RUN": run, "--toml": as_toml or None})
            print(json.dumps(settings_file.schema(), indent=2))
        else:
            _print_settings(showing.of_run(open_run(run)), as_toml, as_json)


@commands.command()
def doctor(as_json: Json = False, debug: Debug = False) -> None:
    """What is installed here and what is missing; tries every part, in about a minute."""
    with reported(debug):
        from pipelines import doctor

        found = doctor.examine(display())
        print_figures(found, as_json, doctor.page)
        doctor.require_sound(found)


def _print_settings(shown: "Shown", as_toml: bool, as_json: bool) -> None:
    from pipelines import showing

    refuse("leave out one of them", {"--toml, --json": (as_toml and as_json) or None})
    if as_toml:
        print(showing.toml(shown), end="")
    else:
        print_figures(showing.described(shown), as_json, showing.table)
