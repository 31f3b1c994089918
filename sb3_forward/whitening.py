"""
Whitened coordinates of a linear head's inputs.

What slows the training of a linear model is the correlation of its inputs: the action head's optimizer works in coordinates
without it (our choice).
"""

import torch as th
from torch import nn

# Directions of the features with less than this share of the mean variance are damped, not blown up (our choice)
WHITENING_RIDGE = 0.1


class Whitening:
    """
    The coordinates ``z = features S``, with ``S S^T`` the inverse of the features' ridged second moments.

    :param head: the linear head
    :param features: (N, d) inputs of the head
    :param weights: (N,) of these rows, their sum is one
    """

    def __init__(self, head: nn.Linear, features: th.Tensor, weights: th.Tensor) -> None:
        self.head = head
        moments = features.T @ (weights[:, None] * features)
        # Few rows say little about a covariance: they must not blow up what they do not show
        ridge = (WHITENING_RIDGE + 1 / len(features)) * moments.diagonal().mean()
        ridge = ridge.clamp_min(th.finfo(features.dtype).eps)
        # The ridge goes in first: in single precision the decomposition of a rank-deficient matrix can come out as NaN
        moments.diagonal().add_(ridge)
        eigenvalues, eigenvectors = th.linalg.eigh(moments)
        scales = eigenvalues.clamp_min(ridge).sqrt()
        self.basis = (eigenvectors / scales) @ eigenvectors.T
        self._inverse = (eigenvectors * scales) @ eigenvectors.T

    def coordinates(self, features: th.Tensor) -> th.Tensor:
        """
        :param features: (N, d) inputs of the head
        :return: (N, d) the same in whitened coordinates
        """
        return features @ self.basis

    @th.no_grad()
    def enter(self) -> None:
        """Give the head the weights that say of whitened coordinates what it said of the features."""
        self._plain = self.head.weight.clone()
        self.head.weight.copy_(self._plain @ self._inverse)
        self._entered = self.head.weight.clone()

    @th.no_grad()
    def leave(self) -> None:
        """Give the head back weights for the features; exactly its old ones if no step was taken in between."""
        self.head.weight.copy_(self._plain + (self.head.weight - self._entered) @ self.basis)
