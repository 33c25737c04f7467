"""What the benchmarks share: options, a learner and its batch, medians with their spread, tables of rows."""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from teacher.config import CollectConfig, NetworkConfig, TeacherConfig, UpdateConfig
from teacher.learner import Learner
from teacher.networks import init_params
from teacher.replay import Batch
from teacher.sharding import Devices
from teacher.tasks import make_task

Row = dict[str, Any]


def parser_of(doc: str | None, *, out: bool = False) -> argparse.ArgumentParser:
    """Returns a parser whose help is the module's docstring, with `--json` and, if asked, `--out`."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print a list of rows for machines")
    if out:
        what = "JSON file that keeps the rows; those it holds are not made again"
        parser.add_argument("--out", type=Path, help=what)
    return parser


def say(text: str) -> None:
    """Prints progress to stderr, so that stdout holds nothing but the result."""
    print(text, file=sys.stderr, flush=True)


def device() -> str:
    """Returns platform and kind of the device that JAX computes on."""
    first = jax.devices()[0]
    return f"{first.platform} {first.device_kind}"


def random_batch(batch: int) -> Batch:
    """Draws a batch of the sizes of fr3_reach."""
    spec = make_task("fr3_reach").spec
    sizes = spec.sizes
    keys = jax.random.split(jax.random.key(2), len(sizes))
    rows = Batch(*(jax.random.normal(key, (batch, size)) for key, size in zip(keys, sizes, strict=True)))
    return rows._replace(action=jnp.tanh(rows.action))


def sizes_of(batch: Batch) -> tuple[int, int, int]:
    """Returns the sizes of observation, action and goal."""
    return batch.observation.shape[-1], batch.action.shape[-1], batch.goal.shape[-1]


def learner_of(network: NetworkConfig, batch: Batch) -> Learner:
    rows = len(batch.observation)
    # One environment a row of the batch: a buffer that always serves it.
    config = TeacherConfig(
        network=network, update=UpdateConfig(batch_size=rows), collect=CollectConfig(envs=rows)
    )
    return Learner(config, Devices(jax.devices()[:1]))


def init_learned(learner: Learner, batch: Batch, key: jax.Array) -> tuple[Any, Any]:
    """Initialises what `Learner.update` moves; compile it, so that nothing is held twice."""
    params = init_params(learner.networks, key, sizes_of(batch))
    return params, learner.optimiser.init(params)


class Results:
    """Rows of an experiment that may take hours, kept in a JSON file as they come: to be gone on with.

    `path` None keeps nothing."""

    def __init__(self, path: Path | None):
        self.path = path
        self.rows: list[Row] = json.loads(path.read_text()) if path and path.exists() else []

    def add(self, basis: Row, measure: Callable[[], Row]) -> Row:
        """Returns the row that has all of `basis`, measured now if it is not there."""
        for row in self.rows:
            if basis.items() <= row.items():
                return row
        self.rows.append(basis | measure())
        if self.path:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            partial = self.path.with_suffix(".partial")
            partial.write_text(json.dumps(self.rows, indent=1) + "\n")
            partial.replace(self.path)
        return self.rows[-1]


def middle(values: Sequence[float]) -> tuple[float, list[float]]:
    """Returns the median, and as the spread the quartiles below and above it."""
    low, median, high = np.percentile(values, (25, 50, 75)).tolist()
    return median, [low, high]


def show(rows: list[Row], as_json: bool, settings: Iterable[str] = ()) -> None:
    """Prints rows as JSON or as a table.

    A key that ends in `spread` is shown below the figure that precedes it in its row; `settings`
    are keys that are the same in all rows, named once above the table."""
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    shared = [
        str(rows[0][key]) if isinstance(rows[0][key], str) else f"{key} {rows[0][key]}" for key in settings
    ]
    # The longest row has every column: a figure that was not measured is absent from its row.
    keys = [key for key in max(rows, key=len) if key not in settings]
    columns = [key for key in keys if not key.endswith("spread")]
    spread_of = {keys[i - 1]: key for i, key in enumerate(keys) if key.endswith("spread")}
    table = Table(*columns, title=", ".join(shared))
    for row in rows:
        table.add_row(*(_cell(row.get(key), row.get(spread_of.get(key, ""))) for key in columns))
    Console().print(table)


def _cell(value: Any, spread: list[float] | None) -> str:
    shown = "" if value is None else _number(value)
    return shown if spread is None else f"{shown}\n[dim]{_number(spread[0])}-{_number(spread[1])}[/dim]"


def _number(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
