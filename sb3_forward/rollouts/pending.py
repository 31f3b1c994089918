"""
Rows that wait for the next hidden phase.

A handful of rows says little about what the guidance asks for. And hidden layers that stay as they are for a while keep all
cached features valid, which makes short rollouts cheap.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch as th
from stable_baselines3.common.type_aliases import PyTorchObs

from sb3_forward.local.phase import LEAST_ROWS
from sb3_forward.local.rows import Latents, join, pick
from sb3_forward.rollouts.anchors import Anchors


class Rows(NamedTuple):
    """What a hidden phase needs of N rows."""

    number: int
    observations: Callable[[th.Tensor], PyTorchObs]  # from indices to these of them
    signals: dict[str, th.Tensor]  # guidance of actor and critic, (N, k) each; none without guidance
    latents: list[Latents]  # their top features, under the present weights, part by part


class Pending:
    """
    The rows that wait.

    :param state: the rows, part by part as they came, none at first; kept by the caller, who saves and loads them
    :param interval: they are handed out once they are so many, or as many as may be kept
    """

    def __init__(self, state: list[dict[str, Any]], interval: int) -> None:
        self.state = state
        self.interval = interval
        self.rows = sum(part["rows"] for part in state)  #: how many rows wait

    def add(self, rows: Rows) -> Rows | None:
        """
        :param rows: those of a rollout, in one part
        :return: all rows, once they are enough; they are handed out once
        """
        if self.state and self.state[0]["signals"].keys() != rows.signals.keys():
            self._clear()  # from before guidance was switched on or off
        first = pick(self.state[0]["observations"], slice(1)) if self.state else rows.observations(th.zeros(1, dtype=th.long))
        enough = max(min(self.interval, Anchors.fitting(first)), LEAST_ROWS)
        if not self.state and rows.number >= enough:
            return rows
        own = rows.observations(th.arange(rows.number))
        self.state.append({"rows": rows.number, "observations": own, "signals": rows.signals, "latents": rows.latents[0]})
        self.rows += rows.number
        if (number := self.rows) < enough:
            return None
        observations = join([part["observations"] for part in self.state])
        signals = {role: th.cat([part["signals"][role] for part in self.state]) for role in rows.signals}
        latents = [part["latents"] for part in self.state]
        self._clear()
        return Rows(number, lambda index: pick(observations, index), signals, latents)

    def recompute(self, latents: Callable[[PyTorchObs], Latents]) -> None:
        """
        Bring the features up to date.

        :param latents: from observations to their top features under the present weights
        """
        for part in self.state:
            part["latents"] = latents(part["observations"])

    def _clear(self) -> None:
        self.state.clear()
        self.rows = 0
