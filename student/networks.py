"""The students' networks: plain MLPs without LayerNorm, so that the exported graph has none.

Each student has a policy of its own size. The critic is shared, since its answers depend on no policy."""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from student.config import Size
from teacher.losses import distance

Array = jax.Array


class Normaliser(NamedTuple):
    """Mean and standard deviation of what the students read; frozen once measured."""

    observation: tuple[Array, Array]
    action: tuple[Array, Array]
    goal: tuple[Array, Array]


class Student(NamedTuple):
    """Parameters of one student: its policy, and the two encoders of a critic; None if it has no critic."""

    policy: Any
    state_action: Any
    goal: Any

    @property
    def has_critic(self) -> bool:
        return self.goal is not None


_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"swish": nn.swish, "relu": nn.relu}
_LAST = "output"


class MLP(nn.Module):
    """[B, inputs] -> [B, outputs] through `size.layers` hidden layers, named after their activation."""

    size: Size
    outputs: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        activation = _ACTIVATIONS[self.size.activation]
        for i in range(self.size.layers):
            x = activation(nn.Dense(self.size.width, name=f"{self.size.activation}_{i}")(x))
        return nn.Dense(self.outputs, name=_LAST)(x)


def init_student(
    key: Array, size: Size, critic: Size, sizes: tuple[int, int, int], representation: int
) -> Student:
    """Initialises a student; `sizes` are those of observation, action and goal.

    Without a `representation`, 0, it has no critic."""
    observation, action, goal = sizes
    keys = jax.random.split(key, 3)
    policy = MLP(size, action).init(keys[0], jnp.zeros((1, observation + goal)))
    if not representation:
        return Student(policy, None, None)
    return Student(
        policy=policy,
        state_action=MLP(critic, representation).init(keys[1], jnp.zeros((1, observation + action))),
        goal=MLP(critic, representation).init(keys[2], jnp.zeros((1, goal))),
    )


def act(student: Student, observation: Array, goal: Array) -> Array:
    """Computes the action [B, A] in (-1, 1) for observations [B, S] and goals [B, G]."""
    return jnp.tanh(_apply(student.policy, jnp.concatenate([observation, goal], axis=-1)))


def embed_state_action(student: Student, observation: Array, action: Array) -> Array:
    """Embeds observations [B, S] with actions [B, A]: [B, R], in the space of the teacher's encoder."""
    return _apply(student.state_action, jnp.concatenate([observation, action], axis=-1))


def embed_goal(student: Student, goal: Array) -> Array:
    """Embeds goals [B, G]: [B, R]."""
    return _apply(student.goal, goal)


def critic_distance(student: Student, observation: Array, action: Array, goal: Array) -> Array:
    """Computes the distance [B] of states [B, S] and actions [B, A] to goals [B, G]; smaller is sooner."""
    return distance(embed_state_action(student, observation, action), embed_goal(student, goal))


def normalise(value: Array, statistics: tuple[Array, Array]) -> Array:
    mean, std = statistics
    return (value - mean) / std


def fold(student: Student, normaliser: Normaliser) -> Student:
    """Folds the normalisation into the first layers, W (x - mean) / std + b as one layer, for raw inputs."""
    observation, action, goal = normaliser
    policy = _fold_first(student.policy, observation, goal)
    if not student.has_critic:
        return Student(policy, None, None)
    return Student(
        policy=policy,
        state_action=_fold_first(student.state_action, observation, action),
        goal=_fold_first(student.goal, goal),
    )


def parameter_count(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _apply(params: Any, x: Array) -> Array:
    """Applies the MLP whose size and activation the parameters themselves tell."""
    layers = params["params"]
    first = _first(layers)
    size = Size(len(layers) - 1, layers[first]["kernel"].shape[1], first.removesuffix("_0"))
    return cast(Array, MLP(size, layers[_LAST]["bias"].shape[0]).apply(params, x))


def _first(layers: dict[str, Any]) -> str:
    """Returns the name of the layer that reads the inputs."""
    return next(name for name in layers if name.endswith("_0"))


def _fold_first(params: Any, *inputs: tuple[Array, Array]) -> Any:
    mean, std = (jnp.concatenate(values) for values in zip(*inputs, strict=True))
    layers = dict(params["params"])
    name = _first(layers)
    kernel = layers[name]["kernel"] / std[:, None]
    layers[name] = {"kernel": kernel, "bias": layers[name]["bias"] - mean @ kernel}
    return {"params": layers}
