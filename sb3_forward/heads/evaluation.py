"""
Least-squares policy evaluation: what short rollouts, one by one, say too little about.

A handful of steps in a row determines few of the weights of a value head, and their returns are bootstrapped by values that
are on the way themselves. So the head is fitted to the lambda-returns of many recent steps, as they would be with the values
of today: LSPE(lambda) of A. Nedic and D. P. Bertsekas, "Least squares policy evaluation algorithms with linear function
approximation" (2003); that older steps fade is our choice. Sums over the steps stand for all of them, since returns are linear
in the weights of the head; and as eligibility traces go on from rollout to rollout, so do the returns.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from torch import nn

# Penalty on the map from features to those that they have become, relative to their mean sum of squares (our choice)
CARRY_RIDGE = 1e-3


class Cut(NamedTuple):
    """The end of an episode that was cut by a limit of time."""

    env: int
    step: int
    features: th.Tensor  # (1, d) of the critic, of its last observation


def solve_ridge(gram: th.Tensor, moments: th.Tensor, ridge: float) -> th.Tensor:
    """
    Weights of a ridge regression, the penalty relative to the mean sum of squares of the features.

    :param gram: (D, D) of the features, overwritten
    :param moments: (D, k) features times targets, summed
    :param ridge: the penalty
    :return: (D, k); not finite if there are none
    """
    # Without a check, for which a GPU would be waited for: no head moves to what is not finite
    return th.linalg.solve_ex(_ridged(gram, ridge), moments).result


def _ridged(gram: th.Tensor, ridge: float) -> th.Tensor:
    gram.diagonal().add_(ridge * gram.diagonal().mean())
    return gram


def with_level(features: th.Tensor) -> th.Tensor:
    """
    :param features: (..., d)
    :return: (..., d + 1) with a constant one, the input of the bias
    """
    return nn.functional.pad(features, (0, 1), value=1.0)


def level_gram(features: th.Tensor) -> th.Tensor:
    """
    :param features: (N, d)
    :return: (d + 1, d + 1) Gram matrix of the features with their level
    """
    rows, width = features.shape
    gram = features.new_full((width + 1, width + 1), rows)
    gram[:-1, :-1] = features.T @ features
    gram[-1, :-1] = gram[:-1, -1] = features.sum(dim=0)
    return gram


def level_moments(features: th.Tensor, targets: th.Tensor) -> th.Tensor:
    """
    :param features: (N, d)
    :param targets: (N, k)
    :return: (d + 1, k) features with their level times targets, summed
    """
    return th.cat([features.T @ targets, targets.sum(dim=0, keepdim=True)])


def are_lambda_returns(buffer: RolloutBuffer, last_values: np.ndarray, starts: np.ndarray) -> bool:
    """
    Whether the advantages and returns of a rollout follow from its rewards and values, as SB3 computes them.

    :param buffer: the rollout of E environments
    :param last_values: (E,) of the observations after the last step
    :param starts: (E,) whether an episode starts with the step after the rollout
    :return: whether they do
    """
    goes_on = buffer.gamma * (1 - np.concatenate([buffer.episode_starts[1:], starts[None]]).astype(np.float32))
    following = np.concatenate([buffer.values[1:], last_values[None]])
    later = np.zeros_like(buffer.advantages)
    later[:-1] = buffer.advantages[1:]
    advantages = buffer.rewards + goes_on * (following + buffer.gae_lambda * later) - buffer.values
    if not np.array_equal(buffer.returns, buffer.advantages + buffer.values):
        return False
    scale = 1 + np.abs(buffer.advantages).max()
    return bool(np.abs(buffer.advantages - advantages).max() <= 1e-4 * scale)


class Steps(NamedTuple):
    """The N = E T steps of a rollout of E environments, one environment after the other, by features of the critic."""

    traces: th.Tensor  # (N, D) eligibility of the step and of those before it, D = d + 1 with the level
    flow: th.Tensor  # (N, D + 1) features less the discounted ones of what follows (none at the end of an episode), and reward
    trace: th.Tensor  # (E, D) that of the last step


def make_steps(
    features: th.Tensor,
    last: th.Tensor,
    rewards: np.ndarray,
    starts: np.ndarray,
    cuts: Iterable[Cut],
    trace: th.Tensor | None,
    gamma: float,
    gae_lambda: float,
) -> Steps:
    """
    :param features: (E, T, d) of the critic
    :param last: (E, d) of the observations after the last step
    :param rewards: (E, T), without what was added where episodes were cut
    :param starts: (E, T + 1), 1 where an episode starts with a step, else 0; the last column is of the step after the rollout
    :param cuts: where the value of what would have followed was added to the reward
    :param trace: (E, D) of the step before the rollout, None if unknown
    :param gamma: discount factor
    :param gae_lambda: lambda of the generalised advantage estimation
    :return: the steps
    """
    number, length, width = features.shape
    goes_on = gamma * (1 - starts)[..., None]
    both = np.ones((number, length, 2 * width + 3), np.float32)
    traces, flow = both[..., : width + 1], both[..., width + 1 :]
    traces[..., :width] = features.numpy(force=True)
    following = flow[..., :-1]
    following[:, :-1] = traces[:, 1:]
    following[:, -1, :width] = last.numpy(force=True)
    following *= goes_on[:, 1:]
    for env, step, end in cuts:
        following[env, step, :width], following[env, step, width] = gamma * end[0].numpy(force=True), gamma
    np.subtract(traces, following, out=following)
    flow[..., -1] = rewards
    rates = gae_lambda * goes_on
    if trace is not None:
        traces[:, 0] += rates[:, 0] * trace.numpy(force=True)
    for step in range(1, length):
        traces[:, step] += rates[:, step] * traces[:, step - 1]
    steps = th.from_numpy(both.reshape(number * length, -1)).to(features)
    left, right = steps[:, : width + 1], steps[:, width + 1 :]
    return Steps(left, right, left[length - 1 :: length].clone())


class Memory:
    """
    Sums over the rows of past rollouts, under features that stay: those of recent steps with their returns, and those of other
    rows, where values are held to what they are.

    :param state: the sums, none at first; kept by the caller, who saves and loads it
    """

    # So many rows are remembered, the recent ones more; a rollout that has as many is enough by itself (our choice)
    ROWS = 256
    # The head is fitted anew once so many have come, not for every handful (our choice)
    FIT_ROWS = 64

    def __init__(self, state: dict[str, Any]) -> None:
        self.state = state

    @property
    def rows(self) -> float:
        """How many rows are remembered with their returns, each by its weight."""
        return self.state.get("rows", 0.0)

    @property
    def new_rows(self) -> int:
        """How many rows have come since the head was fitted."""
        return self.state.get("new_rows", 0)

    def fitted(self) -> None:
        """The head has been fitted to all that is remembered."""
        self.state.pop("new_rows", None)

    @property
    def gram(self) -> th.Tensor | float:
        """Of their features with their level, (D, D) with D = d + 1."""
        return self.state.get("gram", 0.0)

    @property
    def held_rows(self) -> float:
        """How many rows are held, each by its weight."""
        return self.state.get("held_rows", 0.0)

    @property
    def held_gram(self) -> th.Tensor | float:
        """Of their features with their level, (D, D)."""
        return self.state.get("held_gram", 0.0)

    def missing(self, weights: th.Tensor) -> th.Tensor:
        """
        :param weights: (D, 1) of the value head, the last is its bias
        :return: (D, 1) features of the recent steps times what the values are short of their returns by, summed: the same as
            traces times temporal differences
        """
        if not self.rows:
            return th.zeros_like(weights)
        flow = self.state["flow"]
        return th.addmm(flow[:, -1:], flow[:, :-1], weights, alpha=-1)

    def steps(self, gram: th.Tensor, weights: th.Tensor, ridge: float, number: int) -> th.Tensor:
        """
        Steps of LSPE: each is a ridge regression of the returns as they would be with the values after the one before.

        :param gram: (D, D) of the features of all rows that count, overwritten
        :param weights: (D, 1) of the value head, the last is its bias
        :param ridge: the penalty on a step, see :func:`solve_ridge`
        :param number: how many, >= 1; some rows are remembered
        :return: (D, 1) their sum
        """
        factors, pivots, _ = th.linalg.lu_factor_ex(_ridged(gram, ridge))
        moved = weights
        for _ in range(number):
            moved = moved + th.linalg.lu_solve(factors, pivots, self.missing(moved))
        return moved - weights

    @property
    def trace(self) -> th.Tensor | None:
        """Eligibility of the last steps that were remembered, (E, D) for E environments."""
        return self.state.get("trace")

    def fade(self, rows: int) -> None:
        """
        What fades is held. The trace ends here, unless the steps of the rollout are added.

        :param rows: of the rollout that has come
        """
        if not self.rows:
            return
        self.state.pop("trace", None)
        keep = max(1 - rows / self.ROWS, 0.0)
        self.hold(self.state["gram"], self.rows, 1 - keep)
        if keep > 0:
            self.state["gram"].mul_(keep)
            self.state["flow"].mul_(keep)
            self.state["rows"] *= keep
        else:
            for name in ("gram", "flow", "rows"):
                del self.state[name]

    def add(self, inputs: th.Tensor, steps: Steps) -> None:
        """
        :param inputs: (N, D) features of the critic, with their level
        :param steps: the same N steps
        """
        if self.rows:
            self.state["gram"].addmm_(inputs.T, inputs)
            self.state["flow"].addmm_(steps.traces.T, steps.flow)
        else:
            self.state.update(gram=inputs.T @ inputs, flow=steps.traces.T @ steps.flow)
        self.state.update(rows=self.rows + len(inputs), new_rows=self.new_rows + len(inputs), trace=steps.trace)

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
        change = solve_ridge(then.T @ then, then.T @ (now - then), CARRY_RIDGE)
        change.diagonal().add_(1)
        flow = self.state["flow"]
        self.state["gram"] = change.T @ self.state["gram"] @ change
        self.state["flow"] = change.T @ th.cat([flow[:, :-1] @ change, flow[:, -1:]], dim=1)
        if self.trace is not None:
            self.state["trace"] = self.trace @ change
