"""The command line: one call into the stages each, results on standard output.

Nothing heavy is imported before a command runs, so that --help answers at once.
"""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.options import (
    App,
    Baselines,
    Coordinator,
    Debug,
    Depths,
    Engine,
    Episodes,
    FarGoals,
    Goals,
    HeldOutSeed,
    Host,
    Json,
    LaterPreset,
    LaterRun,
    LaterSeed,
    LogFile,
    Pose,
    Preset,
    PresetName,
    Process,
    Processes,
    Profiles,
    Resume,
    Robot,
    RunArgument,
    RunOption,
    Seconds,
    Seed,
    Seeds,
    Set,
    SettingsFile,
    Student,
    Task,
    Toml,
    Vary,
)

if TYPE_CHECKING:
    from pipelines.showing import Shown
    from pipelines.study import Study

app = App(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    help="Trains a deep goal-conditioned teacher without rewards, distils it into students of a few "
    "layers, and exports an ONNX policy that a robot controller loads.",
    epilog="Start with: pipeline run --preset quickstart",
)


@app.command()
def run(
    preset: Preset = None,
    task: Task = None,
    config: SettingsFile = None,
    set_: Set = None,
    seed: Seed = None,
    run: RunOption = None,
    coordinator: Coordinator = None,
    processes: Processes = None,
    process: Process = None,
    student: Student = None,
    resume: Resume = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Everything in order: teacher, students, export, control, report."""
    with _reported(debug):
        from pipelines import cluster, exporting, stages, tables, teaching
        from pipelines.request import requested
        from pipelines.targets import held_target

        asked = requested(preset, config, set_, task__name=task, student__choose=student)
        cluster.join(coordinator, processes, process)
        with held_target(run, asked, seed, resume) as target:
            if cluster.is_first():
                summary = stages.run_all(target, _display(), resume=resume)
                _print(summary, as_json, tables.summary)
                exporting.require_selection(target)
            else:
                teaching.follow(target, resume=resume)


@app.command()
def teacher(
    preset: Preset = None,
    task: Task = None,
    config: SettingsFile = None,
    set_: Set = None,
    seed: Seed = None,
    depths: Depths = None,
    vary: Vary = None,
    seeds: Seeds = None,
    run: RunOption = None,
    coordinator: Coordinator = None,
    processes: Processes = None,
    process: Process = None,
    resume: Resume = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Train the deep teacher; the first stage of a new run.

    With --depths, --vary or --seeds: a study, one ordinary run for every combination, and a page that
    compares them."""
    with _reported(debug):
        from pipelines import cluster, tables, teaching
        from pipelines.request import requested
        from pipelines.study import requested_study
        from pipelines.targets import held_target

        asked = requested(preset, config, set_, task__name=task)
        cluster.join(coordinator, processes, process)
        varied = [*([] if depths is None else [f"network.depth={depths}"]), *(vary or [])]
        study = requested_study(run, asked, varied, seed, seeds, resume=resume)
        if study is not None:
            _train_study(study, as_json)
            return
        with held_target(run, asked, seed, resume) as target:
            if cluster.is_first():
                summary = teaching.teach(target, _display(), resume=resume)
                _print(summary, as_json, tables.score)
            else:
                teaching.follow(target, resume=resume)


@app.command()
def distill(
    run: RunArgument = None,
    preset: LaterPreset = None,
    config: SettingsFile = None,
    set_: Set = None,
    seed: LaterSeed = None,
    run_option: LaterRun = None,
    baselines: Baselines = None,
    resume: Resume = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Fit small students to a run's teacher: its policy and its critic.

    With --baselines, which may also follow when the students are done: the same network made otherwise."""
    with _reported(debug):
        from pipelines import distilling, tables
        from pipelines.baselines import distil_beside
        from pipelines.request import requested
        from pipelines.targets import changed_run, existing

        target = changed_run(existing(run, run_option), requested(preset, config, set_))
        with target.locked():
            if baselines is None:
                students = distilling.distil(target, _display(), resume=resume, seed=seed)
                _print(students, as_json, tables.students)
            else:
                figures = distil_beside(target, _display(), baselines, resume=resume, seed=seed)
                _print(figures, as_json, tables.beside_baselines)


@app.command()
def export(
    run: RunArgument = None,
    preset: LaterPreset = None,
    config: SettingsFile = None,
    set_: Set = None,
    seed: LaterSeed = None,
    student: Student = None,
    profile: Profiles = None,
    run_option: LaterRun = None,
    resume: Resume = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a bundle for each student (ONNX, specification, controller), prove it and judge it."""
    with _reported(debug):
        from pipelines import exporting, tables
        from pipelines.request import requested
        from pipelines.targets import changed_run, existing

        profiles = ",".join(profile) if profile else None
        asked = requested(preset, config, set_, student__choose=student, export__profiles=profiles)
        target = changed_run(existing(run, run_option), asked)
        with target.locked():
            summary = exporting.export(target, _display(), resume=resume, seed=seed)
        _print(summary, as_json, tables.summary)
        exporting.require_selection(target)


@app.command()
def control(
    bundle: Annotated[
        str | None,
        typer.Argument(metavar="[BUNDLE]", help="a bundle, or a run whose selected bundle to take"),
    ] = None,
    run_option: LaterRun = None,
    task: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="where the task is, if it is not installed: path/to/file.py:NAME"),
    ] = None,
    engine: Engine = None,
    episodes: Episodes = None,
    seed: HeldOutSeed = None,
    robot: Robot = None,
    host: Host = None,
    goals: Goals = None,
    seconds: Seconds = None,
    far: FarGoals = False,
    start: Pose = None,
    log: LogFile = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Run an exported policy's controller: in the MuJoCo C engine, by default, or on a robot."""
    with _reported(debug):
        from pipelines import stages, tables
        from pipelines.targets import existing
        from teacher.errors import UsageError

        folder = Path(bundle or "")
        if bundle is None or not (folder / "spec.json").is_file():
            folder = stages.selected_bundle(existing(bundle, run_option))
        elif run_option is not None:
            raise UsageError(f"a bundle and a run are named: {bundle} and --run {run_option}")
        if robot is None:
            options = {"--host": host, "--goals": goals, "--seconds": seconds, "--start": start, "--log": log}
            _refuse("only with --robot", options | {"--allow-far-goals": far or None})
            figures = stages.control(
                folder, _display(), task=task, engine=engine, episodes=episodes, seed=seed
            )
        else:
            from pipelines.robot.driving import drive

            _refuse("not with --robot", {"--engine": engine, "--episodes": episodes})
            figures = drive(
                folder,
                _display(),
                robot=robot,
                host=host,
                goals=goals or "10",
                seconds=5.0 if seconds is None else seconds,
                far=far,
                start=start,
                seed=seed or 0,
                log=log,
                task=task,
            )
        _print(figures, as_json, tables.score)


@app.command()
def watch(
    target: Annotated[
        str | None, typer.Argument(metavar="[RUN|BUNDLE]", help="not needed if there is only one run")
    ] = None,
    run_option: LaterRun = None,
    policy: Annotated[
        str | None,
        typer.Option(metavar="WHICH", help="of a run: teacher, student or a size. Default: its student"),
    ] = None,
    task: Annotated[
        str | None, typer.Option(metavar="NAME", help="where a bundle's task is: path/to/file.py:NAME")
    ] = None,
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
    with _reported(debug):
        from pipelines import watching
        from pipelines.targets import named

        watching.require_suffix(out)
        subject = watching.chosen(named(target, run_option), policy, task)
        files = watching.watch(subject, _display(), engine=engine, episodes=episodes, seed=seed, out=out)
        print(json.dumps({"written": [str(f) for f in files]}) if as_json else "\n".join(map(str, files)))


@app.command()
def inspect(
    target: Annotated[Path, typer.Argument(metavar="BUNDLE|FILE.onnx", help="what to look into")],
    other: Annotated[
        Path | None, typer.Argument(metavar="[BUNDLE|FILE.onnx]", help="what to compare it with")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say what an exported policy expects, answers and is worth, from its files alone; compare two."""
    with _reported(debug):
        from pipelines import inspecting

        first = inspecting.inspect(target)
        if other is None:
            _print(first, as_json, inspecting.description)
        else:
            found = inspecting.differences(target, first, other, inspecting.inspect(other))
            _print(found, as_json, inspecting.comparison)


@app.command()
def evaluate(
    run: RunArgument = None,
    engine: Engine = None,
    episodes: Episodes = None,
    seed: HeldOutSeed = None,
    run_option: LaterRun = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Score a run's teacher on held-out starts and goals."""
    with _reported(debug):
        from pipelines import stages, tables
        from pipelines.targets import existing

        target = existing(run, run_option)
        figures = stages.evaluate(target, engine=engine, episodes=episodes, seed=seed)
        _print(figures, as_json, tables.score)


@app.command()
def report(
    run: RunArgument = None, run_option: LaterRun = None, as_json: Json = False, debug: Debug = False
) -> None:
    """Write a run's or a study's report, one page that opens in any browser."""
    with _reported(debug):
        from pipelines.report import write_report, write_study_report
        from pipelines.study import find_study
        from pipelines.targets import existing, named

        name = named(run, run_option)
        study = find_study(name)
        page = write_report(existing(name, None)) if study is None else write_study_report(study)
        print(json.dumps({"report": str(page)}) if as_json else page)


@app.command()
def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN RUN...", help="run directories or names")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="default: compare.html beside the first run")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show runs side by side, in a table and as a page: what was set differently, and what came of it."""
    with _reported(debug):
        from pipelines import side_by_side, tables
        from pipelines.report import write_comparison

        opened = side_by_side.opened(runs)
        figures = side_by_side.beside_each_other(opened)
        page = out or next(iter(opened.values())).path.parent / "compare.html"
        write_comparison(figures, list(opened.values()), page)
        _print(figures | {"page": str(page)}, as_json, tables.side_by_side)


@app.command()
def tasks(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="of tasks, or path/to/file.py:NAME. Default: all"),
    ] = None,
    table: Annotated[
        bool, typer.Option("--table", help="measure how fast each runs on its engines, here; minutes for all")
    ] = False,
    envs: Annotated[int, typer.Option(min=1, help="with --table: environments simulated at once")] = 256,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List the tasks and what they ask for; checks your own."""
    with _reported(debug):
        from pipelines import catalogue, tables

        display = _display()
        found = catalogue.listed(names or [], display)
        if table:
            _print(catalogue.measure(found, envs, display), as_json, tables.throughput)
        else:
            _print(catalogue.describe(found), as_json, tables.tasks)


presets = App(invoke_without_command=True)
app.add_typer(presets, name="presets")


@presets.callback()
def list_presets(context: typer.Context, as_json: Json = False, debug: Debug = False) -> None:
    """List the presets; show one."""
    if context.invoked_subcommand is not None:
        return
    with _reported(debug):
        from pipelines import tables
        from pipelines.presets import PRESETS

        listed = {
            name: {"description": text, "config": config.model_dump(mode="json")}
            for name, (text, config) in PRESETS.items()
        }
        _print(listed, as_json, tables.presets)


@presets.command("show")
def show_preset(name: PresetName, as_toml: Toml = False, as_json: Json = False, debug: Debug = False) -> None:
    """All settings of one preset, and what each of them is."""
    with _reported(debug):
        from pipelines import showing

        _print_settings(showing.of_preset(name), as_toml, as_json)


@app.command()
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
    with _reported(debug):
        from pipelines import settings_file, showing
        from pipelines.rundir import open_run

        if schema:
            _refuse("not with --schema", {"RUN": run, "--toml": as_toml or None})
            print(json.dumps(settings_file.schema(), indent=2))
        else:
            _print_settings(showing.of_run(open_run(run)), as_toml, as_json)


@app.command()
def doctor(as_json: Json = False, debug: Debug = False) -> None:
    """What is installed here and what is missing; tries every part, in about a minute."""
    with _reported(debug):
        from pipelines import doctor

        found = doctor.examine(_display())
        _print(found, as_json, doctor.page)
        doctor.require_sound(found)


def _refuse(why: str, options: dict[str, Any]) -> None:
    from teacher.errors import UsageError

    if given := [name for name, value in options.items() if value is not None]:
        raise UsageError(f"{', '.join(given)}: {why}")


def _display() -> Any:
    from pipelines.progress import Display

    return Display()


def _print(figures: dict[str, Any], as_json: bool, table: Callable[[dict[str, Any]], Any]) -> None:
    if as_json:
        print(json.dumps(figures))
        return
    from rich.console import Console

    Console().print(table(figures))


def _print_settings(shown: "Shown", as_toml: bool, as_json: bool) -> None:
    from pipelines import showing

    _refuse("leave out one of them", {"--toml, --json": (as_toml and as_json) or None})
    if as_toml:
        print(showing.toml(shown), end="")
    else:
        _print(showing.described(shown), as_json, showing.table)


def _train_study(study: "Study", as_json: bool) -> None:
    from pipelines import tables
    from pipelines.report import write_study_report
    from pipelines.sweep import require_all_finished, train_study

    summary = train_study(study)
    _display().say(f"report: {write_study_report(study)}")
    _print(summary, as_json, tables.study)
    require_all_finished(summary)


@contextmanager
def _reported(debug: bool) -> Iterator[None]:
    """Errors as one message: exit code 2 for a wrong request, 1 for a failure, 130 for an interruption."""
    from pipelines import cluster
    from pipelines.interrupt import sigterm_as_ctrl_c
    from pipelines.quiet import quiet
    from teacher.errors import FathomError

    try:
        with quiet(everything=debug), sigterm_as_ctrl_c(), cluster.failing_together():
            yield
    except KeyboardInterrupt:
        print("interrupted; what was finished is kept, and stages go on with --resume", file=sys.stderr)
        raise typer.Exit(130) from None
    except (FathomError, OSError) as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(getattr(error, "exit_code", 1)) from None


def main() -> None:
    app()
