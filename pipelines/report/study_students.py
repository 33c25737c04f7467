"""Students of a study beside their teachers: what each size reaches and keeps, over the varied values."""

from collections.abc import Callable

from matplotlib.axes import Axes

from pipelines.report.drawing import INK, MUTED, SERIES, percent_axis, plot
from pipelines.report.findings import JSON
from pipelines.report.markup import Html, element, joined, table
from pipelines.report.sections import share
from pipelines.report.study_findings import StudyFindings
from pipelines.report.study_plots import DASHES, points, value_axis
from pipelines.report.study_verdict import seeds_note
from pipelines.sweep import described, short

DEPTH = "network.depth"  # stands on the axis where it varies
APART, TOGETHER = 0.022, 0.11  # of an axis's length: two lines at most, and all of them
PLOTTED = (("time_at_goal", "Time at goal of students, %"), ("retention", "Retention of time at goal, %"))


def student_plots(findings: StudyFindings) -> list[Html]:
    """Time at goal and retention against the varied setting: a line a size, and the teachers' own.

    Where several settings vary, against the depth or else the last one, two plots for each combination of
    the others; nothing where none does."""
    drawn: list[Html] = []
    if not findings.vary or not findings.students:
        return drawn
    field = DEPTH if DEPTH in findings.vary else list(findings.vary)[-1]
    panels: list[JSON] = []
    for row in findings.students:
        panel = {name: value for name, value in row["values"].items() if name != field}
        if panel not in panels:
            panels.append(panel)
    for panel in panels:
        rows = [row for row in findings.students if row["values"].items() >= panel.items()]
        for key, title in PLOTTED:
            if any(key in row for row in rows):
                where = f" at {described(panel)}" if panel else ""
                with plot(f"{title}{where}", drawn) as axes:
                    position = value_axis(axes, findings, field)
                    _lines(axes, findings, position, rows, key)
                    axes.set_xlabel(f"{short(field)} of the teacher")
    return drawn


def student_table(findings: StudyFindings) -> Html | None:
    """One row a combination of values and a size, means over its seeds."""
    if not findings.students:
        return None
    head = ["teacher", "student", "time at goal", "its teacher's", "retention", "seeds"]
    rows = [
        [
            findings.label(row["values"]),
            row["size"],
            *(share(row, key) for key in ("time_at_goal", "teacher_time_at_goal", "retention")),
            str(len(row["seeds"])),
        ]
        for row in findings.students
    ]
    counts = {row["episodes"] for row in findings.students if "episodes" in row}
    over = f"{counts.pop():,} held-out episodes" if len(counts) == 1 else "held-out episodes"
    note = (
        f"Each exported file and its teacher ran the same {over}. Retention: the student's time at goal over "
        "its teacher's; absent where a teacher was at its goals too rarely for that ratio. "
    )
    return joined(
        table("Students, means over the seeds that were judged", head, rows),
        element("p", note + seeds_note(findings), class_="note"),
    )


def _lines(
    axes: Axes, findings: StudyFindings, position: Callable[[JSON], float], rows: list[JSON], key: str
) -> None:
    """The teachers, where `key` is one of theirs too, and each size beside the others."""
    sizes = list(dict.fromkeys(row["size"] for row in rows))
    shown_here = [row["values"] for row in rows]
    runs = [run for run in findings.finished if run["values"] in shown_here]
    names = ["teacher", *sizes] if key == "time_at_goal" else sizes
    apart = min(APART, TOGETHER / len(names))
    for number, name in enumerate(names):
        place = {"shift": (number - (len(names) - 1) / 2) * apart, "beside": 0.4 * apart}
        if name == "teacher":
            theirs = f"teacher_{key}"
            own = [{"values": run["values"], theirs: _of_teacher(run, theirs)} for run in runs]
            most = {str(row["values"]): row for row in sorted(rows, key=lambda row: len(row["seeds"]))}
            points(axes, position, own, list(most.values()), theirs, INK, label=name, dash=DASHES[1], **place)
            continue
        i = sizes.index(name)
        colour, dash = SERIES[i % len(SERIES)], DASHES[i // len(SERIES) % len(DASHES)]
        own = [run.get("students", {}).get(name, {}) | {"values": run["values"]} for run in runs]
        of_size = [row for row in rows if row["size"] == name]
        points(axes, position, own, of_size, key, colour, label=name, dash=dash, **place)
    if key == "time_at_goal":
        axes.set_ylim(bottom=0)
    else:
        axes.axhline(1, color=MUTED, linewidth=1)
    percent_axis(axes.yaxis)


def _of_teacher(run: JSON, key: str) -> float | None:
    """What its students' episodes have measured of a run's teacher; the same for all of them."""
    return next((student[key] for student in run.get("students", {}).values() if key in student), None)
