"""What runs and sweeps have found so far, from their files: all that their pages are made of."""

import shlex

from pipelines.config import Config, differing, preset
from pipelines.files import JSON, read_json
from pipelines.formats import Goal
from pipelines.presets import DEFAULT, PRESETS
from pipelines.rundir import PICTURES, RECORDING, Run, is_sweep
from pipelines.summary import SweepSummary
from pipelines.sweep import Sweep, shown


class RunContext:
    """Contents of a run directory; a part that does not exist yet is empty.

    Raises: FathomError for a file that is damaged, naming how it is made anew."""

    def __init__(self, run: Run):
        self.config, self.versions, self.parity = run.config, run.versions, run.parity
        self.settings = run.settings | {"config": self.config.model_dump(mode="json")}
        found = self.found = run.figures
        self.task = found.task or run.task
        self.teacher_metrics, self.student_metrics = run.metrics("teacher"), run.metrics("students")
        path = self.path = run.path.resolve()
        sweep = next((parent for parent in path.parents[:2] if is_sweep(parent)), None)
        self.name = str(path.relative_to(sweep.parent)) if sweep else path.name  # as commands take it
        specs = {size: run.bundles / size / "spec.json" for size in found.export}
        written = f"pipeline export {run.path} --resume writes it again"
        self.bundles = {size: read_json(file, written) for size, file in specs.items() if file.exists()}
        recording = run.path / "control" / (found.controlled or "") / RECORDING
        remedy = f"pipeline control {run.bundles / (found.controlled or '')} records it again"
        self.recording: JSON = read_json(recording, remedy) if recording.exists() else {}
        self.pictures = [file.read_bytes() for file in sorted(recording.parent.glob(PICTURES))]
        spec = self.bundles.get(found.selected or "") or next(iter(self.bundles.values()), None)
        goal = spec["task"]["goal"] if spec else {}
        self.goal = Goal(*(goal.get(field) for field in Goal._fields))

    @property
    def again(self) -> str:
        """Returns the command that makes the run again; an existing one is never overwritten."""
        options = ["--seed", str(self.settings["seed"]), "--run", f"{self.name.replace('/', '-')}-again"]
        return _command("run", self.settings["preset"], self.config, options)


class SweepContext:
    """Contents of a sweep and its runs, with figures as `pipelines.compare.compare_sweep` gives them."""

    def __init__(self, sweep: Sweep, found: SweepSummary, goal: Goal):
        """Args: goal: what counts as success; empty if it is not the same for all runs."""
        self.name, self.found, self.goal = sweep.path.resolve().name, found, goal
        self.config, self.versions = sweep.config, sweep.members[0].run.versions
        self.settings = sweep.settings | {"config": self.config.model_dump(mode="json")}
        self.metrics = {member.name: member.run.metrics("teacher") for member in sweep.members}
        self.finished = [run for run in found.runs if run.state == "finished"]
        self.failed = [run for run in found.runs if run.error is not None]
        self.open = [run for run in found.runs if run.state in ("unfinished", "not begun")]
        self.distilled = [run.students for run in self.finished if run.students]

    @property
    def again(self) -> str:
        """Returns the commands that make the sweep again, as far as it came."""
        name, options = f"{self.name}-again", []
        for field, values in self.found.vary.items():
            options += ["--vary", f"{field}={','.join(map(shown, values))}"]
        options += ["--seeds", ",".join(map(str, self.found.seeds)), "--run", name]
        later = ["distill"] * bool(self.distilled) + ["export"] * bool(self.found.students)
        commands = [_command("teacher", self.found.preset, self.config, options)]
        return "\n".join([*commands, *(shlex.join(["pipeline", stage, name]) for stage in later)])


def _command(stage: str, name: str, config: Config, options: list[str]) -> str:
    """Begins with the preset, and ends with `--set` for every value that differs from it.

    A preset that exists no longer is spelt out on top of the default one."""
    name = name if name in PRESETS else DEFAULT
    changes = differing(preset(name), config).items()
    words = [word for field, value in changes for word in ("--set", f"{field}={shown(value)}")]
    return shlex.join(["pipeline", stage, "--preset", name, *options, *words])
