"""A policy of other origin: Stable-Baselines3's SAC with hindsight goals, trained on a task, as an ONNX file.

    pip install -e ".[gym]" stable-baselines3 onnxscript
    python benchmarks/sb3_teacher.py fr3_reach policy.onnx

It shows its return and the share of episodes that end at their goal. 40,000 steps take five minutes.
"""

import argparse

import torch
from stable_baselines3 import SAC, HerReplayBuffer

from teacher.goal_env import TaskEnv


class Deterministic(torch.nn.Module):
    """The mean action for a batch of one, of inputs by their names."""

    def __init__(self, model: SAC):
        super().__init__()
        self.actor = model.actor

    def forward(self, observation, achieved_goal, desired_goal):
        seen = {"observation": observation, "achieved_goal": achieved_goal, "desired_goal": desired_goal}
        return torch.tanh(self.actor.get_action_dist_params(seen)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("task")
    parser.add_argument("file")
    parser.add_argument("--steps", type=int, default=40_000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    env = TaskEnv(asked.task, "mujoco")
    learning = {"learning_starts": 1000, "gamma": 0.95, "learning_rate": 1e-3}
    network = {"replay_buffer_class": HerReplayBuffer, "policy_kwargs": {"net_arch": [128, 128]}}
    how = {"seed": asked.seed, "device": "cpu", "verbose": 1}
    model = SAC("MultiInputPolicy", env, **learning, **network, **how)
    model.learn(asked.steps, log_interval=25)
    names = ["observation", "achieved_goal", "desired_goal"]
    zeros = tuple(torch.zeros(1, *env.observation_space[name].shape) for name in names)
    policy = Deterministic(model).eval()
    torch.onnx.export(policy, zeros, asked.file, input_names=names, output_names=["action"])


if __name__ == "__main__":
    main()
