"""
Observations of past rollouts: a policy must not forget what it does in states that it comes to less often.

On them the heads are held to what they say while the features under them move, and their features count in what a step of
the heads is measured by.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch as th
from stable_baselines3.common.type_aliases import PyTorchObs

from sb3_forward.local.rows import join, pick


class Anchors:
    """
    A random sample of the observations of past rollouts, the recent ones more often.

    :param state: the sample, empty at first; kept by the caller, who saves and loads it
    """

    # At most so many are kept, and so many bytes of them: they are saved with the model (our choice)
    ROWS = 2048
    BYTES = 2**23

    def __init__(self, state: dict[str, Any]) -> None:
        self.state = state

    @classmethod
    def fitting(cls, row: PyTorchObs) -> int:
        """
        Tell how many observations fit into the bytes that may be kept.

        :param row: one observation (1, ...), or a dictionary of such
        :return: how many like this may be kept
        """
        return cls.BYTES // sum(part.nbytes for part in (row.values() if isinstance(row, dict) else [row]))

    @property
    def rows(self) -> int:
        """How many observations are kept."""
        return self.state.get("rows", 0)

    def exchange(self, rows: int, observations: Callable[[th.Tensor], PyTorchObs]) -> tuple[th.Tensor, th.Tensor]:
        """
        Take observations in, at random, for old ones. A rollout replaces an eighth of all at most, so that they reach back
        over eight.

        :param rows: how many there are, >= 1
        :param observations: from indices to these of them, (B, ...), or a dictionary of such
        :return: indices of the old ones that were kept, and of those taken in: the sample is the first, then the second
        """
        room = min(self.ROWS, self.fitting(observations(th.zeros(1, dtype=th.long))))
        taken = th.randperm(rows)[: max(room // 8, room - self.rows)]
        kept = th.randperm(self.rows)[: room - len(taken)]
        new = observations(taken)
        self.state.update(observations=join([pick(self.state["observations"], kept), new]) if len(kept) else new)
        self.state["rows"] = len(kept) + len(taken)
        return kept, taken

    def batches(self, size: int) -> Iterator[PyTorchObs]:
        """
        :param size: rows per batch
        :return: all observations, batch by batch
        """
        for first in range(0, self.rows, size):
            yield pick(self.state["observations"], slice(first, first + size))
