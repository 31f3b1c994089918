"""
The five games of MinAtar: small games on which a network with hidden layers that learn is far above one with random layers.

    pip install ".[minatar,compare]"
    python -m sb3_forward.compare --gym-packages benchmarks.minatar --env MinAtarBreakout-v0 --conf benchmarks/minatar.yml ...

Importing this module registers ``MinAtarAsterix-v0``, ``MinAtarBreakout-v0``, ``MinAtarFreeway-v0``, ``MinAtarSeaquest-v0``
and ``MinAtarSpaceInvaders-v0``: the games of K. Young and T. Tian, "MinAtar: An Atari-inspired testbed for thorough and
reproducible reinforcement learning experiments" (2019), with sticky actions, their ramp of difficulty and the smallest set of
actions. An observation is one vector of 100 x channels zeros and ones.
"""

from typing import Any

import gymnasium as gym
import numpy as np

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


for _game in GAMES:
    gym.register(
        f"MinAtar{_game.title().replace('_', '')}-v0",
        entry_point=make,  # type: ignore[arg-type]
        kwargs={"game": _game},
        max_episode_steps=MAX_EPISODE_STEPS,
    )
