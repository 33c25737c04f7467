"""A task as a Gymnasium environment, with the dictionary observations of goal-conditioned environments.

Other programs train and evaluate on it as on those of Gymnasium-Robotics (hindsight relabelling through
`compute_reward`); this one does not need it. It takes the package gymnasium: pip install 'fathom-rl[gym]'.
"""

from typing import Any

import gymnasium
import jax
import numpy as np

from teacher.rollout import simulation
from teacher.tasks import achieved_goal

Observation = dict[str, np.ndarray]


class TaskEnv(gymnasium.Env[Any, np.ndarray]):
    """One environment of a task: observation `observation` [N], `achieved_goal` [G] and `desired_goal` [G].

    Actions [A] lie in [-1, 1]. The reward is 0 within the goal's success radius and -1 elsewhere; an episode
    is truncated after the task's `episode_length` steps. `info` has `distance`, in the goal's unit, and
    `is_success`."""

    def __init__(self, task: str, engine: str | None = None, layout: str | None = None):
        """
        Args: task: as `pipeline run --task` takes it; engine: its first one if not given; layout: of goals,
          the one to evaluate on if not given.
        Raises: UsageError for a name that is not known."""
        self._simulation = simulation(task, engine)
        self.task, self.task_spec = self._simulation.task, self._simulation.task.spec
        self._layout = layout or self.task.evaluation_layout
        sizes = dict(zip(("observation", "action", "goal"), self.task_spec.sizes, strict=True))

        def unbounded(size: int) -> gymnasium.spaces.Box:
            return gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32)

        self.observation_space = gymnasium.spaces.Dict(
            observation=unbounded(sizes["observation"]),
            achieved_goal=unbounded(sizes["goal"]),
            desired_goal=unbounded(sizes["goal"]),
        )
        self.action_space = gymnasium.spaces.Box(-1, 1, (sizes["action"],), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begins an episode; of one seed, always the same ones in the same order."""
        super().reset(seed=seed)
        key = jax.random.key(int(self.np_random.integers(2**31)))
        start = self._simulation.starts(key, 1, self._layout)
        self._goal, self._state, self._steps = start.goal[0], self._simulation.reset(start), 0
        observation, info, _ = self._seen()
        return observation, info

    def step(self, action: np.ndarray) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Acts for one control period."""
        self._state = self._simulation.step(self._state, np.asarray(action, np.float32)[None])
        self._steps += 1
        observation, info, ended = self._seen()
        reward = self.compute_reward(observation["achieved_goal"], self._goal, info)
        return observation, float(reward), ended, self._steps >= self.task_spec.episode_length, info

    def compute_reward(self, achieved: np.ndarray, desired: np.ndarray, info: Any) -> np.ndarray:
        """Achieved and desired goals [..., G] -> rewards [...]."""
        distance = np.linalg.norm(np.asarray(achieved) - np.asarray(desired), axis=-1)
        return -(distance >= self.task_spec.goal.success_radius).astype(np.float32)

    def _seen(self) -> tuple[Observation, dict[str, Any], bool]:
        observation = np.asarray(self._simulation.observe(self._state), np.float32)[0]
        achieved = achieved_goal(self.task_spec, observation)
        distance = float(np.linalg.norm(achieved - self._goal))
        told = {"distance": distance, "is_success": distance < self.task_spec.goal.success_radius}
        found = {"observation": observation, "achieved_goal": achieved, "desired_goal": self._goal.copy()}
        return found, told, bool(self._simulation.ended(self._state)[0])
