"""Best-of-K action choice: does it help to let a critic choose among noisy copies of the policy's action?

    python benchmarks/best_of.py runs/quickstart --size 2x64 --episodes 256

At every step a critic takes the nearest to the goal of the student's own action and K - 1 perturbed
ones: the student's critic, and as the upper bound its teacher's. Retention is time at goal over that
of the policy alone, on the same starts and goals.
"""

import argparse
import itertools
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from measuring import Row, say, show

from student.assess import retention
from student.networks import Student, act, critic_distance
from student.saved import load_student
from teacher.errors import FathomError
from teacher.evaluate import evaluation_layout, evaluation_starts, run_episodes
from teacher.rollout import Policy, simulation_of
from teacher.train import load_teacher

Array = jax.Array
Distance = Callable[[Array, Array, Array], Array]  # [B, S], [B, A], [B, G] -> [B]

ACTIONS = (4, 16)
NOISES = (0.1, 0.3)  # standard deviations, of actions in [-1, 1]


def best_of(student: Student, distance: Distance, actions: int, noise: float) -> Policy:
    """The policy that a critic corrects; it draws fresh noise at every call."""
    calls = itertools.count()

    @jax.jit
    def choose(call: Array, observation: Array, goal: Array) -> Array:
        own = act(student, observation, goal)
        key = jax.random.fold_in(jax.random.key(0), call)
        moved = own + noise * jax.random.normal(key, (actions - 1, *own.shape))
        tried = jnp.concatenate([own[None], jnp.clip(moved, -1, 1)])  # [K, E, A]
        nearest = jax.vmap(lambda action: distance(observation, action, goal))(tried).argmin(0)
        return jnp.take_along_axis(tried, nearest[None, :, None], axis=0)[0]

    return lambda observation, goal: choose(next(calls), observation, goal)


def measure(run: Path, size: str, episodes: int) -> list[Row]:
    """One row for each critic, number of actions and scale of noise."""
    teacher, student = load_teacher(run / "teacher" / "checkpoints"), load_student(run / "students" / size)
    simulation = simulation_of(teacher.config.task)
    starts = evaluation_starts(simulation, episodes, evaluation_layout(teacher.config))
    alone = run_episodes(simulation, partial(jax.jit(act), student.params), starts)[0]
    critics = {
        "student": partial(critic_distance, student.params),
        "teacher": partial(teacher.distance, teacher.params),
    }
    rows = []
    for name, actions, noise in itertools.product(critics, ACTIONS, NOISES):
        say(f"{name}'s critic, {actions} actions, noise {noise:g}")
        chosen = run_episodes(simulation, best_of(student.params, critics[name], actions, noise), starts)[0]
        compared = retention(chosen, alone)
        if not compared:
            raise FathomError(f"student {size} of {run} is too rarely at a goal to be compared with")
        rows.append(
            {
                "task": teacher.spec.name,
                "size": size,
                "episodes": episodes,
                "time_at_goal_alone": float(np.mean(alone.time_at_goal)),
                "critic": name,
                "actions": actions,
                "noise": noise,
                "time_at_goal": float(np.mean(chosen.time_at_goal)),
                "retention": compared["retention"],
                "retention_spread": [compared["retention_low"], compared["retention_high"]],
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path, help="a run with students")
    parser.add_argument("--size", default="2x64", help="the student (default %(default)s)")
    parser.add_argument("--episodes", type=int, default=256, help="held out (default %(default)s)")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    try:
        rows = measure(given.run, given.size, given.episodes)
    except FathomError as error:
        sys.exit(f"refused: {error}")
    show(rows, given.json, settings=("task", "size", "episodes", "time_at_goal_alone"))


if __name__ == "__main__":
    main()
