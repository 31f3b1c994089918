"""
Pairwise distances and the two local losses of multidimensional scaling (MDS): pure functions of tensors.

A layer is trained to place the rows of a minibatch as far from each other as a *target* says. The target comes from
the layer's inputs, through a *disparity* (MDS's word for a monotone transform of the input dissimilarities), and
optionally from a guidance signal. Both losses come with their gradient with respect to the layer's outputs in closed
form, so that no graph over the B x B matrices is ever built.

Source of the idea: D. Tanneberg, "Local Pairwise Distance Matching for Backpropagation-Free Reinforcement Learning",
ECAI 2025. The losses, their normalisation, the Gaussian disparity and the form of guidance are our choices, after
Kruskal (1964) and Borg & Groenen (2005) for stress, Torgerson (1952) for strain, and Kornblith et al. (2019) for
centred kernel alignment (CKA).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch as th


def pairwise_distances(x: th.Tensor) -> th.Tensor:
    """
    Euclidean distance between every two rows: one matrix product, symmetric, exactly zero on the diagonal and
    between equal rows.

    :param x: (B, d) rows
    :return: (B, B) distances, >= 0; pairs closer than the rounding error of the product count as equal
    """
    x = x - x.mean(dim=0)
    gram = x @ x.T
    squared_norms = gram.diagonal()
    sums = squared_norms[:, None] + squared_norms[None, :]
    squared = sums - 2 * gram
    # The product leaves rounding noise where rows are equal; the square root would make distances of it
    rounding = 32 * th.finfo(x.dtype).eps * sums
    # This way round, NaN stays NaN
    return th.where(squared <= rounding, 0.0, squared).sqrt()


def identity_disparity(distances: th.Tensor) -> th.Tensor:
    """
    Classical MDS: the distances themselves.

    :param distances: (B, B) distances
    :return: (B, B) disparities
    """
    return distances


def gaussian_disparity(distances: th.Tensor) -> th.Tensor:
    """
    Distance in the feature space of a Gaussian kernel, ``sqrt(2 - 2 exp(-d^2 / 2 s^2))`` with the bandwidth ``s`` at
    the median distance of distinct rows (our choice): neighbours are told apart, far pairs are all equally far.

    :param distances: (B, B) distances
    :return: (B, B) disparities in [0, sqrt(2))
    """
    bandwidth = th.where(distances > 0, distances, th.nan).nanmedian().nan_to_num(nan=1.0)
    # -expm1 keeps its digits where the distance is small against the bandwidth
    return (-2 * th.expm1(-0.5 * (distances / bandwidth) ** 2)).sqrt()


def stress_target(disparities: th.Tensor, guidance: th.Tensor | None = None, guidance_coef: float = 0.0) -> th.Tensor:
    """
    What :func:`stress` compares the output distances to: disparities of mean one, mixed with guidance distances of
    mean one.

    :param disparities: (B, B) disparities of the inputs
    :param guidance: (B, B) distances of the guidance signal, or ``None``
    :param guidance_coef: weight of the guidance, in [0, 1]
    :return: (B, B) target, non-negative
    """
    return _mix(_over_mean, disparities, guidance, guidance_coef)


def strain_target(disparities: th.Tensor, guidance: th.Tensor | None = None, guidance_coef: float = 0.0) -> th.Tensor:
    """
    What :func:`strain` compares the output Gram matrix to: the double-centred Gram matrix of the disparities
    (classical scaling, Torgerson 1952), of Frobenius norm one, mixed with that of the guidance distances.

    :param disparities: (B, B) disparities of the inputs
    :param guidance: (B, B) distances of the guidance signal, or ``None``
    :param guidance_coef: weight of the guidance, in [0, 1]
    :return: (B, B) target, positive semi-definite up to rounding, its rows and columns sum to zero
    """
    return _mix(lambda distances: _over_norm(_centred_gram(distances)), disparities, guidance, guidance_coef)


def stress(h: th.Tensor, target: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """
    Normalised raw stress ``mean_ij (D_ij / mean(D) - T_ij)^2`` of the outputs' distances ``D``, and its gradient.

    With ``C = dS/dD / D`` (zero where rows coincide: such pairs have no direction to move in) the gradient is
    ``2 (rowsum(C) h - C h)``.

    :param h: (B, d) outputs
    :param target: (B, B) from :func:`stress_target`
    :return: the loss, a scalar >= 0, and its gradient with respect to ``h``, (B, d)
    """
    distances = pairwise_distances(h)
    mean = distances.mean().clamp_min(th.finfo(h.dtype).tiny)
    scaled = distances / mean
    residual = scaled - target
    # In units of the mean distance: what saturated activations leave of it, squared, would overflow as a divisor
    slope = (2 / residual.numel()) * (residual - (residual * scaled).mean())
    pull = th.where(distances > 0, slope / scaled, 0.0)
    h = h / mean
    return residual.square().mean(), (2 / mean) * (pull.sum(dim=1, keepdim=True) * h - pull @ h)


def strain(h: th.Tensor, target: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """
    Normalised strain ``1 - <K, T> / (||K|| ||T||)`` of the outputs' centred Gram matrix ``K``, and its gradient
    ``2 dL/dK h``, centred: one minus the centred kernel alignment (Kornblith et al. 2019).

    :param h: (B, d) outputs
    :param target: (B, B) from :func:`strain_target`
    :return: the loss, a scalar in [0, 2], and its gradient with respect to ``h``, (B, d); both are zero where outputs
        or target do not vary, since nothing can be matched there
    """
    centred = h - h.mean(dim=0)
    gram = centred @ centred.T
    tiny = th.finfo(h.dtype).tiny
    gram_norm, target_norm = gram.norm(), target.norm()
    gram_unit = gram / gram_norm.clamp_min(tiny)
    target_unit = target / target_norm.clamp_min(tiny)
    alignment = (gram_unit * target_unit).sum()
    varies = ((gram_norm > 0) & (target_norm > 0)).to(h.dtype)
    slope = (alignment * gram_unit - target_unit) * (varies / gram_norm.clamp_min(tiny))
    return (1 - alignment) * varies, 2 * slope @ centred


class LocalLoss(NamedTuple):
    """A local loss: how its target is made of disparities, and how outputs are matched to it."""

    target: Callable[[th.Tensor, th.Tensor | None, float], th.Tensor]
    match: Callable[[th.Tensor, th.Tensor], tuple[th.Tensor, th.Tensor]]


LOCAL_LOSSES = {"stress": LocalLoss(stress_target, stress), "strain": LocalLoss(strain_target, strain)}
DISPARITIES = {"identity": identity_disparity, "gaussian": gaussian_disparity}


def _mix(
    normalise: Callable[[th.Tensor], th.Tensor], disparities: th.Tensor, guidance: th.Tensor | None, guidance_coef: float
) -> th.Tensor:
    if guidance is None or guidance_coef == 0:
        return normalise(disparities)
    return (1 - guidance_coef) * normalise(disparities) + guidance_coef * normalise(guidance)


def _over_mean(distances: th.Tensor) -> th.Tensor:
    return distances / distances.mean().clamp_min(th.finfo(distances.dtype).tiny)


def _over_norm(gram: th.Tensor) -> th.Tensor:
    return gram / gram.norm().clamp_min(th.finfo(gram.dtype).tiny)


def _centred_gram(distances: th.Tensor) -> th.Tensor:
    squared = distances.square()
    means = squared.mean(dim=0)
    return -0.5 * (squared - means[:, None] - means[None, :] + means.mean())
