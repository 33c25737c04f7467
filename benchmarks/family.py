"""What does a whole family of students cost, and one student more, against one alone?

    python benchmarks/family.py runs/quickstart --json

The same teacher labels for each set of students; rounds of distillation are timed part by part, the sets
by turns in one process, so that what disturbs the machine disturbs all of them. `ratio` is of whole
rounds, the median over repeats with its quartiles, against the first set.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import jax
from measuring import Row, middle, say, show

from student.config import StudentConfig
from student.distill import Distiller, DistillState
from teacher.errors import FathomError
from teacher.train import Teacher, load_teacher

FAMILY = StudentConfig().sizes
SETS = {
    "2x64 alone": ("2x64",),
    "and a 3x64": ("2x64", "3x64"),
    "the family": FAMILY,
    "the family and a 3x48": (*FAMILY, "3x48"),
}
PARTS = ("visit", "label", "update")


def timed_round(distiller: Distiller, state: DistillState) -> tuple[DistillState, list[float]]:
    """A round, and the seconds of each of its parts."""
    seconds = []

    def clocked(result: Any) -> Any:
        jax.block_until_ready(result)
        seconds.append(time.perf_counter() - begun)
        return result

    begun = time.perf_counter()
    visited = clocked(distiller._visit(state))
    begun = time.perf_counter()
    state = clocked(distiller._label(state, distiller.teacher.params, visited))
    begun = time.perf_counter()
    state, _ = clocked(distiller._update(state))
    return state, seconds


def measure(teacher: Teacher, settings: dict[str, Any], repeats: int) -> list[Row]:
    distillers, states = {}, {}
    for name, sizes in SETS.items():
        config = StudentConfig(sizes=sizes, rounds=repeats + 1, teacher_rounds=1, **settings)
        distillers[name] = Distiller(config, teacher)
        states[name], _ = timed_round(distillers[name], distillers[name].init(jax.random.key(0)))
        say(f"{name}: compiled")
    found: dict[str, list[list[float]]] = {name: [] for name in SETS}
    for repeat in range(repeats):
        for name, distiller in distillers.items():
            states[name], seconds = timed_round(distiller, states[name])
            found[name].append(seconds)
        say(f"repeat {repeat + 1} of {repeats}")
    whole = {name: [sum(seconds) for seconds in rounds] for name, rounds in found.items()}
    alone = next(iter(whole.values()))
    rows = []
    for name, sizes in SETS.items():
        ratio, spread = middle([mine / one for mine, one in zip(whole[name], alone, strict=True)])
        parts = {f"{part}_s": middle([s[i] for s in found[name]])[0] for i, part in enumerate(PARTS)}
        rows.append({"students": name, "count": len(sizes), **parts, "ratio": ratio, "ratio_spread": spread})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="a run with a teacher")
    parser.add_argument("--envs", type=int, default=256)
    parser.add_argument("--updates", type=int, default=300, help="per round, by default %(default)s")
    parser.add_argument("--repeats", type=int, default=5, help="rounds timed of each set")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    try:
        teacher = load_teacher(given.run / "teacher" / "checkpoints")
        rows = measure(teacher, {"envs": given.envs, "updates": given.updates}, given.repeats)
    except FathomError as error:
        sys.exit(f"Error: {error}")
    show(rows, given.json)


if __name__ == "__main__":
    main()
