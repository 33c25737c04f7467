"""The figures of a study: of every run, and of every combination of values over its seeds, teachers and
students."""

import math
from collections.abc import Iterable
from functools import cache
from itertools import pairwise
from statistics import fmean, median, stdev
from typing import Any

import jax
import scipy.stats

from pipelines.config import Config
from pipelines.grid import Values
from pipelines.study import Member, Study
from student.networks import parameter_count
from teacher.config import SHARES, NetworkConfig
from teacher.evaluate import CONFIDENCE
from teacher.networks import init_params, make_networks
from teacher.tasks import make_task

JSON = dict[str, Any]

RANKS = ("rank_correlation", "rank_correlation_far")  # of `maze_distance`
BOUNDS = dict.fromkeys(SHARES, (0.0, 1.0)) | dict.fromkeys(RANKS, (-1.0, 1.0))  # others are positive
COSTS = ("wall_s", "env_steps_per_s")
OF_STUDENTS = ("time_at_goal", "retention", "teacher_time_at_goal")


def compare(study: Study, failures: dict[str, JSON]) -> JSON:
    """What a study has found so far; `failures` as `Study.failures` has them.

    `runs` holds each run's own summary, `combinations` means over the seeds that have finished, `students`
    those of each size of student that has been judged."""
    settings = study.settings
    members = study.members
    runs = [_run_figures(member, failures.get(member.name)) for member in members]
    different: list[Values] = []
    for member in members:
        if member.values not in different:
            different.append(member.values)
    alike = [[run for run in runs if run["values"] == values] for values in different]
    return {
        "preset": settings["preset"],
        "vary": settings["vary"],
        "seeds": settings["seeds"],
        "wall_s": sum(member.seconds for member in members),
        "runs": runs,
        "combinations": [_over_seeds(each) for each in alike],
        "students": [row for each in alike for row in _students_over_seeds(each)],
    }


def seed_interval(values: list[float], lowest: float = 0.0, highest: float = math.inf) -> list[float] | None:
    """95 % interval of the mean over seeds by Student's t, kept within `lowest` and `highest`.

    None where there is no spread to estimate: for one seed, and where all seeds agree exactly."""
    if len(set(values)) < 2:
        return None
    quantile = scipy.stats.t.ppf(0.5 + CONFIDENCE / 2, len(values) - 1)
    centre, reach = fmean(values), float(quantile) * stdev(values) / math.sqrt(len(values))
    return [max(lowest, centre - reach), min(highest, centre + reach)]


def figures_of(run: JSON) -> JSON:
    """All that a finished run of the summary was measured by, in one object."""
    rate = {key: run[key] for key in ("env_steps_per_s",) if key in run}
    in_maze = run["teacher"].get("maze_distance", {})
    return rate | {key: in_maze[key] for key in RANKS if key in in_maze} | run["teacher"]


def _run_figures(member: Member, failure: JSON | None) -> JSON:
    lines, config = member.run.metrics("teacher"), member.run.config
    figures: JSON = {"run": member.name, "values": member.values, "seed": member.seed}
    failure = failure or {}
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
    seconds = [
        after["wall_s"] - before["wall_s"]
        for before, after in pairwise(lines)
        if after["wall_s"] > before["wall_s"]
    ]
    collect = config.teacher.collect
    return collect.envs * collect.steps / median(seconds) if seconds else None


@cache
def _parameters(task: str, network: NetworkConfig) -> JSON:
    """Of the actor, and of the critic's two encoders together."""
    spec = make_task(task).spec
    networks = make_networks(network, spec.action_size)
    sizes = spec.sizes
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
        judged = {
            run["seed"]: student
            for run in runs
            if "time_at_goal" in (student := run.get("students", {}).get(size, {}))
        }
        if not judged:
            continue
        found = list(judged.values())
        same = {key: found[0][key] for key in ("parameters", "episodes") if _agree(found, key)}
        row = {"values": runs[0]["values"], "size": size, "seeds": list(judged), **same}
        rows.append(row | _means(found, OF_STUDENTS))
    return rows


def _agree(found: list[JSON], key: str) -> bool:
    return key in found[0] and all(each.get(key) == found[0][key] for each in found)


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
