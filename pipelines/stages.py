"""The stages: a run directory in, an artifact out. Each reads what the one before wrote."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax

from export.bundle import write_bundle
from export.controller import Controller, ControllerError
from export.controller import load as load_controller
from export.graph import load_converters
from pipelines import closed_loop
from pipelines.config import Config, ControlConfig
from pipelines.critic_uses import critic_uses
from pipelines.interrupt import Interrupted, deferred_interrupt
from pipelines.judging import Yardstick, own_experience
from pipelines.progress import Display
from pipelines.robustness import robustness
from pipelines.rundir import Run
from pipelines.scene.keeping import keep
from pipelines.schedule import Clock, SaveTimer
from pipelines.teaching import teach, warn_of_versions
from student.distill import Distiller
from student.networks import act, critic_distance, parameter_count
from student.saved import TrainedStudent, load_student, save_students
from student.saved import restore_state as restore_distillation
from student.saved import save_state as save_distillation
from student.selection import Selection, select
from teacher import checkpoint
from teacher.config import TaskConfig, TeacherConfig
from teacher.errors import FathomError, UsageError, unknown_name
from teacher.evaluate import evaluation_layout
from teacher.learner import require_devices
from teacher.memory import require_fit
from teacher.simulation import randomised, require_randomisable, simulation
from teacher.spec import TaskSpec
from teacher.tasks import Task, make_task, task_names
from teacher.tasks.engines import ENGINES, engines_of
from teacher.tasks.requirements import require_same
from teacher.train import require_finite
from teacher.trained import Teacher, confirm, load_teacher, reevaluate

JSON = dict[str, Any]
# Each stage draws from its own stream of a run's seed; the teacher's is the seed's own.
STAGE_NUMBER = {"students": 1, "export": 2}
SELECTED = ("selected", "selected_passes", "selected_because")  # keys of a summary
_BACKGROUND = ThreadPoolExecutor(max_workers=2, thread_name_prefix="prepare")


def check(config: Config, *, trained: bool = False) -> None:
    """Refuses names that no task or engine has, physics that cannot be randomised as asked, and a teacher
    still to be trained that the devices here cannot divide or hold, before anything is created."""
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
    require_randomisable(task, config.teacher.task.engine or task.engines[0], randomised(config.teacher))
    if not trained:
        require_devices(config.teacher, jax.devices())
        require_fit(config.teacher, task.spec, jax.device_count())


def distil(run: Run, display: Display, *, resume: bool, seed: int | None = None) -> JSON:
    """Fits the students to the run's teacher; returns their part of the summary."""
    config = run.config.student
    folder, begun = run.students / "checkpoints", run.begun_with("students")
    if not resume and folder.exists():
        raise UsageError(f"{run.students} holds students already: add --resume, or start a new run")
    if begun and resume and seed not in (None, begun["seed"]):
        raise UsageError(f"--seed {seed}: these students were begun with seed {begun['seed']}")
    teacher = _teacher_of(run)
    score = confirm(teacher)
    display.say(f"teacher confirmed: {score['time_at_goal']:.3f} of its time at the goal")
    distiller = Distiller(config, teacher)
    _warn_of_larger_students(distiller, display)
    if resume and checkpoint.saves(folder):
        state = restore_distillation(folder, distiller)
        display.say(f"students: going on from round {int(state.round)} of {config.rounds}")
        warn_of_versions(run, "students", display)
    else:
        chosen = seed if seed is not None else begun["seed"] if begun and resume else run.seed
        run.begin_stage("students", teacher.source, chosen)
        state = distiller.init(jax.random.fold_in(jax.random.key(chosen), STAGE_NUMBER["students"]))
    per_round = config.envs * teacher.spec.episode_length
    run.rewind_metrics("students", int(state.round))
    clock = Clock(run.metrics("students"))
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
            taken = {"labels": done * per_round, "env_steps": done * per_round}
            line = {"round": done, **taken, "wall_s": clock.read(), **metrics}
            run.append_metrics("students", line)
            bar.update(done * per_round, metrics)
            if done == config.rounds or timer.due() or interruption.requested:
                with timer.saving():
                    save_distillation(folder, distiller, state)
            if interruption.requested:
                raise Interrupted(f"stopped and saved after round {done}; go on with --resume")
    kept = distiller.best_seeds(state) if config.seeds > 1 else dict.fromkeys(config.sizes, (0, []))
    save_students(run.students, distiller, state, {name: seed for name, (seed, _) in kept.items()})
    last = run.last_metrics("students")
    effort = {key: last[key] for key in ("wall_s", "labels", "env_steps")}
    students: JSON = {}
    for name, (seed_kept, times) in kept.items():
        policy = load_student(run.students / name).params.policy
        students[name] = {"parameters": parameter_count(policy)} | effort
        if times:
            students[name] |= {"seed_kept": seed_kept, "time_at_goal_of_seeds": times}
    run.update_summary({"students": students})
    return students


def _warn_of_larger_students(distiller: Distiller, display: Display) -> None:
    """A student that is no smaller than its teacher is no reason to stop, but seldom what was meant."""
    of_teacher = parameter_count(distiller.teacher.params.actor)
    shapes = jax.eval_shape(distiller.init, jax.random.key(0)).family
    for name, policy in zip(distiller.config.sizes, shapes.policies, strict=True):
        count = parameter_count(policy) // distiller.config.seeds
        if count >= of_teacher:
            display.say(
                f"[yellow]student {name} is no smaller than its teacher: {count:,} parameters, the "
                f"teacher's actor has {of_teacher:,}[/yellow]"
            )


def export(run: Run, display: Display, *, resume: bool, seed: int | None = None) -> JSON:
    """Exports every student, judges the files in closed loop beside the teacher, selects one."""
    config, chosen = run.config, run.seed if seed is None else seed
    teacher = _teacher_of(run)
    students = [_student_of(run, teacher, name) for name in config.student.sizes]
    kept = [student for student in students if resume and _is_exported(run, student)]
    for student in kept:
        display.say(f"kept {run.bundles / student.name}")
    measure = cache(partial(Yardstick.of, teacher, config.student.episodes))
    if len(kept) < len(students) or run.changed is not None:
        run.begin_stage("export", teacher.source, chosen)
    for student in (student for student in students if student not in kept):
        figures = _export_student(run, measure(), student, chosen)
        run.update_summary(figures)
        parity = figures["export"][student.name]["parity_max_error"]
        display.say(f"exported {run.bundles / student.name}: agrees with JAX to {parity:.1e}")
    selection = _select(run)
    display.say(f"selected: {selection.because}")
    selected = next(student for student in students if student.name == selection.size)
    _measure_robustness(run, measure, selected, resume=resume)
    critic_uses(run, selected, display)
    return {key: run.summary[key] for key in ("students", "export", *SELECTED)}


def _select(run: Run) -> Selection:
    """Marks a student in the summary."""
    config, summary = run.config.student, run.summary
    last = lines[-1] if (lines := run.metrics("students")) else {}
    learned = {size: last[key] for size in config.sizes if (key := f"{size}/action_error") in last}
    selection = select({size: summary["students"][size] for size in config.sizes}, config, learned)
    run.update_summary(dict(zip(SELECTED, selection, strict=True)))
    return selection


def require_selection(run: Run) -> None:
    """FathomError that says what limits the students, if none keeps enough and none was asked for."""
    if run.config.student.choose is None and not run.summary["selected_passes"]:
        raise FathomError(run.summary["selected_because"])


def _measure_robustness(
    run: Run, measure: Callable[[], Yardstick], student: TrainedStudent, *, resume: bool
) -> None:
    """Adds how the student's bundle bears harder conditions to the summary, unless that is known."""
    config = run.config.student
    episodes = min(config.robustness, config.episodes)
    basis = {"episodes": episodes, "student_sha256": student.source}
    known = run.summary["students"][student.name].get("robustness", {})
    if not episodes or (resume and known.items() >= basis.items()):
        return
    with controller_errors():
        policy = closed_loop.batched(load_controller(run.bundles / student.name))
        found = robustness(measure(), policy, episodes)
    run.update_summary({"students": {student.name: {"robustness": basis | {"conditions": found}}}})


def _export_student(run: Run, measure: Yardstick, student: TrainedStudent, seed: int) -> JSON:
    """Writes one bundle; returns what it adds to the summary."""
    params, config = student.params, run.config
    judged = {"critic": measure.critic(params)}
    key = jax.random.fold_in(jax.random.key(seed), STAGE_NUMBER["export"])

    def judge(controller: Controller) -> JSON:
        with controller_errors():
            judged.update(measure.closed_loop(controller))
        return _card_facts(student.spec, judged)

    verification = write_bundle(
        run.bundles / student.name,
        student.spec,
        lambda observation, goal: act(params, observation, goal),
        lambda observation, action, goal: critic_distance(params, observation, action, goal),
        *own_experience(measure.simulation, params, key, config.student.envs, config.export.observations),
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


def _teacher_of(run: Run) -> Teacher:
    if not checkpoint.saves(run.checkpoints):
        raise FathomError(
            f"no checkpoint in {run.checkpoints}: first comes pipeline teacher --run {run.path} --resume"
        )
    return load_teacher(run.checkpoints)


def _student_of(run: Run, teacher: Teacher, name: str) -> TrainedStudent:
    if not checkpoint.saves(run.students / name):
        raise FathomError(f"no student in {run.students / name}: first comes pipeline distill {run.path}")
    student = load_student(run.students / name)
    if student.teacher_source != teacher.source:
        raise FathomError(
            f"{run.students / name} was distilled from another checkpoint than {run.checkpoints} holds"
        )
    return student


def _is_exported(run: Run, student: TrainedStudent) -> bool:
    """Whether the bundle is there, of this very student, and judged by today's settings."""
    figures, config = run.summary, run.config
    exported = figures.get("export", {}).get(student.name, {})
    judged = figures.get("students", {}).get(student.name, {})
    return (
        (run.bundles / student.name).exists()
        and exported.get("student_sha256") == student.source
        and exported.get("observations") == config.export.observations
        and judged.get("episodes") == config.student.episodes
    )


def _provenance(student: TrainedStudent, teacher: Teacher, seed: int) -> JSON:
    network = teacher.config.network
    return {
        "student": student.name,
        "checkpoint_sha256": student.source,
        "teacher_depth": network.depths[0],
        "teacher_width": network.width,
        "teacher_sha256": teacher.source,
        "observation_seed": seed,
    }


def _card_facts(spec: TaskSpec, judged: JSON) -> JSON:
    goal = spec.goal
    success = f"within {goal.success_radius:g} {goal.unit} at the end"
    facts = {"held-out episodes": judged["episodes"], success: judged["success_final"]}
    facts[f"mean distance at the end ({goal.unit})"] = judged["final_distance"]
    if "retention" in judged:
        facts["time at goal, relative to its teacher"] = judged["retention"]
    return facts


def control(
    bundle: Path,
    display: Display,
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
        usual = (control_engine(made, settings), settings.episodes, None)
        asked = (engine or usual[0], episodes or usual[1], seed)
        if asked[0] not in engines_of(made):
            raise unknown_name(f"engine for task {made.spec.name!r}", asked[0], engines_of(made))
        display.say(f"{asked[1]} episodes of {bundle.name} in {asked[0]}")
        robot, layout = simulation(config.task.name, asked[0]), evaluation_layout(config)
        figures, shown = closed_loop.control(controller, robot, layout, episodes=asked[1], seed=seed)
    figures["student_sha256"] = controller.provenance.get("checkpoint_sha256")
    if run and asked == usual:
        folder = run.path / "control" / bundle.name
        folder.mkdir(parents=True, exist_ok=True)
        keep(folder, shown, display.say)
        run.update_summary({"control": {bundle.name: figures}})
    return figures


class Opened(NamedTuple):
    """A bundle with the settings that it is run by."""

    controller: Controller
    run: Run | None  # in which the bundle lies
    config: TeacherConfig
    settings: ControlConfig


def opened(bundle: Path, task: str | None = None) -> Opened:
    """The bundle, checked; ControllerError or FathomError if it, or its task, is not sound.

    `task` is needed as for `control`."""
    bundle = bundle.resolve()
    run = Run(bundle.parent.parent)
    in_run = bundle.parent.name == "export" and (run.path / "config.json").is_file()
    controller = load_controller(bundle)
    config = run.config.teacher if in_run else TeacherConfig()
    if task or not in_run:
        found = TaskConfig(name=task or _known_task(bundle, controller.spec["name"]))
        config = config.model_copy(update={"task": found})
    require_same(str(bundle), controller.spec, make_task(config.task.name).spec)
    settings = run.config.control if in_run else ControlConfig()
    return Opened(controller, run if in_run else None, config, settings)


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
    selected = run.summary.get("selected")
    if selected is None:
        raise UsageError(f"{run.path} holds no exported student yet: first comes pipeline export {run.path}")
    return run.bundles / selected


@contextmanager
def controller_errors() -> Iterator[None]:
    """A controller's errors as this program's own."""
    try:
        yield
    except ControllerError as error:
        raise FathomError(str(error)) from error


def evaluate(run: Run, *, engine: str | None, episodes: int | None, seed: int | None) -> JSON:
    """The teacher's score on held-out starts and goals, without touching the run."""
    return reevaluate(load_teacher(run.checkpoints), episodes, engine, seed)


def run_all(run: Run, display: Display, *, resume: bool) -> JSON:
    """Every stage that is not done yet, in order; returns the summary."""
    begun, before = time.monotonic(), run.summary.get("wall_s", 0.0)
    _BACKGROUND.submit(load_converters)
    try:
        teach(run, display, resume=resume)
        distil(run, display, resume=resume)
        export(run, display, resume=resume)
        for name in run.config.student.sizes:
            if not (resume and _is_controlled(run, name)):
                control(run.bundles / name, display)
    finally:
        run.update_summary({"wall_s": before + time.monotonic() - begun})
    from pipelines.report import write_report  # matplotlib, which no other stage needs

    page = write_report(run)
    display.say(f"report: {page}")
    return run.summary


def _is_controlled(run: Run, name: str) -> bool:
    figures, config = run.summary.get("control", {}).get(name, {}), run.config.control
    exported = run.summary["export"][name]["student_sha256"]
    found = (figures.get("student_sha256"), figures.get("engine"), figures.get("episodes"))
    engine = control_engine(make_task(run.config.teacher.task.name), config)
    return found == (exported, engine, config.episodes)
