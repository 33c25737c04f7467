"""All that is worth knowing of a GPU, within so many minutes: right before fast, the most telling first.

    python benchmarks/gpu.py --minutes 60
    python benchmarks/gpu.py --minutes 5 --parts tests update-64 --out benchmarks/results/gpu

Each part is a process of its own, and its file NAME.json is written as soon as it ends: what it printed as
JSON, the card, the seconds it took, or the error that ended it. Parts whose figures are in `--out` are left
out, so the same command goes on where time ran out; a part that failed is tried again.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from measuring import Row, parser_of, say, show

HERE = Path(__file__).parent
TOP = HERE.parent
# Loops as parts of CUDA graphs; XLA leaves them out by default.
LOOPS_IN_GRAPHS = "--xla_gpu_enable_command_buffer=+WHILE"


class Part(NamedTuple):
    """A part of the queue: a command that prints rows as JSON, or says by its exit code how it went."""

    command: list[str]
    minutes: float  # after which it is stopped
    flags: str = ""  # of XLA


def benchmark(name: str, *options: object) -> list[str]:
    return [sys.executable, str(HERE / f"{name}.py"), "--json", *map(str, options)]


def pytest(*files: str) -> list[str]:
    return [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files]


def update(*options: object) -> list[str]:
    return benchmark("update", "--batch", 512, "--width", 256, "--seconds", 3, *options)


def pipeline(*words: str) -> list[str]:
    return [sys.executable, "-c", "from pipelines.cli import main; main()", *words]


FUSED = ("--set", "network.precision=bfloat16", "--set", "network.fused=true")
# The paper's levers, and 20,000 updates.
LEVERS = ("network.width=256", "update.batch_size=512", "collect.envs=512", "collect.total_steps=5.12e6")
# Steps per second in every engine: what collection can take from the simulator.
ENGINES_OF = ("fr3_reach", "ant", "humanoid", "ant_big_maze")
QUEUE = {
    "tests": Part(pytest("tests/test_update.py", "tests/test_residual.py"), 6),
    "tests-fused": Part(pytest("tests/test_fused.py"), 3),
    "debug": Part(pipeline("run", "--preset", "debug", "--run", "{work}/debug", "--json"), 4),
    "update-16": Part(update("--depths", 16, "--precision", "tensorfloat32", "bfloat16"), 2),
    **{
        f"update-{depth}": Part(
            update("--depths", depth, "--published-up-to", 0, "--precision", "tensorfloat32", "bfloat16"), 4
        )
        for depth in (64, 256, 1024)
    },
    **{
        f"update-{depth}-fused": Part(update("--depths", depth, "--kernels", "fused"), 4)
        for depth in (16, 64, 256, 1024)
    },
    **{
        f"layer-kernels-{depth}": Part(
            benchmark("layer_kernels", "--depths", depth, "--precision", "tensorfloat32", "bfloat16"), 3
        )
        for depth in (64, 1024)
    },
    "update-loops-in-graphs": Part(
        update("--depths", 16, 64, 1024, "--published-up-to", 0), 3, LOOPS_IN_GRAPHS
    ),
    **{
        f"engines-{envs}": Part(pipeline("tasks", *ENGINES_OF, "--table", "--envs", str(envs), "--json"), 6)
        for envs in (512, 4096)
    },
    **{
        f"ladder-{depth}": Part(benchmark("ladder", "--depths", depth, "--set", *LEVERS), 10)
        for depth in (4, 16, 64, 256)
    },
    "update-64-published": Part(update("--depths", 64), 8),  # minutes of compiling
    "thousand-layers": Part(
        pipeline("run", "--preset", "deep-smoke", "--run", "{work}/deep", "--json", *FUSED), 10
    ),
}


def perform(part: Part, seconds: float, log: Path) -> Row:
    """Runs one part for at most so long; its rows, or the error that ended it. `log` gets all it says."""
    environment = os.environ | {"PYTHONPATH": f"{TOP}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    if part.flags:
        environment["XLA_FLAGS"] = f"{environment.get('XLA_FLAGS', '')} {part.flags}".strip()
    command = [word.replace("{work}", str(log.parent)) for word in part.command]
    begun = time.perf_counter()
    with log.open("w") as said:
        try:
            channels = {"stdout": subprocess.PIPE, "stderr": said, "text": True}
            done = subprocess.run(command, **channels, timeout=seconds, cwd=TOP, env=environment, check=False)
            failed = f"exit code {done.returncode}" if done.returncode else ""
            printed = done.stdout
        except subprocess.TimeoutExpired as late:
            failed = f"stopped after {seconds:.0f} s"
            printed = (late.stdout or b"").decode(errors="replace") if isinstance(late.stdout, bytes) else ""
    row: Row = {"seconds": round(time.perf_counter() - begun, 1)}
    row |= {"flags": part.flags} if part.flags else {}
    try:
        row["result"] = json.loads(printed)
    except ValueError:
        row["printed"] = printed[-1500:]
    return row | ({"error": f"{failed}: {log.read_text()[-1500:]}"} if failed else {})


def card() -> str:
    """Names the GPU, asked in a process of its own: this one must not take its memory."""
    ask = "import jax; print(jax.__version__, jax.devices()[0].device_kind, sep=', ')"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    return f"jax {done.stdout.strip()}"


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "gpu")
    parser.add_argument("--work", type=Path, default=TOP / "runs" / "gpu", help="for logs and runs")
    parser.add_argument("--parts", nargs="+", choices=QUEUE, default=list(QUEUE), metavar="PART")
    arguments = parser.parse_args()
    end = time.monotonic() + 60 * arguments.minutes
    for folder in (arguments.out, arguments.work):
        folder.mkdir(parents=True, exist_ok=True)
    device, rows = card(), []
    for name in arguments.parts:
        path = arguments.out / f"{name}.json"
        if path.exists() and "error" not in json.loads(path.read_text()):
            say(f"{name}: there already")
            continue
        left = end - time.monotonic()
        if left < 20:
            say(f"{name}: no time left")
            continue
        part = QUEUE[name]
        row = {"part": name, "device": device} | perform(
            part, min(60 * part.minutes, left), arguments.work / f"{name}.log"
        )
        path.write_text(json.dumps(row, indent=1) + "\n")
        rows.append({"part": name, "seconds": row["seconds"], "error": row.get("error", "")[-300:]})
        say(f"{name}: {row['seconds']} s {row.get('error', '')[-300:]}")
    show(rows or [{"part": "none", "seconds": 0, "error": ""}], arguments.json)


if __name__ == "__main__":
    main()
