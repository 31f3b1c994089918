"""
The hidden phase: every block learns from its own local loss, block by block from the bottom up.

A block learns on inputs that stand still, the outputs of the block below on all rows, and hands its own new outputs on. One
block's inputs and outputs are all that is held at a time.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch as th
from stable_baselines3.common.type_aliases import PyTorchObs

from sb3_forward.local.blocks import Activations, Gradients, LocalStep, Objective
from sb3_forward.local.distances import DISPARITIES, LOCAL_LOSSES, Configuration
from sb3_forward.local.finite import parameter_problem
from sb3_forward.local.guided import LinearImage, guided, linear_image, standardise
from sb3_forward.local.maps import summarised
from sb3_forward.local.network import Feed, HiddenNetwork
from sb3_forward.local.rows import Latents, join

# Two rows have a single distance, which matches any other: nothing is learned from fewer than these
LEAST_ROWS = 3


class LocalObjective(NamedTuple):
    """What the blocks learn from; see the parameters of :class:`~sb3_forward.ppo.ForwardPPO`."""

    guidance_coef: float
    local_loss: str
    disparity: str

    def unguided(self, inputs: th.Tensor, outputs: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """
        Match the distances of a minibatch to those of its inputs.

        :param inputs: (B, d) of a block
        :param outputs: (B, d') of it
        :return: the loss and its gradient with respect to the outputs, (B, d')
        """
        loss = LOCAL_LOSSES[self.local_loss]
        inputs = inputs.to(outputs.dtype)
        return loss.match(outputs, loss.target(DISPARITIES[self.disparity](Configuration(inputs).distances)))


class BlockRecord(NamedTuple):
    """What one block did in a hidden phase."""

    loss: float  # mean over its steps
    grad_norm: float  # mean over its steps, before clipping
    movement: float  # norm of the change of its parameters over their norm before
    explained: float  # R2 of the guidance before its last pass; NaN without guidance


class HiddenPhase:
    """
    Trains the blocks of a network on rows of observations.

    :param network: the policy as blocks
    :param objective: what the blocks learn from
    :param epochs: passes of each block over the rows
    :param batch_size: rows of a step
    :param max_grad_norm: clip the gradient norm of each step to this
    :param budget: bytes of what blocks read that may be held
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
    def learn(self, observations: Callable[[th.Tensor], PyTorchObs], rows: int, guidance: dict[str, th.Tensor]) -> Latents:
        """
        Train every block.

        :param observations: from indices (B,) to these rows, as the rollout buffer holds them
        :param rows: N
        :param guidance: what the heads should say of the rows, (N, k) for actor and critic; none for unguided blocks
        :return: the new top features of actor (N, d_pi) and critic (N, d_vf)
        :raises ValueError: if a loss is not finite; the weights it would have moved are left as they were
        """
        signals = {role: standardise(signal) for role, signal in guidance.items()}
        if signals:
            # Either counts as much, whatever its number of columns; a column has a variance of one in the mean
            columns = sum(signal.shape[1] for signal in signals.values()) / len(signals)
            signals["shared"] = th.cat([signal * math.sqrt(columns / signal.shape[1]) for signal in signals.values()], dim=1)
        self.records = {}
        # As in a rollout, but in the steps: dropout off, statistics of BatchNorm at rest
        self.network.policy.set_training_mode(False)
        feed = Feed(self.network, observations, rows, self.budget)
        try:
            for index, block in enumerate(self.network.steps):
                if block.optimizer is not None:
                    self._train_block(index, feed, rows, signals.get(block.role))
                feed.advance(index)
        except ValueError as error:
            # No learning rate mends a weight that has come so from elsewhere
            if (problem := parameter_problem(self.network.policy)) is not None:
                raise ValueError(f"{problem}.") from error
            raise
        latents = feed.tops()
        self.network.policy.set_training_mode(True)
        return latents

    def _train_block(self, index: int, feed: Feed, rows: int, signal: th.Tensor | None) -> None:
        block = self.network.steps[index]
        before = [parameter.clone() for parameter in block.parameters]
        steps: list[LocalStep] = []
        explained: th.Tensor | float = math.nan
        for _ in range(self.epochs):
            image = None
            if signal is not None and self.objective.guidance_coef > 0:
                outputs = (summarised(block.forward(feed.inputs(index, chunk))) for chunk in feed.chunks)
                image = linear_image(join(list(outputs)), signal)
                explained = image.explained
            self.network.policy.set_training_mode(True)
            for part in th.randperm(rows, device=self.network.policy.device).split(min(self.batch_size, rows)):
                if len(part) >= LEAST_ROWS:
                    steps.append(self._step(index, feed, part, signal, image))
            self.network.policy.set_training_mode(False)
        if steps:
            losses, norms = zip(*((step.loss, step.grad_norm) for step in steps), strict=True)
            self.records[block.name] = BlockRecord(
                sum(losses) / len(steps), sum(norms) / len(steps), relative_change(before, block.parameters), float(explained)
            )

    def _step(self, index: int, feed: Feed, rows: th.Tensor, signal: th.Tensor | None, image: LinearImage | None) -> LocalStep:
        block = self.network.steps[index]

        def local_loss(part: th.Tensor) -> tuple[Activations, Objective]:
            inputs = feed.inputs(index, part)
            return inputs, self._objective(inputs, None if signal is None else signal[part], image)

        # The guided loss is a mean over rows: so many at a time as a pass takes have the same gradients, together
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

    def _objective(self, inputs: Activations, signal: th.Tensor | None, image: LinearImage | None) -> Objective:
        """The local loss of a minibatch: what is compared of a block's outputs (B, d) to its value and its gradient (B, d)."""

        def objective(outputs: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
            if image is None or signal is None:
                return self.objective.unguided(summarised(inputs), outputs)
            loss, gradient = guided(outputs, signal, image)
            if (coef := self.objective.guidance_coef) < 1:
                own_loss, own_gradient = self.objective.unguided(summarised(inputs), outputs)
                loss, gradient = own_loss.lerp(loss, coef), own_gradient.lerp(gradient, coef)
            return loss, gradient

        return objective


def _sum(first: Gradients, second: Gradients) -> Gradients:
    return tuple(None if own is None or other is None else own.add_(other) for own, other in zip(first, second, strict=True))


def relative_change(before: list[th.Tensor], after: list[th.nn.Parameter]) -> float:
    """
    :param before: tensors
    :param after: what they have become
    :return: norm of the change over the norm before
    """
    change = th.stack([(new - old).norm() for old, new in zip(before, after, strict=True)]).norm()
    return (change / th.stack([old.norm() for old in before]).norm().clamp_min(th.finfo(change.dtype).tiny)).item()
