"""Define the search spaces for the Zoo's ``-optimize``: its own for A2C and PPO, and the parameters of the hidden phase."""

from collections.abc import Callable
from typing import Any

import optuna
from rl_zoo3.hyperparams_opt import convert_onpolicy_params, sample_a2c_params, sample_ppo_params

Sampler = Callable[[optuna.Trial, int, int, dict[str, Any]], dict[str, Any]]


def _sample_local_params(trial: optuna.Trial) -> dict[str, Any]:
    local_batch_size_pow = trial.suggest_int("local_batch_size_pow", 5, 9)
    # Display true values, as the Zoo does
    trial.set_user_attr("local_batch_size", 2**local_batch_size_pow)
    return {
        "local_learning_rate": trial.suggest_float("local_learning_rate", 1e-5, 1e-2, log=True),
        "local_epochs": trial.suggest_categorical("local_epochs", [1, 2, 4]),
        "local_batch_size": 2**local_batch_size_pow,
        "local_loss": trial.suggest_categorical("local_loss", ["stress", "strain"]),
        "disparity": trial.suggest_categorical("disparity", ["identity", "gaussian"]),
        "guidance_coef": trial.suggest_float("guidance_coef", 0.0, 1.0),
    }


def with_local_params(sample: Sampler) -> Sampler:
    """
    Extend a search space of the Zoo.

    :param sample: the Zoo's sampler for A2C or PPO
    :return: a sampler of keyword arguments of ForwardA2C or ForwardPPO
    """

    def sample_forward_params(
        trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]
    ) -> dict[str, Any]:
        return {**sample(trial, n_actions, n_envs, additional_args), **_sample_local_params(trial)}

    return sample_forward_params


def convert_forward_params(sampled_params: dict[str, Any]) -> dict[str, Any]:
    """
    Convert the parameters of a stored trial into keyword arguments.

    :param sampled_params: ``trial.params``, the values as they were suggested
    :return: the keyword arguments that the sampler returned in that trial
    """
    params = convert_onpolicy_params(sampled_params)
    params["local_batch_size"] = 2 ** params.pop("local_batch_size_pow")
    return params


SAMPLERS = {"forward_a2c": with_local_params(sample_a2c_params), "forward_ppo": with_local_params(sample_ppo_params)}
CONVERTERS = {"forward_a2c": convert_forward_params, "forward_ppo": convert_forward_params}
