"""Exploration against expressivity: learners of one depth on the data of collectors of another.

    python benchmarks/collectors.py --pairs 4,4 4,32 32,4 32,32 --seeds 0 1 2 --out FILE.json

As arXiv:2503.14858, figure 8. The collector trains and acts as any teacher. The learner, another network with
an initialisation and batches of its own, makes as many updates on what the collector has gathered, and never
acts: if it fails where the collector succeeds, it lacks expressivity, and if a shallow one succeeds on a deep
collector's data, it lacked exploration. Learning from another's data is harder than from one's own
(arXiv:2110.14020), so the learner to compare with is the one of the same depth as its collector, and not the
collector. Collectors of one depth and seed gather the same data whoever learns from them.

Scores are of the averaged parameters (`update.ema_decay`) on the held-out episodes; `collector_` ones are the
collector's own. Each pair takes the time of its two teachers together.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from functools import partial

import jax
from measuring import Results, Row, parser_of, say, show

from pipelines.config import preset, with_values
from teacher.config import TeacherConfig
from teacher.errors import FathomError
from teacher.evaluate import evaluation_layout, evaluation_starts, run_episodes, summarise
from teacher.learner import Learner, TeacherState
from teacher.rollout import simulation_of
from teacher.train import require_finite

SCORES = ("time_at_goal", "time_at_goal_interval", "success_final", "final_distance")
SHOWN = ("collector", "learner", "seed", "time_at_goal", "success_final", "collector_time_at_goal", "wall_s")
LEARNER = 2_100_000_003  # folded into the seed's key; the first numbers are keys that its collector has


def learnt(collector: Learner, learner: Learner, seed: int) -> Row:
    """A pair's scores, and its learning curve."""
    config, key = collector.config, jax.random.key(seed)
    robot, layout = simulation_of(config.task), evaluation_layout(config)
    held_out = evaluation_starts(robot, config.evaluate.episodes, layout)
    acting, watching = collector.init(key), learner.init(jax.random.fold_in(key, LEARNER))
    curve, begun = [], time.perf_counter()
    for iteration in range(1, config.collect.iterations + 1):
        acting, watching = _iterate(collector, learner, acting, watching)
        if iteration % config.evaluate.every == 0 or iteration == config.collect.iterations:
            point: Row = {"iteration": iteration}
            for name, who, state in (("", learner, watching), ("collector_", collector, acting)):
                outcomes, _ = run_episodes(robot, who.policy(state.average), held_out)
                found = summarise(outcomes, layout)
                point |= {name + key: found[key] for key in SCORES}
            curve.append({key: value for key, value in point.items() if not key.endswith("_interval")})
            say(f"iteration {iteration} of {config.collect.iterations}: {point['time_at_goal']:.3f}")
    del point["iteration"]
    return {**point, "layout": layout, "wall_s": time.perf_counter() - begun, "curve": curve}


def _iterate(
    collector: Learner, learner: Learner, acting: TeacherState, watching: TeacherState
) -> tuple[TeacherState, TeacherState]:
    """The collector collects; then both update, from the one replay that is handed to and fro."""
    collect = collector.config.collect
    acting = collector._collect(acting)
    while int(acting.replay.written) < collect.prefill:
        acting = collector._collect(acting)
    watching, metrics = learner._update(watching._replace(replay=acting.replay))
    acting, own_metrics = collector._update(acting._replace(replay=watching.replay))
    for who, made in (("learner", metrics), ("collector", own_metrics)):
        found = {f"{who}'s {key}": float(value) for key, value in made.items()}
        require_finite(found, f"iteration {int(acting.iteration)}")
    return acting, watching


def config_of(depth: int, assignments: Sequence[str]) -> TeacherConfig:
    """The preset's teacher of that depth, with `group.field=value` assignments."""
    return with_values(preset("wheel-maze"), [f"network.depth={depth}", *assignments]).teacher


def parse_pair(text: str) -> tuple[int, int]:
    """`4,32` -> collector's and learner's depth."""
    collector, comma, learner = text.partition(",")
    if not (comma and collector.isdecimal() and learner.isdecimal()):
        raise argparse.ArgumentTypeError(f"found {text!r}, write COLLECTOR,LEARNER depths, for example 4,32")
    return int(collector), int(learner)


def main() -> None:
    parser = parser_of(__doc__, out=True)
    pairs = [(4, 4), (4, 32), (32, 4), (32, 32)]
    parser.add_argument("--pairs", type=parse_pair, nargs="+", default=pairs, metavar="COLLECTOR,LEARNER")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    both = "a setting of both teachers, on top of the preset wheel-maze"
    parser.add_argument("--set", action="append", default=[], metavar="GROUP.FIELD=VALUE", help=both)
    arguments = parser.parse_args()
    settings = sorted(arguments.set)
    learners = {
        depth: Learner(config_of(depth, settings))
        for depth in sorted({depth for pair in arguments.pairs for depth in pair})
    }
    results = Results(arguments.out)
    for seed in arguments.seeds:
        for collector, learner in arguments.pairs:
            basis = {"collector": collector, "learner": learner, "seed": seed, "settings": settings}
            say(f"collector {collector}, learner {learner}, seed {seed}")
            results.add(basis, partial(learnt, learners[collector], learners[learner], seed))
    rows = [{key: row[key] for key in row if arguments.json or key in SHOWN} for row in results.rows]
    show(rows, arguments.json)


if __name__ == "__main__":
    try:
        main()
    except FathomError as error:
        sys.exit(f"refused: {error}")
