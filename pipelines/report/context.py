"""What runs and sweeps have found so far, from their files: all that their pages are made of."""

import shlex
from collections.abc import Sequence
from typing import Any

from pipelines import tables
from pipelines.config import Config, differing, preset
from pipelines.files import read_columns, read_json
from pipelines.formats import Goal
from pipelines.presets import DEFAULT, PRESETS
from pipelines.rundir import DISTANCE_MAP, PICTURES, RECORDING, ROBOT_LOG, Run, is_sweep
from pipelines.summary import Combination, ControlFigures, Score, StudentFigures, SweepSummary
from pipelines.sweep import Sweep, short, shown

JSON = dict[str, Any]


class RunContext:
    """Contents of a run directory; a part that does not exist yet is empty or None.

    Raises: FathomError for a file that is damaged, naming how it is made anew."""

    def __init__(self, run: Run):
        self.config, self.seed, self.versions = run.config, run.seed, run.versions
        self.preset: str = run.settings["preset"]
        self.settings = {
            "preset": self.preset,
            "seed": self.seed,
            "config": self.config.model_dump(mode="json"),
        }
        found = self.found = run.figures
        self.task = found.task or run.task
        self.teacher_metrics, self.student_metrics = run.metrics("teacher"), run.metrics("students")
        path = run.path.resolve()
        sweep = next((parent for parent in path.parents[:2] if is_sweep(parent)), None)
        self.name = str(path.relative_to(sweep.parent)) if sweep else path.name  # as commands take it
        specs = {size: run.bundles / size / "spec.json" for size in found.export}
        written = f"pipeline export {run.path} --resume writes it again"
        self.bundles = {size: read_json(file, written) for size, file in specs.items() if file.exists()}
        recording = run.path / "control" / (found.controlled or "") / RECORDING
        remedy = f"pipeline control {run.bundles / (found.controlled or '')} records it again"
        self.recording: JSON = read_json(recording, remedy) if recording.exists() else {}
        self.pictures = [file.read_bytes() for file in sorted(recording.parent.glob(PICTURES))]
        log = read_columns(run.path / "control" / (found.driven or "") / ROBOT_LOG)
        self.robot_latencies = log.get("latency_us", ())
        self.parity = read_columns(run.parity(found.selected or ""))
        self.distance_map = read_columns(run.path / "teacher" / DISTANCE_MAP)
        spec = self.bundles.get(found.selected or "") or next(iter(self.bundles.values()), None)
        goal = spec["task"]["goal"] if spec else {}
        self.goal = Goal(*(goal.get(field) for field in Goal._fields))

    @property
    def run_again(self) -> dict[str, tuple[StudentFigures, ControlFigures]]:
        """By size, the score as evaluated and that of the controller, of files that were run since."""
        students = self.found.students
        return {
            size: (students[size], found)
            for size, found in self.found.control.items()
            if size in students
            and students[size].success_final is not None
            and self.found.is_exported(size, found)
        }

    @property
    def last_evaluation(self) -> Score | None:
        """The latest while the teacher learned."""
        found = [line["evaluation"] for line in self.teacher_metrics if "evaluation" in line]
        return Score.model_validate(found[-1]) if found else None

    @property
    def again(self) -> str:
        """Returns the command that makes the run again."""
        # An existing run is never overwritten.
        options = ["--seed", str(self.seed), "--run", f"{self.name.replace('/', '-')}-again"]
        return _command("run", self.preset, self.config, options)


class SweepContext:
    """Contents of a sweep and its runs, with figures as `pipelines.compare.compare_sweep` gives them."""

    def __init__(self, sweep: Sweep, found: SweepSummary, goal: Goal):
        """Args: goal: what counts as success; empty if it is not the same for all runs."""
        self.name, self.found, self.goal = sweep.path.resolve().name, found, goal
        self.config, self.preset, self.vary = sweep.config, found.preset, found.vary
        self.settings = sweep.settings | {"config": self.config.model_dump(mode="json")}
        self.versions = sweep.members[0].run.versions
        self.metrics = {member.name: member.run.metrics("teacher") for member in sweep.members}
        self.finished = [run for run in found.runs if run.state == "finished"]
        self.failed = [run for run in found.runs if run.error is not None]
        self.open = [run for run in found.runs if run.state in ("unfinished", "not begun")]
        self.distilled = [run.students for run in self.finished if run.students]
        self.evaluated = [
            each for each in self.distilled if all(s.time_at_goal is not None for s in each.values())
        ]

    @property
    def varied(self) -> list[str]:
        """What the sweep is about, in words."""
        task = [] if "task.name" in self.vary else [self.config.teacher.task.name]
        varied = [f"{short(field)} {', '.join(map(shown, values))}" for field, values in self.vary.items()]
        seeds = self.found.seeds
        return [*task, *varied, f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"]

    def labels(self, rows: Sequence[Combination]) -> str:
        return " and ".join(tables.label(self.found, row) for row in rows)

    def may_equal(self, best: Combination) -> list[str]:
        """Returns other combinations whose intervals over seeds reach that of the best, or are not known."""
        here, found = best.interval("success_final"), []
        for row in self.found.combinations:
            there = row.interval("success_final")
            if row is not best and row.success_final is not None:
                found += [] if here and there and there[1] < here[0] else [self.labels([row])]
        return found

    def reference(self, key: str, among: JSON | None = None) -> float | None:
        """Returns the reference policy's score, if the same for all runs, or for those with these values."""
        runs = (run for run in self.finished if run.values.items() >= (among or {}).items())
        found = {getattr(run.reference, key) for run in runs if isinstance(run.reference, Score)}
        return found.pop() if len(found) == 1 else None

    @property
    def again(self) -> str:
        """Returns the commands that make the sweep again, as far as it came."""
        name, options = f"{self.name}-again", []
        for field, values in self.vary.items():
            options += ["--vary", f"{field}={','.join(map(shown, values))}"]
        options += ["--seeds", ",".join(map(str, self.found.seeds)), "--run", name]
        later = ["distill"] * bool(self.distilled) + ["export"] * bool(self.found.students)
        commands = [_command("teacher", self.preset, self.config, options)]
        return "\n".join([*commands, *(shlex.join(["pipeline", stage, name]) for stage in later)])


def _command(stage: str, name: str, config: Config, options: list[str]) -> str:
    """Begins with the preset, and ends with `--set` for every value that differs from it.

    A preset that exists no longer is spelt out on top of the default one."""
    name = name if name in PRESETS else DEFAULT
    changes = differing(preset(name), config).items()
    words = [word for field, value in changes for word in ("--set", f"{field}={shown(value)}")]
    return shlex.join(["pipeline", stage, "--preset", name, *options, *words])
