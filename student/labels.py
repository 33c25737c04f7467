"""Training data of the students: visited states, goals for them, and the teacher's labels; all pure."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from student.config import GoalShares
from teacher.losses import distance
from teacher.networks import Params
from teacher.policy_file import AnyTeacher, PolicyFile
from teacher.spec import TaskSpec
from teacher.tasks import Task, achieved_goal

Array = jax.Array
ACTIONS = 8  # candidates that the teacher's critic labels in each state
NEARBY = 0.3  # standard deviation of the candidates around the teacher's action
LABELLED_AT_ONCE = 4096  # rows of the critic's forward pass: a deep teacher is slow on small batches
BEYOND = 0.25  # how far goals leave the training range, as a share of its width


class VisitedStates(NamedTuple):
    """A round's L steps in E environments; an episode that ended early has its own steps repeated.

    NumPy arrays until labels are computed."""

    before: Any  # [L, E, S]
    action: Any  # [L, E, A]: that was carried out
    after: Any  # [L, E, S]
    qpos: Any  # [L, E, Q]: before
    sensed: Any  # [L, E, S']: what a policy on the robot saw before
    steps: Any  # [E]: how many steps the episode had
    goal: Any  # [E, G]: commanded
    answer: Any = None  # [L, E, A]: of a recurrent teacher to these goals; of another, labels are computed


class Labels(NamedTuple):
    """Visited states as students see them, and the teacher's answers; T steps, E environments."""

    observation: Array  # [T, E, S']
    goal: Array  # [T, E, G']
    action: Array  # [T, E, A]: the teacher's
    # Of the teacher's critic; None where it has none.
    candidate_actions: Any = (
        None  # [T, E, K, A]: the teacher's, the one carried out, some nearby, uniform ones
    )
    distance: Any = None  # [T, E, K]: of each candidate action to the goal
    features: Any = None  # [T, E, K, R], half precision: of the state with each candidate action
    goal_features: Any = None  # [T, E, R]
    gradient: Any = None  # [T, E, A]: of the distance, with respect to the teacher's own action


def label_bytes(spec: TaskSpec, representation: int) -> int:
    """Returns the bytes of one labelled state."""
    one = jax.eval_shape(lambda: empty_labels(spec, representation, 1, 1))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(one))


def empty_labels(spec: TaskSpec, representation: int, steps: int, envs: int) -> Labels:
    """Returns labels [steps, envs, ...] of zeros; without a `representation`, 0, those of no critic."""
    observation, action, goal = spec.sensed_sizes
    shape = (steps, envs)
    labels = Labels(
        observation=jnp.zeros((*shape, observation)),
        goal=jnp.zeros((*shape, goal)),
        action=jnp.zeros((*shape, action)),
    )
    if not representation:
        return labels
    return labels._replace(
        candidate_actions=jnp.zeros((*shape, ACTIONS, action)),
        distance=jnp.zeros((*shape, ACTIONS)),
        features=jnp.zeros((*shape, ACTIONS, representation), jnp.float16),
        goal_features=jnp.zeros((*shape, representation)),
        gradient=jnp.zeros((*shape, action)),
    )


def compute_labels(
    teacher: AnyTeacher, params: Params, task: Task, visited: VisitedStates, shares: GoalShares, key: Array
) -> Labels:
    """Computes the teacher's labels of every visited state, each for one goal drawn by `shares`.

    Those of a recurrent teacher are for commanded goals alone: on the way to another goal, other states would
    have led to this one."""
    goal_key, action_key = jax.random.split(key)
    if visited.answer is None:
        goals = draw_goals(goal_key, teacher.spec, visited, shares, teacher.config.update.discount)
    else:
        goals = jnp.broadcast_to(visited.goal, (len(visited.answer), *visited.goal.shape))

    def at_step(step: tuple[Array, ...]) -> Labels:
        before, carried_out, qpos, sensed, goal, number, answer = step
        action = teacher.act(params, before, goal) if answer is None else answer
        labels = Labels(
            observation=sensed,
            goal=task.deployed_goal(qpos, goal) if teacher.spec.deployed else goal,
            action=action,
        )
        if isinstance(teacher, PolicyFile):
            return labels
        candidates = draw_candidate_actions(jax.random.fold_in(action_key, number), action, carried_out)
        goal_features = teacher.embed_goal(params, goal)

        def embed(action: Array) -> Array:
            return teacher.embed_state_action(params, before, action)

        features = jax.vmap(embed, in_axes=1, out_axes=1)(candidates)
        return labels._replace(
            candidate_actions=candidates,
            distance=distance(features, goal_features[:, None]),
            features=features.astype(jnp.float16),
            goal_features=goal_features,
            gradient=jax.grad(lambda action: distance(embed(action), goal_features).sum())(action),
        )

    numbers = jnp.arange(len(goals))
    steps = (visited.before, visited.action, visited.qpos, visited.sensed, goals, numbers, visited.answer)
    at_once = max(LABELLED_AT_ONCE // (ACTIONS * visited.goal.shape[0]), 1)
    labels: Labels = jax.lax.map(at_step, steps, batch_size=at_once)
    return labels


def draw_candidate_actions(key: Array, action: Array, carried_out: Array) -> Array:
    """Draws the actions [E, K, A] that the critic labels: the teacher's `action` [E, A], the one carried
    out [E, A], some around the teacher's, and uniform ones."""
    near_key, uniform_key = jax.random.split(key)
    envs, size = action.shape
    near = (ACTIONS - 2) // 3
    around = action[:, None] + NEARBY * jax.random.normal(near_key, (envs, near, size))
    uniform = jax.random.uniform(uniform_key, (envs, ACTIONS - 2 - near, size), minval=-1, maxval=1)
    known = jnp.stack([action, carried_out], axis=1)
    return jnp.concatenate([known, jnp.clip(around, -1, 1), uniform], axis=1)


def draw_goals(
    key: Array, spec: TaskSpec, visited: VisitedStates, shares: GoalShares, discount: float
) -> Array:
    """Draws a goal for each step, [L, E, G]: each kind as often as `shares` says.

    Hindsight goals are achieved later in the same episode, as far ahead as the teacher's own were drawn
    (geometric in `discount`); cross-trajectory goals in another environment, at any time."""
    kind_key, future_key, cross_key, beyond_key = jax.random.split(key, 4)
    achieved = achieved_goal(spec, visited.after)
    shape = length, envs = achieved.shape[:2]
    step = jnp.arange(length)[:, None] % visited.steps
    environment = jnp.broadcast_to(jnp.arange(envs), shape)

    ahead = jnp.floor(jnp.log(jax.random.uniform(future_key, shape, minval=1e-6)) / jnp.log(discount))
    later = jnp.minimum(step + ahead.astype(int), visited.steps - 1)
    elsewhere_key, time_key = jax.random.split(cross_key)
    other = (environment + jax.random.randint(elsewhere_key, shape, 1, max(envs, 2))) % envs
    kinds = jnp.stack(
        [
            jnp.broadcast_to(visited.goal, achieved.shape),
            achieved[later, environment],
            achieved[jax.random.randint(time_key, shape, 0, length), other],
            draw_goals_beyond(beyond_key, spec, achieved[later, environment]),
        ]
    )
    kind = jax.random.choice(kind_key, len(kinds), shape, p=jnp.array(shares))
    chosen: Array = jnp.take_along_axis(kinds, kind[None, ..., None], axis=0)[0]
    return chosen


def draw_goals_beyond(key: Array, spec: TaskSpec, rotated: Array) -> Array:
    """Draws goals [L, E, G] of which one entry lies just outside of the training range.

    Args: rotated: goals [L, E, G] from which poses take their rotation."""
    inside_key, entry_key, out_key = jax.random.split(key, 3)
    low, high = jnp.array(spec.goal.low), jnp.array(spec.goal.high)
    shape, movable = rotated.shape[:2], spec.goal.movable
    inside = jax.random.uniform(inside_key, (*shape, len(low)), minval=low, maxval=high)
    inside = jnp.concatenate([inside[..., :movable], rotated[..., movable:]], axis=-1)
    entry = jax.nn.one_hot(jax.random.randint(entry_key, shape, 0, movable), len(low), dtype=bool)
    by = BEYOND * jax.random.uniform(out_key, (*shape, 1), minval=-1, maxval=1) * (high - low)
    return jnp.where(entry, jnp.where(by > 0, high, low) + by, inside)
