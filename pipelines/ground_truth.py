"""What is known of a task without learning, beside what a teacher learned: how well it can be done, and how
far goals are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from pipelines.files import JSON, write_columns
from pipelines.progress import Display
from student.evaluate import paired_ratio
from teacher.distance_map import agreement, drawable, queries
from teacher.errors import FathomError
from teacher.evaluate import EpisodeMetrics, run_episodes, summarise
from teacher.rollout import Simulation, Trajectories
from teacher.tasks import Start
from teacher.tasks.validation import own_code

Episodes = tuple[EpisodeMetrics, Trajectories]


def compare_with_truth(
    simulation: Simulation, layout: str, starts: Start, of_teacher: Episodes, display: Display
) -> tuple[JSON, JSON, Trajectories]:
    """Scores the task's reference policy in the teacher's held-out episodes.

    One that cannot run is warned about: the teacher is none the worse for it.
    Returns: figures of the summary, of its `teacher`, and the episodes in which to evaluate its critic: the
      reference policy's where there is one. They are the same for every teacher and go everywhere, where a
      teacher's own show only what it reaches."""
    try:
        reference = reference_episodes(simulation, starts)
    except FathomError as error:
        display.warn(f"no reference to compare with: {error}")
        reference = None
    if reference is None:
        return {}, {}, of_teacher[1]
    share = share_of_reference(of_teacher[0], reference[0])
    return {"reference": summarise(reference[0], layout)}, share, reference[1]


def maze_distance(
    simulation: Simulation,
    episodes: Trajectories,
    goal: np.ndarray,
    distances: Callable[..., Any],
    file: Path,
) -> JSON:
    """Compares the critic's distances with the ways through the task's maze, if it has one.

    Writes to the file what the report's pictures of these distances need."""
    maze = simulation.task.maze
    if maze is None:
        return {}
    asked = queries(maze, simulation.task.spec, episodes, goal)
    found = np.asarray(distances(*map(jnp.asarray, (asked.observation, asked.action, asked.goals))))
    write_columns(file, **drawable(maze, asked, found))
    return {"maze_distance": agreement(maze, asked, found)}


def reference_episodes(simulation: Simulation, starts: Start) -> Episodes | None:
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
