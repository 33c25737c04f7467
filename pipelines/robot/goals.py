"""Goals for a robot: from the command line, from a file, or drawn as in training."""

from pathlib import Path

import jax
import numpy as np

from teacher.errors import UsageError
from teacher.tasks import Task
from teacher.tasks.fr3_arm import HOME, flange_position, tool_position

MOST = 10_000
HOME_POSE = np.array(HOME)


def goals_of(
    text: str, task: Task, *, seed: int, far: bool, tool: np.ndarray | None = None
) -> tuple[np.ndarray, list[str]]:
    """Returns goals [K, G], in the unit and frame of the task's goal.

    Args:
      text: how many to draw, one goal (`0.4,0.1,0.5`), or a file with one on each line; what follows a #
        is a remark.
      far: take goals outside the training range too.
      tool: [3] m, in the flange's frame, from the point that the policy moves to the one that goals mean.
        The range is then wider by its length, and drawn goals are where it comes with the hand as at home.
    Returns: the goals, and a warning for each that lies outside the training range.
    Raises UsageError for what is none of these, and for goals outside the range unless `far`."""
    goal, given = task.spec.goal, task.spec.sensed_goal
    if (given.entries, given.frame) != (goal.entries, goal.frame):
        raise UsageError(
            f"{task.spec.name}: its goal on the robot is in frame {given.frame}, not {goal.frame}"
        )
    allowed = f"a number from 1 to {MOST:,}, {','.join(goal.entries)} in {goal.unit}, or a file of such lines"
    if text.isdecimal():
        if not 1 <= int(text) <= MOST:
            raise UsageError(f"--goals: {text}, allowed: {allowed}")
        moved = 0.0 if tool is None else tool_position(HOME_POSE, tool) - flange_position(HOME_POSE)
        keys = jax.random.split(jax.random.key(seed), int(text))
        drawn = jax.vmap(lambda key: task.start(key, task.layouts[0]).goal)(keys)  # as episodes have them
        return np.array(drawn, np.float32) + moved, []
    lines = [("--goals", text)]
    if Path(text).is_file():
        try:
            stated = Path(text).read_text("utf-8-sig").splitlines()  # Windows writes a byte-order mark
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--goals: {text} cannot be read: {error}") from error
        parts = [(f"{text} line {i}", line.partition("#")[0]) for i, line in enumerate(stated, 1)]
        lines = [(where, line) for where, line in parts if line.strip()]
    for where, line in lines:
        values = numbers(line)
        if len(values) != len(goal.entries) or not np.isfinite(values).all():
            raise UsageError(f"{where}: {line.strip()!r}, allowed: {allowed}")
    if not lines:
        raise UsageError(f"--goals: {text} is empty, allowed: {allowed}")
    goals = np.array([numbers(line) for _, line in lines], np.float32)
    reach = 0.0 if tool is None else float(np.linalg.norm(tool))
    outside = [
        f"{where}: {name} = {value:g} {goal.unit}, trained in [{low:g}, {high:g}]"
        for (where, _), values in zip(lines, goals, strict=True)
        for name, value, low, high in zip(goal.entries, values, goal.low, goal.high, strict=True)
        if not low - reach <= value <= high + reach
    ]
    if outside and not far:
        raise UsageError(f"{'; '.join(outside)}; to go there all the same: --allow-far-goals")
    return goals, outside


def numbers(text: str) -> np.ndarray:
    """Reads numbers with commas or spaces between; none where the text is something else."""
    try:
        return np.array([float(part) for part in text.replace(",", " ").split()])
    except ValueError:
        return np.array([])
