"""What a critic learns from the same data at every depth: architectures compared without an actor.

    python benchmarks/critic_depth.py --depths 4 16 64 --rates 3e-4 1e-3 --seeds 0 1 2 --out FILE.json

A robot that half knows its maze walks it once; critics learn from these frozen walks, and are asked about
others of its walks. Candidates, by what the branch of each of K residual blocks is multiplied with:

over-blocks     1 / K
base-depth      min(1, 4 / K): published up to depth 16, and from there on the sum of all branches is bounded
                (arXiv:2505.01618, alpha = 1, under which Adam's rate does not change with depth)
published       1 (arXiv:2503.14858)
published-rate  1, with Adam's rate in the blocks times min(1, 4 / K) (arXiv:2505.01618, alpha = 0)

`loss` is InfoNCE without its penalty, of held-out batches in which no two state-actions are of one walk,
and `loss_own` of such as have sixteen of each walk: both are the same batches for all. `rank` is the rank
correlation of the critic's distance with the number of cells to walk, over pairs of any distance and
(`rank_far`) of at least eight cells.

`--sampling` says which walks a batch to learn from comes from: `even`, one state-action of each; a number, so
many of each; `independent`, every state-action's walk drawn by itself among as many walks as the batch has
state-actions, so that it has about one companion of its own walk (as published, arXiv:2503.14858).
"""

import itertools
import time
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from measuring import Results, Row, parser_of, say, show

from teacher import replay
from teacher.blocks import Settings
from teacher.distance_map import Queries, agreement
from teacher.losses import infonce, pairwise_distance, retrieval_accuracy
from teacher.networks import ResidualNetwork
from teacher.replay import Replay, Rows
from teacher.sharding import Devices
from teacher.tasks import State, achieved_goal, make_task
from teacher.tasks.mazes import Maze

STEPS = 250  # of each walk
TRAINING, HELD_OUT = 2048, 256  # walks
KNOWING = 0.7  # share of the walks that follow the shortest way, with noise
DISCOUNT, PENALTY, REPRESENTATION = 0.99, 0.1, 64
JUDGED_BATCHES, JUDGED_STATES, OWN = 16, 400, 16
POINTS = 5  # of a learning curve


class Candidate(NamedTuple):
    branch_scale: Callable[[int], float]  # of the number of blocks
    rate: Callable[[int], float]  # factor of the learning rate within the blocks


CANDIDATES = {
    "over-blocks": Candidate(lambda blocks: 1 / blocks, lambda blocks: 1.0),
    "base-depth": Candidate(lambda blocks: min(1.0, 4 / blocks), lambda blocks: 1.0),
    "published": Candidate(lambda blocks: 1.0, lambda blocks: 1.0),
    "published-rate": Candidate(lambda blocks: 1.0, lambda blocks: min(1.0, 4 / blocks)),
}


class Stack(ResidualNetwork):
    branch_scale: float = 1.0

    @property
    def settings(self) -> Settings:
        return super().settings._replace(residual_scale=self.branch_scale)


def walks(name: str, count: int, rng: np.random.Generator) -> Rows:
    """`count` walks of STEPS steps that begin anywhere in the maze of that task."""
    task: Any = make_task(name)
    routes = task.maze.routes
    cells = len(routes.centres)

    def anywhere() -> np.ndarray:
        return rng.integers(0, cells, count)

    place = routes.centres[anywhere()] + rng.uniform(-0.05, 0.05, (count, 2))
    heading = rng.uniform(-np.pi, np.pi, (count, 1))
    state = State(np.concatenate([place, heading], axis=1), np.zeros((count, 3)), np.zeros((count, 3)))
    goal, noise, knows = anywhere(), np.zeros((count, 2)), rng.random(count) < KNOWING
    steps = []
    for _ in range(STEPS):
        observation = task.observe(state)
        arrived = task.maze.cell_number(observation[:, :2]) == goal
        another = rng.random(count) < np.where(arrived, 0.1, 0.005)
        goal = np.where(another, anywhere(), goal)
        noise = 0.8 * noise + 0.5 * rng.normal(size=(count, 2))
        known = task.reference_policy(observation, routes.centres[goal])
        action = np.clip(np.where(knows[:, None], known + 0.5 * noise, 1.2 * noise), -1, 1)
        state = task.advance(state, task.control(state, action))
        steps.append((observation, action, achieved_goal(task.spec, task.observe(state))))
    observation, action, reached = (
        np.stack(values).astype(np.float32) for values in zip(*steps, strict=True)
    )
    return Rows(observation, action, reached, np.zeros((STEPS, count), np.int32))


def as_replay(rows: Rows) -> Replay:
    sizes = (leaf.shape[-1] for leaf in rows[:3])
    length, count = rows.episode.shape
    return replay.insert(replay.empty(length, count, *sizes), jax.tree.map(jnp.asarray, rows))


@cache
def data(task: str) -> tuple[Replay, Replay]:
    rng = np.random.default_rng(0)
    return as_replay(walks(task, TRAINING, rng)), as_replay(walks(task, HELD_OUT, rng))


def drawn_walks(sampling: str, key: jax.Array, batch: int, count: int) -> jax.Array:
    """Which of `count` walks each state-action of a batch comes from: [B]."""
    if sampling == "independent":
        block_key, walk_key = jax.random.split(key)
        return (
            jax.random.randint(block_key, (), 0, count) + jax.random.randint(walk_key, (batch,), 0, batch)
        ) % count
    own = 1 if sampling == "even" else int(sampling)
    return jnp.repeat(jax.random.choice(key, count, (batch // own,), replace=False), own)


def drawn_batch(walked: Replay, key: jax.Array, sampling: str, batch: int) -> replay.Batch:
    """State-actions of the drawn walks, each with a goal that its walk reaches later."""
    walk_key, row_key = jax.random.split(key)
    walk = drawn_walks(sampling, walk_key, batch, walked.newest.shape[1])
    columns = Replay(*jax.tree.map(lambda leaf: leaf[:, walk], (walked.rows, walked.newest)), walked.written)
    return replay.sample(columns, row_key, batch, DISCOUNT, Devices(jax.devices()[:1]))


def trained(
    task: str,
    candidate: str,
    sampling: str,
    depth: int,
    width: int,
    rate: float,
    batch: int,
    updates: int,
    seed: int,
) -> Row:
    """A critic's learning curve."""
    (training, held_out), maze = data(task), make_task(task).maze
    assert maze is not None
    blocks, rule = depth // 4, CANDIDATES[candidate]
    network = Stack(
        depth, width, REPRESENTATION, "published", "float32", branch_scale=rule.branch_scale(blocks)
    )
    keys = jax.random.split(jax.random.key(seed), 3)
    sizes = [leaf.shape[-1] for leaf in training.rows[:3]]
    params = tuple(
        network.init(key, jnp.zeros((1, size)))
        for key, size in zip(keys[:2], (sizes[0] + sizes[1], sizes[2]), strict=True)
    )
    adam = {"blocks": optax.adam(rate * rule.rate(blocks)), "ends": optax.adam(rate)}
    optimiser = optax.multi_transform(adam, partial(jax.tree_util.tree_map_with_path, _group))
    learned = params, optimiser.init(params)

    def logits(params: Any, rows: replay.Batch) -> jax.Array:
        pairs = jnp.concatenate([rows.observation, rows.action], axis=-1)
        return -pairwise_distance(network.apply(params[0], pairs), network.apply(params[1], rows.goal))

    @partial(jax.jit, donate_argnums=0)
    def learn(learned: Any, training: Replay, keys: jax.Array) -> Any:
        def body(carry: Any, key: jax.Array) -> tuple[Any, None]:
            params, state = carry
            slope = jax.grad(
                lambda p: infonce(logits(p, drawn_batch(training, key, sampling, batch)), PENALTY).mean()
            )(params)
            change, state = optimiser.update(slope, state, params)
            return (optax.apply_updates(params, change), state), None

        return jax.lax.scan(body, learned, keys)[0]

    @jax.jit
    def judge(params: Any, held_out: Replay) -> Any:
        def one(key: jax.Array) -> Any:
            found, own = (
                logits(params, drawn_batch(held_out, key, judged, min(batch, HELD_OUT)))
                for judged in ("even", str(OWN))
            )
            losses = {"loss": infonce(found, 0.0).mean(), "loss_own": infonce(own, 0.0).mean()}
            return losses | {"accuracy": retrieval_accuracy(found)}

        return jax.tree.map(jnp.mean, jax.lax.map(one, jax.random.split(jax.random.key(99), JUDGED_BATCHES)))

    ranks = partial(_ranks, jax.jit(lambda params, *of: -logits(params, replay.Batch(*of))), maze, held_out)
    curve, begun = [], time.perf_counter()
    for part in range(POINTS):
        learned = learn(
            learned, training, jax.random.split(jax.random.fold_in(keys[2], part), updates // POINTS)
        )
        point = jax.tree.map(float, judge(learned[0], held_out)) | ranks(learned[0])
        curve.append({"updates": (part + 1) * (updates // POINTS)} | point)
    return {**curve[-1], "wall_s": time.perf_counter() - begun, "curve": curve}


def _group(path: Any, _: Any) -> str:
    return "blocks" if path[-2].key == "params" else "ends"  # the stack's own arrays lie at the top


def _ranks(distances: Callable, maze: Maze, held_out: Replay, params: Any) -> Row:
    """How well the critic's distances to all cells are ordered, in JUDGED_STATES states."""
    rng = np.random.default_rng(5)
    step, walk = rng.integers(0, STEPS, JUDGED_STATES), rng.integers(0, HELD_OUT, JUDGED_STATES)
    observation, action = (np.asarray(leaf)[step, walk] for leaf in held_out.rows[:2])
    asked = Queries(observation, action, observation[:, :2], maze.routes.centres)
    found = agreement(maze, asked, np.asarray(distances(params, observation, action, asked.goals)))
    return {"rank": found["rank_correlation"], "rank_far": found["rank_correlation_far"]}


def main() -> None:
    parser = parser_of(__doc__, out=True)
    parser.add_argument("--task", choices=["wheel_maze", "wheel_labyrinth"], default="wheel_maze")
    parser.add_argument("--candidates", nargs="+", choices=CANDIDATES, default=list(CANDIDATES))
    parser.add_argument("--depths", type=int, nargs="+", default=[4, 16, 64])
    parser.add_argument("--sampling", nargs="+", default=["even"], metavar="even|NUMBER|independent")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--rates", type=float, nargs="+", default=[3e-4, 1e-3])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--updates", type=int, default=4000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    results = Results(arguments.out)
    for seed in arguments.seeds:
        for depth in arguments.depths:
            for rate in arguments.rates:
                for name, sampling in itertools.product(arguments.candidates, arguments.sampling):
                    basis: Row = {"task": arguments.task, "candidate": name, "sampling": sampling}
                    basis |= {"depth": depth, "width": arguments.width, "rate": rate}
                    basis |= {"batch": arguments.batch, "updates": arguments.updates, "seed": seed}
                    row = results.add(basis, partial(trained, **basis))
                    say(str({key: value for key, value in row.items() if key != "curve"}))
    rows = [{key: value for key, value in row.items() if key != "curve"} for row in results.rows]
    show(rows, arguments.json)


if __name__ == "__main__":
    main()
