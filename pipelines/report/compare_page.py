"""Runs side by side as one page: what differs in their settings, and what came of it."""

import json
from collections.abc import Sequence

from pipelines.report import wording
from pipelines.report.compare_plots import curves, policies, scored, tradeoff
from pipelines.report.findings import JSON, Findings
from pipelines.report.markup import Html, element, joined, table
from pipelines.report.page import document, section, side_by_side
from pipelines.report.sections import figure, scores
from pipelines.report.verdict import verdict


def compare_page(figures: JSON, runs: Sequence[Findings]) -> str:
    """As `pipelines.compare.compare_runs` gives them, with all that each run has found.

    Returns: a HTML document that refers to nothing outside itself."""
    found = dict(zip(figures["runs"], runs, strict=True))
    cautions = [element("li", sentence) for sentence in figures["not_comparable"]]
    title = ", ".join(found)
    body = joined(
        element("h1", f"{len(found)} runs beside each other"),
        element("p", title, class_="about"),
        element("ul", *cautions, class_="missing") if cautions else None,
        section("Verdicts", *(_verdict(name, each) for name, each in found.items())),
        section("Settings that differ", _different(figures, "settings", "setting")),
        section("Scores", side_by_side(policies(found)), _scores(found)),
        section("Students", side_by_side(tradeoff(found)), _students(found)),
        section("Learning", side_by_side(curves(found))),
        section("Versions that differ", _different(figures, "versions", "package"))
        if figures["versions"]
        else None,
    )
    return document(title, body)


def _verdict(name: str, run: Findings) -> Html:
    return element("p", element("strong", name), ": ", verdict(run))


def _different(figures: JSON, what: str, called: str) -> Html:
    """One row a setting, one column a run."""
    if not figures[what]:
        return element("p", "None: the runs differ in nothing that was set, or repeat each other.")
    rows = [[key, *map(_written, values)] for key, values in figures[what].items()]
    return table(f"Where the runs differ, by {called}", [called, *figures["runs"]], rows)


def _written(value: object) -> object:
    return None if value is None else value if isinstance(value, str) else json.dumps(value)


def _scores(found: dict[str, Findings]) -> Html | None:
    """One row a policy that was scored."""
    rows: list[list[object]] = []
    for name, run in found.items():
        for stage, score in scored(run).items():
            rows.append([joined(name, element("small", stage)), *scores(score, run)])
    head = ["run", "success", "strict", "time at goal", "final distance"]
    return table(f"In small print: {wording.INTERVALS}", head, rows) if rows else None


def _students(found: dict[str, Findings]) -> Html | None:
    """One row a size, one column a run: what it keeps of its teacher, and how fast it answers."""
    sizes = dict.fromkeys(size for run in found.values() for size in run.sizes)
    if not sizes:
        return None
    rows = [[size, *(_student(run, size) for run in found.values())] for size in sizes]
    note = (
        "Retention of the teacher's time at goal, with its interval and the file's median latency. Retention "
        "is of each run's own teacher; latencies are comparable where they were measured on one machine."
    )
    return joined(table("What each student keeps", ["size", *found], rows), element("p", note, class_="note"))


def _student(run: Findings, size: str) -> Html | None:
    student = run.summary.get("students", {}).get(size)
    if student is None:
        return None
    latency = wording.latency(run.summary.get("export", {}).get(size, {}).get("latency_us_p50"))
    details = [wording.retention_interval(student), latency, "selected" if size == run.selected else None]
    shown = wording.percent(student.get("retention")) or "not known"
    return figure(shown, "; ".join(each for each in details if each) or None)
