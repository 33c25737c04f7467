"""ONNX Runtime against JAX: the same observations, one at a time, as the robot will ask."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import onnx

from export.controller import open_session
from teacher.errors import FathomError

if TYPE_CHECKING:
    import jax

ACTION_TOLERANCE = (1e-5, 0.0)  # absolute, relative
DISTANCE_TOLERANCE = (1e-5, 1e-5)  # a distance has no bound
WARM_UP = 100


class Verification(NamedTuple):
    """How close ONNX Runtime came to JAX on one graph, and how fast it was on this machine."""

    graph: str
    errors: np.ndarray  # [K]: of each observation, the largest of its answer
    latencies_us: np.ndarray  # [K]

    @property
    def max_abs_error(self) -> float:
        return float(self.errors.max())

    def latency_us(self, percentile: float) -> float:
        return float(np.percentile(self.latencies_us, percentile))


def reference(function: "Callable[..., jax.Array]", inputs: Sequence[np.ndarray]) -> np.ndarray:
    """Returns JAX's answers [K, ...] to inputs of [K, size] each; `function` is asked with batches of one.

    Matrix products run at `highest` precision, otherwise an accelerator would round them."""
    import jax  # tolerances are read where nothing computes

    def single(row: "tuple[jax.Array, ...]") -> "jax.Array":
        return function(*(value[None] for value in row))[0]

    with jax.default_matmul_precision("highest"):
        return np.asarray(jax.jit(lambda rows: jax.lax.map(single, rows))(tuple(inputs)))


def verify(
    model: onnx.ModelProto,
    inputs: Mapping[str, np.ndarray],
    expected: np.ndarray,
    tolerance: tuple[float, float],
) -> Verification:
    """Runs the graph on every observation and compares.

    Args:
      inputs: by input name, [K, size] float32 each.
      expected: [K, ...], the answers of `reference`.
      tolerance: absolute and relative; |found - expected| <= absolute + relative * |expected|.
    Raises FathomError with the graph, the worst observation, its values, expected and found."""
    session = open_session(model.SerializeToString(deterministic=True))
    count = len(expected)
    feeds = [{name: value[i : i + 1] for name, value in inputs.items()} for i in range(count)]
    for i in range(WARM_UP):
        session.run(None, feeds[i % count])
    answers, seconds = [], np.empty(count)
    for i, feed in enumerate(feeds):
        start = time.perf_counter()
        answers.append(session.run(None, feed)[0])
        seconds[i] = time.perf_counter() - start
    found = np.concatenate(answers).reshape(expected.shape)
    errors = np.abs(found.astype(np.float64) - expected)
    absolute, relative = tolerance
    # The largest entry that is left over; NaN compares with nothing and so counts as infinitely wrong.
    excess = np.nan_to_num(errors - relative * np.abs(expected), nan=np.inf).reshape(count, -1).max(axis=1)
    worst = int(np.argmax(excess))
    if not excess[worst] <= absolute:
        values = ", ".join(f"{name} {_short(value[worst])}" for name, value in inputs.items())
        raise FathomError(
            f"{model.graph.name}: ONNX Runtime and JAX disagree, worst at observation {worst} of {count}: "
            f"expected {_short(expected[worst])}, found {_short(found[worst])}, "
            f"allowed difference {absolute:g} + {relative:g} * |expected|; {values}"
        )
    return Verification(model.graph.name, errors.reshape(count, -1).max(axis=1), seconds * 1e6)


def _short(values: np.ndarray) -> str:
    return np.array2string(values, precision=6, threshold=8, edgeitems=3, max_line_width=1000)
