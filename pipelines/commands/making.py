"""Commands that make something: the stages of a run, in their order."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.commands.answering import display, print_figures, refuse, reported
from pipelines.commands.options import (
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
    LaterTask,
    LogFile,
    Pose,
    Preset,
    Process,
    Processes,
    Profiles,
    Resume,
    Robot,
    RunArgument,
    RunOption,
    RunOrStudy,
    Seconds,
    Seed,
    Seeds,
    Set,
    SettingsFile,
    SigningKey,
    Student,
    Task,
    Tool,
    Trust,
    Until,
    Vary,
)

if TYPE_CHECKING:
    from pipelines.study import Study

commands = App()


@commands.command()
def run(
    preset: Preset = None,
    task: Task = None,
    config: SettingsFile = None,
    set_: Set = None,
    seed: Seed = None,
    until: Until = None,
    run: RunOption = None,
    coordinator: Coordinator = None,
    processes: Processes = None,
    process: Process = None,
    student: Student = None,
    trust: Trust = False,
    resume: Resume = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Everything in order: teacher, students, export, control, report."""
    with reported(debug):
        from pipelines import cluster, export_students, stages, tables, teaching
        from pipelines.request import requested
        from pipelines.targets import held_target

        asked = requested(
            preset, config, set_, task__name=task, evaluate__until=until, student__choose=student
        )
        cluster.join(coordinator, processes, process)
        with held_target(run, asked, seed, resume, trust) as target:
            if cluster.is_first():
                summary = stages.run_all(target, display(), resume=resume)
                print_figures(summary, as_json, tables.summary)
                export_students.require_selection(target)
            else:
                teaching.follow(target, resume=resume)


@commands.command()
def teacher(
    preset: Preset = None,
    task: Task = None,
    config: SettingsFile = None,
    set_: Set = None,
    seed: Seed = None,
    depths: Depths = None,
    vary: Vary = None,
    seeds: Seeds = None,
    until: Until = None,
    run: RunOption = None,
    coordinator: Coordinator = None,
    processes: Processes = None,
    process: Process = None,
    trust: Trust = False,
    resume: Resume = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Train the deep teacher; the first stage of a new run.

    With --depths, --vary or --seeds: a study, one ordinary run for every combination, and a page that
    compares them."""
    with reported(debug):
        from pipelines import cluster, tables, teaching
        from pipelines.request import requested
        from pipelines.study import requested_study
        from pipelines.targets import held_target

        asked = requested(preset, config, set_, task__name=task, evaluate__until=until)
        cluster.join(coordinator, processes, process)
        varied = [*([] if depths is None else [f"network.depth={depths}"]), *(vary or [])]
        study = requested_study(run, asked, varied, seed, seeds, resume=resume, trust=trust)
        if study is not None:
            _train_study(study, as_json)
            return
        with held_target(run, asked, seed, resume, trust) as target:
            if cluster.is_first():
                summary = teaching.teach(target, display(), resume=resume)
                print_figures(summary, as_json, tables.score)
            else:
                teaching.follow(target, resume=resume)


@commands.command()
def distill(
    run: RunOrStudy = None,
    preset: LaterPreset = None,
    config: SettingsFile = None,
    set_: Set = None,
    seed: LaterSeed = None,
    run_option: LaterRun = None,
    baselines: Baselines = None,
    task: LaterTask = None,
    trust: Trust = False,
    resume: Resume = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Fit small students to a run's teacher: its policy and its critic. Of a study: to every run's.

    With --baselines, which may also follow when the students are done: what they
    are compared with, each a run in RUN/baselines."""
    with reported(debug):
        from pipelines import tables, train_students
        from pipelines.baselines import distill_with_baselines
        from pipelines.request import requested, stand_for
        from pipelines.study import find_study
        from pipelines.targets import changed_run, changed_study, existing, named

        asked, name = requested(preset, config, set_), named(run, run_option)
        if (study := find_study(name)) is not None:
            from pipelines.sweep import distil_study

            stand_for(study.all_runs, task, trust)
            study = changed_study(study, asked)
            summary = distil_study(study, baselines=baselines, resume=resume, seed=seed)
            _conclude(study, summary, "distill", as_json)
            return
        target = changed_run(existing(name, None, task, trust), asked)
        with target.locked():
            if baselines is None:
                students = train_students.distill(target, display(), resume=resume, seed=seed)
                print_figures(students, as_json, tables.students)
            else:
                figures = distill_with_baselines(target, display(), baselines, resume=resume, seed=seed)
                print_figures(figures, as_json, tables.beside_baselines)


@commands.command()
def export(
    run: RunOrStudy = None,
    preset: LaterPreset = None,
    config: SettingsFile = None,
    set_: Set = None,
    seed: LaterSeed = None,
    student: Student = None,
    profile: Profiles = None,
    sign: SigningKey = None,
    run_option: LaterRun = None,
    task: LaterTask = None,
    trust: Trust = False,
    resume: Resume = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a bundle for each student (ONNX, specification, controller), prove it and judge it.

    Of a study: for the students of every run, and a page that compares them over their teachers."""
    with reported(debug):
        from pipelines import export_students, tables
        from pipelines.request import requested, stand_for
        from pipelines.study import Study, find_study
        from pipelines.targets import changed_run, changed_study, existing, named

        name = named(run, run_option)
        found = find_study(name) or existing(name, None, task, trust)
        # Beside those that are there already; --set export.profiles=... replaces them.
        profiles = ",".join(dict.fromkeys([*found.config.export.profiles, *profile])) if profile else None
        asked = requested(preset, config, set_, student__choose=student, export__profiles=profiles)
        if isinstance(found, Study):
            from pipelines.sweep import export_study

            stand_for(found.all_runs, task, trust)
            study = changed_study(found, asked)
            figures = export_study(study, resume=resume, seed=seed, sign=sign)
            _conclude(study, figures, "export", as_json)
            return
        target = changed_run(found, asked)
        with target.locked():
            summary = export_students.export(target, display(), resume=resume, seed=seed, sign=sign)
        print_figures(summary, as_json, tables.summary)
        export_students.require_selection(target)


@commands.command()
def control(
    bundle: Annotated[
        str | None,
        typer.Argument(metavar="[BUNDLE]", help="a bundle, or a run whose selected bundle to take"),
    ] = None,
    run_option: LaterRun = None,
    task: LaterTask = None,
    trust: Trust = False,
    engine: Engine = None,
    episodes: Episodes = None,
    seed: HeldOutSeed = None,
    robot: Robot = None,
    host: Host = None,
    goals: Goals = None,
    seconds: Seconds = None,
    far: FarGoals = False,
    tool: Tool = None,
    start: Pose = None,
    log: LogFile = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Run an exported policy's controller: in the MuJoCo C engine, by default, or on a robot."""
    with reported(debug):
        from pipelines import stages, tables
        from pipelines.request import stand_for
        from pipelines.targets import existing
        from teacher.errors import UsageError

        folder = Path(bundle or "")
        if bundle is None or not (folder / "spec.json").is_file():
            folder = stages.selected_bundle(existing(bundle, run_option))
        elif run_option is not None:
            raise UsageError(f"a bundle and a run are named: {bundle} and --run {run_option}")
        if trust:
            stand_for(stages.runs_of(folder), task, trust)
        if robot is None:
            options = {
                "--host": host,
                "--goals": goals,
                "--seconds": seconds,
                "--tool": tool,
                "--start": start,
                "--log": log,
            }
            refuse("only with --robot", options | {"--allow-far-goals": far or None})
            figures = stages.control(
                folder, display(), task=task, engine=engine, episodes=episodes, seed=seed
            )
        else:
            from pipelines.robot.driving import drive

            refuse("not with --robot", {"--engine": engine, "--episodes": episodes})
            figures = drive(
                folder,
                display(),
                robot=robot,
                host=host,
                goals=goals or "10",
                seconds=5.0 if seconds is None else seconds,
                far=far,
                tool=tool,
                start=start,
                seed=seed or 0,
                log=log,
                task=task,
            )
        print_figures(figures, as_json, tables.score)


@commands.command()
def evaluate(
    run: RunArgument = None,
    engine: Engine = None,
    episodes: Episodes = None,
    seed: HeldOutSeed = None,
    run_option: LaterRun = None,
    task: LaterTask = None,
    trust: Trust = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Score a run's teacher on held-out starts and goals."""
    with reported(debug):
        from pipelines import stages, tables
        from pipelines.targets import existing

        target = existing(run, run_option, task, trust)
        figures = stages.evaluate(target, engine=engine, episodes=episodes, seed=seed)
        print_figures(figures, as_json, tables.score)


def _conclude(study: "Study", summary: dict[str, Any], stage: str, as_json: bool) -> None:
    """Answers a stage after the teacher that was done in a study's runs."""
    from pipelines import tables
    from pipelines.report import write_study_report
    from pipelines.sweep import require_stage

    display().say(f"report: {write_study_report(study)}")
    print_figures(summary, as_json, tables.study_students)
    require_stage(study, summary, stage)


def _train_study(study: "Study", as_json: bool) -> None:
    from pipelines import tables
    from pipelines.report import write_study_report
    from pipelines.sweep import require_all_finished, train_study

    summary = train_study(study)
    display().say(f"report: {write_study_report(study)}")
    print_figures(summary, as_json, tables.study)
    require_all_finished(summary)
