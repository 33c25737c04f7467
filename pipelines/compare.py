"""Runs compared: those of a sweep over its seeds, and any few side by side."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import pairwise
from statistics import fmean, median, stdev
from typing import Any

import jax
import scipy.stats

from pipelines.rundir import Run, open_run
from pipelines.sweep import Member, Sweep
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
    members = sweep.members
    runs = [_run_figures(member, failures.get(member.name, {})) for member in members]
    values = {json.dumps(run["values"]): run["values"] for run in runs}.values()
    alike = [[run for run in runs if run["values"] == each] for each in values]
    return {
        **{key: sweep.settings[key] for key in ("preset", "vary", "seeds")},
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
    found = run | run["teacher"].get("maze_distance", {})
    return {key: found[key] for key in ("env_steps_per_s", *RANKS) if key in found} | run["teacher"]


def _run_figures(member: Member, failure: JSON) -> JSON:
    lines, config = member.run.metrics("teacher"), member.run.config
    figures: JSON = {"run": member.name, "values": member.values, "seed": member.seed}
    if member.finished:
        figures["state"] = "finished"
        figures |= {"stage_errors": failure["stage_errors"]} if failure.get("stage_errors") else {}
    else:
        figures |= failure or {"state": "unfinished" if lines else "not begun"}
    if lines:
        figures["iteration"] = lines[-1]["iteration"]
    # The median iteration neither compiles nor waits.
    seconds = [after["wall_s"] - before["wall_s"] for before, after in pairwise(lines)]
    if seconds := [each for each in seconds if each > 0]:
        collect = config.teacher.collect
        figures["env_steps_per_s"] = collect.envs * collect.unroll_length / median(seconds)
    parameters = _parameters(config.teacher.task.name, config.teacher.network)
    return figures | {"parameters": parameters} | member.run.summary


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
        found = list(judged.values())
        row: JSON = {"values": runs[0]["values"], "size": size, "seeds": list(judged)}
        for key in ("parameters", "episodes"):
            if len({each.get(key) for each in found}) == 1 and key in found[0]:
                row[key] = found[0][key]
        rows += [row | _means(found, OF_STUDENTS)] if judged else []
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
    """Opens runs, by their directories' names, or their paths where two have the same.

    Raises: UsageError for fewer than two, or one named twice."""
    if len(names) < 2:
        raise UsageError(f"{len(names)} run is named, at least two are compared: pipeline compare RUN RUN")
    opened = [open_run(name) for name in names]
    paths = [run.path.resolve() for run in opened]
    for i, name in enumerate(names):
        if paths[i] in paths[:i]:
            raise UsageError(f"{name} is named twice: a run is compared with others")
    same = Counter(path.name for path in paths)
    return {
        path.name if same[path.name] == 1 else str(run.path): run
        for path, run in zip(paths, opened, strict=True)
    }


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

    def differing(*keys: str) -> str:
        """Returns `arm: mjx, maze: brax` of the runs that have a value; empty if all have the same."""
        known: JSON = {}
        for name, each in found.items():
            value: Any = each
            for key in keys:
                value = value.get(key, {})
            known |= {name: value} if value else {}
        listed = ", ".join(f"{name}: {each}" for name, each in known.items())
        return listed if len(set(known.values())) > 1 else ""

    if listed := differing("task"):
        return [
            f"Scores, distances and sizes are not comparable: the tasks differ ({listed}). "
            "Retention alone is, for it is a share of each run's own teacher."
        ]
    cautions = {
        ("summary", "teacher", "layout"): "Scores are not comparable: goals were laid out differently in "
        "evaluation ({}).",
        ("summary", "engine"): "Scores of teachers and students are of different simulators ({}): compare "
        "those of the controllers, where these ran in the same one.",
        ("summary", "teacher", "episodes"): "Scores are over different numbers of held-out episodes ({}): "
        "compare their intervals.",
    }
    return [text.format(listed) for keys, text in cautions.items() if (listed := differing(*keys))]
