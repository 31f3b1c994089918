"""Stable-Baselines3 with its hidden layers frozen and no value loss is our head phase, an oracle of its losses and logs."""

from typing import Any

import pytest
import torch as th
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

from sb3_forward import ForwardA2C, ForwardPolicy, ForwardPPO
from tests.envs import ACTIONS, VECTOR, RandomEnv

STOCK = {ForwardA2C: A2C, ForwardPPO: PPO}


class SameActions(BaseCallback):
    """Draw the same actions in the same rollout, whatever was drawn in between."""

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        th.manual_seed(self.num_timesteps)


def trained(algorithm: Any, actions: str, policy: Any = ForwardPolicy, **kwargs: Any) -> tuple[Any, dict[str, th.Tensor]]:
    """A model after three rollouts of two environments, each one minibatch, and the parameters that it started with."""
    env = DummyVecEnv([lambda: RandomEnv(VECTOR, ACTIONS[actions])] * 2)
    settings: dict[str, Any] = {"n_steps": 16, "seed": 0, "device": "cpu", "vf_coef": 0.0, "learning_rate": 0.01, **kwargs}
    settings["policy_kwargs"] = {"net_arch": [16], "ortho_init": False, **settings.get("policy_kwargs", {})}
    if issubclass(algorithm, PPO):
        settings.update(batch_size=32, n_epochs=4, clip_range=0.05)
    model = algorithm(policy, env, **settings)
    if algorithm in STOCK.values():
        for parameter in model.policy.mlp_extractor.parameters():
            parameter.requires_grad_(False)
    before = {name: value.clone() for name, value in model.policy.state_dict().items()}
    return model.learn(96, SameActions()), before


@pytest.mark.parametrize("algorithm", STOCK)
@pytest.mark.parametrize("actions", ["Discrete", "Box", "MultiDiscrete"])
@pytest.mark.parametrize(
    "kwargs",
    [
        {"ent_coef": 0.1, "max_grad_norm": 0.01, "policy_kwargs": {"optimizer_class": th.optim.SGD}, "learning_rate": 3.0},
        {"ent_coef": 0.1, "max_grad_norm": 1e9, "policy_kwargs": {"optimizer_class": th.optim.SGD}, "learning_rate": 0.3},
        {"ent_coef": 0.1, "max_grad_norm": 0.5, "normalize_advantage": True},
        {"ent_coef": 0.0, "max_grad_norm": 0.5, "normalize_advantage": False, "gamma": 0.9, "gae_lambda": 0.8},
    ],
    ids=["SGD, clipped", "SGD", "normalised", "as they are"],
)
def test_head_phase_is_that_of_sb3_with_frozen_hidden_layers(algorithm: Any, actions: str, kwargs: dict[str, Any]) -> None:
    """Parameters of all heads, and what is logged."""
    theirs, before = trained(STOCK[algorithm], actions, **kwargs)
    ours, _ = trained(algorithm, actions, hidden_training="frozen", whiten_heads=False, head_learning_rate_scale=1.0, **kwargs)
    assert ours.heads.closed_form == (actions != "MultiDiscrete")
    for name, value in theirs.policy.state_dict().items():
        th.testing.assert_close(ours.policy.state_dict()[name], value, rtol=1e-4, atol=1e-6, msg=name)
        moves = name.startswith(("action_net", "log_std"))
        assert th.equal(value, before[name]) != moves, name
    logged = {key: value for key, value in theirs.logger.name_to_value.items() if key.startswith("train/")}
    assert logged.keys() >= {"train/explained_variance", "train/n_updates", "train/entropy_loss", "train/value_loss"}
    for key, value in logged.items():
        assert ours.logger.name_to_value[key] == pytest.approx(value, rel=1e-3, abs=1e-5), key
    assert ours._n_updates == theirs._n_updates


class DeepHead(ForwardPolicy):
    """One whose values are no linear map of the features: they follow the gradient of the value loss."""

    def _build(self, lr_schedule: Any) -> None:
        super()._build(lr_schedule)
        self.value_net = nn.Sequential(nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 1))  # type: ignore[assignment]
        optimizer_class: Any = self.optimizer_class
        self.optimizer = optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)


@pytest.mark.parametrize("algorithm", STOCK)
def test_values_that_are_not_linear_follow_the_gradient_of_sb3(algorithm: Any) -> None:
    kwargs: dict[str, Any] = {"vf_coef": 0.7, "max_grad_norm": 1e9, "learning_rate": 0.1, "policy": DeepHead}
    kwargs["policy_kwargs"] = {"optimizer_class": th.optim.SGD}
    if algorithm is ForwardPPO:
        kwargs["clip_range_vf"] = 0.1
    theirs, before = trained(STOCK[algorithm], "Discrete", **kwargs)
    ours, _ = trained(
        algorithm, "Discrete", hidden_training="frozen", whiten_heads=False, head_learning_rate_scale=1.0, **kwargs
    )
    for name, value in theirs.policy.state_dict().items():
        th.testing.assert_close(ours.policy.state_dict()[name], value, rtol=1e-4, atol=1e-5, msg=name)
        assert th.equal(value, before[name]) == name.startswith("mlp_extractor"), name
    for key in ("train/value_loss", "train/explained_variance"):
        assert ours.logger.name_to_value[key] == pytest.approx(theirs.logger.name_to_value[key], rel=1e-3), key
