"""What the selected student's critic is good for: the calibration of its reachability estimate."""

from pipelines.report import wording
from pipelines.report.drawing import MUTED, SERIES, percent_axis, plot
from pipelines.report.findings import JSON, Findings
from pipelines.report.markup import Html, element, joined, table

_KINDS = {"inside": "inside the training range", "beyond": "beyond it"}
LARGEST = 6.0  # points: radius of the marker with the most questions


def critic_uses(findings: Findings) -> Html | None:
    """Scores beside their references, and the reliability diagram; None if nothing was measured."""
    student = findings.summary.get("students", {}).get(findings.selected, {})
    found: JSON = student.get("reachability", {})
    if "brier" not in found:
        return None
    return joined(_scores(found), _note(found), element("div", *_reliability(found), class_="plots"))


def _scores(found: JSON) -> Html:
    head = ["goals", "questions", "arrived", "Brier score", "base rate's", "Euclidean distance's"]
    head += ["calibration error", "AUC"]
    of_all = [
        wording.decimal(found["brier"]),
        _reference(found, "base"),
        _reference(found, "euclidean"),
        wording.percent(found["ece"]),
        wording.decimal(found["auc"]),
    ]
    rows = [["all", *_asked(found), *of_all]]
    for kind, scores in found["goals"].items():
        briers = (wording.decimal(scores[key]) for key in ("brier", "brier_base", "brier_euclidean"))
        rows.append([_KINDS[kind], *_asked(scores), *briers, wording.percent(scores["ece"]), None])
    return table("Will the student be at its goal in time? Answers of its critic, held out", head, rows)


def _asked(scores: JSON) -> list[str | None]:
    return [wording.count(scores["questions"]), wording.percent(scores["arrived"])]


def _reference(found: JSON, name: str) -> Html:
    """The reference's score, and by how much the critic's is lower."""
    low, high = (wording.decimal(value) for value in found[f"gain_over_{name}_interval"])
    return joined(wording.decimal(found[f"brier_{name}"]), element("small", f"lower by {low} to {high}"))


def _note(found: JSON) -> Html:
    kept = (
        "The critic surely does better than both references: the bundle's controller answers reachable()."
        if found["coefficients"]
        else "The critic does not surely do better than both references: the bundle offers no estimate."
    )
    what = (
        "Asked for: the probability that the student comes within the success radius in a number of seconds, "
        "from states of its own episodes in which it is not there yet, by the distance of its critic. "
        "Every other goal was moved outwards from the middle of the training range, "
        f"{found['stretch']:g} times as far: without these there would be few failures to foretell. The time "
        "is drawn log-evenly, from one step to the end of the episode. The model was fitted on other "
        "episodes of the same kind. "
    )
    return element("p", what + kept, class_="note")


def _reliability(found: JSON) -> list[Html]:
    drawn: list[Html] = []
    bins = found["bins"]
    predicted, observed, counts = ([each[key] for each in bins] for key in ("predicted", "observed", "count"))
    areas = [LARGEST**2 * max(count / max(counts), 0.1) for count in counts]
    with plot("Arrived in time, %, against the probability that was given, %", drawn) as axes:
        axes.plot((0, 1), (0, 1), color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label="calibrated")
        axes.plot(predicted, observed, color=SERIES[0], label="student's critic")
        axes.scatter(predicted, observed, s=areas, color=SERIES[0])
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.02)
        axes.set_xlabel("probability, %")
        percent_axis(axes.xaxis)
        percent_axis(axes.yaxis)
    return drawn
