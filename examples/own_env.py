"""An environment and a features extractor of one's own, each layer a block: python examples/own_env.py [timesteps]"""

import sys

import gymnasium as gym
import numpy as np
from stable_baselines3.common import env_checker, env_util, evaluation
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from sb3_forward import ForwardPPO


class Beacon(gym.Env):
    """Sixteen sensors around a robot on a plane see the light of a beacon; the robot is to drive there."""

    observation_space = gym.spaces.Box(0, 1, (16,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    directions = np.exp(2j * np.pi * np.arange(16) / 16).view(float).reshape(16, 2)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.way, self.steps = self.np_random.uniform(-1, 1, size=2), -1
        return self.step(np.zeros(2))[0], {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.way, self.steps = self.way - 0.1 * action, self.steps + 1
        distance = float(np.linalg.norm(self.way))
        light = np.clip(self.directions @ self.way / (0.1 + distance**2), 0, 1).astype(np.float32)
        return light, -distance, distance < 0.1, self.steps == 50, {}


class Ring(BaseFeaturesExtractor, nn.Sequential):
    """A convolution around the ring. A `forward` of its own instead of `nn.Sequential`'s would make it all one block."""

    def __init__(self, observation_space: gym.spaces.Box, features_dim: int = 64) -> None:
        super().__init__(observation_space, features_dim)
        convolution = nn.Conv1d(1, 8, 5, padding=2, padding_mode="circular")
        self.extend([nn.Unflatten(1, (1, 16)), convolution, nn.ReLU(), nn.Flatten(), nn.Linear(128, features_dim), nn.ReLU()])


def main(timesteps: int = 50_000) -> tuple[ForwardPPO, float, float]:
    """
    Check the environment, train and evaluate.

    :param timesteps: environment steps
    :return: the model, mean return of twenty episodes before and after
    """
    env_checker.check_env(Beacon())
    env = env_util.make_vec_env(Beacon, n_envs=8, seed=0)
    model = ForwardPPO("MlpPolicy", env, 1e-3, n_steps=128, seed=0, policy_kwargs={"features_extractor_class": Ring})
    before, _ = evaluation.evaluate_policy(model, env, n_eval_episodes=20)
    after, _ = evaluation.evaluate_policy(model.learn(timesteps), env, n_eval_episodes=20)
    print([block.name for block in model.network.blocks], f"mean return {before:.1f} before, {after:.1f} after")
    return model, float(before), float(after)  # type: ignore[arg-type]


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
