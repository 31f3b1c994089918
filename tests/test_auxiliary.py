"""Auxiliary layers: which blocks have one, what it learns, what goes through it, and that it stays with the model."""

import io
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from sb3_forward import ForwardCnnPolicy, ForwardPPO
from sb3_forward.local import phase
from sb3_forward.local.auxiliary import AuxiliaryLayer, AuxiliaryLayers
from sb3_forward.local.blocks import Block
from sb3_forward.local.loss import Guidance, LinearImage, balanced, guided, linear_image, standardise, summarised
from tests.envs import ACTIONS, ALGORITHMS, RandomEnv, small_kwargs, small_model
from tests.test_guided import normal
from tests.test_hidden_phase import hidden_phase, learn, sample, signals
from tests.test_images import Convolutions, cnn_model

CONVOLUTIONS = ["extractor.0", "extractor.1", "extractor.2"]


def layer_on(outputs: th.Tensor) -> AuxiliaryLayer:
    block = Block("extractor.0", "shared", nn.Conv2d(1, 2, 3), [])
    layer = AuxiliaryLayer(block, outputs)
    layer.build_optimizer(th.optim.SGD, 0.1, {})
    return layer


def weights(layers: AuxiliaryLayers) -> dict[str, th.Tensor]:
    return {name: th.cat([own.detach().flatten() for own in layer.parameters]) for name, layer in layers.layers.items()}


# === Which blocks have one ===


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_convolution_that_is_guided_has_one(algorithm: Any) -> None:
    model = cnn_model(algorithm).learn(16)
    assert list(model.auxiliary.layers) == CONVOLUTIONS
    for layer in model.auxiliary.layers.values():
        assert layer.weight.shape == (128, 8 * 12 * 12)
    for kwargs in ({"guidance_coef": 0.0}, {"hidden_training": "frozen"}, {"hidden_training": "backprop"}):
        assert not cnn_model(algorithm, **kwargs).learn(16).auxiliary.layers
    assert not small_model(algorithm).learn(16).auxiliary.layers


def test_layers_are_no_part_of_the_policy() -> None:
    model = cnn_model(ForwardPPO).learn(16)
    kwargs = {name: value for name, value in small_kwargs(ForwardPPO).items() if not name.startswith("local")}
    stock = PPO("CnnPolicy", model.env, policy_kwargs={"features_extractor_class": Convolutions}, **kwargs)
    assert list(model.policy.state_dict()) == list(stock.policy.state_dict())
    assert model.get_parameters().keys() == stock.get_parameters().keys()
    trained = {id(own) for group in model.policy.optimizer.param_groups for own in group["params"]}
    assert not trained & {id(own) for layer in model.auxiliary.layers.values() for own in layer.parameters}


# === What goes through it ===


@pytest.mark.parametrize("share", [1.0, 0.25])
def test_gradients_are_those_of_autograd(share: float) -> None:
    outputs = normal(30, 12).requires_grad_()
    layer = layer_on(outputs.detach())
    with th.no_grad():
        layer.forward[0].bias.copy_(normal(128))  # type: ignore[index]
    target = normal(30, 2, seed=1)
    image = LinearImage(normal(128, 2, seed=2), normal(2, seed=3), th.zeros(()), th.zeros(()))
    expected_loss = (target - image.of(layer.forward(outputs))).square().mean()
    expected, *own = th.autograd.grad(expected_loss, [outputs, *layer.parameters])
    before = [parameter.detach().clone() for parameter in layer.parameters]
    with th.no_grad():
        loss, gradient = layer.through(partial(guided, target=target, image=image), share)(outputs.detach())
    th.testing.assert_close(loss, expected_loss.detach())
    th.testing.assert_close(gradient, expected)
    layer.learn(1e9)
    for parameter, start, slope in zip(layer.parameters, before, own, strict=True):
        th.testing.assert_close(start - parameter.detach(), 0.1 * share * slope)


def test_a_step_is_that_of_all_rows_since_the_last_one() -> None:
    outputs, target = normal(30, 12), normal(30, 2, seed=1)
    image = LinearImage(normal(128, 2, seed=2), normal(2, seed=3), th.zeros(()), th.zeros(()))
    found = []
    for sizes in ([30], [12, 12, 6]):
        th.manual_seed(0)
        layer = layer_on(outputs)
        start = layer.weight.detach().clone()
        for _ in range(2):
            with th.no_grad():
                for some, wanted in zip(outputs.split(sizes), target.split(sizes), strict=True):
                    layer.through(partial(guided, target=wanted, image=image), len(some) / 30)(some)
            layer.learn(0.01)
        found.append(layer.weight.detach() - start)
    th.testing.assert_close(found[0], found[1])
    # Two steps of a gradient that is clipped to 0.01, with a rate of 0.1
    assert 0.001 < found[0].norm().item() <= 0.002 * (1 + 1e-6)


def test_no_weight_moves_on_a_loss_that_is_not_finite() -> None:
    outputs = normal(10, 4)
    layer = layer_on(outputs)
    before = layer.weight.detach().clone()
    with th.no_grad():
        layer.through(lambda units: (units.sum() * th.nan, th.ones_like(units)), 1.0)(outputs)
    with pytest.raises(ValueError, match=r"local loss of block 'extractor\.0\.auxiliary' is nan"):
        layer.learn(0.5)
    assert th.equal(layer.weight, before)
    # The next step is none of these rows
    with th.no_grad():
        layer.through(lambda units: (units.sum(), th.zeros_like(units)), 1.0)(outputs)
    layer.learn(0.5)
    assert th.equal(layer.weight, before)


def test_the_image_is_that_of_its_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """As they are before the pass, for all rows; what is recorded as explained is what these units explain."""
    fitted: list[tuple[th.Tensor, th.Tensor]] = []

    def watched(outputs: th.Tensor, columns: th.Tensor) -> LinearImage:
        fitted.append((outputs.clone(), columns))
        return linear_image(outputs, columns)

    monkeypatch.setattr(phase, "linear_image", watched)
    model = cnn_model(ForwardPPO)
    for block in model.network.blocks:
        block.optimizer.param_groups[0]["lr"] = 0.0
    observations = sample("CnnPolicy", 20)
    run = hidden_phase(model, epochs=1)
    learn(run, observations, signals(20))
    stem = model.network.blocks[0]
    with th.no_grad():
        units = run.auxiliary.layers["extractor.0"].forward(summarised(stem.forward(observations.float() / 255)))
    outputs, columns = fitted[0]
    th.testing.assert_close(outputs, units)
    assert run.records["extractor.0"].explained == pytest.approx(linear_image(units, columns).explained.item())
    assert [own.shape[1] for own, _ in fitted[:4]] == [128, 128, 128, 16]
    # It is the image of what the heads say. That of the layer above, which has no auxiliary layer, is of all that is wanted
    shared = balanced([standardise(own) for own in signals(20).values()])
    th.testing.assert_close(columns, th.cat([shared.said[:, :3], shared.change[:, 3:]], dim=1))
    th.testing.assert_close(fitted[3][1], shared.wanted)


# === What it learns ===


class Corners(BaseFeaturesExtractor):
    """A convolution and a layer."""

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space, 8)
        self.layers = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 8), nn.ReLU())

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.layers(observations)


def test_a_convolution_learns_what_depends_on_the_rest_of_the_image() -> None:
    """Whether one corner or its opposite is lit, but not both: no linear image of the maps says it."""
    env = RandomEnv(spaces.Box(0, 255, (1, 8, 8), th.zeros(0, dtype=th.uint8).numpy().dtype.type), ACTIONS["Discrete"])
    kwargs = {"features_extractor_class": Corners, "net_arch": []}
    model = ForwardPPO(ForwardCnnPolicy, env, policy_kwargs=kwargs, **small_kwargs(ForwardPPO))
    lit = th.randint(2, (400, 2), generator=th.Generator().manual_seed(0))
    images = th.zeros(400, 1, 8, 8, dtype=th.uint8)
    images[:, 0, :3, :3] = 255 * lit[:, 0, None, None].byte()
    images[:, 0, -3:, -3:] = 255 * lit[:, 1, None, None].byte()
    wanted = (lit[:, :1] ^ lit[:, 1:]).float()
    guidance = {"actor": Guidance.whole(wanted), "critic": Guidance.whole(wanted)}
    for block in model.network.blocks:
        assert block.optimizer is not None
        block.optimizer.param_groups[0]["lr"] = 3e-3
    run = hidden_phase(model, epochs=1, batch_size=50)
    for _ in range(20):
        learn(run, images, guidance)
    with th.no_grad():
        maps = model.network.blocks[0].forward(images.float() / 255)
    assert run.records["extractor.0"].explained > 0.9
    assert run.records["extractor.1"].explained > 0.9
    assert linear_image(summarised(maps), wanted - wanted.mean()).explained < 0.1
    assert run.records["extractor.0"].movement > 0


@pytest.mark.parametrize("optimizer", [th.optim.Adam, th.optim.SGD])
def test_it_learns_as_its_block_does(optimizer: Any) -> None:
    """With an optimizer like the policy's, at the rate of the blocks."""
    kwargs = {"features_extractor_class": Convolutions, "optimizer_class": optimizer}
    model = small_model(ForwardPPO, "CnnPolicy", local_learning_rate=lambda left: 0.01 * (left + 1), policy_kwargs=kwargs)
    model.learn(32)
    for block in model.network.blocks[:3]:
        layer = model.auxiliary.layers[block.name]
        assert type(layer.optimizer) is optimizer
        assert layer.optimizer.param_groups[0]["lr"] == block.optimizer.param_groups[0]["lr"] == 0.01
        assert layer.role == block.role == "shared"
    before = weights(model.auxiliary)
    model.learn(16, reset_num_timesteps=False)
    assert all((new - before[name]).norm() > 0 for name, new in weights(model.auxiliary).items())


@pytest.mark.parametrize("guidance_coef", [0.5, 1.0])
def test_steps_in_parts_move_it_as_those_of_the_whole_minibatch(guidance_coef: float) -> None:
    found = []
    kwargs = {"features_extractor_class": Convolutions, "optimizer_class": th.optim.SGD}
    # Some brighter than others, or all rows would switch a unit on or off together
    images = (sample("CnnPolicy", 32) * th.linspace(0, 1, 32)[:, None, None, None]).byte()
    for rows in (512, 5):
        model = small_model(
            ForwardPPO, "CnnPolicy", local_learning_rate=0.1, policy_kwargs=kwargs, guidance_coef=guidance_coef
        )
        model.network.pass_rows = rows
        run = hidden_phase(model, epochs=1, batch_size=16)
        th.manual_seed(0)
        learn(run, images, signals(32))
        found.append(weights(run.auxiliary))
    for name in CONVOLUTIONS:
        th.testing.assert_close(found[0][name], found[1][name], rtol=1e-2, atol=1e-4)


# === It stays ===


def test_it_is_kept_from_phase_to_phase_while_it_fits() -> None:
    block, policy = (
        Block("extractor.0", "shared", nn.Conv2d(1, 2, 3), nn.Conv2d(1, 2, 3).parameters()),
        small_model(ForwardPPO),
    )
    block.build_optimizer(th.optim.SGD, 0.1, {})
    layers, outputs = AuxiliaryLayers(), normal(5, 4)
    layer = layers.of(policy.policy, block, outputs)
    assert layers.of(policy.policy, block, outputs[:2]) is layer
    for others in (outputs.float(), normal(5, 6)):
        other = layers.of(policy.policy, block, others)
        assert other is not layer
        assert other.forward(others).shape == (5, 128)
    assert "extractor.0" in repr(layers)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_it_is_saved_with_the_model(tmp_path: Path, algorithm: Any) -> None:
    model = cnn_model(algorithm).learn(32)
    model.save(tmp_path / "model")
    loaded: Any = algorithm.load(tmp_path / "model", env=model.env, device="cpu")
    before = weights(model.auxiliary)
    assert list(before) == CONVOLUTIONS
    for name, value in weights(loaded.auxiliary).items():
        assert th.equal(value, before[name])
        own, other = (of.auxiliary.layers[name].optimizer.state_dict() for of in (model, loaded))
        assert own["state"]
        th.testing.assert_close(own["state"], other["state"])
    # Both learn on, each its own
    loaded.learn(16)
    assert all((new - before[name]).norm() > 0 for name, new in weights(loaded.auxiliary).items())
    assert all(th.equal(new, before[name]) for name, new in weights(model.auxiliary).items())


def test_a_file_of_a_model_on_a_gpu_holds_tensors_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    devices = []
    load = th.load

    def watched(file: io.BytesIO, **kwargs: Any) -> Any:
        devices.append(kwargs["map_location"])
        return load(file, **kwargs)

    monkeypatch.setattr(th, "load", watched)
    layers = cnn_model(ForwardPPO).learn(16).auxiliary
    layers.__getstate__()
    assert devices == [th.device("cpu")]


def test_what_a_broken_update_has_left_is_no_part_of_the_next() -> None:
    """A loss that is not finite ends an update before the layer's own step."""
    found = []
    for broken in (True, False):
        model = cnn_model(ForwardPPO)
        run = hidden_phase(model, epochs=1)
        images = sample("CnnPolicy", 32)
        learn(run, images, signals(32))
        layer = run.auxiliary.layers["extractor.0"]
        if broken:
            with th.no_grad():
                layer.through(lambda units: (units.sum(), th.ones_like(units)), 1.0)(layer.weight.new_ones(4, 8 * 12 * 12))
        th.manual_seed(0)
        learn(run, images, signals(32))
        found.append(weights(run.auxiliary)["extractor.0"])
    th.testing.assert_close(found[0], found[1])
