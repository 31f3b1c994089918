"""
The five games of MinAtar as Gymnasium environments: small games on which a network with hidden layers that learn is far above
one with random layers.

    pip install minatar
    python -m sb3_forward.compare --gym-packages benchmarks.minatar --env MinAtarBreakout-v0 ...

Importing this module registers ``MinAtarAsterix-v0``, ``MinAtarBreakout-v0``, ``MinAtarFreeway-v0``, ``MinAtarSeaquest-v0``
and ``MinAtarSpaceInvaders-v0``: the games of K. Young and T. Tian, "MinAtar: An Atari-inspired testbed for thorough and
reproducible reinforcement learning experiments" (2019), with sticky actions, their ramp of difficulty and the smallest set of
actions. ``MinAtarBreakoutImage-v0`` and so on are the same as images of (channels, 10, 10).
"""

from typing import Any

import gymnasium as gym
import numpy as np

GAMES = {
    "Asterix": "asterix",
    "Breakout": "breakout",
    "Freeway": "freeway",
    "Seaquest": "seaquest",
    "SpaceInvaders": "space_invaders",
}
# No game ends by itself for certain
MAX_EPISODE_STEPS = 5000


class MinAtar(gym.Env[np.ndarray, np.int64]):
    """
    Put one of the games behind Gymnasium's interface.

    :param game: its name in the package ``minatar``
    :param flat: whether an observation is one vector of 100 x channels numbers; False for an image of (channels, 10, 10)
    """

    def __init__(self, game: str, flat: bool = True) -> None:
        from minatar import Environment

        self.game = Environment(game)
        self.flat = flat
        self.actions = self.game.minimal_action_set()
        self.action_space = gym.spaces.Discrete(len(self.actions))
        height, width, channels = self.game.state_shape()
        if flat:
            self.observation_space = gym.spaces.Box(0.0, 1.0, (height * width * channels,), np.float32)
        else:
            self.observation_space = gym.spaces.Box(0, 255, (channels, height, width), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """
        :param seed: of the game's own generator
        :param options: unused
        :return: the first observation, and nothing else
        """
        super().reset(seed=seed)
        if seed is not None:
            self.game.seed(int(self.np_random.integers(2**31)))
        self.game.reset()
        return self._observe(), {}

    def step(self, action: int | np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """
        :param action: index into the smallest set of actions of the game
        :return: observation, reward, whether the game is over, False, and nothing else
        """
        reward, terminated = self.game.act(self.actions[int(action)])
        return self._observe(), float(reward), bool(terminated), False, {}

    def _observe(self) -> np.ndarray:
        state = self.game.state()
        if self.flat:
            return state.flatten().astype(np.float32)
        return state.transpose(2, 0, 1).astype(np.uint8) * np.uint8(255)


def _register(name: str, game: str) -> None:
    for suffix, flat in (("", True), ("Image", False)):
        kwargs = {"game": game, "flat": flat}
        gym.register(
            f"MinAtar{name}{suffix}-v0",
            entry_point="benchmarks.minatar:MinAtar",
            kwargs=kwargs,
            max_episode_steps=MAX_EPISODE_STEPS,
        )


for _name, _game in GAMES.items():
    _register(_name, _game)
