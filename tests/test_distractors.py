"""The environment of noise in which random features are poor ones."""

import gymnasium as gym
import numpy as np
from gymnasium.utils.env_checker import check_env

import benchmarks.distractors  # noqa: F401


def observations(seed: int) -> np.ndarray:
    env = gym.make("CartPoleDistractors-v0")
    rows = [env.reset(seed=seed)[0]]
    rows += [env.step(action)[0] for action in (0, 1, 1)]
    return np.stack(rows)


def test_it_is_an_environment():
    env = gym.make("CartPoleDistractors-v0", disable_env_checker=True)
    assert env.spec is not None
    assert env.spec.max_episode_steps == 500
    # Not `unwrapped`, which is CartPole
    check_env(env, skip_render_check=True)


def test_cart_pole_comes_first_then_noise():
    env = gym.make("CartPole-v1")
    plain = [env.reset(seed=3)[0], *(env.step(action)[0] for action in (0, 1, 1))]
    rows = observations(seed=3)
    np.testing.assert_array_equal(rows[:, :4], plain)
    noise = rows[:, 4:]
    assert noise.shape == (4, 200)
    assert np.abs(np.corrcoef(noise)[np.triu_indices(4, 1)]).max() < 0.3
    assert abs(noise.std() - 1) < 0.1


def test_noise_follows_the_seed():
    np.testing.assert_array_equal(observations(seed=5), observations(seed=5))
    assert not np.array_equal(observations(seed=5), observations(seed=6))
