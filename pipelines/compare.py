"""Runs compared: those of a sweep over its seeds, and any few side by side."""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import pairwise
from statistics import fmean, median, stdev
from typing import Any

import jax
import scipy.stats

from pipelines.config import Config
from pipelines.rundir import Run, open_run
from pipelines.sweep import Member, Sweep, Values
from student.networks import parameter_count
from teacher.config import SHARES, NetworkConfig
from teacher.errors import UsageError
from teacher.evaluate import CONFIDENCE
from teacher.networks import init_params, make_networks
from teacher.tasks import make_task

JSON = dict[str, Any]

RANKS = ("rank_correlation", "rank_correlation_far")  # of `maze_distance`
BOUNDS = dict.fromkeys(SHARES, (0.0, 1.0)) | dict.fromkeys(RANKS, (-1.0, 1.0))  # others are positive
COSTS = ("wall_s", "env_steps_per_s")
OF_STUDENTS = ("time_at_goal", "retention", "teacher_time_at_goal")


def compare_sweep(sweep: Sweep, failures: dict[str, JSON]) -> JSON:
    """Returns what a sweep has found so far; `failures` as `Sweep.failures` has them.

    `runs` holds each run's own summary, `combinations` means over the seeds that have finished, `students`
    those of each size of student that has been judged."""
    settings, members = sweep.settings, sweep.members
    runs = [_run_figures(member, failures.get(member.name, {})) for member in members]
    different: list[Values] = []
    for member in members:
        if member.values not in different:
            different.append(member.values)
    alike = [[run for run in runs if run["values"] == values] for values in different]
    return {
        **{key: settings[key] for key in ("preset", "vary", "seeds")},
        "wall_s": sum(member.seconds for member in members),
        "runs": runs,
        "combinations": [_over_seeds(each) for each in alike],
        "students": [row for each in alike for row in _students_over_seeds(each)],
    }


def seed_interval(values: list[float], lowest: float = 0.0, highest: float = math.inf) -> list[float] | None:
    """Computes the 95 % interval of the mean over seeds by Student's t, within `lowest` and `highest`.

    None where there is no spread to estimate: for one seed, and where all seeds agree exactly."""
    if len(set(values)) < 2:
        return None
    quantile = scipy.stats.t.ppf(0.5 + CONFIDENCE / 2, len(values) - 1)
    centre, reach = fmean(values), float(quantile) * stdev(values) / math.sqrt(len(values))
    return [max(lowest, centre - reach), min(highest, centre + reach)]


def figures_of(run: JSON) -> JSON:
    """Collects all that a finished run of the summary was measured by."""
    rate = {key: run[key] for key in ("env_steps_per_s",) if key in run}
    in_maze = run["teacher"].get("maze_distance", {})
    return rate | {key: in_maze[key] for key in RANKS if key in in_maze} | run["teacher"]


def _run_figures(member: Member, failure: JSON) -> JSON:
    lines, config = member.run.metrics("teacher"), member.run.config
    figures: JSON = {"run": member.name, "values": member.values, "seed": member.seed}
    if member.finished:
        figures["state"] = "finished"
        figures |= {key: failure[key] for key in ("stage_errors",) if key in failure}
    else:
        figures |= failure or {"state": "unfinished" if lines else "not begun"}
    if lines:
        figures["iteration"] = lines[-1]["iteration"]
    rate = _env_steps_per_s(config, lines)
    if rate is not None:
        figures["env_steps_per_s"] = rate
    parameters = _parameters(config.teacher.task.name, config.teacher.network)
    return figures | {"parameters": parameters} | member.run.summary


def _env_steps_per_s(config: Config, lines: list[JSON]) -> float | None:
    """Environment steps with their updates, in the median iteration: one that neither compiles nor waits."""
    seconds = [after["wall_s"] - before["wall_s"] for before, after in pairwise(lines)]
    seconds = [each for each in seconds if each > 0]
    collect = config.teacher.collect
    return collect.envs * collect.steps / median(seconds) if seconds else None


@cache
def _parameters(task: str, network: NetworkConfig) -> JSON:
    """Of the actor, and of the critic's two encoders together."""
    spec = make_task(task).spec
    networks, sizes = make_networks(network, spec.action_size), spec.sizes
    params = jax.eval_shape(lambda key: init_params(networks, key, sizes), jax.random.key(0))
    return {
        "actor": parameter_count(params.actor),
        "critic": parameter_count((params.state_action, params.goal)),
    }


def _over_seeds(runs: list[JSON]) -> JSON:
    """Means over the finished runs of one combination."""
    finished = [run for run in runs if run["state"] == "finished"]
    figures: JSON = {
        "values": runs[0]["values"],
        "seeds": [run["seed"] for run in finished],
        "parameters": runs[0]["parameters"],
    }
    found = [figures_of(run) for run in finished]
    layouts = {teacher.get("layout") for teacher in found}
    if len(layouts) == 1 and None not in layouts:
        figures["layout"] = layouts.pop()
    return figures | _means(found, (*SHARES, "share_of_reference", *RANKS, "final_distance", *COSTS))


def _students_over_seeds(runs: list[JSON]) -> list[JSON]:
    """Means over the runs of one combination, a row for each size of student that has been judged."""
    rows = []
    for size in dict.fromkeys(size for run in runs for size in run.get("students", {})):
        students = {run["seed"]: run.get("students", {}).get(size, {}) for run in runs}
        judged = {seed: student for seed, student in students.items() if "time_at_goal" in student}
        if not judged:
            continue
        found = list(judged.values())
        same = {
            key: found[0][key]
            for key in ("parameters", "episodes")
            if key in found[0] and all(each.get(key) == found[0][key] for each in found)
        }
        row = {"values": runs[0]["values"], "size": size, "seeds": list(judged), **same}
        rows.append(row | _means(found, OF_STUDENTS))
    return rows


def _means(found: list[JSON], keys: Iterable[str]) -> JSON:
    """The mean of each key that all of `found` have, with its interval unless it is a cost."""
    figures: JSON = {}
    for key in keys:
        values = [each[key] for each in found if each.get(key) is not None]
        if not values or len(values) < len(found):
            continue
        figures[key] = fmean(values)
        interval = seed_interval(values, *BOUNDS.get(key.removeprefix("teacher_"), ()))
        if interval is not None and key not in COSTS:
            figures[f"{key}_interval"] = interval
    return figures


def open_runs(names: Sequence[str]) -> dict[str, Run]:
    """Opens runs, by their directories' names, or more of their paths where two have the same.

    Raises: UsageError for fewer than two, or one named twice."""
    if len(names) < 2:
        raise UsageError(f"{len(names)} run is named, at least two are compared: pipeline compare RUN RUN")
    runs: dict[str, Run] = {}
    for name in names:
        run = open_run(name)
        parts = run.path.resolve().parts
        if parts in {other.path.resolve().parts for other in runs.values()}:
            raise UsageError(f"{name} is named twice: a run is compared with others")
        titles = ("/".join(parts[-count:]) for count in range(1, len(parts) + 1))
        runs[next(title for title in titles if title not in runs)] = run
    return runs


def compare_runs(runs: dict[str, Run]) -> JSON:
    """Compares runs by name.

    Returns:
      runs: of each its `preset`, `seed`, `task` and its own `summary`.
      settings: `group.field` that differ, each with the runs' values, None where a run has no such field.
      versions: packages that differ, likewise.
      not_comparable: sentences that say what of the figures must not be compared, and why."""
    found = {
        name: {
            "preset": run.settings["preset"],
            "seed": run.seed,
            "task": run.settings["config"]["teacher"]["task"]["name"],
            "summary": run.summary,
        }
        for name, run in runs.items()
    }
    return {
        "runs": found,
        "settings": different([_settings(run) for run in runs.values()]),
        "versions": different([run.versions for run in runs.values()]),
        "not_comparable": _cautions(found),
    }


def different(of_runs: Sequence[JSON]) -> dict[str, list[Any]]:
    """Returns the keys whose values are not the same in all of them."""
    keys = dict.fromkeys(key for each in of_runs for key in each)
    values = {key: [each.get(key) for each in of_runs] for key in keys}
    return {key: each for key, each in values.items() if any(value != each[0] for value in each)}


def _settings(run: Run) -> JSON:
    """`group.field`, as they were written: a run of another version of the program has its own fields."""
    written = run.settings
    groups = {**written["config"]["teacher"], **written["config"]}
    del groups["teacher"]
    fields = {f"{name}.{field}": value for name, group in groups.items() for field, value in group.items()}
    return {"seed": written["seed"], **fields}


def _cautions(found: dict[str, JSON]) -> list[str]:
    """Nothing here is forbidden: the figures are shown, and what they are not is said."""

    def differing(value: Callable[[JSON], Any]) -> str | None:
        """Returns `arm: mjx, maze: brax` of the runs that have a value; None if all have the same."""
        known = {name: value(each) for name, each in found.items() if value(each) is not None}
        differ = len(set(known.values())) > 1
        return ", ".join(f"{name}: {each}" for name, each in known.items()) if differ else None

    if listed := differing(lambda each: each["task"]):
        return [
            f"Scores, distances and sizes are not comparable: the tasks differ ({listed}). "
            "Retention alone is, for it is a share of each run's own teacher."
        ]
    sentences = []
    if listed := differing(lambda each: each["summary"].get("teacher", {}).get("layout")):
        sentences.append(
            f"Scores are not comparable: goals were laid out differently in evaluation ({listed})."
        )
    if listed := differing(lambda each: each["summary"].get("engine")):
        sentences.append(
            f"Scores of teachers and students are of different simulators ({listed}): compare those of the "
            "controllers, where these ran in the same one."
        )
    if listed := differing(lambda each: each["summary"].get("teacher", {}).get("episodes")):
        sentences.append(
            f"Scores are over different numbers of held-out episodes ({listed}): compare their intervals."
        )
    return sentences
