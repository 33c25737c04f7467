"""How well what was claimed holds: scores in another simulator, and the critic's distance as a clock."""

from pipelines.report import wording
from pipelines.report.drawing import MUTED, SERIES, percent_axis, plot
from pipelines.report.findings import JSON, Findings
from pipelines.report.markup import Html, element
from pipelines.report.wording import INTERVALS

ROW = 0.26  # inches a student
CLAIMS = (("success_final", "Success, %"), ("time_at_goal", "Time at goal, %"))


def calibration_plots(findings: Findings) -> list[Html]:
    """Each student's score as judged and as run again; time to the goal against the critic's distance."""
    drawn: list[Html] = []
    again = _controlled_too(findings)
    for key, title in CLAIMS if again else ():
        with plot(f"{title} (lines: {INTERVALS})", drawn, 0.9 + ROW * len(again)) as axes:
            engines = _engines(findings, again)
            for which, offset, colour in ((0, -0.16, SERIES[1]), (1, 0.16, SERIES[0])):
                scores = [pair[which] for pair in again.values()]
                rows = [i + offset for i in range(len(again))]
                low, high = zip(*(score[f"{key}_interval"] for score in scores), strict=True)
                axes.hlines(rows, low, high, color=colour, linewidth=1.5)
                axes.plot(
                    [score[key] for score in scores],
                    rows,
                    "o",
                    color=colour,
                    markersize=4,
                    label=engines[which],
                )
            axes.set_yticks(range(len(again)), list(again))
            axes.set_ylim(len(again) - 0.4, -0.6)
            axes.grid(visible=False, axis="y")
            percent_axis(axes.xaxis)
    found = _clock(findings)
    if found:
        _draw_clock(found, drawn)
    return drawn


def calibration_note(findings: Findings) -> Html | None:
    """What the plots show, and what they must not be taken for."""
    sentences = []
    if again := _controlled_too(findings):
        judged, run = _engines(findings, again)
        sentences.append(
            f"Every student's file was judged in {judged}, where its teacher learned, and its controller was "
            f"then run in {run}: dots that lie apart show what a score loses on the way to another simulator."
        )
    found = _clock(findings)
    if found:
        sentences.append(
            f"The distance of the selected student's critic has no unit. {found['states']:,} states of the "
            f"student's own episodes, in ten groups by that distance, were followed for "
            f"{wording.short_time(found['horizon_s'])}."
        )
    if "rank_correlation" in found and "rank_correlation_straight" in found:
        ours, straight = (found[f"rank_correlation{which}"] for which in ("", "_straight"))
        sentences.append(
            f"It orders the times to the goal with a rank correlation of {ours:.2f}, the plain distance to "
            f"the goal with one of {straight:.2f}."
        )
    return element("p", " ".join(sentences), class_="note") if sentences else None


def _controlled_too(findings: Findings) -> dict[str, tuple[JSON, JSON]]:
    """By size, the score as judged and that of the controller, of files that were run since."""
    summary = findings.summary
    exported, controlled = summary.get("export", {}), summary.get("control", {})
    return {
        size: (student, controlled[size])
        for size, student in summary.get("students", {}).items()
        if "success_final" in student
        and controlled.get(size, {}).get("student_sha256") == exported.get(size, {}).get("student_sha256")
        and size in controlled
    }


def _engines(findings: Findings, again: dict[str, tuple[JSON, JSON]]) -> tuple[str, str]:
    run = next(iter(again.values()))[1]["engine"]
    judged = findings.summary.get("engine", "training")
    return wording.ENGINES.get(judged, judged), wording.ENGINES.get(run, run)


def _clock(findings: Findings) -> JSON:
    found: JSON = findings.summary.get("students", {}).get(findings.selected or "", {}).get("calibration", {})
    return found


def _draw_clock(found: JSON, drawn: list[Html]) -> None:
    horizon = found["horizon_s"]
    with plot("Seconds to the goal, by the critic's distance (lines: middle half)", drawn) as axes:
        quartiles = [[horizon if each is None else each for each in row] for row in found["seconds"]]
        low, middle, high = zip(*quartiles, strict=True)
        axes.vlines(found["distance"], low, high, color=SERIES[0], linewidth=1.5)
        axes.plot(
            found["distance"], middle, "o-", color=SERIES[0], markersize=4, linewidth=0.8, label="median"
        )
        axes.axhline(horizon, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label="or later")
        axes.set_ylim(0, 1.06 * horizon)
        axes.set_xlabel("critic's distance")
    with plot("Reached the goal in that time, %, by the critic's distance", drawn) as axes:
        axes.plot(found["distance"], found["arrived"], "o-", color=SERIES[0], markersize=4, linewidth=0.8)
        axes.set_ylim(-0.02, 1.02)
        percent_axis(axes.yaxis)
        axes.set_xlabel("critic's distance")
