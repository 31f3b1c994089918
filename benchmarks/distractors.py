"""
CartPole among noise: environments in which most inputs say nothing, so that random features are poor ones.

    python -m sb3_forward.compare --gym-packages benchmarks.distractors --env CartPoleDistractors-v0 ...

Importing this module registers two environments. In ``CartPoleDistractors-v0`` the observation of CartPole-v1 is followed by
200 numbers that are drawn anew at every step from a standard normal distribution. Distractors of this kind are a common test
of what a representation keeps. ``CartPoleProjected-v0`` shows the same 204 numbers behind a fixed random rotation: no single
input is the useful one, so that it does not help to weigh inputs one by one.
"""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.classic_control import CartPoleEnv

DISTRACTORS = 200
# Standard deviations of CartPole's four numbers under random actions, about: behind the rotation they can no longer be brought
# to a common scale with the noise
SCALE = np.array([0.1, 0.6, 0.1, 0.9], dtype=np.float32)


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


class Projected(gym.ObservationWrapper[np.ndarray, Any, np.ndarray]):
    """
    The observation behind a rotation that is the same for all environments.

    :param env: with vectors (d,) as observations, without bounds
    """

    def __init__(self, env: gym.Env[np.ndarray, Any]) -> None:
        super().__init__(env)
        assert isinstance(env.observation_space, gym.spaces.Box)
        (width,) = env.observation_space.shape
        self.rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((width, width)))[0].astype(np.float32)
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (width,), np.float32)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """
        :param observation: (d,)
        :return: (d,)
        """
        return self.rotation @ observation


def _scaled(env: gym.Env[np.ndarray, Any]) -> gym.Env[np.ndarray, Any]:
    space = gym.spaces.Box(-np.inf, np.inf, (len(SCALE),), np.float32)
    return gym.wrappers.TransformObservation(env, lambda observation: observation / SCALE, space)


gym.register("CartPoleDistractors-v0", entry_point=lambda **kwargs: Distractors(CartPoleEnv(**kwargs)), max_episode_steps=500)
gym.register(
    "CartPoleProjected-v0",
    entry_point=lambda **kwargs: Projected(Distractors(_scaled(CartPoleEnv(**kwargs)))),
    max_episode_steps=500,
)
