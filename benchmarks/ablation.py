"""Which terms of the students' losses earn their place?

    python benchmarks/ablation.py runs/wheel-maze --sizes 2x16,2x32 --seeds 3 --json

Labels are gathered once, by a distillation as it is set here. On these same labels each variant then
trains students from scratch, several seeds at once: as they are, without one of their terms, or with a
term that they do not have. Retention is of held-out episodes against the teacher, the mean over seeds
with the least and the greatest; the critic's figures are those of the report.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from measuring import Row, say, show

from pipelines.judging import Yardstick
from student import assess
from student.config import StudentConfig
from student.distill import WEIGHTS, Distiller, DistillState, Family
from student.networks import Student, act, embed_goal, embed_state_action, fold
from teacher.errors import FathomError
from teacher.evaluate import evaluation_noise_key, run_episodes
from teacher.losses import pairwise_distance
from teacher.networks import action_distribution
from teacher.rollout import on_robot
from teacher.train import Teacher, load_teacher

Array = jax.Array
SPREAD_FLOOR = 0.2  # of the teacher's Gaussian before tanh: below it, KL would ask for what nobody sees
LATE = 0.75  # of the updates come before the regret
STEP = 0.01  # of the finite difference, in units of the inputs' spread
AT_ONCE = 4096  # states that further questions about them are asked for together


class Rich(NamedTuple):
    """Labels, and what else terms under trial ask the teacher for; raw inputs, [T, E, ...]."""

    observation: Array
    goal: Array
    action: Array
    tried: Array
    distance: Array
    features: Array
    goal_features: Array
    gradient: Array
    raw_observation: Array
    raw_goal: Array
    mean: Array  # of the teacher's Gaussian, before tanh
    std: Array
    direction: Array  # [..., S + G]: a random one, in units of the inputs' spread
    slope: Array  # [..., A]: of the teacher's action in that direction


# of a family's member, its normalised batch and the distiller -> one number
Term = Callable[["Trial", Student, Any], Array]


class Trial(Distiller):
    """A distillation with further terms, on labels that are there already."""

    def __init__(self, config: StudentConfig, teacher: Teacher, weights: dict[str, float], terms: dict):
        super().__init__(config, teacher, weights)
        self.policy_terms: dict[str, tuple[float, Term]] = terms.get("policy", {})
        self.critic_terms: dict[str, tuple[float, Term]] = terms.get("critic", {})

    def _loss(self, family: Family, batch: Any) -> tuple[Array, dict[str, Array]]:
        total, metrics = super()._loss(family, batch)
        critic = jax.tree.map(lambda leaf: leaf[: len(leaf) // 2], batch)
        for weight, term in self.critic_terms.values():
            total = total + weight * term(self, family.student(0), critic)
        for weight, term in self.policy_terms.values():
            for i in range(len(self.config.sizes)):
                total = total + weight * term(self, family.student(i), batch)
        return total, metrics


def kl(trial: Trial, student: Student, batch: Any) -> Array:
    """KL divergence of Gaussians before tanh with the teacher's spread, floored, for both."""
    mean = jnp.arctanh(jnp.clip(act(student, batch.observation, batch.goal), -0.9999, 0.9999))
    std = jnp.maximum(batch.std, SPREAD_FLOOR)
    return (((mean - jnp.clip(batch.mean, -5, 5)) / std) ** 2 / 2).sum(-1).mean()


def directional(trial: Trial, student: Student, batch: Any) -> Array:
    """Slope of the action in a random direction of state and goal (Sobolev training, arXiv:1706.04859)."""
    size = batch.observation.shape[-1]
    along = (batch.direction[:, :size], batch.direction[:, size:])
    _, slope = jax.jvp(lambda o, g: act(student, o, g), (batch.observation, batch.goal), along)
    return optax.huber_loss(slope, batch.slope).sum(-1).mean()


def regret(trial: Trial, student: Student, batch: Any) -> Array:
    """How much farther from the goal the teacher's critic sees the student's action than the teacher's."""
    few = jax.tree.map(lambda leaf: leaf[: len(leaf) // 4], batch)
    teacher, action = trial.teacher, act(student, few.observation, few.goal)
    own = teacher.distance(teacher.params, few.raw_observation, action, few.raw_goal)
    return jnp.maximum(own - few.distance[:, 0], 0).mean()


def matrix(trial: Trial, student: Student, batch: Any) -> Array:
    """Huber loss between all distances of a batch."""
    own, label = _matrices(student, batch)
    return optax.huber_loss(own, label).mean()


def rows_and_columns(trial: Trial, student: Student, batch: Any) -> Array:
    """KL divergence over goals and over state-actions, of softmax over negative distances."""
    own, label = _matrices(student, batch)
    total = jnp.zeros(())
    for axis in (0, 1):
        log_p, log_q = jax.nn.log_softmax(-label, axis), jax.nn.log_softmax(-own, axis)
        total += (jnp.exp(log_p) * (log_p - log_q)).sum(axis).mean()
    return total


def _matrices(student: Student, batch: Any) -> tuple[Array, Array]:
    features = embed_state_action(student, batch.observation, batch.tried[:, 0])
    own = pairwise_distance(features, embed_goal(student, batch.goal))
    return own, pairwise_distance(batch.features[:, 0], batch.goal_features)


# name -> weights that change, terms that are added
VARIANTS: dict[str, tuple[dict[str, float], dict[str, dict[str, tuple[float, Term]]]]] = {
    "as it is": ({}, {}),
    "policy: + KL, floored": ({}, {"policy": {"kl": (0.1, kl)}}),
    "policy: KL in place of Huber": ({"policy": 0.0}, {"policy": {"kl": (0.1, kl)}}),
    "policy: + directional derivative": ({}, {"policy": {"directional": (0.1, directional)}}),
    "policy: + regret, late": ({}, {"late policy": {"regret": (0.1, regret)}}),
    "policy: + ten times that": ({}, {"late policy": {"regret": (1.0, regret)}}),
    "critic: no features": ({"features": 0.0, "goal_features": 0.0}, {}),
    "critic: no preference": ({"preference": 0.0}, {}),
    "critic: no action gradient": ({"gradient": 0.0}, {}),
    "critic: + all distances": ({}, {"critic": {"matrix": (1.0, matrix)}}),
    "critic: + row and column KL": ({}, {"critic": {"kl": (1.0, rows_and_columns)}}),
}


def enrich(teacher: Teacher, state: DistillState) -> Rich:
    """Labels with the answers to all further questions; states must be seen as the teacher sees them."""
    labels, spread = state.labels, state.normaliser
    sizes = (labels.observation.shape[-1], labels.goal.shape[-1])

    def ask(part: tuple[Array, ...]) -> tuple[Array, ...]:
        observation, goal, direction = part

        def policy(o: Array, g: Array) -> Array:
            return teacher.act(teacher.params, o, g)

        mean, log_std = action_distribution(teacher.networks, teacher.params.actor, observation, goal)
        along = (
            direction[:, : sizes[0]] * spread.observation[1],
            direction[:, sizes[0] :] * spread.goal[1],
        )
        # Deep networks have a walk back of their own, and so no forward mode.
        ahead, behind = (
            policy(observation + side * along[0], goal + side * along[1]) for side in (STEP, -STEP)
        )
        slope = (ahead - behind) / (2 * STEP)
        return mean, jnp.exp(log_std), slope

    shape = labels.goal.shape[:2]
    direction = jax.random.normal(jax.random.key(0), (*shape, sum(sizes)))
    flat = [v.reshape(-1, v.shape[-1]) for v in (labels.observation, labels.goal, direction)]
    asked = jax.jit(ask)
    parts = [asked(tuple(v[i : i + AT_ONCE] for v in flat)) for i in range(0, len(flat[0]), AT_ONCE)]
    mean, std, slope = (jnp.concatenate(values).reshape(*shape, -1) for values in zip(*parts, strict=True))
    return Rich(*labels, labels.observation, labels.goal, mean, std, direction, slope)


def trained(trial: Trial, labels: Rich, gathered: DistillState, late: Trial | None) -> DistillState:
    """Students from scratch on all labels; `late` takes over for the last part of the updates."""
    rounds = trial.config.rounds
    state = trial.init(jax.random.key(7))._replace(labels=labels, normaliser=gathered.normaliser)
    update = {False: jax.jit(trial.update_many)}
    if late:
        update[True] = jax.jit(late.update_many)
    for round_ in range(rounds):
        whole = state._replace(round=jnp.asarray(rounds - 1), key=jax.random.key(round_))
        state, _ = update[bool(late) and round_ >= LATE * rounds](whole)
    return state


def judged(config: StudentConfig, measure: Yardstick, state: DistillState) -> Row:
    """Each size's retention and the critic's agreement, mean over seeds and [least, greatest]."""
    found: dict[str, list[float]] = {}
    for seed in range(config.seeds):
        for number, name in enumerate(config.sizes):
            student = jax.tree.map(lambda leaf, seed=seed: leaf[seed], state.family.student(number))
            student = fold(student, state.normaliser)
            policy = on_robot(partial(jax.jit(act), student))
            own, _ = run_episodes(measure.simulation, policy, measure.starts, evaluation_noise_key())
            figures = {f"retention {name}": assess.retention(own, measure.outcomes)["retention"]}
            if number == 0:
                agreement = measure.critic(student)
                figures |= {key: agreement[key] for key in ("spearman_actions", "top1", "gradient_cosine")}
            for key, value in figures.items():
                found.setdefault(key, []).append(value)
    row: Row = {}
    for key, values in found.items():
        row |= {key: float(np.mean(values)), f"{key}_spread": [min(values), max(values)]}
    return row


def measure(run: Path, config: StudentConfig, only: list[str] | None) -> Iterator[Row]:
    teacher = load_teacher(run / "teacher" / "checkpoints")
    if teacher.spec.deployed:
        raise FathomError(
            f"{run}: its students see less than their teacher; further labels need what it sees"
        )
    yardstick = Yardstick.of(teacher, config.episodes)
    distiller = Distiller(config, teacher)
    gathered = distiller.init(jax.random.key(1))
    for round_ in range(config.rounds):
        gathered, _ = distiller.iterate(gathered)
        say(f"round {round_ + 1} of {config.rounds}")
    labels = enrich(teacher, gathered)
    for name, (weights, terms) in VARIANTS.items():
        if only and not any(part in name for part in only):
            continue
        begun = time.perf_counter()
        late = {"policy": terms["late policy"]} if "late policy" in terms else None
        trial = Trial(config, teacher, WEIGHTS | weights, terms)
        state = trained(
            trial, labels, gathered, Trial(config, teacher, WEIGHTS | weights, late) if late else None
        )
        seconds = time.perf_counter() - begun
        row = {"variant": name, "seconds": seconds} | judged(config, yardstick, state)
        say(f"{name}: {row}")
        yield row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="a run with a finished teacher")
    parser.add_argument(
        "--sizes", default="2x16,2x32", help="policies that are trained, by default %(default)s"
    )
    parser.add_argument("--critic", default="3x192", help="by default %(default)s")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--envs", type=int, default=256)
    parser.add_argument("--updates", type=int, default=300, help="per round, by default %(default)s")
    parser.add_argument("--episodes", type=int, default=512, help="held out, by default %(default)s")
    parser.add_argument("--only", nargs="+", help="variants whose names contain one of these")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    config = StudentConfig(
        sizes=given.sizes,
        critic=given.critic,
        seeds=given.seeds,
        rounds=given.rounds,
        envs=given.envs,
        teacher_rounds=min(2, given.rounds),
        updates=given.updates,
        episodes=given.episodes,
    )
    try:
        rows = list(measure(given.run, config, given.only))
    except FathomError as error:
        sys.exit(f"Error: {error}")
    show(rows, given.json)


if __name__ == "__main__":
    main()
