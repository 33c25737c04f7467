"""The commands: one call into the stages each.

Nothing heavy is imported before a command runs, so that --help answers at once.
"""

import shlex
from collections.abc import Iterator
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from pipelines import distributed, options
from pipelines.command import JSON, Answer, Command, command, refuse
from pipelines.options import Driving, First, HeldOut, Later, Where, option
from pipelines.presets import PRESETS
from pipelines.progress import Display
from teacher.errors import UsageError

if TYPE_CHECKING:
    from pipelines.config import Config
    from pipelines.sweep import Sweep

Answers = Iterator[Answer | str]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    help="Trains a deep policy that takes the goal as an input (goal-conditioned) and needs no reward, "
    "distils it into small students, and exports an ONNX policy with a controller for the robot.",
    epilog="Start with: pipeline run --preset quickstart",
    context_settings={"help_option_names": ["-h", "--help"]},
)
presets = typer.Typer(invoke_without_command=True)
answering = command(app.command(cls=Command))


def main() -> None:
    app()


def _say_version(asked: bool) -> None:
    if asked:
        print(f"pipeline {installed_version('fathom-rl')}")
        raise typer.Exit


@app.callback()
def _pipeline(
    version: bool = typer.Option(
        False, "--version", is_eager=True, callback=_say_version, help="print the version"
    ),
) -> None:
    pass


def _next(command: str, place: Path) -> None:
    """Ends a stage: says in which run or sweep it was, and which command comes next."""
    place = place.relative_to(Path.cwd()) if place.is_relative_to(Path.cwd()) else place
    Display().say(f"next: pipeline {command} {shlex.quote(str(place))}")


@answering
def run(first: First, student: str | None = options.STUDENT) -> Answers:
    """Run all stages in order: teacher, distill, export, control, report.

    Example: pipeline run --preset debug --run first --seed 1"""
    with first.held(first.request(student__select=student)) as target:
        from pipelines import all_stages, export_students, tables, train_teacher
        from pipelines.report import verdict

        if distributed.is_first():
            yield all_stages.run_all(target, Display(), resume=first.resume), tables.summary
            Display().say(verdict(target))
            export_students.require_selection(target)
            _next("watch", target.path)
        else:
            train_teacher.follow(target, resume=first.resume)


@answering
def teacher(
    first: First,
    depths: str | None = option(
        "D1,D2,...", "train several depths; the same as --vary network.depth=D1,D2,..."
    ),
    vary: list[str] | None = option(
        "GROUP.FIELD=V1,V2,...", "train one run for each value; if repeated, one for each combination"
    ),
    seeds: str | None = option("S1,S2,...", "train one run for each seed"),
) -> Answers:
    """Train the deep teacher. This is the first stage of a new run.

    With --depths, --vary or --seeds it trains a sweep: one run for every combination, and a page that
    compares them.

    Example: pipeline teacher --preset reacher --set network.depth=16

    Example: pipeline teacher --preset wheel-maze --depths 4,16 --seeds 0,1"""
    if first.teacher is not None:
        swept = {"--depths": depths, "--vary": vary or None, "--seeds": seeds}
        refuse("a sweep trains its teachers, leave out --teacher", swept)
    asked = first.request()
    from pipelines import diagnosis, run_sweep, tables, train_teacher

    varied = [*([f"network.depth={depths}"] if depths is not None else []), *(vary or [])]
    sweep = run_sweep.requested_sweep(first, asked, varied, seeds)
    if sweep is not None:
        yield from _of_sweep(sweep, run_sweep.train_sweep(sweep), "teacher")
        _next("distill", sweep.path)
        return
    with first.held(asked) as target:
        if distributed.is_first():
            yield train_teacher.teach(target, Display(), resume=first.resume), tables.score
            diagnosis.require_learned(target)
            if advice := diagnosis.still_rising(target):
                Display().say(advice)
            _next("distill", target.path)
        else:
            train_teacher.follow(target, resume=first.resume)


@answering
def distill(
    later: Later,
    where: Where,
    run: str | None = options.RUN_OR_SWEEP,
    baselines: str | None = options.choice(
        "also train baselines: one, several (NAME,NAME) or all", "all", *options.BASELINES
    ),
) -> Answers:
    """Distil a run's teacher (policy and critic) into small students.

    Takes a sweep too, for all its runs. With --baselines it also trains what the students are compared
    with, each as a run in RUN/baselines; if the students are finished already, add --resume.

    Example: pipeline distill quickstart --set student.sizes=2x32,2x64"""
    asked = later.request()
    how: dict[str, Any] = {"resume": later.resume, "seed": later.seed}
    from pipelines import run_sweep, stages, tables, train_students
    from pipelines.baselines import distill_with_baselines
    from pipelines.rundir import Run

    target = stages.changed(stages.opened(run, *where), asked)
    if not isinstance(target, Run):
        yield from _of_sweep(target, run_sweep.distill_sweep(target, baselines=baselines, **how), "distill")
    else:
        with target.locked():
            if baselines is None:
                yield train_students.distill(target, Display(), **how), tables.distilled
            else:
                yield distill_with_baselines(target, Display(), baselines, **how), tables.beside_baselines
    _next("export", target.path)


@answering
def export(
    later: Later,
    where: Where,
    run: str | None = options.RUN_OR_SWEEP,
    student: str | None = options.STUDENT,
    profile: list[str] | None = options.PROFILE,
    sign: Path | None = option(
        "KEY", "sign bundles with this ed25519 key (PEM); load(trusted=...) checks the signature"
    ),
) -> Answers:
    """Write a bundle (ONNX, specification, controller) for each student, and evaluate it.

    For a sweep it exports the students of every run, and writes a page that compares them.

    Example: pipeline export quickstart --profile c99 --resume"""
    from pipelines import export_students, run_sweep, stages, tables
    from pipelines.rundir import Run

    target = stages.opened(run, *where)
    # Beside those that are there already; --set export.profiles=... replaces them.
    profiles = ",".join(dict.fromkeys([*target.config.export.profiles, *profile])) if profile else None
    target = stages.changed(target, later.request(student__select=student, export__profiles=profiles))
    how: dict[str, Any] = {"resume": later.resume, "seed": later.seed, "sign": sign}
    if not isinstance(target, Run):
        yield from _of_sweep(target, run_sweep.export_sweep(target, **how), "export")
        _next("report", target.path)
        return
    with target.locked():
        summary = export_students.export(target, Display(), **how)
    yield summary, tables.summary
    export_students.require_selection(target)
    _next("control", target.path)


def _of_sweep(sweep: "Sweep", summary: dict[str, Any], stage: str) -> Answers:
    """Answers a stage that was carried out in a sweep's runs."""
    from pipelines import tables
    from pipelines.report import write_sweep_report
    from pipelines.run_sweep import require_success

    Display().say(f"report: {write_sweep_report(sweep)}")
    yield summary, tables.sweep
    require_success(sweep, summary, stage)


@answering
def control(
    where: Where,
    held_out: HeldOut,
    driving: Driving,
    bundle: str | None = options.argument(
        "[BUNDLE|RUN]", "a bundle, or a run, which stands for its selected bundle"
    ),
    student: str | None = option(
        "SIZE", "of a run, this student instead of the selected one", complete=options.complete_student
    ),
) -> Answers:
    """Run the controller of an exported policy in MuJoCo's C engine, or on a robot.

    Example: pipeline control quickstart --student 2x64

    Example: pipeline control quickstart --robot fr3-sim --goals 5"""
    from pipelines import closed_loop, stages, tables
    from pipelines.rundir import open_run

    folder = Path(bundle or "")
    if bundle is None or not (folder / "spec.json").is_file():
        folder = closed_loop.selected_bundle(open_run(bundle), student)
    elif student is not None:
        raise UsageError("--student: only for a run; a bundle is of one student already")
    if where.trust:
        stages.stand_for(closed_loop.runs_of(folder), where.task, where.trust)
    if driving.robot is None:
        driving.refuse("only with --robot", driving._fields[1:])
        figures = closed_loop.control(folder, Display(), task=where.task, **held_out._asdict())
    else:
        refuse("not with --robot", {"--engine": held_out.engine, "--episodes": held_out.episodes})
        figures = driving.drive(folder, held_out.seed or 0, where.task)
    yield figures, tables.score
    for run in closed_loop.runs_of(folder):
        _next("report", run.path)


@answering
def evaluate(where: Where, held_out: HeldOut, run: str | None = options.RUN) -> Answers:
    """Evaluate a run's teacher on starts and goals that training did not use.

    Example: pipeline evaluate quickstart --engine mujoco --episodes 64"""
    from pipelines import stages, tables

    yield stages.evaluate(stages.trusted_run(run, *where), **held_out._asdict()), tables.score


@answering
def watch(
    where: Where,
    target: str | None = options.argument("[RUN|BUNDLE]", "not needed if there is only one run"),
    policy: str | None = option(
        "teacher|student|SIZE",
        "for a run: which of its policies. Default: student",
        complete=options.complete_policy,
    ),
    engine: str | None = options.choice("simulator. Default: as for control", *options.ENGINES),
    episodes: int = typer.Option(3, min=1, help="number of held-out episodes"),
    seed: int | None = options.HELD_OUT_SEED,
    out: Path | None = option("FILE", "write a .gif, .mp4 or .html. Default: a GIF and a page"),
    live: bool = typer.Option(False, "--live", help="open MuJoCo's viewer instead"),
) -> Answers:
    """Draw a policy's episodes as a GIF and a page, or show them in a window.

    Example: pipeline watch quickstart --policy teacher --out arm.gif"""
    from pipelines import watch as watching

    watching.require_possible(out, live)
    subject = watching.chosen(target, policy, where.task, where.trust)
    files = watching.watch(
        subject, Display(), engine=engine, episodes=episodes, seed=seed, out=out, live=live
    )
    yield {"written": [str(file) for file in files]}, lambda found: "\n".join(found["written"])


@answering
def inspect(
    target: Path = typer.Argument(..., metavar="BUNDLE|FILE.onnx", help="the bundle or file to inspect"),
    other: Path | None = typer.Argument(
        None, metavar="[BUNDLE|FILE.onnx]", help="another one to compare it with"
    ),
) -> Answers:
    """Show what an exported policy expects and how good it is; or compare two.

    Example: pipeline inspect runs/quickstart/export/2x64"""
    from pipelines import inspection

    if other is None:
        yield inspection.inspect(target), inspection.description
    else:
        yield inspection.differences(target, other), inspection.comparison


@answering
def report(where: Where, run: str | None = options.RUN_OR_SWEEP) -> Answers:
    """Write the report of a run or a sweep: one page that opens in any browser.

    Example: pipeline report quickstart"""
    from pipelines import stages
    from pipelines.report import write_report, write_sweep_report
    from pipelines.rundir import Run

    target = stages.opened(run, *where)
    page = write_report(target) if isinstance(target, Run) else write_sweep_report(target)
    yield {"report": str(page)}, lambda found: found["report"]
    if isinstance(target, Run):
        _next("watch", target.path)


@answering
def push(
    target: str = typer.Argument(..., metavar="RUN|BUNDLE", help="the run or the bundle to share"),
    repository: str = typer.Argument(..., metavar="OWNER/NAME", help="where to; made if it does not exist"),
    message: str | None = option("TEXT", "what the commit says"),
    public: bool = typer.Option(False, "--public", help="make a new repository public, not private"),
    dry_run: bool = typer.Option(False, "--dry-run", help="say what would be sent, and send nothing"),
) -> Answers:
    """Upload a run or a bundle to a model hub.

    The hub is Hugging Face, or the one that HF_ENDPOINT names; log in with `hf auth login`.

    Example: pipeline push runs/quickstart/export/2x64 me/franka-reach --dry-run"""
    from pipelines import hub

    def told(found: dict[str, Any]) -> str:
        listed = [*found["files"], f"{found['bytes']:,} bytes; nothing was sent"]
        return "\n".join(listed) if dry_run else str(found["commit"])

    yield hub.push(target, repository, message, public=public, dry_run=dry_run), told


@answering
def pull(
    repository: str = typer.Argument(..., metavar="OWNER/NAME", help="what to bring"),
    revision: str | None = option("COMMIT|TAG", "a version of it. Default: the newest"),
    out: Path | None = option("DIR", "where to. Default: runs/NAME for a run, NAME for a bundle"),
) -> Answers:
    """Download a run or a bundle from a model hub, and check it.

    Nothing in it is executed. A bundle has to be what its hashes and recorded answers say.

    Example: pipeline pull me/franka-reach --out franka"""
    from pipelines import hub

    yield {"pulled": str(hub.pull(repository, revision, out))}, lambda found: found["pulled"]


@answering
def compare(
    runs: list[str] = typer.Argument(
        ..., metavar="RUN RUN...", help="run directories or names", autocompletion=options.complete_run
    ),
    out: Path | None = option("FILE.html", "default: compare.html beside the first run"),
) -> Answers:
    """Compare runs: which settings differ, and how the results differ.

    Example: pipeline compare quickstart quickstart-seed1"""
    from pipelines import tables
    from pipelines.compare import compare_runs, open_runs
    from pipelines.report import write_comparison
    from pipelines.rundir import understood

    opened = open_runs(runs)
    page = out or next(iter(opened.values())).path.parent / "compare.html"
    with understood(*(each.path for each in opened.values())):
        figures = compare_runs(opened) | {"page": str(page)}
        write_comparison(opened, figures, page)
        yield figures, tables.side_by_side


@answering
def tasks(
    names: list[str] | None = typer.Argument(
        None,
        metavar="[NAME]...",
        help="names of tasks, or path/to/file.py:NAME. Default: all, a line each",
        autocompletion=options.complete_task,
    ),
    table: bool = typer.Option(
        False, "--table", help="measure how fast each task runs on this machine; minutes for all"
    ),
    envs: int = typer.Option(256, min=1, max=1_000_000, help="with --table: number of parallel environments"),
) -> Answers:
    """List the tasks; with names, show their inputs and outputs, and check your own task.

    Example: pipeline tasks fr3_reach my_robot.py:MyTask"""
    from pipelines import catalogue, tables

    display = Display()
    found = catalogue.listed(names or [], display)
    if table:
        yield catalogue.measure(found, envs, display), tables.throughput
    else:
        yield catalogue.describe(found), tables.task_details if names else tables.tasks


app.add_typer(presets, name="presets")


@command(presets.callback())
def list_presets(context: typer.Context) -> Answers:
    """List the presets, which are named settings of whole runs, or show one.

    Example: pipeline presets show quickstart --toml"""
    if context.invoked_subcommand is None:
        from pipelines import tables
        from pipelines.config import preset

        found = {
            name: {"description": text, "config": preset(name).model_dump(mode="json")}
            for name, (text, _) in PRESETS.items()
        }
        yield found, tables.presets


@command(presets.command("show", cls=Command))
def show_preset(
    name: str = options.PRESET_NAME, as_toml: bool = options.TOML, as_json: bool = JSON
) -> Answers:
    """Show all settings of a preset, and what each of them means.

    Example: pipeline presets show quickstart"""
    from pipelines.config import preset

    config = preset(name)
    yield _settings(config, name, f"preset {name}: {PRESETS[name][0]}", as_toml, as_json)


@answering
def config(run: str | None = options.RUN, as_toml: bool = options.TOML, as_json: bool = JSON) -> Answers:
    """Show all settings of a run, and what each of them means.

    Example: pipeline config quickstart --toml"""
    from pipelines.rundir import open_run

    target = open_run(run)
    title = f"run {target.path}: made from preset {target.preset}, seed {target.seed}"
    yield _settings(target.config, target.preset, title, as_toml, as_json)


def _settings(config: "Config", base: str, title: str, as_toml: bool, as_json: bool) -> Answer | str:
    from pipelines import config as settings
    from pipelines import tables

    refuse("leave out one of them", {"--toml, --json": as_toml and as_json})
    if as_toml:
        return settings.as_toml(config, base, title)
    return settings.as_json(config, base, title), tables.settings


@answering
def doctor(as_json: bool = JSON) -> Answers:
    """Check the installation: is anything missing, does every part work? One minute.

    Example: pipeline doctor --json"""
    from pipelines import doctor

    found = doctor.examine(Display())
    yield found, doctor.page
    doctor.require_sound(found)
