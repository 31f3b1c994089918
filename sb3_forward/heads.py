"""
The heads: the linear maps from the top features to the action distribution and to the value.

They alone see the policy-gradient loss. The features under them are constant, so each head is a linear model, and what
slows its training is the correlation of its inputs: the optimizer therefore works in whitened coordinates of the
features (our choice).
"""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn
from torch.distributions import Normal

# Directions of the features with less than this share of the mean variance are damped, not blown up (our choice)
WHITENING_RIDGE = 0.1
# Penalty on a refit's change of the weights, relative to the mean sum of squares of the features (our choice)
REFIT_RIDGE = 1e-3


# Features of actor and critic, as SB3 calls them
LATENTS = ("latent_pi", "latent_vf")


class CachedRollout(NamedTuple):
    """A rollout as the heads see it: features in place of observations; N rows each."""

    latent_pi: th.Tensor  # (N, d_pi)
    latent_vf: th.Tensor  # (N, d_vf)
    actions: th.Tensor  # (N,) for Discrete, else (N, action_dim)
    old_values: th.Tensor
    old_log_prob: th.Tensor
    advantages: th.Tensor
    returns: th.Tensor

    def minibatch(self, rows: th.Tensor) -> "CachedRollout":
        """
        :param rows: (B,) indices
        :return: these rows of everything
        """
        return CachedRollout(*(column[rows] for column in self))


class Whitening:
    """
    Whitened coordinates of one linear head's inputs: the optimizer sees ``logits = (features - mean) S W~^T + b~`` with
    ``S S^T`` the inverse of the features' ridged covariance.

    The features themselves and the head's weights stay as they are; gradients are mapped in, updates are mapped out.

    :param head: the linear head
    :param features: (N, d) inputs of the head
    :param weights: (N,) of these rows in mean and covariance, their sum is one
    """

    def __init__(self, head: nn.Linear, features: th.Tensor, weights: th.Tensor) -> None:
        self.head = head
        self.mean = weights @ features
        centred = features - self.mean
        covariance = centred.T @ (weights[:, None] * centred)
        variance = covariance.diagonal().mean()
        # Few rows say little about a covariance: they must not blow up what they do not show
        ridge = WHITENING_RIDGE * variance + (self.mean.square().mean() + variance) / len(features)
        ridge = ridge.clamp_min(th.finfo(features.dtype).eps)
        # The ridge goes in first: in single precision the decomposition of a rank-deficient matrix can come out as NaN
        eigenvalues, eigenvectors = th.linalg.eigh(covariance + ridge * th.eye(len(covariance), device=ridge.device))
        self.basis = (eigenvectors * eigenvalues.clamp_min(ridge).rsqrt()) @ eigenvectors.T

    def map_gradient_in(self) -> None:
        """Replace the gradient with respect to the weights by the one with respect to the whitened weights."""
        weight, bias = self.head.weight, self.head.bias
        if weight.grad is not None and bias.grad is not None:
            weight.grad = (weight.grad - th.outer(bias.grad, self.mean)) @ self.basis

    @th.no_grad()
    def map_update_out(self, weight_before: th.Tensor) -> None:
        """
        Replace the update of the whitened weights, which the optimizer has just made, by that of the weights.

        :param weight_before: (out, d) weights before the optimizer's step
        """
        update = (self.head.weight - weight_before) @ self.basis.T
        self.head.weight.copy_(weight_before + update)
        self.head.bias.sub_(update @ self.mean)


class Heads:
    """
    The heads of a policy and their optimizer.

    :param policy: the actor-critic policy
    :param parameters: the parameters of its heads
    :param optimizer: the optimizer over exactly these
    """

    def __init__(self, policy: ActorCriticPolicy, parameters: Iterable[nn.Parameter], optimizer: th.optim.Optimizer) -> None:
        self.policy = policy
        self.parameters = list(parameters)
        critic = set(policy.value_net.parameters())
        # Over constant features, actor and critic share nothing: the critic's errors must not shrink the actor's step
        self.clip_groups = [[p for p in self.parameters if p not in critic], [p for p in self.parameters if p in critic]]
        self.optimizer = optimizer
        self.whitenings: list[Whitening] = []
        # Only a linear head can be whitened and refitted; a user's own head is trained as it is
        candidates = dict(zip(("action_net", "value_net"), LATENTS, strict=True))
        self.linear_heads = {name: latent for name, latent in candidates.items() if _is_linear(getattr(policy, name))}

    @th.no_grad()
    def refit(self, before: tuple[th.Tensor, th.Tensor], after: tuple[th.Tensor, th.Tensor]) -> None:
        """
        Give the linear heads back their old outputs after their features have moved, by ridge regression of what is
        missing: the hidden layers' steps then neither change the policy outside the trust region of its algorithm, nor
        the values that the returns were bootstrapped with (our choice).

        :param before: features of actor (N, d_pi) and critic (N, d_vf) as they were
        :param after: the same rows as they are now
        """
        old, new = dict(zip(LATENTS, before, strict=True)), dict(zip(LATENTS, after, strict=True))
        for name, latent in self.linear_heads.items():
            head, features = getattr(self.policy, name), new[latent]
            missing = head(old[latent]) - head(features)
            mean, missing_mean = features.mean(dim=0), missing.mean(dim=0)
            centred = features - mean
            gram = centred.T @ centred
            tiny = th.finfo(gram.dtype).eps
            gram.diagonal().add_((REFIT_RIDGE * gram.diagonal().mean()).clamp_min(tiny))
            change = th.linalg.solve(gram, centred.T @ (missing - missing_mean)).T
            head.weight.add_(change)
            head.bias.add_(missing_mean - change @ mean)

    @th.no_grad()
    def whiten(self, latents: tuple[th.Tensor, th.Tensor], rows: int) -> None:
        """
        Let the optimizer work in whitened coordinates of the features on the rollout and on the anchors, either counting
        half: on the rollout alone, steps that hardly show there could be anything on states that it has left (our choice).

        :param latents: features of actor (N, d_pi) and critic (N, d_vf), those of the anchors last
        :param rows: how many are of the rollout, in [1, N]
        """
        anchors = len(latents[0]) - rows
        weights = th.full_like(latents[0][:, 0], 0.5 / rows if anchors else 1 / rows)
        weights[rows:] = 0.5 / max(anchors, 1)
        features = dict(zip(LATENTS, latents, strict=True))
        self.whitenings = [
            Whitening(getattr(self.policy, name), features[latent], weights) for name, latent in self.linear_heads.items()
        ]

    @th.no_grad()
    def level_values(self, rollout: CachedRollout) -> None:
        """
        Shift the values' bias by the mean error of a rollout, shrunk towards zero (James-Stein) where that mean is
        within its own standard error. In whitened coordinates the bias alone carries the mean: it would take very many
        steps to a far one, which plain coordinates reach with all weights together (our choice).

        :param rollout: features and returns
        """
        if "value_net" not in self.linear_heads or len(rollout.returns) < 2:
            return
        errors = rollout.returns - self.policy.value_net(rollout.latent_vf).flatten()
        mean = errors.mean()
        if mean != 0 and mean.isfinite():
            self.policy.value_net.bias.add_(mean * (1 - errors.var() / (len(errors) * mean**2)).clamp_min(0))

    def evaluate(self, rollout: CachedRollout) -> tuple[th.Tensor, th.Tensor, th.Tensor | None]:
        """
        SB3's ``evaluate_actions`` from the top features on.

        :param rollout: features and actions
        :return: values (N,), log-probabilities of the actions (N,) and entropies (N,), or ``None`` without a closed form
        """
        distribution = self.policy._get_action_dist_from_latent(rollout.latent_pi)
        values = self.policy.value_net(rollout.latent_vf).flatten()
        return values, distribution.log_prob(rollout.actions), distribution.entropy()

    def step(self, loss: th.Tensor, max_grad_norm: float) -> None:
        """
        One optimizer step of the heads on their loss.

        :param loss: scalar, a function of the heads' parameters alone
        :param max_grad_norm: clip the gradient norm of each head to this
        :raises ValueError: if the loss or its gradient is not finite; no weight has moved then
        """
        self.optimizer.zero_grad()
        loss.backward()
        for whitening in self.whitenings:
            whitening.map_gradient_in()
        grad_norms = [th.nn.utils.clip_grad_norm_(parameters, max_grad_norm).item() for parameters in self.clip_groups]
        if not all(map(math.isfinite, [loss.item(), *grad_norms])):
            self.optimizer.zero_grad()
            raise ValueError(
                f"The loss of the heads is {loss.item()} with gradient norms of {grad_norms}; their weights were left as they "
                "were. Lower `learning_rate`, and check rewards and observations for NaN (VecCheckNan) and for their scale "
                "(VecNormalize)."
            )
        before = [whitening.head.weight.detach().clone() for whitening in self.whitenings]
        self.optimizer.step()
        for whitening, weight_before in zip(self.whitenings, before, strict=True):
            whitening.map_update_out(weight_before)


def improved_outputs(policy: ActorCriticPolicy, latent_pi: th.Tensor, actions: th.Tensor, advantages: th.Tensor) -> th.Tensor:
    """
    What the action head would say of each row after a policy-gradient step of its own: the head's outputs plus the
    advantage times the score, which is ``onehot(a) - pi`` for the logits of discrete actions and ``a - mu`` (times the
    variance: the natural gradient) for Gaussian means, which come in units of the standard deviation. Read off at the head
    in the forward pass; nothing is carried back through a weight.

    :param policy: the actor-critic policy
    :param latent_pi: (N, d_pi) top features of the actor
    :param actions: the actions taken
    :param advantages: (N,) of these, of about unit variance
    :return: (N, k), k the number of outputs of the action head
    """
    outputs: list[th.Tensor] = []

    def capture(module: nn.Module, inputs: Any, output: th.Tensor) -> th.Tensor:
        outputs.append(output.detach().requires_grad_())
        return outputs[0]

    handle = policy.action_net.register_forward_hook(capture)
    try:
        with th.enable_grad():
            distribution = policy._get_action_dist_from_latent(latent_pi.detach())
            (score,) = th.autograd.grad(distribution.log_prob(actions).sum(), outputs[0])
    finally:
        handle.remove()
    improved = outputs[0].detach()
    if not isinstance(distribution.distribution, Normal):
        return improved + advantages[:, None] * score
    variance = distribution.distribution.variance.detach()
    return (improved + advantages[:, None] * score * variance) / variance.mean(dim=0).sqrt()


def _is_linear(head: nn.Module) -> bool:
    return type(head) is nn.Linear and head.bias is not None and all(p.requires_grad for p in head.parameters())
