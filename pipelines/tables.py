"""Figures as tables for people."""

from typing import Any

from rich.console import Group
from rich.table import Table

from teacher.tasks import Task

JSON = dict[str, Any]


def summary(figures: JSON) -> Group:
    """summary.json, or a part of it: the way from teacher to robot, one row a policy."""
    table = Table("policy", "parameters", "success", "at goal", "retention", "latency", "robot", "missed")
    if teacher := figures.get("teacher"):
        depth = f"teacher, depth {teacher['depth']}"
        table.add_row(depth, "", _share(teacher, "success_final"), f"{teacher['time_at_goal']:.3f}")
    for name, student in figures.get("students", {}).items():
        exported = figures.get("export", {}).get(name, {})
        robot = figures.get("control", {}).get(name, {})
        table.add_row(
            f"{name} *" if name == figures.get("selected") else name,
            f"{student['parameters']:,}",
            _share(student, "success_final"),
            _number(student, "time_at_goal"),
            _retention(student),
            f"{exported['latency_us_p50']:.1f} µs" if exported else "",
            _share(robot, "success_final"),
            f"{robot['missed_deadlines']} of {robot['steps']:,}" if robot else "",
        )
    mark = "* selected" if figures.get("selected_passes", True) else "* nearest; none keeps enough"
    return Group(table, f"{mark}; {figures['wall_s']:.0f} s in all" if "wall_s" in figures else mark)


def students(figures: JSON) -> Table:
    table = Table("student", "parameters", "seconds")
    for name, student in figures.items():
        table.add_row(name, f"{student['parameters']:,}", f"{student['wall_s']:.0f}")
    return table


def score(figures: JSON) -> Table:
    """One policy's figures, a row each, with their intervals."""
    table = Table("figure", "value", "95 % interval")
    for key, value in figures.items():
        if key.endswith("_interval"):
            continue
        interval = figures.get(f"{key}_interval")
        shown = (
            f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else value
        )
        table.add_row(key, shown, f"{interval[0]:.4g} to {interval[1]:.4g}" if interval else "")
    return table


def describe_task(task: Task) -> JSON:
    """What `pipeline tasks --json` says of a task."""
    spec = task.spec
    return {
        "engines": list(task.engines),
        "observation": spec.observation_size,
        "goal": spec.goal_size,
        "action": spec.action_size,
        "control_dt": spec.control_dt,
        "episode_length": spec.episode_length,
        "success_radius": spec.goal.success_radius,
        "goal_unit": spec.goal.unit,
        "description": type(task).__doc__,
    }


def tasks(figures: JSON) -> Table:
    table = Table(
        "task", "engines", "observation", "goal", "action", "period", "episode", "success", "what it is"
    )
    for name, task in figures.items():
        table.add_row(
            name,
            ", ".join(task["engines"]),
            str(task["observation"]),
            str(task["goal"]),
            str(task["action"]),
            f"{task['control_dt'] * 1000:g} ms",
            str(task["episode_length"]),
            f"{task['success_radius']:g} {task['goal_unit']}",
            task["description"],
        )
    return table


def presets(figures: JSON) -> Table:
    table = Table("preset", "task", "depth x width", "env steps", "students", "what it is")
    for name, entry in figures.items():
        teacher, student = entry["config"]["teacher"], entry["config"]["student"]
        network = teacher["network"]
        table.add_row(
            name,
            teacher["task"]["name"],
            f"{network['depth']} x {network['width']}",
            f"{teacher['collect']['total_steps']:,}",
            ", ".join(student["sizes"]),
            entry["description"],
        )
    return table


def _number(figures: JSON, key: str) -> str:
    return f"{figures[key]:.3f}" if key in figures else ""


def _share(figures: JSON, key: str) -> str:
    if key not in figures:
        return ""
    low, high = figures[f"{key}_interval"]
    return f"{figures[key]:.3f} ({low:.3f} to {high:.3f})"


def _retention(student: JSON) -> str:
    if "retention" not in student:
        return "undefined"
    return f"{student['retention']:.3f} ({student['retention_low']:.3f} to {student['retention_high']:.3f})"
