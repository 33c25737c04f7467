"""The stages: a run directory in, an artifact out. Each reads what the one before wrote."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax

from export.controller import Controller, ControllerError
from export.controller import load as load_controller
from export.graph import load_converters
from export.targets import require_targets
from pipelines import closed_loop
from pipelines.closed_loop import controller_errors
from pipelines.config import Config, ControlConfig
from pipelines.export_students import export
from pipelines.presets import DEFAULT
from pipelines.progress import QUIET, Display
from pipelines.render import is_kept, keep
from pipelines.rundir import Run, create_run, require_own_files
from pipelines.teaching import teach
from pipelines.tracking import require_trackers
from pipelines.train_students import distill
from student.labels import label_bytes
from teacher.config import TaskConfig, TeacherConfig
from teacher.errors import FathomError, UsageError, unknown_name
from teacher.evaluate import evaluation_layout
from teacher.learner import require_devices
from teacher.memory import require_episodes_fit, require_fit, require_host_memory
from teacher.rollout import randomised, require_randomisable, simulation
from teacher.tasks import MujocoTask, Task, make_task, task_names
from teacher.tasks.engines import ENGINES, engines_of
from teacher.tasks.validation import require_same
from teacher.train import load_teacher, reevaluate

JSON = dict[str, Any]
CONTROLLED = {"controller": ("latency_us_p50", "latency_us_p99", "missed_deadlines")}
_BACKGROUND = ThreadPoolExecutor(max_workers=2, thread_name_prefix="prepare")


def check(config: Config, *, trained: bool = False) -> None:
    """Refuses names that no task or engine has, physics that cannot be randomised as asked, and a teacher
    still to be trained that the devices here cannot divide or hold, before anything is created."""
    require_trackers(config.track)
    task = make_task(config.teacher.task.name)
    trains_in = [name for name in engines_of(task) if ENGINES[name].compiled]
    asked = (
        ("task.engine", config.teacher.task.engine, trains_in),
        ("task.layout", config.teacher.task.layout, task.layouts),
        ("evaluate.layout", config.teacher.evaluate.layout, task.layouts),
        ("control.engine", config.control.engine, engines_of(task)),
    )
    for field, name, allowed in asked:
        if name is not None and name not in allowed:
            raise unknown_name(f"{field} for task {task.spec.name!r}", name, allowed)
    if config.student.choose is not None and config.student.choose not in config.student.sizes:
        raise unknown_name("student.choose", config.student.choose, config.student.sizes)
    require_targets(config.export.profiles, task.spec)
    require_randomisable(task, config.teacher.task.engine or task.engines[0], randomised(config.teacher))
    student = config.student
    for setting, episodes in (
        ("evaluate.episodes", config.teacher.evaluate.episodes),
        ("student.episodes", student.episodes),
        ("student.robustness", student.robustness),
        ("student.envs", student.envs),
        ("control.episodes", config.control.episodes),
    ):
        require_episodes_fit(setting, episodes, task.spec)
    kept = student.rounds * student.envs * task.spec.episode_length
    row = label_bytes(task.spec, config.teacher.network.representation)
    require_host_memory("student.rounds * student.envs * steps of an episode", kept, kept * row)
    if not trained:
        require_devices(config.teacher, jax.devices())
        require_fit(config.teacher, task.spec, jax.device_count())


def new_run(path: Path | str, config: Config, preset: str = DEFAULT, seed: int = 0) -> Run:
    """A new run directory with its settings; `preset` is what the command that repeats it begins with.

    Raises: UsageError for settings that `check` refuses, and if the path exists; nothing is written then."""
    check(config)
    return create_run(Path(path), config, preset, seed)


def control(
    bundle: Path,
    display: Display = QUIET,
    *,
    task: str | None = None,
    engine: str | None = None,
    episodes: int | None = None,
    seed: int | None = None,
) -> JSON:
    """Runs a bundle's controller in closed loop; returns its figures.

    As the run of the bundle sets it, if it lies in one and nothing else is asked for; figures and a
    recording of the first episodes are then kept there. `task` is needed for a bundle outside a run
    whose task is not one of `task_names`."""
    bundle = bundle.resolve()
    with controller_errors():
        controller, run, config, settings = opened(bundle, task)
        made = make_task(config.task.name)
        if episodes is not None:
            require_episodes_fit("--episodes", episodes, made.spec)
        usual = (control_engine(made, settings), settings.episodes, None)
        asked = (engine or usual[0], episodes or usual[1], seed)
        if asked[0] not in engines_of(made):
            raise unknown_name(f"engine for task {made.spec.name!r}", asked[0], engines_of(made))
        display.say(f"{asked[1]} episodes of {bundle.name} in {asked[0]}")
        robot, layout = simulation(config.task.name, asked[0]), evaluation_layout(config)
        figures, recording = closed_loop.control(controller, robot, layout, episodes=asked[1], seed=seed)
    figures["student_sha256"] = controller.provenance.get("checkpoint_sha256")
    if run and asked == usual:
        folder = run.path / "control" / bundle.name
        folder.mkdir(parents=True, exist_ok=True)
        shown = run.summary.get("selected") in (None, bundle.name)  # in the report
        keep(folder, recording, display.say, drawn=shown)
        run.update_summary({"control": {bundle.name: figures}})
    return figures


def runs_of(bundle: Path) -> list[Run]:
    """The run that a bundle lies in, if it does."""
    run = Run(bundle.resolve().parent.parent)
    return [run] if bundle.resolve() == run.bundles / bundle.name and run.is_there else []


class Opened(NamedTuple):
    """A bundle with the settings that it is run by."""

    controller: Controller
    run: Run | None  # in which the bundle lies
    config: TeacherConfig
    settings: ControlConfig


def opened(bundle: Path, task: str | None = None) -> Opened:
    """The bundle, checked; FathomError if it, or its task, is not sound.

    `task` is needed as for `control`."""
    bundle = bundle.resolve()
    run = next(iter(runs_of(bundle)), None)
    if run:
        require_own_files(run.path)
    try:
        controller = load_controller(bundle)
    except ControllerError as error:
        remedy = f"; pipeline export {run.path} --resume writes it again" if run else ""
        raise FathomError(f"{bundle}: {error}{remedy}") from error
    config = run.config.teacher if run else TeacherConfig()
    if task or not run:
        found = TaskConfig(name=task or _known_task(bundle, controller.spec["name"]))
        config = config.model_copy(update={"task": found})
    require_same(str(bundle), controller.spec, make_task(config.task.name).spec)
    settings = run.config.control if run else ControlConfig()
    return Opened(controller, run, config, settings)


def _known_task(bundle: Path, name: str) -> str:
    """The name, if a task has it here; UsageError if only a file can have it."""
    if name not in task_names():
        raise UsageError(
            f"{bundle} is for task {name!r}, which is not installed: "
            "say in which file it is with --task path/to/file.py:NAME"
        )
    return name


def control_engine(task: Task, settings: ControlConfig) -> str:
    """The simulator that stands in for the robot: as set, or the C engine where the task runs there."""
    return settings.engine or ("mujoco" if "mujoco" in task.engines else task.engines[-1])


def selected_bundle(run: Run) -> Path:
    """The bundle of the student that export marked; UsageError if nothing is exported yet."""
    selected: str | None = run.summary.get("selected")
    if selected is None:
        raise UsageError(f"{run.path} holds no exported student yet: first comes pipeline export {run.path}")
    return run.bundles / selected


def evaluate(
    run: Run, *, engine: str | None = None, episodes: int | None = None, seed: int | None = None
) -> JSON:
    """The teacher's score on held-out starts and goals, without touching the run."""
    if episodes is not None:
        require_episodes_fit("--episodes", episodes, make_task(run.task).spec)
    return reevaluate(load_teacher(run.checkpoints), episodes, engine, seed)


def run_all(run: Run, display: Display = QUIET, *, resume: bool = False) -> JSON:
    """Every stage that is not done yet, in order; returns the summary."""
    begun, before = time.monotonic(), run.summary.get("wall_s", 0.0)
    _BACKGROUND.submit(load_converters)
    try:
        teach(run, display, resume=resume)
        distill(run, display, resume=resume)
        export(run, display, resume=resume)
        left = [n for n in run.config.student.sizes if not (resume and _is_controlled(run, n))]
        with display.bar("control", len(left), piece="students", groups=CONTROLLED) as bar:
            for number, name in enumerate(left, 1):
                bar.note = name
                figures = control(run.bundles / name, display)
                bar.update(number, figures, figures)
    except BaseException:
        with suppress(FathomError):  # of a disk that is full: what stopped the run says so
            run.update_summary({"wall_s": before + time.monotonic() - begun})
        raise
    run.update_summary({"wall_s": before + time.monotonic() - begun})
    from pipelines.report import write_report  # matplotlib, which no other stage needs

    page = write_report(run)
    display.say(f"report: {page}")
    return run.summary


def _is_controlled(run: Run, name: str) -> bool:
    figures, config = run.summary.get("control", {}).get(name, {}), run.config.control
    exported = run.summary["export"][name]["student_sha256"]
    found = (figures.get("student_sha256"), figures.get("engine"), figures.get("episodes"))
    task = make_task(run.config.teacher.task.name)
    done = found == (exported, control_engine(task, config), config.episodes)
    return done and is_kept(run.path / "control" / name, drawn=isinstance(task, MujocoTask))
