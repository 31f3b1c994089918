"""An environment and a features extractor of one's own, each layer a block: python examples/own_env.py [timesteps]"""

import sys
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from sb3_forward import ForwardPPO


class Beacon(gym.Env):
    """Sixteen sensors around a robot on a plane see the light of a beacon; the robot is to drive there."""

    observation_space = gym.spaces.Box(0, 1, (16,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    angles = np.arange(16) * 2 * np.pi / 16
    sensors = np.stack([np.cos(angles), np.sin(angles)], axis=1)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.way = self.np_random.uniform(-1, 1, size=2)
        return self.readings(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.way -= 0.1 * action
        distance = float(np.linalg.norm(self.way))
        return self.readings(), -distance, distance < 0.1, distance > 3, {}

    def readings(self) -> np.ndarray:
        return np.clip(self.sensors @ self.way / (0.1 + self.way @ self.way), 0, 1).astype(np.float32)


class Ring(BaseFeaturesExtractor, nn.Sequential):
    """A convolution around the ring. A `forward` of its own instead of `nn.Sequential`'s would make it all one block."""

    def __init__(self, observation_space: gym.spaces.Box, features_dim: int = 64) -> None:
        super().__init__(observation_space, features_dim)
        self.extend([nn.Unflatten(1, (1, 16)), nn.Conv1d(1, 8, 5, padding=2, padding_mode="circular"), nn.ReLU()])
        self.extend([nn.Flatten(), nn.Linear(8 * 16, features_dim), nn.ReLU()])


def main(timesteps: int = 50_000) -> tuple[list[str], float, float]:
    """
    Check the environment, train and evaluate.

    :param timesteps: environment steps
    :return: names of the blocks, mean return of twenty episodes before and after
    """
    check_env(Beacon())
    gym.register("Beacon-v0", Beacon, max_episode_steps=50)
    policy_kwargs = {"features_extractor_class": Ring, "net_arch": [64]}
    eval_env = make_vec_env("Beacon-v0", seed=1)
    model = ForwardPPO(
        "MlpPolicy", make_vec_env("Beacon-v0", 8, seed=0), n_steps=128, policy_kwargs=policy_kwargs, seed=0, learning_rate=1e-3
    )
    before, _ = evaluate_policy(model, eval_env, n_eval_episodes=20)
    after, _ = evaluate_policy(model.learn(timesteps), eval_env, n_eval_episodes=20)
    blocks = [block.name for block in model.network.blocks]
    print(f"blocks: {', '.join(blocks)}\nmean return of twenty episodes: {before:.1f} before, {after:.1f} after")
    return blocks, float(before), float(after)  # type: ignore[arg-type]


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
