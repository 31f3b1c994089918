"""
Whitened coordinates of a linear head's inputs.

What slows the training of a linear model is the correlation of its inputs: the heads' optimizer works in coordinates
without it (our choice).
"""

import torch as th
from torch import nn

# Directions of the features with less than this share of the mean variance are damped, not blown up (our choice)
WHITENING_RIDGE = 0.1


class Whitening:
    """
    The coordinates ``z = (features - mean) S``, with ``S S^T`` the inverse of the features' ridged covariance.

    :param head: the linear head
    :param features: (N, d) inputs of the head
    :param weights: (N,) of these rows in mean and covariance, their sum is one
    """

    def __init__(self, head: nn.Linear, features: th.Tensor, weights: th.Tensor) -> None:
        self.head = head
        self.mean = weights @ features
        centred = features - self.mean
        covariance = centred.T @ (weights[:, None] * centred)
        variance = covariance.diagonal().mean()
        # Few rows say little about a covariance: they must not blow up what they do not show
        ridge = WHITENING_RIDGE * variance + (self.mean.square().mean() + variance) / len(features)
        ridge = ridge.clamp_min(th.finfo(features.dtype).eps)
        # The ridge goes in first: in single precision the decomposition of a rank-deficient matrix can come out as NaN
        eigenvalues, eigenvectors = th.linalg.eigh(covariance + ridge * th.eye(len(covariance), device=ridge.device))
        deviations = eigenvalues.clamp_min(ridge).sqrt()
        self.basis = (eigenvectors / deviations) @ eigenvectors.T
        self._inverse = (eigenvectors * deviations) @ eigenvectors.T

    def coordinates(self, features: th.Tensor) -> th.Tensor:
        """
        :param features: (N, d) inputs of the head
        :return: (N, d) the same in whitened coordinates
        """
        return (features - self.mean) @ self.basis

    @th.no_grad()
    def enter(self) -> None:
        """Give the head the weights that say of whitened coordinates what it said of the features."""
        weight, bias = self.head.weight, self.head.bias
        self._plain = weight.clone(), bias.clone()
        bias.add_(weight @ self.mean)
        weight.copy_(weight @ self._inverse)
        self._entered = weight.clone(), bias.clone()

    @th.no_grad()
    def leave(self) -> None:
        """Give the head back weights for the features; exactly its old ones if no step was taken in between."""
        weight, bias = self.head.weight, self.head.bias
        change = (weight - self._entered[0]) @ self.basis
        bias.copy_(self._plain[1] + (bias - self._entered[1]) - change @ self.mean)
        weight.copy_(self._plain[0] + change)
