from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticCnnPolicy, ActorCriticPolicy, MultiInputActorCriticPolicy
from stable_baselines3.common.preprocessing import get_flattened_obs_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, NatureCNN
from torch import nn

from sb3_forward import ForwardCnnPolicy, ForwardMultiInputPolicy, ForwardPolicy, ForwardPPO
from sb3_forward.network import HiddenNetwork
from tests.envs import ACTIONS, IMAGE, OBSERVATIONS, VECTOR, small_model


def make_policy(
    policy_class: type[ActorCriticPolicy] = ForwardPolicy, observations: spaces.Space = VECTOR, **kwargs: Any
) -> Any:
    return policy_class(observations, ACTIONS["Discrete"], lambda _: 1e-3, **kwargs)


def block_names(policy: ActorCriticPolicy) -> list[str]:
    return [block.name for block in HiddenNetwork(policy).blocks]


class BatchNormExtractor(BaseFeaturesExtractor):
    def __init__(self, observation_space: gym.Space) -> None:
        super().__init__(observation_space, get_flattened_obs_dim(observation_space))
        self.net = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(self.features_dim), nn.Dropout(0.5))

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.net(observations)


class ResidualExtractor(BaseFeaturesExtractor):
    def __init__(self, observation_space: gym.Space) -> None:
        super().__init__(observation_space, get_flattened_obs_dim(observation_space))
        self.inner = nn.Sequential(nn.Linear(self.features_dim, 8), nn.ReLU(), nn.Linear(8, self.features_dim))

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return observations + self.inner(observations)


class SubclassedCnn(NatureCNN):
    """Keeps NatureCNN's way of running its layers."""


class OwnMlpExtractor(nn.Module):
    """The custom network of SB3's documentation."""

    def __init__(self, features_dim: int) -> None:
        super().__init__()
        self.latent_dim_pi, self.latent_dim_vf = 8, 6
        self.policy_net = nn.Sequential(nn.Linear(features_dim, 8), nn.ReLU())
        self.value_net = nn.Sequential(nn.Linear(features_dim, 6), nn.ReLU())

    def forward(self, features: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        return self.forward_actor(features), self.forward_critic(features)

    def forward_actor(self, features: th.Tensor) -> th.Tensor:
        return self.policy_net(features)

    def forward_critic(self, features: th.Tensor) -> th.Tensor:
        return self.value_net(features)


class OwnMlpPolicy(ForwardPolicy):
    def _build_mlp_extractor(self) -> None:
        self.mlp_extractor: Any = OwnMlpExtractor(self.features_dim)


POLICIES: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "mlp": (make_policy, ["actor.0", "actor.1", "critic.0", "critic.1"]),
    "stock mlp": (lambda: make_policy(ActorCriticPolicy), ["actor.0", "actor.1", "critic.0", "critic.1"]),
    "linear": (lambda: make_policy(net_arch=[]), []),
    "critic only": (lambda: make_policy(net_arch=dict(vf=[8])), ["critic"]),
    "unequal": (lambda: make_policy(net_arch=dict(pi=[8], vf=[8, 8])), ["actor", "critic.0", "critic.1"]),
    "prelu": (lambda: make_policy(net_arch=[8, 8], activation_fn=nn.PReLU), ["actor.0", "actor.1", "critic.0", "critic.1"]),
    "cnn": (
        lambda: make_policy(ForwardCnnPolicy, IMAGE),
        ["extractor.0", "extractor.1", "extractor.2", "extractor.3"],
    ),
    "stock cnn": (
        lambda: make_policy(ActorCriticCnnPolicy, IMAGE, net_arch=[8]),
        ["extractor.0", "extractor.1", "extractor.2", "extractor.3", "actor", "critic"],
    ),
    "subclassed cnn": (
        lambda: make_policy(ForwardCnnPolicy, IMAGE, net_arch=[], features_extractor_class=SubclassedCnn),
        ["extractor.0", "extractor.1", "extractor.2", "extractor.3"],
    ),
    "separate cnns": (
        lambda: make_policy(ForwardCnnPolicy, IMAGE, share_features_extractor=False),
        [f"{role}_extractor.{index}" for role in ("actor", "critic") for index in range(4)],
    ),
    "multi input": (
        lambda: make_policy(ForwardMultiInputPolicy, OBSERVATIONS["MultiInputPolicy"], net_arch=[8]),
        ["extractor.image.0", "extractor.image.1", "extractor.image.2", "extractor.image.3", "actor", "critic"],
    ),
    "stock multi input": (
        lambda: make_policy(MultiInputActorCriticPolicy, OBSERVATIONS["MultiInputPolicy"], net_arch=[]),
        ["extractor.image.0", "extractor.image.1", "extractor.image.2", "extractor.image.3"],
    ),
    "batch norm": (
        lambda: make_policy(net_arch=[8], features_extractor_class=BatchNormExtractor),
        ["extractor", "actor", "critic"],
    ),
    "residual": (
        lambda: make_policy(net_arch=[8], features_extractor_class=ResidualExtractor),
        ["extractor", "actor", "critic"],
    ),
    "own mlp": (lambda: make_policy(OwnMlpPolicy), ["mlp_extractor"]),
    "own mlp, separate": (
        lambda: make_policy(OwnMlpPolicy, features_extractor_class=ResidualExtractor, share_features_extractor=False),
        ["actor_extractor", "critic_extractor", "mlp_extractor"],
    ),
}


@pytest.mark.parametrize("name", POLICIES)
def test_blocks(name: str) -> None:
    """The blocks are those expected, hold each parameter once, and together compute what the policy computes."""
    make, expected = POLICIES[name]
    policy = make()
    network = HiddenNetwork(policy)
    assert [block.name for block in network.blocks] == expected
    owned = [parameter for block in network.blocks for parameter in block.parameters] + network.head_parameters
    assert len(owned) == len(set(owned))
    assert set(owned) == set(policy.parameters())

    policy.set_training_mode(False)
    samples = [policy.observation_space.sample() for _ in range(5)]
    if isinstance(samples[0], dict):
        batch = policy.obs_to_tensor({key: np.stack([sample[key] for sample in samples]) for key in samples[0]})[0]
    else:
        batch = th.stack([th.as_tensor(sample) for sample in samples])
    with th.no_grad():
        latent_pi, latent_vf = network.latents(batch)
        th.testing.assert_close(policy.value_net(latent_vf), policy.predict_values(batch))
        logits = policy._get_action_dist_from_latent(latent_pi).distribution.logits
        th.testing.assert_close(logits, policy.get_distribution(batch).distribution.logits)


def test_one_block_holds_one_layer_and_all_up_to_the_next() -> None:
    network = HiddenNetwork(make_policy(ForwardCnnPolicy, IMAGE))
    layers = [[type(layer).__name__ for layer in block.forward] for block in network.blocks]  # type: ignore[attr-defined]
    assert layers == [["Conv2d", "ReLU"], ["Conv2d", "ReLU"], ["Conv2d", "ReLU", "Flatten"], ["Linear", "ReLU"]]
    network = HiddenNetwork(make_policy(net_arch=[8], activation_fn=nn.PReLU))
    assert [len(block.parameters) for block in network.blocks] == [3, 3]


def test_shared_blocks_are_visited_once() -> None:
    visits: list[str] = []

    def visit(block: Any, inputs: Any) -> Any:
        visits.append(block.name)
        return block.forward(inputs)

    HiddenNetwork(make_policy(ForwardCnnPolicy, IMAGE)).latents(th.zeros(2, *IMAGE.shape), visit)
    assert len(visits) == len(set(visits)) == 4


class StrayParameterPolicy(ForwardPolicy):
    def _build(self, lr_schedule: Any) -> None:
        super()._build(lr_schedule)
        self.temperature = nn.Parameter(th.ones(1))


class TiedPolicy(ForwardPolicy):
    def _build(self, lr_schedule: Any) -> None:
        super()._build(lr_schedule)
        self.mlp_extractor.value_net[0].weight = self.mlp_extractor.policy_net[0].weight


@pytest.mark.parametrize(
    ("policy_class", "message"),
    [(StrayParameterPolicy, r"'temperature'.*no block"), (TiedPolicy, r"actor\.0 and in critic\.0")],
)
def test_every_parameter_in_exactly_one_place(policy_class: type[ForwardPolicy], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small_model(ForwardPPO, policy_class)
    # As a backpropagation baseline any policy trains
    small_model(ForwardPPO, policy_class, hidden_training="backprop").learn(16)


def test_frozen_parameters_are_nobodys() -> None:
    policy = make_policy(net_arch=[8, 8])
    policy.mlp_extractor.policy_net.requires_grad_(False)
    assert block_names(policy) == ["critic.0", "critic.1"]


def test_blocks_follow_a_changed_policy() -> None:
    """Layers frozen, or a policy replaced, after the model was built."""
    model = small_model(ForwardPPO)
    model.learn(16)
    model.policy.mlp_extractor.policy_net.requires_grad_(False)
    before = model.policy.mlp_extractor.policy_net[0].weight.clone()
    model.learn(16)
    assert th.equal(before, model.policy.mlp_extractor.policy_net[0].weight)
    model.policy = make_policy()
    before = model.policy.mlp_extractor.policy_net[0].weight.clone()
    model.learn(16)
    assert not th.equal(before, model.policy.mlp_extractor.policy_net[0].weight)
