import warnings
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
from sb3_forward.local.network import HiddenNetwork
from tests.envs import ACTIONS, ALGORITHMS, IMAGE, OBSERVATIONS, VECTOR, small_model


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


class GuideCnn(BaseFeaturesExtractor):
    """The CNN of SB3's guide."""

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space, 16)
        channels = observation_space.shape[0]
        self.cnn = nn.Sequential(nn.Conv2d(channels, 4, 8, 4), nn.ReLU(), nn.Conv2d(4, 4, 4, 2), nn.ReLU(), nn.Flatten())
        with th.no_grad():
            width = self.cnn(th.zeros(1, *observation_space.shape)).shape[1]
        self.linear = nn.Sequential(nn.Linear(width, 16), nn.ReLU())

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.linear(self.cnn(observations))


class Layers(BaseFeaturesExtractor):
    """Two layers; subclasses say how they are run."""

    def __init__(self, observation_space: gym.Space) -> None:
        super().__init__(observation_space, 8)
        self.first, self.second = nn.Linear(get_flattened_obs_dim(observation_space), 8), nn.Linear(8, 8)
        self.activation, self.scale = nn.ReLU(), nn.Parameter(th.ones(8))


class Functional(Layers):
    def forward(self, observations: th.Tensor) -> th.Tensor:
        hidden = nn.functional.relu(self.first(observations.view(observations.size(0), -1)))
        return th.tanh(nn.functional.linear(hidden, self.second.weight, self.second.bias)) * self.scale


class ReusedActivation(Layers):
    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.activation(self.second(self.activation(self.first(observations))))


class Residual(Layers):
    def forward(self, observations: th.Tensor) -> th.Tensor:
        hidden = self.activation(self.first(observations))
        return hidden + self.activation(self.second(hidden))


class InPlace(Layers):
    """Writes to its observations."""

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.second(self.first(observations.mul_(2.0)).relu_())


class Discarded(Layers):
    """Runs a layer for nothing."""

    def forward(self, observations: th.Tensor) -> th.Tensor:
        hidden = self.first(observations).relu()
        self.activation(self.second(hidden))
        return hidden


class Normalised(Layers):
    """A size that is asked for before the first layer, and used after it, too; a normalisation of a plane between."""

    def __init__(self, observation_space: gym.Space) -> None:
        super().__init__(observation_space)
        self.norm = nn.LayerNorm((2, 4))

    def forward(self, observations: th.Tensor) -> th.Tensor:
        rows = observations.shape[0]
        hidden = self.norm(self.first(observations.reshape(rows, -1)).reshape(-1, 2, 4))
        return self.second(hidden.reshape(rows, -1))


class Attention(Layers):
    def __init__(self, observation_space: gym.Space) -> None:
        super().__init__(observation_space)
        self.attention = nn.MultiheadAttention(2, 1, batch_first=True)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        tokens = self.first(observations).reshape(-1, 4, 2)
        attended, _ = self.attention(tokens, tokens, tokens)
        return self.second(attended.flatten(1))


class Branches(BaseFeaturesExtractor):
    """A layer for each half of the observations."""

    def __init__(self, observation_space: gym.Space) -> None:
        super().__init__(observation_space, 8)
        self.first, self.second = nn.Linear(2, 4), nn.Linear(2, 4)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        first, second = observations.chunk(2, dim=1)
        return th.tanh(th.cat([self.first(first), self.second(second)], dim=1))


class Recurring(Layers):
    """A layer that is used twice, with another one between."""

    def forward(self, observations: th.Tensor) -> th.Tensor:
        hidden = self.second(self.first(observations))
        return self.second(th.tanh(hidden))


class Conditional(Layers):
    def forward(self, observations: th.Tensor) -> th.Tensor:
        hidden = self.first(observations)
        return self.second(hidden if hidden.mean() > 0 else -hidden)


class OtherInTraining(Layers):
    def forward(self, observations: th.Tensor) -> th.Tensor:
        hidden = nn.functional.dropout(self.first(observations), 0.5, self.training)
        return self.second(hidden)


class Transposed(Layers):
    def forward(self, observations: th.Tensor) -> th.Tensor:
        return th.addmm(self.second.bias, self.first(observations).T.contiguous().T, self.second.weight.T)


class ColumnsFirst(Layers):
    """Hands a transposed matrix from layer to layer."""

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return (self.second.weight @ self.first(observations).T).T


class Noisy(Layers):
    """Says something else each time."""

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.second(self.first(observations) + th.randn(8))


class OtherWhenTraced(Layers):
    def forward(self, observations: th.Tensor) -> th.Tensor:
        hidden = self.first(observations)
        return self.second(2.0 * hidden if isinstance(hidden, th.Tensor) else hidden)


class Hooked(Layers):
    def __init__(self, observation_space: gym.Space) -> None:
        super().__init__(observation_space)
        self.net = nn.Sequential(self.first, self.second)
        self.net.register_forward_hook(lambda module, inputs, output: 0.5 * output)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.net(observations)


class SubclassedCnn(NatureCNN):
    """Keeps NatureCNN's way of running its layers."""


class OwnExtraction(ForwardPolicy):
    """Extracts features in a way of its own, without a layer."""

    def extract_features(self, obs: Any, features_extractor: Any = None) -> Any:
        return tuple(0.5 * part for part in super().extract_features(obs, features_extractor))


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
        ["extractor.0", "extractor.1", "actor", "critic"],
    ),
    "own mlp": (lambda: make_policy(OwnMlpPolicy), ["actor", "critic"]),
    "own mlp, separate": (
        lambda: make_policy(OwnMlpPolicy, features_extractor_class=ResidualExtractor, share_features_extractor=False),
        ["actor_extractor.0", "actor_extractor.1", "critic_extractor.0", "critic_extractor.1", "actor", "critic"],
    ),
}

# Extractor, the blocks that it is split into, and what is warned of
EXTRACTORS: dict[type[BaseFeaturesExtractor], tuple[list[int], str | None]] = {
    GuideCnn: ([2, 2, 2], None),
    Functional: ([2, 3], None),
    ReusedActivation: ([2, 2], None),
    Residual: ([2, 2], None),
    InPlace: ([2, 2], None),
    Discarded: ([2], None),
    Normalised: ([4, 2], None),
    OtherWhenTraced: ([5], "something else than as a whole"),
    Attention: ([2, 4, 2], "several layers (MultiheadAttention, NonDynamicallyQuantizableLinear)"),
    Branches: ([2, 2], None),
    ColumnsFirst: ([5], "no rows in its first dimension"),
    Transposed: ([2, 2], None),
    Recurring: ([2, 2], "used again"),
    Conditional: ([5], "could not be split"),
    OtherInTraining: ([5], "something else in training"),
    Noisy: ([5], "could not be split"),
    Hooked: ([4], "it has hooks"),
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


def test_features_are_those_of_a_rollout_if_one_layer_is_in_training_mode() -> None:
    """A callback may have left it so."""
    policy = make_policy(features_extractor_class=BatchNormExtractor)
    network, observations = HiddenNetwork(policy), 5 * th.rand(20, 4)
    policy.set_training_mode(False)
    expected = network.features([observations], len(observations))
    policy.features_extractor.train()
    th.testing.assert_close(network.features([observations], len(observations)), expected)


def test_one_block_holds_one_layer_and_all_up_to_the_next() -> None:
    network = HiddenNetwork(make_policy(ForwardCnnPolicy, IMAGE))
    layers = [[type(layer).__name__ for layer in block.forward] for block in network.blocks]  # type: ignore[attr-defined]
    assert layers == [["Conv2d", "ReLU"], ["Conv2d", "ReLU"], ["Conv2d", "ReLU"], ["Flatten", "Linear", "ReLU"]]
    network = HiddenNetwork(make_policy(net_arch=[8], activation_fn=nn.PReLU))
    assert [len(block.parameters) for block in network.blocks] == [3, 3]


def test_what_joins_branches_belongs_to_none() -> None:
    """The last block of the image gives its own features, not those of the vector beside them."""
    kwargs = {"features_extractor_kwargs": {"cnn_output_dim": 7}}
    network = HiddenNetwork(make_policy(ForwardMultiInputPolicy, OBSERVATIONS["MultiInputPolicy"], net_arch=[8], **kwargs))
    widths: dict[str, int] = {}

    def visit(block: Any, inputs: Any) -> Any:
        outputs = block.forward(inputs)
        widths[block.name] = outputs.flatten(1).shape[1]
        return outputs

    space = OBSERVATIONS["MultiInputPolicy"]
    network.latents({key: th.zeros(2, *part.shape) for key, part in space.spaces.items()}, visit)  # type: ignore[attr-defined]
    assert widths["extractor.image.3"] == 7


def test_what_is_hooked_later_counts_at_once() -> None:
    """Also for whoever asks before the next update."""
    model = small_model(ForwardPPO)
    model.policy.mlp_extractor.value_net.register_forward_hook(lambda module, inputs, output: nn.functional.normalize(output))
    observations = th.rand(5, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        values = model.policy.value_net(model.network.latents(observations)[1])
    th.testing.assert_close(values, model.policy.predict_values(observations))


def test_hooks_of_the_policy_itself_are_no_matter() -> None:
    """Collection of a rollout has such, and a callback may look at the blocks meanwhile."""
    policy = make_policy()
    policy.register_forward_hook(lambda module, inputs, output: output)
    policy.action_net.register_forward_pre_hook(lambda module, inputs: None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert block_names(policy) == ["actor.0", "actor.1", "critic.0", "critic.1"]


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
        self.optimizer.add_param_group({"params": [self.temperature]})


class ParameterOfNobody(ForwardPolicy):
    def _build(self, lr_schedule: Any) -> None:
        super()._build(lr_schedule)
        self.temperature = nn.Parameter(th.ones(1))


class TiedPolicy(ForwardPolicy):
    def _build(self, lr_schedule: Any) -> None:
        super()._build(lr_schedule)
        self.mlp_extractor.value_net[0].weight = self.mlp_extractor.policy_net[0].weight


def test_every_parameter_in_exactly_one_place() -> None:
    with pytest.raises(ValueError, match=r"'temperature'.*no block"):
        small_model(ForwardPPO, StrayParameterPolicy)
    # As a backpropagation baseline any policy trains
    small_model(ForwardPPO, StrayParameterPolicy, hidden_training="backprop").learn(16)
    # What the policy's optimizer was not given is trained by nobody, as under SB3
    model = small_model(ForwardPPO, ParameterOfNobody).learn(16)
    assert model.policy.temperature.item() == 1


def test_weights_that_actor_and_critic_share_are_one_block() -> None:
    """Both guide it."""
    with pytest.warns(UserWarning, match=r"'policy.mlp_extractor.value_net.0' are used again"):
        model = small_model(ForwardPPO, TiedPolicy)
    weight = model.policy.mlp_extractor.policy_net[0].weight
    (role,) = {block.role for block in model.network.blocks if any(own is weight for own in block.parameters)}
    assert role == "shared"
    before = weight.clone()
    model.learn(16)
    assert not th.equal(before, weight)


def test_a_module_that_both_extractors_have_is_one_block() -> None:
    """It is run once, guided by both, and nothing is warned of."""

    class Encoder(BaseFeaturesExtractor):
        inner = nn.Sequential(nn.Linear(get_flattened_obs_dim(VECTOR), 8), nn.Tanh())

        def __init__(self, observation_space: gym.Space) -> None:
            super().__init__(observation_space, 8)
            self.encoder = self.inner

        def forward(self, observations: th.Tensor) -> th.Tensor:
            return self.encoder(observations)

    policy = make_policy(net_arch=[8], features_extractor_class=Encoder, share_features_extractor=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        network = HiddenNetwork(policy)
    assert [(block.name, block.role) for block in network.blocks] == [
        ("actor_extractor", "shared"),
        ("actor", "actor"),
        ("critic", "critic"),
    ]


def test_features_extracted_in_a_way_of_their_own_need_no_layer() -> None:
    """Those of actor and critic come from one operation."""
    policy = make_policy(OwnExtraction, net_arch=[], share_features_extractor=False)
    network, batch = HiddenNetwork(policy), th.rand(5, 4)
    assert network.blocks == []
    for found in network.latents(batch):
        th.testing.assert_close(found, 0.5 * batch)


@pytest.mark.parametrize("extractor", EXTRACTORS)
def test_extractors_are_split_at_their_layers(extractor: type[BaseFeaturesExtractor]) -> None:
    """However their ``forward`` runs them; all blocks together say what the policy says, and learn."""
    parameters, message = EXTRACTORS[extractor]
    policy_class, space = (ForwardCnnPolicy, IMAGE) if extractor is GuideCnn else (ForwardPolicy, VECTOR)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        policy = make_policy(policy_class, space, net_arch=[], features_extractor_class=extractor)
        network = HiddenNetwork(policy)
    assert [len(block.parameters) for block in network.blocks] == parameters
    assert ["extractor" in block.name and block.role == "shared" for block in network.blocks] == [True] * len(parameters)
    assert len(caught) == (message is not None)
    assert all(str(message) in str(warning.message) for warning in caught)
    policy.set_training_mode(False)
    batch = policy.obs_to_tensor(np.stack([space.sample() for _ in range(6)]))[0]
    with th.no_grad():
        th.manual_seed(0)
        latent = network.latents(batch)[0]
        kept = batch.clone()
        th.manual_seed(0)
        th.testing.assert_close(latent, policy.extract_features(batch.clone()))
    assert th.equal(batch, kept)


def test_frozen_parameters_are_nobodys() -> None:
    policy = make_policy(net_arch=[8, 8])
    policy.mlp_extractor.policy_net.requires_grad_(False)
    assert block_names(policy) == ["critic.0", "critic.1"]


@pytest.mark.parametrize("change", ["activation", "hook", "frozen extractor"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_is_exchanged_after_construction_is_what_is_trained(algorithm: Any, change: str) -> None:
    """No trainable parameter changes by it; what was kept of other features is forgotten."""

    class Frozen(BaseFeaturesExtractor):
        def __init__(self, observation_space: gym.Space) -> None:
            super().__init__(observation_space, get_flattened_obs_dim(observation_space))
            self.inner = nn.Sequential(nn.Linear(self.features_dim, self.features_dim), nn.Tanh()).requires_grad_(False)

        def forward(self, observations: th.Tensor) -> th.Tensor:
            return self.inner(observations)

    model = small_model(algorithm, n_steps=16, local_interval=64).learn(32)
    assert (model.history.waiting_rows, len(model.history.recent)) == (32, 2)
    if change == "activation":
        model.policy.mlp_extractor.value_net[1] = nn.ReLU()
    elif change == "hook":
        model.policy.mlp_extractor.value_net[1].register_forward_hook(lambda module, inputs, output: 0.5 * output)
    else:
        extractor = Frozen(model.observation_space)
        for name in ("features_extractor", "pi_features_extractor", "vf_features_extractor"):
            setattr(model.policy, name, extractor)
    model.learn(16, reset_num_timesteps=False)
    # Nor are the steps of this rollout known by features of the network as it is
    assert (model.history.waiting_rows, model.history.recent) == (16, [])
    observations = model.policy.obs_to_tensor(np.stack([model.observation_space.sample() for _ in range(4)]))[0]
    with th.no_grad():
        values = model.policy.value_net(model.network.latents(observations)[1])
        th.testing.assert_close(values, model.policy.predict_values(observations))


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
