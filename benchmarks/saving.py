"""What saving costs while a replay of gigabytes fills up.

    python benchmarks/saving.py --gigabytes 2 --rows 1250

Saves once with a full ring, then after every `rows` new rows, as a run does each minute. The share is
that of a minute; saves are at least a minute apart, and further where one takes longer than 1.2 s.
"""

import shutil
import tempfile
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from measuring import Row, parser_of, show

from teacher import checkpoint

INTERVAL_S = 60.0


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--gigabytes", type=float, default=2.0, help="size of the replay")
    parser.add_argument("--envs", type=int, default=256)
    parser.add_argument("--rows", type=int, default=1250, help="new rows between two saves")
    parser.add_argument("--saves", type=int, default=5)
    arguments = parser.parse_args()
    capacity = int(arguments.gigabytes * 2**30 / (arguments.envs * 27 * 4))
    # [C, N, 27]: about what a row of fr3_reach holds.
    rows = {
        "observation": jnp.asarray(
            np.random.default_rng(0).random((capacity, arguments.envs, 27), np.float32)
        )
    }
    state = {"parameters": jnp.ones((16, 4, 64, 64))}
    directory = Path(tempfile.mkdtemp(prefix="fathom-saving-"))
    seconds = []
    try:
        for number in range(arguments.saves + 1):
            begun = time.perf_counter()
            ring = checkpoint.Ring(rows, capacity + number * arguments.rows)
            checkpoint.save(directory, number + 1, state, record={}, ring=ring, keep=2)
            seconds.append(time.perf_counter() - begun)
    finally:
        shutil.rmtree(directory)
    save_s, spread = float(np.median(seconds[1:])), [min(seconds[1:]), max(seconds[1:])]
    row: Row = {"replay_gb": arguments.gigabytes, "rows_per_save": arguments.rows, "first_save_s": seconds[0]}
    row |= {"save_s": save_s, "spread": spread, "share_of_a_minute": save_s / INTERVAL_S}
    show([row], arguments.json)


if __name__ == "__main__":
    main()
