"""Ways to keep a very deep residual network stable, at the start and after equal updates.

    python benchmarks/architectures.py --fresh --depths 4 16 64 256 1024
    python benchmarks/architectures.py --depths 64 --iterations 25 --seeds 0 1 2

`--fresh` looks at untrained networks alone. Otherwise teachers learn fr3_reach with the settings of
quickstart but for depth and length, and are scored on held-out episodes. Candidates:

published    every branch is added whole
final-norm   published, and a LayerNorm before the output layer
root-scaled  branches times 1/sqrt(blocks)
scaled       branches times 1/blocks: the default
zero         published, with the last norm of every branch starting at zero
"""

import argparse
import time
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from measuring import Row, say, show

from pipelines.presets import preset
from teacher.config import TeacherConfig
from teacher.devices import Devices
from teacher.errors import Diverged
from teacher.evaluate import evaluation_layout, evaluation_starts, run_episodes, summarise
from teacher.learner import Learner
from teacher.networks import (
    ResidualNetwork,
    action_distribution,
    embed_state_action,
    init_params,
    make_networks,
)
from teacher.residual import Settings
from teacher.simulation import simulation_of
from teacher.train import train

Array = jax.Array


class RootScaled(ResidualNetwork):
    @property
    def settings(self) -> Settings:
        return super().settings._replace(branch_scale=(self.depth // 4) ** -0.5)


class FinalNorm(ResidualNetwork):
    def setup(self) -> None:
        super().setup()
        self.final_norm = nn.LayerNorm()

    def leave(self, x: Array) -> Array:
        return self.output(self.final_norm(x))


class ZeroStart(ResidualNetwork):
    def param(self, name: str, init_fn: Any, *arguments: Any, **options: Any) -> Any:
        def last_at_zero(key: Array, *shape: Any) -> Array:
            return init_fn(key, *shape).at[:, -1].set(0)

        return super().param(name, last_at_zero if name == "norm_scale" else init_fn, *arguments, **options)


# Name -> the architecture it starts from, and the network's class if it is another one.
CANDIDATES: dict[str, tuple[str, type[ResidualNetwork]]] = {
    "published": ("published", ResidualNetwork),
    "final-norm": ("published", FinalNorm),
    "root-scaled": ("scaled", RootScaled),
    "scaled": ("scaled", ResidualNetwork),
    "zero": ("published", ZeroStart),
}


def learner_of(name: str, depth: int, width: int, iterations: int) -> Learner:
    """A learner with the candidate's networks in place of its own."""
    architecture, network_class = CANDIDATES[name]
    base = preset("quickstart").teacher
    network = base.network.model_copy(update={"depth": depth, "width": width, "architecture": architecture})
    collect = base.collect.model_copy(
        update={"total_steps": iterations * base.collect.envs * base.collect.steps}
    )
    config = TeacherConfig.model_validate(
        base.model_copy(update={"network": network, "collect": collect}).model_dump()
    )
    fields = ("depth", "width", "outputs", "architecture", "precision")
    made = make_networks(config.network, simulation_of(config.task).task.spec.action_size)
    networks = made._make(network_class(**{field: getattr(each, field) for field in fields}) for each in made)
    return Learner(config, Devices(jax.devices()[:1]), networks)


def fresh(name: str, depth: int, width: int) -> Row:
    """How an untrained network sees 64 observations and goals drawn from a normal distribution."""
    learner = learner_of(name, depth, width, 1)
    spec = learner.spec
    sizes = spec.sizes
    keys = jax.random.split(jax.random.key(1), len(sizes))
    observation, action, goal = (
        jax.random.normal(key, (64, size)) for key, size in zip(keys, sizes, strict=True)
    )

    @jax.jit
    def outputs(key: Array) -> tuple[Array, Array, Array]:
        params = init_params(learner.networks, key, sizes)
        mean, _ = action_distribution(learner.networks, params.actor, observation, goal)
        encode = partial(embed_state_action, learner.networks, params.state_action)
        features, pull = jax.vjp(lambda o: encode(o, action), observation)
        (gradient,) = pull(features / jnp.linalg.norm(features, axis=1, keepdims=True))
        return mean, features, gradient

    mean, features, gradient = map(np.asarray, outputs(jax.random.key(0)))
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    return {
        "candidate": name,
        "depth": depth,
        "width": width,
        "pre_tanh_rms": float(np.sqrt((mean**2).mean())),
        "saturated": float((np.abs(np.tanh(mean)) > 0.99).mean()),
        "cosine": float((unit @ unit.T)[~np.eye(64, dtype=bool)].mean()),
        "gradient_norm": float(np.linalg.norm(gradient, axis=1).mean()),
    }


def trained(name: str, depth: int, width: int, iterations: int, seed: int) -> Row:
    """A teacher after `iterations` of quickstart's settings."""
    learner = learner_of(name, depth, width, iterations)
    row: Row = {"candidate": name, "depth": depth, "width": width, "seed": seed}
    row["updates"] = iterations * learner.config.collect.updates
    begun = time.perf_counter()
    try:
        for step in train(learner, learner.init(jax.random.key(seed))):
            last = step
    except Diverged as error:
        return row | {"diverged": str(error)}
    state, metrics = last
    row["wall_s"] = time.perf_counter() - begun
    layout = evaluation_layout(learner.config)
    held_out = evaluation_starts(learner.simulation, learner.config.evaluate.episodes, layout)
    outcomes, _ = run_episodes(learner.simulation, learner.policy(state.params), held_out)
    score = summarise(outcomes, layout)
    named = ("critic_loss", "critic_accuracy", "saturation", "actor_gradient_norm", "critic_gradient_norm")
    row |= {key: metrics[key] for key in named}
    return row | {key: score[key] for key in ("success_final", "time_at_goal", "final_distance")}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--candidates", nargs="+", choices=CANDIDATES, default=list(CANDIDATES))
    parser.add_argument("--fresh", action="store_true", help="untrained networks alone")
    parser.add_argument("--depths", type=int, nargs="+", default=[64])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--iterations", type=int, default=25, help="of 100 updates")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--json", action="store_true", help="print a list of rows for machines")
    arguments = parser.parse_args()
    rows: list[Row] = []
    for depth in arguments.depths:
        for seed in [0] if arguments.fresh else arguments.seeds:
            for name in arguments.candidates:
                if arguments.fresh:
                    rows.append(fresh(name, depth, arguments.width))
                else:
                    rows.append(trained(name, depth, arguments.width, arguments.iterations, seed))
                say(str(rows[-1]))
    show(rows, arguments.json)


if __name__ == "__main__":
    main()
