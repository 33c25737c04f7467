"""A task on an engine: batched episodes of any policy."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from teacher.config import TaskConfig
from teacher.tasks import Start, Task, make_task
from teacher.tasks.engines import jit_physics, make_engine

Array = jax.Array
# (observation [E, N], goal [E, G]) -> action [E, A]
Policy = Callable[[Any, Any], Any]


class Trajectories(NamedTuple):
    """L steps of E episodes."""

    qpos: Array  # [L, E, nq] after each action
    observation: Array  # [L, E, N] before each action
    action: Array  # [L, E, A]
    outcome: Array  # [L, E, N] observation after each action


class Simulation:
    """E environments of one task; states are the engine's own."""

    def __init__(self, task: Task, engine: str | None = None):
        self.task = task
        self.engine_name = engine or task.engines[0]
        self.engine = make_engine(task, self.engine_name)
        self._jit_step = jit_physics(self.step) if self.engine.compiled else self.step

    @classmethod
    def from_config(cls, config: TaskConfig) -> "Simulation":
        return cls(make_task(config.name), config.engine)

    def reset(self, start: Start) -> Any:
        return self.engine.init(start.qpos, start.qvel)

    def observe(self, state: Any) -> Any:
        return self.task.observe(*self.engine.joints(state))

    def step(self, state: Any, action: Any) -> Any:
        qpos, _ = self.engine.joints(state)
        return self.engine.step(state, self.task.control(qpos, action))

    def draw(self, key: Array, episodes: int) -> Start:
        """Independent starts, the first n of them whatever `episodes` >= n is."""
        keys = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(episodes))
        return jax.vmap(self.task.start)(keys)

    def rollout(self, policy: Policy, start: Start) -> Trajectories:
        """One episode from each start, for policies in JAX; may stand inside jit."""

        def body(state: Any, _: None) -> tuple[Any, Trajectories]:
            observation = self.observe(state)
            action = policy(observation, start.goal)
            state = self.step(state, action)
            qpos, _ = self.engine.joints(state)
            return state, Trajectories(qpos, observation, action, self.observe(state))

        return jax.lax.scan(body, self.reset(start), None, self.task.spec.episode_length)[1]

    def host_rollout(self, policy: Policy, start: Start) -> Trajectories:
        """The same for any policy and engine, one step at a time from the host, in NumPy."""
        start = jax.tree.map(np.asarray, start)
        state, steps = self.reset(start), []
        for _ in range(self.task.spec.episode_length):
            observation = np.asarray(self.observe(state))
            action = np.asarray(policy(observation, start.goal))
            state = self._jit_step(state, action)
            qpos, _ = self.engine.joints(state)
            steps.append(Trajectories(np.asarray(qpos), observation, action, np.asarray(self.observe(state))))
        return jax.tree.map(lambda *leaves: np.stack(leaves), *steps)
