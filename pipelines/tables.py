"""Figures as tables, of which a terminal and a page show the same."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.text import Text

from export.verify import ACTION_TOLERANCE, DISTANCE_TOLERANCE
from pipelines import formats
from pipelines import summary as schema
from pipelines.files import JSON
from pipelines.formats import BELOW, Cell, Goal, Table, cell, cells, listed, number, percent, with_unit
from pipelines.summary import Figures, Score, Summary, SweepSummary
from pipelines.sweep import described, shown
from student.config import NOISE, NOMINAL, OUTSIDE, SHARE
from teacher.config import FAR_CELLS

SCORE = "success_final strict_final time_at_goal final_distance"
MINUS = "\N{MINUS SIGN}"
CONDITIONS = {
    NOMINAL: "as in the evaluation",
    "noise": f"noise, {percent(NOISE, 'g')} of the spread",
    "push": "pushes",
    "goals_beyond": f"goals up to {percent(OUTSIDE, 'g')} outside",
}
BASELINES = {
    "distilled": "distilled",
    "direct": "residual, LayerNorm, depth 4, trained directly with the teacher's steps",
    "direct_long": "the same for the teacher's wall time",
    "shallow_actor": "the same actor, critic as deep as the teacher's, the teacher's steps",
    "cloning": "behaviour cloning of teacher episodes",
    "dagger": "DAgger without relabelled goals",
}


def _table(
    caption: str,
    name: str,
    columns: str,
    rows: Iterable[tuple[str | Cell, Sequence[Figures | None]]],
    unit: str | None = None,
) -> Table:
    """Returns a table whose note says of each column what the summary's schema says.

    Args:
      columns: `HEAD: KEY; ...`, or the key alone, which may be of a part, `worst_decile.student`; after a
        slash follows the key of what stands in small print below it.
      rows: each with its name and with what holds its figures: the first that has one."""
    paths = {head or key: key for head, _, key in (each.rpartition(": ") for each in columns.split("; "))}
    body, notes = [], dict[str, str]()
    for named, sources in rows:
        row: list[str | Cell] = [named]
        for head, path in paths.items():
            main, below = (_found(each, sources, unit) for each in (*path.split("/"), "")[:2])
            row.append(Cell(main.value, below.value or main.detail))
            key = re.split("[./]", path)[0]
            for field in (type(source).model_fields.get(key) for source in sources if source):
                if field and field.description:
                    notes[head] = f"{head[:1].upper()}{head[1:]}: {field.description.replace('`', '')}."
        body.append(row)
    return Table(caption, [name, *paths], body, " ".join(notes[head] for head in paths if head in notes))


def _found(path: str, sources: Sequence[Any], unit: str | None) -> Cell:
    *parts, key = path.split(".")
    for source in sources:
        for part in parts:
            source = getattr(source, part, None)
        if getattr(source, key, None) is not None:
            return cell(source, key, unit)
    return Cell("")


# A run


def funnel(found: Summary, goal: Goal) -> Table:
    """One row a stage that has finished, from the teacher to the robot."""
    rows: list[list[Any]] = []
    angles = ["final_angle"] * bool(found.teacher and found.teacher.final_angle is not None)

    def add(stage: str, what: str, score: Score, *facts: str) -> None:
        episodes = f"{score.episodes} episodes" if score.episodes else ""
        figures = cells(score, " ".join([SCORE, *angles]), goal.unit)
        rows.append([stage, Cell(what, listed(*facts, episodes)), *figures])

    def answers(of: schema.ControlFigures | schema.RobotFigures) -> str:
        return f"{formats.latencies(of)}, {number(of.missed_deadlines)} of {number(of.steps)} late"

    def of(size: str | None, what: str | None) -> str:
        return (what or "") if size == found.selected else f"{size}: {what}"

    if found.reference:
        add("Reference", "knows the task", found.reference)
    if teacher := found.teacher:
        shape = f"depth {teacher.depth}, width {teacher.width}" if teacher.depth else ""
        shape = "a file, not trained here" if teacher.policy_sha256 else shape
        steps = f"{teacher.env_steps:,} steps" if teacher.env_steps else ""
        add("Teacher", shape, teacher, steps, cell(teacher, "wall_s").value)
    if found.students:
        student = found.chosen
        parameters = f"{student.parameters:,} parameters" if student.parameters else ""
        keeps = f"keeps {percent(student.retention)}" if student.retention else ""
        name = found.selected or f"{', '.join(found.students)}, not evaluated yet"
        add("Student", name, student, parameters, keeps)
    if file := found.export.get(found.selected or ""):
        error = f"error at most {number(file.parity_max_error, '.1e')}"
        same = ["as above"] * len([*SCORE.split(), *angles])
        rows.append(["File", Cell(formats.latencies(file), error), *same])
    if control := found.control.get(found.controlled or ""):
        add("Control", of(found.controlled, control.engine), control, answers(control))
    if robot := found.robot.get(found.driven or ""):
        broken, slowed = robot.limit_violations, robot.slowed_by_separation
        reached = (robot.reached or 0) / (robot.goals or 1)
        add(
            "Robot",
            of(found.driven, robot.robot),
            Score(success_final=reached, final_distance=robot.mean_distance_m),
            f"{robot.reached} of {robot.goals} goals",
            answers(robot),
            "limits kept by the robot" if broken is None else f"{broken:,} states beyond a limit",
            f"{slowed:,} commands slowed to keep links apart" if slowed else "",
            f"farthest end {with_unit(robot.worst_distance_m, goal.unit)} away",
        )
    near, strict = (with_unit(radius, goal.unit) for radius in (goal.success_radius, goal.strict_radius))
    head = [
        "stage",
        "what",
        f"ends within {near}" if near else "success",
        f"within {strict}" if strict else "strict",
    ]
    head += ["time at goal", "final distance", *(["final angle"] * len(angles))]
    return Table(f"From the teacher to the robot. {BELOW}", head, rows)


def students(found: Summary, unit: str | None = None) -> Table:
    """One row a size, beside its teacher."""
    columns = (
        "parameters; retention; success: success_final; ends further: final_distance_change; "
        "worst tenth: worst_decile.student/worst_decile.teacher; p50: latency_us_p50; p99: latency_us_p99"
    )
    rows = [
        (Cell(size, "selected" if size == found.selected else ""), (student, found.export.get(size)))
        for size, student in found.students.items()
    ]
    table = _table(f"Students beside their teacher. {BELOW}", "size", columns, rows, unit)
    because = f"Selection: {found.selected_because.rstrip('.')}. " if found.selected_because else ""
    return table._replace(note=because + table.note)


def current_robustness(found: Summary) -> dict[str, schema.Condition]:
    """Returns what is known, by condition in words, of the file that the selected student's bundle holds."""
    known = found.chosen.robustness
    conditions = known.conditions or {} if known and found.is_exported(found.selected, known) else {}
    return {condition(name): trial for name, trial in conditions.items()}


def robustness(found: Summary) -> Table:
    """One row a condition."""
    trials = ((name, [trial]) for name, trial in current_robustness(found).items())
    columns = "teacher; student; retention; falls further by: excess_drop"
    return _table(f"The same in figures. {BELOW}", "condition", columns, trials)


def condition(name: str) -> str:
    """Returns `2 steps of delay` for `delay_2`."""
    what, _, how = name.rpartition("_")
    if how in ("less", "more"):
        return f"{what} {MINUS if how == 'less' else '+'}{percent(SHARE, 'g')}"
    if what == "delay":
        return f"{how} step{'s' if how != '1' else ''} of delay"
    return CONDITIONS.get(name, name)


def critics(found: Summary) -> Table:
    """How alike the critics are to the teacher's; students that share a critic share a row."""
    alike: dict[str, list[str]] = {}
    for size, student in found.students.items():
        if student.critic:
            alike.setdefault(student.critic.model_dump_json(), []).append(size)
    columns = (
        "rank, actions: spearman_actions; rank, states: spearman_states; best action: best_action; "
        "nearest goal: top1; gradient: gradient_cosine; distance: distance_error/distance_error_relative"
    )
    everybody = "all students" if len(alike) == 1 < len(found.students) else ""
    rows = [(everybody or ", ".join(sizes), [found.students[sizes[0]].critic]) for sizes in alike.values()]
    return _table("Students' critics beside the teacher's", "critic of", columns, rows)


def maze(found: Summary) -> Table:
    """The teacher's critic beside the true distances of a maze."""
    known = found.teacher and found.teacher.maze_distance
    pairs = {"all pairs": "", f"at least {FAR_CELLS} cells apart": "_far"}
    table = _ranks("Rank correlation with the cells to walk", known, ("critic", "straight line"), pairs)
    return table._replace(note=f"From {number(known.states)} states to {known.cells} cells." if known else "")


def calibration(found: Summary) -> Table:
    """What orders the times to the goal, and how well."""
    caption = "Rank correlation of a state's distance with its time to the goal"
    return _ranks(caption, found.chosen.calibration, ("critic's", "plain"), {"rank": ""})


def _ranks(caption: str, known: Figures | None, names: Sequence[str], pairs: Mapping[str, str]) -> Table:
    """Rank correlations of the critic's distance and of a straight line, over the pairs of each column."""
    rows = []
    for name, kind in zip(names, ("", "_straight"), strict=True):
        ranks = [getattr(known, f"rank_correlation{over}{kind}", None) for over in pairs.values()]
        rows += [[name, *(number(rank, ".2f") for rank in ranks)]] if any(ranks) else []
    return Table(caption, ["distance", *pairs], rows)


def baselines(found: Summary) -> Table:
    """The distilled student and what it is compared with."""
    size = next((each.size for each in found.baselines.values()), None)
    known = found.baselines | ({"distilled": found.students.get(size)} if size else {})
    columns = (
        "parameters; environment steps: env_steps; labels; training: wall_s; time at goal: time_at_goal; "
        "success: success_final; retention"
    )
    rows = [(title, [known[name]]) for name, title in BASELINES.items() if name in known]
    table = _table(f"The {size} student and its baselines. {BELOW}", "policy", columns, rows)
    more = " What learns from the teacher takes its steps and time on top of the teacher's own."
    return table._replace(note=table.note + more)


def parity(found: Summary) -> Table:
    """One row a file, beside JAX."""
    allowed = "{:g} for an action's entry, {:g} + {:g} · d for a distance d"
    allowed = allowed.format(ACTION_TOLERANCE[0], *DISTANCE_TOLERANCE)
    caption = f"ONNX Runtime against JAX, on observations of the students' own episodes. Allowed: {allowed}"
    columns = (
        "observations; actions: largest error: parity_max_error; distance: largest error: distance_max_error"
    )
    rows = ((size, [file]) for size, file in found.export.items())
    return _table(caption, "size", columns, rows)._replace(note="")


def pairs(caption: str, name: str, value: str, found: Mapping[str, str]) -> Table:
    return Table(caption, [name, value], list(found.items()))


def summary(figures: JSON) -> Group:
    """Shows summary.json, or a part of it: the way from teacher to robot."""
    found = Summary.model_validate(figures)
    kept = students(found).only("size", "parameters", "retention", "success", "p50")
    stages = funnel(found, Goal()).only("stage", "what", "success", "time at goal")
    parts = [stages, kept._replace(caption=f"Students. {found.selected_because or ''}")]
    seconds = [f"{found.wall_s:.0f} s in all"] if found.wall_s is not None else []
    return Group(*(part for part in parts if part.rows), *seconds)


def distilled(figures: JSON) -> Table:
    """Shows students that are not evaluated yet."""
    rows = ((size, [each]) for size, each in Summary.model_validate({"students": figures}).students.items())
    return _table("evaluated by pipeline export", "student", "parameters; time: wall_s", rows)


def beside_baselines(figures: JSON) -> Table:
    """Shows `students` and `baselines` of a summary."""
    return baselines(Summary.model_validate(figures))


# Sweeps, and runs beside each other


def label(found: SweepSummary, row: schema.Combination | schema.SweepStudents) -> str:
    """Returns the varied values, or the preset's name where the seed alone varies."""
    return described(row.values) or found.preset


def _over_seeds(found: SweepSummary) -> str:
    if len(found.seeds) == 1:
        return " One seed: there is no interval over seeds, and differences between rows may be chance."
    return f" {BELOW} of the mean over seeds (Student's t); none for one seed, or where all agree exactly."


def _measures(goal: Goal) -> str:
    near = with_unit(goal.success_radius, goal.unit)
    ends = f"ends within {near}" if near else "success"
    return (
        f"{ends}: success_final; time at goal: time_at_goal; final distance: final_distance; time: wall_s; "
        "steps/s: env_steps_per_s"
    )


def combinations(found: SweepSummary, goal: Goal) -> Table:
    """One row a combination of the varied values."""
    columns = f"actor: parameters.actor; critic: parameters.critic; {_measures(goal)}"
    rows = []
    for row in found.combinations:
        planned, ended = sum(run.values == row.values for run in found.runs), len(row.seeds)
        seeds = f"{ended} seed{'s' * (ended != 1)}" if ended == planned else f"{ended} of {planned} seeds"
        rows.append((Cell(label(found, row), seeds), [row]))
    table = _table("Means over the seeds that finished", "values", columns, rows, goal.unit)
    return table._replace(note=table.note + _over_seeds(found))


def truth(found: SweepSummary) -> Table:
    """The combinations beside what is known of the task, if anything is."""
    columns = "of the reference: share_of_reference; rank: rank_correlation; rank, far: rank_correlation_far"
    rows = [(label(found, row), [row]) for row in found.combinations]
    table = _table("Beside what is known of the task", "values", columns, rows)
    return table if any(each.value for row in table.rows for each in row[1:]) else table._replace(rows=[])


def sweep_students(found: SweepSummary) -> Table:
    """One row a combination of the varied values and a size of student that has been evaluated."""
    columns = (
        "parameters; time at goal: time_at_goal; its teacher's: teacher_time_at_goal; retention; episodes"
    )
    rows = []
    for row in found.students:
        seeds = f"{len(row.seeds)} seed{'s' * (len(row.seeds) != 1)}"
        rows.append((Cell(f"{label(found, row)}: {row.size}", seeds), [row]))
    table = _table("Students, means over the seeds that were evaluated", "teacher and student", columns, rows)
    return table._replace(note=table.note + _over_seeds(found))


def sweep_runs(found: SweepSummary, goal: Goal) -> Table:
    """One row a run."""
    rows = []
    for run in found.runs:
        left = f", {run.iteration} iterations" if run.iteration and run.state != "finished" else ""
        rows.append((Cell(run.run, run.state + left), [run.teacher, run]))
    table = _table(f"Every run, an ordinary one. {BELOW}", "run", _measures(goal), rows, goal.unit)
    return table._replace(note="")


def sweep(figures: JSON) -> Group:
    """Shows a sweep's summary, of its students those that have been evaluated, or else which there are."""
    found = SweepSummary.model_validate(figures)
    means = combinations(found, Goal()).only("values", "success", "time at goal", "time", "steps/s")
    fitted = [[run.run, ", ".join(run.students)] for run in found.runs if run.students]
    parts = [sweep_students(found), Table("evaluated by pipeline export", ["run", "students"], fitted)]
    kept = [part for part in parts if part.rows][:1]
    return Group(means, *kept, f"{_over_seeds(found)} {found.wall_s:,.0f} s in all")


def compared(found: JSON, units: Mapping[str, str | None]) -> list[Table]:
    """Several runs: what was set differently, their scores, and what each student keeps.

    Args: units: of distances, by run."""
    figures = {name: Summary.model_validate(run["summary"]) for name, run in found["runs"].items()}
    scores = [
        [Cell(name, stage), *cells(score, SCORE, units.get(name))]
        for name, each in figures.items()
        for stage, score in each.scored.items()
    ]
    kept = [
        (
            Cell(f"{size} of {name}", "selected" if size == each.selected else ""),
            (each.students[size], each.export.get(size)),
        )
        for size in dict.fromkeys(size for each in figures.values() for size in each.students)
        for name, each in figures.items()
        if size in each.students
    ]
    caption = f"Students; latencies compare where measured on one machine. {BELOW}"
    return [
        different("setting", found["settings"], found),
        Table(BELOW, ["run", "success", "strict", "time at goal", "final distance"], scores),
        _table(caption, "student", "parameters; retention; p50: latency_us_p50", kept),
    ]


def different(called: str, values: JSON, found: JSON) -> Table:
    """What is not the same in all runs: one row a setting, one column a run."""
    rows = [[key, *("" if value is None else shown(value) for value in each)] for key, each in values.items()]
    return Table(f"Where the runs differ, by {called}", [called, *found["runs"]], rows)


def side_by_side(figures: JSON) -> Group:
    """Shows runs beside each other, as `pipelines.compare.compare_runs` gives them, and their page."""
    parts = [part for part in compared(figures, {}) if part.rows]
    return Group(*parts, *map(Text, [*figures["not_comparable"], f"page: {figures['page']}"]))


# One policy, settings, tasks


def score(figures: JSON) -> Table:
    """Shows one policy's figures, a row each, with their intervals."""
    parts = {key: value for key, value in figures.items() if isinstance(value, dict)}
    within = {f"{part}.{key}": value for part, values in parts.items() for key, value in values.items()}
    rows = []
    for key, value in (figures | within).items():
        if not key.endswith("_interval") and key not in parts:
            interval = figures.get(f"{key}_interval")
            ends = " to ".join(f"{end:.4g}" for end in interval) if interval else ""
            rows.append([key, _shown(value), ends])
    return Table("", ["figure", "value", "95 % interval"], rows)


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
    """Shows what `pipelines.config.as_json` gives; below a value that is not the default stands that."""

    def written(value: Any) -> str:
        return ", ".join(map(shown, value)) if isinstance(value, list) else shown(value)

    rows = []
    for group, fields in figures["settings"].items():
        for field, entry in fields.items():
            value, usual = written(entry["value"]), written(entry["default"])
            other = f"default {usual}" if value != usual else ""
            rows.append([f"{group}.{field}", Cell(value, other), entry["description"]])
    return Table(figures["title"], ["setting", "value", "what it is"], rows)


def tasks(figures: JSON) -> Table:
    """Shows what `pipelines.catalogue.describe` gives, a line a task."""
    rows = [[name, task["description"]] for name, task in figures.items()]
    return Table(
        "pipeline tasks NAME shows what it observes, is asked and commands", ["task", "what it is"], rows
    )


def task_details(figures: JSON) -> Group:
    """Shows what `pipelines.catalogue.describe` gives: what a task observes, is asked and commands."""
    parts: list[Any] = []
    for name, task in figures.items():
        spec = task["spec"]
        goal, action = spec["goal"], spec["action"]
        kinds = [action["kind"]] if isinstance(action["kind"], str) else dict.fromkeys(action["kind"])
        centres = list(zip(action["offset"], action["scale"], strict=True))
        quantities = [
            *((term, "observed", term["entries"], ()) for term in spec["observation"]),
            (goal, "goal", goal["entries"], zip(goal["low"], goal["high"], strict=True)),
            (
                action | {"name": ", ".join(kinds)},
                "action",
                action["joints"],
                [(centre - scale, centre + scale) for centre, scale in centres],
            ),
        ]
        rows = [
            [
                of["name"],
                role,
                _short(entries),
                of["unit"],
                _short([f"{low:.3g} to {high:.3g}" for low, high in ends]),
            ]
            for of, role, entries, ends in quantities
        ]
        steps, period = spec["episode_length"], spec["control_dt"]
        lines = [
            f"simulators: {', '.join(task['engines'])}",
            f"episode: {steps} steps of {1e3 * period:g} ms, {steps * period:g} s",
            f"success: within {goal['success_radius']:g} {goal['unit']} of the goal",
        ]
        if len(layouts := task["layouts"]) > 1:
            trained, judged = layouts[0], task["evaluation_layout"]
            lines.append(f"goal sets: {', '.join(layouts)}; trained on {trained}, evaluated on {judged}")
        lines += ["physics are randomised in training"] if task["randomised"] else []
        head = ["name", "is", "entries", "unit", "range"]
        parts += [Table(f"{name}: {task['description']}", head, rows), *lines]
    return Group(*parts)


def _short(names: Sequence[str]) -> str:
    """Returns `a, b, c`, or `a … z (7)` of many, or what all of them are."""
    if len(set(names)) == 1:
        return names[0]
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} … {names[-1]} ({len(names)})"


def throughput(figures: JSON) -> Table:
    """Shows what `pipelines.catalogue.measure` gives: one row a task, one column an engine."""
    engines = list(dict.fromkeys(engine for task in figures["tasks"].values() for engine in task))
    rows = []
    for name, measured in figures["tasks"].items():
        rates = {key: number(found.get("steps_per_s")) or "fails" for key, found in measured.items()}
        rows.append([name, *(rates.get(engine, "") for engine in engines)])
    together = f"{figures['environments']} environments together"
    caption = f"control steps per second on {figures['device']}, of {together}; mujoco: of one"
    return Table(caption, ["task", *engines], rows)


def presets(figures: JSON) -> Table:
    rows = []
    for name, entry in figures.items():
        teacher = entry["config"]["teacher"]
        network, steps = teacher["network"], teacher["collect"]["total_steps"]
        size = f"{network['depth']}x{network['width']}"
        count = f"{steps / 1e6:.3g} M" if steps >= 1e5 else f"{steps:,}"
        rows.append([name, f"{teacher['task']['name']}\n{size}, {count}", entry["description"]])
    caption = "depth x width of the networks, steps in the simulator; all settings: --json"
    return Table(caption, ["preset", "task, size, steps", "what it is"], rows)
