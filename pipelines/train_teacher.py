"""The teacher's stage, in one process or in several that train together."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax

from pipelines import distributed
from pipelines.files import JSON
from pipelines.ground_truth import compare_with_truth, maze_distance
from pipelines.progress import QUIET, Display
from pipelines.rundir import DISTANCE_MAP, Run, require_run
from pipelines.runtime import Interrupted, deferred_interrupt
from pipelines.training import training
from teacher import checkpoint
from teacher.errors import Diverged, FathomError, UsageError
from teacher.evaluate import evaluation_layout, evaluation_starts, run_episodes, summarise
from teacher.learner import Learner, TeacherState
from teacher.policy_file import load_policy
from teacher.rollout import simulation_of
from teacher.train import reevaluate, restore_state, save_state, train

SHOWN = {
    "critic": ("critic_loss", "critic_accuracy"),
    "actor": ("actor_loss", "saturation", "entropy"),
    "gradient_norm": ("critic_gradient_norm", "actor_gradient_norm"),
}
_BACKGROUND = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prepare")


def teach(run: Run, display: Display = QUIET, *, resume: bool = False) -> JSON:
    """Trains the teacher, or goes on with it; returns its summary.

    Training ends after `collect.total_steps`, or earlier where an evaluation reaches `evaluate.until`.
    Of several processes this is the first; the others `follow`.
    Raises: UsageError if the run holds a teacher already and is not to be resumed; Diverged."""
    require_run(run, "teach")
    if run.policy_file.exists():
        return _take(run, display)
    if not resume and checkpoint.saves(run.checkpoints):
        raise UsageError(f"{run.checkpoints} holds a teacher already: resume it, or start a new run")
    config = run.config.teacher
    learner, collect = Learner(config), config.collect
    start, evaluation = _start(run, learner, resume)
    done, total = int(start.iteration), collect.iterations
    if done:
        display.say(f"teacher: going on from iteration {done} of {total}")
        run.continue_stage("teacher", display.warn)
    else:
        run.begin_stage("teacher", None, run.seed)
    simulation, layout = simulation_of(config.task), evaluation_layout(config)
    held_out = evaluation_starts(simulation, config.evaluate.episodes, layout)
    # Compiled beside the learner's own functions, which leave other cores idle.
    ready = _BACKGROUND.submit(simulation.prepare, held_out)
    state, reached, evaluated = start, config.evaluate.reached(evaluation), None
    shown = {"unit": "steps", "each": collect.envs * collect.unroll_length, "groups": SHOWN}
    with training(run, "teacher", display, done, total, config.checkpoint.interval_s, **shown) as stage:
        for state, metrics in () if reached else _with_last_save(train(learner, start), run):
            done, evaluation = int(state.iteration), None
            if done % config.evaluate.every == 0 or done == total:
                stage.bar.note = "evaluating"
                ready.result()
                evaluated = run_episodes(simulation, learner.policy(state.average), held_out)
                evaluation = summarise(evaluated[0], layout)
            stage.record(
                done, {"iteration": done, "env_steps": _env_steps(learner, state)}, metrics, evaluation
            )
            reached = config.evaluate.reached(evaluation)
            due, stop, _ = distributed.agreed(
                done == total or reached or stage.timer.due(), stage.signals.requested, reached
            )
            save = partial(save_state, run.checkpoints, learner, state, evaluation)
            stage.save(save, f"iteration {done}", due=due, stop=stop)
            if reached:
                break
    if reached:
        display.say(f"teacher: {config.evaluate.until} is reached, after iteration {done} of {total}")
    summary = {
        **dict(zip(("depth", "critic_depth"), config.network.depths, strict=True)),
        **dict(zip(("width", "critic_width"), config.network.widths, strict=True)),
        "env_steps": _env_steps(learner, state),
        "wall_s": stage.wall_s,
        **(evaluation or {}),
        "ended_by": "evaluate.until" if reached else "collect.total_steps",
    }
    figures = {"task": learner.spec.name, "engine": learner.simulation.engine_name, "seed": run.seed}
    if simulation.task.reference_policy is not None or simulation.task.maze is not None:
        evaluated = evaluated or run_episodes(simulation, learner.policy(state.average), held_out)
        beside, share, episodes = compare_with_truth(simulation, layout, held_out, evaluated, display)
        distances, file = partial(learner.distances, state.average), run.path / "teacher" / DISTANCE_MAP
        maze = maze_distance(simulation, episodes, held_out.goal, distances, file)
        figures, summary = figures | beside, summary | share | maze
    run.update_summary({**figures, "teacher": summary})
    return summary


def _take(run: Run, display: Display) -> JSON:
    """Scores a teacher that is not trained here; returns its summary."""
    teacher = load_policy(run.policy_file, run.config.teacher)
    run.begin_stage("teacher", teacher.source, run.seed)
    score = reevaluate(teacher) | {"ended_by": "policy.onnx", "policy_sha256": teacher.source}
    figures = {"task": teacher.spec.name, "engine": simulation_of(teacher.config.task).engine_name}
    run.update_summary({**figures, "seed": run.seed, "teacher": score})
    display.say(f"teacher: {run.policy_file}, {score['time_at_goal']:.3f} of its time at the goal")
    return score


def follow(run: Run, *, resume: bool) -> None:
    """Computes with the first process, which `teach`es, and writes nothing."""
    learner = Learner(run.config.teacher)
    start, evaluation = _start(run, learner, resume)
    if learner.config.evaluate.reached(evaluation):
        return
    with deferred_interrupt() as signals:
        for state, _ in train(learner, start):
            save, stop, reached = distributed.agreed(False, signals.requested, False)
            if save or stop:
                save_state(run.checkpoints, learner, state, None)
            if stop:
                raise Interrupted("stopped with the run's other processes")
            if reached:
                return


def _start(run: Run, learner: Learner, resume: bool) -> tuple[TeacherState, JSON | None]:
    """Returns what is saved, if it is to be gone on with, or what a training begins with, and its evaluation.

    The first process decides for all."""
    learner.devices.connect()
    saved = distributed.is_first() and resume and bool(checkpoint.saves(run.checkpoints))
    if not distributed.agreed(saved)[0]:
        return learner.init(jax.random.key(run.seed)), None
    try:
        return restore_state(run.checkpoints, learner)
    except checkpoint.Damaged as error:
        raise FathomError(f"{error}; to train from the start, remove {run.checkpoints}") from error


def _env_steps(learner: Learner, state: TeacherState) -> int:
    return int(state.replay.written) * learner.config.collect.envs


def _with_last_save(iterations: Iterator[Any], run: Run) -> Iterator[Any]:
    """Adds to a divergence where the run can be taken up again."""
    try:
        yield from iterations
    except Diverged as error:
        saved = checkpoint.saves(run.checkpoints)
        last = f"the last good save is of iteration {saved[0]}" if saved else "nothing was saved before"
        raise Diverged(f"training diverged: {error}; {last}") from error
