"""
Train every block on its own local loss, one block after the other from the bottom up: the hidden phase.

The inputs of a block are fixed while it learns: they are the outputs of the blocks below for all rows. Then its new outputs
become inputs of the blocks above. Only values that are still to be read are kept in memory.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch as th
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn

from sb3_forward.local.blocks import Activations, Gradients, LocalStep, Objective
from sb3_forward.local.finite import parameter_problem
from sb3_forward.local.loss import (
    Guidance,
    LinearImage,
    LocalObjective,
    balanced,
    linear_image,
    own_target,
    standardise,
    summarised,
)
from sb3_forward.local.network import HiddenNetwork
from sb3_forward.local.records import BlockRecord
from sb3_forward.local.root import leaves, prepare
from sb3_forward.local.rows import Latents, join

# Two rows have a single distance, which matches any other, so that a step needs at least three
LEAST_ROWS = 3


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
        self._complete = rows * network.row_bytes <= budget  # whether everything is kept so far
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

    def advance(self, index: int) -> None:
        """
        Keep the new outputs of a part for all rows, if they fit into memory.

        :param index: index of the part, which has finished learning
        """
        part, given = self.network.parts[index], []
        left = self.budget - sum(value.nbytes for value in self._held.values())
        for rows in self.chunks:
            given.append(self.network.steps[index].forward(self.inputs(index, rows)))
            if sum(value.nbytes for value in self._by_name(part.outputs, given[0]).values()) * len(self.chunks) > left:
                self._complete = False
                return  # the parts that read it compute it again
        self._held.update(self._by_name(part.outputs, join(given)))
        if self._complete:
            needed = {name for name in self._held if self._last.get(name, -1) > index}
        else:
            readers = [name for later in self.network.parts[index + 1 :] for name in later.inputs]
            needed = self._needed([*readers, *self.network.tops])
        self._held = {name: value for name, value in self._held.items() if name in needed}

    def tops(self) -> tuple[th.Tensor, th.Tensor]:
        """
        Return the top features, once all parts have learned.

        :return: the features of actor (N, d_pi) and critic (N, d_vf)
        """
        if all(name in self._held for name in self.network.tops):
            actor, critic = (self._held[name] for name in self.network.tops)
        else:
            parts = [self._join(self.network.tops, self._values(self.network.tops, rows)) for rows in self.chunks]
            actor, critic = (join(list(features)) for features in zip(*parts, strict=True))
        return actor, critic

    def _values(self, names: list[str], rows: th.Tensor | slice) -> dict[str, th.Tensor]:
        """Return named values for some rows; layers that have to run for this are in evaluation mode."""
        found = {name: self._read(name, rows) for name in names if name in self._held}
        if len(found) < len(set(names)):
            _set_training(self._learning, False)
            for name in names:
                self._compute(name, rows, found)
            _set_training(self._learning, True)
        return found

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

    def _needed(self, names: list[str]) -> set[str]:
        """Find the kept values that some values are computed from."""
        held = {name for name in names if name in self._held}
        makers = {self._makers[name] for name in names if name not in held and name in self._makers}
        return held.union(*(self._needed(self.network.parts[maker].inputs) for maker in makers))

    @staticmethod
    def _join(names: list[str], values: dict[str, th.Tensor]) -> Any:
        return values[names[0]] if len(names) == 1 else tuple(values[name] for name in names)

    @staticmethod
    def _by_name(names: list[str], given: Any) -> dict[str, th.Tensor]:
        return dict(zip(names, given if len(names) > 1 else [given], strict=True))


class HiddenPhase:
    """
    The training of a network's blocks on rows of observations.

    :param network: the policy as blocks
    :param objective: the local loss
    :param epochs: passes of each block over the rows
    :param batch_size: rows of a step
    :param max_grad_norm: clip the gradient norm of each step to this
    :param budget: bytes of block inputs that may be kept in memory
    """

    def __init__(
        self,
        network: HiddenNetwork,
        objective: LocalObjective,
        epochs: int,
        batch_size: int,
        max_grad_norm: float,
        budget: int,
    ) -> None:
        self.network = network
        self.objective = objective
        self.epochs = epochs
        self.batch_size = batch_size
        self.max_grad_norm = max_grad_norm
        self.budget = budget
        self.records: dict[str, BlockRecord] = {}  #: by name of the block, of the last phase

    @th.no_grad()
    def learn(self, observations: Callable[[th.Tensor], PyTorchObs], rows: int, guidance: dict[str, Guidance]) -> Latents:
        """
        Train every block.

        :param observations: maps indices (B,) to these rows, as the rollout buffer holds them
        :param rows: N
        :param guidance: of the rows, (N, k) for actor and critic; empty for unguided blocks
        :return: the new top features of actor (N, d_pi) and critic (N, d_vf)
        :raises ValueError: if a loss is not finite; the weights it would have moved are left as they were
        """
        guides = {role: [standardise(own)] for role, own in guidance.items()}
        guides["shared"] = [own for role in guides.values() for own in role]
        self.records = {}
        # A module of the user's own may stay in evaluation mode
        self.network.policy.set_training_mode(True)
        learning = {module for module in self.network.policy.modules() if module.training}
        # The network is in evaluation mode as in a rollout, except in the steps: dropout off, statistics of BatchNorm fixed
        self.network.policy.set_training_mode(False)
        feed = Feed(self.network, observations, rows, self.budget)
        try:
            for index, block in enumerate(self.network.steps):
                if block.optimizer is not None:
                    assert block.module is not None
                    own = [module for module in block.module.modules() if module in learning]
                    self._train_block(index, feed, rows, guides.get(block.role, []), own)
                feed.advance(index)
        except ValueError as error:
            # No learning rate mends a weight that has come so from elsewhere
            if (problem := parameter_problem(self.network.policy)) is not None:
                raise ValueError(f"{problem}.") from error
            raise
        latents = feed.tops()
        self.network.policy.set_training_mode(True)
        return latents

    def _train_block(self, index: int, feed: Feed, rows: int, guides: list[Guidance], modules: list[nn.Module]) -> None:
        block = self.network.steps[index]
        before = [parameter.clone() for parameter in block.parameters]
        steps: list[LocalStep] = []
        guidance = target = image = None
        for _ in range(self.epochs):
            if guides and self.objective.guidance_coef > 0:
                outputs = th.cat([summarised(block.forward(feed.inputs(index, chunk))) for chunk in feed.chunks])
                if guidance is None:
                    guidance = balanced(outputs, guides)
                image = linear_image(outputs, guidance.wanted)
                if target is None:
                    # For all passes: a change that each of them added to would grow with their number
                    target = own_target(outputs, guidance, image)
            with feed.learning(modules):
                for part in th.randperm(rows, device=self.network.policy.device).split(min(self.batch_size, rows)):
                    if len(part) >= LEAST_ROWS:
                        steps.append(self._step(index, feed, part, target, image))
        if steps:
            losses, norms = zip(*((step.loss, step.grad_norm) for step in steps), strict=True)
            figures = sum(losses) / len(steps), sum(norms) / len(steps), _relative_change(before, block.parameters)
            self.records[block.name] = BlockRecord(*figures, math.nan if image is None else image.explained.item())

    def _step(self, index: int, feed: Feed, rows: th.Tensor, target: th.Tensor | None, image: LinearImage | None) -> LocalStep:
        block = self.network.steps[index]

        def local_loss(part: th.Tensor) -> tuple[Activations, Objective]:
            inputs, wanted = feed.inputs(index, part), None if target is None else target.index_select(0, part)
            return inputs, partial(self.objective.of_minibatch, inputs, wanted, image)

        # The guided loss is a mean over rows, so that the gradients of parts of a batch add up to those of the whole batch
        separate = image is not None and self.objective.guidance_coef == 1 and not block.has_batch_norm
        if len(rows) <= self.network.pass_rows or not separate:
            return block.local_step(*local_loss(rows), self.max_grad_norm)
        loss, gradients = rows.new_zeros((), dtype=th.float), None
        for part in rows.split(self.network.pass_rows):
            _, own_loss, own = block.gradients(*local_loss(part))
            share = len(part) / len(rows)
            loss = loss + share * own_loss
            own = tuple(None if gradient is None else gradient.mul_(share) for gradient in own)
            gradients = own if gradients is None else _sum(gradients, own)
        assert gradients is not None
        return block.step((), loss, gradients, self.max_grad_norm)


def _set_training(modules: list[nn.Module], training: bool) -> None:
    for module in modules:
        module.training = training


def _sum(first: Gradients, second: Gradients) -> Gradients:
    return tuple(None if own is None or other is None else own.add_(other) for own, other in zip(first, second, strict=True))


def _relative_change(before: list[th.Tensor], after: list[nn.Parameter]) -> float:
    """Compute the norm of the change of some tensors over their norm before."""
    change = th.stack([(new - old).norm() for old, new in zip(before, after, strict=True)]).norm()
    return (change / th.stack([old.norm() for old in before]).norm().clamp_min(th.finfo(change.dtype).tiny)).item()
