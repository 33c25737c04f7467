r"""Time of one update: ours against the published one, in one process, pair by pair.

    python benchmarks/update.py
    python benchmarks/update.py --json --batch 512 --depths 4 16 64 256 1024 \
        --precision tensorfloat32 bfloat16 --fused        (with a Hopper GPU: some five minutes)

Both get the same random batch. A sample is a run of updates, each given the last one's state, whose
buffers it reuses; only the last is waited for, so that a GPU computes while the next is dispatched.
Ratios are taken within a pair, so that other work on the machine slows both sides; the order within a
pair alternates.
Spreads are quartiles. `--precision` is ours; the published update has JAX's default, which on recent
GPUs is TensorFloat-32.

The published update is compiled layer by layer, half a minute at depth 64 on two cores and not done
after 25 minutes at depth 1024: rows deeper than `--published-up-to` are ours alone.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import jax
import numpy as np
from measuring import (
    Row,
    device,
    init_learned,
    learner_of,
    middle,
    parser_of,
    random_batch,
    say,
    show,
    sizes_of,
)
from published import make

from teacher.compilation import jit_once
from teacher.config import NetworkConfig, Precision
from teacher.replay import Batch

Step = Callable[..., tuple[Any, dict[str, jax.Array]]]

SECONDS = 25.0  # of measuring at one depth
FEWEST_PAIRS = 5
SAMPLE_S = 0.2  # the shortest sample


class Runner:
    """A compiled update and the state that it moves on."""

    def __init__(self, name: str, state: Any, update: Step, batch: Batch):
        self.state, self.batch, self.key = state, batch, jax.random.key(1)
        begun = time.perf_counter()
        self.step = jax.jit(update, donate_argnums=0).lower(state, batch, self.key).compile()
        say(f"  {name}: traced and compiled in {time.perf_counter() - begun:.1f} s")

    def run(self, updates: int) -> float:
        """Seconds per update."""
        begun = time.perf_counter()
        for _ in range(updates):
            self.state, _ = self.step(self.state, self.batch, self.key)
        jax.block_until_ready(self.state)
        return (time.perf_counter() - begun) / updates


def our_runner(network: NetworkConfig, batch: Batch) -> Runner:
    learner = learner_of(network, batch)
    state = jit_once(partial(init_learned, learner, batch))(jax.random.key(0))
    return Runner("ours", state, learner.update, batch)


def published_runner(depth: int, width: int, batch: Batch) -> Runner:
    init, update = make(sizes_of(batch), depth, width)
    if depth > 64:
        say("  published: compiles layer by layer; at depth 1024 25 minutes were not enough on two cores")
    # Not compiled: XLA would take longer over so many layers than to make them one by one.
    return Runner("published", init(jax.random.key(0)), update, batch)


def measure(runners: list[Runner], repeats: int) -> np.ndarray:
    """Seconds per update [pairs, runners]: within SECONDS, unless FEWEST_PAIRS take longer."""
    for runner in runners:
        runner.run(2)  # warm-up
    updates = [max(1, round(SAMPLE_S / runner.run(1))) for runner in runners]
    pairs: list[np.ndarray] = []
    begun = time.perf_counter()
    while len(pairs) < repeats and (len(pairs) < FEWEST_PAIRS or time.perf_counter() - begun < SECONDS):
        pair = np.empty(len(runners))
        order = range(len(runners)) if len(pairs) % 2 else reversed(range(len(runners)))
        for i in order:
            pair[i] = runners[i].run(updates[i])
        pairs.append(pair)
    say(f"  {len(pairs)} pairs in {time.perf_counter() - begun:.0f} s")
    return np.stack(pairs)


def row(network: NetworkConfig, batch: Batch, published: bool, repeats: int) -> Row:
    say(f"depth {network.depth}, {network.precision}{', fused' if network.fused else ''}")
    runners = [our_runner(network, batch)]
    if published:
        runners.append(published_runner(network.depth, network.width, batch))
    seconds = measure(runners, repeats)
    figures: Row = {
        "depth": network.depth,
        "width": network.width,
        "batch": len(batch.observation),
        "device": device(),
        "precision": network.precision,
        "kernels": "fused" if network.fused else "scan",
    }
    figures["ours_ms"], figures["ours_ms_spread"] = middle(1e3 * seconds[:, 0])
    if published:
        figures["published_ms"], figures["published_ms_spread"] = middle(1e3 * seconds[:, 1])
        figures["ratio"], figures["spread"] = middle(seconds[:, 1] / seconds[:, 0])
    return figures


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--depths", type=int, nargs="+", default=[4, 16, 64])
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument(
        "--precision", choices=get_args(Precision), nargs="+", default=[NetworkConfig().precision]
    )
    parser.add_argument("--fused", action="store_true", help="the fused kernels as well, with bfloat16")
    parser.add_argument("--ours-only", action="store_true", help="leave the published update out")
    parser.add_argument(
        "--published-up-to", type=int, metavar="DEPTH", default=64, help="deeper rows are ours alone"
    )
    parser.add_argument("--repeats", type=int, default=100, help="pairs at one depth, at most")
    arguments = parser.parse_args()
    if arguments.fused and "bfloat16" not in arguments.precision:
        parser.error("--fused needs --precision bfloat16")
    kinds = [(precision, False) for precision in arguments.precision]
    kinds += [("bfloat16", True)] if arguments.fused else []
    batch = random_batch(arguments.batch)
    rows = []
    for depth in arguments.depths:
        published = not arguments.ours_only and depth <= arguments.published_up_to
        for precision, fused in kinds:
            network = NetworkConfig(depth=depth, width=arguments.width, precision=precision, fused=fused)
            # The published update has one precision: beside our first.
            rows.append(row(network, batch, published and (precision, fused) == kinds[0], arguments.repeats))
    show(rows, arguments.json, settings=("width", "batch", "device"))


if __name__ == "__main__":
    main()
