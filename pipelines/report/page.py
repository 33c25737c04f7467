"""The whole page, of one piece."""

from collections.abc import Sequence
from importlib.resources import files

from pipelines.report import sections, students, wording
from pipelines.report.baselines import baselines
from pipelines.report.calibration import calibration_note, calibration_plots
from pipelines.report.findings import JSON, Findings
from pipelines.report.markup import Html, element, joined
from pipelines.report.maze import distance_note, distance_plots
from pipelines.report.pareto import pareto
from pipelines.report.plots import (
    distances,
    on_the_robot,
    robustness_bars,
    student_curves,
    teacher_curves,
)
from pipelines.report.proof import parity, proof_histograms
from pipelines.report.verdict import verdict
from pipelines.report.viewer import viewer


def page(findings: Findings) -> str:
    """The run as a HTML document that refers to nothing outside itself."""
    summary = findings.summary
    task = summary.get("task") or findings.settings["config"]["teacher"]["task"]["name"]
    trained = f", trained in {summary['engine']}" if "engine" in summary else ""
    scene = viewer(findings.recording, findings.stills) if findings.recording else None
    body = joined(
        element("h1", findings.name),
        element("p", f"Task {task}{trained}, seed {findings.settings['seed']}", class_="about"),
        element("p", verdict(findings), class_="verdict"),
        sections.funnel(findings),
        section("Learning", side_by_side(teacher_curves(findings))),
        section(
            "Students",
            students.students(findings),
            side_by_side([*pareto(findings), *student_curves(findings)]),
        ),
        section("Robustness", side_by_side(robustness_bars(findings)), students.robustness(findings)),
        section(
            "Critic",
            side_by_side(distance_plots(findings)),
            distance_note(findings),
            students.critics(findings),
        ),
        section("Baselines", baselines(findings)),
        section("Calibration", side_by_side(calibration_plots(findings)), calibration_note(findings)),
        section("File", parity(findings), side_by_side(proof_histograms(findings))),
        section("Control", _control_note(findings), scene, side_by_side(distances(findings))),
        section("Robot", _robot_note(findings), side_by_side(on_the_robot(findings))),
        section("Origin", sections.origin(findings)),
    )
    return document(f"{findings.name}: {task}", body)


def watch_page(task: str, policy: str, recording: JSON, stills: Sequence[bytes]) -> str:
    """Recorded episodes alone, as a HTML document that refers to nothing outside itself."""
    count = len(recording["episodes"])
    about = f"{count} held-out episode{'s' if count > 1 else ''} of {policy}"
    body = joined(element("h1", task), element("p", about, class_="about"), viewer(recording, stills))
    return document(f"{task}: {policy}", body)


def document(title: str, body: Html) -> str:
    """A whole page around its body."""
    head = element(
        "head",
        Html('<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'),
        element("title", title),
        element("style", _asset("style.css")),
    )
    return f'<!DOCTYPE html>\n<html lang="en">{head}{element("body", element("main", body))}</html>\n'


def section(title: str, *content: Html | None) -> Html | None:
    """A heading and what is below it; nothing if there is nothing."""
    if not any(content):
        return None
    return element("section", element("h2", title), *content)


def side_by_side(plots: list[Html]) -> Html | None:
    """Plots, or whatever else fits half a page; None if there are none."""
    return element("div", *plots, class_="plots") if plots else None


def _control_note(findings: Findings) -> Html | None:
    size = findings.controlled
    if size is None:
        return None
    found = findings.summary["control"][size]
    recorded = len(findings.recording["episodes"]) if findings.recording else 0
    shown = f"; the first {recorded} are recorded" if recorded else ""
    ran = f"The exported {size} controller ran {found['episodes']} held-out episodes in {found['engine']}"
    return element("p", f"{ran}{shown}.")


def _robot_note(findings: Findings) -> Html | None:
    size = findings.driven
    if size is None:
        return None
    found = findings.summary["robot"][size]
    worst = wording.length(found["worst_distance_m"], "m")
    states = f" of {found['states']:,}" if "states" in found else ""
    kept = (
        "the robot enforces its limits itself"
        if found["limit_violations"] is None
        else f"{found['limit_violations']:,}{states} states, one a millisecond, were beyond a limit"
    )
    return element(
        "p",
        f"The exported {size} controller drove {found['robot']} over its own protocol to {found['goals']} "
        f"goals in a row and reached {found['reached']}; the farthest end was {worst} away; {kept}.",
    )


def _asset(name: str) -> Html:
    """A file of this package, as it stands."""
    return Html((files("pipelines.report") / name).read_text(encoding="utf-8"))
