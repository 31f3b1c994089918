"""
The guided local loss: the distances of a guidance signal, matched by those of a linear image of a block's outputs.

This is multidimensional scaling with linear restrictions (J. de Leeuw and W. J. Heiser, "Multidimensional scaling with
restrictions on the configuration", 1980; I. Borg and P. J. F. Groenen, "Modern multidimensional scaling", 2005). A block has
to contain what the guidance asks for in some directions of its outputs, and is free in all others. For outputs ``h_i`` and
guidance ``g_i`` of the rows i = 1 .. N::

    loss = min_W  mean_ij || (g_i - g_j) - (h_i - h_j) W ||^2 / mean_ij || g_i - g_j ||^2 + ridge || W ||^2 / k

The sum over pairs of rows is a multiple of the sum over centred rows, so no N x N matrix is needed: with guidance of unit
variance, the loss is that of a ridge regression. The penalty does not scale with the outputs. With one that does, the loss is
blind to their scale, and bounded activations drift into saturation. That this loss guides a hidden layer is our choice.

All here are pure functions of tensors.
"""

from typing import NamedTuple

import torch as th

# Penalty on the weights of a linear image: outputs with a variance far above it are not held back (our choice)
IMAGE_RIDGE = 1e-2


class LinearImage(NamedTuple):
    """The linear image ``h W + c`` of a block's outputs that matches the guidance best."""

    weights: th.Tensor  # W, (d, k)
    intercept: th.Tensor  # c, (k,)
    loss: th.Tensor  # scalar in [0, 1], over all rows
    explained: th.Tensor  # scalar in [0, 1]: R2, the share of the variance of the guidance that the image explains


def standardise(guidance: th.Tensor) -> th.Tensor:
    """
    Centre each column of a guidance signal and bring it to unit variance.

    :param guidance: (N, k)
    :return: (N, k); columns that are constant but for rounding are zero
    """
    centred = guidance - guidance.mean(dim=0)
    deviation = centred.square().mean(dim=0).sqrt()
    rounding = 32 * th.finfo(guidance.dtype).eps * guidance.abs().amax(dim=0)
    varies = deviation > rounding
    return th.where(varies, centred / th.where(varies, deviation, 1.0), 0.0)


def linear_image(outputs: th.Tensor, guidance: th.Tensor, ridge: float = IMAGE_RIDGE) -> LinearImage:
    """
    Fit the linear image of a block's outputs to the guidance.

    :param outputs: (N, d)
    :param guidance: (N, k) from :func:`standardise`
    :param ridge: penalty on the squares of the weights, > 0, in units of the variance of an output
    :return: the image
    """
    rows = len(guidance)
    guidance = guidance.to(outputs.dtype)
    mean = outputs.mean(dim=0)
    centred = outputs - mean  # a level that is taken off their products instead would leave its rounding errors there
    gram = centred.T @ centred
    # More units than inputs say the same in several ways: where outputs are large, the penalty alone is below rounding errors
    penalty = ridge * rows + 8 * th.finfo(gram.dtype).eps * gram.diagonal().sum()
    gram.diagonal().add_(penalty)
    cross = centred.T @ guidance
    # Without a check of the solution, which would synchronise a GPU: a step refuses what is not finite
    weights = th.cholesky_solve(cross, th.linalg.cholesky_ex(gram).L)
    total = guidance.square().sum().clamp_min(th.finfo(guidance.dtype).tiny)
    matched = (weights * cross).sum() / total
    return LinearImage(weights, -mean @ weights, 1 - matched, matched + penalty * weights.square().sum() / total)


def guided(outputs: th.Tensor, guidance: th.Tensor, image: LinearImage) -> tuple[th.Tensor, th.Tensor]:
    """
    The guided loss of some of the rows that the image was fitted to, and its gradient. By the envelope theorem, the gradient
    of the minimum over W is that with W held.

    :param outputs: (B, d)
    :param guidance: (B, k) of the same rows, from :func:`standardise`
    :param image: fitted to all rows
    :return: the loss, a scalar >= 0, and its gradient with respect to the outputs, (B, d): of the mean over the B rows and k
        columns
    """
    residual = guidance.to(outputs.dtype) - th.addmm(image.intercept, outputs, image.weights)
    return residual.square().mean(), (residual @ image.weights.T).mul_(-2 / max(residual.numel(), 1))
