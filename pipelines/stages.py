"""The run that a command works in, and the stages that only look: control and evaluate.

Of a command line's request: a new run, one to go on with, or one whose later settings change."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax

from export.controller import Controller, ControllerError
from export.controller import load as load_controller
from export.targets import require_targets
from pipelines import closed_loop
from pipelines.closed_loop import controller_errors
from pipelines.config import TEACHER_GROUPS, Config, ControlConfig, Request, differing, preset
from pipelines.files import require_own_files
from pipelines.presets import DEFAULT
from pipelines.progress import QUIET, Display
from pipelines.render import keep
from pipelines.rundir import Run, create_run, open_run
from pipelines.sweep import Sweep
from pipelines.tracking import require_trackers
from student.config import TRAINING_FIELDS
from student.labels import label_bytes
from teacher.config import TaskConfig, TeacherConfig
from teacher.errors import FathomError, UsageError, unknown_name
from teacher.evaluate import evaluation_layout
from teacher.learner import require_devices
from teacher.memory import require_episodes_fit, require_fit, require_host_memory
from teacher.rollout import randomised, require_randomisable, simulation
from teacher.tasks import Task, execute, is_file, make_task, task_names
from teacher.tasks.engines import ENGINES, engines_of
from teacher.tasks.validation import require_same
from teacher.train import load_teacher, reevaluate

JSON = dict[str, Any]
Target = TypeVar("Target", bound=Run | Sweep)


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
    if config.student.select is not None and config.student.select not in config.student.sizes:
        raise unknown_name("student.select", config.student.select, config.student.sizes)
    require_targets(config.export.profiles, task.spec)
    require_randomisable(task, config.teacher.task.engine or task.engines[0], randomised(config.teacher))
    student = config.student
    simulated = {
        "evaluate.episodes": config.teacher.evaluate.episodes,
        "student.episodes": student.episodes,
        "student.robustness_episodes": student.robustness_episodes,
        "student.envs": student.envs,
        "control.episodes": config.control.episodes,
    }
    for setting, episodes in simulated.items():
        require_episodes_fit(setting, episodes, task.spec)
    kept = student.rounds * student.envs * task.spec.episode_length
    row = label_bytes(task.spec, config.teacher.network.repr_dim)
    require_host_memory("student.rounds * student.envs * steps of an episode", kept, kept * row)
    if not trained:
        require_devices(config.teacher, jax.devices())
        require_fit(config.teacher, task.spec, jax.device_count())


def new_run(path: Path | str, config: Config, preset: str = DEFAULT, seed: int = 0) -> Run:
    """Creates a run directory with its settings; `preset` is what the command that repeats it begins with.

    Raises: UsageError for settings that `check` refuses, and if the path exists; nothing is written then."""
    check(config)
    return create_run(Path(path), config, preset, seed)


def resumed_run(path: Path, asked: Request, seed: int | None, trust: bool = False) -> Run:
    """Returns the run that a first stage goes on with: as it was begun, or with more `collect.total_steps`.

    With `trust`, the copy of its task file that it keeps is executed.
    Raises: UsageError naming the settings that differ."""
    begun = open_run(str(path))
    asked = stood_for(asked, [begun], trust)
    begun.mend_summary(Display().warn)
    if asked.preset not in (None, begun.settings["preset"]) or seed not in (None, begun.seed):
        raise UsageError(
            f"{path} was begun with preset {begun.settings['preset']} and seed {begun.seed}; "
            "resume without --preset and --seed, or name another --run"
        )
    before = begun.config
    if told := asked.different(before, "collect.total_steps"):
        raise UsageError(f"{path} was begun with other settings: {told}")
    target = begun if asked.on(before) == before else Run(path, asked.on(before))
    steps, had = (each.teacher.collect.total_steps for each in (target.config, before))
    if steps < had:
        raise UsageError(
            f"collect.total_steps: found {steps:,}, {path} was begun with {had:,}; a run that is resumed "
            "can be given more, not fewer"
        )
    if steps > had and (begun.students / "checkpoints").exists():
        raise UsageError(
            f"collect.total_steps: {path} holds students of its teacher as it is; to train it longer, "
            f"name another --run, or remove {begun.students} and {begun.bundles} first"
        )
    check(target.config, trained="teacher" in target.summary and target.changed is None)
    return target


def changed(target: Target, asked: Request) -> Target:
    """Returns a run or sweep with other settings for the stages after the teacher; nothing is written yet.

    Runs of a sweep have its settings for these stages, also where they had their own.
    Raises: UsageError for settings of the teacher, those that `check` refuses, and those that students which
    are there already were not made with."""
    before = config = target.config
    if asked.preset is not None:
        config = preset(asked.preset).model_copy(update={"teacher": before.teacher})
    config = asked.on(config)
    names = [name for name in differing(before, config) if name.partition(".")[0] in TEACHER_GROUPS]
    if names:
        raise UsageError(f"{', '.join(names)}: the teacher is trained; only later groups can be changed")
    made = replace(target, changed=config)
    for old, run in zip(target.all_runs, made.all_runs, strict=True):
        check(run.config, trained=True)
        training = {f"student.{field}" for field in TRAINING_FIELDS}
        fields = ", ".join(name for name in differing(old.config, run.config) if name in training)
        if fields and (run.students / "checkpoints").exists():
            raise UsageError(f"{fields}: {run.path} holds students already, made with other values")
    return target if isinstance(target, Run) and config == before else made


def stand_for(runs: Iterable[Run], task: str | None, trust: bool) -> None:
    """Lets the runs' task be executed if it is code in a file: that of `task`, or with `trust` their copy.

    Raises: UsageError if both are given, or if the task is in no file."""
    if task is not None and trust:
        raise UsageError(f"--task {task} and --trust are both given: leave out one of them")
    for run in runs if task is not None or trust else ():
        if is_file(run.task):
            chosen = run.kept_task() if task is None else task
            execute(chosen, run.task)
            Display().say(f"the task is the code in {chosen}")
            if task is not None and run.keeps_other_task(task):
                Display().warn(f"{task} is not what {run.path} began with: results may differ")
        elif task not in (None, run.task):
            raise UsageError(f"--task {task}: {run.path} is of the task {run.task}")


def trusted_run(name: str | None, task: str | None, trust: bool) -> Run:
    """Opens the run of that name, or the only one; `task` and `trust` as for `stand_for`."""
    run = open_run(name)
    stand_for([run], task, trust)
    return run


def stood_for(asked: Request, runs: Iterable[Run], trust: bool) -> Request:
    """Does as `stand_for`; returns what else is asked of runs to resume, whose task file may have moved."""
    task = next((str(each.value) for each in asked.assigned if each.name == "task.name"), None)
    runs = list(runs)
    if not trust and (task is None or not is_file(task) or not all(is_file(run.task) for run in runs)):
        return asked
    stand_for(runs, task, trust)
    return asked._replace(assigned=tuple(each for each in asked.assigned if each.name != "task.name"))


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
    """Returns the run that a bundle lies in, if it does."""
    run = Run(bundle.resolve().parent.parent)
    return [run] if bundle.resolve() == run.bundles / bundle.name and run.is_there else []


class Opened(NamedTuple):
    """A bundle with the settings that it is run by."""

    controller: Controller
    run: Run | None  # in which the bundle lies
    config: TeacherConfig
    settings: ControlConfig


def opened(bundle: Path, task: str | None = None) -> Opened:
    """Loads and checks a bundle; FathomError if it, or its task, is not sound.

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
        name = task or controller.spec["name"]
        if task is None and name not in task_names():
            raise UsageError(
                f"{bundle} is for task {name!r}, which is not installed: "
                "say in which file it is with --task path/to/file.py:NAME"
            )
        config = config.model_copy(update={"task": TaskConfig(name=name)})
    task_spec = {key: value for key, value in controller.spec.items() if key != "inputs"}  # made of the rest
    require_same(str(bundle), task_spec, make_task(config.task.name).spec)
    settings = run.config.control if run else ControlConfig()
    return Opened(controller, run, config, settings)


def control_engine(task: Task, settings: ControlConfig) -> str:
    """Returns the simulator that stands in for the robot: as set, or the C engine if the task runs there."""
    return settings.engine or ("mujoco" if "mujoco" in task.engines else task.engines[-1])


def selected_bundle(run: Run) -> Path:
    """Returns the bundle of the student that export marked; UsageError if nothing is exported yet."""
    selected: str | None = run.summary.get("selected")
    if selected is None:
        raise UsageError(f"{run.path} holds no exported student yet: first comes pipeline export {run.path}")
    return run.bundles / selected


def evaluate(
    run: Run, *, engine: str | None = None, episodes: int | None = None, seed: int | None = None
) -> JSON:
    """Scores the teacher on held-out starts and goals, without touching the run."""
    if episodes is not None:
        require_episodes_fit("--episodes", episodes, make_task(run.task).spec)
    return reevaluate(load_teacher(run.checkpoints), episodes, engine, seed)
