"""A task on an engine: batched episodes of any policy."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import numpy as np

from teacher.compilation import jit_once, jit_physics
from teacher.config import TaskConfig
from teacher.tasks import Start, Task, make_task
from teacher.tasks.engines import make_engine

Array = jax.Array
# (observation [E, N], goal [E, G]) -> action [E, A]
Policy = Callable[[Any, Any], Any]

# Episodes run in batches of these sizes alone, so that a simulator is not compiled for each number.
ROLLOUT_BATCHES = (64, 256)


class Trajectories(NamedTuple):
    """L steps of E episodes; NumPy arrays."""

    qpos: np.ndarray  # [L + 1, E, nq]
    observation: np.ndarray  # [L + 1, E, N]: the first before, each other after an action
    action: np.ndarray  # [L, E, A]


class Simulation:
    """E environments of one task; states are the engine's own, and the C engine changes them in place."""

    def __init__(self, task: Task, engine: str):
        self.task, self.engine_name = task, engine
        self.engine = make_engine(task, engine)
        self._begin: Callable[..., Any] = self._first
        self._advance: Callable[..., Any] = self._next
        if self.engine.compiled:
            self._begin = jit_physics(self._first)
            self._advance = jit_physics(self._next)

    def reset(self, start: Start) -> Any:
        return self.engine.init(start.qpos, start.qvel)

    def observe(self, state: Any) -> Any:
        with jax.default_matmul_precision("highest"):  # TF32 would move a flange by a millimetre
            return self.task.observe(*self.engine.joints(state))

    def step(self, state: Any, action: Any) -> Any:
        qpos, _ = self.engine.joints(state)
        return self.engine.step(state, self.task.control(qpos, action))

    def draw(self, key: Array, numbers: Array) -> Start:
        """Independent starts with these numbers [E]; pure. A number's start depends on the key alone."""
        return _draw(self.task, key, numbers)

    def starts(self, key: Array, episodes: int) -> Start:
        """The starts with numbers 0 to episodes - 1, in NumPy."""
        return jax.tree.map(np.asarray, _compiled_draw(self.task, key, np.arange(episodes)))

    def prepare(self, start: Start) -> None:
        """Compiles what a rollout from these starts needs; may run beside other work."""
        batch = self._batch(len(start.goal))
        state, _, _ = self._begin(_rows(start, 0, batch))
        self._advance(state, np.zeros((batch, self.task.spec.action_size), np.float32))

    def rollout(self, policy: Policy, start: Start) -> Trajectories:
        """One episode of any policy from each start (NumPy), stepped from the host.

        The policy is asked with NumPy batches, whose last rows may be padding."""
        episodes = len(start.goal)
        batch = self._batch(episodes)
        parts = []
        for first in range(0, episodes, batch):
            parts.append(self._rollout(policy, _rows(start, first, batch)))
        joined = jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=1), *parts)
        return jax.tree.map(lambda leaf: leaf[:, :episodes], joined)

    def _batch(self, episodes: int) -> int:
        fitting = [size for size in ROLLOUT_BATCHES if size >= episodes] or ROLLOUT_BATCHES[-1:]
        return fitting[0] if self.engine.compiled else episodes

    def _rollout(self, policy: Policy, start: Start) -> Trajectories:
        state, qpos, observation = self._begin(start)
        seen, actions = [(np.asarray(qpos), np.asarray(observation))], []
        for _ in range(self.task.spec.episode_length):
            actions.append(np.asarray(policy(seen[-1][1], start.goal)))
            state, qpos, observation = self._advance(state, actions[-1])
            seen.append((np.asarray(qpos), np.asarray(observation)))
        positions, observations = (np.stack(values) for values in zip(*seen, strict=True))
        return Trajectories(positions, observations, np.stack(actions))

    def _first(self, start: Start) -> tuple[Any, Any, Any]:
        state = self.reset(start)
        return state, self.engine.joints(state)[0], self.observe(state)

    def _next(self, state: Any, action: Any) -> tuple[Any, Any, Any]:
        state = self.step(state, action)
        return state, self.engine.joints(state)[0], self.observe(state)


def _rows(start: Start, first: int, count: int) -> Start:
    """`count` starts from number `first` on, the last one repeated where there are no more."""
    rows = np.minimum(np.arange(first, first + count), len(start.goal) - 1)
    return jax.tree.map(lambda leaf: leaf[rows], start)


def _draw(task: Task, key: Array, numbers: Array) -> Start:
    keys = jax.vmap(partial(jax.random.fold_in, key))(numbers)
    with jax.default_matmul_precision("highest"):
        return jax.vmap(task.start)(keys)


_compiled_draw = jit_once(_draw, static_argnums=0)  # one for all engines of a task


@cache
def simulation(task: str, engine: str | None = None) -> Simulation:
    """The named task on the named engine, by default its first; one for all stages of a process."""
    made = make_task(task)
    return Simulation(made, engine or made.engines[0])


def simulation_of(config: TaskConfig) -> Simulation:
    return simulation(config.name, config.engine)
