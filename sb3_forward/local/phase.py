"""
Train every block on its own local loss, one block after the other from the bottom up: the hidden phase.

The inputs of a block are fixed while it learns: they are the outputs of the blocks below for all rows. Then its new outputs
become inputs of the blocks above. Only values that are still to be read are kept in memory.
"""

import math
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import NamedTuple

import torch as th
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn

from sb3_forward.local.auxiliary import AuxiliaryLayer, AuxiliaryLayers
from sb3_forward.local.blocks import Block, Gradients, LocalStep
from sb3_forward.local.feed import Feed
from sb3_forward.local.finite import parameter_problem
from sb3_forward.local.loss import (
    Activations,
    Guidance,
    LinearImage,
    LocalObjective,
    Objective,
    as_matrix,
    balanced,
    guided,
    is_maps,
    linear_image,
    own_target,
    standardise,
    summarised,
)
from sb3_forward.local.network import HiddenNetwork
from sb3_forward.local.records import BlockRecord
from sb3_forward.local.rows import Latents, join

# Two rows have a single distance, which matches any other, so that a step needs at least three
LEAST_ROWS = 3
# A block with at least this share of outputs that never change is taken for switched off. Backpropagation leaves layers with
# more than half of them (our choice)
SWITCHED_OFF = 0.9


class Goal(NamedTuple):
    """The goal of a block in a pass over N rows."""

    target: th.Tensor  # (N, k)
    image: LinearImage
    layer: AuxiliaryLayer | None  # what the image is of; None for the block's outputs themselves

    def of(self, rows: th.Tensor, share: float) -> Objective:
        """
        Make the guided loss of some rows.

        :param rows: (B,) indices
        :param share: B over the number of rows of the step
        :return: the loss
        """
        own = partial(guided, target=self.target.index_select(0, rows), image=self.image)
        return own if self.layer is None else self.layer.through(own, share)


class HiddenPhase:
    """
    The training of a network's blocks on rows of observations.

    :param network: the policy as blocks
    :param objective: the local loss
    :param epochs: passes of each block over the rows
    :param batch_size: rows of a step
    :param max_grad_norm: clip the gradient norm of each step to this
    :param budget: bytes of block inputs that may be kept in memory
    :param auxiliary: the auxiliary layers of the network, which learn with the blocks
    """

    def __init__(
        self,
        network: HiddenNetwork,
        objective: LocalObjective,
        epochs: int,
        batch_size: int,
        max_grad_norm: float,
        budget: int,
        auxiliary: AuxiliaryLayers,
    ) -> None:
        self.network = network
        self.objective = objective
        self.epochs = epochs
        self.batch_size = batch_size
        self.max_grad_norm = max_grad_norm
        self.budget = budget
        self.auxiliary = auxiliary
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
        guides = {role: standardise(own) for role, own in guidance.items()}
        if guides:
            guides["shared"] = balanced(list(guides.values()))
            # Nothing else needs the critic's own blocks, so that they learn all of the returns
            guides["critic"] = Guidance.whole(guides["critic"].wanted)
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
                    self._train_block(index, feed, rows, guides.get(block.role), own)
                feed.advance(index)
        except ValueError as error:
            # No learning rate mends a weight that has come so from elsewhere
            if (problem := parameter_problem(self.network.policy)) is not None:
                raise ValueError(f"{problem}.") from error
            raise
        latents = feed.tops()
        self.network.policy.set_training_mode(True)
        return latents

    def _train_block(self, index: int, feed: Feed, rows: int, guidance: Guidance | None, modules: list[nn.Module]) -> None:
        block = self.network.steps[index]
        before = [parameter.clone() for parameter in block.parameters]
        figures: list[tuple[float, float]] = []  # no step's outputs are kept
        target = goal = None
        constant = math.nan
        most = feed.step_rows(index)
        centring = block.centring if is_maps(feed.inputs(index, slice(0, 1))) else None
        for _ in range(self.epochs):
            if guidance is not None and self.objective.guidance_coef > 0:
                outputs, layer, constant = self._outputs(index, feed)
                image = linear_image(outputs, guidance.wanted if layer is None else guidance.known)
                if target is None:
                    # For all passes: a change that each of them added to would grow with their number
                    target = own_target(outputs, guidance, image)
                goal = Goal(target, image, layer)
            with feed.learning(modules), nullcontext() if centring is None else centring.watching():
                for part in th.randperm(rows, device=self.network.policy.device).split(min(self.batch_size, rows)):
                    if len(part) >= LEAST_ROWS:
                        figures.append(self._step(index, feed, part, goal, most)[1:])
        if figures:
            loss, norm = (sum(column) / len(figures) for column in zip(*figures, strict=True))
            explained = math.nan if goal is None else goal.image.explained.item()
            movement = _relative_change(before, block.parameters)
            self.records[block.name] = BlockRecord(loss, norm, movement, explained, constant)

    def _outputs(self, index: int, feed: Feed) -> tuple[th.Tensor, AuxiliaryLayer | None, float]:
        """
        Compute what is guided of a block, (N, d): its outputs, or the units of a convolution's auxiliary layer.

        :param index: index of the block
        :param feed: its inputs
        :return: that, the auxiliary layer, and the share of the block's outputs that are the same for all rows
        """
        block, parts = self.network.steps[index], list[th.Tensor]()
        layer: AuxiliaryLayer | None = None
        first: th.Tensor | None = None
        varies = th.zeros((), dtype=th.bool, device=self.network.policy.device)
        for chunk in feed.chunks:
            given = block.forward(feed.inputs(index, chunk))
            compared = summarised(given)
            if first is None:
                first = compared[:1].clone()
                if is_maps(given):
                    layer = self.auxiliary.of(self.network.policy, block, compared)
            varies = varies | (compared != first).any(dim=0)
            # Units are a fraction of the maps that they are computed from
            parts.append(compared if layer is None else layer.forward(compared))
        if is_maps(given):
            varies = varies.unflatten(0, (-1, given.shape[1])).any(dim=0)  # a channel does in some of its places
        constant = 1 - varies.float().mean().item()
        if constant >= SWITCHED_OFF:
            _warn_of_constant(block, as_matrix(feed.inputs(index, feed.chunks[0])))
        return join(parts), layer, constant

    def _step(self, index: int, feed: Feed, rows: th.Tensor, goal: Goal | None, most: int) -> LocalStep:
        block = self.network.steps[index]

        def local_loss(part: th.Tensor) -> tuple[Activations, Objective]:
            inputs, guided_loss = feed.inputs(index, part), None if goal is None else goal.of(part, len(part) / len(rows))
            return inputs, partial(self.objective.of_minibatch, inputs, guided_loss)

        # The guided loss is a mean over rows, so that the gradients of parts of a batch add up to those of the whole batch
        separate = goal is not None and self.objective.guidance_coef == 1 and not block.has_batch_norm
        parts = rows.split(most) if separate else (rows,)
        if len(parts) == 1:
            step = block.local_step(*local_loss(rows), self.max_grad_norm)
        else:
            step = self._step_in_parts(block, local_loss, parts)
        if goal is not None and goal.layer is not None:
            goal.layer.learn(self.max_grad_norm)
        return step

    def _step_in_parts(
        self,
        block: Block,
        local_loss: Callable[[th.Tensor], tuple[Activations, Objective]],
        parts: tuple[th.Tensor, ...],
    ) -> LocalStep:
        rows = sum(map(len, parts))
        loss, gradients = parts[0].new_zeros((), dtype=th.float), None
        for part in parts:
            _, own_loss, own = block.gradients(*local_loss(part))
            share = len(part) / rows
            loss = loss + share * own_loss
            own = tuple(None if gradient is None else gradient.mul_(share) for gradient in own)
            gradients = own if gradients is None else _sum(gradients, own)
        assert gradients is not None
        return block.step((), loss, gradients, self.max_grad_norm)


def _warn_of_constant(block: Block, inputs: th.Tensor) -> None:
    if (inputs != inputs[:1]).any():
        warnings.warn(  # Python shows a text once
            f"Nearly all outputs of block {block.name!r} are the same for all rows, so that it learns no more. Begin "
            "again with a lower `local_learning_rate`; if it is so from the start, bring the observations to a common "
            "scale (VecNormalize).",
            stacklevel=2,
        )


def _sum(first: Gradients, second: Gradients) -> Gradients:
    return tuple(None if own is None or other is None else own.add_(other) for own, other in zip(first, second, strict=True))


def _relative_change(before: list[th.Tensor], after: list[nn.Parameter]) -> float:
    """Compute the norm of the change of some tensors over their norm before."""
    change = th.stack([(new - old).norm() for old, new in zip(before, after, strict=True)]).norm()
    return (change / th.stack([old.norm() for old in before]).norm().clamp_min(th.finfo(change.dtype).tiny)).item()
