"""Let a model play, and sample the states that it visits, with their returns and values."""

import math
from typing import NamedTuple

import numpy as np
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.common.utils import obs_as_tensor

# At most this many states are sampled, since the cost of a block grows with the cube of their number
ROWS = 2048


class States(NamedTuple):
    """A random sample of the states of some episodes, B rows."""

    observations: PyTorchObs  # (B, ...) as the rollout buffer holds them
    returns: np.ndarray  # (B,) Monte-Carlo returns
    values: np.ndarray  # (B,) the critic's values
    episodes: np.ndarray  # (B,) which episode a state is of
    steps: int  # of the whole play
    episode_returns: list[float]  # undiscounted, of the episodes that ended, in the rewards of the environment


def play(model: OnPolicyAlgorithm, steps: int, seed: int) -> States:
    """
    Play with sampled actions, as in the collection of a rollout: the layers learn in such states.

    The returns are sums of discounted rewards in the units of the value, that is, of normalised rewards if the model was
    trained on these. Where an episode is truncated, by a time limit or the end of this play, the value stands in for the rest,
    as in training.

    :param model: the model with its environments
    :param steps: how many steps to play, all environments together
    :param seed: seed of the sample
    :return: the states
    """
    assert model.env is not None
    length = math.ceil(steps / model.n_envs)
    assert model.rollout_buffer_class is not None
    buffer = model.rollout_buffer_class(
        length,
        model.observation_space,
        model.action_space,
        device=model.device,
        gamma=model.gamma,
        gae_lambda=1.0,  # Monte-Carlo
        n_envs=model.n_envs,
        **model.rollout_buffer_kwargs,
    )
    model.set_logger(Logger(None, []))
    _, callback = model._setup_learn(length * model.n_envs)
    model.collect_rollouts(model.env, callback, buffer, length)

    count = length * model.n_envs
    rows = np.random.default_rng(seed).choice(count, min(ROWS, count), replace=False)
    at = np.divmod(rows, model.n_envs)
    numbers = np.cumsum(buffer.episode_starts, axis=0) * model.n_envs + np.arange(model.n_envs)
    parts = buffer.observations
    observations = {key: part[at] for key, part in parts.items()} if isinstance(parts, dict) else parts[at]
    return States(
        observations=obs_as_tensor(observations, model.device),
        returns=buffer.returns[at].astype(np.float64),
        values=buffer.values[at].astype(np.float64),
        episodes=numbers[at].astype(int),
        steps=count,
        episode_returns=[value for values in model.env.env_method("get_episode_rewards") for value in values],
    )
