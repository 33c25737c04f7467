"""Why a teacher learned nothing: said before minutes go into students of it, from what was measured."""

import numpy as np

from pipelines.formats import has_not_learned, in_words, with_unit
from pipelines.rundir import Run
from pipelines.summary import Score
from teacher.errors import FathomError
from teacher.evaluate import evaluation_layout, evaluation_starts, run_episodes, summarise
from teacher.rollout import simulation_of
from teacher.tasks import make_task
from teacher.tasks.plausibility import doubts

AT_EASE = 0.5  # of its time at the goal, beyond doubt: no need to compare it with a robot that does nothing
ENOUGH_UPDATES = 6000  # of the presets that learn; half are few
STEPS = "collect.total_steps"
NEARER = 0.9  # of the distance at the first evaluation
MEASURE = "time_at_goal"
LATE = 0.75  # of the steps, from which on a score should not rise any more
PAGE = "docs/troubleshooting.md says more"


def require_learned(run: Run) -> None:
    """Raises FathomError with the likely causes if the teacher is at its goals no longer than a robot that
    does nothing or acts at random.

    Not if nothing is asked of its students (`student.min_retention=0`), or some have been begun."""
    teacher = run.figures.teacher
    if teacher is None or not run.config.student.min_retention or (run.students / "checkpoints").exists():
        return
    if (teacher.interval("time_at_goal") or (0.0,))[0] <= AT_EASE:
        run.update_summary({"teacher": idle_score(run)})
        teacher = run.figures.teacher
        assert teacher is not None
    causes = [] if teacher.has_learned else likely_causes(run)
    if causes != (teacher.likely_causes or []):
        run.update_summary({"teacher": {"likely_causes": causes}})
    if teacher.has_learned:
        return
    path, collect = run.path, run.config.teacher.collect
    code = f" --task {run.task}" if ".py:" in run.task else ""  # which is executed where it is named again
    factor = max(4, -(-ENOUGH_UPDATES // (collect.iterations * collect.updates)))
    resume = f"pipeline run --run {path} --resume{code}"
    longer = f"{resume} --set {STEPS}={factor * collect.total_steps}"
    mend = "next: mend the task, and begin a new run (--run NAME)"
    raise FathomError(
        "\n".join(
            [
                has_not_learned(teacher),
                *(f"likely cause: {cause}" for cause in causes or ["none was found"]),
                mend if causes and STEPS not in causes[0] else f"to train it for longer: {longer}",
                f"to go on regardless: pipeline distill {path}{code} && {resume}",
                PAGE,
            ]
        )
    )


def still_rising(run: Run) -> str | None:
    """Returns advice to train for longer where the score beyond doubt still rose over the last quarter."""
    lines = [line for line in run.metrics("teacher") if "evaluation" in line]
    before = [line for line in lines if line["env_steps"] <= LATE * lines[-1]["env_steps"]]
    if not before:
        return None
    earlier, last = (Score.model_validate(each[-1]["evaluation"]) for each in (before, lines))
    (_, most), (least, _) = (each.interval(MEASURE) or (0.0, 1.0) for each in (earlier, last))
    if least <= most:
        return None
    return (
        "the teacher was still improving when its steps were over: it was at its goals "
        f"{in_words(earlier, MEASURE)} of the time, at the end {in_words(last, MEASURE)}; to train a new "
        f"one for longer: --set {STEPS}={2 * run.config.teacher.collect.total_steps}"
    )


def idle_score(run: Run) -> dict[str, object]:
    """Scores a robot that does nothing, and one that acts at random, in the teacher's held-out episodes."""
    config = run.config.teacher
    simulation, layout = simulation_of(config.task), evaluation_layout(config)
    starts = evaluation_starts(simulation, config.evaluate.episodes, layout)
    shape, random = (simulation.task.spec.action_size,), np.random.default_rng(0)

    def still(observation: np.ndarray, goal: np.ndarray) -> np.ndarray:
        return np.zeros((len(observation), *shape), np.float32)

    def at_random(observation: np.ndarray, goal: np.ndarray) -> np.ndarray:
        return random.uniform(-1, 1, (len(observation), *shape)).astype(np.float32)

    scores = [summarise(run_episodes(simulation, each, starts)[0], layout) for each in (still, at_random)]
    best = max(scores, key=lambda score: score["time_at_goal"])
    return {f"idle_{key}": best[key] for key in ("time_at_goal", "time_at_goal_interval")}


def likely_causes(run: Run) -> list[str]:
    """Returns what looks wrong in the task, or else in how the teacher learned."""
    task, lines, collect = make_task(run.task), run.metrics("teacher"), run.config.teacher.collect
    if found := doubts(task):
        return found
    if run.policy_file.exists():
        return ["the policy is of another task, or its inputs or actions stand in another order than here"]
    scores = [Score.model_validate(line["evaluation"]) for line in lines if "evaluation" in line]
    first, last = (each.final_distance or 0.0 for each in (scores[0], scores[-1]))
    steps, updates = f"{STEPS}: {lines[-1]['env_steps']:,} steps", len(lines) * collect.updates
    if updates < ENOUGH_UPDATES / 2:
        found.append(f"{steps} were {updates:,} updates, too few; presets that learn make {ENOUGH_UPDATES:,}")
    elif last < NEARER * first:
        unit = task.spec.goal.unit
        nearer = f"{with_unit(last, unit)} from its goals, at first {with_unit(first, unit)}"
        found.append(f"{steps} are too few: it ends {nearer}, and may come nearer still")
    if (scores[-1].success_any or 0) > AT_EASE:
        dt, radius = task.spec.control_dt, with_unit(task.spec.goal.success_radius, task.spec.goal.unit)
        found.append(
            f"spec.goal.success_radius: it comes to {scores[-1].success_any:.0%} of its goals and does not "
            f"stay: {radius} may be too tight for steps of {dt:g} s"
        )
    return found
