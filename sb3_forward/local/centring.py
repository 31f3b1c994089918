"""
Centre the steps of linear layers that read feature maps.

Pixels and rectified maps are of one sign, and a layer reads thousands of them. A step of its weights then mostly moves the
mean of each unit over all rows, and a few steps of one sign can switch a unit off for good. A centred step is the optimizer's
step on ``W (x - m) + b'``, with m the mean of its inputs x: what it does to W moves no unit's mean. The layer remains
``W x + b``.

Y. LeCun, L. Bottou, G. Orr and K.-R. Müller, "Efficient BackProp" (1998), say why inputs should have no mean. To centre the
steps of layers on maps, and of no others, is our choice, with its measurement in the lab log.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch as th
from torch import nn


class Centring:
    """
    The centring of a linear layer's steps on the mean of what it has read for them.

    Without :meth:`watching`, steps are the optimizer's own.

    :param layer: a linear layer of d inputs and k units, with intercept
    """

    def __init__(self, layer: nn.Linear) -> None:
        self.layer = layer
        self._sum: th.Tensor | None = None  # (d,) of the inputs since the last step
        self._rows = 0  # their number

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Centre steps within ``with`` on what the layer reads from one to the next."""
        hook = self.layer.register_forward_pre_hook(self._add, with_kwargs=True)
        try:
            yield
        finally:
            hook.remove()
            self._sum, self._rows = None, 0

    def _add(self, _: nn.Module, inputs: tuple[th.Tensor, ...], named: dict[str, th.Tensor]) -> None:
        (read,) = (own.detach().flatten(end_dim=-2) for own in (*inputs, *named.values()))
        self._sum = read.sum(dim=0) + (0 if self._sum is None else self._sum)
        self._rows += len(read)

    @contextmanager
    def step(self, gradients: Sequence[th.Tensor | None]) -> Iterator[None]:
        """
        Centre gradients, and take what the optimizer does within ``with`` for steps of ``W (x - m) + b'``.

        :param gradients: of W, (k, d), overwritten, and of b, (k,)
        """
        weight, bias = gradients
        if self._sum is None or weight is None or bias is None:
            yield
            return
        mean = self._sum / self._rows
        self._sum, self._rows = None, 0
        weight.addr_(bias, mean, alpha=-1)
        before = self.layer.weight.detach() @ mean
        yield
        with th.no_grad():
            self.layer.bias.add_(before - self.layer.weight @ mean)
