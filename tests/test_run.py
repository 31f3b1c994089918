import importlib
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

from sb3_forward import ForwardA2C, ForwardPolicy, ForwardPPO
from tests.envs import ACTIONS, ALGORITHMS, RandomEnv, hidden_state, small_model


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("policy", ["MlpPolicy", "CnnPolicy", "MultiInputPolicy"])
@pytest.mark.parametrize("actions", ACTIONS)
def test_spaces(algorithm: Any, policy: str, actions: str) -> None:
    model = small_model(algorithm, policy, actions)
    model.learn(40)
    assert model.num_timesteps >= 40
    assert all(parameter.isfinite().all() for parameter in model.policy.parameters())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(
    "policy_kwargs",
    [
        {"squash_output": True},
        {"full_std": False},
        {"use_expln": True},
        {"log_std_init": -2.0, "net_arch": []},
    ],
)
def test_state_dependent_exploration(algorithm: Any, policy_kwargs: dict[str, Any]) -> None:
    model = small_model(algorithm, actions="Box", use_sde=True, sde_sample_freq=4, policy_kwargs=policy_kwargs)
    before = model.policy.log_std.clone()
    model.learn(48)
    assert not th.equal(before, model.policy.log_std)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("local_loss", ["stress", "strain"])
@pytest.mark.parametrize("disparity", ["identity", "gaussian"])
@pytest.mark.parametrize("guidance_coef", [0.0, 0.5, 1.0])
def test_losses(algorithm: Any, local_loss: str, disparity: str, guidance_coef: float) -> None:
    model = small_model(algorithm, local_loss=local_loss, disparity=disparity, guidance_coef=guidance_coef, local_epochs=2)
    model.learn(32)
    assert np.isfinite(model.logger.name_to_value["train/local_loss"])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(
    "policy_kwargs",
    [
        {"net_arch": []},
        {"net_arch": {"vf": [8]}},
        {"net_arch": {"pi": [8], "vf": [8, 8, 8]}},
        {"net_arch": [8], "activation_fn": nn.PReLU},
        {"net_arch": [8], "activation_fn": nn.ReLU, "optimizer_class": th.optim.SGD},
        {"net_arch": [8], "optimizer_class": th.optim.AdamW, "optimizer_kwargs": {"weight_decay": 0.1}},
        {"share_features_extractor": False},
        {"bias_init": 0.0, "ortho_init": False},
    ],
)
def test_policy_kwargs(algorithm: Any, policy_kwargs: dict[str, Any]) -> None:
    given = {key: value for key, value in policy_kwargs.items()}
    model = small_model(algorithm, policy_kwargs=policy_kwargs)
    before = hidden_state(model)
    model.learn(32)
    after = hidden_state(model)
    for block in model.network.blocks:
        assert any(not th.equal(before[key], after[key]) for key in before if key.startswith(f"{block.name}/")), block.name
    optimizer_class = given.get("optimizer_class")
    if optimizer_class is not None:
        assert all(type(block.optimizer) is optimizer_class for block in model.network.blocks)


def test_optimizer_kwargs_are_not_shared() -> None:
    """SB3's A2C uses RMSprop unless told otherwise; every block gets an instance with the same settings."""
    model = small_model(ForwardA2C, rms_prop_eps=0.125)
    assert all(block.optimizer.param_groups[0]["eps"] == 0.125 for block in model.network.blocks)
    model = small_model(ForwardPPO)
    assert all(block.optimizer.param_groups[0]["eps"] == 1e-5 for block in model.network.blocks)
    assert model.heads.optimizer.param_groups[0]["eps"] == 1e-5


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_single_rows_are_skipped(algorithm: Any) -> None:
    """A last minibatch of one row has no pairs, nor has a rollout of one step."""
    model = small_model(algorithm, n_steps=9)
    model.learn(18)
    assert np.isfinite(model.logger.name_to_value["train/local_loss"])
    single = ForwardA2C("MlpPolicy", RandomEnv(), n_steps=1, device="cpu", seed=0)
    before = hidden_state(single)
    single.learn(4)
    assert all(th.equal(before[name], value) for name, value in hidden_state(single).items())
    assert all(parameter.isfinite().all() for parameter in single.policy.parameters())


class BatchNormExtractor(BaseFeaturesExtractor):
    def __init__(self, observation_space: gym.Space) -> None:
        super().__init__(observation_space, 4)
        self.batch_norm = nn.BatchNorm1d(4)
        self.dropout = nn.Dropout(0.5)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.dropout(self.batch_norm(observations))


class ResettledExtractor(BatchNormExtractor):
    """Keeps the statistics of its BatchNorm, whatever mode it is put into."""

    def train(self, mode: bool = True) -> "ResettledExtractor":
        super().train(mode)
        self.batch_norm.eval()
        return self


def test_a_module_may_stay_in_evaluation_mode() -> None:
    """As under SB3, whose policy puts all its modules into training mode."""
    model = small_model(ForwardPPO, policy_kwargs={"features_extractor_class": ResettledExtractor}).learn(32)
    assert model.policy.features_extractor.batch_norm.num_batches_tracked == 0


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_batch_norm_moves_in_train_alone(algorithm: Any) -> None:
    model = small_model(algorithm, policy_kwargs={"features_extractor_class": BatchNormExtractor})
    batch_norm = model.policy.features_extractor.batch_norm
    statistics: list[th.Tensor] = []

    def record(_locals: Any, _globals: Any) -> bool:
        statistics.append(batch_norm.running_mean.clone())
        return True

    model.learn(32, callback=record)
    assert all(th.equal(statistics[0], other) for other in statistics[:16])
    assert all(th.equal(statistics[16], other) for other in statistics[16:])
    assert not th.equal(statistics[0], statistics[16])
    before = batch_norm.running_mean.clone()
    model.predict(np.ones(4, dtype=np.float32))
    assert th.equal(before, batch_norm.running_mean)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_observations(algorithm: Any) -> None:
    """Discrete, MultiBinary and constant observations have many equal rows, hence distances of zero."""
    constant = spaces.Box(0.0, 0.0, (3,), np.float32)
    for observations in (spaces.Discrete(2), spaces.MultiBinary(2), spaces.MultiDiscrete([2, 2]), constant):
        for local_loss in ("stress", "strain"):
            model = algorithm(
                "MlpPolicy",
                RandomEnv(observations),
                n_steps=16,
                local_interval=1,
                local_loss=local_loss,
                disparity="gaussian",
                guidance_coef=0.3,
                seed=0,
                device="cpu",
            )
            model.learn(32)
            assert all(parameter.isfinite().all() for parameter in model.policy.parameters())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_compiled_policy_is_still_forward(algorithm: Any) -> None:
    """A compiled policy is another class that holds the policy: blocks and heads are found in it all the same."""
    model = small_model(algorithm)
    model.policy = th.compile(model.policy, backend="eager")
    assert not isinstance(model.policy, ForwardPolicy)
    before = hidden_state(model)
    model.learn(32)
    assert all(not th.equal(before[name], value) for name, value in hidden_state(model).items() if name.endswith("/0"))


def test_cpu_is_recommended_for_mlp_policies() -> None:
    model = small_model(ForwardPPO)
    model.device = th.device("meta")
    with pytest.warns(UserWarning, match="ForwardPPO on the GPU"):
        model._maybe_recommend_cpu()
    image_model = small_model(ForwardPPO, "CnnPolicy")
    image_model.device = th.device("meta")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image_model._maybe_recommend_cpu()


def test_learns_cartpole() -> None:
    """Enough to tell learning from not learning; how well it learns is measured in benchmarks, with many seeds."""
    env = VecNormalize(make_vec_env("CartPole-v1", n_envs=8, seed=0), gamma=0.98)
    rollout: dict[str, Any] = {"n_steps": 128, "batch_size": 1024, "n_epochs": 20, "gamma": 0.98, "gae_lambda": 0.98}
    model = ForwardPPO("MlpPolicy", env, learning_rate=3.3e-3, seed=0, device="cpu", **rollout)
    env.training = False
    before, _ = evaluate_policy(model, env, n_eval_episodes=5, deterministic=False, warn=False)
    env.training = True
    model.learn(25_000)
    env.training = False
    after, _ = evaluate_policy(model, env, n_eval_episodes=5, deterministic=False, warn=False)
    assert isinstance(before, float)
    assert isinstance(after, float)
    assert before < 60
    assert after > 120


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("distances", "local.distances", "pairwise_distances"),
        ("features", "inspect.metrics", "distortion"),
        ("recording", "inspect.recording", "record"),
    ],
)
def test_modules_that_have_moved(old: str, new: str, name: str) -> None:
    with pytest.warns(DeprecationWarning, match=f"has moved to sb3_forward.{new}"):
        moved = importlib.reload(importlib.import_module(f"sb3_forward.{old}"))
    assert getattr(moved, name) is getattr(importlib.import_module(f"sb3_forward.{new}"), name)
