"""Pixels of an environment of one's own, through CnnPolicy: python examples/images.py [timesteps]"""

import sys
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_forward import ForwardPPO

GRID, SCALE = 6, 6


class Catch(gym.Env):
    """A ball falls straight down a screen, and a paddle at its bottom goes left, stays or goes right to catch it."""

    observation_space = gym.spaces.Box(0, 255, (GRID * SCALE, GRID * SCALE, 1), np.uint8)
    action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.row, self.column, self.paddle = 0, *self.np_random.integers(GRID, size=2)
        return self.screen(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.row += 1
        self.paddle = np.clip(self.paddle + action - 1, 0, GRID - 1)
        landed = self.row == GRID - 1
        reward = float(self.paddle == self.column) * 2 - 1 if landed else 0.0
        return self.screen(), reward, landed, False, {}

    def screen(self) -> np.ndarray:
        grid = np.zeros((GRID, GRID, 1), np.uint8)
        grid[self.row, self.column] = 255
        grid[GRID - 1, self.paddle] = 255
        return grid.repeat(SCALE, axis=0).repeat(SCALE, axis=1)


def main(timesteps: int = 40_000) -> tuple[float, float]:
    """
    Train and evaluate; SB3 puts the channels first and scales the pixels by itself.

    :param timesteps: environment steps
    :return: mean return of fifty episodes before and after, of 1 at best
    """
    eval_env = make_vec_env(Catch, seed=1)
    model = ForwardPPO("CnnPolicy", make_vec_env(Catch, n_envs=8, seed=0), n_steps=128, batch_size=256, gamma=0.9, seed=0)
    before, _ = evaluate_policy(model, eval_env, n_eval_episodes=50)
    after, _ = evaluate_policy(model.learn(timesteps), eval_env, n_eval_episodes=50)
    print(f"mean return of fifty episodes: {before:.2f} before, {after:.2f} after")
    return float(before), float(after)  # type: ignore[arg-type]


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
