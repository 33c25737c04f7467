"""The stages: a run directory in, an artifact out. Each reads what the one before wrote."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax

from export.bundle import write_bundle
from export.controller import Controller, ControllerError
from export.controller import load as load_controller
from export.graph import load_converters
from pipelines import closed_loop
from pipelines.config import Config
from pipelines.interrupt import Interrupted, SaveTimer, deferred_interrupt
from pipelines.judging import Yardstick, own_experience
from pipelines.progress import Display
from pipelines.rundir import Run, write_json
from student import assess
from student.distill import Distiller
from student.networks import act, critic_distance, parameter_count
from student.saved import TrainedStudent, load_student, save_students
from student.saved import restore_state as restore_distillation
from student.saved import save_state as save_distillation
from teacher import checkpoint
from teacher.errors import FathomError, UsageError, unknown_name
from teacher.evaluate import evaluation_starts, run_episodes, summarise
from teacher.learner import Learner
from teacher.spec import TaskSpec
from teacher.tasks import make_task
from teacher.train import Diverged, require_finite, restore_state, save_state, train
from teacher.trained import Teacher, confirm, load_teacher, reevaluate

JSON = dict[str, Any]
_BACKGROUND = ThreadPoolExecutor(max_workers=2, thread_name_prefix="prepare")


def check(config: Config) -> None:
    """Refuses names that no task or engine has, before anything is created."""
    task = make_task(config.teacher.task.name)
    for field, engine in (
        ("task.engine", config.teacher.task.engine),
        ("control.engine", config.control.engine),
    ):
        if engine is not None and engine not in task.engines:
            raise unknown_name(f"{field} for task {task.spec.name!r}", engine, task.engines)


def teach(run: Run, display: Display, *, resume: bool) -> JSON:
    """Trains the teacher, or goes on with it; returns its summary."""
    config = run.config.teacher
    learner = Learner(config)
    run.begin_stage("teacher", None)
    if resume and checkpoint.saves(run.checkpoints):
        start, evaluation = restore_state(run.checkpoints, learner)
        display.say(f"going on from iteration {int(start.iteration)} of {config.collect.iterations}")
    else:
        start, evaluation = learner.init(jax.random.key(run.seed)), None
    held_out = evaluation_starts(learner.simulation, config.evaluate.episodes)
    # Compiled beside the learner's own functions, which leave other cores idle.
    ready = _BACKGROUND.submit(learner.simulation.prepare, config.evaluate.episodes)
    total, per_iteration = config.collect.iterations, config.collect.envs * config.collect.steps
    done = int(start.iteration)
    run.rewind_metrics("teacher", done)
    clock = _Clock(run.metrics("teacher"))
    timer = SaveTimer(config.checkpoint.interval_s)
    with (
        deferred_interrupt() as interruption,
        display.bar("teacher", total * per_iteration, done * per_iteration) as bar,
    ):
        for state, metrics in _with_last_save(train(learner, start), run):
            done = int(state.iteration)
            evaluation = None
            if done % config.evaluate.every == 0 or done == total:
                ready.result()
                evaluation = summarise(
                    run_episodes(learner.simulation, learner.policy(state.params), held_out)[0]
                )
            env_steps = int(state.replay.written) * config.collect.envs
            line = {"iteration": done, "env_steps": env_steps, "wall_s": clock.read(), **metrics}
            run.append_metrics("teacher", line | ({"evaluation": evaluation} if evaluation else {}))
            shown = {key: metrics[key] for key in ("critic_accuracy", "actor_loss", "saturation")}
            bar.update(done * per_iteration, shown, evaluation)
            if done == total or timer.due() or interruption.requested:
                with timer.saving():
                    save_state(run.checkpoints, learner, state, evaluation)
            if interruption.requested and done < total:
                raise Interrupted(f"stopped and saved after iteration {done}; go on with --resume")
    last = run.metrics("teacher")[-1]
    summary = {
        "depth": config.network.depth,
        "width": config.network.width,
        "env_steps": last["env_steps"],
        "wall_s": last["wall_s"],
        **(evaluation or {}),
    }
    engine = learner.simulation.engine_name
    run.update_summary({"task": learner.spec.name, "engine": engine, "seed": run.seed, "teacher": summary})
    return summary


def _with_last_save(epochs: Iterator[Any], run: Run) -> Iterator[Any]:
    """Adds to a divergence where the run can be taken up again."""
    try:
        yield from epochs
    except Diverged as error:
        saved = checkpoint.saves(run.checkpoints)
        last = f"the last good save is of iteration {saved[0]}" if saved else "nothing was saved before"
        raise Diverged(f"training diverged: {error}; {last}") from error


def distil(run: Run, display: Display, *, resume: bool, seed: int | None = None) -> JSON:
    """Fits the students to the run's teacher; returns their part of the summary."""
    config = run.config.student
    teacher = load_teacher(run.checkpoints)
    folder = run.students / "checkpoints"
    if not resume and folder.exists():
        raise UsageError(f"{run.students} holds students already: add --resume, or start a new run")
    score = confirm(teacher)
    display.say(f"teacher confirmed: {score['time_at_goal']:.3f} of its time at the goal")
    distiller = Distiller(config, teacher)
    run.begin_stage("students", teacher.source)
    if resume and checkpoint.saves(folder):
        state = restore_distillation(folder, distiller)
        display.say(f"going on from round {int(state.round)} of {config.rounds}")
    else:
        state = distiller.init(jax.random.key(run.seed if seed is None else seed))
    per_round = config.envs * teacher.spec.episode_length
    run.rewind_metrics("students", int(state.round))
    clock = _Clock(run.metrics("students"))
    timer = SaveTimer(teacher.config.checkpoint.interval_s)
    with (
        deferred_interrupt() as interruption,
        display.bar("students", config.rounds * per_round, int(state.round) * per_round, "labels") as bar,
    ):
        while int(state.round) < config.rounds:
            state, device_metrics = distiller.iterate(state)
            done = int(state.round)
            metrics = {key: float(value) for key, value in device_metrics.items()}
            require_finite(metrics, f"round {done}")
            line = {"round": done, "labels": done * per_round, "wall_s": clock.read(), **metrics}
            run.append_metrics("students", line)
            bar.update(done * per_round, metrics)
            if done == config.rounds or timer.due() or interruption.requested:
                with timer.saving():
                    save_distillation(folder, distiller, state)
            if interruption.requested and done < config.rounds:
                raise Interrupted(f"stopped and saved after round {done}; go on with --resume")
    save_students(run.students, distiller, state)
    wall_s = run.metrics("students")[-1]["wall_s"]
    students = {
        name: {"parameters": parameter_count(student.policy), "wall_s": wall_s}
        for name, student in zip(config.sizes, state.students, strict=True)
    }
    run.update_summary({"students": students})
    return students


def export(run: Run, display: Display, *, resume: bool, seed: int | None = None) -> JSON:
    """Exports every student, judges the files in closed loop beside the teacher, selects one."""
    config = run.config
    teacher = load_teacher(run.checkpoints)
    students = [_student_of(run, teacher, name) for name in config.student.sizes]
    measure = Yardstick.of(teacher, config.student.episodes)
    run.begin_stage("export", teacher.source)
    for student in students:
        if resume and _is_exported(run, student):
            display.say(f"kept {run.bundles / student.name}")
            continue
        figures = _export_student(run, measure, student, run.seed if seed is None else seed)
        run.update_summary(figures)
        parity = figures["export"][student.name]["parity_max_error"]
        display.say(f"exported {run.bundles / student.name}: agrees with JAX to {parity:.1e}")
    threshold = config.student.retention
    assessments = {student.name: run.summary["students"][student.name] for student in students}
    selected, passes = assess.select(assessments, threshold)
    if not passes:
        display.say(
            f"[yellow]no student surely keeps {threshold:g} of the teacher's time at goal; "
            f"{selected} comes nearest[/yellow]"
        )
    run.update_summary({"selected": selected, "selected_passes": passes})
    return {key: run.summary[key] for key in ("students", "export", "selected", "selected_passes")}


def _export_student(run: Run, measure: Yardstick, student: TrainedStudent, seed: int) -> JSON:
    """Writes one bundle; returns what it adds to the summary."""
    params, config = student.params, run.config
    judged = {"critic": measure.critic(params)}

    def judge(controller: Controller) -> JSON:
        judged.update(measure.closed_loop(controller))
        return _card_facts(student.spec, judged)

    verification = write_bundle(
        run.bundles / student.name,
        student.spec,
        lambda observation, goal: act(params, observation, goal),
        lambda observation, action, goal: critic_distance(params, observation, action, goal),
        *own_experience(measure.simulation, params, seed, config.student.envs, config.export.observations),
        provenance=_provenance(student, measure.teacher, seed),
        judge=judge,
    )
    policy, flat, distance = (verification[name] for name in ("policy", "policy_flat", "critic"))
    exported = {
        "bundle": str((run.bundles / student.name).relative_to(run.path)),
        "student_sha256": student.source,
        "parity_max_error": max(policy.max_abs_error, flat.max_abs_error),
        "distance_max_error": distance.max_abs_error,
        "observations": policy.observations,
        "latency_us_p50": policy.latency_p50_us,
        "latency_us_p99": policy.latency_p99_us,
    }
    return {"students": {student.name: judged}, "export": {student.name: exported}}


def _student_of(run: Run, teacher: Teacher, name: str) -> TrainedStudent:
    student = load_student(run.students / name)
    if student.teacher_source != teacher.source:
        raise FathomError(
            f"{run.students / name} was distilled from another checkpoint than {run.checkpoints} holds"
        )
    return student


def _is_exported(run: Run, student: TrainedStudent) -> bool:
    figures = run.summary.get("export", {}).get(student.name, {})
    return (run.bundles / student.name).exists() and figures.get("student_sha256") == student.source


def _provenance(student: TrainedStudent, teacher: Teacher, seed: int) -> JSON:
    network = teacher.config.network
    return {
        "student": student.name,
        "checkpoint_sha256": student.source,
        "teacher_depth": network.depth,
        "teacher_width": network.width,
        "teacher_sha256": teacher.source,
        "seed": seed,
    }


def _card_facts(spec: TaskSpec, judged: JSON) -> JSON:
    goal = spec.goal
    success = f"within {goal.success_radius:g} {goal.unit} at the end"
    facts = {"held-out episodes": judged["episodes"], success: judged["success_final"]}
    facts[f"mean distance at the end ({goal.unit})"] = judged["final_distance"]
    if "retention" in judged:
        facts["time at goal, relative to its teacher"] = judged["retention"]
    return facts


def control(bundle: Path, display: Display, *, engine: str, episodes: int, seed: int | None = None) -> JSON:
    """Runs a bundle's controller in closed loop; returns its figures.

    A bundle that lies in a run leaves its figures and a recording of its first episodes there."""
    controller = _load_controller(bundle)
    task = make_task(controller.spec["name"])
    if controller.spec != task.spec.model_dump(mode="json"):
        raise FathomError(f"{bundle} is for another version of task {task.spec.name!r} than this program's")
    if engine not in task.engines:
        raise unknown_name(f"engine for task {task.spec.name!r}", engine, task.engines)
    display.say(f"{episodes} episodes of {bundle} in {engine}")
    figures, recording = closed_loop.control(controller, engine, episodes, seed)
    run = Run(bundle.parent.parent)
    if bundle.parent.name == "export" and (run.path / "config.json").is_file():
        folder = run.path / "control" / bundle.name
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "episodes.json", recording)
        run.update_summary({"control": {bundle.name: figures}})
    return figures


def selected_bundle(run: Run) -> Path:
    """The bundle of the student that export marked; UsageError if nothing is exported yet."""
    selected = run.summary.get("selected")
    if selected is None:
        raise UsageError(f"{run.path} holds no exported student yet: pipeline export {run.path}")
    return run.bundles / selected


def _load_controller(bundle: Path) -> Controller:
    try:
        return load_controller(bundle)
    except ControllerError as error:
        raise FathomError(str(error)) from error


def evaluate(run: Run, *, engine: str | None, episodes: int | None, seed: int | None) -> JSON:
    """The teacher's score on held-out starts and goals, without touching the run."""
    return reevaluate(load_teacher(run.checkpoints), episodes, engine, seed)


def run_all(run: Run, display: Display, *, resume: bool) -> JSON:
    """Every stage that is not done yet, in order; returns the summary."""
    begun, before = time.monotonic(), run.summary.get("wall_s", 0.0)
    _BACKGROUND.submit(load_converters)
    teach(run, display, resume=resume)
    distil(run, display, resume=resume)
    export(run, display, resume=resume)
    config = run.config.control
    for name in run.config.student.sizes:
        control(run.bundles / name, display, engine=config.engine, episodes=config.episodes)
    run.update_summary({"wall_s": before + time.monotonic() - begun})
    from pipelines.report import write_report  # matplotlib, which no other stage needs

    page = write_report(run)
    display.say(f"report: {page}")
    return run.summary


class _Clock:
    """Seconds that a stage has taken, over all its resumptions."""

    def __init__(self, lines: list[JSON]):
        self._before = lines[-1]["wall_s"] if lines else 0.0
        self._begun = time.monotonic()

    def read(self) -> float:
        return self._before + time.monotonic() - self._begun
