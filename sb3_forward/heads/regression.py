"""
Fit linear heads by ridge regression, and gather the moments of lambda-returns.

The last row and column of a Gram matrix, and the last row of weights, belong to the intercept.
"""

from functools import cached_property

import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer

from sb3_forward.heads.whitening import Basis
from sb3_forward.local.rows import Latents

# Penalty on a refit's change of the weights, relative to the mean sum of squares of the features (our choice)
REFIT_RIDGE = 1e-3
# Rollouts of fewer rows use the whitened coordinates of the sample (our choice)
WHITENING_ROWS = 512


def gram_matrix(features: th.Tensor) -> th.Tensor:
    """
    Compute the Gram matrix of features and intercept.

    :param features: (N, d)
    :return: (d + 1, d + 1)
    """
    rows, width = features.shape
    gram = features.new_full((width + 1, width + 1), rows)
    gram[:-1, :-1] = features.T @ features
    gram[-1, :-1] = gram[:-1, -1] = features.sum(dim=0)
    return gram


def cross_moments(features: th.Tensor, targets: th.Tensor) -> th.Tensor:
    """
    Multiply features and intercept by targets, and sum over the rows.

    :param features: (N, d)
    :param targets: (N, k)
    :return: (d + 1, k)
    """
    products = (targets.T @ features).T  # few columns of targets take a tenth of the time of `features.T @ targets`
    return th.cat([products, targets.sum(dim=0, keepdim=True)])


def solve_ridge(gram: th.Tensor, moments: th.Tensor, ridge: float) -> th.Tensor:
    """
    Solve a ridge regression.

    The intercept is penalised like the weights. They share the mean of the targets, so that less of it spreads to features
    that were never seen.

    :param gram: (D, D) Gram matrix of the features, overwritten
    :param moments: (D, k) sum of features times targets
    :param ridge: the penalty, relative to the mean sum of squares of the features
    :return: (D, k); not finite if there is no solution
    """
    return solve_factored(factor_ridge(gram, ridge), moments)


def factor_ridge(gram: th.Tensor, ridge: float) -> tuple[th.Tensor, th.Tensor]:
    """
    Factor the matrix of a ridge regression, to solve it for several targets.

    :param gram: (D, D) Gram matrix of the features, overwritten
    :param ridge: the penalty, see :func:`solve_ridge`
    :return: factors and pivots
    """
    gram.diagonal().add_(ridge * gram.diagonal().mean())
    # Errors are not checked here, since a check would synchronise a GPU; callers refuse numbers that are not finite
    factors, pivots, _ = th.linalg.lu_factor_ex(gram)
    return factors, pivots


def solve_factored(factors: tuple[th.Tensor, th.Tensor], moments: th.Tensor) -> th.Tensor:
    """
    Solve a ridge regression from its factors.

    :param factors: from :func:`factor_ridge`
    :param moments: (D, k) sum of features times targets
    :return: (D, k); not finite if there is no solution
    """
    return th.linalg.lu_solve(*factors, moments)


class ReturnMoments:
    """
    The sum over steps of features and intercept times (return - value), as a function of the weights ``w`` of a value head.

    It is ``b - A w``, since lambda-returns are linear in the weights. Regressions on it one after the other, each from the
    weights of the one before, are LSPE(lambda) (A. Nedic and D. P. Bertsekas, "Least squares policy evaluation algorithms with
    linear function approximation", 2003).

    :param matrix: A, (D, D) with D = d + 1
    :param vector: b, (D, 1)
    """

    def __init__(self, matrix: th.Tensor, vector: th.Tensor) -> None:
        self.matrix = matrix
        self.vector = vector

    def __call__(self, weights: th.Tensor) -> th.Tensor:
        """
        Compute the moments.

        :param weights: (D, 1) weights of the value head, intercept last
        :return: (D, 1)
        """
        return th.addmm(self.vector, self.matrix, weights, alpha=-1)


def return_moments(
    features: th.Tensor, following: th.Tensor, rewards: np.ndarray, discounts: np.ndarray, gae_lambda: float
) -> ReturnMoments:
    """
    Gather the moments of lambda-returns by eligibility traces.

    The sum of features times (return - value) equals the sum of traces times temporal differences.

    :param features: (T, E, d) features of the critic in E environments, one step after the other
    :param following: (T, E, d + 1) discounted features and intercept of the state after each step, zero where an episode
        terminates
    :param rewards: (T, E)
    :param discounts: (T, E) gamma, zero where an episode ends
    :param gae_lambda: lambda, in [0, 1]
    :return: the moments
    """
    steps, environments, width = features.shape
    traces = np.ones((steps, environments, width + 1), np.float32)
    traces[..., :-1] = features.numpy(force=True)
    rates = np.float32(gae_lambda) * discounts[..., None]
    differences = th.nn.functional.pad(features, (0, 1), value=1.0) - following
    for step in range(1, steps):
        traces[step] += rates[step - 1] * traces[step - 1]
    flat = th.from_numpy(traces.reshape(-1, width + 1)).to(features)
    rewards_of = th.from_numpy(np.ascontiguousarray(rewards, np.float32).reshape(-1, 1)).to(features)
    return ReturnMoments(flat.T @ differences.flatten(end_dim=1), flat.T @ rewards_of)


def follow_from_rewards(buffer: RolloutBuffer, last_values: np.ndarray, starts: np.ndarray) -> bool:
    """
    Check whether the returns of a rollout are lambda-returns of its rewards and values, as SB3 computes them.

    A callback may have written other returns.

    :param buffer: the rollout of E environments
    :param last_values: (E,) values of the observations after the last step
    :param starts: (E,) whether an episode starts with the step after the rollout
    :return: whether they are
    """
    discounts = buffer.gamma * (1 - np.concatenate([buffer.episode_starts[1:], starts[None]]).astype(np.float32))
    following = np.concatenate([buffer.values[1:], last_values[None]])
    later = np.zeros_like(buffer.advantages)
    later[:-1] = buffer.advantages[1:]
    advantages = buffer.rewards + discounts * (following + buffer.gae_lambda * later) - buffer.values
    if not np.array_equal(buffer.returns, buffer.advantages + buffer.values):
        return False
    scale = 1 + np.abs(buffer.advantages).max()
    return bool(np.abs(buffer.advantages - advantages).max() <= 1e-4 * scale)


class SampleFeatures:
    """
    Top features of a sample of past observations; derived matrices are computed once, when they are first read.

    :param latents: features of actor (M, d_pi) and critic (M, d_vf), M >= 1
    """

    def __init__(self, latents: Latents) -> None:
        self.latents = latents
        self._grams: dict[int, th.Tensor] = {}

    def __len__(self) -> int:
        return len(self.latents[0])

    def gram(self, side: int) -> th.Tensor:
        """
        Compute the Gram matrix of one head's features and its intercept.

        :param side: 0 for the actor's features, 1 for the critic's
        :return: (d + 1, d + 1)
        """
        if side not in self._grams:
            self._grams[side] = gram_matrix(self.latents[side])
        return self._grams[side]

    @property
    def moments(self) -> th.Tensor:
        """Compute the second moments of the actor's features, (d_pi, d_pi)."""
        gram = self.gram(0)
        return gram[:-1, :-1] / gram[-1, -1]

    @cached_property
    def basis(self) -> Basis:
        """Compute the basis of the actor's whitened coordinates."""
        return Basis.of(self.moments, len(self))


def refit_step(side: int, features: list[th.Tensor], residuals: list[th.Tensor], sample: SampleFeatures | None) -> th.Tensor:
    """
    Fit a head to residuals on some rows and, if there is one, on the sample.

    :param side: 0 for the actor's features, 1 for the critic's
    :param features: (N, d) of the rows, and (M, d) of the sample
    :param residuals: (N, k) and (M, k), wanted outputs minus those of the head
    :param sample: the sample
    :return: (d + 1, k) to add to the weights
    """
    gram = gram_matrix(features[0])
    if sample is not None:
        gram = gram + sample.gram(side)
    moments = th.stack([cross_moments(*pair) for pair in zip(features, residuals, strict=True)]).sum(dim=0)
    return solve_ridge(gram, moments, REFIT_RIDGE)


@th.no_grad()
def basis_of(features: th.Tensor, sample: SampleFeatures | None) -> Basis:
    """
    Choose the whitened coordinates for a rollout.

    Rollout and sample count half each. Otherwise, steps that hardly change the outputs on the rollout could change them
    arbitrarily in states that it has left.

    :param features: (N, d) features of the actor
    :param sample: features of past observations, None if there are none
    :return: the coordinates
    """
    rows = len(features)
    if sample is None:
        return Basis.of(features.T @ features / rows, rows)
    if rows >= WHITENING_ROWS:
        return Basis.of((features.T @ features / rows + sample.moments) / 2, rows + len(sample))
    return sample.basis  # few rows determine no covariance, and the sample serves many such rollouts
