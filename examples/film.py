"""Film LunarLander before training and after it, side by side, as a GIF: python examples/film.py [timesteps]"""

import sys
from typing import Any

import gymnasium as gym
import numpy as np
from PIL import Image, ImageDraw
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_forward import ForwardPPO


def play(model: Any, normalize: VecNormalize, words: str) -> tuple[list[np.ndarray], float]:
    """
    Play an episode without noise, always the same one.

    :param model: the model that acts
    :param normalize: normalisation of its observations
    :param words: written on every picture
    :return: every third picture, at half its size, and the return
    """
    env = gym.make("LunarLander-v3", render_mode="rgb_array")
    observation, _ = env.reset(seed=5)
    pictures, score, done = [], 0.0, False
    while not done:
        action, _ = model.predict(normalize.normalize_obs(observation), deterministic=True)
        observation, reward, terminated, truncated, _ = env.step(action)
        score, done = score + float(reward), terminated or truncated
        picture = Image.fromarray(np.asarray(env.render())).resize((300, 200))
        ImageDraw.Draw(picture).text((8, 6), words)
        pictures.append(np.asarray(picture))
    return pictures[::3], score


def main(timesteps: int = 250_000, *, file: str = "film.gif") -> float:
    """
    Film, train and film again.

    :param timesteps: environment steps
    :param file: the GIF
    :return: return of the second episode
    """
    env = VecNormalize(make_vec_env("LunarLander-v3", n_envs=16, seed=1, env_kwargs={"render_mode": None}), norm_reward=False)
    model = ForwardPPO("MlpPolicy", env, n_steps=64, batch_size=64, gae_lambda=0.98, gamma=0.999, n_epochs=4, seed=1)
    before, _ = play(model, env, "before training")
    model.learn(timesteps)
    after, score = play(model, env, f"trained forward for {timesteps:,} steps")
    length = max(len(before), len(after))  # the shorter one ends with its last picture
    pairs = (np.hstack([shots[min(index, len(shots) - 1)] for shots in (before, after)]) for index in range(length))
    first, *rest = (Image.fromarray(pair).quantize(32) for pair in pairs)
    first.save(file, save_all=True, append_images=rest, duration=60, loop=0)
    print(f"{file}: {length} pictures, return of the episode after training: {score:.0f}")
    return score


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
