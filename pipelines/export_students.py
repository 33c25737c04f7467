"""The stage of export: students in, bundles out, evaluated beside their teacher; one is selected."""

import time
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from export.bundle import sign as sign_bundle
from export.bundle import signing_key, write_bundle
from export.controller import Controller, ControllerError
from export.controller import load as load_controller
from export.targets import require_targets
from pipelines.closed_loop import batched, controller_errors
from pipelines.files import write_columns
from pipelines.progress import QUIET, Display
from pipelines.rundir import Run, require_run
from pipelines.train_students import teacher_of
from student.checkpoint import TrainedStudent, load_student
from student.evaluate import ReferenceEpisodes, SampledStates, select
from student.networks import Student, act, critic_distance
from student.robustness import robustness
from teacher import checkpoint
from teacher.errors import FathomError
from teacher.policy_file import AnyTeacher
from teacher.rollout import Simulation, on_robot
from teacher.train import Teacher

JSON = dict[str, Any]
STREAM = 2  # folded into the key of the run's seed
TIMED = 50  # answers of a teacher
SHOWN = {
    "student": ("retention", "final_distance"),
    "file": ("parity_max_error", "latency_us_p50", "latency_us_p99"),
}
SELECTED = ("selected", "selected_passes", "selected_because")  # keys of a summary


def export(
    run: Run,
    display: Display = QUIET,
    *,
    resume: bool = False,
    seed: int | None = None,
    sign: Path | None = None,
) -> JSON:
    """Exports every student, evaluates the files in closed loop beside the teacher, selects one.

    Args: sign: a private key, by which every bundle is signed."""
    require_run(run, "export")
    config, chosen = run.config, run.stage_seed("export", seed, resume)
    key = None if sign is None else signing_key(sign)
    if resume:
        run.mend_summary(display.warn)
    teacher = teacher_of(run)
    require_targets(config.export.profiles, teacher.spec)
    students = [_student_of(run, teacher, name) for name in config.student.sizes]
    kept = [student for student in students if resume and _is_exported(run, student, display, chosen)]
    for student in kept:
        display.say(f"kept {run.bundles / student.name}")
    reference = cache(partial(ReferenceEpisodes.of, teacher, config.student.episodes))
    if len(kept) < len(students) or run.changed is not None:
        run.begin_stage("export", teacher.source, chosen)
    if len(kept) < len(students):
        run.update_summary({"teacher": {"latency_us_p50": teacher_latency(teacher)}})
    shown: JSON = {"unit": "students", "groups": SHOWN, "about": run.title}
    with display.bar("export", len(students), len(kept), **shown) as bar:
        for number, student in enumerate((s for s in students if s not in kept), len(kept) + 1):
            bar.note = student.name
            scores, exported = _export_student(run, reference(), student, chosen)
            run.update_summary({"students": {student.name: scores}, "export": {student.name: exported}})
            parity = exported["parity_max_error"]
            display.say(f"exported {run.bundles / student.name}: agrees with JAX to {parity:.1e}")
            bar.show(number, scores | exported, scores)
        for student in students if key is not None else ():
            sign_bundle(run.bundles / student.name, key)
        selected = _select(run, students, display)
        bar.note = f"{selected.name} under harder conditions"
        episodes = min(config.student.robustness_episodes, config.student.episodes)
        basis = {"episodes": episodes, "student_sha256": selected.source}
        known = run.summary["students"][selected.name].get("robustness", {})
        if episodes and not (resume and known.items() >= basis.items()):
            with controller_errors():
                policy = batched(load_controller(run.bundles / selected.name))
                found = basis | {"conditions": robustness(reference(), policy, episodes)}
            run.update_summary({"students": {selected.name: {"robustness": found}}})
    return {key: run.summary[key] for key in ("students", "export", *SELECTED)}


def require_selection(run: Run) -> None:
    """Raises FathomError that says what limits the students, if none keeps enough and none was asked for."""
    if run.config.student.select is None and not run.summary["selected_passes"]:
        raise FathomError(run.summary["selected_because"])


def _select(run: Run, students: list[TrainedStudent], display: Display) -> TrainedStudent:
    scores, lines = run.summary["students"], run.metrics("students")
    errors = {each.name: lines[-1].get(f"{each.name}/action_error") for each in students if lines}
    learned = {size: error for size, error in errors.items() if error is not None}
    selection = select({each.name: scores[each.name] for each in students}, run.config.student, learned)
    run.update_summary(dict(zip(SELECTED, selection[:3], strict=True)))
    display.say(f"selected: {selection.because}")
    return next(student for student in students if student.name == selection.size)


def _export_student(
    run: Run, reference: ReferenceEpisodes, student: TrainedStudent, seed: int
) -> tuple[JSON, JSON]:
    """Writes one bundle; returns its figures in the summary's `students` and `export`."""
    params, config = student.params, run.config
    bundle, goal = run.bundles / student.name, student.spec.goal
    agreement = reference.critic_agreement(params)
    scores: JSON = {"critic": agreement} if agreement else {}
    key = jax.random.fold_in(jax.random.key(seed), STREAM)

    def evaluate(controller: Controller) -> JSON:
        """Returns what the model card says of the student's score."""
        with controller_errors():
            distance = controller.distance if controller.has_critic else None
            scores.update(reference.evaluate(batched(controller), distance))
        facts = {
            "held-out episodes": scores["episodes"],
            f"within {goal.success_radius:g} {goal.unit} at the end": scores["success_final"],
            f"mean distance at the end ({goal.unit})": scores["final_distance"],
            "time at goal, relative to its teacher": scores.get("retention"),
        }
        return {name: fact for name, fact in facts.items() if fact is not None}

    verification = write_bundle(
        bundle,
        student.spec,
        lambda observation, goal: act(params, observation, goal),
        partial(critic_distance, params) if params.has_critic else None,
        *own_states(reference.simulation, params, key, config.student.envs, config.export.observations),
        provenance={
            "student": student.name,
            "checkpoint_sha256": student.source,
            **origin(reference.teacher),
            "observation_seed": seed,
        },
        evaluate=evaluate,
        targets=config.export.profiles,
    )
    policy, flat, distance = map(verification.get, ("policy", "policy_flat", "critic"))
    assert policy and flat
    of_distance = {} if distance is None else {"distance_error": distance.errors.astype(np.float32)}
    write_columns(
        run.parity(student.name),
        action_error=np.maximum(policy.errors, flat.errors).astype(np.float32),
        **of_distance,
        latency_us=policy.latencies_us.astype(np.float32),
    )
    return scores, {
        "bundle": str(bundle.relative_to(run.path)),
        "student_sha256": student.source,
        "parity_max_error": max(policy.max_abs_error, flat.max_abs_error),
        **({} if distance is None else {"distance_max_error": distance.max_abs_error}),
        "observations": len(policy.errors),
        "profiles": list(config.export.profiles),
        "latency_us_p50": policy.latency_us(50),
        "latency_us_p99": policy.latency_us(99),
    }


def origin(teacher: AnyTeacher) -> JSON:
    """Returns what a bundle says of its teacher: the network trained here, or that it is from elsewhere."""
    network = teacher.config.network
    trained = {"teacher_depth": network.depths[0], "teacher_width": network.widths[0]}
    told = trained if isinstance(teacher, Teacher) else {"teacher": "a policy in a file, not trained here"}
    return told | {"teacher_sha256": teacher.source}


def own_states(
    simulation: Simulation, student: Student, key: jax.Array, episodes: int, count: int
) -> tuple[np.ndarray, ...]:
    """Samples K = count states of the student's own episodes, of which there are as many as that takes.

    Returns: what it sees, observations [K, N] and goals [K, G], and its actions [K, A]."""
    episodes = max(episodes, -(-count // simulation.task.spec.episode_length))
    start_key, noise_key = jax.random.split(key)
    starts = simulation.starts(start_key, episodes)
    trajectories = simulation.rollout(on_robot(partial(jax.jit(act), student)), starts, noise_key=noise_key)
    states = SampledStates.of(trajectories, starts.goal, count)
    return tuple(values.astype(np.float32) for values in (*states.sensed, states.action))


def teacher_latency(teacher: AnyTeacher) -> float:
    """Measures one answer of the teacher on the devices here: the median of TIMED, microseconds."""
    observation, goal = (np.zeros((1, size), np.float32) for size in teacher.spec.sizes[::2])
    policy, times = teacher.policy(), []
    for _ in range(1 + TIMED):  # the first compiles
        begun = time.perf_counter()
        np.asarray(policy(observation, goal))
        times.append(time.perf_counter() - begun)
    return 1e6 * float(np.median(times[1:]))


def _student_of(run: Run, teacher: AnyTeacher, name: str) -> TrainedStudent:
    if not checkpoint.saves(run.students / name):
        raise FathomError(f"no student in {run.students / name}: first comes pipeline distill {run.path}")
    remedy = f"pipeline distill {run.path} --resume writes it again"
    try:
        student = load_student(run.students / name)
    except FathomError as error:
        raise FathomError(f"{error}; {remedy}") from error
    if "parameters" not in run.summary.get("students", {}).get(name, {}):
        raise FathomError(f"{run.path / 'summary.json'} lacks student {name}: {remedy}")
    if student.teacher_source != teacher.source:
        raise FathomError(
            f"{run.students / name} was distilled from another teacher than {run.path / 'teacher'} holds"
        )
    return student


def _is_exported(run: Run, student: TrainedStudent, display: Display, seed: int) -> bool:
    """Tells whether the bundle is whole, of this very student, and made by today's settings and seed."""
    bundle, config, summary = run.bundles / student.name, run.config, run.summary
    if not bundle.exists():
        return False
    try:
        exported_with = load_controller(bundle).provenance.get("observation_seed")
    except ControllerError as error:
        display.warn(f"{bundle}: {error}: exported again")
        return False
    exported = summary.get("export", {}).get(student.name, {})
    scores = summary.get("students", {}).get(student.name, {})
    found = (exported_with, *map(exported.get, ("student_sha256", "observations", "profiles")))
    now = (seed, student.source, config.export.observations, list(config.export.profiles))
    return found == now and scores.get("episodes") == config.student.episodes
