"""The run that a command works in: a new one, one to go on with, or one whose later settings change."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import jax

from export.targets import require_targets
from pipelines.catalogue import warn_of_slips
from pipelines.config import TEACHER_GROUPS, Config, Request, differing, groups, preset, require_config
from pipelines.files import JSON
from pipelines.presets import DEFAULT
from pipelines.progress import Display
from pipelines.rundir import Run, create_run, open_run, require_run
from pipelines.sweep import Sweep, find_sweep
from pipelines.train_students import teacher_of
from pipelines.training import require_trackers
from student.config import TRAINING_FIELDS
from student.labels import label_bytes
from teacher.errors import UsageError, unknown_name
from teacher.learner import require_devices, require_windows
from teacher.memory import require_episodes_fit, require_fit, require_host_memory
from teacher.policy_file import PolicyFile, read_graph
from teacher.rollout import randomised, require_randomisable
from teacher.tasks import execute, is_file, make_task
from teacher.tasks.engines import ENGINES, engines_of
from teacher.train import reevaluate

Target = TypeVar("Target", bound=Run | Sweep)
# Settings that say how many episodes run side by side.
SIMULATED = {
    "evaluate": ["episodes"],
    "student": ["episodes", "robustness_episodes", "envs"],
    "control": ["episodes"],
}


def check(config: Config, *, trained: bool = False) -> None:
    """Refuses names that no task or engine has, physics that cannot be randomised as asked, and a teacher
    still to be trained that the devices here cannot divide or hold, before anything is created.

    Warns of what looks like a slip in the user's own task that a teacher is still to be trained in."""
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
    for group, names in SIMULATED.items():
        for name in names:
            require_episodes_fit(f"{group}.{name}", getattr(groups(config)[group], name), task.spec)
    kept = student.rounds * student.envs * task.spec.episode_length
    row = label_bytes(task.spec, config.teacher.network.repr_dim)
    require_host_memory("student.rounds * student.envs * steps of an episode", kept, kept * row)
    if not trained:
        warn_of_slips(config.teacher.task.name)
        require_devices(config.teacher, jax.devices())
        require_windows(config.teacher, task.spec.episode_length)
        require_fit(config.teacher, task.spec, jax.device_count())


def new_run(
    path: Path | str, config: Config, preset: str = DEFAULT, seed: int = 0, policy: Path | None = None
) -> Run:
    """Creates a run directory with its settings; `preset` is what the command that repeats it begins with.

    Args: policy: an ONNX file that is the teacher, in place of one to be trained.
    Raises: UsageError for settings that `check` refuses, a policy that does not fit the task, and if the path
    exists; nothing is written then."""
    require_config(config, "new_run")
    check(config, trained=policy is not None)
    if policy is None:
        return create_run(Path(path), config, preset, seed)
    graph = read_graph(policy)
    PolicyFile.of(graph, config.teacher, str(policy))
    return create_run(Path(path), config, preset, seed, graph)


def resumed_run(path: Path, asked: Request, seed: int | None, trust: bool = False) -> Run:
    """Returns the run that a first stage goes on with: as it was begun, or with more `collect.total_steps`.

    With `trust`, the copy of its task file that it keeps is executed.
    Raises: UsageError naming the settings that differ."""
    begun = open_run(str(path))
    asked = stood_for(asked, [begun], trust)
    begun.mend_summary(Display().warn)
    if asked.preset not in (None, begun.preset) or seed not in (None, begun.seed):
        raise UsageError(
            f"{path} was begun with preset {begun.preset} and seed {begun.seed}; "
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
    is_trained = "teacher" in target.summary and target.changed is None
    check(target.config, trained=is_trained or begun.policy_file.exists())
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


def opened(name: str | None, task: str | None, trust: bool) -> Run | Sweep:
    """Opens the sweep of that name, or else the run; `task` and `trust` as for `stand_for`."""
    target = find_sweep(name) or open_run(name)
    stand_for(target.all_runs, task, trust)
    return target


def trusted_run(name: str | None, task: str | None, trust: bool) -> Run:
    """Opens the run of that name, or the only one; `task` and `trust` as for `stand_for`."""
    run = open_run(name)
    stand_for([run], task, trust)
    return run


def stood_for(asked: Request, runs: Iterable[Run], trust: bool) -> Request:
    """Does as `stand_for`; returns what else is asked of runs to resume, whose task file may have moved."""
    runs, task = list(runs), asked.assigned.get("task.name")
    if not trust and not all(map(is_file, (str(task), *(run.task for run in runs)))):
        return asked
    stand_for(runs, task, trust)
    return asked._replace(assigned={name: v for name, v in asked.assigned.items() if name != "task.name"})


def evaluate(
    run: Run, *, engine: str | None = None, episodes: int | None = None, seed: int | None = None
) -> JSON:
    """Scores the teacher on held-out starts and goals, without touching the run."""
    require_run(run, "evaluate")
    if episodes is not None:
        require_episodes_fit("--episodes", episodes, make_task(run.task).spec)
    return reevaluate(teacher_of(run), episodes, engine, seed)
