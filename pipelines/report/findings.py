"""What a run has found so far: everything that the page is made of."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.rundir import (
    DISTANCE_MAP,
    RECORDING,
    ROBOT_LOG,
    STILLS,
    Run,
    is_study,
    read_columns,
    read_json,
)

JSON = dict[str, Any]


@dataclass(frozen=True)
class Findings:
    """Contents of a run directory; a part that does not exist yet is empty or None."""

    name: str
    settings: JSON
    versions: JSON
    summary: JSON
    teacher_metrics: list[JSON]
    student_metrics: list[JSON]
    bundles: dict[str, JSON]
    """spec.json of each exported student, by size"""
    recording: JSON | None
    """episodes of the controller of size `controlled`, as `pipelines.scene.footage.recording` writes them"""
    stills: list[bytes]
    """PNGs of the first recorded episode's first and last frame, if they could be drawn"""
    latencies: np.ndarray | None = None
    """of each step on the robot, microseconds"""
    proof: dict[str, np.ndarray] = field(default_factory=dict)
    """of the selected file, an entry for each observation that proved it: errors, latencies"""
    distance_map: dict[str, np.ndarray] = field(default_factory=dict)
    """of the teacher's critic in a maze, as `teacher.distance_map.drawable` gives it"""

    @property
    def sizes(self) -> list[str]:
        """Students that exist, in the order in which they were configured."""
        return list(self.summary.get("students", {}))

    @property
    def selected(self) -> str | None:
        """The student that export marked."""
        return self.summary.get("selected")

    @property
    def controlled(self) -> str | None:
        return _controlled(self.summary)

    @property
    def driven(self) -> str | None:
        return _driven(self.summary)

    @property
    def goal(self) -> JSON | None:
        """The goal's part of the task specification."""
        bundle = self.bundles.get(self.selected or "") or next(iter(self.bundles.values()), None)
        return bundle["task"]["goal"] if bundle else None

    @property
    def unit(self) -> str | None:
        """In which distances to the goal are measured."""
        return self.goal["unit"] if self.goal else None


def read_findings(run: Run) -> Findings:
    summary = run.summary
    bundles = {size: run.bundles / size / "spec.json" for size in summary.get("export", {})}
    exported = f"pipeline export {run.path} --resume writes it again"
    controlled = f"pipeline control {run.bundles / (_controlled(summary) or '')} records it again"
    recording = run.path / "control" / (_controlled(summary) or "") / RECORDING
    stills = [recording.with_name(name) for name in STILLS]
    log = read_columns(run.path / "control" / (_driven(summary) or "") / ROBOT_LOG)
    return Findings(
        name=_name(run.path.resolve()),
        settings=run.settings,
        versions=run.versions,
        summary=summary,
        teacher_metrics=run.metrics("teacher"),
        student_metrics=run.metrics("students"),
        bundles={size: read_json(file, exported) for size, file in bundles.items() if file.exists()},
        recording=read_json(recording, controlled) if recording.exists() else None,
        stills=[file.read_bytes() for file in stills] if all(file.exists() for file in stills) else [],
        latencies=log.get("latency_us"),
        proof=read_columns(run.proof(summary.get("selected") or "")),
        distance_map=read_columns(run.path / "teacher" / DISTANCE_MAP),
    )


def _name(path: Path) -> str:
    """As commands take it: a run of a study with the study before it."""
    study = next((parent for parent in path.parents[:2] if is_study(parent)), None)
    return str(path.relative_to(study.parent)) if study else path.name


def _controlled(summary: JSON) -> str | None:
    """The student whose controller is shown: the selected one, if it was run, else the first that was."""
    runs = summary.get("control", {})
    selected = summary.get("selected")
    return selected if selected in runs else next(iter(runs), None)


def _driven(summary: JSON) -> str | None:
    """The student that drove a robot, of those that are exported now: the selected one first."""
    exported, selected = summary.get("export", {}), summary.get("selected")
    sizes = [
        size
        for size, found in summary.get("robot", {}).items()
        if found["student_sha256"] == exported.get(size, {}).get("student_sha256")
    ]
    return selected if selected in sizes else next(iter(sizes), None)
