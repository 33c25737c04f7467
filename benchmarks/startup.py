"""How long the command line takes to answer; prints JSON.

    python benchmarks/startup.py --runs 20

Each figure is the median over so many processes, in seconds, with the quartiles as its spread; `python` is
a process that does nothing, and is part of the others.
"""

import argparse
import json
import subprocess
import sys
import time
from statistics import quantiles

MAIN = "import sys; sys.argv = {}; from pipelines.cli import main; main()"
COMMANDS = {
    "python": "pass",
    "import": "import pipelines.cli",
    "help": MAIN.format(["pipeline", "--help"]),
    "presets": MAIN.format(["pipeline", "presets"]),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    runs = parser.parse_args().runs
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(runs):  # in turn, so that a slow moment of the machine meets them all
        for name, code in COMMANDS.items():
            begun = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
            seconds[name].append(time.perf_counter() - begun)
    figures: dict[str, object] = {"runs": runs}
    for name, values in seconds.items():
        low, median, high = quantiles(values, n=4, method="inclusive")
        figures |= {f"{name}_s": median, f"{name}_s_spread": [low, high]}
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
