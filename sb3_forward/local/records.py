"""Records of a hidden phase, and their log."""

import math
from typing import NamedTuple

import numpy as np
from stable_baselines3.common.logger import Logger


class BlockRecord(NamedTuple):
    """The figures of one block in a hidden phase."""

    loss: float  # mean over its steps
    grad_norm: float  # mean over its steps, before clipping
    movement: float  # norm of the change of its parameters over their norm before
    explained: float  # R2 of the guidance before its last pass; NaN without guidance
    constant: float  # share of its outputs that were the same for all rows before its last pass; NaN without guidance


def log(records: dict[str, BlockRecord], logger: Logger) -> None:
    """
    Log the figures of a hidden phase: those of each block, and the means over all blocks.

    :param records: by name of the block, at least one
    :param logger: SB3's logger
    """
    for name, record in records.items():
        figures = (
            ("r2", record.explained),
            ("loss", record.loss),
            ("movement", record.movement),
            ("constant", record.constant),
        )
        for figure, value in figures:
            if not math.isnan(value):
                # These are too many and too long for the table on the screen
                logger.record(f"local/{figure}/{name}", value, exclude=("stdout", "log"))
    logger.record("train/local_loss", float(np.mean([record.loss for record in records.values()])))
    logger.record("train/local_grad_norm", float(np.mean([record.grad_norm for record in records.values()])))
