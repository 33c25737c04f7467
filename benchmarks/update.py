r"""Time of one update: ours against the published one, in one process, pair by pair.

    python benchmarks/update.py
    python benchmarks/update.py --json --batch 512 --depths 4 16 64 256 1024 \
        --precision tensorfloat32 bfloat16 --kernels scan fused        (with a Hopper GPU)

Both get the same random batch. A program makes IN_PROGRAM updates one after another, as training does
(the published too). A sample is a run of programs, each given the last one's state, whose buffers it
reuses; only the last is waited for, so that a GPU computes while the next is dispatched.
Ratios are taken within a pair, whose order alternates, so that other work on the machine slows both
sides. Spreads are quartiles. `--precision` is ours; the published update has JAX's default, which on
recent GPUs is TensorFloat-32.

The published update is compiled layer by layer, half a minute at depth 64 on two cores and not done
after 25 minutes at depth 1024: rows deeper than `--published-up-to` are ours alone (0: all).
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import jax
import measuring
import numpy as np
from measuring import Row, say
from published import make

from teacher.compilation import jit_once
from teacher.config import NetworkConfig, Precision
from teacher.replay import Batch

FEWEST_PAIRS = 5
SAMPLE_S = 0.2  # the shortest sample
IN_PROGRAM = 8


class Runner:
    """Compiled updates and the state that they move."""

    def __init__(self, name: str, state: Any, update: Callable[..., Any], batch: Batch):
        self.state, self.batch, self.key = state, batch, jax.random.key(1)
        begun = time.perf_counter()

        def updates(state: Any, batch: Batch, key: Any) -> Any:
            keys = jax.random.split(key, IN_PROGRAM)
            return jax.lax.scan(lambda state, key: (update(state, batch, key)[0], None), state, keys)[0]

        self.step = jax.jit(updates, donate_argnums=0).lower(state, batch, self.key).compile()
        say(f"  {name}: traced and compiled in {time.perf_counter() - begun:.1f} s")

    def run(self, programs: int) -> float:
        """Returns the seconds per update."""
        begun = time.perf_counter()
        for _ in range(programs):
            self.state = self.step(self.state, self.batch, self.key)
        jax.block_until_ready(self.state)
        return (time.perf_counter() - begun) / (programs * IN_PROGRAM)


def runners(network: NetworkConfig, batch: Batch, published: bool) -> list[Runner]:
    """Compiles our update and, if asked, the published one."""
    learner, key = measuring.learner_of(network, batch), jax.random.key(0)
    state = jit_once(partial(measuring.init_learned, learner, batch))(key)
    found = [Runner("ours", state, learner.update, batch)]
    if published:
        init, update = make(measuring.sizes_of(batch), network.depth, network.width)
        # `init` is not compiled: XLA would take longer over so many layers than to make them one by one.
        found.append(Runner("published", init(key), update, batch))
    return found


def measure(runners: list[Runner], repeats: int, seconds: float) -> np.ndarray:
    """Returns seconds per update [pairs, runners]: within `seconds`, unless FEWEST_PAIRS take longer."""
    for runner in runners:
        runner.run(1)  # warm-up
    programs = [max(1, round(SAMPLE_S / (IN_PROGRAM * runner.run(1)))) for runner in runners]
    pairs: list[np.ndarray] = []
    begun = time.perf_counter()
    while len(pairs) < repeats and (len(pairs) < FEWEST_PAIRS or time.perf_counter() - begun < seconds):
        pair = np.empty(len(runners))
        order = range(len(runners)) if len(pairs) % 2 else reversed(range(len(runners)))
        for i in order:
            pair[i] = runners[i].run(programs[i])
        pairs.append(pair)
    say(f"  {len(pairs)} pairs in {time.perf_counter() - begun:.0f} s")
    return np.stack(pairs)


def row(network: NetworkConfig, batch: Batch, published: bool, repeats: int, seconds: float) -> Row:
    say(f"depth {network.depth}, {network.precision}{', fused' if network.fused else ''}")
    times = measure(runners(network, batch, published), repeats, seconds)
    figures: Row = {
        "depth": network.depth,
        "width": network.width,
        "batch": len(batch.observation),
        "device": measuring.device(),
        "precision": network.precision,
        "kernels": "fused" if network.fused else "scan",
    }
    figures["ours_ms"], figures["ours_ms_spread"] = measuring.middle(1e3 * times[:, 0])
    if published:
        figures["published_ms"], figures["published_ms_spread"] = measuring.middle(1e3 * times[:, 1])
        figures["ratio"], figures["spread"] = measuring.middle(times[:, 1] / times[:, 0])
    return figures


def main() -> None:
    parser = measuring.parser_of(__doc__)
    parser.add_argument("--depths", type=int, nargs="+", default=[4, 16, 64])
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--batch", type=int, default=256)
    default = [NetworkConfig().precision]
    parser.add_argument("--precision", choices=get_args(Precision), nargs="+", default=default)
    parser.add_argument("--kernels", choices=("scan", "fused"), nargs="+", default=["scan"])
    parser.add_argument("--seconds", type=float, default=25.0, help="of measuring at one depth")
    parser.add_argument("--published-up-to", type=int, metavar="DEPTH", default=64)
    parser.add_argument("--repeats", type=int, default=100, help="pairs at one depth, at most")
    arguments = parser.parse_args()
    kinds = [(precision, False) for precision in arguments.precision if "scan" in arguments.kernels]
    kinds += [("bfloat16", True)] if "fused" in arguments.kernels else []  # they take nothing else
    batch = measuring.random_batch(arguments.batch)
    rows = []
    for depth in arguments.depths:
        for precision, fused in kinds:
            network = NetworkConfig(depth=depth, width=arguments.width, precision=precision, fused=fused)
            # The published update has one precision: beside our first.
            published = depth <= arguments.published_up_to and (precision, fused) == kinds[0] and not fused
            rows.append(row(network, batch, published, arguments.repeats, arguments.seconds))
    measuring.show(rows, arguments.json, settings=("width", "batch", "device"))


if __name__ == "__main__":
    main()
