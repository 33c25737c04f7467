"""What runs and sweeps have found so far, from their files: all that their pages are made of."""

import shlex
from collections.abc import Iterator
from functools import partial
from typing import Any

from pipelines.config import Config, differing, preset, validated
from pipelines.files import read_columns, read_json
from pipelines.presets import DEFAULT, PRESETS
from pipelines.report.page import as_json, duration, figure, percent, significant, with_unit
from pipelines.rundir import DISTANCE_MAP, PICTURES, RECORDING, ROBOT_LOG, Run, is_sweep
from pipelines.sweep import Sweep, described, short, shown
from student.config import NOISE, NOMINAL, OUTSIDE, SHARE
from teacher.config import CollectConfig
from teacher.errors import UsageError

JSON = dict[str, Any]

MINUS = "\N{MINUS SIGN}"
CONDITIONS = {
    NOMINAL: "as in the evaluation",
    "noise": f"noise, {percent(NOISE, 'g')} of the spread",
    "push": "pushes",
    "goals_beyond": f"goals up to {percent(OUTSIDE, 'g')} outside",
}


class RunContext:
    """Contents of a run directory; a part that does not exist yet is empty or None.

    Raises: FathomError for a file that is damaged, naming how it is made anew."""

    def __init__(self, run: Run):
        self.settings, self.versions, self.summary = run.settings, run.versions, run.summary
        self.teacher: JSON = self.summary.get("teacher", {})
        self.students: dict[str, JSON] = self.summary.get("students", {})
        self.exported: dict[str, JSON] = self.summary.get("export", {})
        self.control: dict[str, JSON] = self.summary.get("control", {})
        self.selected: str | None = self.summary.get("selected")
        self.teacher_metrics, self.student_metrics = run.metrics("teacher"), run.metrics("students")
        path = run.path.resolve()
        sweep = next((parent for parent in path.parents[:2] if is_sweep(parent)), None)
        self.name = str(path.relative_to(sweep.parent)) if sweep else path.name  # as commands take it
        # The selected student, if its controller was run, or if it drove a robot as it is exported now.
        known = [
            size for size, found in self.summary.get("robot", {}).items() if self._is_of_file(size, found)
        ]
        self.controlled, self.driven = (
            self.selected if self.selected in sizes else next(iter(sizes), None)
            for sizes in (self.control, known)
        )
        specs = {size: run.bundles / size / "spec.json" for size in self.exported}
        written = f"pipeline export {run.path} --resume writes it again"
        self.bundles = {size: read_json(file, written) for size, file in specs.items() if file.exists()}
        recording = run.path / "control" / (self.controlled or "") / RECORDING
        remedy = f"pipeline control {run.bundles / (self.controlled or '')} records it again"
        self.recording: JSON = read_json(recording, remedy) if recording.exists() else {}
        self.pictures = [file.read_bytes() for file in sorted(recording.parent.glob(PICTURES))]
        log = read_columns(run.path / "control" / (self.driven or "") / ROBOT_LOG)
        self.robot_latencies = log.get("latency_us", ())
        self.parity = read_columns(run.parity(self.selected or ""))
        self.distance_map = read_columns(run.path / "teacher" / DISTANCE_MAP)
        # The goal's part of the task's specification; empty where nothing is exported.
        spec = self.bundles.get(self.selected or "") or next(iter(self.bundles.values()), None)
        self.goal: JSON = spec["task"]["goal"] if spec else {}
        self.length = partial(with_unit, unit=self.goal.get("unit"))

    def _is_of_file(self, size: str, found: JSON) -> bool:
        """Says whether figures are of the student that the bundle of this size holds now."""
        source = self.exported.get(size, {}).get("student_sha256")
        return source is not None and found.get("student_sha256") == source

    @property
    def task(self) -> str:
        return self.summary.get("task") or self.settings["config"]["teacher"]["task"]["name"]

    @property
    def chosen(self) -> JSON:
        """Figures of the selected student; empty if there is none."""
        return self.students.get(self.selected or "", {})

    @property
    def iterations(self) -> int:
        """How many the teacher was to have."""
        return CollectConfig.model_validate(self.settings["config"]["teacher"]["collect"]).iterations

    @property
    def conditions(self) -> dict[str, JSON]:
        """Robustness by condition in words, of the file that the selected student's bundle holds now."""
        known = self.chosen.get("robustness", {})
        current = self._is_of_file(self.selected or "", known)
        return {condition(name): trial for name, trial in known["conditions"].items()} if current else {}

    @property
    def scored(self) -> dict[str, JSON]:
        """Of the teacher, and of the selected student's file and controller, those that have a score."""
        controller = self.control.get(self.selected or "", {})
        found = {"teacher": self.teacher, "student": self.chosen, "controller": controller}
        return {stage: score for stage, score in found.items() if "success_final_interval" in score}

    @property
    def run_again(self) -> dict[str, tuple[JSON, JSON]]:
        """By size, the score as evaluated and that of the controller, of files that were run since."""
        return {
            size: (self.students[size], found)
            for size, found in self.control.items()
            if "success_final" in self.students.get(size, {}) and self._is_of_file(size, found)
        }

    @property
    def critics(self) -> list[tuple[list[str], JSON]]:
        """How alike the critics are to the teacher's, each with the students that share it."""
        found: dict[str, tuple[list[str], JSON]] = {}
        for size, critic in ((size, each.get("critic")) for size, each in self.students.items()):
            if critic:
                found.setdefault(as_json(critic), ([], critic))[0].append(size)
        return list(found.values())

    @property
    def again(self) -> str:
        """Returns the command that makes the run again, or why there is none."""
        # An existing run is never overwritten.
        options = ["--seed", str(self.settings["seed"]), "--run", f"{self.name.replace('/', '-')}-again"]
        return _command("run", self.settings, options)


def condition(name: str) -> str:
    """Returns `2 steps of delay` for `delay_2`."""
    what, _, how = name.rpartition("_")
    if how in ("less", "more"):
        return f"{what} {MINUS if how == 'less' else '+'}{percent(SHARE, 'g')}"
    if what == "delay":
        return f"{how} step{'s' if how != '1' else ''} of delay"
    return CONDITIONS.get(name, name)


class SweepContext:
    """Contents of a sweep and its runs, with `figures` as `pipelines.compare.compare_sweep` gives them."""

    def __init__(self, sweep: Sweep, figures: JSON, goal: JSON):
        """Args: goal: what counts as success; empty if it is not the same for all runs."""
        self.name, self.settings, self.goal = sweep.path.resolve().name, sweep.settings, goal
        self.length = partial(with_unit, unit=goal.get("unit"))
        self.versions = sweep.members[0].run.versions
        self.seeds: list[int] = figures["seeds"]
        self.vary: dict[str, list[Any]] = figures["vary"]
        self.runs: list[JSON] = [run | run.get("teacher", {}) for run in figures["runs"]]
        self.combinations: list[JSON] = figures["combinations"]
        self.students: list[JSON] = figures["students"]
        for row in (*self.combinations, *self.students):  # the preset's name where the seed alone varies
            row["label"] = described(row["values"]) or figures["preset"]
        self.metrics = {member.name: member.run.metrics("teacher") for member in sweep.members}
        self.finished = [run for run in self.runs if run["state"] == "finished"]
        self.failed = [run for run in self.runs if "error" in run]
        self.open = [run for run in self.runs if run["state"] in ("unfinished", "not begun")]
        self.distilled = [run["students"] for run in self.finished if run.get("students")]
        self.judged = [
            each for each in self.distilled if all("time_at_goal" in found for found in each.values())
        ]

    @property
    def varied(self) -> list[str]:
        """What the sweep is about, in words."""
        task = [] if "task.name" in self.vary else [self.settings["config"]["teacher"]["task"]["name"]]
        varied = [f"{short(field)} {', '.join(map(shown, values))}" for field, values in self.vary.items()]
        return [*task, *varied, f"seed{'s' * (len(self.seeds) > 1)} {', '.join(map(str, self.seeds))}"]

    def measured(self, of: JSON) -> list[str]:
        """Returns cells of a row: success, time at goal, final distance, time, environment steps a second."""
        score = [
            figure(of, "success_final"),
            figure(of, "time_at_goal"),
            figure(of, "final_distance", self.length),
        ]
        return [*score, duration(of.get("wall_s")), significant(of.get("env_steps_per_s"))]

    def may_equal(self, best: JSON) -> list[str]:
        """Returns other combinations whose intervals over seeds reach that of the best, or are not known."""
        here = best.get("success_final_interval")
        found = []
        for row in self.combinations:
            there = row.get("success_final_interval")
            if row is not best and "success_final" in row and not (here and there and there[1] < here[0]):
                found.append(row["label"])
        return found

    def reference(self, key: str, among: JSON | None = None) -> float | None:
        """Returns the reference policy's score, if the same for all runs, or for those with these values."""
        runs = (run for run in self.finished if run["values"].items() >= (among or {}).items())
        found = {run["reference"][key] for run in runs if "reference" in run}
        return found.pop() if len(found) == 1 else None

    @property
    def again(self) -> str:
        """Returns the commands that make the sweep again, as far as it came, or why there are none."""
        name = f"{self.name}-again"
        options = [
            word for field, values in self.vary.items() for word in ("--vary", f"{field}={_comma(values)}")
        ]
        options += ["--seeds", _comma(self.seeds), "--run", name]
        later = ["distill"] * bool(self.distilled) + ["export"] * bool(self.students)
        commands = [_command("teacher", self.settings, options)]
        return "\n".join([*commands, *(shlex.join(["pipeline", stage, name]) for stage in later)])


def _comma(values: list[Any]) -> str:
    return ",".join(map(shown, values))


def _command(stage: str, settings: JSON, options: list[str]) -> str:
    try:
        words = list(from_preset(settings["preset"], validated(settings["config"], stored=True)))
    except UsageError as error:
        return f"The settings are not of this version of the program: {error}"
    return shlex.join(["pipeline", stage, *words[:2], *options, *words[2:]])


def from_preset(name: str, config: Config) -> Iterator[str]:
    """Yields `--preset` with `--set` for every value that differs from it.

    A preset that exists no longer is spelt out on top of the default one."""
    name = name if name in PRESETS else DEFAULT
    yield from ("--preset", name)
    for field, value in differing(preset(name), config).items():
        yield from ("--set", f"{field}={shown(value)}")
