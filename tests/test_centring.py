"""Centred steps: which layers make them, that they are the optimizer's on centred inputs, and that units stay on."""

import copy
from contextlib import nullcontext
from typing import Any

import pytest
import torch as th
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn
from torch.nn import functional as F

from sb3_forward import ForwardA2C, ForwardPPO
from sb3_forward.local.blocks import Block
from sb3_forward.local.centring import Centring
from sb3_forward.local.loss import Guidance, Objective
from tests.envs import small_model
from tests.test_guided import normal
from tests.test_hidden_phase import hidden_phase, learn
from tests.test_images import Convolutions, cnn_model


class About(nn.Module):
    """A layer ``W (x - m) + b'`` that computes what a linear layer does."""

    def __init__(self, layer: nn.Linear, mean: th.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(layer.weight.detach().clone())
        self.bias = nn.Parameter((layer.bias + layer.weight @ mean).detach())
        self.mean = mean

    def forward(self, inputs: th.Tensor) -> th.Tensor:
        return F.linear(inputs - self.mean, self.weight, self.bias)

    @th.no_grad()
    def move(self, mean: th.Tensor) -> None:
        """Compute the same about another mean."""
        self.bias.add_(self.weight @ (mean - self.mean))
        self.mean = mean


def towards(target: th.Tensor) -> Objective:
    return lambda outputs: ((outputs - target).square().sum() / 2, outputs - target)


# === What a centred step is ===


@pytest.mark.parametrize("activation", [nn.Tanh, nn.SiLU])
@pytest.mark.parametrize("maker", [th.optim.SGD, th.optim.Adam, th.optim.RMSprop])
@pytest.mark.parametrize("max_grad_norm", [1e9, 1e-3])
@pytest.mark.parametrize("parts", [[20], [12, 8]])
def test_steps_are_those_of_a_layer_about_the_mean(
    maker: Any, max_grad_norm: float, activation: type[nn.Module], parts: list[int]
) -> None:
    th.manual_seed(0)
    layers = nn.Sequential(nn.Flatten(), nn.Linear(6, 4), activation()).double()
    about = About(layers[1], th.zeros(6, dtype=th.double))  # type: ignore[arg-type]
    twin = nn.Sequential(nn.Flatten(), about, activation())
    blocks = [Block("extractor.0", "shared", own, own.parameters()) for own in (layers, twin)]
    for block in blocks:
        block.build_optimizer(maker, 1e-2, {})
    assert blocks[0].centring is not None
    target = normal(20, 4, seed=100)
    with blocks[0].centring.watching():
        for step in range(5):
            inputs = normal(20, 2, 3, seed=step) + step
            about.move(inputs.flatten(1).mean(dim=0))
            norms = []
            for block in blocks:
                pairs = zip(inputs.split(parts), target.split(parts), strict=True)
                found = [block.gradients(own, towards(wanted)) for own, wanted in pairs]
                loss = th.stack([part for _, part, _ in found]).sum()
                slopes = tuple(sum(own) for own in zip(*[part for *_, part in found], strict=True))
                norms.append(block.step((), loss, slopes, max_grad_norm).grad_norm)
            assert norms[0] == pytest.approx(norms[1])
            with th.no_grad():
                weight, bias = blocks[0].parameters
                th.testing.assert_close(layers[2](F.linear(inputs.flatten(1), weight, bias)), twin(inputs))


def test_only_what_is_read_within_counts() -> None:
    layers = nn.Sequential(nn.Linear(6, 4), nn.SiLU()).double()
    block = Block("extractor.0", "shared", layers, layers.parameters())
    block.build_optimizer(th.optim.SGD, 1e-2, {})
    assert block.centring is not None
    with block.centring.watching():
        layers(normal(5, 6) + 9)  # and then an update is broken off
    before = block.parameters[0].detach().clone()
    inputs, objective = normal(20, 6) + 3, towards(normal(20, 4, seed=1))
    slope = block.gradients(inputs, objective)[2][0]
    assert slope is not None
    expected = before - 0.01 * slope
    block.local_step(inputs, objective, 1e9)
    th.testing.assert_close(block.parameters[0].detach(), expected)
    assert not layers[0]._forward_pre_hooks


def test_nothing_moves_on_a_loss_that_is_not_finite() -> None:
    layers = nn.Sequential(nn.Linear(6, 4), nn.SiLU())
    block = Block("extractor.0", "shared", layers, layers.parameters())
    block.build_optimizer(th.optim.Adam, 1e-2, {})
    before = copy.deepcopy(layers.state_dict())
    assert block.centring is not None
    with pytest.raises(ValueError, match="is nan"), block.centring.watching():
        block.local_step(th.ones(3, 6), lambda outputs: (outputs.sum() * th.nan, outputs), 1.0)
    assert all(th.equal(own, before[name]) for name, own in layers.state_dict().items())


# === Which layers make them ===


class Functional(BaseFeaturesExtractor):
    """Flattens in its own code, and has a second layer on no maps."""

    def __init__(self, observation_space: Any) -> None:
        super().__init__(observation_space, 5)
        self.maps = nn.Conv2d(3, 2, 3)
        self.flat = nn.Linear(2 * 34 * 34, 7)
        self.top = nn.Linear(7, 5)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        maps = th.relu(self.maps(observations)).flatten(1)
        return th.relu(self.top(th.relu(self.flat(input=maps))))


class NoIntercept(Functional):
    def __init__(self, observation_space: Any) -> None:
        super().__init__(observation_space)
        self.flat = nn.Linear(2 * 34 * 34, 7, bias=False)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[nn.Linear]:
    """Every layer that was watched in a phase."""
    seen: list[nn.Linear] = []
    watching = Centring.watching

    def noted(self: Centring) -> Any:
        seen.append(self.layer)
        return watching(self)

    monkeypatch.setattr(Centring, "watching", noted)
    return seen


@pytest.mark.parametrize("kwargs", [{}, {"guidance_coef": 0.0}])
@pytest.mark.parametrize("algorithm", [ForwardPPO, ForwardA2C])
def test_linear_layers_on_maps_make_them_and_no_others(algorithm: Any, kwargs: Any, watched: list[nn.Linear]) -> None:
    small_model(algorithm, **kwargs).learn(16)
    cnn_model(algorithm, NoIntercept, **kwargs).learn(16)
    assert watched == []
    for extractor, path in ((Convolutions, "out"), (Functional, "flat")):
        model = cnn_model(algorithm, extractor, **kwargs).learn(16)
        assert watched
        assert set(watched) == {model.policy.features_extractor.get_submodule(path)}
        assert not any(module._forward_pre_hooks for module in model.policy.modules())
        watched.clear()


# === What they are for ===


def test_units_stay_on_above_bright_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a layer on pixels of which most are lit in all rows."""

    def learned() -> float:
        th.manual_seed(0)
        model = cnn_model(ForwardPPO, Flat)
        images = th.full((60, 3, 36, 36), 255, dtype=th.uint8)
        images[:, :, 0, 0] = th.randint(255, (60, 3), generator=th.Generator().manual_seed(0), dtype=th.uint8)
        wanted = (images[:, 0, 0, :1] / 255.0).square()
        guidance = {"actor": Guidance.whole(wanted), "critic": Guidance.whole(wanted)}
        block = model.network.blocks[0]
        block.optimizer.param_groups[0]["lr"] = 3e-3
        run = hidden_phase(model, epochs=1)
        for _ in range(20):
            learn(run, images, guidance)
        with th.no_grad():
            return (block.forward(images.float() / 255) > 0).any(dim=0).float().mean().item()

    class Flat(BaseFeaturesExtractor):
        def __init__(self, observation_space: Any) -> None:
            super().__init__(observation_space, 32)
            self.layers = nn.Sequential(nn.Flatten(), nn.Linear(3 * 36 * 36, 32), nn.ReLU())

        def forward(self, observations: th.Tensor) -> th.Tensor:
            return self.layers(observations)

    assert learned() > 0.4
    monkeypatch.setattr(Centring, "watching", nullcontext)
    assert learned() < 0.1
