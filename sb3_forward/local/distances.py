"""
Compute pairwise distances and the two local losses of multidimensional scaling (MDS), as pure functions of tensors.

A layer is trained to place the rows of a minibatch at the distances that a *target* prescribes. The target is computed from
the layer's inputs through a *disparity* (MDS's word for a monotone transform of the input dissimilarities). Both losses come
with their gradient with respect to the layer's outputs in closed form, so that no graph over the B x B matrices is ever built.

Source of the idea: D. Tanneberg, "Local Pairwise Distance Matching for Backpropagation-Free Reinforcement Learning", ECAI
2025. The losses, their normalisation and the Gaussian disparity are our choices, after Kruskal (1964) and Borg & Groenen
(2005) for stress, Torgerson (1952) for strain, and Kornblith et al. (2019) for centred kernel alignment (CKA).
"""

from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import torch as th
from torch.linalg import vector_norm


class Configuration:
    """
    The rows of a minibatch as MDS sees them, up to a translation: centred, with their Gram matrix and their distances.

    The distances are computed once, when they are first read.

    :param x: (B, d) rows
    """

    def __init__(self, x: th.Tensor) -> None:
        self.centred = x - x.mean(dim=0)
        self.gram = self.centred @ self.centred.T

    @classmethod
    def of(cls, x: "th.Tensor | Configuration") -> "Configuration":
        """
        Make the configuration of rows, unless it is one already.

        :param x: (B, d) rows, or their configuration
        :return: the configuration
        """
        return cls(x) if isinstance(x, th.Tensor) else x

    @cached_property
    def distances(self) -> th.Tensor:
        """
        Compute the Euclidean distance between every two rows, (B, B), >= 0.

        The distances come from the Gram matrix. They are symmetric, and exactly zero on the diagonal and between equal rows.
        Pairs closer than the rounding error of the product count as equal.
        """
        squared_norms = self.gram.diagonal()
        sums = squared_norms[:, None] + squared_norms
        squared = th.sub(sums, self.gram, alpha=2)
        # The product leaves rounding noise between equal rows, which the square root would turn into distances
        rounding = sums.mul_(32 * th.finfo(sums.dtype).eps)
        # Written this way round, the comparison is false for NaN, which stays NaN
        return th.where(squared <= rounding, 0.0, squared).sqrt_()


def pairwise_distances(x: th.Tensor) -> th.Tensor:
    """
    Compute the Euclidean distance between every two rows; see :attr:`Configuration.distances`.

    :param x: (B, d) rows
    :return: (B, B) distances, >= 0
    """
    return Configuration(x).distances


def identity_disparity(distances: th.Tensor) -> th.Tensor:
    """
    Return the distances themselves, as in classical MDS.

    :param distances: (B, B) distances
    :return: (B, B) disparities
    """
    return distances


def gaussian_disparity(distances: th.Tensor) -> th.Tensor:
    """
    Compute the distance in the feature space of a Gaussian kernel, ``sqrt(2 - 2 exp(-d^2 / 2 s^2))``.

    The bandwidth ``s`` is the median distance of distinct rows (our choice). Neighbours stay distinct, and all far pairs are
    about equally far apart.

    :param distances: (B, B) distances
    :return: (B, B) disparities in [0, sqrt(2))
    """
    bandwidth = th.where(distances > 0, distances, th.nan).nanmedian().nan_to_num(nan=1.0)
    # expm1 keeps its digits where the distance is small compared with the bandwidth
    return (distances / bandwidth).square_().mul_(-0.5).expm1_().mul_(-2).sqrt_()


def stress_target(distances: th.Tensor) -> th.Tensor:
    """
    Compute the target of :func:`stress`: the distances in units of their mean.

    :param distances: (B, B) disparities of the inputs
    :return: (B, B) target, non-negative, of mean one; zero if all distances are zero
    """
    return distances / distances.mean().clamp_min(th.finfo(distances.dtype).tiny)


def strain_target(distances: th.Tensor) -> th.Tensor:
    """
    Compute the target of :func:`strain`: the double-centred Gram matrix of the distances (classical scaling, Torgerson 1952).

    :param distances: (B, B) disparities of the inputs
    :return: (B, B) target of Frobenius norm one, with rows and columns that sum to zero; zero if all distances are zero
    """
    gram = distances.square()
    means = gram.mean(dim=0)
    gram.sub_(means[:, None]).sub_(means).add_(means.mean()).mul_(-0.5)
    return gram.div_(vector_norm(gram).clamp_min(th.finfo(gram.dtype).tiny))


def stress(h: th.Tensor | Configuration, target: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """
    Compute the normalised raw stress ``mean_ij (D_ij / mean(D) - T_ij)^2`` of the outputs' distances ``D``, and its gradient.

    With ``C = dS/dD / D`` the gradient is ``2 (rowsum(C) h - C h)``. ``C`` is zero where rows coincide, since such pairs have
    no direction to move in.

    :param h: (B, d) outputs, or their configuration
    :param target: (B, B) from :func:`stress_target`
    :return: the loss, a scalar >= 0, and its gradient with respect to ``h``, (B, d)
    """
    h = Configuration.of(h)
    mean = h.distances.mean().clamp_min(th.finfo(h.gram.dtype).tiny)
    scaled = h.distances / mean
    residual = scaled - target
    # In units of the mean distance: with saturated activations it is so small that division by its square would overflow
    slope = (2 / residual.numel()) * (residual - (residual * scaled).mean())
    pull = th.where(h.distances > 0, slope / scaled, 0.0)
    unit = h.centred / mean
    return residual.square().mean(), (2 / mean) * (pull.sum(dim=1, keepdim=True) * unit - pull @ unit)


def strain(h: th.Tensor | Configuration, target: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """
    Compute the normalised strain ``1 - <K, T> / (||K|| ||T||)`` of the outputs' centred Gram matrix ``K``, and its gradient.

    The strain is one minus the centred kernel alignment (Kornblith et al. 2019). The gradient is ``2 dL/dK h``, centred.

    :param h: (B, d) outputs, or their configuration
    :param target: (B, B) from :func:`strain_target`
    :return: the loss, a scalar in [0, 2], and its gradient with respect to ``h``, (B, d); both are zero where outputs or
        target do not vary, since nothing can be matched there
    """
    h = Configuration.of(h)
    tiny = th.finfo(h.gram.dtype).tiny
    gram_norm, target_norm = vector_norm(h.gram), vector_norm(target)
    varies = gram_norm.sign() * target_norm.sign()
    gram_norm = gram_norm.clamp_min(tiny)
    gram_unit, target_unit = h.gram / gram_norm, target / target_norm.clamp_min(tiny)
    alignment = th.dot(gram_unit.flatten(), target_unit.flatten())
    slope = gram_unit.mul_(alignment).sub_(target_unit)
    return (1 - alignment) * varies, (slope @ h.centred).mul_(2 * varies / gram_norm)


class LocalLoss(NamedTuple):
    """A local loss: a function that turns distances into a target, and one that matches outputs to it."""

    target: Callable[[th.Tensor], th.Tensor]
    match: Callable[[th.Tensor | Configuration, th.Tensor], tuple[th.Tensor, th.Tensor]]


LOCAL_LOSSES = {"stress": LocalLoss(stress_target, stress), "strain": LocalLoss(strain_target, strain)}
DISPARITIES = {"identity": identity_disparity, "gaussian": gaussian_disparity}
