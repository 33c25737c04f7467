"""The run that a command works in, from what the command line says about it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines import cluster, stages
from pipelines.config import TEACHER_GROUPS, with_values
from pipelines.presets import DEFAULT
from pipelines.presets import preset as settings_of
from pipelines.progress import Display
from pipelines.rundir import Run, open_run, run_path
from student.config import TRAINING_FIELDS
from teacher.errors import UsageError


@contextmanager
def held_target(
    name: str | None, preset: str | None, assignments: list[str] | None, seed: int | None, resume: bool
) -> Iterator[Run]:
    """`requested_run`, made and locked by the first of a run's processes; the others find it there."""

    @contextmanager
    def held() -> Iterator[None]:
        with requested_run(name, preset, assignments, seed, resume).locked():
            yield

    with cluster.led(held()):
        yield open_run(str(target_path(name, preset, seed)))


def requested_run(
    name: str | None, preset: str | None, assignments: list[str] | None, seed: int | None, resume: bool
) -> Run:
    """The run that a first stage works in: new, or with --resume the one that is there."""
    path = target_path(name, preset, seed)
    if resume:
        target = open_run(str(path))
        target.mend_summary(Display().say)
        if preset not in (None, target.settings["preset"]) or seed not in (None, target.seed):
            raise UsageError(
                f"{path} was begun with preset {target.settings['preset']} and seed {target.seed}; "
                "resume without --preset and --seed, or name another --run"
            )
        if assignments and with_values(target.config, assignments) != target.config:
            raise UsageError(
                f"{path} was begun with other settings; resume without --set, or name another --run"
            )
        stages.check(target.config, trained="teacher" in target.summary)
        return target
    chosen = preset or DEFAULT
    config = with_values(settings_of(chosen), assignments or [])
    return stages.new_run(path, config, chosen, seed or 0)


def with_value(assignments: list[str] | None, field: str, value: str | None) -> list[str]:
    """The assignments of --set, and after them one that has an option of its own, if that is given."""
    return [*(assignments or []), *([] if value is None else [f"{field}={value}"])]


def target_path(name: str | None, preset: str | None, seed: int | None) -> Path:
    """Where a first stage's run lies: under the name given, or its preset's and seed's."""
    chosen = preset or DEFAULT
    return run_path(name or (f"{chosen}-seed{seed}" if seed else chosen))


def existing(argument: str | None, option: str | None) -> Run:
    """The run that a later stage works in."""
    return open_run(named(argument, option))


def named(argument: str | None, option: str | None) -> str | None:
    """The one name that was given, if any, as an argument or with --run."""
    if argument is not None and option is not None and argument != option:
        raise UsageError(f"two runs are named: {argument} and --run {option}")
    return argument if argument is not None else option


def changed_run(target: Run, preset: str | None, assignments: list[str] | None) -> Run:
    """The run with other settings for the stages after the teacher; nothing is written yet."""
    before = target.config
    config = before
    if preset is not None:
        config = settings_of(preset).model_copy(update={"teacher": before.teacher})
    for assignment in assignments or []:
        if assignment.partition(".")[0].strip() in TEACHER_GROUPS:
            raise UsageError(f"--set {assignment}: the teacher is trained; only later groups can be changed")
    config = with_values(config, assignments or [])
    stages.check(config, trained=True)
    if config == before:
        return target
    changed = [f for f in sorted(TRAINING_FIELDS) if getattr(config.student, f) != getattr(before.student, f)]
    if changed and (target.students / "checkpoints").exists():
        names = ", ".join(f"student.{field}" for field in changed)
        raise UsageError(f"{names}: {target.path} holds students already, made with other values")
    return Run(target.path, config)
