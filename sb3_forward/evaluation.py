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
# Names of the sums over recent steps
RECENT = ("rows", "gram", "flow", "rewards")
# Penalty on the map from features to those that they have become, relative to their mean sum of squares (our choice)
CARRY_RIDGE = 1e-3


class Steps(NamedTuple):
    """What returns are made of: ``rewards + bootstrap @ weights``, with the weights and the bias of the value head."""

    rewards: th.Tensor  # (N, 1) discounted
    bootstrap: th.Tensor  # (N, d + 1)


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


def make_steps(
    features: th.Tensor,
    last: th.Tensor,
    rewards: np.ndarray,
    starts: np.ndarray,
    cuts: Iterable[Cut],
    gamma: float,
    gae_lambda: float,
) -> Steps:
    """
    The lambda-returns of a rollout of T steps in E environments, as ``RolloutBuffer`` computes them, taken apart.

    :param features: (E, T, d) of the critic
    :param last: (E, d) of the observations after the last step
    :param rewards: (E, T), without what was added where episodes were cut
    :param starts: (E, T + 1), 1 where an episode starts with a step, else 0; the last column is of the step after the rollout
    :param cuts: where the value of what would have followed was added to the reward
    :param gamma: discount factor
    :param gae_lambda: lambda of the generalised advantage estimation
    :return: environment by environment, N = E T rows
    """
    number, length, width = features.shape
    goes_on = (1 - starts[:, 1:]).astype(np.float32)
    shares = gamma * (1 - gae_lambda) * goes_on
    shares[:, -1] = gamma * goes_on[:, -1]  # no return is known there
    sums = np.ones((number, length, width + 2), np.float32)  # features, level, and rewards
    sums[:, :-1, :width] = features[:, 1:].cpu()
    sums[:, -1, :width] = last.cpu()
    sums *= shares[..., None]
    for env, step, end in cuts:
        sums[env, step, :width], sums[env, step, width] = gamma * end[0].cpu(), gamma
    sums[..., -1] = rewards
    rates = gamma * gae_lambda * goes_on[..., None]
    for step in reversed(range(length - 1)):
        sums[:, step] += rates[:, step] * sums[:, step + 1]
    total = th.as_tensor(sums, dtype=features.dtype, device=features.device).flatten(end_dim=1)
    return Steps(total[:, -1:], total[:, :-1])


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
        """Of their features with their level, (d + 1, d + 1)."""
        return self.state.get("gram", 0.0)

    @property
    def held_rows(self) -> float:
        """How many rows are held, each by its weight."""
        return self.state.get("held_rows", 0.0)

    @property
    def held_gram(self) -> th.Tensor | float:
        """Of their features with their level, (d + 1, d + 1)."""
        return self.state.get("held_gram", 0.0)

    def missing(self, weights: th.Tensor) -> th.Tensor | float:
        """
        :param weights: (d + 1, 1) of the value head, the last is its bias
        :return: (d + 1, 1) features of the recent steps times what the values are short of their returns by, summed
        """
        return th.addmm(self.state["rewards"], self.state["flow"], weights, alpha=-1) if self.rows else 0.0

    def fade(self, rows: int) -> None:
        """
        What fades is held.

        :param rows: of the rollout that has come
        """
        if not self.rows:
            return
        keep = max(1 - rows / MEMORY_ROWS, 0.0)
        self.hold(self.state["gram"], self.rows, 1 - keep)
        for name in RECENT:
            if keep > 0:
                self.state[name] = keep * self.state[name]
            else:
                del self.state[name]

    def add(self, inputs: th.Tensor, gram: th.Tensor, steps: Steps) -> None:
        """
        :param inputs: (N, d + 1) features of the critic, with their level
        :param gram: (d + 1, d + 1) of these
        :param steps: what their returns are made of
        """
        own = float(len(inputs)), gram, th.addmm(gram, inputs.T, steps.bootstrap, alpha=-1), inputs.T @ steps.rewards
        for name, value in zip(RECENT, own, strict=True):
            self.state[name] = value + self.state.get(name, 0.0)

    def hold(self, gram: th.Tensor, rows: float, weight: float = 1.0) -> None:
        """
        :param gram: (d + 1, d + 1) of the features of rows to hold, with their level
        :param rows: how many there are
        :param weight: of each
        """
        held = self.state.get("held_gram")
        self.state["held_gram"] = weight * gram if held is None else th.add(held, gram, alpha=weight)
        self.state["held_rows"] = weight * rows + self.held_rows

    def release(self) -> None:
        """Nothing is held any more."""
        for name in ("held_gram", "held_rows"):
            self.state.pop(name, None)

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
        for name, both in {"gram": True, "flow": True, "rewards": False}.items():
            carried = change.T @ self.state[name]
            self.state[name] = carried @ change if both else carried
