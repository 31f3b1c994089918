"""Heads that are more than a linear layer, and those exchanged in a built model: trained as under SB3."""

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch as th
from stable_baselines3 import PPO
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from sb3_forward import ForwardPolicy, ForwardPPO
from sb3_forward.heads.guidance import actor_guidance
from sb3_forward.heads.heads import Heads
from sb3_forward.heads.training import HeadTraining, evaluate
from tests.envs import ALGORITHMS, small_model


def parameters_of(model: Any) -> dict[str, th.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.policy.named_parameters()}


def moved(model: Any, before: dict[str, th.Tensor]) -> set[str]:
    return {name for name, parameter in model.policy.named_parameters() if not th.equal(parameter, before[name])}


def changed(change: Callable[[nn.Module], object]) -> type[ForwardPolicy]:
    """A policy, the heads of which are built in another way."""

    class Policy(ForwardPolicy):
        def _build(self, lr_schedule: Any) -> None:
            super()._build(lr_schedule)
            change(self.action_net)
            change(self.value_net)
            self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]

    return Policy


CHANGES: dict[str, Callable[[Any], object]] = {
    "weight_norm": weight_norm,
    "parametrised": parametrizations.weight_norm,
    "spectral_norm": spectral_norm,
    "pruned": lambda head: prune.random_unstructured(head, "weight", 0.5),
    "hooked": lambda head: head.register_forward_hook(lambda module, inputs, output: 0.25 * output),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_heads_that_something_else_makes_are_trained(algorithm: Any, change: str) -> None:
    model = small_model(algorithm, changed(CHANGES[change]), n_steps=32, local_interval=1)
    before = parameters_of(model)
    model.learn(64)
    assert moved(model, before) == before.keys()


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("actions", ["Discrete", "Box"])
def test_what_acted_is_what_is_trained(actions: str, change: str) -> None:
    """
    Before the first step the policy is the one that collected the rollout: nothing has diverged. A spectral norm goes on in
    training, under SB3 as well.
    """
    divergences = []
    for hidden_training in ("frozen", "backprop"):
        kwargs: dict[str, Any] = {"n_steps": 32, "batch_size": 32, "n_epochs": 1, "hidden_training": hidden_training}
        model = small_model(ForwardPPO, changed(CHANGES[change]), actions, **kwargs)
        th.manual_seed(0)
        model.policy.action_net.bias.data.normal_()
        divergences.append(model.learn(32).logger.name_to_value["train/approx_kl"])
    assert divergences[0] == pytest.approx(divergences[1], rel=1e-4, abs=1e-6)
    assert (divergences[0] > 1e-3) == (change == "spectral_norm")


class OwnDistribution(ForwardPolicy):
    """State-dependent standard deviations; subclasses say what the action head is."""

    def _build(self, lr_schedule: Any) -> None:
        super()._build(lr_schedule)
        del self.log_std
        self.action_net = self.head(self.mlp_extractor.latent_dim_pi)
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]

    def head(self, width: int) -> Any:
        return nn.Linear(width, 4)

    def spread(self, latent: th.Tensor) -> Any:
        return self.action_net(latent).chunk(2, dim=1)

    def _get_action_dist_from_latent(self, latent_pi: th.Tensor) -> Any:
        mean, log_std = self.spread(latent_pi)
        return self.action_dist.proba_distribution(mean, log_std.clamp(-3, 1))


class ListOfHeads(OwnDistribution):
    def head(self, width: int) -> Any:
        return nn.ModuleList([nn.Linear(width, 2), nn.Linear(width, 2)])

    def spread(self, latent: th.Tensor) -> Any:
        heads: Any = self.action_net
        return [head(latent) for head in heads]


class TwoOutputs(OwnDistribution):
    class Both(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.mean, self.log_std = nn.Linear(width, 2), nn.Linear(width, 2)

        def forward(self, latent: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
            return self.mean(latent), self.log_std(latent)

    def head(self, width: int) -> Any:
        return self.Both(width)

    def spread(self, latent: th.Tensor) -> Any:
        return self.action_net(latent)


@pytest.mark.parametrize("policy", [OwnDistribution, ListOfHeads, TwoOutputs])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_heads_of_several_outputs(algorithm: Any, policy: type[ForwardPolicy]) -> None:
    """They are trained, and guide the layers below by all that they say."""
    model = small_model(algorithm, policy, "Box", n_steps=32, local_interval=1)
    before = parameters_of(model)
    model.learn(64)
    assert moved(model, before) == before.keys()
    features = th.randn(8, 64)
    guidance = actor_guidance(model.policy, features, th.randn(8, 2), th.zeros(8))
    with th.no_grad():
        expected = th.cat(list(model.policy.spread(features)), dim=1)
    th.testing.assert_close(guidance.wanted, expected)


WRAPS: dict[str, Callable[[Any], object]] = {
    "action head": lambda policy: setattr(policy, "action_net", nn.Sequential(policy.action_net, nn.Tanh())),
    "value head": lambda policy: setattr(policy, "value_net", nn.Sequential(policy.value_net, nn.Softplus())),
}


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_heads_wrapped_in_a_built_model(algorithm: Any, wrap: str) -> None:
    model = small_model(algorithm, actions="Box", n_steps=32, local_interval=1).learn(32)
    WRAPS[wrap](model.policy)
    before = parameters_of(model)
    model.learn(32, reset_num_timesteps=False)
    assert moved(model, before) == before.keys()


class Deep(ForwardPolicy):
    """Heads of two layers each."""

    def _build(self, lr_schedule: Any) -> None:
        super()._build(lr_schedule)
        self.action_net = nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 3))
        self.value_net = nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 1))  # type: ignore[assignment]
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_deeper_heads_are_held_by_their_first_layer(algorithm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the layers below move, the heads go on saying what they said."""
    model = small_model(algorithm, Deep, n_steps=256, local_learning_rate=0.003, learning_rate=0.0, local_batch_size=64)
    observations = th.rand(64, 4) * 2 - 1

    def said() -> th.Tensor:
        with th.no_grad():
            return th.cat(
                [model.policy.get_distribution(observations).distribution.logits, model.policy.predict_values(observations)], 1
            )

    changes = []
    for held in (True, False):
        if not held:
            monkeypatch.setattr(Heads, "refit", lambda *_: None)
        before, weights = said(), model.policy.mlp_extractor.policy_net[0].weight.clone()
        model.learn(256, reset_num_timesteps=False)
        changes.append((said() - before).norm() / (model.policy.mlp_extractor.policy_net[0].weight - weights).norm())
    assert model.heads.refitted == ["action_net.0", "value_net.0"]
    assert changes[0] < 0.3 * changes[1]


EXCHANGES: dict[str, Callable[[Any], object]] = {
    "action_net": lambda policy: setattr(policy, "action_net", nn.Linear(64, policy.action_net.out_features)),
    "value_net": lambda policy: setattr(policy, "value_net", nn.Linear(64, 1)),
    "log_std": lambda policy: setattr(policy, "log_std", nn.Parameter(policy.log_std.detach() - 0.5)),
}


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_what_the_optimizer_does_not_have_stays_as_it_is(exchange: str) -> None:
    """As under SB3, where `policy.optimizer` still has the old one; and the model can be saved."""
    found = {}
    for algorithm in (PPO, ForwardPPO):
        kwargs = {} if algorithm is PPO else {"local_interval": 1}
        model = small_model(
            ForwardPPO, actions="Box", n_steps=32, hidden_training="backprop" if algorithm is PPO else "local", **kwargs
        )
        model.learn(32)
        EXCHANGES[exchange](model.policy)
        before = parameters_of(model)
        model.learn(64, reset_num_timesteps=False)
        model.save(io.BytesIO())
        found[algorithm] = {name for name in before.keys() - moved(model, before) if name.startswith(exchange)}
    assert found[ForwardPPO] == found[PPO] != set()


NOT_TRAINED: dict[str, Callable[[nn.Linear], nn.Module]] = {
    "exchanged": lambda head: nn.Linear(head.in_features, head.out_features),
    "frozen": lambda head: head.requires_grad_(False),
}


@pytest.mark.parametrize("change", NOT_TRAINED)
@pytest.mark.parametrize("heads", [["action_net"], ["value_net"], ["action_net", "value_net"]])
@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_layers_learn_below_heads_that_do_not(algorithm: Any, wrapped: bool, heads: list[str], change: str) -> None:
    """Also where no head is trained at all, or none on a gradient."""
    model = small_model(algorithm, n_steps=32)
    for name in heads:
        head = NOT_TRAINED[change](getattr(model.policy, name))
        setattr(model.policy, name, nn.Sequential(head, nn.Tanh()) if wrapped else head)
    before = parameters_of(model)
    model.learn(64)
    assert before.keys() - moved(model, before) == {name for name in before if name.split(".")[0] in heads}


class WithoutBias(ForwardPolicy):
    """The bias of the action head is not read."""

    def _get_action_dist_from_latent(self, latent_pi: th.Tensor) -> Any:
        return self.action_dist.proba_distribution(nn.functional.linear(latent_pi, self.action_net.weight))  # type: ignore[arg-type]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_no_loss_reads_does_not_decay(algorithm: Any) -> None:
    """As under SB3, whose optimizer finds no gradient."""
    model = small_model(algorithm, WithoutBias, n_steps=32, policy_kwargs={"optimizer_class": th.optim.AdamW})
    model.policy.action_net.bias.data.fill_(1.0)
    before = parameters_of(model)
    model.learn(64)
    assert before.keys() - moved(model, before) == {"action_net.bias"}


def test_what_heads_read_is_kept_as_it_was_before_their_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are called again when the heads are trained: in every rollout, not only where that is looked at."""
    step, said = HeadTraining.step, []

    def watched(training: HeadTraining, batch: Any, *args: Any) -> bool:
        said.append((evaluate(training.heads, batch), batch))
        return step(training, batch, *args)

    monkeypatch.setattr(HeadTraining, "step", watched)
    model = small_model(ForwardPPO, n_steps=32, batch_size=32, n_epochs=1, hidden_training="frozen", learning_rate=0.01)
    for head in (model.policy.action_net, model.policy.value_net):
        head.register_forward_pre_hook(lambda module, inputs: (0.5 * inputs[0],))
    model.learn(96)
    assert len(said) == 3
    for outputs, batch in said:
        th.testing.assert_close(outputs.log_prob, batch.old_log_prob)
        th.testing.assert_close(outputs.values, batch.old_values)
