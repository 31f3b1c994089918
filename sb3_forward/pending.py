"""
Rows of rollouts too short for a local phase of their own: it waits until they are enough.

A handful of rows says little about distances, and hidden layers that stay as they are for a while keep all cached features
valid, which is what makes short rollouts cheap.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch as th
from stable_baselines3.common.type_aliases import PyTorchObs

from sb3_forward.anchors import join, pick
from sb3_forward.latents import Latents, join_latents

# A local phase has at least so many rows (our choice)
LOCAL_ROWS = 512


class Rows(NamedTuple):
    """What a local phase needs of N rows."""

    number: int
    observations: Callable[[th.Tensor], PyTorchObs]  # from indices to these of them
    signals: dict[str, th.Tensor]  # guidance of actor and critic, (N, k) each; none without guidance
    latents: Latents  # their top features, under the present weights


class Pending:
    """
    The rows that wait.

    :param state: the rows, none at first; kept by the caller, who saves and loads them
    """

    def __init__(self, state: dict[str, Any]) -> None:
        self.state = state

    @property
    def latents(self) -> Latents | None:
        """Top features of the rows that wait; None if there are none."""
        return self.state.get("latents")

    def add(self, rows: Rows) -> Rows | None:
        """
        :param rows: those of a rollout
        :return: all rows, once they are enough; they are handed out once
        """
        waiting = self.state.get("rows", 0)
        if waiting and self.state["signals"].keys() != rows.signals.keys():
            waiting = 0  # from before guidance was switched on or off
        if not waiting and rows.number >= LOCAL_ROWS:
            return rows
        observations = rows.observations(th.arange(rows.number))
        signals, latents = rows.signals, rows.latents
        if waiting:
            observations = join(self.state["observations"], observations)
            signals = {role: th.cat([self.state["signals"][role], signal]) for role, signal in signals.items()}
            latents = join_latents(self.state["latents"], latents)
        waiting += rows.number
        if waiting >= LOCAL_ROWS:
            self.state.clear()
            return Rows(waiting, lambda index: pick(observations, index), signals, latents)
        self.state.update(rows=waiting, observations=observations, signals=signals, latents=latents)
        return None
