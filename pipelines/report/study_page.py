"""A study as one page: what the varied settings change, at what cost, and on how many seeds that rests."""

import json
import shlex

from pipelines.compare import RANKS, figures_of
from pipelines.config import preset, validated
from pipelines.presets import DEFAULT, PRESETS
from pipelines.report import wording
from pipelines.report.findings import JSON
from pipelines.report.markup import Html, details, element, joined, table
from pipelines.report.page import document, section, side_by_side
from pipelines.report.reproduce import assignments
from pipelines.report.sections import command_line, figure, share
from pipelines.report.study_findings import StudyFindings
from pipelines.report.study_plots import against_value, learning_curves
from pipelines.report.study_students import student_plots, student_table
from pipelines.report.study_verdict import seeds_note, verdict
from pipelines.sweep import short, shown
from teacher.distance_map import FAR
from teacher.errors import UsageError

SIDE_BY_SIDE = 4  # columns up to which two grids fit beside each other
_KNOWN = dict(zip(("share_of_reference", *RANKS), ("of the reference", "rank", "rank, far"), strict=True))
STRONGEST = 45  # percent of colour in a grid's cell, so that its figure stays readable


def study_page(findings: StudyFindings) -> str:
    """The study as a HTML document that refers to nothing outside itself."""
    task = findings.settings["config"]["teacher"]["task"]["name"]
    tasks = [] if "task.name" in findings.vary else [task]
    varied = [f"{short(field)} {', '.join(map(shown, values))}" for field, values in findings.vary.items()]
    seeds = findings.figures["seeds"]
    facts = [*tasks, *varied, f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}"]
    body = joined(
        element("h1", findings.name),
        element("p", f"Study: {'; '.join(facts)}", class_="about"),
        element("p", verdict(findings), class_="verdict"),
        _left(findings),
        section("Score and cost", side_by_side(against_value(findings)), _grids(findings)),
        section("Figures", _table(findings), _known(findings)),
        section("Students", side_by_side(student_plots(findings)), student_table(findings)),
        section("Learning", side_by_side(learning_curves(findings))),
        section("Runs", _runs(findings)),
        section("Origin", _origin(findings)),
    )
    return document(findings.name, body)


def _left(findings: StudyFindings) -> Html | None:
    """Runs without a score, those in which a later stage failed, and how to go on with what has not ended."""
    items = [element("li", f"{run['run']} has no score: {run['error']}.") for run in findings.failed]
    for run in findings.runs:
        for stage, error in run.get("stage_errors", {}).items():
            items.append(element("li", f"{run['run']}: {stage} failed: {error}."))
    if findings.open:
        command = f"pipeline teacher --run {findings.name} --resume"
        count = f"{len(findings.open)} of {len(findings.runs)} runs not ended yet: "
        items.append(element("li", count, element("code", command)))
    begun = [run for run in findings.finished if "students" in run]
    if begun and (unjudged := sum(not _is_judged(run) for run in findings.finished)):
        stage = "export" if len(begun) == len(findings.finished) else "distill"
        count = f"students of {unjudged} of {len(findings.finished)} runs not judged yet: "
        command = f"pipeline {stage} {findings.name} --resume"
        items.append(element("li", count, element("code", command)))
    return element("ul", *items, class_="missing") if items else None


def _is_judged(run: JSON) -> bool:
    students = run.get("students", {}).values()
    return bool(students) and all("time_at_goal" in student for student in students)


def _table(findings: StudyFindings) -> Html | None:
    """One row a combination, means over its seeds."""
    if not findings.finished:
        return None
    head = [
        "values",
        "actor",
        "critic",
        _success(findings),
        "time at goal",
        "final distance",
        "time",
        "steps/s",
        "seeds",
    ]
    rows = []
    for figures in findings.combinations:
        planned = sum(run["values"] == figures["values"] for run in findings.runs)
        ended = len(figures["seeds"])
        parameters = figures["parameters"]
        rows.append(
            [
                findings.label(figures["values"]),
                *(wording.count(parameters[part]) for part in ("actor", "critic")),
                *(share(figures, key) for key in ("success_final", "time_at_goal")),
                _distance(findings, figures),
                wording.duration(figures.get("wall_s")),
                wording.rate(figures.get("env_steps_per_s")),
                str(ended) if ended == planned else f"{ended} of {planned}",
            ]
        )
    note = (
        "Actor, critic: parameters; the critic's are those of both encoders. Time: of a run, with "
        "compilation. Steps/s: environment steps a second with their updates, in the median iteration. "
    )
    return joined(
        table("Means over the seeds that finished", head, rows),
        element("p", note + seeds_note(findings), class_="note"),
    )


def _known(findings: StudyFindings) -> Html | None:
    """Beside what is known of the task without learning: one row a combination, means over its seeds."""
    if not any(key in figures for figures in findings.combinations for key in _KNOWN):
        return None
    rows = [
        [
            findings.label(figures["values"]),
            share(figures, "share_of_reference"),
            *(_correlation(figures, key) for key in RANKS),
        ]
        for figures in findings.combinations
    ]
    note = (
        "Of the reference: share of the time at goal that a controller that knows the task reaches. Rank: "
        "correlation of the critic's distance with the cells to walk, over all pairs of a state and a cell "
        f"of the maze, and over those at least {FAR} cells apart."
    )
    caption = "Beside what is known of the task"
    return joined(table(caption, ["values", *_KNOWN.values()], rows), element("p", note, class_="note"))


def _correlation(figures: JSON, key: str) -> Html | None:
    ends = [f"{end:.3f}" for end in figures.get(f"{key}_interval", ())]
    return figure(wording.decimal(figures.get(key)), " to ".join(ends) or None)


def _grids(findings: StudyFindings) -> Html | None:
    """For two varied settings: one row a value of the first, one column a value of the second."""
    if len(findings.vary) != 2 or not findings.finished:
        return None
    grids = [
        _grid(findings, "Success, %", "success_final", 100, ".1f"),
        _grid(findings, "Time at goal, %", "time_at_goal", 100, ".1f"),
    ]
    seconds, unit = wording.time_unit(max(run["teacher"]["wall_s"] for run in findings.finished))
    grids.append(_grid(findings, f"Wall-clock time of a run, {unit}", "wall_s", 1 / seconds, ".3g"))
    grids.append(_grid(findings, "Environment steps a second", "env_steps_per_s", 1, ",.0f"))
    columns = len(list(findings.vary.values())[1])
    return side_by_side(grids) if columns <= SIDE_BY_SIDE else joined(*grids)


def _grid(findings: StudyFindings, caption: str, key: str, scale: float, digits: str) -> Html:
    (first, rows), (second, columns) = findings.vary.items()
    known = [figures[key] for figures in findings.combinations if key in figures]
    is_share = scale == 100
    low, high = (0.0, 1.0) if is_share else (0.0, max(known, default=1.0))
    head = [element("th", f"{short(first)} \\ {short(second)}", scope="col")]
    head += [element("th", shown(value), scope="col") for value in columns]
    body = []
    for row in rows:
        cells = [element("th", shown(row), scope="row")]
        for column in columns:
            figures = next(f for f in findings.combinations if f["values"] == {first: row, second: column})
            if key not in figures:
                cells.append(element("td", "\N{EN DASH}", class_="absent"))
                continue
            strength = round(STRONGEST * (figures[key] - low) / (high - low)) if high > low else 0
            shade = f"color-mix(in srgb, var(--series-1) {strength}%, transparent)"
            style = f"background: {shade}; padding-left: .5rem"
            interval = figures.get(f"{key}_interval")
            ends = [f"{scale * end:{digits}}" for end in interval or ()]
            cells.append(
                element(
                    "td",
                    figure(f"{scale * figures[key]:{digits}}", "\N{EN DASH}".join(ends) or None),
                    style=style,
                )
            )
        body.append(element("tr", *cells))
    return element(
        "table",
        element("caption", caption),
        element("thead", element("tr", *head)),
        element("tbody", *body),
    )


def _runs(findings: StudyFindings) -> Html:
    """Every run by itself; its intervals are over episodes."""
    head = ["run", "state", _success(findings), "time at goal", "final distance", "time", "steps/s"]
    rows = []
    for run in findings.runs:
        score = figures_of(run) if run["state"] == "finished" else {}
        state = run["state"]
        if state != "finished" and "iteration" in run:
            state = f"{state}, {run['iteration']} iterations"
        rows.append(
            [
                run["run"],
                state,
                *(share(score, key) for key in ("success_final", "time_at_goal")),
                _distance(findings, score),
                wording.duration(score.get("wall_s")),
                wording.rate(run.get("env_steps_per_s")),
            ]
        )
    caption = f"Every run, an ordinary one. In small print: {wording.INTERVALS} over its held-out episodes"
    return table(caption, head, rows)


def _success(findings: StudyFindings) -> str:
    near = wording.length(findings.goal.success_radius, findings.goal.unit) if findings.goal else None
    return f"ends within {near}" if near else "success"


def _distance(findings: StudyFindings, figures: JSON) -> Html | None:
    unit = findings.goal.unit if findings.goal else None
    return figure(
        wording.length(figures.get("final_distance"), unit),
        wording.length_interval(figures.get("final_distance_interval"), unit),
    )


def _origin(findings: StudyFindings) -> Html:
    """Shared settings, versions, and how to make the study again."""
    settings = findings.settings
    try:
        again = element("pre", element("code", *map(command_line, _commands(findings))))
    except UsageError as error:
        again = element("p", f"The settings are not of this version of the program: {error}", class_="note")
    versions = [[name, value] for name, value in findings.versions.items()]
    return joined(
        element("p", f"Preset {settings['preset']}. To make the study again:"),
        again,
        details(
            "Shared settings", element("pre", json.dumps(settings["config"], indent=2, ensure_ascii=False))
        ),
        details("Versions", table("Installed when the study began", ["package", "version"], versions)),
    )


def _commands(findings: StudyFindings) -> list[str]:
    """Of the stages that have begun.

    Raises: UsageError if the settings are not of this version of the program."""
    settings = findings.settings
    config = validated(settings["config"])
    name = settings["preset"] if settings["preset"] in PRESETS else DEFAULT
    words = ["pipeline", "teacher", "--preset", name]
    for field, values in findings.vary.items():
        words += ["--vary", f"{field}={','.join(map(shown, values))}"]
    again = f"{findings.name}-again"
    words += ["--seeds", ",".join(map(str, settings["seeds"])), "--run", again]
    for assignment in assignments(preset(name), config):
        words += ["--set", assignment]
    students = [run["students"] for run in findings.runs if "students" in run]
    judged = any("time_at_goal" in student for each in students for student in each.values())
    later = ["distill"] * bool(students) + ["export"] * judged
    return [shlex.join(words), *(f"pipeline {stage} {shlex.quote(again)}" for stage in later)]
