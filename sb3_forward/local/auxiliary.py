"""
Guide a convolution through an auxiliary layer of its own.

A linear image of feature maps can only say that a pattern in this place moves the policy that way, whatever else there is.
Often that depends on the rest of the image: a bullet means left or right by where the player stands, and its mean over all
states means nothing. A layer of rectified units on the maps can say it, since its units are on in some states and off in
others. So the linear image of the guided loss is one of an auxiliary layer, which learns from this loss, too. The gradient
goes through it into the convolution, and no further. The layer is no part of the policy.

A. Nøkland and L. H. Eidnes, "Training neural networks with local error signals" (2019), and E. Belilovsky, M. Eickenberg and
E. Oyallon, "Decoupled greedy learning of CNNs" (2020), put auxiliary networks before local losses. To let the heads guide one
is our choice, with its measurement in the lab log.
"""

import math
from typing import Any

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import update_learning_rate
from torch import nn

from sb3_forward.local.blocks import SLOPES, Block, Objective
from sb3_forward.local.optimizers import maker_of
from sb3_forward.local.rows import copied

# Units of an auxiliary layer (our choice)
UNITS = 128


class AuxiliaryLayer(Block):
    """
    A layer of rectified units on what is compared of a block's outputs. It learns together with the block.

    :param block: the block
    :param outputs: what is compared of its outputs, (B, d); only their width, type and device are used
    """

    def __init__(self, block: Block, outputs: th.Tensor) -> None:
        layer = nn.Linear(outputs.shape[1], UNITS, device=outputs.device, dtype=outputs.dtype)
        ActorCriticPolicy.init_weights(layer, math.sqrt(2))
        super().__init__(f"{block.name}.auxiliary", block.role, nn.Sequential(layer, nn.ReLU()), layer.parameters())
        self.weight: th.Tensor = layer.weight  #: (128, d)
        self._sums: list[th.Tensor] = []  # of the loss and of the gradients since the last step

    def begin(self, lr: float) -> None:
        """
        Begin a pass; what an update that was broken off has left is dropped.

        :param lr: learning rate, >= 0
        """
        assert self.optimizer is not None
        update_learning_rate(self.optimizer, lr)
        self._sums = []

    def fits(self, outputs: th.Tensor) -> bool:
        """
        Check whether the layer can be used on outputs.

        :param outputs: (B, d)
        :return: whether they have its width and its type
        """
        return outputs.shape[1] == self.weight.shape[1] and outputs.dtype == self.weight.dtype

    def through(self, objective: Objective, share: float) -> Objective:
        """
        Put the layer in front of a loss of its units.

        :param objective: maps the units (B, 128) to their loss and its gradient, (B, 128)
        :param share: of these B rows among those of the step, in (0, 1]
        :return: maps the outputs (B, d) to the loss and its gradient, (B, d); the gradients of the layer's
            weights are kept for its next step
        """

        def of_outputs(outputs: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
            units = self.forward(outputs)
            loss, gradient = objective(units)
            gradient = SLOPES[nn.ReLU](gradient, units)
            own = [loss * share, gradient.T @ outputs * share, gradient.sum(dim=0) * share]
            self._sums = [old + new for old, new in zip(self._sums, own, strict=True)] if self._sums else own
            return loss, gradient @ self.weight

        return of_outputs

    def learn(self, max_grad_norm: float) -> None:
        """
        Make a step on the gradients of all rows since the last one.

        :param max_grad_norm: clip their norm to this
        :raises ValueError: if the loss or its gradient is not finite; no weight has moved then
        """
        loss, *gradients = self._sums
        self._sums = []
        self.step((), loss, tuple(gradients), max_grad_norm)


class AuxiliaryLayers:
    """The auxiliary layers of a network. They are made when they are needed; SB3's ``save`` and ``load`` carry them."""

    def __init__(self) -> None:
        self.layers: dict[str, AuxiliaryLayer] = {}  #: by name of the block

    def __getstate__(self) -> dict[str, Any]:
        return copied(vars(self), th.device("cpu"))  # files may be read on a machine without a GPU

    def __repr__(self) -> str:  # SB3 writes it into its files
        return f"{type(self).__name__}({', '.join(self.layers)})"

    def of(self, policy: ActorCriticPolicy, block: Block, outputs: th.Tensor) -> AuxiliaryLayer:
        """
        Find the layer of a block, or make it, for a pass over its rows.

        :param policy: the policy, whose optimizer the layer's is like
        :param block: the block; its learning rate is the layer's, too
        :param outputs: what is compared of its outputs, (N, d)
        :return: the layer
        """
        layer = self.layers.get(block.name)
        if layer is not None and layer.weight.device != outputs.device:
            self.layers = copied(self.layers, outputs.device)
            layer = self.layers[block.name]
        if layer is None or not layer.fits(outputs):
            layer = self.layers[block.name] = AuxiliaryLayer(block, outputs)
            maker, options = maker_of(policy)
            layer.build_optimizer(maker, 0.0, options)
        assert block.optimizer is not None
        layer.begin(block.optimizer.param_groups[0]["lr"])
        return layer
