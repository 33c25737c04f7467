"""Prints the tables at the top of docs/results.md, from benchmarks/results.

python benchmarks/answer.py
python benchmarks/answer.py --keep runs/quickstart    first keeps that run's figures in quickstart.json"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.compare import seed_interval

RESULTS = Path(__file__).parent / "results"
SIZES = ("2x16", "2x32", "2x64")
SCORE = ("time_at_goal", "success_final", "strict_final", "final_distance")


def read(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text())


def keep(run: Path) -> None:
    """Writes a quickstart's figures that the page shows."""
    summary = json.loads((run / "summary.json").read_text())
    versions = json.loads((run / "versions.json").read_text())

    def chosen(figures: dict[str, Any], *keys: str) -> dict[str, Any]:
        wanted = [each for key in keys for each in (key, f"{key}_interval")]
        return {key: figures[key] for key in wanted if key in figures}

    found = {key: summary[key] for key in ("task", "seed", "wall_s", "selected")} | {"versions": versions}
    found["teacher"] = chosen(summary["teacher"], *SCORE, "depth", "width", "wall_s")
    found["students"] = {
        size: chosen(figures, *SCORE, "retention", "parameters")
        | {"control": chosen(summary["control"][size], *SCORE, "missed_deadlines", "latency_us_p50")}
        for size, figures in summary["students"].items()
    }
    if robot := summary.get("robot", {}).get(summary["selected"]):
        found["robot"] = {key: robot[key] for key in ("goals", "reached", "worst_distance_m", "violations")}
    (RESULTS / "quickstart.json").write_text(json.dumps(found, indent=1) + "\n")


def with_interval(value: float, interval: list[float] | tuple[float, float] | None) -> str:
    return f"{value:.3f}" + (f" ({interval[0]:.3f}\N{EN DASH}{interval[1]:.3f})" if interval else "")


def of(figures: dict[str, Any], key: str) -> str:
    return with_interval(figures[key], figures.get(f"{key}_interval"))


def over_seeds(values: list[float]) -> str:
    return with_interval(float(np.mean(values)), seed_interval(values))


def table(head: list[str], rows: Iterator[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def on_arms() -> Iterator[list[str]]:
    found = read("quickstart")
    selected = found["students"][found["selected"]]
    control = of(selected["control"], "success_final")
    yield ["Franka Research 3 (`fr3_reach`)", f"**{found['selected']}**", of(selected, "retention"), control]
    for arm in read("arms")["result"]:
        control = of(arm, "control_success_final")
        yield [arm["arm"], f"**{arm['selected']}**", of(arm, "retention"), control]


def in_a_maze() -> Iterator[list[str]]:
    rows = [row for row in read("labyrinth") if row["sweep"] == "wheel-labyrinth-goals"]
    for depth in (4, 16, 64):
        own = [row for row in rows if row["values"] == {"network.depth": depth}]
        kept = [over_seeds([row["students"][size]["retention"] for row in own]) for size in SIZES]
        yield [f"depth {depth}", over_seeds([row["time_at_goal"] for row in own]), *kept]


def beside_direct_training() -> Iterator[list[str]]:
    for row in read("maze_students")["result"]:
        gain = "{:.3f} to {:.3f}".format(*row["gain_interval"])
        yield [str(row["seed"]), of(row, "teacher"), of(row, "distilled"), of(row, "direct"), gain]


def of_depths() -> Iterator[list[str]]:
    found = {}
    for name in ("gpu/batch-depth", "gpu/maze-ladder"):
        for row in read(name)["result"]:
            if row["seeds"] == 3 and not any("actor_lr" in text for text in row["set"]):
                batch = next((text.split("=")[1] for text in row["set"] if "batch" in text), "256")
                found[row["depth"], batch] = over_seeds([each["time_at_goal"] for each in row["by_seed"]])
    for depth in sorted({depth for depth, _ in found}):
        if (depth, "256") in found and depth < 256:
            yield [f"depth {depth}", *(found.get((depth, batch), "") for batch in ("128", "256", "512"))]


def tables() -> dict[str, str]:
    """Returns each table of the page, by name."""
    maze = ["teacher", "teacher: time at goal", *(f"retention of {size}" for size in SIZES)]
    direct = ["seed", "teacher", "student 2x64", "trained directly, depth 4", "gain, paired"]
    depths = ["time at goal", *(f"batch {size}" for size in (128, 256, 512))]
    return {
        "arms": table(["arm", "selected student", "retention", "success in the C engine"], on_arms()),
        "maze": table(maze, in_a_maze()),
        "direct": table(direct, beside_direct_training()),
        "depths": table(depths, of_depths()),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", type=Path)
    if (run := parser.parse_args().keep) is not None:
        keep(run)
    print("\n\n".join(tables().values()))
