"""The teacher's stage, in one process or in several that train together."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax

from pipelines import distributed
from pipelines.ground_truth import HeldOut, compare_with_truth, is_known
from pipelines.progress import QUIET, Display
from pipelines.rundir import Run
from pipelines.runtime import Clock, Interrupted, SaveTimer, deferred_interrupt
from pipelines.tracking import recorded
from teacher import checkpoint
from teacher.errors import Diverged, FathomError, UsageError
from teacher.evaluate import evaluation_layout, evaluation_starts, run_episodes, summarise
from teacher.learner import Learner, TeacherState
from teacher.rollout import simulation_of
from teacher.train import restore_state, save_state, train

SHOWN = {
    "critic": ("critic_loss", "critic_accuracy"),
    "actor": ("actor_loss", "saturation", "entropy"),
    "gradient_norm": ("critic_gradient_norm", "actor_gradient_norm"),
}
_BACKGROUND = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prepare")


def teach(run: Run, display: Display = QUIET, *, resume: bool = False) -> dict[str, Any]:
    """Trains the teacher, or goes on with it; returns its summary.

    Training ends after `collect.total_steps`, or earlier where an evaluation reaches `evaluate.until`.
    Of several processes this is the first; the others `follow`.
    Raises: UsageError if the run holds a teacher already and is not to be resumed; Diverged."""
    if not resume and checkpoint.saves(run.checkpoints):
        raise UsageError(f"{run.checkpoints} holds a teacher already: resume it, or start a new run")
    config = run.config.teacher
    learner = Learner(config)
    restored = _restored(run, learner, resume)
    if restored is None:
        run.begin_stage("teacher", None, run.seed)
        start, evaluation = learner.init(jax.random.key(run.seed)), None
    else:
        start, evaluation = restored
        run.go_on("teacher")
        display.say(f"teacher: going on from iteration {int(start.iteration)} of {config.collect.iterations}")
        warn_of_versions(run, "teacher", display)
    simulation, layout = simulation_of(config.task), evaluation_layout(config)
    held_out = evaluation_starts(simulation, config.evaluate.episodes, layout)
    # Compiled beside the learner's own functions, which leave other cores idle.
    ready = _BACKGROUND.submit(simulation.prepare, held_out)
    total, per_iteration = config.collect.iterations, config.collect.envs * config.collect.unroll_length
    done = int(start.iteration)
    run.rewind_metrics("teacher", done, display.warn)
    clock = Clock(run.metrics("teacher"))
    timer = SaveTimer(config.checkpoint.interval_s)
    env_steps = int(start.replay.written) * config.collect.envs
    reached = config.evaluate.reached(evaluation)
    state, evaluated = start, None
    with (
        deferred_interrupt(display.say) as interruption,
        recorded(run, "teacher", display.warn) as record,
        display.bar("teacher", total, done, unit="steps", each=per_iteration, groups=SHOWN) as bar,
    ):
        bar.note = "compiling"
        for line in run.metrics("teacher"):
            if "evaluation" in line:
                bar.scored(line["evaluation"])
        for state, metrics in () if reached else _with_last_save(train(learner, start), run):
            done = int(state.iteration)
            evaluation = None
            if done % config.evaluate.every == 0 or done == total:
                bar.note = "evaluating"
                ready.result()
                evaluated = run_episodes(simulation, learner.policy(state.average), held_out)
                evaluation = summarise(evaluated[0], layout)
            env_steps = int(state.replay.written) * config.collect.envs
            line = {"iteration": done, "env_steps": env_steps, "wall_s": clock.read(), **metrics}
            record(line | ({"evaluation": evaluation} if evaluation else {}))
            bar.show(done, metrics, evaluation)
            reached = config.evaluate.reached(evaluation)
            save, stop, _ = distributed.agreed(
                done == total or reached or timer.due(), interruption.requested, reached
            )
            if save or stop:
                with timer.saving():
                    save_state(run.checkpoints, learner, state, evaluation)
            if stop:
                raise Interrupted(f"stopped and saved after iteration {done}; go on with --resume")
            if reached:
                break
    if reached:
        display.say(f"teacher: {config.evaluate.until} is reached, after iteration {done} of {total}")
    summary = {
        **dict(zip(("depth", "critic_depth"), config.network.depths, strict=True)),
        **dict(zip(("width", "critic_width"), config.network.widths, strict=True)),
        "env_steps": env_steps,
        "wall_s": clock.last,
        **(evaluation or {}),
        "ended_by": "evaluate.until" if reached else "collect.total_steps",
    }
    figures = {"task": learner.spec.name, "engine": learner.simulation.engine_name, "seed": run.seed}
    if is_known(simulation.task):
        evaluated = evaluated or run_episodes(simulation, learner.policy(state.average), held_out)
        compared = HeldOut(simulation, layout, held_out, *evaluated)
        beside, of_teacher = compare_with_truth(run, learner, state.average, compared, display)
        figures, summary = figures | beside, summary | of_teacher
    run.update_summary({**figures, "teacher": summary})
    return summary


def follow(run: Run, *, resume: bool) -> None:
    """Computes with the first process, which `teach`es, and writes nothing."""
    learner = Learner(run.config.teacher)
    restored = _restored(run, learner, resume)
    start, evaluation = restored or (learner.init(jax.random.key(run.seed)), None)
    if learner.config.evaluate.reached(evaluation):
        return
    with deferred_interrupt() as interruption:
        for state, _ in train(learner, start):
            save, stop, reached = distributed.agreed(False, interruption.requested, False)
            if save or stop:
                save_state(run.checkpoints, learner, state, None)
            if stop:
                raise Interrupted("stopped with the run's other processes")
            if reached:
                return


def warn_of_versions(run: Run, stage: str, display: Display) -> None:
    """Says which packages are others than when the stage began."""
    if changed := run.other_versions(stage):
        display.warn(f"other versions than at the start ({changed}): bits may differ")


def _restored(run: Run, learner: Learner, resume: bool) -> tuple[TeacherState, dict[str, Any] | None] | None:
    """What to go on from, if there is anything; the first process decides for all."""
    learner.devices.connect()
    saved = distributed.is_first() and resume and bool(checkpoint.saves(run.checkpoints))
    if not distributed.agreed(saved)[0]:
        return None
    try:
        return restore_state(run.checkpoints, learner)
    except checkpoint.Damaged as error:
        raise FathomError(f"{error}; to train from the start, remove {run.checkpoints}") from error


def _with_last_save(iterations: Iterator[Any], run: Run) -> Iterator[Any]:
    """Adds to a divergence where the run can be taken up again."""
    try:
        yield from iterations
    except Diverged as error:
        saved = checkpoint.saves(run.checkpoints)
        last = f"the last good save is of iteration {saved[0]}" if saved else "nothing was saved before"
        raise Diverged(f"training diverged: {error}; {last}") from error
