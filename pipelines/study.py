"""A study is a directory of ordinary teacher runs that differ in a few settings and in the seed.

study.json        shared settings, what varies, and the runs in the order in which they are trained
summary.json      the figures of every run that has ended, and of students over the seeds
depth-4/seed-0/   a run, as `pipeline teacher` makes it
report.html
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pipelines import cluster, stages
from pipelines.config import Config, validated
from pipelines.grid import (
    Combination,
    Values,
    combinations,
    described,
    folder_name,
    parse_seeds,
    short,
    shown,
    varied_values,
)
from pipelines.progress import Display
from pipelines.request import Request, stood_for
from pipelines.rundir import (
    RUNS,
    STUDY,
    Run,
    create_run,
    is_study,
    new_folder,
    read_object,
    run_path,
    set_aside_if_damaged,
    study_settings,
    write_json,
)
from teacher.errors import FathomError, UsageError

JSON = dict[str, Any]


class Member(NamedTuple):
    """One run of a study."""

    name: str  # its directory within the study
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
class Study:
    """An existing study directory.

    `changed` holds other shared settings, for the stages after the teacher, which all runs then take on."""

    path: Path
    changed: Config | None = None

    @property
    def settings(self) -> JSON:
        """`preset`, `config`, `vary` (values of each setting), `seeds` and `runs` (as they are ordered)."""
        return study_settings(self.path)

    @property
    def config(self) -> Config:
        """The settings that all runs share; the varied ones hold what they would without the study."""
        if self.changed is not None:
            return self.changed
        try:
            return validated(self.settings["config"], stored=True)
        except UsageError as error:
            raise FathomError(f"{self.path / STUDY}: {error}") from error

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
        runs = read_object(self.path / "summary.json").get("runs", [])
        kept = ("state", "error", "stage_errors")
        return {
            run["run"]: {key: run[key] for key in kept if key in run}
            for run in runs
            if "error" in run or "stage_errors" in run
        }

    def write_changes(self) -> None:
        """Writes `changed` where `config` is read; each run takes it on when a stage of it begins."""
        if self.changed is not None:
            write_json(self.path / STUDY, self.settings | {"config": self.changed.model_dump(mode="json")})

    def mend(self, say: Callable[[str], None]) -> None:
        """Sets damaged summaries aside: they are made of what the runs hold."""
        for member in self.members:
            member.run.mend_summary(say)
        set_aside_if_damaged(self.path / "summary.json", say)


def create_study(
    path: Path, config: Config, preset: str, made: Sequence[Combination], seeds: Sequence[int]
) -> Study:
    """A new study with all its runs, none of them begun; UsageError if the path exists already.

    One seed of every combination comes before the next seed, so that half a study compares them all."""
    runs = [
        (str(Path(folder_name(values)) / f"seed-{seed}"), values, seed, combined)
        for seed in seeds
        for values, combined in made
    ]
    with new_folder(path) as partial:
        for name, _, seed, combined in runs:
            create_run(partial / name, combined, preset, seed)
        settings = {
            "preset": preset,
            "config": config.model_dump(mode="json"),
            "vary": varied_values(values for values, _ in made),
            "seeds": list(seeds),
            "runs": [{"run": name, "values": values, "seed": seed} for name, values, seed, _ in runs],
        }
        write_json(partial / STUDY, settings)
    return Study(path)


def find_study(name: str | None) -> Study | None:
    """The study of that path or name under runs/; without one, the only study where there is no run."""
    if name is not None:
        path = run_path(name)
        return Study(path) if is_study(path) else None
    studies = [file.parent for file in RUNS.glob(f"*/{STUDY}")]
    return Study(studies[0]) if len(studies) == 1 and not any(RUNS.glob("*/config.json")) else None


def requested_study(
    name: str | None,
    asked: Request,
    varied: Sequence[str],
    seed: int | None,
    seeds: str | None,
    *,
    resume: bool,
    trust: bool = False,
) -> Study | None:
    """The study that `pipeline teacher` works in: new, or with `resume` the one that is there.

    `varied` are `group.field=value,value`, `seeds` is `0,1,2`. None if a single run is asked for.
    With `trust`, the copies of a task file that its runs keep are executed.
    Raises: UsageError if a value is refused, or if the study was begun with others."""
    if seed is not None and seeds is not None:
        raise UsageError(f"--seed {seed} and --seeds {seeds} are both given: leave out one of them")
    several = bool(varied) or seeds is not None
    chosen_seeds = parse_seeds(seeds) if seeds is not None else None if seed is None else [seed]
    usual = _default_name(asked.base, varied) if several else asked.base
    path = run_path(usual if name is None else name)
    if several or (resume and is_study(path)):
        cluster.require_alone("a study")
    if resume and is_study(path):
        study = Study(path)
        study.mend(Display().warn)
        asked = stood_for(asked, study.all_runs, trust)
        _require_same(study, asked, varied, chosen_seeds)
        for member in study.members:
            stages.check(member.run.config, trained=member.finished)
        return study
    if not several:
        return None
    if resume:
        known = ", ".join(sorted(file.parent.name for file in RUNS.glob(f"*/{STUDY}"))) or "none"
        raise UsageError(f"{path} is no study (studies here: {known})")
    config = asked.config
    made = combinations(config, varied, asked.assigned)
    for _, combined in made:
        stages.check(combined)
    return create_study(path, config, asked.base, made, chosen_seeds or [0])


def _default_name(preset: str, varied: Sequence[str]) -> str:
    """`quickstart-depth`, of a request that is checked later."""
    fields = [short(given.partition("=")[0].strip()) for given in varied]
    return "-".join([preset, *(fields or ["seeds"])])


def _require_same(study: Study, asked: Request, varied: Sequence[str], seeds: Sequence[int] | None) -> None:
    """Refuses to go on with a study that was begun with other values."""
    settings, advice = study.settings, "name another --run"
    if asked.preset not in (None, settings["preset"]):
        raise UsageError(
            f"{study.path} was begun with preset {settings['preset']}; resume without --preset, or {advice}"
        )
    if told := asked.different(study.config):
        raise UsageError(f"{study.path} was begun with other settings: {told}")
    if seeds is not None and list(seeds) != settings["seeds"]:
        raise UsageError(
            f"{study.path} was begun with seeds {_listed(settings['seeds'])}, not {_listed(seeds)}; "
            f"resume without them, or {advice}"
        )
    if varied:
        vary = varied_values(made.values for made in combinations(study.config, varied, asked.assigned))
        if vary != settings["vary"]:
            raise UsageError(
                f"{study.path} was begun with {_described(settings['vary'])}, not {_described(vary)}; "
                f"resume without them, or {advice}"
            )


def _described(vary: dict[str, list[Any]]) -> str:
    return " and ".join(f"{field}={_listed(values)}" for field, values in vary.items()) or "no setting varied"


def _listed(values: Sequence[Any]) -> str:
    return ",".join(shown(value) for value in values)
