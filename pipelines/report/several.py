"""Runs side by side, and sweeps: what differs between them, and what came of it."""

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes

from pipelines.config import validated
from pipelines.report import figures, plot, verdict, wording
from pipelines.report.context import JSON, RunContext, SweepContext, score_of
from pipelines.report.page import Block, Cell, Figure, Page, Table, Text, beside, cell
from pipelines.report.run_page import again, from_preset, scores, settings_and_versions
from pipelines.report.verdict import label, seeds_note
from pipelines.sweep import described, short, shown
from teacher.config import FAR_CELLS

SPREAD, NEAR = 0.16, 0.03  # of the way to the next value: over all lines, and from a mean to its dots
DEPTH = "network.depth"  # stands on the axis of students where it varies
KNOWN = {
    "share_of_reference": "of the reference",
    "rank_correlation": "rank",
    "rank_correlation_far": "rank, far",
}


# Runs side by side


def comparison_page(found: JSON, runs: Mapping[str, RunContext]) -> Page:
    """Args: found: as `pipelines.compare.compare_runs` gives it."""
    names = ", ".join(runs)
    none = Text("None: the runs differ in nothing that was set, or repeat each other.")
    metrics = {name: [run.teacher_metrics] for name, run in runs.items()}
    both = dict.fromkeys(("success_final", "time_at_goal"))
    learned = figures.teachers(" of the teachers, %", metrics, both)
    learned += figures.teachers(" of the teachers, %, against time", metrics, {"success_final": None}, True)
    return Page(
        heading=f"{len(runs)} runs beside each other",
        about=names,
        title=names,
        open_items=[(sentence, "") for sentence in found["not_comparable"]],
        sections={
            "Verdicts": [Text(verdict.of_run(run), lead=name) for name, run in runs.items()],
            "Settings that differ": _different(found, "settings", "setting") or [none],
            "Scores": [*beside(figures.policies(runs)), *_scores(runs)],
            "Students": [*beside(figures.retention_and_cost(runs)), *_students(runs)],
            "Learning": beside(learned),
            "Versions that differ": _different(found, "versions", "package"),
        },
    )


def _different(found: JSON, what: str, called: str) -> list[Block]:
    """Returns one row a setting, one column a run."""
    rows = [
        [key, *(each if each is None or isinstance(each, str) else json.dumps(each) for each in values)]
        for key, values in found[what].items()
    ]
    head = [called, *found["runs"]]
    return [Table(f"Where the runs differ, by {called}", head, rows)] if rows else []


def _scores(runs: Mapping[str, RunContext]) -> list[Block]:
    """Returns one row a policy that was scored."""
    rows = [
        [Cell(name, stage), *scores(score, run.unit)]
        for name, run in runs.items()
        for stage, score in run.scored.items()
    ]
    head = ["run", "success", "strict", "time at goal", "final distance"]
    return [Table(f"In small print: {wording.INTERVALS}", head, rows)] if rows else []


def _students(runs: Mapping[str, RunContext]) -> list[Block]:
    """Returns one row a size, one column a run: what it keeps of its teacher, and how fast it answers."""
    rows: list[list[Cell | str | None]] = []
    for size in dict.fromkeys(size for run in runs.values() for size in run.students):
        row: list[Cell | str | None] = [size]
        for run in runs.values():
            kept = wording.share(run.students.get(size, {}), "retention") or Cell("not known")
            latency = wording.latency(run.exported.get(size, {}).get("latency_us_p50"))
            selected = "selected" if size == run.selected else None
            detail = "; ".join(each for each in (kept.detail, latency, selected) if each)
            row.append(Cell(kept.value, detail or None) if size in run.students else None)
        rows.append(row)
    text = (
        "Retention of the teacher's time at goal, with its interval and the file's median latency. Retention "
        "is of each run's own teacher; latencies are comparable where they were measured on one machine."
    )
    return [Table("What each student keeps", ["size", *runs], rows, text)] if rows else []


# Sweeps


def sweep_page(sweep: SweepContext) -> Page:
    settings, seeds = sweep.settings, sweep.seeds
    task = [] if "task.name" in sweep.vary else [settings["config"]["teacher"]["task"]["name"]]
    varied = [f"{short(field)} {', '.join(map(shown, values))}" for field, values in sweep.vary.items()]
    facts = [*task, *varied, f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}"]
    return Page(
        heading=sweep.name,
        about=f"Sweep: {'; '.join(facts)}",
        title=sweep.name,
        verdict=verdict.of_sweep(sweep),
        open_items=_left(sweep),
        sections={
            "Score and cost": beside(_against_value(sweep)),
            "Figures": [*_means(sweep), *_known(sweep)],
            "Students": [*beside(_student_figures(sweep)), *_student_means(sweep)],
            "Learning": beside(_learning(sweep)),
            "Runs": [_runs(sweep)],
            "Origin": [
                Text(f"Preset {settings['preset']}. To make the sweep again:"),
                *again(lambda: _commands(sweep)),
                *settings_and_versions("Shared settings", settings["config"], "the sweep", sweep.versions),
            ],
        },
    )


def _left(sweep: SweepContext) -> list[tuple[str, str]]:
    """Returns runs without a score, those in which a later stage failed, and how to go on with the others."""
    items = [(f"{run['run']} has no score: {run['error']}.", "") for run in sweep.failed]
    for run in sweep.runs:
        for stage, error in run.get("stage_errors", {}).items():
            items.append((f"{run['run']}: {stage} failed: {error}.", ""))
    total, ended = len(sweep.runs), len(sweep.finished)
    if sweep.open:
        text = f"{len(sweep.open)} of {total} runs not ended yet:"
        items.append((text, f"pipeline teacher --run {sweep.name} --resume"))
    begun = [run["students"] for run in sweep.finished if run.get("students")]
    waiting = ended - sum(all("time_at_goal" in each for each in found.values()) for found in begun)
    if begun and waiting:
        stage = "export" if len(begun) == ended else "distill"
        text = f"students of {waiting} of {ended} runs not judged yet:"
        items.append((text, f"pipeline {stage} {sweep.name} --resume"))
    return items


def _means(sweep: SweepContext) -> list[Block]:
    """Returns one row a combination of values, means over its seeds."""
    if not sweep.finished:
        return []
    rows = []
    for found in sweep.combinations:
        planned = sum(run["values"] == found["values"] for run in sweep.runs)
        ended = len(found["seeds"])
        rows.append(
            [
                label(sweep, found["values"]),
                *(wording.count(found["parameters"][part]) for part in ("actor", "critic")),
                *_measured(sweep, found),
                str(ended) if ended == planned else f"{ended} of {planned}",
            ]
        )
    text = (
        "Actor, critic: parameters; the critic's are those of both encoders. Time: of a run, with "
        "compilation. Steps/s: environment steps a second with their updates, in the median iteration. "
    )
    head = ["values", "actor", "critic", *_measures(sweep), "seeds"]
    return [Table("Means over the seeds that finished", head, rows, text + seeds_note(sweep))]


def _runs(sweep: SweepContext) -> Table:
    """Returns every run by itself; its intervals are over episodes."""
    rows = []
    for run in sweep.runs:
        score, state = score_of(run) if run["state"] == "finished" else run, run["state"]
        if state != "finished" and "iteration" in run:
            state = f"{state}, {run['iteration']} iterations"
        rows.append([run["run"], state, *_measured(sweep, score)])
    caption = f"Every run, an ordinary one. In small print: {wording.INTERVALS} over its held-out episodes"
    return Table(caption, ["run", "state", *_measures(sweep)], rows)


def _measures(sweep: SweepContext) -> list[str]:
    near = wording.length(sweep.goal.get("success_radius"), sweep.goal.get("unit"))
    return [f"ends within {near}" if near else "success", "time at goal", "final distance", "time", "steps/s"]


def _measured(sweep: SweepContext, found: JSON) -> list[Cell | str | None]:
    return [
        *(wording.share(found, key) for key in ("success_final", "time_at_goal")),
        wording.distance(found, "final_distance", sweep.goal.get("unit")),
        wording.duration(found.get("wall_s")),
        wording.rate(found.get("env_steps_per_s")),
    ]


def _known(sweep: SweepContext) -> list[Block]:
    """Returns scores beside what is known of the task without learning: one row a combination of values."""
    if not any(key in found for found in sweep.combinations for key in KNOWN):
        return []
    rows = []
    for found in sweep.combinations:
        row = [label(sweep, found["values"]), wording.share(found, "share_of_reference")]
        for key in ("rank_correlation", "rank_correlation_far"):
            ends = " to ".join(f"{end:.3f}" for end in found.get(f"{key}_interval", ()))
            row.append(cell(wording.number(found.get(key), ".3f"), ends or None))
        rows.append(row)
    text = (
        "Of the reference: share of the time at goal that a controller that knows the task reaches. Rank: "
        "correlation of the critic's distance with the cells to walk, over all pairs of a state and a cell "
        f"of the maze, and over those at least {FAR_CELLS} cells apart."
    )
    return [Table("Beside what is known of the task", ["values", *KNOWN.values()], rows, text)]


def _student_means(sweep: SweepContext) -> list[Block]:
    """Returns one row a combination of values and a size, means over its seeds."""
    if not sweep.students:
        return []
    keys = ("time_at_goal", "teacher_time_at_goal", "retention")
    rows = [
        [
            label(sweep, row["values"]),
            row["size"],
            *(wording.share(row, key) for key in keys),
            str(len(row["seeds"])),
        ]
        for row in sweep.students
    ]
    counts = {row["episodes"] for row in sweep.students if "episodes" in row}
    over = f"{counts.pop():,} held-out episodes" if len(counts) == 1 else "held-out episodes"
    text = (
        f"Each exported file and its teacher ran the same {over}. Retention: the student's time at goal over "
        "its teacher's; absent where a teacher was at its goals too rarely for that ratio. "
    )
    head = ["teacher", "student", "time at goal", "its teacher's", "retention", "seeds"]
    caption = "Students, means over the seeds that were judged"
    return [Table(caption, head, rows, text + seeds_note(sweep))]


def _commands(sweep: SweepContext) -> list[str]:
    """Returns those of the stages that have begun.

    Raises: UsageError if the settings are not of this version of the program."""
    settings = sweep.settings
    name = f"{sweep.name}-again"
    words = ["pipeline", "teacher", *from_preset(settings["preset"], validated(settings["config"]))]
    words[4:4] = ["--seeds", ",".join(map(str, settings["seeds"])), "--run", name]
    for field, values in reversed(sweep.vary.items()):
        words[4:4] = ["--vary", f"{field}={','.join(map(shown, values))}"]
    students = [run["students"] for run in sweep.runs if "students" in run]
    judged = any("time_at_goal" in student for each in students for student in each.values())
    later = ["distill"] * bool(students) + ["export"] * judged
    return [shlex.join(words), *(f"pipeline {stage} {shlex.quote(name)}" for stage in later)]


# Figures of sweeps


def _against_value(sweep: SweepContext) -> list[Figure]:
    """Draws score and wall-clock time against the setting that varies; nothing for none or several."""
    found: list[Figure] = []
    if len(sweep.vary) != 1 or not sweep.finished:
        return found
    (field,) = sweep.vary
    runs, rows = list(map(score_of, sweep.finished)), sweep.combinations
    with plot.figure(f"Success and time at goal, %, against {short(field)}", found) as axes:
        lines = [Measured(name, key, runs, rows) for key, name in figures.SCORES]
        _against(axes, sweep, field, lines)
        failed = [sweep.vary[field].index(run["values"][field]) for run in sweep.failed]
        if failed:
            axes.plot(failed, [0] * len(failed), "x", color=plot.MUTED, markersize=6, label="failed")
        plot.reference_line(axes, sweep.reference("time_at_goal"), "reference: time at goal", plot.SERIES[1])
        plot.all_percent(axes)
    seconds, unit = wording.time_unit(max(run["wall_s"] for run in runs))
    took = [
        [each | {"time": each["wall_s"] / seconds} for each in them if "wall_s" in each]
        for them in (runs, rows)
    ]
    with plot.figure(f"Wall-clock time of a run, {unit}", found) as axes:
        _against(axes, sweep, field, [Measured(None, "time", *took)])
        axes.set_ylim(bottom=0)
    return found


def _learning(sweep: SweepContext) -> list[Figure]:
    """Draws scores against environment steps, a colour for each value of the last setting that varies.

    Where several vary, figures for each combination of the others."""
    *outer, last = list(sweep.vary) or [""]
    found: list[Figure] = []
    for panel in _panels(sweep.combinations, outer):
        values = [c["values"] for c in sweep.combinations if c["values"].items() >= panel.items()]
        groups = {
            shown(each[last]) if last else sweep.preset: [
                sweep.metrics[run["run"]] for run in sweep.runs if run["values"] == each
            ]
            for each in values
        }
        references = {key: sweep.reference(key, values) for key, _ in figures.SCORES}
        where = f" at {described(panel)}" if panel else ""
        title = f", %{where}, by {short(last) if last else 'preset'}"
        found += figures.teachers(title, groups, references)
    return found


def _student_figures(sweep: SweepContext) -> list[Figure]:
    """Draws students' time at goal and retention against the varied setting, a line a size, and teachers'.

    Where several settings vary, against the depth or else the last one, two figures for each combination of
    the others; nothing where none does."""
    found: list[Figure] = []
    if not sweep.vary or not sweep.students:
        return found
    field = DEPTH if DEPTH in sweep.vary else list(sweep.vary)[-1]
    titles = {"time_at_goal": "Time at goal of students, %", "retention": "Retention of time at goal, %"}
    for panel in _panels(sweep.students, [name for name in sweep.vary if name != field]):
        rows = [row for row in sweep.students if row["values"].items() >= panel.items()]
        for key, title in titles.items():
            if any(key in row for row in rows):
                where = f" at {described(panel)}" if panel else ""
                with plot.figure(f"{title}{where}", found) as axes:
                    _against(axes, sweep, field, _student_lines(sweep, rows, key))
                    if key == "time_at_goal":
                        axes.set_ylim(bottom=0)
                    else:
                        axes.axhline(1, color=plot.MUTED, linewidth=1)
                    plot.percent_axis(axes.yaxis)
                    axes.set_xlabel(f"{short(field)} of the teacher")
    return found


def _panels(rows: Sequence[JSON], outer: Sequence[str]) -> list[JSON]:
    """Returns the combinations of these settings that occur, in their order."""
    panels: list[JSON] = []
    for row in rows:
        panel = {field: row["values"][field] for field in outer}
        if panel not in panels:
            panels.append(panel)
    return panels


def _student_lines(sweep: SweepContext, rows: list[JSON], key: str) -> list["Measured"]:
    """Returns each size, and after them the teachers where `key` is one of theirs too."""
    shown_here = [row["values"] for row in rows]
    runs = [run for run in sweep.finished if run["values"] in shown_here]
    lines = []
    for size in dict.fromkeys(row["size"] for row in rows):
        own = [run.get("students", {}).get(size, {}) | {"values": run["values"]} for run in runs]
        lines.append(Measured(size, key, own, [row for row in rows if row["size"] == size]))
    if key == "time_at_goal":  # measured in the students' episodes, the same for all of them
        of = f"teacher_{key}"
        own = [
            next((each for each in run.get("students", {}).values() if of in each), {})
            | {"values": run["values"]}
            for run in runs
        ]
        most = {str(row["values"]): row for row in sorted(rows, key=lambda row: len(row["seeds"]))}
        lines.append(Measured("teacher", of, own, list(most.values())))
    return lines


class Measured(NamedTuple):
    """A measure of runs, and its means over seeds; figures with their `values`, those without it left out."""

    name: str | None
    key: str
    runs: Sequence[JSON]
    rows: Sequence[JSON]


def _against(axes: Axes, sweep: SweepContext, field: str, lines: Sequence[Measured]) -> None:
    """Draws measures over the values of a setting: means joined, with their intervals, beside a dot a run."""
    values = sweep.vary[field]
    apart = SPREAD / max(len(lines), 2)
    for i, (name, key, runs, rows) in enumerate(lines):
        colour, dash = plot.look(i) if name != "teacher" else (plot.INK, plot.DASHES[1])
        shift = (i - (len(lines) - 1) / 2) * apart
        known = sorted(
            (values.index(row["values"][field]) + shift, n) for n, row in enumerate(rows) if key in row
        )
        means = [rows[n][key] for _, n in known]
        look: dict[str, Any] = {"marker": "o", "markersize": 4.5, "linewidth": 1.2, "linestyle": dash}
        axes.plot([x for x, _ in known], means, color=colour, label=name, **look)
        for x, n in known:
            if interval := rows[n].get(f"{key}_interval"):
                axes.vlines(x, *interval, color=colour, linewidth=1.5)
        dots = [run for run in runs if run.get(key) is not None]
        at = [values.index(run["values"][field]) + shift + NEAR for run in dots]
        reached = [run[key] for run in dots]
        axes.plot(at, reached, "o", color=colour, markersize=3.5, alpha=0.6, markeredgewidth=0)
    axes.set_xticks(range(len(values)), list(map(shown, values)))
    axes.set_xlim(-0.3, len(values) - 0.7)
    axes.set_xlabel(short(field))
