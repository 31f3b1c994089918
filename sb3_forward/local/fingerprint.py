"""Check whether features and weights are the same as before, up to rounding."""

from collections.abc import Iterable

import torch as th


def alike(found: th.Tensor, expected: th.Tensor) -> bool:
    """
    Check whether two tensors are the same up to rounding.

    :param found: a tensor
    :param expected: another tensor
    :return: whether they are; the tolerance covers the rounding of another batch size and of fast convolutions on a GPU
    """
    if found.shape != expected.shape:
        return False
    half = any(th.finfo(part.dtype).bits < 32 for part in (found, expected))
    tolerance = 5e-2 if half else 1e-4 if found.device.type == "cpu" else 1e-3
    return th.allclose(found, expected.to(found.dtype), rtol=tolerance, atol=tolerance / 10)


class Fingerprint:
    """
    A few numbers that show whether weights have changed, whatever has written to them.

    :param tensors: the weights, and statistics such as those of BatchNorm
    """

    def __init__(self, tensors: Iterable[th.Tensor]) -> None:
        self.tensors = [tensor for tensor in tensors if tensor.is_floating_point() or tensor.is_complex()]
        random = th.Generator().manual_seed(0)
        flat = map(_flat, self.tensors)
        self._directions = [th.randn(len(own), generator=random, dtype=th.double).to(own) for own in flat]

    @th.no_grad()
    def __call__(self) -> th.Tensor:
        """
        Compute the numbers for the present weights.

        :return: (K,) the projection of each of the K tensors on a random direction of its own, the same in every process
        """
        found = [th.dot(*pair) for pair in zip(map(_flat, self.tensors), self._directions, strict=True)]
        return th.stack(found) if found else th.zeros(0)

    def shows(self, before: th.Tensor | None, now: th.Tensor) -> bool:
        """
        Compare earlier numbers with the present ones.

        :param before: earlier numbers, perhaps from another machine; None if there are none
        :param now: present numbers
        :return: whether the weights are the same
        """
        if before is None or before.shape != now.shape:
            return False
        before = before.to(now)
        return th.equal(before, now) or th.allclose(before, now, rtol=1e-5, atol=1e-5)


def _flat(tensor: th.Tensor) -> th.Tensor:
    """Flatten a tensor; a complex one gives its real and imaginary parts."""
    return (th.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor).flatten()
