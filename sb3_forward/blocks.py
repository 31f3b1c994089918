"""
A block: one parametrised layer and all up to the next, trained by its own optimizer on its own local loss.

No gradient leaves a block: its inputs come detached, its outputs go on detached, and its graph is gone before the
next block's begins.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch as th
from torch import nn

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
    parts = activations.values() if isinstance(activations, dict) else activations
    return th.cat([as_matrix(part).float() for part in parts], dim=1)


class LocalStep(NamedTuple):
    """What one local step did."""

    outputs: Activations  # detached, computed before the step
    loss: float
    grad_norm: float  # before clipping


class Block:
    """
    One hidden layer and what follows it up to the next.

    :param name: how logs and errors call it, for example ``actor.0``
    :param role: whose gradient would have reached it: ``"actor"``, ``"critic"`` or ``"shared"``
    :param forward: maps the inputs (B, ...) to the outputs (B, ...)
    :param parameters: the trainable parameters that ``forward`` reads; none for a plain reshaping
    """

    def __init__(self, name: str, role: str, forward: Callable[[Any], Any], parameters: Iterable[nn.Parameter]) -> None:
        self.name = name
        self.role = role
        self.forward = forward
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.optimizer: th.optim.Optimizer | None = None

    def build_optimizer(self, optimizer_class: type[th.optim.Optimizer], lr: float, kwargs: dict[str, Any]) -> None:
        """
        Give the block its own optimizer (none if it has no parameters).

        :param optimizer_class: class of the optimizer
        :param lr: learning rate, >= 0
        :param kwargs: further arguments of the optimizer, copied
        """
        if self.parameters:
            self.optimizer = build_optimizer(optimizer_class, self.parameters, lr, kwargs)

    def local_step(
        self,
        inputs: Activations,
        target: th.Tensor,
        match: Callable[[th.Tensor, th.Tensor], tuple[th.Tensor, th.Tensor]],
        max_grad_norm: float,
    ) -> LocalStep:
        """
        Forward pass, local loss and one optimizer step of this block alone.

        :param inputs: detached inputs of B >= 2 rows
        :param target: (B, B), what the local loss compares the outputs to
        :param match: the local loss, from outputs (B, d) and target to its value and its gradient (B, d)
        :param max_grad_norm: clip the block's own gradient norm to this
        :return: the outputs computed before the step (detached), the loss and the gradient norm before clipping
        :raises ValueError: if the loss or its gradient is not finite; no weight has moved then
        """
        assert self.optimizer is not None, f"block {self.name} has no parameters to train"
        with th.enable_grad():
            outputs = self.forward(inputs)
            matrix = as_matrix(outputs)
        loss, gradient = match(matrix.detach(), target)
        gradients = th.autograd.grad(matrix, self.parameters, gradient, allow_unused=True)
        found = [part for part in gradients if part is not None]
        value, norm = th.stack([loss, th.nn.utils.get_total_norm(found)]).tolist()
        if not (math.isfinite(value) and math.isfinite(norm)):
            raise ValueError(
                f"The local loss of block {self.name!r} is {value} with a gradient norm of {norm}; its weights "
                "were left as they were. Lower `local_learning_rate`, and bring observations and rewards to a common scale "
                "(VecNormalize)."
            )
        if norm > max_grad_norm:
            for part in found:
                part.mul_(max_grad_norm / norm)
        for parameter, part in zip(self.parameters, gradients, strict=True):
            parameter.grad = part
        self.optimizer.step()
        self.optimizer.zero_grad()  # no gradient outlives its block: memory does not grow with depth
        return LocalStep(detached(outputs), value, norm)


def build_optimizer(
    optimizer_class: type[th.optim.Optimizer], parameters: list[nn.Parameter], lr: float, kwargs: dict[str, Any]
) -> th.optim.Optimizer:
    """
    An optimizer; Adam and AdamW in their fused form on the CPU, which takes a third of the time where parameters are small.

    :param optimizer_class: class of the optimizer
    :param parameters: what it moves
    :param lr: learning rate, >= 0
    :param kwargs: further arguments of the optimizer, copied; one that chooses an implementation is kept to
    :return: the optimizer
    """
    kwargs = dict(kwargs)
    chosen = {"fused", "foreach", "capturable", "differentiable"} & kwargs.keys()
    if optimizer_class in (th.optim.Adam, th.optim.AdamW) and not chosen and parameters[0].device.type == "cpu":
        kwargs["fused"] = True
    return optimizer_class(parameters, lr=lr, **kwargs)  # type: ignore[call-arg]


def detached(activations: Activations) -> Activations:
    """
    The same values without their graph.

    :param activations: a tensor, or a dictionary or tuple of tensors
    :return: detached tensors that share their memory
    """
    if isinstance(activations, th.Tensor):
        return activations.detach()
    if isinstance(activations, dict):
        return {key: value.detach() for key, value in activations.items()}
    return tuple(value.detach() for value in activations)
