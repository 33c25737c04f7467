"""Baselines of a run's students: each an ordinary run in baselines/NAME, scored on the same episodes."""

import shutil
from functools import cache, partial
from pathlib import Path

import jax

from pipelines import stages
from pipelines.config import Config
from pipelines.files import JSON, new_folder, read_json, write_json
from pipelines.progress import Display
from pipelines.rundir import Run, create_run
from pipelines.train_students import distill
from pipelines.train_teacher import teach
from student import baselines
from student.checkpoint import TrainedStudent, load_student
from student.config import TRAINING_FIELDS
from student.evaluate import ReferenceEpisodes, retention
from student.networks import act, parameter_count
from teacher.config import TeacherConfig
from teacher.errors import FathomError, UsageError
from teacher.evaluate import mean_interval, summarise
from teacher.rollout import SensingPolicy, all_seeing, on_robot
from teacher.tasks import make_task
from teacher.train import load_teacher


def distill_with_baselines(
    run: Run, display: Display, names: str, *, resume: bool, seed: int | None = None
) -> JSON:
    """Fits the students unless that is done, then trains and scores the baselines of these names.

    Baselines that `resume` finds finished are kept, others are gone on with.
    Returns: `students` and `baselines` of the summary. Raises: UsageError, before anything is computed, for
    an unknown name, baselines that are there already and more than the budget allows."""
    asked, size = baselines.parse_names(names), _size(run)
    folders = {name: run.path / "baselines" / name for name in asked}
    for folder in folders.values():
        if folder.exists() and not resume:
            raise UsageError(f"{folder} holds a baseline already: add --resume, or remove it")
    if run.policy_file.exists():
        raise UsageError(f"--baselines: the teacher of {run.path} was not trained here, which they repeat")
    teacher = run.summary.get("teacher")
    if teacher is None:
        raise FathomError(
            f"{run.path} holds no finished teacher: first comes pipeline teacher --run {run.path} --resume"
        )
    length = make_task(run.task).spec.episode_length
    waiting = [name for name in asked if not _is_scored(run, folders[name])]
    baselines.require_budget(waiting, teacher, run.config.student, length)
    configs = {name: _config(folder, run.config, size) for name, folder in folders.items()}
    for name, folder in folders.items():
        if folder.exists() and _decisive(Run(folder).config) != _decisive(configs[name]):
            raise UsageError(f"{folder} was begun with other settings: remove it to begin anew")
    distill(run, display, resume=resume or "students" in run.summary, seed=seed)
    student = load_student(run.students / size)
    basis: JSON = {
        "size": size,
        "episodes": run.config.student.episodes,
        "teacher_sha256": student.teacher_source,
        "student_sha256": student.source,
    }
    reference = cache(lambda: ReferenceEpisodes.of(load_teacher(run.checkpoints), basis["episodes"]))
    of_student = cache(lambda: reference().run(_policy(student))[0])
    for name, folder in folders.items():
        if _is_scored(run, folder, basis):
            display.say(f"kept {folder}")
            continue
        policy, effort = _train(run, folder, configs[name], size)
        found, _ = reference().run(policy)
        gain = of_student().time_at_goal - found.time_at_goal  # in the same episodes
        figures = {
            **basis,
            "student_parameters": parameter_count(student.params.policy),
            **effort,
            **summarise(found, reference().layout),
            **retention(found, reference().outcomes),
            "student_gain": float(gain.mean()),
            "student_gain_interval": list(mean_interval(gain)),
        }
        run.update_summary({"baselines": {name: figures}})
        display.say(f"baseline {name}: {figures['time_at_goal']:.3f} of its time at the goal")
    summary = run.summary
    if sentence := baselines.conclusion(summary["baselines"]):
        display.say(sentence)
    return {key: summary[key] for key in ("students", "baselines")}


def _decisive(config: Config) -> tuple[TeacherConfig, JSON]:
    """Returns the settings that decide what a baseline becomes."""
    return config.teacher, config.student.model_dump(include=TRAINING_FIELDS)


def _size(run: Run) -> str:
    """Returns the size of the baselines already there, so that all are alike; else of the selected, or first,
    student."""
    summary = run.summary
    for name, figures in summary.get("baselines", {}).items():
        if (run.path / "baselines" / name).exists():
            return figures["size"]
    return summary.get("selected") or run.config.student.sizes[0]


def _is_scored(run: Run, folder: Path, basis: JSON | None = None) -> bool:
    """Tells whether a baseline is finished; with a basis, also whether it was scored on that."""
    figures = run.summary.get("baselines", {}).get(folder.name)
    return folder.exists() and figures is not None and figures.items() >= (basis or {}).items()


def _config(folder: Path, config: Config, size: str) -> Config:
    """Returns a baseline's settings, refused where they do not run on the devices here.

    Those of `direct_long` have the teacher's number of steps until it is begun."""
    name = folder.name
    if name in baselines.TRAINED:
        teacher = baselines.teacher_config(name, config.teacher, size)
        if name == "direct_long" and folder.exists():
            begun = Run(folder).config.teacher.collect.iterations
            teacher = baselines.with_iterations(teacher, begun)
        made = config.model_copy(update={"teacher": teacher})
        stages.check(made)
        return made
    return config.model_copy(update={"student": baselines.student_config(name, config.student, size)})


def _train(run: Run, folder: Path, config: Config, size: str) -> tuple[SensingPolicy, JSON]:
    """Trains a baseline in its own run, or goes on with it; returns its policy, and what it cost."""
    name = folder.name
    if folder.exists():
        made = Run(folder)
    elif name == "direct_long":
        made = _prolonged(Run(folder.with_name("direct")), folder, run.summary["teacher"]["wall_s"])
    else:
        made = create_run(folder, config, run.preset, run.seed)
    display = Display(f"baseline {name}")
    with made.locked():
        if name in baselines.TRAINED:
            found = teach(made, display, resume=True)
            agent = load_teacher(made.checkpoints)
            effort = {key: found[key] for key in ("env_steps", "wall_s")}
            effort |= {"parameters": parameter_count(agent.params.actor)}
            return all_seeing(agent.policy()), effort
        link = folder / "teacher"
        if not link.is_symlink():
            link.symlink_to(Path("..", "..", "teacher"))  # relative, so that a run can be moved
        effort = distill(made, display, resume=True)[size]
        return _policy(load_student(made.students / size)), effort


def _prolonged(direct: Run, folder: Path, wall_s: float) -> Run:
    """Copies a finished teacher's run, to be trained further until it has taken about `wall_s` seconds.

    How many iterations that is follows from its own pace so far; from then on it is a setting, so that the
    copy can be resumed like any run."""
    iterations = baselines.iterations_within(wall_s, direct.metrics("teacher"))
    config = direct.config
    teacher = baselines.with_iterations(config.teacher, iterations)
    settings = {"config": config.model_copy(update={"teacher": teacher}).model_dump(mode="json")}
    # Figures are of the shorter training; trackers begin a record of their own.
    left_out = shutil.ignore_patterns("summary.json", "*.lock", "*.html", "tensorboard", "wandb*")
    with new_folder(folder) as partial:
        shutil.copytree(direct.path, partial, ignore=left_out, dirs_exist_ok=True)
        for stage in (partial, partial / "teacher"):
            write_json(stage / "config.json", read_json(stage / "config.json") | settings)
    return Run(folder)


def _policy(student: TrainedStudent) -> SensingPolicy:
    return on_robot(partial(jax.jit(act), student.params))
