"""
Define a block: one parametrised layer and everything up to the next one, with its own optimizer and its own local loss.

No gradient leaves a block. Its inputs come detached, its outputs go on detached, and its graph is freed before that of the
next block is built.
"""

import math
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch as th
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from sb3_forward.local.centring import Centring
from sb3_forward.local.loss import Activations, Objective, is_maps, summarised
from sb3_forward.local.optimizers import Maker, build_optimizer, start_at_scale


class LocalStep(NamedTuple):
    """The outcome of one local step."""

    outputs: Activations  # detached, computed before the step
    loss: float
    grad_norm: float  # before clipping


# Maps the gradient (B, d) of what is compared of the outputs to the gradients of a block's parameters, None for one without
Gradients = tuple[th.Tensor | None, ...]
Pull = Callable[[th.Tensor], Gradients]
# Maps the gradient of an activation's outputs, and these outputs, to the gradient of its inputs
Slope = Callable[[th.Tensor, th.Tensor], th.Tensor]

SLOPES: dict[type[nn.Module], Slope] = {
    nn.Tanh: th.ops.aten.tanh_backward,
    nn.Sigmoid: th.ops.aten.sigmoid_backward,
    nn.ReLU: lambda gradient, outputs: th.ops.aten.threshold_backward(gradient, outputs, 0),
}


class Block:
    """
    One hidden layer and everything up to the next one.

    :param name: name in logs and errors, for example ``actor.0``
    :param role: heads that backpropagation would send a gradient from: ``"actor"``, ``"critic"`` or ``"shared"`` for both
    :param forward: maps the inputs (B, ...) to the outputs (B, ...)
    :param parameters: the trainable parameters that ``forward`` reads; none for a plain reshaping
    """

    def __init__(self, name: str, role: str, forward: Callable[[Any], Any], parameters: Iterable[nn.Parameter]) -> None:
        self.name = name
        self.role = role
        self.forward = forward
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.optimizer: th.optim.Optimizer | None = None
        self._convolution = _convolution(forward)
        #: the module that runs, if there is one: ``forward`` itself, or the module of the part whose ``forward`` it is
        self.module: nn.Module | None = forward if isinstance(forward, nn.Module) else None
        if self.module is None:
            self.module = getattr(getattr(forward, "__self__", None), "module", None)
        linear = _linear(self.module, self.parameters)
        self._dense = _dense(forward, linear)
        #: of its steps, if the block is a linear layer and what has no parameters
        self.centring = None if linear is None else Centring(linear)
        #: whether the outputs for a row depend on the other rows of its batch
        self.has_batch_norm = self.module is not None and any(isinstance(own, _BatchNorm) for own in self.module.modules())

    def __repr__(self) -> str:
        modules = [] if self.module is None else self.module.modules()
        layers = [repr(own) for own in modules if not list(own.children())]
        optimizer = [] if self.optimizer is None else [type(self.optimizer).__name__]
        return f"{self.name} ({', '.join([self.role, *optimizer])}): {', '.join(layers)}"

    def build_optimizer(self, maker: Maker, lr: float, kwargs: dict[str, Any]) -> None:
        """
        Give the block its own optimizer (none if it has no parameters).

        :param maker: class of the optimizer, or a function that makes one
        :param lr: learning rate, >= 0
        :param kwargs: further arguments of the optimizer, copied
        """
        if self.parameters:
            self.optimizer = build_optimizer(maker, self.parameters, lr, kwargs)

    def local_step(
        self,
        inputs: Activations,
        objective: Objective,
        max_grad_norm: float,
    ) -> LocalStep:
        """
        Run the block forward, compute its local loss, and make one optimizer step of this block alone.

        :param inputs: detached inputs of B rows
        :param objective: the local loss
        :param max_grad_norm: clip the block's own gradient norm to this
        :return: the outputs computed before the step (detached), the loss and the gradient norm before clipping
        :raises ValueError: if the loss or its gradient is not finite; no weight has moved then
        """
        outputs, loss, gradients = self.gradients(inputs, objective)
        return self.step(outputs, loss, gradients, max_grad_norm)

    def gradients(self, inputs: Activations, objective: Objective) -> tuple[Activations, th.Tensor, Gradients]:
        """
        Run the block forward, and compute its local loss.

        :param inputs: detached inputs of B rows
        :param objective: the local loss
        :return: the outputs (detached), the loss, and its gradients with respect to the parameters
        """
        outputs, compared, pull = self._run_dense(inputs) if self._is_dense(inputs) else self._run(inputs)
        loss, gradient = objective(compared)
        return outputs, loss, pull(gradient)

    def step(self, outputs: Activations, loss: th.Tensor, gradients: Gradients, max_grad_norm: float) -> LocalStep:
        """
        Make one optimizer step.

        :param outputs: the outputs that the loss was computed from, passed on to the result
        :param loss: the local loss
        :param gradients: its gradients, overwritten
        :param max_grad_norm: clip their norm to this
        :return: the outcome of the step
        :raises ValueError: if the loss or a gradient is not finite; no weight has moved then
        """
        with nullcontext() if self.centring is None else self.centring.step(gradients):
            return self._step(outputs, loss, gradients, max_grad_norm)

    def _step(self, outputs: Activations, loss: th.Tensor, gradients: Gradients, max_grad_norm: float) -> LocalStep:
        assert self.optimizer is not None, f"block {self.name} has no parameters to train"
        found = [part for part in gradients if part is not None]
        value, *norms = th.stack([loss, *(th.linalg.vector_norm(part) for part in found)]).tolist()
        norm = math.hypot(*norms)
        if not (math.isfinite(value) and math.isfinite(norm)):
            raise ValueError(
                f"The local loss of block {self.name!r} is {value} with a gradient norm of {norm}; its weights "
                "were left as they were. Lower `local_learning_rate`, and bring observations and rewards to a common scale "
                "(VecNormalize)."
            )
        if norm > max_grad_norm:
            for part in found:
                part.mul_(max_grad_norm / norm)
        for parameter, own in zip(self.parameters, gradients, strict=True):
            parameter.grad = own
        start_at_scale(self.optimizer)
        self.optimizer.step()
        for parameter in self.parameters:
            parameter.grad = None  # no gradient outlives its block: memory does not grow with depth
        return LocalStep(outputs, value, norm)

    def _run(self, inputs: Activations) -> tuple[Activations, th.Tensor, Pull]:
        """
        Run the block.

        :param inputs: detached inputs of B rows
        :return: the outputs and what is compared of them, (B, d), both detached; and a function that pulls the gradient of the
            latter back through the graph
        """
        convolves = self._convolution and not any(map(hooked, self._convolution))
        if convolves and is_maps(inputs) and inputs.device.type == "cpu":
            # The gradient of the weights takes down to a third of the time
            inputs = inputs.contiguous(memory_format=th.channels_last)
        with th.enable_grad():
            outputs = self.forward(inputs)
            compared = summarised(outputs)

        def pull(gradient: th.Tensor) -> tuple[th.Tensor | None, ...]:
            # Gradients pass through `.grad` as under SB3, so that a user's hooks see them and may change them
            th.autograd.backward(compared, gradient, inputs=self.parameters)
            found = tuple(parameter.grad for parameter in self.parameters)
            for parameter in self.parameters:
                parameter.grad = None
            return found

        return detached(outputs), compared.detach(), pull

    def _is_dense(self, inputs: Activations) -> bool:
        """Check whether :meth:`_run_dense` computes exactly what the block computes."""
        if self._dense is None or not isinstance(self.forward, nn.Module) or not isinstance(inputs, th.Tensor):
            return False
        watched = any(map(hooked, (self.forward, *self._dense))) or gradient_hooks(self.parameters)
        return not watched and inputs.ndim == 2 and inputs.dtype == self._dense[0].weight.dtype

    @th.no_grad()
    def _run_dense(self, inputs: Any) -> tuple[th.Tensor, th.Tensor, Pull]:
        """Do what :meth:`_run` does for a linear layer and its activation; small layers take half the time."""
        assert self._dense is not None
        layer, activation = self._dense
        outputs = activation(th.addmm(layer.bias, inputs, layer.weight.T))

        def pull(gradient: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
            gradient = SLOPES[type(activation)](gradient, outputs)
            return gradient.T @ inputs, gradient.sum(dim=0)

        return outputs, outputs, pull


def _linear(module: nn.Module | None, parameters: list[nn.Parameter]) -> nn.Linear | None:
    """Return the linear layer whose weights and intercept are all that a block learns, or None if there is none."""
    for layer in () if module is None else module.modules():
        if type(layer) is nn.Linear and list(map(id, parameters)) == [id(layer.weight), id(layer.bias)]:
            return layer
    return None


def _dense(forward: Callable[[Any], Any], linear: nn.Linear | None) -> tuple[nn.Linear, nn.Module] | None:
    """Return the linear layer and the activation that a block consists of, or None if it consists of anything else."""
    if linear is None or type(forward) is not nn.Sequential or len(forward) != 2:
        return None
    layer, activation = forward
    return (linear, activation) if layer is linear and type(activation) in SLOPES else None


def _convolution(forward: Callable[[Any], Any]) -> list[nn.Module]:
    """Return the modules of a block that is a convolution and its activation, which take inputs in any memory format."""
    if type(forward) is not nn.Sequential:
        return []
    layer, *activations = forward
    known = type(layer) is nn.Conv2d and all(type(own) in SLOPES for own in activations)
    return [forward, layer, *activations] if known else []


def hooked(module: nn.Module) -> bool:
    """
    Check whether a module has hooks.

    :param module: a module
    :return: whether a user's function sees its inputs, its outputs or their gradients
    """
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks)


def gradient_hooks(parameters: Iterable[nn.Parameter]) -> bool:
    """
    Check whether parameters have hooks.

    :param parameters: some parameters
    :return: whether a user's function sees the gradient of one of them
    """
    return any(own._backward_hooks or own._post_accumulate_grad_hooks for own in parameters)


def detached(activations: Activations) -> Activations:
    """
    Detach activations from their graph.

    :param activations: a tensor, or a dictionary or tuple of tensors
    :return: detached tensors that share memory with the given ones
    """
    if isinstance(activations, th.Tensor):
        return activations.detach()
    if isinstance(activations, dict):
        return {key: value.detach() for key, value in activations.items()}
    return tuple(value.detach() for value in activations)
