"""
Whiten the inputs of a linear head.

Correlated inputs slow down the training of a linear model, so the action head's optimizer works in coordinates without
correlation (our choice).
"""

from typing import NamedTuple

import torch as th
from stable_baselines3.common.distributions import DiagGaussianDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn
from torch.distributions import Normal

# Directions of the features with less than this share of the mean square are damped, not amplified (our choice)
WHITENING_RIDGE = 0.1


class Basis(NamedTuple):
    """The basis of the coordinates ``z = features S``."""

    whitening: th.Tensor  # S, (d, d), symmetric
    inverse: th.Tensor  # of S, (d, d)

    @classmethod
    def of(cls, moments: th.Tensor, rows: int) -> "Basis":
        """
        Compute the basis from second moments.

        :param moments: (d, d) second moments of features, overwritten
        :param rows: number of rows that the moments are a mean of
        :return: ``S`` with ``S S^T`` the inverse of the ridged moments
        """
        # Few rows determine a covariance poorly: directions that they hardly show must not be amplified
        ridge = (WHITENING_RIDGE + 1 / rows) * moments.diagonal().mean()
        ridge = ridge.clamp_min(th.finfo(moments.dtype).eps)
        # The ridge goes in first: in single precision the decomposition of a rank-deficient matrix can come out as NaN
        moments.diagonal().add_(ridge)
        eigenvalues, eigenvectors = th.linalg.eigh(moments)
        scales = eigenvalues.clamp_min(ridge).sqrt()
        return cls((eigenvectors / scales) @ eigenvectors.T, (eigenvectors * scales) @ eigenvectors.T)


class Whitening:
    """
    A linear head in whitened coordinates of its inputs and in units of its outputs.

    :param head: the linear head
    :param basis: basis of the coordinates
    :param scale: (k,) unit of each output, > 0: the standard deviation for the means of Gaussian actions; None for logits
    """

    def __init__(self, head: nn.Linear, basis: Basis, scale: th.Tensor | None) -> None:
        self.head = head
        self.scale = scale
        self.basis = basis.whitening
        self._plain = head.weight.detach().clone(), head.bias.detach().clone()
        weight, bias = self._plain[0] @ basis.inverse, self._plain[1]
        if scale is not None:
            weight, bias = weight / scale[:, None], bias / scale
        self._first = self._now = weight, bias

    def coordinates(self, features: th.Tensor) -> th.Tensor:
        """
        Compute the whitened coordinates of features.

        :param features: (N, d) inputs of the head
        :return: (N, d) their coordinates
        """
        return features @ self.basis

    @th.no_grad()
    def enter(self) -> None:
        """Rewrite the head's parameters for whitened inputs and scaled outputs; its function is unchanged."""
        self.head.weight.copy_(self._now[0])
        self.head.bias.copy_(self._now[1])

    @th.no_grad()
    def leave(self) -> None:
        """Rewrite the head's parameters for plain features; without a step in between, they are exactly the old ones."""
        self._now = self.head.weight.clone(), self.head.bias.clone()
        weight, bias = (self._now[0] - self._first[0]) @ self.basis, self._now[1] - self._first[1]
        if self.scale is not None:
            weight, bias = self.scale[:, None] * weight, self.scale * bias
        th.add(self._plain[0], weight, out=self.head.weight)
        th.add(self._plain[1], bias, out=self.head.bias)

    @th.no_grad()
    def pull_gradients(self) -> None:
        """Turn the gradients of the parameters for plain features into those of the parameters for whitened coordinates."""
        weight, bias = self.head.weight.grad, self.head.bias.grad
        if weight is None or bias is None:
            return  # the loss does not read the head
        weight.copy_(weight @ self.basis)
        if self.scale is not None:
            weight.mul_(self.scale[:, None])
            bias.mul_(self.scale)


@th.no_grad()
def output_scale(policy: ActorCriticPolicy, features: th.Tensor | None) -> th.Tensor | None:
    """
    Find the units of the outputs of an action head.

    :param policy: the policy
    :param features: (N, d) features of the actor, to compute the distribution's standard deviations; None to read them from
        ``log_std``
    :return: (k,) standard deviations of Gaussian actions; None if the head's outputs are not their means
    """
    if features is None:
        gaussian = isinstance(policy.action_dist, DiagGaussianDistribution) and getattr(policy, "log_std", None) is not None
        fits = gaussian and len(policy.log_std) == policy.action_net.out_features
        return policy.log_std.exp() if fits else None
    distribution = policy._get_action_dist_from_latent(features).distribution
    # A head that returns more than means has units of its own
    if not isinstance(distribution, Normal) or distribution.mean.shape[1] != policy.action_net.out_features:
        return None
    return distribution.stddev.mean(dim=0)
