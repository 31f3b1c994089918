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
from sb3_forward.local.loss import Guidance
from tests.envs import small_model
from tests.test_hidden_phase import hidden_phase, learn, sample, signals
from tests.test_images import cnn_model


def normal(*shape: int, seed: int = 0) -> th.Tensor:
    return th.randn(*shape, generator=th.Generator().manual_seed(seed), dtype=th.double)


class About(nn.Module):
    """A layer ``W (x - m) + b'`` that computes what a linear layer does."""

    def __init__(self, layer: nn.Linear, mean: th.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(layer.weight.detach().clone())
        self.bias = nn.Parameter((layer.bias + layer.weight @ mean).detach())
        self.mean = mean

    def forward(self, inputs: th.Tensor) -> th.Tensor:
        return F.linear(inputs - self.mean, self.weight, self.bias)


# === What a centred step is ===


@pytest.mark.parametrize("activation", [nn.Tanh, nn.SiLU])  # with and without a graph
@pytest.mark.parametrize("maker", [th.optim.SGD, th.optim.Adam, th.optim.RMSprop])
@pytest.mark.parametrize("max_grad_norm", [1e9, 1e-3])
def test_steps_are_those_of_a_layer_about_the_mean(maker: Any, max_grad_norm: float, activation: type[nn.Module]) -> None:
    th.manual_seed(0)
    inputs, target = normal(20, 6) + 3, normal(20, 4, seed=1)
    layers = nn.Sequential(nn.Linear(6, 4), activation()).double()
    twin = nn.Sequential(About(layers[0], inputs.mean(dim=0)), activation())  # type: ignore[arg-type]
    blocks = [Block("extractor.0", "shared", own, own.parameters()) for own in (layers, twin)]
    assert blocks[0].centring is not None
    with blocks[0].centring.watching():
        for part in inputs.split([12, 8]):
            layers(part)
    for _ in range(5):
        norms = []
        for block in blocks:
            if block.optimizer is None:
                block.build_optimizer(maker, 1e-2, {})
            objective = lambda outputs: ((outputs - target).square().sum() / 2, outputs - target)  # noqa: E731
            norms.append(block.local_step(inputs, objective, max_grad_norm).grad_norm)
        assert norms[0] == pytest.approx(norms[1])
        th.testing.assert_close(layers(inputs), twin(inputs))
        th.testing.assert_close(layers(inputs + 1), twin(inputs + 1))


def test_nothing_moves_on_a_loss_that_is_not_finite() -> None:
    layers = nn.Sequential(nn.Linear(6, 4), nn.Tanh())
    block = Block("extractor.0", "shared", layers, layers.parameters())
    block.build_optimizer(th.optim.Adam, 1e-2, {})
    assert block.centring is not None
    with block.centring.watching():
        layers(th.ones(3, 6))
    before = copy.deepcopy(layers.state_dict())
    with pytest.raises(ValueError, match="is nan"):
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
        return th.relu(self.top(th.relu(self.flat(maps))))


class NoIntercept(Functional):
    def __init__(self, observation_space: Any) -> None:
        super().__init__(observation_space)
        self.flat = nn.Linear(2 * 34 * 34, 7, bias=False)


def centred(model: Any) -> list[str]:
    own = {block.name: block.centring for block in model.network.blocks}
    return [name for name, centring in own.items() if centring is not None and centring.mean is not None]


@pytest.mark.parametrize("algorithm", [ForwardPPO, ForwardA2C])
def test_linear_layers_on_maps_make_them_and_no_others(algorithm: Any) -> None:
    assert centred(small_model(algorithm).learn(16)) == []
    assert centred(cnn_model(algorithm).learn(16)) == ["extractor.3"]
    assert centred(cnn_model(algorithm, NoIntercept).learn(16)) == []
    model = cnn_model(algorithm, Functional).learn(16)
    assert centred(model) == ["extractor.1"]
    assert [layer.centring.mean for layer in model.auxiliary.layers.values()] == [None]


def test_the_mean_is_that_of_all_rows_on_the_inputs_of_the_pass() -> None:
    model = cnn_model(ForwardPPO)
    model.network.pass_rows = 3
    for block in model.network.blocks:
        block.optimizer.param_groups[0]["lr"] = 0.0
    observations = sample("CnnPolicy", 20)
    run = hidden_phase(model)
    learn(run, observations, signals(20))
    with th.no_grad():
        maps = observations.float() / 255
        for block in model.network.blocks[:3]:
            maps = block.forward(maps)
    th.testing.assert_close(model.network.blocks[3].centring.mean, maps.flatten(1).mean(dim=0))
    assert not any(module._forward_pre_hooks for module in model.policy.modules())


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
