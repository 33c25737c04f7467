"""What is known of a task without learning, beside what a teacher learned: how well it can be done, and how
far goals are."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from pipelines.files import write_columns
from pipelines.progress import Display
from pipelines.rundir import DISTANCE_MAP, Run
from student.evaluate import paired_ratio
from teacher.distance_map import agreement, drawable, queries
from teacher.errors import FathomError
from teacher.evaluate import EpisodeMetrics, run_episodes, summarise
from teacher.learner import Learner
from teacher.networks import Params
from teacher.rollout import Simulation, Trajectories
from teacher.tasks import Start, Task
from teacher.tasks.validation import own_code

JSON = dict[str, Any]


class HeldOut(NamedTuple):
    """A teacher's held-out episodes."""

    simulation: Simulation
    layout: str
    starts: Start
    outcomes: EpisodeMetrics
    trajectories: Trajectories


def is_known(task: Task) -> bool:
    """Tells whether the task states anything to compare a teacher with."""
    return task.reference_policy is not None or task.maze is not None


def compare_with_truth(
    run: Run, learner: Learner, params: Params, held_out: HeldOut, display: Display
) -> tuple[JSON, JSON]:
    """Scores the task's reference policy in the same episodes, and the critic's distances in its maze.

    The critic is evaluated in the reference policy's episodes where there is one: they are the same for every
    teacher and go everywhere, where a teacher's own show only what it reaches.
    Writes what the report's pictures of these distances need. A reference policy that cannot run is warned
    about: the teacher is none the worse for it.
    Returns: figures of the summary, and of its `teacher`."""
    figures: JSON = {}
    of_teacher: JSON = {}
    trajectories, reference = held_out.trajectories, None
    try:
        reference = reference_episodes(held_out.simulation, held_out.starts)
    except FathomError as error:
        display.warn(f"no reference to compare with: {error}")
    if reference is not None:
        outcomes, trajectories = reference
        figures["reference"] = summarise(outcomes, held_out.layout)
        of_teacher = share_of_reference(held_out.outcomes, outcomes)
    maze = held_out.simulation.task.maze
    if maze is not None:
        asked = queries(maze, learner.spec, trajectories, held_out.starts.goal)
        given = map(jnp.asarray, (asked.observation, asked.action, asked.goals))
        found = np.asarray(learner.distances(params, *given))
        of_teacher["maze_distance"] = agreement(maze, asked, found)
        write_columns(run.path / "teacher" / DISTANCE_MAP, **drawable(maze, asked, found))
    return figures, of_teacher


def reference_episodes(simulation: Simulation, starts: Start) -> tuple[EpisodeMetrics, Trajectories] | None:
    """Runs the task's reference policy from these starts; None where it states none.

    Raises: FathomError if the policy fails, or answers with what are no numbers."""
    task, policy = simulation.task, simulation.task.reference_policy
    if policy is None:
        return None
    what = f"task {task.spec.name!r}: reference_policy(observation, goal)"

    def checked(observation: np.ndarray, goal: np.ndarray) -> np.ndarray:
        with own_code(f"{what} failed", task):
            action = np.asarray(policy(observation, goal), np.float32)
        if not np.isfinite(action).all():
            raise FathomError(f"{what} answers with NaN or infinity, allowed are numbers in [-1, 1]")
        return action

    return run_episodes(simulation, checked, starts)


def share_of_reference(teacher: EpisodeMetrics, reference: EpisodeMetrics) -> JSON:
    """Computes the teacher's time at goal over the reference policy's, with its interval as of retention."""
    return paired_ratio("share_of_reference", teacher.time_at_goal, reference.time_at_goal)
