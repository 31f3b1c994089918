"""
CartPole among noise: an environment in which most inputs say nothing, so that random features are poor ones.

    python -m sb3_forward.compare --gym-packages benchmarks.distractors --env CartPoleDistractors-v0 ...

Importing this module registers ``CartPoleDistractors-v0``: CartPole-v1, whose observation is followed by 200 numbers that are
drawn anew at every step from a standard normal distribution. Distractors of this kind are a common test of what a
representation keeps.
"""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.classic_control import CartPoleEnv

DISTRACTORS = 200


class Distractors(gym.ObservationWrapper[np.ndarray, Any, np.ndarray]):
    """
    Noise beside the observation.

    :param env: with vectors (d,) as observations
    """

    def __init__(self, env: gym.Env[np.ndarray, Any]) -> None:
        super().__init__(env)
        assert isinstance(env.observation_space, gym.spaces.Box)
        wide = np.full(DISTRACTORS, np.inf, dtype=np.float32)
        low, high = env.observation_space.low, env.observation_space.high
        self.observation_space = gym.spaces.Box(np.concatenate([low, -wide]), np.concatenate([high, wide]), dtype=np.float32)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """
        :param observation: (d,)
        :return: (d + DISTRACTORS,)
        """
        noise = self.np_random.standard_normal(DISTRACTORS, dtype=np.float32)
        return np.concatenate([observation, noise])


def _make(**kwargs: Any) -> gym.Env[np.ndarray, Any]:
    return Distractors(CartPoleEnv(**kwargs))


gym.register("CartPoleDistractors-v0", entry_point=_make, max_episode_steps=500)
