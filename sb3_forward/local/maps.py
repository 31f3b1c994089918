"""
What is compared of feature maps: a few numbers of each channel, where a convolution gives thousands.

Twelve thousand flattened numbers neither fit a regression on two thousand rows nor say more (our choice, with its measurement
in the lab log).
"""

from functools import lru_cache

import torch as th
from torch.nn import functional as F

# What flows between blocks: a tensor, a dictionary observation, or the features of actor and critic
Activations = th.Tensor | dict[str, th.Tensor] | tuple[th.Tensor, ...]


def as_matrix(activations: Activations) -> th.Tensor:
    """
    One row per sample, all else flattened and put side by side: what distances are taken of.

    :param activations: a tensor (B, ...), or a dictionary or tuple of such tensors
    :return: (B, d)
    """
    if isinstance(activations, th.Tensor):
        return activations.flatten(start_dim=1) if activations.ndim > 1 else activations[:, None]
    parts = map(as_matrix, activations.values() if isinstance(activations, dict) else activations)
    return th.cat([part if part.dtype == th.double else part.float() for part in parts], dim=1)


# Cells of the grid along each side of a feature map (our choice)
GRID = 4


class MapSummary:
    """
    Means of feature maps over the cells of a coarse grid.

    :param maps: (B, C, H, W), whose shape, type and device count
    :param grid: cells along each side, at most height and width
    """

    def __init__(self, maps: th.Tensor, grid: int = GRID) -> None:
        _, self.channels, height, width = maps.shape
        #: (H W, G) weight of each place in the mean of each cell
        self.weights = _cells(height, width, grid, maps.dtype, maps.device)

    def __call__(self, maps: th.Tensor) -> th.Tensor:
        """
        :param maps: (B, C, H, W), or flattened to (B, C H W)
        :return: (B, C G), G the number of cells
        """
        return (maps.reshape(len(maps), self.channels, -1) @ self.weights).flatten(start_dim=1)

    def pull(self, gradient: th.Tensor) -> th.Tensor:
        """
        :param gradient: (B, C G) with respect to the summary
        :return: (B, C H W) with respect to the maps
        """
        return (gradient.view(len(gradient), self.channels, -1) @ self.weights.T).flatten(start_dim=1)


@lru_cache(maxsize=64)  # every step of a convolution asks for the same
def _cells(height: int, width: int, grid: int, dtype: th.dtype, device: th.device) -> th.Tensor:
    places = th.eye(height * width, dtype=dtype, device=device).view(-1, 1, height, width)
    return F.adaptive_avg_pool2d(places, (min(grid, height), min(grid, width))).flatten(start_dim=1)


def summary_of(activations: Activations) -> MapSummary | None:
    """
    :param activations: what a block gives or reads
    :return: what is compared of it; None if that is all of it, as a matrix
    """
    return MapSummary(activations) if isinstance(activations, th.Tensor) and activations.ndim == 4 else None


def summarised(activations: Activations) -> th.Tensor:
    """
    :param activations: of B rows
    :return: (B, d), what is compared of them
    """
    summary = summary_of(activations)
    return as_matrix(activations) if summary is None or not isinstance(activations, th.Tensor) else summary(activations)
