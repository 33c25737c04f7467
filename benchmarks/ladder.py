"""Depth against equal numbers of updates in one maze, all seeds of a depth side by side on one device.

    python benchmarks/ladder.py --depths 4 16 64 --seeds 3 --out FILE.json
    python benchmarks/ladder.py --depths 64 --seeds 3 --set network.width=256 update.batch_size=512  (a GPU)

The seeds' learners are one program, mapped over the seeds: where small kernels wait for one another, three
cost as much as one or two. Scores are of the averaged parameters (`update.ema_decay`) on the held-out
episodes, at the end and, as the paper's, as means of the last five evaluations (arXiv:2503.14858);
`update_ms` is the wall time of training, collection included, per update of all seeds.
"""

import time
from functools import partial

import jax
import numpy as np
from measuring import Results, Row, device, parser_of, say, show

from pipelines.config import preset, with_values
from teacher.config import TeacherConfig
from teacher.evaluate import evaluation_layout, evaluation_starts, run_episodes, summarise
from teacher.learner import Learner
from teacher.networks import deterministic_action
from teacher.rollout import simulation_of
from teacher.sharding import Devices
from teacher.train import require_sound

SHOWN = ("depth", "seed", "time_at_goal", "last_five", "success_final", "update_ms", "wall_s")


def climb(config: TeacherConfig, seeds: int) -> Row:
    """Trains `seeds` teachers of one configuration; their scores and curves, and what they took."""
    learner = Learner(config, Devices(jax.devices()[:1]))
    robot, layout = simulation_of(config.task), evaluation_layout(config)
    held_out = evaluation_starts(robot, config.evaluate.episodes, layout)
    act = jax.jit(partial(deterministic_action, learner.networks))
    init, collect, update = (
        jax.jit(jax.vmap(function), donate_argnums=donated)
        for function, donated in ((learner._init, ()), (learner.collect, 0), (learner.update_many, 0))
    )
    begun = time.perf_counter()
    state = init(jax.random.split(jax.random.key(0), seeds))
    for _ in range(-(-config.collect.prefill // config.collect.unroll_length)):
        state = collect(state)
    curves: list[list[float]] = [[] for _ in range(seeds)]
    scores: list[Row] = []
    training, compiled_s = 0.0, 0.0
    iterations = config.collect.iterations
    for iteration in range(1, iterations + 1):
        started = time.perf_counter()
        state, metrics = update(collect(state))
        found = {key: np.asarray(values) for key, values in metrics.items()}
        if iteration == 1:
            compiled_s = time.perf_counter() - begun
        else:
            training += time.perf_counter() - started
        for seed in range(seeds):
            require_sound({key: float(values[seed]) for key, values in found.items()}, iteration, config)
        if iteration % config.evaluate.every == 0 or iteration == iterations:
            scores = []
            for seed in range(seeds):
                actor = jax.tree.map(lambda leaf, seed=seed: leaf[seed], state.average.actor)
                score = summarise(run_episodes(robot, partial(act, actor), held_out)[0], layout)
                scores.append(
                    {key: score[key] for key in ("time_at_goal", "success_final", "final_distance")}
                )
                curves[seed].append(score["time_at_goal"])
            shown = " ".join(f"{score['time_at_goal']:.3f}" for score in scores)
            say(f"{iteration} of {iterations}, {time.perf_counter() - begun:.0f} s: {shown}")
    by_seed = [
        {"seed": seed, **scores[seed], "last_five": float(np.mean(curves[seed][-5:])), "curve": curves[seed]}
        for seed in range(seeds)
    ]
    return {
        "by_seed": by_seed,
        "layout": layout,
        "device": device(),
        "compile_s": compiled_s,
        "update_ms": 1e3 * training / max(1, (iterations - 1) * config.collect.updates),
        "wall_s": time.perf_counter() - begun,
    }


def main() -> None:
    parser = parser_of(__doc__, out=True)
    parser.add_argument("--preset", default="wheel-labyrinth")
    parser.add_argument("--depths", type=int, nargs="+", default=[4, 16, 64])
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each depth")
    parser.add_argument("--set", nargs="+", default=[], metavar="GROUP.FIELD=VALUE", help="other settings")
    arguments = parser.parse_args()
    kept = Results(arguments.out)
    rows = []
    for depth in arguments.depths:
        config = with_values(preset(arguments.preset), [*arguments.set, f"network.depth={depth}"]).teacher
        basis = {"preset": arguments.preset, "set": arguments.set, "depth": depth, "seeds": arguments.seeds}
        say(f"depth {depth}")
        row = kept.add(basis, partial(climb, config, arguments.seeds))
        rows += [{"depth": depth} | seed | {key: row[key] for key in SHOWN[-2:]} for seed in row["by_seed"]]
    show([{key: row[key] for key in SHOWN} for row in rows], arguments.json)


if __name__ == "__main__":
    main()
