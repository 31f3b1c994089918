import random
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from sb3_forward import ForwardPPO
from sb3_forward.inspect.metrics import (
    dead_share,
    distortion,
    effective_rank,
    saturated_share,
    singular_values,
    unit_deviations,
)
from sb3_forward.inspect.recording import network_of, record
from tests.envs import OBSERVATIONS, RandomEnv, small_model

# === Figures of features ===


@given(rows=st.integers(8, 40), columns=st.integers(1, 7), seed=st.integers(0, 99))
def test_effective_rank_counts_equal_directions(rows: int, columns: int, seed: int):
    generator = th.Generator().manual_seed(seed)
    noise = th.randn(rows, columns + 1, generator=generator, dtype=th.float64)
    noise[:, 0] = 1  # so that the other columns are centred
    basis = th.linalg.qr(noise).Q[:, 1:]
    wide = basis @ th.randn(columns, 3 * rows, generator=generator, dtype=th.float64)
    assert effective_rank(singular_values(5 * basis + 3)) == pytest.approx(columns, rel=1e-6)
    assert 1 - 1e-6 <= effective_rank(singular_values(wide)) <= columns + 1e-6


def test_effective_rank_of_nothing():
    assert effective_rank(singular_values(th.full((5, 3), 0.1))) == 0
    line = th.arange(6.0)[:, None] * th.tensor([1.0, -2.0, 0.5])
    assert effective_rank(singular_values(line)) == pytest.approx(1)
    assert np.isnan(effective_rank(singular_values(th.full((5, 3), th.nan))))


@pytest.mark.parametrize("shape", [(20, 3), (5, 30)])
def test_singular_values(shape: tuple[int, int]):
    features = th.randn(shape, generator=th.Generator().manual_seed(0), dtype=th.float64)
    expected = th.linalg.svdvals(features - features.mean(dim=0))
    assert th.allclose(singular_values(features), expected, atol=1e-5)
    assert singular_values(features).shape == (min(shape),)


def test_dead_units():
    outputs = th.randn(50, 4, generator=th.Generator().manual_seed(0))
    assert dead_share(outputs, 4) == 0
    outputs[:, 1] = 0.7
    outputs[:, 2] *= 1e-3
    assert dead_share(outputs, 4) == 0.5
    assert dead_share(th.ones(5, 3), 3) == 1
    # A unit lives as long as one of its outputs does
    assert dead_share(outputs, 2) == 0
    assert unit_deviations(outputs, 2)[0].item() == pytest.approx(outputs[:, 0].std(correction=0).item() / 2**0.5, rel=1e-5)


def test_saturated_units():
    ends = th.tensor([[-0.99, 0.2, 0.99], [0.98, 0.1, 0.97]])
    assert saturated_share(ends, 3, (-1.0, 1.0)) == pytest.approx(2 / 3)
    assert saturated_share((ends + 1) / 2, 3, (0.0, 1.0)) == pytest.approx(2 / 3)


def test_distortion():
    inputs = th.randn(30, 4, generator=th.Generator().manual_seed(0))
    rotated = 3 * inputs @ th.linalg.qr(th.randn(4, 4, generator=th.Generator().manual_seed(1))).Q + 1
    assert distortion(inputs, rotated, "identity") == pytest.approx({"stress": 0, "strain": 0}, abs=1e-5)
    squashed = inputs * th.tensor([1.0, 1.0, 0.0, 0.0])
    assert all(value > 0.05 for value in distortion(inputs, squashed, "identity").values())


# === Recordings ===


@pytest.mark.parametrize("policy", OBSERVATIONS)
def test_every_block_is_recorded(policy: str):
    model = small_model(ForwardPPO, policy)
    env = RandomEnv(OBSERVATIONS[policy])
    env.reset(seed=0)
    rows = [env.step(0)[0] for _ in range(6)]
    observations = (
        {key: np.stack([row[key] for row in rows]) for key in rows[0]} if isinstance(rows[0], dict) else np.stack(rows)
    )
    tensors, _ = model.policy.obs_to_tensor(observations)
    recordings = record(model.policy, tensors)
    assert [recording.block.name for recording in recordings] == [block.name for block in model.network.blocks]
    tops = {recording.block.role: recording.outputs for recording in recordings}
    with th.no_grad():
        latents = model.policy.mlp_extractor(model.policy.extract_features(tensors))
    if policy == "CnnPolicy":
        assert th.equal(tops["shared"], latents[0])
    else:
        assert th.equal(tops["actor"], latents[0])
        assert th.equal(tops["critic"], latents[1])
    for recording in recordings:
        assert len(recording.inputs) == len(recording.outputs) == 6
        figures = recording.figures("gaussian")
        assert np.isfinite([value for name, value in figures.items() if name != "saturated"]).all()
        assert np.isnan(figures["saturated"]) == (recording.block.role == "shared")


def test_units_of_convolutions_are_channels():
    model = small_model(ForwardPPO, "CnnPolicy")
    observations = th.randint(0, 256, (4, 3, 36, 36), dtype=th.uint8)
    assert [recording.units for recording in record(model.policy, observations)] == [32, 64, 64, 16]
    assert [recording.bounds for recording in record(model.policy, observations)] == [None] * 4


class RestlessExtractor(BaseFeaturesExtractor):
    """Keeps statistics in training, and draws random numbers always."""

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space, 4)
        self.batch_norm = nn.BatchNorm1d(4)
        self.dropout = nn.Dropout(0.5)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.dropout(self.batch_norm(observations)) + 0.01 * th.randn(4)


@pytest.mark.parametrize("algorithm", [ForwardPPO, PPO, A2C])
@pytest.mark.parametrize("training", [True, False])
def test_no_trace_is_left(algorithm: Any, training: bool):
    model = algorithm("MlpPolicy", RandomEnv(), policy_kwargs={"features_extractor_class": RestlessExtractor}, device="cpu")
    model.policy.set_training_mode(training)
    model.policy.value_net.training = not training
    modes = [module.training for module in model.policy.modules()]
    parameters = {name: value.clone() for name, value in model.policy.state_dict().items()}
    generators = th.get_rng_state(), np.random.get_state(legacy=False)["state"]["key"].tolist(), random.getstate()
    first = record(model.policy, th.ones(3, 4))
    assert first[0].block.name == "extractor"
    assert modes == [module.training for module in model.policy.modules()]
    assert all(th.equal(parameters[name], value) for name, value in model.policy.state_dict().items())
    assert all(parameter.grad is None for parameter in model.policy.parameters())
    assert th.equal(generators[0], th.get_rng_state())
    assert generators[1:] == (np.random.get_state(legacy=False)["state"]["key"].tolist(), random.getstate())


def test_no_actor_critic_policy():
    with pytest.raises(ValueError, match="no actor-critic policy"):
        network_of(nn.Linear(2, 2))
