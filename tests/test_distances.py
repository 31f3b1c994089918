import math

import pytest
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st

from sb3_forward.local.distances import (
    DISPARITIES,
    LOCAL_LOSSES,
    gaussian_disparity,
    identity_disparity,
    pairwise_distances,
    strain,
    strain_target,
    stress,
    stress_target,
)


def rows(n: int, d: int, seed: int = 0, dtype: th.dtype = th.float64) -> th.Tensor:
    return th.randn(n, d, generator=th.Generator().manual_seed(seed), dtype=dtype)


def with_equal_rows(x: th.Tensor) -> th.Tensor:
    return th.cat([x, x[:2], x[:1]])


class LossWithClosedForm(th.autograd.Function):
    """Lets gradcheck hold a closed-form gradient against finite differences of its loss."""

    @staticmethod
    def forward(ctx, h, target, match):
        loss, gradient = match(h, target)
        ctx.save_for_backward(gradient)
        return loss

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output * ctx.saved_tensors[0], None, None


OUTPUTS = {
    "plain": rows(7, 3, seed=1),
    "two rows": rows(2, 3, seed=1),
    "one feature": rows(6, 1, seed=1),
    "equal rows": with_equal_rows(rows(5, 3, seed=1)),
    "constant columns": rows(6, 3, seed=1) * th.tensor([1.0, 0.0, 0.0]) + 2.0,
    "far from the origin": rows(6, 3, seed=1) + 100.0,
}


@pytest.mark.parametrize("local_loss", LOCAL_LOSSES)
@pytest.mark.parametrize("disparity", DISPARITIES)
@pytest.mark.parametrize("guidance_coef", [0.0, 0.5])
@pytest.mark.parametrize("outputs", OUTPUTS)
def test_closed_form_gradient(local_loss: str, disparity: str, guidance_coef: float, outputs: str) -> None:
    make_target, match = LOCAL_LOSSES[local_loss]
    h = OUTPUTS[outputs].clone().requires_grad_()
    inputs, signal = rows(len(h), 4, seed=2), rows(len(h), 1, seed=3)
    target = make_target(DISPARITIES[disparity](pairwise_distances(inputs)))
    target = target.lerp(make_target(pairwise_distances(signal)), guidance_coef)
    assert th.autograd.gradcheck(lambda h: LossWithClosedForm.apply(h, target, match), h)


def test_stress_is_its_definition() -> None:
    h, inputs = rows(6, 3, seed=1).requires_grad_(), rows(6, 4, seed=2)
    target = stress_target(th.cdist(inputs, inputs))
    # The square root has no gradient at zero, so autograd must not see the diagonal
    off_diagonal = ~th.eye(6, dtype=th.bool)
    pairs = th.cdist(h, h)[off_diagonal]
    mean = pairs.sum() / 36
    expected = (((pairs / mean - target[off_diagonal]) ** 2).sum()) / 36
    loss, gradient = stress(h.detach(), target)
    assert loss.item() == pytest.approx(expected.item())
    th.testing.assert_close(gradient, th.autograd.grad(expected, h)[0])


def test_strain_is_one_minus_cka() -> None:
    h, inputs = rows(6, 3, seed=1).requires_grad_(), rows(6, 4, seed=2)
    centre = th.eye(6, dtype=th.float64) - 1 / 6
    gram, gram_inputs = centre @ h @ h.T @ centre, centre @ inputs @ inputs.T @ centre
    expected = 1 - (gram * gram_inputs).sum() / (gram.norm() * gram_inputs.norm())
    loss, gradient = strain(h.detach(), strain_target(pairwise_distances(inputs)))
    assert loss.item() == pytest.approx(expected.item())
    th.testing.assert_close(gradient, th.autograd.grad(expected, h)[0])


@pytest.mark.parametrize("local_loss", LOCAL_LOSSES)
def test_matching_is_invariant_and_has_a_minimum(local_loss: str) -> None:
    """Rotated, shifted and scaled copies of the inputs match them perfectly: the loss is zero and so is its gradient."""
    make_target, match = LOCAL_LOSSES[local_loss]
    inputs = rows(8, 3)
    rotation, _ = th.linalg.qr(rows(3, 3, seed=5))
    target = make_target(identity_disparity(pairwise_distances(inputs)))
    loss, gradient = match(7.0 * inputs @ rotation + 3.0, target)
    assert loss.item() == pytest.approx(0.0, abs=1e-12)
    th.testing.assert_close(gradient, th.zeros_like(gradient))
    worse, _ = match(rows(8, 3, seed=9), target)
    assert worse.item() > 0.01


@pytest.mark.parametrize("local_loss", LOCAL_LOSSES)
@pytest.mark.parametrize("disparity", DISPARITIES)
def test_nothing_to_match(local_loss: str, disparity: str) -> None:
    """One row, or rows all equal, have no pairs to match: zero gradient, never NaN."""
    make_target, match = LOCAL_LOSSES[local_loss]
    for h in (rows(1, 3), th.ones(4, 3, dtype=th.float64)):
        target = make_target(DISPARITIES[disparity](pairwise_distances(h)))
        assert not target.any()
        loss, gradient = match(h, target)
        assert loss.item() == 0.0
        assert not gradient.any()
    # Outputs that have collapsed under inputs that have not: no direction to move in, but a finite loss
    target = make_target(DISPARITIES[disparity](pairwise_distances(rows(4, 3))))
    loss, gradient = match(th.ones(4, 3, dtype=th.float64), target)
    assert math.isfinite(loss.item())
    assert not gradient.any()


@pytest.mark.parametrize("dtype", [th.float32, th.float64])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e8])
@pytest.mark.parametrize("offset", [0.0, 10.0])
def test_pairwise_distances(dtype: th.dtype, scale: float, offset: float) -> None:
    x = (with_equal_rows(rows(40, 5, dtype=dtype)) + offset) * scale
    distances = pairwise_distances(x)
    expected = th.cdist(x.double(), x.double(), compute_mode="donot_use_mm_for_euclid_dist")
    # The square root halves the digits of a difference: absolute error at the scale of the data
    th.testing.assert_close(distances.double(), expected, rtol=1e-4, atol=scale * math.sqrt(th.finfo(dtype).eps) * 20)
    assert (distances.diagonal() == 0).all()
    assert (distances[expected == 0] == 0).all()
    th.testing.assert_close(distances, distances.T)


def test_gaussian_disparity() -> None:
    distances = pairwise_distances(rows(9, 3))
    median = distances[~th.eye(9, dtype=th.bool)].median()
    kernel = th.exp(-(distances**2) / (2 * median**2))
    th.testing.assert_close(gaussian_disparity(distances), (2 - 2 * kernel).sqrt())
    # Most pairs equal, as with one-hot observations: the bandwidth must not be zero
    few = pairwise_distances(th.tensor([[0.0], [0.0], [0.0], [0.0], [1.0]]))
    disparities = gaussian_disparity(few)
    assert disparities[0, 4] == pytest.approx(math.sqrt(2 - 2 * math.exp(-0.5)))
    assert disparities[0, 1] == 0


@given(n=st.integers(1, 12), d=st.integers(1, 6), seed=st.integers(0, 1000), repeats=st.booleans())
@settings(max_examples=50, deadline=None)
def test_losses_are_bounded_and_targets_normalised(n: int, d: int, seed: int, repeats: bool) -> None:
    inputs, h = rows(n, d, seed=seed), rows(n, 3, seed=seed + 1)
    if repeats:
        inputs, h = inputs.round(), h.round()
    for disparity in DISPARITIES.values():
        disparities = disparity(pairwise_distances(inputs))
        target = stress_target(disparities)
        assert target.mean().item() == pytest.approx(1.0 if disparities.any() else 0.0)
        assert stress(h, target)[0] >= 0
        gram = strain_target(disparities)
        assert gram.norm().item() == pytest.approx(1.0 if disparities.any() else 0.0)
        assert -1e-9 <= strain(h, gram)[0] <= 2


@pytest.mark.parametrize("local_loss", LOCAL_LOSSES)
@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_losses_do_not_depend_on_the_unit(local_loss: str, scale: float) -> None:
    """In single precision."""
    make_target, match = LOCAL_LOSSES[local_loss]
    target = make_target(pairwise_distances(rows(6, 4, dtype=th.float32)))
    h = rows(6, 3, seed=1, dtype=th.float32)
    (loss, gradient), (scaled_loss, scaled_gradient) = match(h, target), match(scale * h, target)
    th.testing.assert_close(scaled_loss, loss)
    th.testing.assert_close(scale * scaled_gradient, gradient)


def test_tiny_outputs_have_a_finite_gradient() -> None:
    """Saturated activations leave outputs of which the squared distances are hardly numbers."""
    for local_loss in LOCAL_LOSSES.values():
        target = local_loss.target(pairwise_distances(rows(6, 4, dtype=th.float32)))
        for exponent in range(-45, 0):
            loss, gradient = local_loss.match(10.0**exponent * rows(6, 3, seed=1, dtype=th.float32), target)
            assert loss.isfinite(), exponent
            assert gradient.isfinite().all(), exponent
