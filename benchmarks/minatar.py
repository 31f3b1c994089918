"""
The five games of MinAtar: small games on which a network with hidden layers that learn is far above one with random layers.

    pip install ".[minatar,compare]"
    python -m sb3_forward.compare --gym-packages benchmarks.minatar --env MinAtarBreakout-v0 --conf benchmarks/minatar.yml ...

Importing this module registers ``MinAtarAsterix-v0``, ``MinAtarBreakout-v0``, ``MinAtarFreeway-v0``, ``MinAtarSeaquest-v0``
and ``MinAtarSpaceInvaders-v0``: the games of K. Young and T. Tian, "MinAtar: An Atari-inspired testbed for thorough and
reproducible reinforcement learning experiments" (2019), with sticky actions, their ramp of difficulty and the smallest set of
actions. An observation is one vector of 100 x channels zeros and ones.

``MinAtarAsterixImage-v0`` and so on have images of 10 x 10 pixels, channels first, of 0 and 255; :class:`SmallCnnPolicy` is
for them.
"""

from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from sb3_forward import ForwardPolicy

GAMES = ("asterix", "breakout", "freeway", "seaquest", "space_invaders")
# No game ends by itself for certain
MAX_EPISODE_STEPS = 5000


def make(game: str, render_mode: str | None = None) -> gym.Env[np.ndarray, Any]:
    """
    Make a game.

    :param game: its name in the package ``minatar``
    :param render_mode: as Gymnasium's
    :return: the game, with vectors as observations
    """
    # GPL, and only for whoever asks for it
    from minatar.gym import BaseEnv

    return gym.wrappers.FlattenObservation(BaseEnv(game, render_mode=render_mode, use_minimal_action_set=True))


def make_image(game: str, render_mode: str | None = None) -> gym.Env[np.ndarray, Any]:
    """
    Make a game that is seen as images.

    :param game: its name in the package ``minatar``
    :param render_mode: as Gymnasium's
    :return: the game, with observations of (channels, 10, 10) and the type uint8
    """
    from minatar.gym import BaseEnv

    env = BaseEnv(game, render_mode=render_mode, use_minimal_action_set=True)
    rows, columns, channels = env.observation_space.shape
    space = spaces.Box(0, 255, (channels, rows, columns), np.uint8)
    return gym.wrappers.TransformObservation(env, lambda planes: planes.transpose(2, 0, 1).astype(np.uint8) * 255, space)


class SmallCnn(BaseFeaturesExtractor):
    """
    The network of the paper: a convolution of 16 filters 3 x 3, and a layer of 128 units.

    :param observation_space: images, channels first
    :param features_dim: units of the layer
    """

    def __init__(self, observation_space: spaces.Box, features_dim: int = 128) -> None:
        super().__init__(observation_space, features_dim)
        channels, rows, columns = observation_space.shape
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 16, 3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16 * (rows - 2) * (columns - 2), features_dim),
            nn.ReLU(),
        )

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.layers(observations)


class SmallCnnPolicy(ForwardPolicy):
    """A policy with this network, the heads right above it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"features_extractor_class": SmallCnn, "net_arch": [], **kwargs})


for _game in GAMES:
    for _kind, _entry_point in (("", make), ("Image", make_image)):
        gym.register(
            f"MinAtar{_game.title().replace('_', '')}{_kind}-v0",
            entry_point=_entry_point,  # type: ignore[arg-type]
            kwargs={"game": _game},
            max_episode_steps=MAX_EPISODE_STEPS,
        )
