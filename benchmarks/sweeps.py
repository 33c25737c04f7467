"""What sweeps found, in a small file that can be kept: scores, learning curves, students.

    pipeline teacher --preset wheel-labyrinth --depths 4,16,64 --seeds 0,1,2 --run labyrinth
    python benchmarks/sweeps.py runs/labyrinth --out benchmarks/results/labyrinth.json

`last_five` is the mean of a run's last five evaluations, as the paper scores (arXiv:2503.14858): from one
evaluation to the next, a policy's score wavers by more than its interval over episodes. Intervals are over
seeds (Student's t, 95 %), or the least and the most where there is one seed.
"""

import json
from pathlib import Path
from statistics import fmean

from measuring import Row, parser_of, show

from pipelines.compare import seed_interval
from pipelines.sweep import Member, Sweep

KEPT = ("time_at_goal", "success_final", "share_of_reference", "env_steps", "wall_s")
OF_STUDENTS = ("time_at_goal", "retention", "teacher_time_at_goal")


def of_run(sweep: Sweep, member: Member) -> Row | None:
    """One finished run; None of others."""
    if not member.finished:
        return None
    summary = member.run.summary
    curve = [
        line["evaluation"]["time_at_goal"] for line in member.run.metrics("teacher") if "evaluation" in line
    ]
    row: Row = {"sweep": sweep.path.name, "values": member.values, "seed": member.seed}
    row |= {key: summary["teacher"][key] for key in KEPT if key in summary["teacher"]}
    row |= {"reference": summary["reference"]["time_at_goal"]} if "reference" in summary else {}
    if found := summary["teacher"].get("maze_distance"):
        row |= {key: found[key] for key in ("rank_correlation", "rank_correlation_far")}
    students = {
        size: {key: student[key] for key in OF_STUDENTS}
        for size, student in summary.get("students", {}).items()
        if all(key in student for key in OF_STUDENTS)
    }
    return (
        row | {"last_five": fmean(curve[-5:]), "curve": curve} | ({"students": students} if students else {})
    )


def over_seeds(rows: list[Row]) -> list[Row]:
    """Means over the seeds of each sweep and combination of values."""
    found = []
    for sweep, values in {(row["sweep"], json.dumps(row["values"])): None for row in rows}:
        own = [row for row in rows if (row["sweep"], json.dumps(row["values"])) == (sweep, values)]
        mean: Row = {"sweep": sweep, "values": values, "seeds": len(own)}
        for key in ("time_at_goal", "last_five", "rank_correlation_far", "wall_s"):
            if each := [row[key] for row in own if key in row]:
                lowest = -1.0 if key.startswith("rank") else 0.0
                mean[key] = fmean(each)
                mean[f"{key}_spread"] = seed_interval(each, lowest) or [min(each), max(each)]
        found.append(mean)
    return found


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("sweeps", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, help="JSON file for the rows of all runs")
    arguments = parser.parse_args()
    sweeps = [Sweep(path) for path in arguments.sweeps]
    rows = [row for sweep in sweeps for member in sweep.members if (row := of_run(sweep, member))]
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(rows, indent=1) + "\n")
    show(over_seeds(rows), arguments.json)


if __name__ == "__main__":
    main()
