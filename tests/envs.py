"""A small environment for any pair of spaces, and helpers to train on it."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_forward import ForwardA2C, ForwardPPO
from sb3_forward.on_policy import ForwardOnPolicyAlgorithm

ALGORITHMS: tuple[type[ForwardOnPolicyAlgorithm], ...] = (ForwardA2C, ForwardPPO)

needs_gpu = pytest.mark.skipif(not th.cuda.is_available(), reason="needs a GPU")
DEVICES = ("cpu", pytest.param("cuda", marks=needs_gpu))

VECTOR = spaces.Box(-1.0, 1.0, (4,), np.float32)
IMAGE = spaces.Box(0, 255, (3, 36, 36), np.uint8)
OBSERVATIONS: dict[str, spaces.Space] = {
    "MlpPolicy": VECTOR,
    "CnnPolicy": IMAGE,
    "MultiInputPolicy": spaces.Dict({"image": IMAGE, "vector": VECTOR, "choice": spaces.Discrete(3)}),
}
ACTIONS: dict[str, spaces.Space] = {
    "Discrete": spaces.Discrete(3),
    "Box": spaces.Box(-1.0, 1.0, (2,), np.float32),
    "MultiDiscrete": spaces.MultiDiscrete([2, 3]),
    "MultiBinary": spaces.MultiBinary(3),
}


class RandomEnv(gym.Env):
    """Random observations; the reward tells how close the action is to the first entry of the observation."""

    def __init__(self, observation_space: spaces.Space = VECTOR, action_space: spaces.Space = ACTIONS["Discrete"]) -> None:
        self.observation_space = observation_space
        self.action_space = action_space
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.steps = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        reward = -float(np.abs(np.mean(action) - self.first))
        return self._observe(), reward, self.steps % 7 == 0, self.steps % 10 == 0, {}

    def _observe(self) -> Any:
        observation = self.observation_space.sample()
        value = observation["vector"] if isinstance(observation, dict) else observation
        self.first = float(np.asarray(value).flat[0])
        return observation


def small_kwargs(algorithm: type[ForwardOnPolicyAlgorithm]) -> dict[str, Any]:
    """Hyperparameters that make a run of a few dozen steps, in which hidden layers move after every rollout."""
    kwargs: dict[str, Any] = {"n_steps": 16, "seed": 0, "device": "cpu", "local_batch_size": 8, "local_interval": 1}
    if issubclass(algorithm, ForwardPPO):
        kwargs.update(batch_size=8, n_epochs=2)
    return kwargs


def small_model(
    algorithm: type[ForwardOnPolicyAlgorithm], policy: Any = "MlpPolicy", actions: str = "Discrete", **kwargs: Any
) -> Any:
    """A model on a random environment; small networks for images."""
    observation_space = OBSERVATIONS[policy] if isinstance(policy, str) else VECTOR
    defaults = small_kwargs(algorithm)
    if policy == "CnnPolicy":
        defaults["policy_kwargs"] = {"features_extractor_kwargs": {"features_dim": 16}}
    elif policy == "MultiInputPolicy":
        defaults["policy_kwargs"] = {"features_extractor_kwargs": {"cnn_output_dim": 16}, "net_arch": [8]}
    return algorithm(policy, RandomEnv(observation_space, ACTIONS[actions]), **{**defaults, **kwargs})


def hidden_state(model: Any) -> dict[str, th.Tensor]:
    """Copies of the parameters of all blocks, by block and position."""
    return {
        f"{block.name}/{position}": parameter.detach().clone()
        for block in model.network.blocks
        for position, parameter in enumerate(block.parameters)
    }
