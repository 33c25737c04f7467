"""Several runs beside each other: what was set differently, what came out, and what cannot be compared."""

from collections.abc import Callable, Sequence
from typing import Any

from pipelines.rundir import Run, open_run
from teacher.errors import UsageError

JSON = dict[str, Any]


def opened(names: Sequence[str]) -> dict[str, Run]:
    """Runs by the names that they were given; UsageError for fewer than two, or one named twice."""
    if len(names) < 2:
        raise UsageError(f"{len(names)} run is named, at least two are compared: pipeline compare RUN RUN")
    runs: dict[str, Run] = {}
    for name in names:
        run = open_run(name)
        if run.path.resolve() in {other.path.resolve() for other in runs.values()}:
            raise UsageError(f"{name} is named twice: a run is compared with others")
        runs[_title(run, runs)] = run
    return runs


def beside_each_other(runs: dict[str, Run]) -> JSON:
    """Of runs by name.

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
    """Keys whose values are not the same in all of them."""
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


def _title(run: Run, taken: dict[str, Run]) -> str:
    """The directory's name; more of its path where another has the same."""
    parts = run.path.resolve().parts
    titles = ("/".join(parts[-count:]) for count in range(1, len(parts) + 1))
    return next(title for title in titles if title not in taken)


def _cautions(found: dict[str, JSON]) -> list[str]:
    """Nothing here is forbidden: the figures are shown, and what they are not is said."""
    if listed := _differing(found, lambda each: each["task"]):
        return [
            f"Scores, distances and sizes are not comparable: the tasks differ ({listed}). "
            "Retention alone is, for it is a share of each run's own teacher."
        ]
    sentences = []
    if listed := _differing(found, lambda each: _teacher(each).get("layout")):
        sentences.append(
            f"Scores are not comparable: goals were laid out differently in evaluation ({listed})."
        )
    if listed := _differing(found, lambda each: each["summary"].get("engine")):
        sentences.append(
            f"Scores of teachers and students are of different simulators ({listed}): compare those of the "
            "controllers, where these ran in the same one."
        )
    if listed := _differing(found, lambda each: _teacher(each).get("episodes")):
        sentences.append(
            f"Scores are over different numbers of held-out episodes ({listed}): compare their intervals."
        )
    return sentences


def _differing(found: dict[str, JSON], value: Callable[[JSON], Any]) -> str | None:
    """`arm: mjx, maze: brax`, of the runs that have a value; None if it is the same for all of them."""
    known = {name: value(each) for name, each in found.items()}
    known = {name: each for name, each in known.items() if each is not None}
    differ = len(set(known.values())) > 1
    return ", ".join(f"{name}: {each}" for name, each in known.items()) if differ else None


def _teacher(each: JSON) -> JSON:
    found: JSON = each["summary"].get("teacher", {})
    return found
