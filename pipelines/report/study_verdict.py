"""A study in a few sentences: what reaches most goals, whether that is sure, and what it costs."""

from pipelines.report import wording
from pipelines.report.findings import JSON
from pipelines.report.study_findings import StudyFindings

NAMED = 2  # combinations that a sentence lists; more are counted


def verdict(findings: StudyFindings) -> str:
    """What the study amounts to so far; no difference is called sure that the seeds do not show."""
    scored = [figures for figures in findings.combinations if "success_final" in figures]
    if not scored:
        failures = f" {len(findings.failed)} of {len(findings.runs)} failed." if findings.failed else ""
        return f"Nothing has been found yet: no run has finished.{failures}"
    sentences = [*_best(findings, scored), *_ceiling(findings, scored), *_cost(findings, scored)]
    if failed := len(findings.failed):
        sentences.append(f"{failed} of {len(findings.runs)} runs failed and {_is(failed)} in no mean")
    if waiting := len(findings.open):
        sentences.append(f"{waiting} of {len(findings.runs)} runs {_has(waiting)} not ended yet")
    return ". ".join(sentences) + "."


def seeds_note(findings: StudyFindings) -> str:
    """On how many seeds the figures rest, and what their intervals are."""
    if len(findings.figures["seeds"]) == 1:
        return "One seed: there is no interval over seeds, and differences between rows may be chance."
    return (
        f"In small print: {wording.INTERVALS} of the mean over seeds (Student's t); "
        "none where a single seed finished or all agree exactly."
    )


def _best(findings: StudyFindings, scored: list[JSON]) -> list[str]:
    top = max(figures["success_final"] for figures in scored)
    if top == 0:
        return ["No run reaches a goal at the end of an episode"]
    best = [figures for figures in scored if figures["success_final"] == top]
    names = _enumerated([findings.label(figures["values"]) for figures in best])
    share = wording.percent_with_interval(best[0], "success_final")
    seeds = max(len(figures["seeds"]) for figures in scored)
    over = f"the mean over {len(best[0]['seeds'])} seeds" if len(best[0]["seeds"]) > 1 else "with one seed"
    if len(scored) == 1:
        return [f"{_capital(names)} reaches {share} of its goals, {over}"]
    verb = "reaches" if len(best) == 1 else "reach"
    sentences = [f"{_capital(names)} {verb} most goals: {share}, {over}"]
    if seeds == 1:
        return [*sentences, "One seed: the differences may be chance"]
    unsure = [findings.label(figures["values"]) for figures in scored if _may_equal(figures, best[0])]
    if len(best) == 1 and unsure:
        others = (
            " or ".join(unsure) if len(unsure) <= NAMED else f"{len(unsure)} of the {len(scored) - 1} others"
        )
        verb = "reach" if len(unsure) > NAMED else "reaches"
        sentences.append(f"These seeds do not prove that to be more than {others} {verb}")
    return sentences


def _may_equal(figures: JSON, best: JSON) -> bool:
    """Whether another combination's interval over seeds reaches the best one's, or one has none."""
    if figures is best:
        return False
    there, here = figures.get("success_final_interval"), best.get("success_final_interval")
    return there is None or here is None or there[1] >= here[0]


def _ceiling(findings: StudyFindings, scored: list[JSON]) -> list[str]:
    """How near the best comes to what the task's reference policy shows to be possible."""
    compared = [figures for figures in scored if "share_of_reference" in figures]
    if not compared:
        return []
    best = max(compared, key=lambda figures: figures["share_of_reference"])
    share = wording.percent_with_interval(best, "share_of_reference")
    name = _capital(findings.label(best["values"]))
    return [f"{name} is at its goals for {share} of the time that a controller that knows the task is"]


def _cost(findings: StudyFindings, scored: list[JSON]) -> list[str]:
    slowest = max(scored, key=lambda figures: figures["wall_s"])
    fastest = min(scored, key=lambda figures: figures["wall_s"])
    ratio = slowest["wall_s"] / fastest["wall_s"]
    if ratio < 1.1:
        return []
    slow, fast = findings.label(slowest["values"]), findings.label(fastest["values"])
    return [
        f"{_capital(slow)} takes {wording.duration(slowest['wall_s'])} a run, "
        f"{ratio:.1f} times as long as {fast}"
    ]


def _capital(text: str) -> str:
    """With a capital, but for the name of a setting that is written with underscores."""
    return text if "_" in text.split()[0] else text[:1].upper() + text[1:]


def _enumerated(names: list[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _is(count: int) -> str:
    return "is" if count == 1 else "are"


def _has(count: int) -> str:
    return "has" if count == 1 else "have"
