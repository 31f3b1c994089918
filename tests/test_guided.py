"""The guided loss, against its formula pair by pair and against autograd, in double precision."""

import math
from functools import partial

import pytest
import torch as th
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sb3_forward.local.blocks import Block
from sb3_forward.local.loss import (
    GRID,
    IMAGE_RIDGE,
    Guidance,
    LinearImage,
    guided,
    linear_image,
    own_target,
    standardise,
    summarised,
)
from tests.envs import DEVICES


def normal(*shape: int, seed: int = 0) -> th.Tensor:
    return th.randn(*shape, generator=th.Generator().manual_seed(seed), dtype=th.float64)


def in_units(columns: th.Tensor) -> th.Tensor:
    return standardise(Guidance.whole(columns)).change


def mixed(outputs: th.Tensor, columns: int) -> th.Tensor:
    """Guidance that the outputs explain in part."""
    explained = outputs @ normal(outputs.shape[1], columns, seed=1) / math.sqrt(outputs.shape[1])
    return in_units(explained + normal(len(outputs), columns, seed=2))


def differences(rows: th.Tensor) -> th.Tensor:
    """Of every row to every other, one pair a row."""
    return (rows[:, None] - rows[None, :]).flatten(end_dim=1)


def loss_of_pairs(outputs: th.Tensor, guidance: th.Tensor, weights: th.Tensor) -> th.Tensor:
    """The formula, before it is minimised."""
    missing = (differences(guidance) - differences(outputs) @ weights).square().sum(dim=1).mean()
    unit = differences(guidance).square().sum(dim=1).mean()
    return missing / unit + IMAGE_RIDGE * weights.square().sum() / guidance.shape[1]


def best_weights(outputs: th.Tensor, guidance: th.Tensor) -> th.Tensor:
    """Where the formula has no slope: autograd goes through it."""
    h, g = differences(outputs), differences(guidance)
    unit = g.square().sum()
    penalty = IMAGE_RIDGE / guidance.shape[1] * th.eye(h.shape[1], dtype=h.dtype)
    return th.linalg.solve(h.T @ h / unit + penalty, h.T @ g / unit)


CASES = {
    "plain": normal(50, 6),
    "more columns than rows": normal(10, 30),
    "far from zero": normal(30, 4) + 100,
    "identical rows": normal(5, 4).repeat(6, 1),
    "identical columns": normal(30, 1).repeat(1, 5),
    "a column that is constant": th.cat([normal(30, 3), th.ones(30, 1, dtype=th.float64)], dim=1),
}


@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("case", CASES)
def test_loss_is_that_of_all_pairs_of_rows(case: str, columns: int) -> None:
    outputs = CASES[case]
    guidance = mixed(outputs, columns)
    image = linear_image(outputs, guidance)
    th.testing.assert_close(image.weights, best_weights(outputs, guidance))
    th.testing.assert_close(image.loss, loss_of_pairs(outputs, guidance, image.weights))
    # No other image is better
    for seed in range(3):
        other = image.weights + 0.01 * normal(*image.weights.shape, seed=seed)
        assert loss_of_pairs(outputs, guidance, other) > image.loss


@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("case", CASES)
def test_gradient_is_that_of_the_minimum(case: str, columns: int) -> None:
    """Over all rows, also through the weights: by the envelope theorem, these have no part in it."""
    outputs = CASES[case].clone().requires_grad_()
    guidance = mixed(CASES[case], columns)
    (expected,) = th.autograd.grad(loss_of_pairs(outputs, guidance, best_weights(outputs, guidance)), outputs)
    image = linear_image(CASES[case], guidance)
    loss, gradient = guided(CASES[case], guidance, image)
    th.testing.assert_close(gradient, expected)
    # Its penalty apart, it is the loss
    th.testing.assert_close(loss, image.loss - IMAGE_RIDGE * image.weights.square().sum() / columns)


def test_gradient_of_some_rows_is_that_of_their_mean() -> None:
    outputs = normal(50, 6)
    guidance = mixed(outputs, 3)
    image = linear_image(outputs, guidance)
    # What the rows say has moved since the image was fitted
    batch, rows = (outputs[10:17] + 0.1 * normal(7, 6, seed=3)).requires_grad_(), slice(10, 17)
    expected = (guidance[rows] - batch @ image.weights - image.intercept).square().mean()
    (slope,) = th.autograd.grad(expected, batch)
    loss, gradient = guided(batch.detach(), guidance[rows], image)
    th.testing.assert_close(loss, expected.detach())
    th.testing.assert_close(gradient, slope)


def test_explained_is_the_share_of_the_variance() -> None:
    outputs = normal(200, 6)
    guidance = mixed(outputs, 3)
    image = linear_image(outputs, guidance, ridge=1e-9)
    missing = guidance - outputs @ image.weights - image.intercept
    assert image.explained.item() == pytest.approx(1 - missing.square().sum().item() / guidance.square().sum().item())
    assert 0.2 < image.explained < 0.8
    # Of what the penalty costs, none is explained
    image = linear_image(outputs, guidance, ridge=1.0)
    missing = guidance - outputs @ image.weights - image.intercept
    assert image.explained.item() == pytest.approx(1 - missing.square().sum().item() / guidance.square().sum().item())


def test_all_is_explained_or_nothing() -> None:
    outputs = normal(300, 6)
    assert linear_image(outputs, in_units(outputs[:, :2])).explained > 0.99
    assert linear_image(outputs, in_units(normal(300, 2, seed=1))).explained < 0.1


@given(st.integers(1, 20), st.integers(1, 8), st.integers(1, 4), st.integers(0, 99), st.floats(-4, 4))
def test_losses_and_shares_are_bounded(rows: int, width: int, columns: int, seed: int, exponent: float) -> None:
    outputs, guidance = 10**exponent * normal(rows, width, seed=seed), in_units(normal(rows, columns, seed=seed + 100))
    image = linear_image(outputs, guidance)
    loss, gradient = guided(outputs, guidance, image)
    for value in (image.loss, image.explained, loss):
        assert -1e-6 <= value <= 1 + 1e-6
    assert image.loss >= 1 - image.explained - 1e-6
    assert gradient.isfinite().all()


# === Where there is nothing to learn from ===


def assert_nothing_to_learn(image: LinearImage, gradient: th.Tensor) -> None:
    assert image.loss == 1
    assert image.explained == 0
    assert th.equal(image.weights, th.zeros_like(image.weights))
    assert th.equal(gradient, th.zeros_like(gradient))


@pytest.mark.parametrize("dtype", [th.float32, th.float64])
def test_one_row_teaches_nothing(dtype: th.dtype) -> None:
    outputs, guidance = normal(1, 4).to(dtype), in_units(normal(1, 2).to(dtype))
    image = linear_image(outputs, guidance)
    assert_nothing_to_learn(image, guided(outputs, guidance, image)[1])


@pytest.mark.parametrize("dtype", [th.float32, th.float64])
@pytest.mark.parametrize("level", [0.0, 0.1, -1e6])
def test_constant_guidance_teaches_nothing(dtype: th.dtype, level: float) -> None:
    outputs = normal(20, 4).to(dtype)
    guidance = in_units(th.full((20, 2), level, dtype=dtype))
    image = linear_image(outputs, guidance)
    assert_nothing_to_learn(image, guided(outputs, guidance, image)[1])


def test_a_column_that_is_constant_changes_nothing_but_the_mean_over_columns() -> None:
    outputs = normal(30, 4)
    guidance = mixed(outputs, 2)
    image = linear_image(outputs, guidance)
    wider = th.cat([guidance, in_units(th.full((30, 1), 0.3, dtype=th.float64))], dim=1)
    wider_image = linear_image(outputs, wider)
    th.testing.assert_close(wider_image.weights[:, :2], image.weights)
    assert wider_image.weights[:, 2].abs().max() == 0
    th.testing.assert_close((wider_image.loss, wider_image.explained), (image.loss, image.explained))
    loss, gradient = guided(outputs, guidance, image)
    th.testing.assert_close(guided(outputs, wider, wider_image), (2 / 3 * loss, 2 / 3 * gradient))


def test_outputs_that_are_all_equal_explain_nothing() -> None:
    outputs, guidance = normal(1, 4).repeat(20, 1), in_units(normal(20, 2))
    image = linear_image(outputs, guidance)
    loss, gradient = guided(outputs, guidance, image)
    assert image.explained.item() == pytest.approx(0, abs=1e-12)
    assert loss.item() == pytest.approx(1)
    assert gradient.abs().max() < 1e-12


def test_no_rows_have_no_gradient() -> None:
    outputs = normal(20, 4)
    guidance = mixed(outputs, 2)
    assert guided(outputs[:0], guidance[:0], linear_image(outputs, guidance))[1].shape == (0, 4)


# === The penalty ===


def test_a_block_that_has_collapsed_is_drawn_apart() -> None:
    """
    The penalty does not scale with the outputs. Were it relative to their variance, the loss would be blind to their scale,
    and bounded activations would drift into saturation.
    """
    outputs = normal(300, 6)
    guidance = in_units(outputs @ normal(6, 1, seed=1))

    def learned(scale: float) -> tuple[float, th.Tensor]:
        image = linear_image(scale * outputs, guidance)
        return image.explained.item(), guided(scale * outputs, guidance, image)[1]

    healthy, small = learned(1.0)
    collapsed, large = learned(1e-3)
    assert healthy > 0.95
    assert collapsed < 0.01
    assert large.norm() > 3 * small.norm()
    for scale in (1.0, 0.1, 1e-3):
        # Against the gradient is away from the mean
        centred = outputs - outputs.mean(dim=0)
        gradient = learned(scale)[1]
        assert -(gradient * centred).sum() > 1e-3 * gradient.norm() * centred.norm()


def test_the_penalty_is_the_same_for_any_number_of_rows() -> None:
    outputs = normal(30, 6)
    guidance = mixed(outputs, 2)
    once, twice = linear_image(outputs, guidance), linear_image(outputs.repeat(2, 1), guidance.repeat(2, 1))
    th.testing.assert_close(tuple(once), tuple(twice))


def test_level_of_the_outputs_does_not_matter() -> None:
    outputs = normal(30, 6)
    guidance = mixed(outputs, 2)
    here, there = linear_image(outputs, guidance), linear_image(outputs + 7, guidance)
    th.testing.assert_close(here.weights, there.weights)
    th.testing.assert_close(outputs @ here.weights + here.intercept, (outputs + 7) @ there.weights + there.intercept)
    assert (outputs @ here.weights + here.intercept).mean(dim=0).abs().max() < 1e-12


# === What a block has to match ===


def test_a_block_matches_its_own_image_and_the_change() -> None:
    """What its outputs do not explain of what is said is left out; of the change, nothing is."""
    outputs = normal(60, 6)
    guidance = standardise(Guidance(normal(60, 3, seed=4), 0.1 * normal(60, 3, seed=5)))
    image = linear_image(outputs, guidance.wanted)
    target = own_target(outputs, guidance, image)
    assert image.explained < 0.5
    th.testing.assert_close(target, outputs @ image.weights + image.intercept + guidance.change)


def test_the_gradient_is_that_of_the_change() -> None:
    """However much a head says that the outputs do not explain."""
    outputs, change = normal(400, 6), 0.1 * normal(400, 2, seed=5)
    said = outputs @ normal(6, 2, seed=1) + 3 * normal(400, 2, seed=2)
    guidance = standardise(Guidance(said, change))
    image = linear_image(outputs, guidance.wanted)
    target = own_target(outputs, guidance, image)
    loss, gradient = guided(outputs, target, image)
    th.testing.assert_close(gradient, -2 / 800 * guidance.change @ image.weights.T)
    assert loss.item() == pytest.approx(guidance.change.square().mean().item())
    assert loss < 0.01


def test_a_head_that_says_nothing_is_matched_in_all_that_is_wanted() -> None:
    outputs, wanted = normal(60, 6), normal(60, 2, seed=4)
    guidance = standardise(Guidance.whole(wanted))
    image = linear_image(outputs, guidance.wanted)
    assert th.equal(own_target(outputs, guidance, image), in_units(wanted))
    # Beside a head that says something
    both = standardise(Guidance(th.cat([wanted, 0 * wanted], dim=1), th.cat([0 * wanted, wanted], dim=1)))
    image = linear_image(outputs, both.wanted)
    target = own_target(outputs, both, image)
    th.testing.assert_close(target[:, :2], image.of(outputs)[:, :2])
    th.testing.assert_close(target[:, 2:], both.change[:, 2:])


# === Standardised guidance ===


def test_guidance_is_centred_and_what_is_wanted_of_unit_variance() -> None:
    """In the mean over its columns: their distances keep their ratios."""
    level, scale = th.tensor([5.0, -7.0, 0.0], dtype=th.float64), th.tensor([0.5, 1.0, 4.0], dtype=th.float64)
    given = Guidance(normal(50, 3) * scale + level, 0.1 * normal(50, 3, seed=1) + 2)
    found = standardise(given)
    for part in found:
        th.testing.assert_close(part.mean(dim=0), th.zeros(3, dtype=th.float64))
    th.testing.assert_close(found.wanted, found.said + found.change)
    assert found.wanted.square().mean().item() == pytest.approx(1)
    ratios = [(own - own.mean(dim=0)) / part for own, part in zip(given, found, strict=True)]
    th.testing.assert_close(th.cat(ratios), ratios[0][0, 0].expand(100, 3))


def test_rounding_noise_is_no_guidance() -> None:
    guidance = th.full((1000, 1), 1e4) + 1e-3 * th.randn(1000, 1, generator=th.Generator().manual_seed(0))
    assert in_units(guidance).abs().max() == 0
    # What is far above it is
    assert in_units(th.full((1000, 1), 1e4) + th.arange(1000)[:, None]).abs().max() > 1


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", CASES)
def test_single_precision_is_enough(case: str, device: str) -> None:
    outputs = CASES[case]
    guidance = mixed(outputs, 3)
    exact = linear_image(outputs, guidance)
    single = linear_image(outputs.float().to(device), guidance.float().to(device))
    for found, expected in zip(single, exact, strict=True):
        th.testing.assert_close(found.cpu().double(), expected, rtol=1e-3, atol=1e-4)
    _, gradient = guided(outputs.float().to(device), guidance.float().to(device), single)
    expected = guided(outputs, guidance, exact)[1]
    assert gradient.device.type == device
    assert (gradient.cpu() - expected).norm() < 5e-3 * expected.norm()


@pytest.mark.parametrize("level", [1e3, 1e4])
def test_outputs_far_from_zero_are_no_less_understood(level: float) -> None:
    """As those of rectified units above large observations are: products of such numbers have lost what varies."""
    outputs = normal(2048, 64) + level
    guidance = mixed(outputs - level, 1)
    exact, single = linear_image(outputs, guidance), linear_image(outputs.float(), guidance.float())
    assert single.explained.item() == pytest.approx(exact.explained.item(), abs=1e-3)
    gradient, expected = (
        guided(*given)[1] for given in ((outputs.float(), guidance.float(), single), (outputs, guidance, exact))
    )
    assert (gradient - expected).norm() < 0.01 * expected.norm()


@pytest.mark.parametrize("scale", [1.0, 30.0, 300.0, 1e4, 1e12])
def test_large_outputs_of_few_dimensions_are_no_less_understood(scale: float) -> None:
    """Units that say the same in other words, with a penalty that is lost among rounding errors."""
    inputs = normal(512, 30)
    outputs, guidance = scale * inputs @ normal(30, 512, seed=1), mixed(inputs, 1)
    single = linear_image(outputs.float(), guidance.float())
    exact = linear_image(inputs, guidance, ridge=1e-9).explained.item()
    assert single.explained.item() == pytest.approx(exact, abs=0.01)
    loss, gradient = guided(outputs.float(), guidance.float(), single)
    assert loss.item() == pytest.approx(1 - exact, abs=0.01)
    assert gradient.isfinite().all()


# === Feature maps ===


@pytest.mark.parametrize(("side", "cell"), [(9, 1), (14, 1), (17, 2), (20, 2), (28, 3)])
def test_feature_maps_are_compared_by_means_over_a_grid(side: int, cell: int) -> None:
    maps = normal(5, 3, side, 4)
    rows = [maps[:, :, first : first + cell].mean(dim=2) for first in range(0, side, cell)]
    assert len(rows) <= 1.5 * GRID
    # Channels last
    th.testing.assert_close(summarised(maps), th.stack(rows, dim=1).mT.flatten(start_dim=1))
    th.testing.assert_close(summarised(maps.mT), th.stack(rows, dim=3).movedim(1, -1).flatten(start_dim=1))


@pytest.mark.parametrize("shape", [(4, 5, 3), (2, 18, 3), (1, 18, 21)])
def test_gradient_of_feature_maps_is_that_of_the_minimum(shape: tuple[int, ...]) -> None:
    maps = normal(60, *shape)
    scale = nn.Parameter(normal(*shape, seed=1))
    means = summarised(maps * scale)
    guidance = mixed(means.detach(), 2)
    (expected,) = th.autograd.grad(loss_of_pairs(means, guidance, best_weights(means, guidance)), scale)
    objective = partial(guided, target=guidance, image=linear_image(means.detach(), guidance))
    outputs, _, (gradient,) = Block("scale", "shared", lambda inputs: inputs * scale, [scale]).gradients(maps, objective)
    assert isinstance(outputs, th.Tensor)
    assert th.equal(outputs, maps * scale)
    th.testing.assert_close(gradient, expected)


def test_what_is_compared_of_several_outputs_is_all_of_them() -> None:
    first, second = normal(40, 3).float(), normal(40, 2, seed=1).float()
    expected = th.cat([first, second], dim=1)
    assert th.equal(summarised((first, second)), expected)
    assert th.equal(summarised({"a": first, "b": second}), expected)
    assert th.equal(summarised(first), first)
    assert summarised((first.double(), second.double())).dtype == th.double


# === What comes of it ===


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
def test_steps_against_the_gradient_raise_what_is_explained(activation: type[nn.Module]) -> None:
    """A layer comes to contain what it could not say by a linear map of its inputs."""
    th.manual_seed(0)
    inputs = normal(400, 3)
    guidance = in_units(inputs[:, :1] * inputs[:, 1:2])
    layer = nn.Sequential(nn.Linear(3, 8), activation()).double()
    assert linear_image(inputs, guidance).explained < 0.1
    explained = []
    for _ in range(300):
        outputs = layer(inputs)
        image = linear_image(outputs.detach(), guidance)
        explained.append(image.explained.item())
        gradients = th.autograd.grad(outputs, list(layer.parameters()), guided(outputs.detach(), guidance, image)[1])
        with th.no_grad():
            for parameter, gradient in zip(layer.parameters(), gradients, strict=True):
                parameter.sub_(gradient)
    assert explained[-1] > explained[0] + 0.25
