"""What runs have found so far, from their files: everything that their pages are made of."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.files import read_columns, read_json
from pipelines.report import wording
from pipelines.rundir import DISTANCE_MAP, PICTURES, RECORDING, ROBOT_LOG, Run, is_sweep

JSON = dict[str, Any]


@dataclass(frozen=True)
class RunContext:
    """Contents of a run directory; a part that does not exist yet is empty or None."""

    name: str  # as commands take it: a run of a sweep with the sweep before it
    settings: JSON
    versions: JSON
    summary: JSON
    teacher: JSON  # parts of the summary
    students: dict[str, JSON]  # by size, in the order in which they were configured
    exported: dict[str, JSON]
    control: dict[str, JSON]
    selected: str | None  # the student that export marked
    controlled: str | None  # the student whose controller is shown
    driven: str | None  # the student that drove a robot
    teacher_metrics: list[JSON]
    student_metrics: list[JSON]
    bundles: dict[str, JSON]  # spec.json of each exported student, by size
    recording: JSON | None  # of the controller of size `controlled`, as `render.Recording.figures` has it
    pictures: list[bytes]  # its episodes as animated WebP, if they could be drawn
    latencies: np.ndarray | None  # of each step on the robot, microseconds
    parity: dict[str, np.ndarray]  # of the selected file: errors and latency on each observation
    distance_map: dict[str, np.ndarray]  # as `teacher.distance_map.drawable` gives it

    @classmethod
    def of(cls, run: Run) -> "RunContext":
        """Reads a run's files. Raises: FathomError for one that is damaged, naming how it is made anew."""
        summary, path = run.summary, run.path.resolve()
        exported, control = summary.get("export", {}), summary.get("control", {})
        selected = summary.get("selected")
        sweep = next((parent for parent in path.parents[:2] if is_sweep(parent)), None)
        # The selected student, if its controller was run, or if it drove a robot as it is exported now.
        controlled = selected if selected in control else next(iter(control), None)
        known = [
            size
            for size, found in summary.get("robot", {}).items()
            if found["student_sha256"] == exported.get(size, {}).get("student_sha256")
        ]
        driven = selected if selected in known else next(iter(known), None)
        recording = run.path / "control" / (controlled or "") / RECORDING
        remedy = f"pipeline control {run.bundles / (controlled or '')} records it again"
        specs = {size: run.bundles / size / "spec.json" for size in exported}
        written = f"pipeline export {run.path} --resume writes it again"
        return cls(
            name=str(path.relative_to(sweep.parent)) if sweep else path.name,
            settings=run.settings,
            versions=run.versions,
            summary=summary,
            teacher=summary.get("teacher", {}),
            students=summary.get("students", {}),
            exported=exported,
            control=control,
            selected=selected,
            controlled=controlled,
            driven=driven,
            teacher_metrics=run.metrics("teacher"),
            student_metrics=run.metrics("students"),
            bundles={size: read_json(file, written) for size, file in specs.items() if file.exists()},
            recording=read_json(recording, remedy) if recording.exists() else None,
            pictures=[file.read_bytes() for file in sorted(recording.parent.glob(PICTURES))],
            latencies=read_columns(run.path / "control" / (driven or "") / ROBOT_LOG).get("latency_us"),
            parity=read_columns(run.proof(selected or "")),
            distance_map=read_columns(run.path / "teacher" / DISTANCE_MAP),
        )

    @property
    def chosen(self) -> JSON:
        """Figures of the selected student; empty if there is none."""
        return self.students.get(self.selected or "", {})

    @property
    def goal(self) -> JSON:
        """The goal's part of the task specification; empty where nothing is exported."""
        bundle = self.bundles.get(self.selected or "") or next(iter(self.bundles.values()), None)
        return bundle["task"]["goal"] if bundle else {}

    @property
    def unit(self) -> str | None:
        """In which distances to the goal are measured."""
        return self.goal.get("unit")

    @property
    def radius(self) -> str | None:
        """`5 cm`: how near counts as success, if the task's specification is at hand."""
        return wording.length(self.goal.get("success_radius"), self.unit)

    @property
    def conditions(self) -> dict[str, JSON]:
        """Robustness by condition, of the file that the selected student's bundle holds now."""
        known = self.chosen.get("robustness", {})
        source = self.exported.get(self.selected or "", {}).get("student_sha256")
        return known.get("conditions", {}) if known.get("student_sha256") == source else {}

    @property
    def scored(self) -> dict[str, JSON]:
        """Of the teacher, and of the selected student's file and controller, those that have a score."""
        found = {
            "teacher": self.teacher,
            "student": self.chosen,
            "controller": self.control.get(self.selected or "", {}),
        }
        return {stage: score for stage, score in found.items() if "success_final_interval" in score}

    @property
    def run_again(self) -> dict[str, tuple[JSON, JSON]]:
        """By size, the score as evaluated and that of the controller, of files that were run since."""
        return {
            size: (student, self.control[size])
            for size, student in self.students.items()
            if "success_final" in student
            and size in self.control
            and self.control[size].get("student_sha256") == self.exported.get(size, {}).get("student_sha256")
        }


@dataclass(frozen=True)
class SweepContext:
    """Contents of a sweep and its runs."""

    name: str
    settings: JSON
    versions: JSON
    preset: str
    seeds: list[int]
    vary: dict[str, list[Any]]
    runs: list[JSON]  # these and the next two as `pipelines.compare.compare` gives them
    combinations: list[JSON]
    students: list[JSON]
    metrics: dict[str, list[JSON]]  # of each run's teacher, by its name within the sweep
    goal: JSON  # what counts as success; empty if it is not the same for all runs

    @property
    def finished(self) -> list[JSON]:
        return [run for run in self.runs if run["state"] == "finished"]

    @property
    def failed(self) -> list[JSON]:
        """Runs that ended without a score."""
        return [run for run in self.runs if "error" in run]

    @property
    def open(self) -> list[JSON]:
        """Runs that can go on or have not begun."""
        return [run for run in self.runs if run["state"] in ("unfinished", "not begun")]

    def reference(self, key: str, among: list[JSON] | None = None) -> float | None:
        """Returns the reference policy's score, if the same for all runs, or for those with these values."""
        found = {
            run["reference"][key]
            for run in self.finished
            if "reference" in run and (among is None or run["values"] in among)
        }
        return found.pop() if len(found) == 1 else None


def score_of(run: JSON) -> JSON:
    """Returns all that a finished run of a sweep was measured by, in one object."""
    rate = {key: run[key] for key in ("env_steps_per_s",) if key in run}
    return rate | run["teacher"].get("maze_distance", {}) | run["teacher"] | {"values": run["values"]}
