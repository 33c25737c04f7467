"""The run that a command works in, from what the command line says about it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines import cluster, stages
from pipelines.config import TEACHER_GROUPS, Config, differing
from pipelines.presets import preset as settings_of
from pipelines.progress import Display
from pipelines.request import Request, stand_for, stood_for
from pipelines.rundir import Run, open_run, run_path
from pipelines.study import Study
from student.config import TRAINING_FIELDS
from teacher.errors import UsageError

OF_STUDENTS = {f"student.{field}" for field in TRAINING_FIELDS}


@contextmanager
def held_target(
    name: str | None, asked: Request, seed: int | None, resume: bool, trust: bool = False
) -> Iterator[Run]:
    """`requested_run`, made and locked by the first of a run's processes; the others find it there."""

    target: Run | None = None

    @contextmanager
    def held() -> Iterator[None]:
        nonlocal target
        target = requested_run(name, asked, seed, resume, trust)
        with target.locked():
            yield

    with cluster.led(held()):
        if target is None:
            begun = open_run(str(target_path(name, asked, seed)))
            target = resumed(begun, stood_for(asked, [begun], trust)) if resume else begun
        yield target


def requested_run(
    name: str | None, asked: Request, seed: int | None, resume: bool, trust: bool = False
) -> Run:
    """The run that a first stage works in: new, or with --resume the one that is there.

    With `trust`, the copy of its task file that it keeps is executed."""
    path = target_path(name, asked, seed)
    if resume:
        target = open_run(str(path))
        asked = stood_for(asked, [target], trust)
        target.mend_summary(Display().warn)
        if asked.preset not in (None, target.settings["preset"]) or seed not in (None, target.seed):
            raise UsageError(
                f"{path} was begun with preset {target.settings['preset']} and seed {target.seed}; "
                "resume without --preset and --seed, or name another --run"
            )
        target = resumed(target, asked)
        stages.check(target.config, trained="teacher" in target.summary and target.changed is None)
        return target
    if trust:
        raise UsageError("--trust: a new run keeps no task file yet; name its file with --task")
    return stages.new_run(path, asked.config, asked.base, seed or 0)


def resumed(begun: Run, asked: Request) -> Run:
    """The run as it is to go on: with the settings that it was begun with, or more `collect.total_steps`.

    Raises: UsageError naming the settings that differ."""
    before, after = begun.config, asked.on(begun.config)
    if before == after:
        return begun
    if told := asked.different(before, ("collect.total_steps",)):
        raise UsageError(f"{begun.path} was begun with other settings: {told}")
    steps = after.teacher.collect.total_steps
    if steps < before.teacher.collect.total_steps:
        raise UsageError(
            f"collect.total_steps: found {steps:,}, {begun.path} was begun with "
            f"{before.teacher.collect.total_steps:,}; a run that is resumed can be given more, not fewer"
        )
    if (begun.students / "checkpoints").exists():
        raise UsageError(
            f"collect.total_steps: {begun.path} holds students of its teacher as it is; to train it longer, "
            f"name another --run, or remove {begun.students} and {begun.bundles} first"
        )
    return Run(begun.path, after)


def target_path(name: str | None, asked: Request, seed: int | None) -> Path:
    """Where a first stage's run lies: under the name given, or its preset's and seed's."""
    if name is not None:
        return run_path(name)
    return run_path(f"{asked.base}-seed{seed}" if seed else asked.base)


def existing(argument: str | None, option: str | None, task: str | None = None, trust: bool = False) -> Run:
    """The run that a later stage works in; `task` and `trust` as for `stand_for`."""
    target = open_run(named(argument, option))
    stand_for([target], task, trust)
    return target


def named(argument: str | None, option: str | None) -> str | None:
    """The one name that was given, if any, as an argument or with --run."""
    if argument is not None and option is not None and argument != option:
        raise UsageError(f"two runs are named: {argument} and --run {option}")
    return argument if argument is not None else option


def changed_run(target: Run, asked: Request) -> Run:
    """The run with other settings for the stages after the teacher; nothing is written yet."""
    made = Run(target.path, _after_teacher(target.config, asked))
    _require_possible(made, target.config)
    return target if made.config == target.config else made


def changed_study(study: Study, asked: Request) -> Study:
    """The study with other settings for the stages after the teacher; nothing is written yet.

    Its runs have the study's settings for these stages, also where they had their own.
    Raises: UsageError, as `changed_run` does for one of them."""
    made = Study(study.path, _after_teacher(study.config, asked))
    for before, after in zip(study.members, made.members, strict=True):
        _require_possible(after.run, before.run.config)
    return made


def _after_teacher(before: Config, asked: Request) -> Config:
    """Settings as asked for; UsageError if that would change those of the teacher."""
    config = before
    if asked.preset is not None:
        config = settings_of(asked.preset).model_copy(update={"teacher": before.teacher})
    config = asked.on(config)
    if config.teacher != before.teacher:
        fields = differing(before, config)
        names = ", ".join(field for field in fields if field.partition(".")[0] in TEACHER_GROUPS)
        raise UsageError(f"{names}: the teacher is trained; only later groups can be changed")
    return config


def _require_possible(run: Run, before: Config) -> None:
    """Refuses settings that a run cannot have, or that students it already has were not made with."""
    stages.check(run.config, trained=True)
    names = ", ".join(field for field in differing(before, run.config) if field in OF_STUDENTS)
    if names and (run.students / "checkpoints").exists():
        raise UsageError(f"{names}: {run.path} holds students already, made with other values")
