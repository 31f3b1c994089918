"""
Compute the action head's forward and backward pass in closed form, without a graph.

A minibatch takes a few operations, where distribution objects and automatic differentiation take dozens. The closed form
covers a linear head with categorical or diagonal Gaussian actions. All others go through the policy's own distribution; where
both apply, they agree up to rounding.
"""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch as th
from stable_baselines3.common.distributions import CategoricalDistribution, DiagGaussianDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from sb3_forward.local.loss import Guidance
from sb3_forward.policies import SparingCategorical

HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


class HeadOutputs(NamedTuple):
    """The outputs of the heads for B rows."""

    log_prob: th.Tensor  # (B,) of the actions taken
    entropy: th.Tensor  # (B,)
    values: th.Tensor | None = None  # (B,), None where they are not trained on the gradient of a loss

    @classmethod
    def of(cls, log_prob: th.Tensor, entropy: th.Tensor | None, values: th.Tensor | None) -> "HeadOutputs":
        """
        Make the outputs from those of a policy.

        :param log_prob: (B,) of the actions taken
        :param entropy: (B,), None without a closed form; it is then estimated from the log-probabilities, as SB3 does
        :param values: (B, 1) or (B,), None where they are not trained on the gradient of a loss
        :return: the outputs
        """
        return cls(log_prob, -log_prob if entropy is None else entropy, None if values is None else values.flatten())

    def detached(self) -> "HeadOutputs":
        """Detach the outputs from their graph."""
        values = None if self.values is None else self.values.detach()
        return HeadOutputs(self.log_prob.detach(), self.entropy.detach(), values)


class Slopes(NamedTuple):
    """Derivatives of the loss with respect to the outputs of the heads, in the same order."""

    log_prob: th.Tensor  # (B,)
    entropy: float  # the same for each row
    values: th.Tensor | None = None  # (B,)


Backward = Callable[[Slopes], None]


def applies(policy: ActorCriticPolicy) -> bool:
    """
    Check whether the closed form applies to a policy.

    :param policy: an actor-critic policy, both heads of which are linear
    :return: whether :func:`forward` computes the outputs of the policy's own distribution
    """
    if type(policy)._get_action_dist_from_latent is not ActorCriticPolicy._get_action_dist_from_latent:
        return False
    if type(policy.action_dist) is DiagGaussianDistribution:
        return policy.log_std.requires_grad
    return _is_categorical(policy)


def forward(
    policy: ActorCriticPolicy, latent_pi: th.Tensor, actions: th.Tensor, scale: th.Tensor | None = None
) -> tuple[HeadOutputs, Backward]:
    """
    Compute the outputs of the action head, and prepare its backward pass.

    :param policy: a policy that :func:`applies` to
    :param latent_pi: (B, d_pi) inputs of the action head
    :param actions: (B,) for Discrete, else (B, k)
    :param scale: (k,) units of the head's outputs; None if all are one
    :return: the outputs, and a function that takes the slopes of a loss and writes the gradients of the head's parameters
    """
    head = policy.action_net
    assert isinstance(head, nn.Linear)
    outputs = th.addmm(head.bias, latent_pi, head.weight.T)
    if scale is not None:
        outputs.mul_(scale)
    terms = _categorical if _is_categorical(policy) else _gaussian
    log_prob, entropy, pull = terms(policy, outputs, actions)

    def backward(slopes: Slopes) -> None:
        output_slopes = pull(slopes)
        if scale is not None:
            output_slopes.mul_(scale)
        th.mm(output_slopes.T, latent_pi, out=head.weight.grad)
        th.sum(output_slopes, dim=0, out=head.bias.grad)

    return HeadOutputs(log_prob, entropy), backward


@th.no_grad()
def actor_guidance(policy: ActorCriticPolicy, latent_pi: th.Tensor, actions: th.Tensor, advantages: th.Tensor) -> Guidance:
    """
    Compute :func:`sb3_forward.heads.guidance.actor_guidance` in closed form.

    :param policy: a policy that :func:`applies` to
    :param latent_pi: (N, d_pi) inputs of the action head
    :param actions: (N,) for Discrete, else (N, k)
    :param advantages: (N,)
    :return: (N, k)
    """
    outputs, weights = policy.action_net(latent_pi), advantages[:, None]
    if _is_categorical(policy):
        return Guidance(outputs, (-weights * outputs.softmax(dim=1)).scatter_add_(1, actions[:, None], weights))
    inverse_std = th.exp(-policy.log_std)
    return Guidance(outputs * inverse_std, weights * (actions - outputs) * inverse_std)


def _is_categorical(policy: ActorCriticPolicy) -> bool:
    return type(policy.action_dist) in (CategoricalDistribution, SparingCategorical)


Terms = tuple[th.Tensor, th.Tensor, Callable[[Slopes], th.Tensor]]


def _categorical(policy: ActorCriticPolicy, logits: th.Tensor, actions: th.Tensor) -> Terms:
    log_probs = th.log_softmax(logits, dim=1)
    probs = log_probs.exp()
    entropy = -(probs * log_probs).sum(dim=1)
    taken = actions[:, None]

    def pull(slopes: Slopes) -> th.Tensor:
        # d log_prob / d logits = onehot - probs; d entropy / d logits = -probs (log_probs + entropy)
        onto = slopes.log_prob[:, None]
        rate = onto + slopes.entropy * (log_probs + entropy[:, None])
        return (-probs * rate).scatter_add_(1, taken, onto)

    return log_probs.gather(1, taken).squeeze(1), entropy, pull


def _gaussian(policy: ActorCriticPolicy, means: th.Tensor, actions: th.Tensor) -> Terms:
    log_std = policy.log_std.detach()
    inverse_std = th.exp(-log_std)
    noise = (actions - means) * inverse_std
    spread = log_std.sum()
    dimensions = means.shape[1]
    log_prob = -0.5 * noise.square().sum(dim=1) - (spread + dimensions * HALF_LOG_TWO_PI)
    entropy = (spread + dimensions * (0.5 + HALF_LOG_TWO_PI)).expand(len(means))

    def pull(slopes: Slopes) -> th.Tensor:
        # d log_prob / d mean = noise / std; d log_prob / d log_std = noise^2 - 1; d entropy / d log_std = 1
        onto = slopes.log_prob[:, None]
        assert policy.log_std.grad is not None
        th.sum(onto * (noise.square() - 1) + slopes.entropy, dim=0, out=policy.log_std.grad)
        return onto * noise * inverse_std

    return log_prob, entropy, pull


def through_graph(parameters: Iterable[nn.Parameter], outputs: HeadOutputs, slopes: Slopes) -> None:
    """
    Write the gradients of the heads' parameters by automatic differentiation of their outputs.

    :param parameters: parameters of the heads; those that the loss does not read end without a gradient, and so stay as they
        are: a gradient of zero could let their weights decay
    :param outputs: outputs with their graph
    :param slopes: slopes of the loss
    """
    for parameter in parameters:
        parameter.grad = None
    entropy_slope = th.full_like(outputs.entropy, slopes.entropy)
    pairs = [(outputs.log_prob, slopes.log_prob), (outputs.entropy, entropy_slope), (outputs.values, slopes.values)]
    # A head may be frozen
    differentiable = [(end, slope) for end, slope in pairs if end is not None and slope is not None and end.requires_grad]
    if differentiable:
        ends, starts = zip(*differentiable, strict=True)
        th.autograd.backward(ends, starts)


def flat(parameters: list[nn.Parameter]) -> th.Tensor:
    """
    Give parameters gradients that are views of one tensor.

    :param parameters: the parameters, at least one
    :return: the tensor of gradients, (K,)
    """
    whole = th.zeros(sum(p.numel() for p in parameters), dtype=parameters[0].dtype, device=parameters[0].device)
    for parameter, part in zip(parameters, whole.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = part.view_as(parameter)
    return whole
