"""Whether features and weights are the same as before, but for rounding."""

from collections.abc import Iterable

import torch as th


def alike(found: th.Tensor, expected: th.Tensor) -> bool:
    """
    :param found: a tensor
    :param expected: another
    :return: whether they are the same but for rounding, as that of another batch size or of fast convolutions on a GPU
    """
    if found.shape != expected.shape:
        return False
    half = any(th.finfo(part.dtype).bits < 32 for part in (found, expected))
    tolerance = 5e-2 if half else 1e-4 if found.device.type == "cpu" else 1e-3
    return th.allclose(found, expected.to(found.dtype), rtol=tolerance, atol=tolerance / 10)


class Fingerprint:
    """
    Tells by a few numbers whether weights are what they were, whoever has written to them in whatever way.

    :param tensors: the weights, and statistics like those of BatchNorm
    """

    def __init__(self, tensors: Iterable[th.Tensor]) -> None:
        self.tensors = [tensor for tensor in tensors if tensor.is_floating_point() or tensor.is_complex()]
        random = th.Generator().manual_seed(0)
        flat = map(_flat, self.tensors)
        self._directions = [th.randn(len(own), generator=random, dtype=th.double).to(own) for own in flat]

    @th.no_grad()
    def __call__(self) -> th.Tensor:
        """
        :return: (K,) the projection of each of the K tensors on a random direction of its own, and so the same in any process
        """
        found = [th.dot(*pair) for pair in zip(map(_flat, self.tensors), self._directions, strict=True)]
        return th.stack(found) if found else th.zeros(0)

    def shows(self, before: th.Tensor | None, now: th.Tensor) -> bool:
        """
        :param before: numbers of then, perhaps from another machine; None if there are none
        :param now: those of today
        :return: whether the weights are the same
        """
        if before is None or before.shape != now.shape:
            return False
        before = before.to(now)
        return th.equal(before, now) or th.allclose(before, now, rtol=1e-5, atol=1e-5)


def _flat(tensor: th.Tensor) -> th.Tensor:
    """All its numbers, of complex ones both parts."""
    return (th.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor).flatten()
