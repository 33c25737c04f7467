"""What a study has found so far: everything that its page is made of."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.compare import compare_study
from pipelines.report.findings import JSON
from pipelines.rundir import read_json
from pipelines.sweep import Study, described
from teacher.spec import GoalSpec
from teacher.tasks import make_task


@dataclass(frozen=True)
class StudyFindings:
    """Contents of a study and its runs."""

    name: str
    settings: JSON
    versions: JSON
    figures: JSON
    """as `pipelines.compare.compare_study` gives them"""
    metrics: dict[str, list[JSON]]
    """of each run, by its name within the study"""
    goal: GoalSpec | None
    """what counts as success, if it is the same for all runs"""

    @property
    def vary(self) -> dict[str, list[Any]]:
        return self.figures["vary"]

    @property
    def runs(self) -> list[JSON]:
        return self.figures["runs"]

    @property
    def combinations(self) -> list[JSON]:
        return self.figures["combinations"]

    @property
    def students(self) -> list[JSON]:
        """One for each combination of values and size of student that has been judged."""
        return self.figures["students"]

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

    def reference(self, key: str, among: Sequence[JSON] | None = None) -> float | None:
        """The reference policy's score, if it is the same for all runs, or for those with these values."""
        found = {
            run["reference"][key]
            for run in self.finished
            if "reference" in run and (among is None or run["values"] in among)
        }
        return found.pop() if len(found) == 1 else None

    def label(self, values: JSON) -> str:
        """`depth 4`; the preset's name where nothing but the seed varies."""
        return described(values) or self.settings["preset"]


def read_study(study: Study) -> StudyFindings:
    members = study.members
    goals = [make_task(member.run.config.teacher.task.name).spec.goal for member in members]
    return StudyFindings(
        name=study.path.resolve().name,
        settings=study.settings,
        versions=read_json(members[0].run.path / "versions.json"),
        figures=compare_study(study, study.failures),
        metrics={member.name: member.run.metrics("teacher") for member in members},
        goal=goals[0] if all(goal == goals[0] for goal in goals) else None,
    )
