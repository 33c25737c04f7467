"""Figures as tables for people."""

from typing import Any

from rich.console import Group
from rich.table import Column, Table
from rich.text import Text

from pipelines.sweep import described

JSON = dict[str, Any]
SCORES = ("success_final", "time_at_goal", "retention")


def summary(figures: JSON) -> Group:
    """Shows summary.json, or a part of it: the way from teacher to robot, one row a policy."""
    table = Table("policy", "size", "success", "at goal", "retention", "robot")
    late = 0
    for name in ("teacher", "reference"):
        if found := figures.get(name):
            size = f"depth {found['depth']}" if name == "teacher" else "knows the task"
            table.add_row(name, size, *_figures(found, "success_final", "time_at_goal"))
    for name, student in figures.get("students", {}).items():
        exported = figures.get("export", {}).get(name, {})
        robot = figures.get("control", {}).get(name, {})
        late += robot.get("missed_deadlines", 0)
        table.add_row(
            f"{name} *" if name == figures.get("selected") else name,
            f"{student['parameters']:,}" + (f"\n{exported['latency_us_p50']:.1f} µs" if exported else ""),
            *_figures(student, *SCORES),
            *_figures(robot, "success_final"),
        )
    mark = "* selected" + ("" if figures.get("selected_passes", True) else ", though it may keep too little")
    notes = [mark, "95 % intervals below each figure"]
    notes += [f"{late:,} deadlines missed on the robot"] if figures.get("control") else []
    notes += [f"{figures['wall_s']:.0f} s in all"] if "wall_s" in figures else []
    return Group(table, "; ".join(notes))


def sweep(figures: JSON) -> Group:
    """Shows a sweep's summary, one row a combination of the varied values."""
    table = Table("values", "parameters", *_wide("success", "at goal"), "seconds", "steps/s", "runs")
    for row in figures["combinations"]:
        planned = sum(run["values"] == row["values"] for run in figures["runs"])
        table.add_row(
            described(row["values"]) or figures["preset"],
            f"{sum(row['parameters'].values()):,}",
            *_figures(row, "success_final", "time_at_goal"),
            *(f"{row[key]:,.0f}" if key in row else "" for key in ("wall_s", "env_steps_per_s")),
            f"{len(row['seeds'])}/{planned}",
        )
    note = "means; 95 % intervals over seeds"
    if len(figures["seeds"]) == 1:
        note = "one seed: no intervals, differences may be chance"
    return Group(table, f"{note}; {figures['wall_s']:,.0f} s in all")


def sweep_students(figures: JSON) -> Table:
    """Shows a sweep's students: one row a combination of the varied values and a size of student.

    As long as no student has been judged: one row a run, with the students that it has."""
    if not figures["students"]:
        table = Table("run", "students", "seconds", caption="judged by pipeline export")
        for run in figures["runs"]:
            found = run.get("students", {})
            seconds = max((student["wall_s"] for student in found.values()), default=None)
            table.add_row(run["run"], ", ".join(found), "" if seconds is None else f"{seconds:,.0f}")
        return table
    table = Table("teacher's values", "size", *_wide("at goal", "retention", "teacher"), "seeds")
    for row in figures["students"]:
        values = described(row["values"]) or figures["preset"]
        scores = _figures(row, "time_at_goal", "retention", "teacher_time_at_goal")
        table.add_row(values, row["size"], *scores, str(len(row["seeds"])))
    table.caption = "at goal, teacher: time at goal in the same episodes; means, 95 % intervals over seeds"
    return table


def side_by_side(figures: JSON) -> Group:
    """Shows what `pipelines.compare.compare_runs` gives: one column a run, one row a figure."""
    table = Table("", *figures["runs"])
    for field, values in figures["settings"].items():
        table.add_row(field, *("" if value is None else str(value) for value in values))
    table.add_section()
    summaries = [each["summary"] for each in figures["runs"].values()]
    selected = [each.get("selected", "") for each in summaries]
    found = {"teacher": [each.get("teacher", {}) for each in summaries]}
    for who, stage in (("student", "students"), ("file", "export"), ("controller", "control")):
        pairs = zip(summaries, selected, strict=True)
        found[who] = [each.get(stage, {}).get(size, {}) for each, size in pairs]
    for who in ("teacher", "student", "controller"):
        for key, name in (("success_final", "success"), ("time_at_goal", "time at goal")):
            table.add_row(f"{who}: {name}", *(_figure(each, key) for each in found[who]))
    table.add_row("student", *selected)
    table.add_row("student: retention", *(_figure(each, "retention") for each in found["student"]))
    table.add_row("file: latency, µs", *(_rounded(each, "latency_us_p50") for each in found["file"]))
    table.add_row("seconds of training", *(_rounded(each, "wall_s") for each in found["teacher"]))
    notes = [*figures["not_comparable"], f"95 % intervals below each figure; page: {figures['page']}"]
    return Group(table, *map(Text, notes))


def students(figures: JSON) -> Table:
    table = Table("student", "parameters", "seconds")
    for name, student in figures.items():
        table.add_row(name, f"{student['parameters']:,}", f"{student['wall_s']:.0f}")
    return table


def beside_baselines(figures: JSON) -> Group:
    """Shows `students` and `baselines` of a summary."""
    table = Table("baseline", "parameters", "steps", *_wide("success", "at goal", "retention"))
    for name, baseline in figures["baselines"].items():
        effort = f"{baseline['env_steps']:,}\n{baseline['wall_s']:,.0f} s"
        table.add_row(name, f"{baseline['parameters']:,}", effort, *_figures(baseline, *SCORES))
    return Group(students(figures["students"]), table)


def score(figures: JSON) -> Table:
    """Shows one policy's figures, a row each, with their intervals."""
    table = Table("figure", "value", "95 % interval")
    parts = {key: value for key, value in figures.items() if isinstance(value, dict)}
    within = {f"{part}.{key}": value for part, values in parts.items() for key, value in values.items()}
    for key, value in (figures | within).items():
        if key.endswith("_interval") or key in parts:
            continue
        interval = figures.get(f"{key}_interval")
        table.add_row(key, _shown(value), f"{interval[0]:.4g} to {interval[1]:.4g}" if interval else "")
    return table


def _shown(value: Any) -> str:
    """A figure of any of JSON's types but an object."""
    if isinstance(value, list):
        return ", ".join(map(_shown, value)) or "none"
    if value is None or isinstance(value, bool):
        return {None: "not known", True: "yes", False: "no"}[value]
    if isinstance(value, str):
        return value
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}"


def settings(figures: JSON) -> Table:
    """Shows what `pipelines.config.as_json` gives; a value is bold if it is not the default below it."""
    columns = Column("setting", no_wrap=True), Column("value", max_width=28), "what it is"
    rows = Table(*columns, title=figures["title"], title_justify="left")

    def written(value: Any) -> str:
        if value is None:
            return "none"
        return ", ".join(map(str, value)) if isinstance(value, list) else str(value)

    for group, fields in figures["settings"].items():
        for field, entry in fields.items():
            value = Text(written(entry["value"]))
            if entry["value"] != entry["default"]:
                value.stylize("bold")
                value.append(f"\ndefault {written(entry['default'])}", "not bold dim")
            rows.add_row(f"{group}.{field}", value, entry["description"])
        rows.add_section()
    rows.caption = "bold: not as by default"
    return rows


def tasks(figures: JSON) -> Table:
    """Shows what `pipelines.catalogue.describe` gives."""
    task, episode = Column("task", no_wrap=True), Column("episode", no_wrap=True)
    table = Table(task, "engines", "sizes", episode, "what it is")
    for name, task in figures.items():
        notes = [f"success within {task['success_radius']:g} {task['goal_unit']}"]
        if len(task["layouts"]) > 1:
            notes.append(f"goals: {', '.join(task['layouts'])}; evaluated on {task['evaluation_layout']}")
        notes += ["physics randomised"] if task["randomised"] else []
        table.add_row(
            name,
            "\n".join(task["engines"]),
            f"{task['observation']}, {task['goal']}, {task['action']}",
            f"{task['episode_length']} x {task['control_dt'] * 1000:g} ms",
            Group(task["description"], *(Text(note, "dim") for note in notes)),
        )
    table.caption = "sizes: of observation, goal and action; goals: layouts, the first to train"
    return table


def throughput(figures: JSON) -> Table:
    """Shows what `pipelines.catalogue.measure` gives: one row a task, one column an engine."""
    engines = list(dict.fromkeys(engine for task in figures["tasks"].values() for engine in task))
    table = Table("task", *(Column(engine, justify="right") for engine in engines))
    for name, measured in figures["tasks"].items():
        rates = {
            key: f"{found['steps_per_s']:,.0f}" if "error" not in found else "fails"
            for key, found in measured.items()
        }
        table.add_row(name, *(rates.get(engine, "") for engine in engines))
    together = f"{figures['environments']} environments together"
    table.caption = f"control steps per second on {figures['device']}, of {together}; mujoco: of one"
    return table


def presets(figures: JSON) -> Table:
    table = Table("preset", "task", "network", "steps", "what it is")
    for name, entry in figures.items():
        teacher = entry["config"]["teacher"]
        network, steps = teacher["network"], teacher["collect"]["total_steps"]
        table.add_row(
            name,
            teacher["task"]["name"],
            f"{network['depth']}x{network['width']}",
            f"{steps / 1e6:.3g} M" if steps >= 1e5 else f"{steps:,}",
            entry["description"],
        )
    table.caption = "network: depth x width; steps: of environments; all settings: --json"
    return table


def _rounded(figures: JSON, key: str) -> str:
    return f"{figures[key]:,.1f}" if key in figures else ""


def _wide(*names: str) -> list[Column]:
    return [Column(name, min_width=11) for name in names]


def _figures(figures: JSON, *keys: str) -> list[Text]:
    return [_figure(figures, key) for key in keys]


def _figure(figures: JSON, key: str) -> Text:
    """A figure with its interval below, as far as there are such."""
    if key not in figures:
        return Text("undefined" if key == "retention" and figures else "")
    found, interval = Text(f"{figures[key]:.3f}"), figures.get(f"{key}_interval")
    return found.append("\n" + "-".join(f"{edge:.3f}" for edge in interval), "dim") if interval else found
