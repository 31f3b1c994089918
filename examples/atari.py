"""The first steps of Atari's Breakout, with SB3's wrappers: python examples/atari.py [timesteps]"""

import sys

import ale_py
import gymnasium as gym
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack

from sb3_forward import ForwardPPO

gym.register_envs(ale_py)


def breakout(n_envs: int, seed: int) -> VecEnv:
    """
    Make Breakout as the literature plays it.

    :param n_envs: environments
    :param seed: of the first of them
    :return: four stacked frames of 84x84 pixels each
    """
    return VecFrameStack(make_atari_env("BreakoutNoFrameskip-v4", n_envs=n_envs, seed=seed), n_stack=4)


def main(timesteps: int = 8_192) -> float:
    """
    Train and evaluate. A whole run takes ten million steps: `python -m rl_zoo3.train --algo forward_ppo --env <the same>`.

    :param timesteps: environment steps
    :return: mean score of three games
    """
    model = ForwardPPO(
        "CnnPolicy",
        breakout(8, seed=0),
        learning_rate=2.5e-4,
        n_steps=128,
        batch_size=256,
        n_epochs=4,
        clip_range=0.1,
        ent_coef=0.01,
        local_learning_rate=lambda left: 5e-4 * left,  # as the Zoo's entry: Pong's layers are switched off with the default
        verbose=1,
        seed=0,
    )
    model.learn(timesteps)
    mean, deviation = evaluate_policy(model, breakout(1, seed=100), n_eval_episodes=3, deterministic=False)
    print(f"mean score of three games: {mean:.1f} +- {deviation:.1f}")
    return float(mean)  # type: ignore[arg-type]


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
