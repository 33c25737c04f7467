"""What the students learn from: visited states, goals for them, and the teacher's answers; all pure."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from student.config import GoalShares
from teacher.losses import distance
from teacher.networks import Params
from teacher.spec import TaskSpec
from teacher.tasks import Task, achieved_goal
from teacher.train import Teacher

Array = jax.Array
ACTIONS = 8  # that the teacher's critic is asked about in each state
NEARBY = 0.3  # standard deviation of those that are drawn around the teacher's own
LABELLED_AT_ONCE = 4096  # rows of the critic's walk: a deep teacher is slow unless its batches are large
BEYOND = 0.25  # how far goals leave the training range, as a share of its width


class Visited(NamedTuple):
    """A round's L steps in E environments; an episode that ended early has its own steps repeated.

    NumPy arrays until labels are computed."""

    before: Any  # [L, E, S]
    action: Any  # [L, E, A]: that was carried out
    after: Any  # [L, E, S]
    qpos: Any  # [L, E, Q]: before
    sensed: Any  # [L, E, S']: what a policy on the robot saw before
    steps: Any  # [E]: how many steps the episode had
    goal: Any  # [E, G]: commanded


class Labels(NamedTuple):
    """Visited states as students see them, and the teacher's answers; T steps, E environments."""

    observation: Array  # [T, E, S']
    goal: Array  # [T, E, G']
    action: Array  # [T, E, A]: the teacher's
    tried: Array  # [T, E, K, A]: the teacher's, the one carried out, some near the teacher's, arbitrary ones
    distance: Array  # [T, E, K]: the teacher's critic's, after each of `tried`, to the goal
    features: Array  # [T, E, K, R], half precision: of the state with each of `tried`
    goal_features: Array  # [T, E, R]
    gradient: Array  # [T, E, A]: of the distance to the goal, with respect to the teacher's own action


def label_bytes(spec: TaskSpec, representation: int) -> int:
    """Of one labelled state."""
    one = jax.eval_shape(lambda: empty(spec, representation, 1, 1))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(one))


def empty(spec: TaskSpec, representation: int, steps: int, envs: int) -> Labels:
    observation, action, goal = spec.sensed_sizes
    shape = (steps, envs)
    return Labels(
        observation=jnp.zeros((*shape, observation)),
        goal=jnp.zeros((*shape, goal)),
        action=jnp.zeros((*shape, action)),
        tried=jnp.zeros((*shape, ACTIONS, action)),
        distance=jnp.zeros((*shape, ACTIONS)),
        features=jnp.zeros((*shape, ACTIONS, representation), jnp.float16),
        goal_features=jnp.zeros((*shape, representation)),
        gradient=jnp.zeros((*shape, action)),
    )


def answered(
    teacher: Teacher, params: Params, task: Task, visited: Visited, shares: GoalShares, key: Array
) -> Labels:
    """The teacher's answers at every visited state, each for one goal drawn in the stated proportions."""
    goal_key, tries_key = jax.random.split(key)
    goals = drawn_goals(goal_key, teacher.spec, visited, shares, teacher.config.update.discount)

    def at_step(step: tuple[Array, ...]) -> Labels:
        before, carried_out, qpos, sensed, goal, number = step
        action = teacher.act(params, before, goal)
        tried = tries(jax.random.fold_in(tries_key, number), action, carried_out)

        def embed(tried: Array) -> Array:
            return teacher.embed_state_action(params, before, tried)

        features = jax.vmap(embed, in_axes=1, out_axes=1)(tried)
        goal_features = teacher.embed_goal(params, goal)

        def to_goal(action: Array) -> Array:
            return distance(teacher.embed_state_action(params, before, action), goal_features).sum()

        return Labels(
            observation=sensed,
            goal=task.deployed_goal(qpos, goal) if teacher.spec.deployed else goal,
            action=action,
            tried=tried,
            distance=distance(features, goal_features[:, None]),
            features=features.astype(jnp.float16),
            goal_features=goal_features,
            gradient=jax.grad(to_goal)(action),
        )

    numbers = jnp.arange(len(goals))
    steps = (visited.before, visited.action, visited.qpos, visited.sensed, goals, numbers)
    at_once = max(LABELLED_AT_ONCE // (ACTIONS * visited.goal.shape[0]), 1)
    labels: Labels = jax.lax.map(at_step, steps, batch_size=at_once)
    return labels


def tries(key: Array, action: Array, carried_out: Array) -> Array:
    """Actions [E, K, A] to ask the critic about, around the teacher's [E, A] and everywhere."""
    near_key, arbitrary_key = jax.random.split(key)
    envs, size = action.shape
    near = (ACTIONS - 2) // 3
    around = action[:, None] + NEARBY * jax.random.normal(near_key, (envs, near, size))
    arbitrary = jax.random.uniform(arbitrary_key, (envs, ACTIONS - 2 - near, size), minval=-1, maxval=1)
    known = jnp.stack([action, carried_out], axis=1)
    return jnp.concatenate([known, jnp.clip(around, -1, 1), arbitrary], axis=1)


def drawn_goals(key: Array, spec: TaskSpec, visited: Visited, shares: GoalShares, discount: float) -> Array:
    """A goal for each step, [L, E, G]: each kind as often as `shares` has it.

    Hindsight goals are what the same episode came to later, as far ahead as the teacher's own were drawn
    (geometric in `discount`); cross-trajectory goals what another environment came to at any time."""
    kind_key, future_key, cross_key, beyond_key = jax.random.split(key, 4)
    outcome = achieved_goal(spec, visited.after)
    shape = outcome.shape[:2]
    length, envs = shape
    step = jnp.arange(length)[:, None] % visited.steps
    environment = jnp.broadcast_to(jnp.arange(envs), shape)

    ahead = jnp.floor(jnp.log(jax.random.uniform(future_key, shape, minval=1e-6)) / jnp.log(discount))
    later = jnp.minimum(step + ahead.astype(int), visited.steps - 1)
    elsewhere_key, time_key = jax.random.split(cross_key)
    other = (environment + jax.random.randint(elsewhere_key, shape, 1, max(envs, 2))) % envs
    kinds = jnp.stack(
        [
            jnp.broadcast_to(visited.goal, outcome.shape),
            outcome[later, environment],
            outcome[jax.random.randint(time_key, shape, 0, length), other],
            goals_beyond(beyond_key, spec, shape),
        ]
    )
    kind = jax.random.choice(kind_key, len(kinds), shape, p=jnp.array(shares))
    chosen: Array = jnp.take_along_axis(kinds, kind[None, ..., None], axis=0)[0]
    return chosen


def goals_beyond(key: Array, spec: TaskSpec, shape: tuple[int, int]) -> Array:
    """Goals [L, E, G] of which one entry lies just outside of the range of training."""
    inside_key, entry_key, out_key = jax.random.split(key, 3)
    low, high = jnp.array(spec.goal.low), jnp.array(spec.goal.high)
    inside = jax.random.uniform(inside_key, (*shape, len(low)), minval=low, maxval=high)
    entry = jax.nn.one_hot(jax.random.randint(entry_key, shape, 0, len(low)), len(low), dtype=bool)
    by = BEYOND * jax.random.uniform(out_key, (*shape, 1), minval=-1, maxval=1) * (high - low)
    return jnp.where(entry, jnp.where(by > 0, high, low) + by, inside)
