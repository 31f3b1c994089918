"""
Least-squares policy evaluation: what short rollouts, one by one, say too little about.

A handful of steps in a row determines few of the weights of a value head, and their returns are bootstrapped by values that
are on the way themselves. So the head is fitted to the returns of many recent steps, as they would be with the values of
today: LSPE(lambda) of A. Nedic and D. P. Bertsekas, "Least squares policy evaluation algorithms with linear function
approximation" (2003); that older steps fade is our choice. Returns are linear in the weights of the head, so three sums stand
for all steps.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch as th
from torch import nn

# So many rows are remembered, the recent ones more; a rollout that has as many is enough by itself (our choice)
MEMORY_ROWS = 1024
# Penalty on the map from features to those that they have become, relative to their mean sum of squares (our choice)
CARRY_RIDGE = 1e-3


class Cut(NamedTuple):
    """The end of an episode that was cut by a limit of time."""

    env: int
    step: int
    features: th.Tensor  # (1, d) of the critic, of its last observation


def with_level(features: th.Tensor) -> th.Tensor:
    """
    :param features: (..., d)
    :return: (..., d + 1) with a constant one, the input of the bias
    """
    return nn.functional.pad(features, (0, 1), value=1.0)


def make_terms(
    features: th.Tensor,
    last: th.Tensor,
    rewards: np.ndarray,
    starts: np.ndarray,
    cuts: Iterable[Cut],
    gamma: float,
    gae_lambda: float,
) -> th.Tensor:
    """
    The lambda-returns of a rollout of T steps in E environments, as ``RolloutBuffer`` computes them, taken apart.

    :param features: (E, T, d) of the critic
    :param last: (E, d) of the observations after the last step
    :param rewards: (E, T), without what was added where episodes were cut
    :param starts: (E, T + 1), 1 where an episode starts with a step, else 0; the last column is of the step after the rollout
    :param cuts: where the value of what would have followed was added to the reward
    :param gamma: discount factor
    :param gae_lambda: lambda of the generalised advantage estimation
    :return: (N, d + 2), N = E T, environment by environment: what the weights of the value head, its bias, and one are to be
        multiplied with, so that the sum is the return
    """
    number, length, width = features.shape
    goes_on = 1 - starts[:, 1:]
    shares = gamma * (1 - gae_lambda) * goes_on
    shares[:, -1] = gamma * goes_on[:, -1]  # no return is known there
    terms = np.empty((number, length, width + 2), np.float32)
    terms[:, :-1, :width] = features[:, 1:].numpy(force=True)
    terms[:, -1, :width] = last.numpy(force=True)
    terms[..., :width] *= shares[..., None]
    terms[..., width] = shares
    for env, step, end in cuts:
        terms[env, step, :width], terms[env, step, width] = gamma * end[0].numpy(force=True), gamma
    terms[..., -1] = rewards
    rates = gamma * gae_lambda * goes_on[..., None]
    for step in reversed(range(length - 1)):
        terms[:, step] += rates[:, step] * terms[:, step + 1]
    return th.as_tensor(terms.reshape(number * length, -1), dtype=features.dtype, device=features.device)


class Memory:
    """
    Sums over the rows of past rollouts, under features that stay: those of recent steps with their returns, and those of other
    rows, where values are held to what they are.

    :param state: the sums, none at first; kept by the caller, who saves and loads it
    """

    def __init__(self, state: dict[str, Any]) -> None:
        self.state = state

    @property
    def rows(self) -> float:
        """How many rows are remembered with their returns, each by its weight."""
        return self.state.get("rows", 0.0)

    @property
    def gram(self) -> th.Tensor | float:
        """Of their features with their level, (D, D) with D = d + 1."""
        return self.state["sums"][:, : len(self.state["sums"])] if self.rows else 0.0

    @property
    def held_rows(self) -> float:
        """How many rows are held, each by its weight."""
        return self.state.get("held_rows", 0.0)

    @property
    def held_gram(self) -> th.Tensor | float:
        """Of their features with their level, (D, D)."""
        return self.state.get("held_gram", 0.0)

    def missing(self, weights: th.Tensor) -> th.Tensor | float:
        """
        :param weights: (D, 1) of the value head, the last is its bias
        :return: (D, 1) features of the recent steps times what the values are short of their returns by, summed
        """
        if not self.rows:
            return 0.0
        return self.state["sums"] @ th.cat([-weights, weights, weights.new_ones(1, 1)])

    def fade(self, rows: int) -> None:
        """
        What fades is held.

        :param rows: of the rollout that has come
        """
        if not self.rows:
            return
        keep = max(1 - rows / MEMORY_ROWS, 0.0)
        self.hold(self.gram, self.rows, 1 - keep)
        if keep > 0:
            self.state.update(sums=keep * self.state["sums"], rows=keep * self.rows)
        else:
            del self.state["sums"], self.state["rows"]

    def add(self, inputs: th.Tensor, terms: th.Tensor) -> None:
        """
        :param inputs: (N, D) features of the critic, with their level
        :param terms: (N, D + 1) of their returns
        """
        sums = inputs.T @ th.cat([inputs, terms], dim=1)  # (D, 2 D + 1)
        self.state["sums"] = sums.add_(self.state["sums"]) if self.rows else sums
        self.state["rows"] = self.rows + len(inputs)

    def hold(self, gram: th.Tensor | float, rows: float, weight: float = 1.0) -> None:
        """
        :param gram: (D, D) of the features of rows to hold, with their level
        :param rows: how many there are
        :param weight: of each
        """
        held = self.state.get("held_gram")
        self.state["held_gram"] = weight * gram if held is None else th.add(held, gram, alpha=weight)
        self.state["held_rows"] = self.held_rows + weight * rows

    def release(self) -> None:
        """Nothing is held any more."""
        for name in ("held_gram", "held_rows"):
            self.state.pop(name, None)

    def forget(self) -> None:
        """Nothing is remembered any more."""
        self.state.clear()

    def carry(self, before: th.Tensor, after: th.Tensor) -> None:
        """
        Go over to features that have moved, by the linear map that is nearest to their move.

        :param before: (N, d) of the critic, as they were
        :param after: (N, d) of the same rows, as they are
        """
        then, now = with_level(before), with_level(after)
        gram = then.T @ then
        gram.diagonal().add_(CARRY_RIDGE * gram.diagonal().mean())
        change = th.linalg.solve(gram, then.T @ (now - then))
        change.diagonal().add_(1)
        gram, shares, rewards = self.state["sums"].split([len(change), len(change), 1], dim=1)
        self.state["sums"] = change.T @ th.cat([gram @ change, shares @ change, rewards], dim=1)
