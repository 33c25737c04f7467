"""The page's tables: from the teacher to the robot, the files, the settings."""

import json

from pipelines.report import wording
from pipelines.report.findings import JSON, Findings
from pipelines.report.markup import Html, details, element, joined, table
from pipelines.report.reproduce import commands
from pipelines.report.verdict import missing, radius
from teacher.errors import UsageError


def funnel(findings: Findings) -> Html:
    """One row a stage that has finished; the others are named below the table."""
    summary, size = findings.summary, findings.selected
    goal = findings.goal
    near = radius(findings)
    strict = wording.length(goal["strict_radius"], goal["unit"]) if goal else None
    head = [
        "stage",
        "what",
        f"ends within {near}" if near else "success",
        f"within {strict}" if strict else "strict",
    ]
    head += ["time at goal", "final distance"]
    rows: list[list[object]] = []
    if reference := summary.get("reference"):
        known = figure("knows the task", f"{reference['episodes']} episodes")
        rows.append([_stage("Reference"), known, *scores(reference, findings)])
    if teacher := summary.get("teacher"):
        rows.append([_stage("Teacher"), _teacher_facts(teacher), *scores(teacher, findings)])
    if summary.get("students"):
        student = summary["students"].get(size, {})
        what = _student_facts(size, student) if size else f"{', '.join(findings.sizes)}, not judged yet"
        rows.append([_stage("Student"), what, *scores(student, findings)])
    if exported := summary.get("export", {}).get(size):
        rows.append([_stage("File"), _file_facts(exported), *[_same()] * 4])
    if controlled := summary.get("control", {}).get(findings.controlled):
        what = _control_facts(controlled, findings)
        rows.append([_stage("Control"), what, *scores(controlled, findings)])
    if driven := summary.get("robot", {}).get(findings.driven):
        rows.append([_stage("Robot"), _robot_facts(driven, findings), *scores(_asscores(driven), findings)])
    left = [
        element("li", f"{stage}: {state}. ", element("code", command))
        for stage, state, command in missing(findings)
    ]
    return joined(
        table(f"From the teacher to the robot. In small print: {wording.INTERVALS}", head, rows)
        if rows
        else None,
        element("ul", *left, class_="missing") if left else None,
    )


def origin(findings: Findings) -> Html:
    """Settings, versions, hashes, and how to make the run again."""
    settings = findings.settings
    try:
        again = element("pre", element("code", *map(command_line, commands(findings))))
    except UsageError as error:
        again = element("p", f"The settings are not of this version of the program: {error}", class_="note")
    versions = [[name, value] for name, value in findings.versions.items()]
    return joined(
        element("p", f"Preset {settings['preset']}, seed {settings['seed']}. To make the run again:"),
        again,
        details("Settings", element("pre", json.dumps(settings, indent=2, ensure_ascii=False))),
        details("Versions", table("Installed when the run began", ["package", "version"], versions)),
        *(_hashes(size, bundle) for size, bundle in findings.bundles.items()),
    )


def command_line(line: str) -> Html:
    """A shell command that is broken between words only, not after the first hyphen of an option."""
    words = [element("span", word, class_="word") for word in line.split(" ")]
    return joined(*(Html(f"{word} ") for word in words[:-1]), words[-1], "\n")


def _hashes(size: str, bundle: JSON) -> Html:
    rows = [[name, element("code", value)] for name, value in bundle.get("files", {}).items()]
    return details(
        f"Bundle {size}",
        table("SHA-256 of the files", ["file", "SHA-256"], rows),
        element("pre", json.dumps(bundle.get("provenance", {}), indent=2, ensure_ascii=False)),
    )


def _stage(name: str) -> Html:
    return element("strong", name)


def _same() -> Html:
    return element("span", "as above", class_="same")


def _teacher_facts(teacher: JSON) -> Html | None:
    steps, time = wording.count(teacher.get("env_steps")), wording.duration(teacher.get("wall_s"))
    shape = f"depth {teacher['depth']}, width {teacher['width']}" if "depth" in teacher else None
    episodes = f"{teacher['episodes']} episodes" if "episodes" in teacher else None
    effort = ", ".join(part for part in (f"{steps} steps" if steps else None, time, episodes) if part)
    return figure(shape, effort)


def _student_facts(size: str, student: JSON) -> Html | None:
    parameters, kept = wording.count(student.get("parameters")), wording.percent(student.get("retention"))
    episodes = f"{student['episodes']} episodes" if "episodes" in student else None
    facts = (f"{parameters} parameters" if parameters else None, f"keeps {kept}" if kept else None, episodes)
    return figure(size, ", ".join(fact for fact in facts if fact))


def _file_facts(exported: JSON) -> Html | None:
    typical, slow = (wording.latency(exported.get(f"latency_us_p{rank}")) for rank in (50, 99))
    error = wording.error(exported.get("parity_max_error"))
    return figure(f"{typical}, p99 {slow}" if typical else None, f"error at most {error}" if error else None)


def _control_facts(controlled: JSON, findings: Findings) -> Html | None:
    size = f"{findings.controlled}: " if findings.controlled != findings.selected else ""
    typical, slow = (wording.latency(controlled.get(f"latency_us_p{rank}")) for rank in (50, 99))
    late = f"{controlled['missed_deadlines']:,} of {controlled['steps']:,} late"
    return figure(
        f"{size}{controlled['engine']}, {controlled['episodes']} episodes", f"{typical}, p99 {slow}; {late}"
    )


def _robot_facts(driven: JSON, findings: Findings) -> Html | None:
    typical, slow = (wording.latency(driven[f"latency_us_p{rank}"]) for rank in (50, 99))
    size = f"{findings.driven}: " if findings.driven != findings.selected else ""
    broken = driven["limit_violations"]
    limits = "limits kept by the robot" if broken is None else f"{broken:,} states beyond a limit"
    late = f"{driven['missed_deadlines']:,} of {driven['steps']:,} late"
    return figure(
        f"{size}{driven['robot']}, {driven['goals']} goals", f"{typical}, p99 {slow}; {late}; {limits}"
    )


def _asscores(driven: JSON) -> JSON:
    return {
        "success_final": driven["reached"] / driven["goals"],
        "final_distance": driven["mean_distance_m"],
    }


def scores(figures: JSON, findings: Findings) -> list[Html | None]:
    """Cells of a row: success, strict success, time at goal, final distance."""
    unit = findings.unit
    distance = wording.length(figures.get("final_distance"), unit)
    return [
        *(share(figures, key) for key in ("success_final", "strict_final", "time_at_goal")),
        figure(distance, wording.length_interval(figures.get("final_distance_interval"), unit)),
    ]


def share(figures: JSON, key: str) -> Html | None:
    """A share as percent, with its interval if it has one."""
    return figure(wording.percent(figures.get(key)), wording.percent_interval(figures.get(f"{key}_interval")))


def figure(value: str | None, detail: str | None) -> Html | None:
    """A figure with its interval, or whatever else belongs to it, in small print below."""
    if value is None:
        return None
    return joined(value, element("small", detail) if detail else None)
