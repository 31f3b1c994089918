"""Give the blocks of a network their inputs while they learn from the bottom up, within a budget of memory."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch as th
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn

from sb3_forward.local.network import HiddenNetwork
from sb3_forward.local.root import leaves, prepare
from sb3_forward.local.rows import collect, join


class Feed:
    """
    The inputs of a network's blocks for N rows, while the blocks learn from the bottom up.

    Values that fit into memory are kept. Others are recomputed from the kept values below them.

    :param network: the network
    :param observations: maps indices (B,) to these rows, as the rollout buffer holds them
    :param rows: N
    :param budget: bytes that may be kept
    """

    def __init__(
        self, network: HiddenNetwork, observations: Callable[[th.Tensor], PyTorchObs], rows: int, budget: int
    ) -> None:
        self.network = network
        self.budget = budget
        self.chunks = [
            slice(first, min(first + network.pass_rows, rows)) for first in range(0, rows, network.pass_rows)
        ]  #: all rows, in ranges for one forward pass each
        self._observations = observations
        self._held: dict[str, th.Tensor] = {}
        self._makers = {name: index for index, part in enumerate(network.parts) for name in part.outputs}
        # The last part that reads each value; the heads read after all parts
        self._last = {name: index for index, part in enumerate(network.parts) for name in part.inputs}
        self._last.update(dict.fromkeys(network.tops, len(network.parts)))
        self._learning: list[nn.Module] = []  # modules in training mode
        # Bytes of images take little time to prepare, and four times the memory afterwards
        images = any(own.dtype == th.uint8 for own in leaves(observations(th.arange(1))))
        self._complete = not images and rows * network.row_bytes <= budget  # whether everything is kept so far
        if self._complete:
            self._observe(slice(0, rows), self._held)

    @contextmanager
    def learning(self, modules: list[nn.Module]) -> Iterator[None]:
        """
        Put modules into training mode; where they have to run for the inputs of others meanwhile, they are in evaluation mode.

        :param modules: the modules
        """
        self._learning = modules
        _set_training(modules, True)
        try:
            yield
        finally:
            _set_training(modules, False)
            self._learning = []

    def inputs(self, index: int, rows: th.Tensor | slice) -> Any:
        """
        Return the inputs of a part for some rows.

        :param index: index of the part; the parts below it have finished learning
        :param rows: (B,) indices, or a range
        :return: its inputs
        """
        return self._join(self.network.parts[index].inputs, self._values(self.network.parts[index].inputs, rows))

    def step_rows(self, index: int) -> int:
        """
        Count the rows that a part may take at once: the smaller its inputs, the more.

        :param index: index of the part
        :return: the number of rows
        """
        row_bytes = sum(value.nbytes for value in self._values(self.network.parts[index].inputs, slice(0, 1)).values())
        return self.network.rows_of(max(row_bytes, 1))

    def advance(self, index: int) -> None:
        """
        Keep the new outputs of a part for all rows, if they fit into memory.

        :param index: index of the part, which has finished learning
        """
        part, kept = self.network.parts[index], dict[str, th.Tensor]()
        for chunk in self.chunks:
            given = self._by_name(part.outputs, self.network.steps[index].forward(self.inputs(index, chunk)))
            if not kept:
                kept = self._room(index, given)
                if not kept:
                    self._complete = False
                    return  # the parts that read it compute it again
            for name, value in given.items():
                kept[name][chunk] = value
        self._held.update(kept)
        needed = self._read_above(index, part.outputs)
        self._held = {name: value for name, value in self._held.items() if name in needed}

    def _room(self, index: int, given: dict[str, th.Tensor]) -> dict[str, th.Tensor]:
        """
        Make room for the outputs of a part for all rows.

        :param index: index of the part
        :param given: its outputs for the first chunk
        :return: a tensor for each of them, (N, ...); none if they do not fit
        """
        read, rows = self.network.parts[index].inputs, self.chunks[-1].stop
        if len(read) == len(given) == 1 and read[0] in self._makers and read[0] in self._held:
            # Where nothing else reads the inputs, the outputs take their place, chunk by chunk
            (name, value), spare = *given.items(), self._held[read[0]]
            fits = value.dtype == spare.dtype and value[0].numel() <= spare[0].numel()
            shared = value.untyped_storage().data_ptr() == spare.untyped_storage().data_ptr()
            if fits and not shared and read[0] not in self._read_above(index, [name]):
                return {name: spare.flatten()[: rows * value[0].numel()].view(rows, *value.shape[1:])}
        # A value may have the room of a larger one
        left = self.budget - sum(value.untyped_storage().nbytes() for value in self._held.values())
        if sum(value.nbytes for value in given.values()) * len(self.chunks) > left:
            return {}
        # Joined from chunks, the values would need twice their memory
        return {name: value.new_empty(rows, *value.shape[1:]) for name, value in given.items()}

    def _read_above(self, index: int, made: list[str]) -> set[str]:
        """Find those of the kept values, and of some that are made, that are read after a part."""
        kept = {*self._held, *made}
        if self._complete:
            return {name for name in kept if self._last.get(name, -1) > index}
        readers = [name for later in self.network.parts[index + 1 :] for name in later.inputs]
        return self._needed([*readers, *self.network.tops], kept)

    def tops(self) -> tuple[th.Tensor, th.Tensor]:
        """
        Return the top features, once all parts have learned.

        :return: the features of actor (N, d_pi) and critic (N, d_vf)
        """
        if all(name in self._held for name in self.network.tops):
            # The room of larger values is given back
            actor, critic = (_compact(self._held[name]) for name in self.network.tops)
            return actor, critic
        parts = (self._join(self.network.tops, self._values(self.network.tops, rows)) for rows in self.chunks)
        return collect(parts, self.chunks[-1].stop)

    def _values(self, names: list[str], rows: th.Tensor | slice) -> dict[str, th.Tensor]:
        """Return named values for some rows; layers that have to run for this are in evaluation mode."""
        if all(name in self._held for name in names):
            return {name: self._read(name, rows) for name in names}
        _set_training(self._learning, False)
        passes = [rows] if isinstance(rows, slice) else rows.split(self.network.pass_rows)
        parts = [self._computed(names, part) for part in passes]
        _set_training(self._learning, True)
        return {name: join([part[name] for part in parts]) for name in names}

    def _computed(self, names: list[str], rows: th.Tensor | slice) -> dict[str, th.Tensor]:
        found: dict[str, th.Tensor] = {}
        for name in names:
            self._compute(name, rows, found)
        return {name: found[name] for name in names}

    def _read(self, name: str, rows: th.Tensor | slice) -> th.Tensor:
        # A fifth of the time of indexing
        return self._held[name].index_select(0, rows) if isinstance(rows, th.Tensor) else self._held[name][rows]

    def _compute(self, name: str, rows: th.Tensor | slice, found: dict[str, th.Tensor]) -> None:
        if name in found:
            return
        if name in self._held:
            found[name] = self._read(name, rows)
        elif name not in self._makers:
            self._observe(rows, found)
        else:
            part = self.network.parts[self._makers[name]]
            for own in part.inputs:
                self._compute(own, rows, found)
            given = self.network.steps[self._makers[name]].forward(self._join(part.inputs, found))
            found.update(self._by_name(part.outputs, given))

    def _observe(self, rows: th.Tensor | slice, found: dict[str, th.Tensor]) -> None:
        index = th.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows
        tensors = leaves(prepare(self.network.policy, self._observations(index)))
        found.update(zip(self.network.inputs, tensors, strict=True))

    def _needed(self, names: list[str], kept: set[str]) -> set[str]:
        """Find the kept values that some values are computed from."""
        held = kept.intersection(names)
        makers = {self._makers[name] for name in names if name not in held and name in self._makers}
        return held.union(*(self._needed(self.network.parts[maker].inputs, kept) for maker in makers))

    @staticmethod
    def _join(names: list[str], values: dict[str, th.Tensor]) -> Any:
        return values[names[0]] if len(names) == 1 else tuple(values[name] for name in names)

    @staticmethod
    def _by_name(names: list[str], given: Any) -> dict[str, th.Tensor]:
        return dict(zip(names, given if len(names) > 1 else [given], strict=True))


def _compact(value: th.Tensor) -> th.Tensor:
    return value if value.untyped_storage().nbytes() == value.nbytes else value.clone()


def _set_training(modules: list[nn.Module], training: bool) -> None:
    for module in modules:
        module.training = training
