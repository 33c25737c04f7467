"""A task as others see it: what Gymnasium asks of an environment, and MuJoCo's own physics behind it."""

import mujoco
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from teacher.errors import UsageError
from teacher.goal_env import TaskEnv

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # unbounded spaces are meant


@pytest.mark.parametrize(("task", "engine"), [("reacher", "mujoco"), ("wheel_maze", "analytic")])
def test_gymnasiums_own_checker_is_content(task, engine):
    check_env(TaskEnv(task, engine), skip_render_check=True)


def test_it_moves_as_mujoco_does_until_the_episode_is_over():
    env = TaskEnv("reacher", "mujoco")
    seen, _ = env.reset(seed=3)
    model = env.task.model("mujoco")
    data = mujoco.MjData(model)
    data.qpos[:] = np.arctan2(seen["observation"][2:4], seen["observation"][:2])
    data.ctrl[:] = action = np.array([0.3, -0.2], np.float32)
    for step in range(100):
        seen, reward, terminated, truncated, info = env.step(action)
        mujoco.mj_step(model, data, 4)  # 20 ms
        np.testing.assert_allclose(seen["observation"][:2], np.cos(data.qpos), atol=1e-4)
        assert (terminated, truncated) == (False, step == 99)
        assert reward == (0 if info["distance"] < 0.05 else -1)
        assert info["distance"] == pytest.approx(np.linalg.norm(seen["achieved_goal"] - seen["desired_goal"]))


def test_seeds_repeat_and_rewards_of_other_goals_are_computed_at_once():
    env = TaskEnv("reacher", "mujoco")
    goals = [env.reset(seed=seed)[0]["desired_goal"] for seed in (5, None, 5)]
    np.testing.assert_array_equal(goals[0], goals[2])
    assert not np.array_equal(goals[0], goals[1])
    achieved = np.array([[0.0, 0.0], [0.1, 0.0]])
    np.testing.assert_array_equal(env.compute_reward(achieved, np.array([0.04, 0.0]), {}), [0, -1])


def test_an_unknown_task_is_refused():
    with pytest.raises(UsageError, match="did you mean 'reacher'"):
        TaskEnv("reachr")
