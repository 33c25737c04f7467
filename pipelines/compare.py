"""Runs compared: those of a sweep over its seeds, and any few side by side."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from typing import Any

import jax
import scipy.stats

from pipelines.config import groups
from pipelines.files import JSON
from pipelines.rundir import Run, open_run
from pipelines.summary import Combination, Figures, Parameters, SweepRun, SweepStudents, SweepSummary
from pipelines.sweep import Member, Sweep
from student.networks import parameter_count
from teacher.config import SHARES, NetworkConfig
from teacher.errors import UsageError
from teacher.evaluate import CONFIDENCE
from teacher.networks import init_params, make_networks
from teacher.tasks import make_task

RANKS = ("rank_correlation", "rank_correlation_far")  # of `maze_distance`
BOUNDS = dict.fromkeys(SHARES, (0.0, 1.0)) | dict.fromkeys(RANKS, (-1.0, 1.0))  # others are positive
COSTS = ("wall_s", "env_steps_per_s")


def compare_sweep(sweep: Sweep, failures: dict[str, JSON]) -> SweepSummary:
    """Returns what a sweep has found so far; `failures` as `Sweep.failures` has them."""
    members, settings = sweep.members, sweep.settings
    runs = [_of_run(member, failures.get(member.name, {})) for member in members]
    values = {json.dumps(run.values): run.values for run in runs}.values()
    alike = [[run for run in runs if run.values == each] for each in values]
    return SweepSummary(
        **{key: settings[key] for key in ("preset", "vary", "seeds")},
        wall_s=sum(member.seconds for member in members),
        runs=runs,
        combinations=[_over_seeds(each) for each in alike],
        students=[row for each in alike for row in _students_over_seeds(each)],
    )


def seed_interval(values: list[float], lowest: float = 0.0, highest: float = math.inf) -> list[float] | None:
    """Computes the 95 % interval of the mean over seeds by Student's t, within `lowest` and `highest`.

    None where there is no spread to estimate: for one seed, and where all seeds agree exactly."""
    if len(set(values)) < 2:
        return None
    low, high = scipy.stats.ttest_1samp(values, 0).confidence_interval(CONFIDENCE)
    return [max(lowest, float(low)), min(highest, float(high))]


def _of_run(member: Member, failure: JSON) -> SweepRun:
    lines, config = member.run.metrics("teacher"), member.run.config
    stands: JSON = {"state": "unfinished" if lines else "not begun"} | failure
    if member.finished:
        stands = {"state": "finished"} | {key: failure[key] for key in ("stage_errors",) if failure.get(key)}
    if lines:
        stands["iteration"] = lines[-1]["iteration"]
    # The median iteration neither compiles nor waits.
    seconds = [after["wall_s"] - before["wall_s"] for before, after in pairwise(lines)]
    if seconds := [each for each in seconds if each > 0]:
        collect = config.teacher.collect
        stands["env_steps_per_s"] = collect.envs * collect.unroll_length / median(seconds)
    if not member.run.policy_file.exists():
        stands["parameters"] = _parameters(config.teacher.task.name, config.teacher.network)
    own = {"run": member.name, "values": member.values, "seed": member.seed}
    return SweepRun.model_validate(member.run.summary | own | stands)


@cache
def _parameters(task: str, network: NetworkConfig) -> Parameters:
    spec = make_task(task).spec
    networks, sizes = make_networks(network, spec.action_size), spec.sizes
    params = jax.eval_shape(lambda key: init_params(networks, key, sizes), jax.random.key(0))
    critic = parameter_count((params.state_action, params.goal))
    return Parameters(actor=parameter_count(params.actor), critic=critic)


def _over_seeds(runs: list[SweepRun]) -> Combination:
    finished = [run for run in runs if run.state == "finished"]
    teachers = [run.teacher for run in finished if run.teacher]
    layouts = {teacher.layout for teacher in teachers}
    return Combination.model_validate(
        {"values": runs[0].values, "seeds": [run.seed for run in finished], "parameters": runs[0].parameters}
        | ({"layout": layouts.pop()} if len(layouts) == 1 and None not in layouts else {})
        | _means(teachers, (*SHARES, "share_of_reference", "final_distance", "wall_s"))
        | _means([teacher.maze_distance for teacher in teachers], RANKS)
        | _means(finished, ["env_steps_per_s"])
    )


def _students_over_seeds(runs: list[SweepRun]) -> list[SweepStudents]:
    """A row for each size of student that has been evaluated."""
    rows = []
    for size in dict.fromkeys(size for run in runs for size in run.students):
        found = {run.seed: run.students[size] for run in runs if size in run.students}
        evaluated = {seed: student for seed, student in found.items() if student.time_at_goal is not None}
        same = {
            key: {getattr(each, key) for each in evaluated.values()} for key in ("parameters", "episodes")
        }
        if evaluated:
            row = {"values": runs[0].values, "size": size, "seeds": list(evaluated)}
            row |= {key: each.pop() for key, each in same.items() if len(each) == 1}
            means = _means(list(evaluated.values()), ("time_at_goal", "retention", "teacher_time_at_goal"))
            rows.append(SweepStudents.model_validate(row | means))
    return rows


def _means(found: Sequence[Figures | None], keys: Iterable[str]) -> JSON:
    """The mean of each key that all of `found` have, with its interval unless it is a cost."""
    figures: JSON = {}
    for key in keys:
        values = [each for each in (getattr(one, key, None) for one in found) if each is not None]
        if values and len(values) == len(found):
            figures[key] = fmean(values)
            interval = seed_interval(values, *BOUNDS.get(key.removeprefix("teacher_"), ()))
            if interval is not None and key not in COSTS:
                figures[f"{key}_interval"] = interval
    return figures


def open_runs(names: Sequence[str]) -> dict[str, Run]:
    """Opens runs, by their directories' names, or their paths where two have the same.

    Raises: UsageError for fewer than two, or one named twice."""
    if len(names) < 2:
        raise UsageError(f"{len(names)} run is named, at least two are compared: pipeline compare RUN RUN")
    opened: dict[Path, Run] = {}
    for run in map(open_run, names):
        if (path := run.path.resolve()) in opened:
            raise UsageError(f"{path} is named twice: a run is compared with others")
        opened[path] = run
    same = Counter(path.name for path in opened)
    return {path.name if same[path.name] == 1 else str(run.path): run for path, run in opened.items()}


def compare_runs(runs: Mapping[str, Run]) -> JSON:
    """Compares runs by name.

    Returns:
      runs: of each its `preset`, `seed`, `task` and `summary`.
      settings: `group.field` that differ, each with the runs' values.
      versions: of packages that differ, likewise; None where one is not known.
      not_comparable: what of the figures must not be compared, and why."""
    return {
        "runs": {
            name: {
                "preset": run.settings["preset"],
                "seed": run.seed,
                "task": run.task,
                "summary": run.summary,
            }
            for name, run in runs.items()
        },
        "settings": different([_settings(run) for run in runs.values()]),
        "versions": different([run.versions for run in runs.values()]),
        "not_comparable": _cautions(runs),
    }


def different(of_runs: Sequence[JSON]) -> dict[str, list[Any]]:
    """Returns the keys whose values are not the same in all of them."""
    keys = dict.fromkeys(key for each in of_runs for key in each)
    values = {key: [each.get(key) for each in of_runs] for key in keys}
    return {key: each for key, each in values.items() if any(value != each[0] for value in each)}


def _settings(run: Run) -> JSON:
    dumped = {name: group.model_dump(mode="json") for name, group in groups(run.config).items()}
    fields = {f"{name}.{field}": each for name, group in dumped.items() for field, each in group.items()}
    return {"seed": run.seed, **fields}


def _cautions(runs: Mapping[str, Run]) -> list[str]:
    """Nothing here is forbidden: the figures are shown, and what they are not is said."""
    figures = {name: run.figures for name, run in runs.items()}
    scores = {name: found.teacher for name, found in figures.items() if found.teacher}
    sentences = []
    for what, values in (
        (
            "nothing but retention, a share of each run's own teacher: the tasks differ",
            {name: run.task for name, run in runs.items()},
        ),
        ("no scores: goals were laid out differently", {name: each.layout for name, each in scores.items()}),
        (
            "of scores those of controllers in one simulator: several were learned in",
            {name: found.engine for name, found in figures.items()},
        ),
        ("intervals: numbers of episodes differ", {name: each.episodes for name, each in scores.items()}),
    ):
        known = {name: value for name, value in values.items() if value is not None}
        if len({*known.values()}) > 1:
            listed = ", ".join(f"{name}: {value}" for name, value in known.items())
            sentences.append(f"Compare {what} ({listed}).")
    return sentences
