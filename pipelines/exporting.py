"""The stage of export: students in, bundles out, judged beside their teacher; one is selected."""

from collections.abc import Callable
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
from pipelines import closed_loop
from pipelines.closed_loop import controller_errors
from pipelines.distilling import teacher_of
from pipelines.judging import Yardstick, own_experience, teacher_latency
from pipelines.progress import QUIET, Display
from pipelines.robustness import robustness
from pipelines.rundir import Run, write_columns
from student.networks import act, critic_distance
from student.saved import TrainedStudent, load_student
from student.selection import Selection, select
from teacher import checkpoint
from teacher.errors import FathomError
from teacher.spec import TaskSpec
from teacher.trained import Teacher

JSON = dict[str, Any]
STREAM = 2  # of the run's seed
SHOWN = {
    "student": ("retention", "time_at_goal", "success_final", "final_distance"),
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
    """Exports every student, judges the files in closed loop beside the teacher, selects one.

    Args: sign: a private key, by which every bundle is signed."""
    config, begun = run.config, run.begun_with("export") if resume else None
    chosen = seed if seed is not None else begun["seed"] if begun else run.seed
    key = None if sign is None else signing_key(sign)
    if resume:
        run.mend_summary(display.warn)
    teacher = teacher_of(run)
    require_targets(config.export.profiles, teacher.spec)
    students = [_student_of(run, teacher, name) for name in config.student.sizes]
    kept = [student for student in students if resume and _is_exported(run, student, display, chosen)]
    for student in kept:
        display.say(f"kept {run.bundles / student.name}")
    measure = cache(partial(Yardstick.of, teacher, config.student.episodes))
    if len(kept) < len(students) or run.changed is not None:
        run.begin_stage("export", teacher.source, chosen)
    if len(kept) < len(students):
        run.update_summary({"teacher": {"latency_us_p50": teacher_latency(teacher)}})
    with display.bar("export", len(students), len(kept), piece="students", groups=SHOWN) as bar:
        for number, student in enumerate((s for s in students if s not in kept), len(kept) + 1):
            bar.note = student.name
            figures = _export_student(run, measure(), student, chosen)
            run.update_summary(figures)
            exported, judged = (figures[part][student.name] for part in ("export", "students"))
            parity = exported["parity_max_error"]
            display.say(f"exported {run.bundles / student.name}: agrees with JAX to {parity:.1e}")
            bar.update(number, judged | exported, judged)
        if key is not None:
            for student in students:
                sign_bundle(run.bundles / student.name, key)
        selection = _select(run)
        display.say(f"selected: {selection.because}")
        selected = next(student for student in students if student.name == selection.size)
        bar.note = f"{selected.name} under harder conditions"
        _measure_robustness(run, measure, selected, resume=resume)
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
    key = jax.random.fold_in(jax.random.key(seed), STREAM)

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
        targets=config.export.profiles,
    )
    policy, flat, distance = (verification[name] for name in ("policy", "policy_flat", "critic"))
    write_columns(
        run.proof(student.name),
        action_error=np.maximum(policy.errors, flat.errors).astype(np.float32),
        distance_error=distance.errors.astype(np.float32),
        latency_us=policy.latencies_us.astype(np.float32),
    )
    exported = {
        "bundle": str((run.bundles / student.name).relative_to(run.path)),
        "student_sha256": student.source,
        "parity_max_error": max(policy.max_abs_error, flat.max_abs_error),
        "distance_max_error": distance.max_abs_error,
        "observations": policy.observations,
        "profiles": list(config.export.profiles),
        "latency_us_p50": policy.latency_p50_us,
        "latency_us_p99": policy.latency_p99_us,
    }
    return {"students": {student.name: judged}, "export": {student.name: exported}}


def _student_of(run: Run, teacher: Teacher, name: str) -> TrainedStudent:
    if not checkpoint.saves(run.students / name):
        raise FathomError(f"no student in {run.students / name}: first comes pipeline distill {run.path}")
    distilled = f"pipeline distill {run.path} --resume writes it again"
    try:
        student = load_student(run.students / name)
    except checkpoint.Damaged as error:
        raise FathomError(f"{error}; {distilled}") from error
    if "parameters" not in run.summary.get("students", {}).get(name, {}):
        raise FathomError(f"{run.path / 'summary.json'} lacks student {name}: {distilled}")
    if student.teacher_source != teacher.source:
        raise FathomError(
            f"{run.students / name} was distilled from another checkpoint than {run.checkpoints} holds"
        )
    return student


def _is_exported(run: Run, student: TrainedStudent, display: Display, seed: int) -> bool:
    """Whether the bundle is there and whole, of this very student, and made by today's settings and seed."""
    figures, config = run.summary, run.config
    exported = figures.get("export", {}).get(student.name, {})
    judged = figures.get("students", {}).get(student.name, {})
    return (
        _is_whole(run.bundles / student.name, display, seed)
        and exported.get("student_sha256") == student.source
        and exported.get("observations") == config.export.observations
        and exported.get("profiles") == list(config.export.profiles)
        and judged.get("episodes") == config.student.episodes
    )


def _is_whole(bundle: Path, display: Display, seed: int) -> bool:
    """Whether the bundle is there, whole, and made with this seed."""
    if not bundle.exists():
        return False
    try:
        return load_controller(bundle).provenance.get("observation_seed") == seed
    except ControllerError as error:
        display.warn(f"{bundle}: {error}: exported again")
        return False


def _provenance(student: TrainedStudent, teacher: Teacher, seed: int) -> JSON:
    network = teacher.config.network
    return {
        "student": student.name,
        "checkpoint_sha256": student.source,
        "teacher_depth": network.depths[0],
        "teacher_width": network.widths[0],
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
