"""
The cost model: seconds of work as a sum of what grows with rows B and width w in a known way, each with a measured rate.

====================  =========================================================================================
``1``                 calls of operations
``B w``               what is done with every unit of every row
``B w^2``             matrix products: a forward pass is 2 B w^2 operations, a backward pass twice as many, a local step's own
                      gradient as many as a forward pass
``w^2``               what is done with every weight
``B^2 w``, ``B^2``    pairwise distances of inputs and outputs, and the loss on them
====================  =========================================================================================

The rates are fitted by non-negative least squares of the relative error.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from scipy.optimize import nnls

from benchmarks.harness import Row
from benchmarks.pipeline.blocks import HEADS_HELD_OUT, HEADS_ROWS, HELD_OUT
from sb3_forward.rollouts.history import SAMPLE_ROWS

Term = Callable[[float, float], float]

_CALLS: dict[str, Term] = {"1": lambda rows, width: 1.0}
_WEIGHTS: dict[str, Term] = {"w^2": lambda rows, width: width**2}
_PRODUCTS: dict[str, Term] = {"B w": lambda rows, width: rows * width, "B w^2": lambda rows, width: rows * width**2}
_PAIRS: dict[str, Term] = {"B^2": lambda rows, width: rows**2, "B^2 w": lambda rows, width: rows**2 * width}
TERMS = {
    "forward": _CALLS | _PRODUCTS,
    "backward": _CALLS | _PRODUCTS | _WEIGHTS,
    "step": _CALLS | _WEIGHTS,
    "features": _CALLS | _PRODUCTS,
    "local": _CALLS | _PRODUCTS | _WEIGHTS | _PAIRS,
}


class CostModel:
    """
    Rates of this machine.

    :param rows: measured times, see :func:`~benchmarks.pipeline.blocks.measure`
    """

    def __init__(self, rows: list[Row]) -> None:
        self.rates = {}
        for part, terms in TERMS.items():
            points = [(float(row["rows"]), float(row["width"])) for row in _of(rows, part, held_out=False)]
            table = [[term(*point) for term in terms.values()] for point in points]
            self.rates[part] = _fit(table, _of(rows, part, held_out=False))
        table = [_heads_terms(*_heads_size(row)) for row in _of(rows, "heads", held_out=False)]
        self.heads_rates = _fit(table, _of(rows, "heads", held_out=False))

    def block(self, part: str, rows: float, width: float) -> float:
        """
        :param part: of the work on one block
        :param rows: B
        :param width: w
        :return: seconds
        """
        return float(self.rates[part] @ [term(rows, width) for term in TERMS[part].values()])

    def heads(self, rollout: int, width: int, batch_size: int, epochs: int) -> float:
        """
        :param rollout: rows of the rollout
        :param width: of the top layer
        :param batch_size: of PPO
        :param epochs: of PPO
        :return: seconds
        """
        return float(self.heads_rates @ _heads_terms(rollout, width, batch_size, epochs))

    def predict(self, row: Row) -> float:
        """
        :param row: a measured time
        :return: seconds that the model says instead
        """
        if row["part"] == "heads":
            return self.heads(*_heads_size(row))
        return self.block(row["part"], float(row["rows"]), float(row["width"]))


class Error(NamedTuple):
    """Relative errors of the model."""

    median: float
    largest: float
    held_out: float  # the largest of sizes that it was not fitted to


def errors(model: CostModel, rows: list[Row]) -> dict[str, Error]:
    """
    :param model: the model
    :param rows: the measured times
    :return: its errors by part
    """

    def of(part: str, held_out: bool) -> np.ndarray:
        chosen = _of(rows, part, held_out)
        return np.array([abs(model.predict(row) / float(row["seconds"]) - 1) for row in chosen])

    found = {}
    for part in (*TERMS, "heads"):
        fitted = of(part, held_out=False)
        found[part] = Error(float(np.median(fitted)), float(fitted.max()), float(of(part, held_out=True).max()))
    return found


def _of(rows: list[Row], part: str, held_out: bool) -> list[Row]:
    def is_held_out(row: Row) -> bool:
        if part == "heads":
            return (int(row["width"]), int(row["rows"]), int(row["epochs"])) in HEADS_HELD_OUT
        return (int(row["rows"]), int(row["width"])) in HELD_OUT

    return [row for row in rows if row["part"] == part and is_held_out(row) == held_out]


def _fit(table: Iterable[list[float]], rows: list[Row]) -> np.ndarray:
    seconds = np.array([float(row["seconds"]) for row in rows])
    relative = np.array(list(table)) / seconds[:, None]
    # Columns of like size: the terms differ by ten orders of magnitude
    scale = relative.max(axis=0)
    rates, _ = nnls(relative / scale, np.ones(len(seconds)))
    return rates / scale


def _heads_size(row: Row) -> tuple[int, int, int, int]:
    return HEADS_ROWS, int(row["width"]), int(row["rows"]), int(row["epochs"])


def _heads_terms(rollout: int, width: int, batch_size: int, epochs: int) -> list[float]:
    # Minibatches, their rows, Gram matrices of all features for refit and whitening, and what is done with these
    return [1.0, epochs * rollout / batch_size, epochs * rollout * width, (rollout + SAMPLE_ROWS) * width**2, width**3]
