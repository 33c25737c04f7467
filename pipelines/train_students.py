"""The stage of distillation: a run's teacher in, its students out."""

from functools import partial

import jax

from pipelines.files import JSON
from pipelines.progress import QUIET, Display
from pipelines.rundir import Run, require_run
from pipelines.training import training
from student.checkpoint import load_student, restore_state, save_state, save_students
from student.config import StudentConfig
from student.distill import Distiller
from student.networks import parameter_count
from teacher import checkpoint
from teacher.errors import FathomError, UsageError
from teacher.policy_file import AnyTeacher, load_policy
from teacher.train import Teacher, confirm, load_teacher, reevaluate, require_finite

CRITIC_LOSSES = [
    f"critic/{term}_loss" for term in ("preference", "gradient", "features", "goal_features", "distance")
]
STREAM = 1  # folded into the key of the run's seed, which is the teacher's own


def distill(run: Run, display: Display = QUIET, *, resume: bool = False, seed: int | None = None) -> JSON:
    """Fits the students to the run's teacher; returns their part of the summary."""
    require_run(run, "distill")
    config, folder = run.config.student, run.students / "checkpoints"
    if not resume and folder.exists():
        raise UsageError(f"{run.students} holds students already: add --resume, or start a new run")
    begun, chosen = (run.stage_seed("students", asked, resume) for asked in (None, seed))
    if resume and folder.exists() and chosen != begun:
        raise UsageError(f"--seed {seed}: these students were begun with seed {begun}")
    if resume:
        run.mend_summary(display.warn)
    teacher = teacher_of(run)
    if isinstance(teacher, Teacher):
        score, form = confirm(teacher), "teacher confirmed: at its goals {:.1f} % of the time, as stored"
    else:  # a policy file, with which no score is stored
        score, form = reevaluate(teacher), "teacher evaluated: at its goals {:.1f} % of the time"
    display.say(form.format(100 * score["time_at_goal"]))
    distiller = Distiller(config, teacher)
    warn_of_larger_students(distiller, display)
    if resume and checkpoint.saves(folder):
        try:
            state = restore_state(folder, distiller)
        except FathomError as error:
            remedy = f"remove {run.students}, and pipeline distill {run.path} writes them again"
            raise FathomError(f"{error}; {remedy}") from error
        display.say(f"students: going on from round {int(state.round)} of {config.rounds}")
        run.continue_stage("students", display.warn)
    else:
        run.begin_stage("students", teacher.source, chosen)
        state = distiller.init(jax.random.fold_in(jax.random.key(chosen), STREAM))
    labels = config.envs * teacher.spec.episode_length  # of a round
    done, interval_s = int(state.round), teacher.config.checkpoint.interval_s
    groups = {"action_error": [f"{size}/action_error" for size in config.sizes], "critic": CRITIC_LOSSES}
    shown = {"unit": "labels", "each": labels, "groups": groups}
    with training(run, "students", display, done, config.rounds, interval_s, **shown) as stage:
        while done < config.rounds:
            state, device_metrics = distiller.iterate(state)
            done = int(state.round)
            metrics = {key: float(value) for key, value in device_metrics.items()}
            require_finite(metrics, f"round {done}")
            stage.record(done, {"round": done, "labels": done * labels, "env_steps": done * labels}, metrics)
            save = partial(save_state, folder, distiller, state)
            due = done == config.rounds or stage.timer.due()
            stage.save(save, f"round {done}", due=due, stop=stage.signals.requested)
    # Of each size, the best seed.
    kept = distiller.best_seeds(state) if config.seeds > 1 else dict.fromkeys(config.sizes, (0, []))
    save_students(run.students, distiller, state, {name: seed for name, (seed, _) in kept.items()})
    effort = {"wall_s": stage.wall_s, "labels": config.rounds * labels, "env_steps": config.rounds * labels}
    students: JSON = {}
    for name, (seed_kept, times) in kept.items():
        parameters = parameter_count(load_student(run.students / name).params.policy)
        seeds = {"seed_kept": seed_kept, "time_at_goal_of_seeds": times} if times else {}
        students[name] = {"parameters": parameters, **effort, **seeds}
    run.update_summary({"students": students})
    return students


def warn_of_larger_students(distiller: Distiller, display: Display) -> None:
    """Warns of students that were asked for and are no smaller than their teacher: seldom what was meant."""
    if distiller.config.sizes == StudentConfig().sizes:  # which fit teachers of any size
        return
    of_teacher = distiller.teacher.actor_parameters
    shapes = jax.eval_shape(distiller.init, jax.random.key(0)).ensemble
    for name, policy in zip(distiller.config.sizes, shapes.policies, strict=True):
        count = parameter_count(policy) // distiller.config.seeds
        if count >= of_teacher:
            display.warn(
                f"student {name} is no smaller than its teacher: {count:,} parameters, the "
                f"teacher's actor has {of_teacher:,}"
            )


def teacher_of(run: Run) -> AnyTeacher:
    """Loads the run's teacher; FathomError if there is none."""
    if run.policy_file.exists():
        return load_policy(run.policy_file, run.config.teacher)
    if not checkpoint.saves(run.checkpoints):
        raise FathomError(
            f"no checkpoint in {run.checkpoints}: first comes pipeline teacher --run {run.path} --resume"
        )
    return load_teacher(run.checkpoints)
