from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.policies import ActorCriticCnnPolicy, ActorCriticPolicy, MultiInputActorCriticPolicy
from torch import nn

from sb3_forward import ForwardA2C, ForwardCnnPolicy, ForwardMultiInputPolicy, ForwardPolicy, ForwardPPO
from sb3_forward.policies import CnnPolicy, MlpPolicy, MultiInputPolicy, SparingCategorical
from tests.envs import ACTIONS, OBSERVATIONS, VECTOR, RandomEnv

PAIRS: dict[str, tuple[type[ForwardPolicy], type[ActorCriticPolicy]]] = {
    "MlpPolicy": (ForwardPolicy, ActorCriticPolicy),
    "CnnPolicy": (ForwardCnnPolicy, ActorCriticCnnPolicy),
    "MultiInputPolicy": (ForwardMultiInputPolicy, MultiInputActorCriticPolicy),
}


def make(policy_class: type[ActorCriticPolicy], name: str, **kwargs: Any) -> Any:
    th.manual_seed(0)
    return policy_class(OBSERVATIONS[name], ACTIONS["Box"], lambda _: 1e-3, **kwargs)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("use_sde", [False, True])
def test_state_dict_is_that_of_sb3(name: str, use_sde: bool) -> None:
    forward, stock = (make(policy_class, name, use_sde=use_sde) for policy_class in PAIRS[name])
    ours, theirs = forward.state_dict(), stock.state_dict()
    assert list(ours) == list(theirs)
    for key, value in theirs.items():
        assert ours[key].shape == value.shape
        # The same seed draws the same network, up to the biases
        if "mlp_extractor" not in key or "bias" not in key:
            assert th.equal(ours[key], value), key
    stock.load_state_dict(ours)
    forward.load_state_dict(theirs)


def test_bias_init() -> None:
    default, narrow, none = (
        make(MlpPolicy, "MlpPolicy"),
        make(MlpPolicy, "MlpPolicy", bias_init=0.1),
        make(MlpPolicy, "MlpPolicy", bias_init=0),
    )
    for policy, width in ((default, 1.0), (narrow, 0.1), (none, 0.0)):
        for layer in policy.mlp_extractor.modules():
            if isinstance(layer, nn.Linear):
                largest = layer.bias.abs().max().item()
                assert largest <= width
                assert largest >= 0.8 * width
        assert not policy.action_net.bias.any()
        assert not policy.value_net.bias.any()
    with pytest.raises(ValueError, match="bias_init"):
        make(MlpPolicy, "MlpPolicy", bias_init=-1.0)


def test_biases_of_deep_networks_add_up_to_those_of_two_layers() -> None:
    policy = make(MlpPolicy, "MlpPolicy", net_arch={"pi": [64] * 8, "vf": [64]})
    widths = [layer.bias.abs().max().item() for layer in policy.mlp_extractor.policy_net if isinstance(layer, nn.Linear)]
    assert all(0.4 <= width <= 0.5 for width in widths)
    (critic,) = (layer for layer in policy.mlp_extractor.value_net if isinstance(layer, nn.Linear))
    assert 0.8 <= critic.bias.abs().max().item() <= 1


def test_random_biases_give_features_an_even_part() -> None:
    """The reason for them: with zero biases every feature of tanh layers is an odd function of the observation."""
    observations = th.randn(16, 4)

    def even_part(policy: Any) -> float:
        with th.no_grad():
            features, mirrored = (policy.mlp_extractor(batch)[0] for batch in (observations, -observations))
        return (features + mirrored).abs().max().item()

    assert even_part(make(ForwardPolicy, "MlpPolicy", bias_init=0)) < 1e-5
    assert even_part(make(ForwardPolicy, "MlpPolicy")) > 0.1


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("grad", [False, True])
def test_discrete_actions_are_those_of_sb3(deterministic: bool, grad: bool) -> None:
    ours, theirs = (
        policy_class(VECTOR, ACTIONS["Discrete"], lambda _: 1e-3, ortho_init=False) for policy_class in PAIRS["MlpPolicy"]
    )
    theirs.load_state_dict(ours.state_dict())
    assert type(ours.action_dist) is SparingCategorical
    observations, said = th.rand(64, 4), []
    for policy in (ours, theirs):
        th.manual_seed(0)
        with th.set_grad_enabled(grad):
            actions, values, log_prob = policy(observations, deterministic)
            distribution: Any = policy.get_distribution(observations)
            # Also one action for all rows, and numbers as SB3's buffers have them
            log_probs = [distribution.log_prob(own) for own in (th.arange(64) % 3, th.ones(1), th.zeros(64))]
            said.append((actions, values, log_prob, distribution.entropy(), distribution.distribution.probs, *log_probs))
            with pytest.raises((RuntimeError, ValueError)):
                distribution.log_prob(th.full((64,), 10))
    for own, expected in zip(*said, strict=True):
        assert th.equal(own, expected)
        assert own.requires_grad == expected.requires_grad
    if grad:
        weights: list[Any] = [ours.action_net.weight, theirs.action_net.weight]
        scores = said[0][5], said[1][5]
        own, expected = (th.autograd.grad(score.sum(), weight)[0] for score, weight in zip(scores, weights, strict=True))
        assert th.equal(own, expected)


@pytest.mark.parametrize("grad", [False, True])
def test_logits_that_are_no_number_raise_as_in_sb3(grad: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # PyTorch's default, which its compiler turns off for the whole process
    monkeypatch.setattr(th.distributions.Distribution, "_validate_args", True)
    policy: Any = ForwardPolicy(VECTOR, ACTIONS["Discrete"], lambda _: 1e-3)
    with th.set_grad_enabled(grad):
        policy.action_net.bias.data[1] = -th.inf
        actions, _, _ = policy(th.rand(64, 4))
        assert 1 not in actions
        policy.action_net.bias.data[1] = th.nan
        with pytest.raises(ValueError, match="logits"):
            policy(th.rand(64, 4))


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_policy_can_be_traced_compiled_and_exported(grad: bool) -> None:
    class Greedy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.policy = ForwardPolicy(VECTOR, ACTIONS["Discrete"], lambda _: 1e-3)

        def forward(self, observations: th.Tensor) -> th.Tensor:
            actions, _, _ = self.policy(observations, deterministic=True)
            return actions

    greedy, observations = Greedy().eval(), th.rand(5, 4)
    with th.set_grad_enabled(grad):
        ways = [
            th.jit.trace(greedy, observations),
            th.compile(greedy, backend="eager", fullgraph=True),
            th.export.export(greedy, (observations,)).module(),
        ]
        for way in ways:
            assert th.equal(way(observations), greedy(observations))


@pytest.mark.parametrize("algorithm", [ForwardA2C, ForwardPPO])
def test_aliases(algorithm: Any) -> None:
    assert algorithm.policy_aliases == {"MlpPolicy": MlpPolicy, "CnnPolicy": CnnPolicy, "MultiInputPolicy": MultiInputPolicy}
    assert type(algorithm("MlpPolicy", RandomEnv()).policy) is ForwardPolicy


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("share_features_extractor", [True, False])
def test_save_load(tmp_path: Path, name: str, share_features_extractor: bool) -> None:
    policy = make(PAIRS[name][0], name, bias_init=0.3, share_features_extractor=share_features_extractor)
    path = str(tmp_path / "policy.pt")
    policy.save(path)
    loaded: Any = type(policy).load(path, device="cpu")
    assert loaded.bias_init == 0.3
    assert loaded.share_features_extractor == share_features_extractor
    assert list(loaded.state_dict()) == list(policy.state_dict())
    observation = OBSERVATIONS[name].sample()
    np.testing.assert_array_equal(
        loaded.predict(observation, deterministic=True)[0], policy.predict(observation, deterministic=True)[0]
    )


def test_stock_policy_keeps_its_own_biases() -> None:
    model: Any = ForwardPPO(ActorCriticPolicy, RandomEnv(VECTOR))
    policy: Any = model.policy
    assert not policy.mlp_extractor.policy_net[0].bias.any()
