"""Environments that send what nobody expects: training goes on with finite weights, or stops with an error that says where."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

from sb3_forward import ForwardPPO
from tests.envs import ACTIONS, ALGORITHMS, OBSERVATIONS, VECTOR, RandomEnv, hidden_state, small_kwargs, small_model
from tests.test_run import BatchNormExtractor
from tests.test_save_load import assert_equal

pytestmark = pytest.mark.slow

Distort = Callable[[Any, int], Any]


def untouched(value: Any, taken: int) -> Any:
    return value


class HostileEnv(RandomEnv):
    """A random environment whose observations and rewards pass through a function of them and the number of the step."""

    def __init__(
        self,
        observation_space: spaces.Space = VECTOR,
        action_space: spaces.Space = ACTIONS["Discrete"],
        observe: Distort | None = None,
        reward: Distort | None = None,
    ) -> None:
        super().__init__(observation_space, action_space)
        self.observe, self.reward = observe or untouched, reward or untouched
        self.taken = 0

    def reset(self, **kwargs: Any) -> Any:
        observation, info = super().reset(**kwargs)
        return self.observe(observation, 0), info

    def step(self, action: Any) -> Any:
        self.taken += 1
        observation, reward, *rest = super().step(action)
        return self.observe(observation, self.taken), self.reward(reward, self.taken), *rest


def becomes(value: float, at: int, entry: int = 2) -> Distort:
    """Make one entry of the observation this value, at one step alone."""

    def distort(observation: np.ndarray, taken: int) -> np.ndarray:
        if taken == at:
            observation = observation.copy()
            observation[entry] = value
        return observation

    return distort


def hostile(algorithm: Any, *envs: HostileEnv, **kwargs: Any) -> Any:
    return algorithm("MlpPolicy", vectorised(*envs), **small_kwargs(algorithm), **kwargs)


def vectorised(*envs: HostileEnv) -> DummyVecEnv:
    given = iter(envs)
    return DummyVecEnv([lambda: next(given)] * len(envs))


def state(model: Any) -> dict[str, Any]:
    return copy.deepcopy(model.get_parameters())


# === What trains ===


SCALES = (0.0, 1e-30, 1e-12, 1e8)
SPACES: dict[str, spaces.Space] = {
    "one dimension": spaces.Box(-1.0, 1.0, (1,), np.float32),
    "10,000 dimensions": spaces.Box(-1.0, 1.0, (10_000,), np.float32),
    "double precision": spaces.Box(-1.0, 1.0, (3,), np.float64),
    "integers": spaces.Box(-100, 100, (3,), np.int64),
    "a single state": spaces.Discrete(1),
    "1,000 states, one-hot": spaces.Discrete(1000),
}


def assert_trains(model: Any) -> None:
    start = {name: value.clone() for name, value in model.policy.named_parameters()}
    model.learn(48)
    for name, value in model.policy.named_parameters():
        assert value.isfinite().all(), name
    assert not all(th.equal(value, start[name]) for name, value in model.policy.named_parameters())
    logged = model.logger.name_to_value
    assert all(np.isfinite(value) for key, value in logged.items() if key != "train/explained_variance")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("local_loss", ["stress", "strain"])
@pytest.mark.parametrize("scale", SCALES)
def test_scale_of_the_observations(algorithm: Any, local_loss: str, scale: float) -> None:
    """0 are constant observations, of which all distances are zero."""
    assert_trains(hostile(algorithm, HostileEnv(observe=lambda o, _: o * np.float32(scale)), local_loss=local_loss))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("scale", SCALES)
def test_scale_of_the_rewards(algorithm: Any, scale: float) -> None:
    assert_trains(hostile(algorithm, HostileEnv(reward=lambda r, _: r * scale)))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("local_loss", ["stress", "strain"])
def test_few_distinct_rows(algorithm: Any, local_loss: str) -> None:
    """Most pairs of rows coincide, the others are 1e8 apart."""
    env = HostileEnv(observe=lambda o, taken: np.full_like(o, 1e8 * (taken % 7 == 0)))
    assert_trains(hostile(algorithm, env, local_loss=local_loss))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("space", SPACES)
def test_spaces(algorithm: Any, space: str) -> None:
    assert_trains(hostile(algorithm, HostileEnv(SPACES[space])))


# === What is refused ===


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("hidden_training", ["local", "frozen", "backprop"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_observation_is_not_finite(algorithm: Any, hidden_training: str, value: float) -> None:
    """The error names the environment, the step and the entry; nothing is learnt; the next run starts from a reset."""
    bad = HostileEnv(observe=becomes(value, at=20))
    model = hostile(algorithm, HostileEnv(), bad, hidden_training=hidden_training)
    model.learn(32)
    before = state(model)
    with pytest.raises(ValueError, match=rf"observation of environment 1 at step 4 of the rollout is {value} in entry 2\. "):
        model.learn(32, reset_num_timesteps=False)
    assert_equal(state(model), before)
    model.learn(32, reset_num_timesteps=False)
    assert all(parameter.isfinite().all() for parameter in model.policy.parameters())


def test_last_observation_of_a_rollout_is_not_finite() -> None:
    with pytest.raises(ValueError, match="environment 0 at step 16 of the rollout is nan"):
        hostile(ForwardPPO, HostileEnv(observe=becomes(np.nan, at=16))).learn(16)


class Filled(BaseFeaturesExtractor):
    """Missing values are zero, and told of."""

    def __init__(self, observation_space: Any) -> None:
        super().__init__(observation_space, 8)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return th.cat([observations.nan_to_num(0.0), observations.isnan().float()], dim=1)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_missing_values_that_the_policy_deals_with(algorithm: Any) -> None:
    """As under SB3. Infinity is refused: a bounded activation would hide it."""
    kwargs = {"policy_kwargs": {"features_extractor_class": Filled}}
    model = hostile(algorithm, HostileEnv(observe=becomes(np.nan, at=5)), **kwargs).learn(32)
    assert np.isnan(model.rollout_buffer.observations).sum() + model._n_updates > 0
    assert all(parameter.isfinite().all() for parameter in model.policy.parameters())
    with pytest.raises(ValueError, match="is inf in entry 2"):
        hostile(algorithm, HostileEnv(observe=becomes(np.inf, at=5)), **kwargs).learn(32)


def test_observation_of_a_dictionary_is_not_finite() -> None:
    def observe(observation: dict[str, Any], taken: int) -> dict[str, Any]:
        return {**observation, "vector": becomes(np.nan, at=5)(observation["vector"], taken)}

    env = HostileEnv(OBSERVATIONS["MultiInputPolicy"], observe=observe)
    with pytest.raises(ValueError, match=r"Observation 'vector' of environment 0 at step 5 .* in entry 2"):
        ForwardPPO("MultiInputPolicy", env, **small_kwargs(ForwardPPO)).learn(16)


def test_observation_spoils_vec_normalize() -> None:
    """Its statistics have made NaN of every environment's observations: the one at fault is named all the same."""
    venv = VecNormalize(vectorised(HostileEnv(), HostileEnv(observe=becomes(np.nan, at=3))))
    model = ForwardPPO("MlpPolicy", venv, **small_kwargs(ForwardPPO))
    with pytest.raises(ValueError, match=r"environment 1 at step 3 .* VecNormalize has taken it in: load its statistics"):
        model.learn(32)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_statistics_of_batch_norm_are_not_spoiled(algorithm: Any) -> None:
    """They would move with the forward pass, before any loss could tell."""
    env = HostileEnv(observe=becomes(np.inf, at=20))
    model = hostile(algorithm, env, policy_kwargs={"features_extractor_class": BatchNormExtractor})
    model.learn(8)
    with pytest.raises(ValueError, match="is inf"):
        model.learn(16)
    assert all(value.isfinite().all() for value in model.policy.state_dict().values())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("hidden_training", ["local", "frozen", "backprop"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_reward_is_not_finite(algorithm: Any, hidden_training: str, value: float) -> None:
    env = HostileEnv(reward=lambda reward, taken: value if taken == 20 else reward)
    model = hostile(algorithm, env, hidden_training=hidden_training)
    model.learn(16)
    before = state(model)
    with pytest.raises(ValueError, match=rf"reward of environment 0 at step 3 of the rollout.* is {value}\. "):
        model.learn(16, reset_num_timesteps=False)
    assert_equal(state(model), before)
    model.learn(16, reset_num_timesteps=False)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Identity])
@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize("level", [0.0, 1e4])
def test_unbounded_features(algorithm: Any, activation: type[nn.Module], scale: float, level: float) -> None:
    """Far from zero or large, and more units than the observation has numbers."""
    env = HostileEnv(observe=lambda o, _: np.float32(scale) * o + np.float32(level))
    model = hostile(algorithm, env, guidance_coef=1.0, policy_kwargs={"activation_fn": activation, "net_arch": [64, 64]})
    assert_trains(model)
    explained = [value for key, value in model.logger.name_to_value.items() if key.startswith("local/r2/")]
    assert len(explained) == 4
    assert all(-0.01 < value < 1.01 for value in explained)


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
def test_returns_overflow() -> None:
    model = hostile(ForwardPPO, HostileEnv(reward=lambda *_: 3e38))
    with pytest.raises(ValueError, match=r"returns of rewards of up to 3e\+38 overflow. .*VecNormalize"):
        model.learn(16)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("scale", [1e25, 1e37])
def test_distances_overflow(algorithm: Any, scale: float) -> None:
    """Finite numbers whose squares are not; nothing of the guided loss is squared but what the block itself says."""
    env = HostileEnv(observe=lambda o, _: o * np.float32(scale))
    assert_trains(hostile(algorithm, env, guidance_coef=1.0))
    model = hostile(algorithm, env, guidance_coef=0.0)
    before = hidden_state(model)
    with pytest.raises(ValueError, match=r"block 'actor\.0'.* bring observations and rewards to a common scale"):
        model.learn(16)
    assert_equal(hidden_state(model), before)  # the heads have learned by then


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("name", ["mlp_extractor.policy_net.0.weight", "action_net.bias", "value_net.weight"])
def test_weight_is_not_finite(algorithm: Any, name: str) -> None:
    model = small_model(algorithm).learn(16)
    nn.init.constant_(model.policy.get_parameter(name), np.nan)
    with pytest.raises(ValueError, match=f"Parameter '{name}' of the policy is not finite"):
        model.learn(16)
    # A good copy mends it
    model.set_parameters(small_model(algorithm).learn(16).get_parameters())
    model.learn(16)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_spread_is_not_finite(algorithm: Any) -> None:
    """Actions are clipped, and rewards are finite."""
    model = small_model(algorithm, actions="Box").learn(16)
    nn.init.constant_(model.policy.log_std, np.inf)
    with pytest.raises(ValueError, match="Parameter 'log_std' of the policy is not finite"):
        model.learn(16)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("error", [ValueError, RuntimeError, KeyboardInterrupt])
def test_environment_raises(algorithm: Any, error: type[BaseException]) -> None:
    """Its own error comes through, the model is as it was, and goes on."""

    def reward(reward: float, taken: int) -> float:
        if taken == 20:
            raise error("the simulator is gone")
        return reward

    model = hostile(algorithm, HostileEnv(reward=reward))
    model.learn(16)
    before = state(model)
    with pytest.raises(error, match="the simulator is gone"):
        model.learn(16)
    assert_equal(state(model), before)
    model.learn(32)
    assert all(parameter.isfinite().all() for parameter in model.policy.parameters())
