"""A sweep: a directory of ordinary teacher runs that differ in a few settings and in the seed.

sweep.json        shared settings, what varies, and the runs in the order in which they are trained
summary.json      the figures of every run that has ended, and of students over the seeds
depth-4/seed-0/   a run, as `pipeline teacher` makes it
report.html
"""

import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pipelines.config import TEACHER_GROUPS, Config, groups, with_values
from pipelines.files import JSON, new_folder, read_object, set_aside_if_damaged, write_json
from pipelines.rundir import (
    RUNS,
    SWEEP,
    Run,
    create_run,
    is_sweep,
    run_path,
    stored_config,
    sweep_settings,
    sweeps,
)
from teacher.errors import UsageError, unknown_name

Values = dict[str, Any]  # group.field -> value

LARGEST_SEED = 2**31 - 1


class Combination(NamedTuple):
    """One value of each varied setting, and the whole configuration that this makes."""

    values: Values
    config: Config


def combinations(config: Config, varied: Sequence[str], assigned: Iterable[str] = ()) -> list[Combination]:
    """Returns every combination of `group.field=value,value` on top of `config`, the last setting fastest.

    `assigned` is what --set has brought into `config`. Without `varied` there is one combination.
    Raises: UsageError naming the field, what was found and what is allowed."""
    texts = _texts(varied, set(assigned))
    made: list[Combination] = []
    for row in itertools.product(*texts.values()):
        combined = with_values(config, [f"{field}={text}" for field, text in zip(texts, row, strict=True)])
        group_of = groups(combined)
        values = {field: getattr(group_of[field.partition(".")[0]], short(field)) for field in texts}
        if any(values == other.values for other in made):  # which would look like two findings
            raise UsageError(f"{described(values)} is given twice")
        made.append(Combination(values, combined))
    networks = [each.config.teacher.network for each in made]
    if "network.depth" in texts and any(each.actor_depth and each.critic_depth for each in networks):
        raise UsageError(
            "network.depth changes nothing where network.actor_depth and network.critic_depth are set: "
            "vary these two"
        )
    return made


def varied_values(made: Sequence[Combination]) -> dict[str, list[Any]]:
    """Returns each varied setting's values, in the order of the combinations."""
    return {field: list(dict.fromkeys(each.values[field] for each in made)) for field in made[0].values}


def parse_seeds(text: str) -> list[int]:
    """Parses `0,1,2`; UsageError naming what is wrong."""
    seeds: list[int] = []
    for digits in map(str.strip, text.split(",")):
        if not (digits.isascii() and digits.isdigit() and int(digits) <= LARGEST_SEED):
            allowed = f"whole numbers from 0 to {LARGEST_SEED}, for example 0,1,2"
            raise UsageError(f"--seeds {text}: found {digits!r}, write {allowed}")
        if int(digits) in seeds:
            raise UsageError(f"--seeds {text}: {int(digits)} is given twice")
        seeds.append(int(digits))
    return seeds


def described(values: Values, joint: str = ", ", between: str = " ") -> str:
    """Returns `depth 4, width 64`; of a file that a value names (a task of the user's own) the name alone."""
    return joint.join(
        f"{short(field)}{between}{shown(value).rpartition('/')[2]}" for field, value in values.items()
    )


def short(field: str) -> str:
    """Returns `depth` of `network.depth`; no two of the teacher's groups share a field's name."""
    return field.partition(".")[2]


def shown(value: Any) -> str:
    return "none" if value is None else value if isinstance(value, str) else json.dumps(value)


def _texts(varied: Sequence[str], set_: set[str]) -> dict[str, list[str]]:
    """Returns each field's values as typed."""
    found: dict[str, list[str]] = {}
    for given in varied:
        field, *texts = (text.strip() for text in given.replace("=", ",", 1).split(","))
        group, _, name = field.partition(".")
        if not (name and texts and all(texts)):
            form = "write group.field=value,value, for example network.depth=4,16"
            raise UsageError(f"--vary {given!r}: {form}")
        if group not in TEACHER_GROUPS:
            raise unknown_name("group of the teacher", group, TEACHER_GROUPS)
        if field in found:
            raise UsageError(f"{field} is varied twice: give all its values at once")
        if field in set_:
            raise UsageError(f"{field} is both set and varied: leave out one of them")
        found[field] = texts
    return found


class Member(NamedTuple):
    """One run of a sweep."""

    name: str  # its directory within the sweep
    values: Values
    seed: int
    run: Run

    @property
    def title(self) -> str:
        return ", ".join(part for part in (described(self.values), f"seed {self.seed}") if part)

    @property
    def finished(self) -> bool:
        return "teacher" in self.run.summary

    @property
    def seconds(self) -> float:
        """What it has taken so far."""
        lines = self.run.metrics("teacher")
        return lines[-1]["wall_s"] if lines else 0.0


@dataclass(frozen=True)
class Sweep:
    """An existing sweep directory.

    `changed` holds other shared settings, for the stages after the teacher, which all runs then take on."""

    path: Path
    changed: Config | None = None

    @property
    def settings(self) -> JSON:
        """`preset`, `config`, `vary` (values of each setting), `seeds` and `runs` (as they are ordered)."""
        return sweep_settings(self.path)

    @property
    def config(self) -> Config:
        """The settings that all runs share; the varied ones hold what they would without the sweep."""
        return self.changed or stored_config(self.settings, self.path / SWEEP)

    @property
    def members(self) -> list[Member]:
        return [
            Member(entry["run"], entry["values"], entry["seed"], self._run(entry["run"]))
            for entry in self.settings["runs"]
        ]

    @property
    def all_runs(self) -> list[Run]:
        return [member.run for member in self.members]

    def _run(self, name: str) -> Run:
        run = Run(self.path / name)
        if self.changed is None:
            return run
        config = self.changed.model_copy(update={"teacher": run.config.teacher})
        return run if config == run.config else Run(run.path, config)

    @property
    def failures(self) -> dict[str, JSON]:
        """By name of the runs that failed: `state` and `error` if their training did, `stage_errors` if a
        later stage did, by its name."""
        kept = ("state", "error", "stage_errors")
        return {
            run["run"]: {key: run[key] for key in kept if key in run}
            for run in read_object(self.path / "summary.json").get("runs", [])
            if "error" in run or "stage_errors" in run
        }

    def write_changes(self) -> None:
        """Writes `changed` where `config` is read; each run takes it on when a stage of it begins."""
        if self.changed is not None:
            config = self.changed.model_dump(mode="json")
            write_json(self.path / SWEEP, self.settings | {"config": config})

    def mend(self, say: Callable[[str], None]) -> None:
        """Sets damaged summaries aside: they are made of what the runs hold."""
        for run in self.all_runs:
            run.mend_summary(say)
        set_aside_if_damaged(self.path / "summary.json", say)


def create_sweep(
    path: Path, config: Config, preset: str, made: Sequence[Combination], seeds: Sequence[int]
) -> Sweep:
    """Creates a sweep with all its runs, none of them begun; UsageError if the path exists already.

    One seed of every combination comes before the next seed, so that half a sweep compares them all."""
    runs = []
    with new_folder(path) as partial:
        for seed, (values, combined) in itertools.product(seeds, made):
            name = str(Path(described(values, "-", "-")) / f"seed-{seed}")
            create_run(partial / name, combined, preset, seed)
            runs.append({"run": name, "values": values, "seed": seed})
        settings = {
            "preset": preset,
            "config": config.model_dump(mode="json"),
            "vary": varied_values(made),
            "seeds": list(seeds),
            "runs": runs,
        }
        write_json(partial / SWEEP, settings)
    return Sweep(path)


def find_sweep(name: str | None) -> Sweep | None:
    """Opens the sweep of that path or name under runs/; without one, the only sweep where there is no run."""
    if name is not None:
        path = run_path(name)
        return Sweep(path) if is_sweep(path) else None
    found = sweeps()
    return Sweep(found[0]) if len(found) == 1 and not any(RUNS.glob("*/config.json")) else None
