"""
The heads: the linear maps from the top features to the action distribution and to the value.

They alone see the policy-gradient loss. The features under them are constant, so each head is a linear model.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn
from torch.distributions import Normal
from torch.utils.hooks import RemovableHandle

from sb3_forward import closed_form
from sb3_forward.closed_form import HeadOutputs, Slopes
from sb3_forward.whitening import Whitening

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

    def rows(self, rows: th.Tensor | slice) -> "CachedRollout":
        """
        :param rows: (B,) indices, or a range
        :return: these rows of everything
        """
        return CachedRollout(*(column[rows] for column in self))


# From a minibatch and what the heads say of it to the slopes of the loss; None: no step
Objective = Callable[[CachedRollout, HeadOutputs], Slopes | None]


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
        # Only a linear head can be whitened and refitted; a user's own head is trained as it is
        candidates = dict(zip(("action_net", "value_net"), LATENTS, strict=True))
        self.linear_heads = {name: latent for name, latent in candidates.items() if _is_linear(getattr(policy, name))}
        self.closed_form = len(self.linear_heads) == 2 and closed_form.applies(policy)

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

    @contextmanager
    def training(
        self, rollout: CachedRollout, latents: tuple[th.Tensor, th.Tensor], whiten: bool = True
    ) -> Iterator[CachedRollout]:
        """
        While the heads are trained on a rollout. Their optimizer works in whitened coordinates of the features on the rollout
        and on the anchors, either counting half: on the rollout alone, steps that hardly show there could be anything on
        states that it has left (our choice).

        :param rollout: the rollout
        :param latents: features of actor (N, d_pi) and critic (N, d_vf) on the rollout, followed by those on the anchors
        :param whiten: False for the coordinates of the features themselves
        :return: the rollout to train on
        """
        whitenings = self._whitenings(latents, len(rollout.returns)) if whiten else {}
        # Of one head each, so that a norm is one operation
        self._gradients = [_flat_gradients(parameters) for parameters in self.clip_groups if parameters]
        hooks = []
        try:
            for whitening in whitenings.values():
                whitening.enter()
            if self.closed_form:
                columns = {self.linear_heads[name]: whitening for name, whitening in whitenings.items()}
                yield rollout._replace(
                    **{latent: whitening.coordinates(getattr(rollout, latent)) for latent, whitening in columns.items()}
                )
            else:
                # The policy's own distribution may read the features themselves, as that of gSDE does for its noise
                hooks = [_whiten_inputs(whitening) for whitening in whitenings.values()]
                yield rollout
        finally:
            for hook in hooks:
                hook.remove()
            for whitening in whitenings.values():
                whitening.leave()
            self.optimizer.zero_grad()

    @th.no_grad()
    def _whitenings(self, latents: tuple[th.Tensor, th.Tensor], rows: int) -> dict[str, Whitening]:
        anchors = len(latents[0]) - rows
        weights = th.full_like(latents[0][:, 0], 0.5 / rows if anchors else 1 / rows)
        weights[rows:] = 0.5 / max(anchors, 1)
        features = dict(zip(LATENTS, latents, strict=True))
        return {
            name: Whitening(getattr(self.policy, name), features[latent], weights)
            for name, latent in self.linear_heads.items()
        }

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

    def evaluate(self, rollout: CachedRollout) -> HeadOutputs:
        """
        SB3's ``evaluate_actions`` from the top features on.

        :param rollout: N rows of features and actions
        :return: values, log-probabilities of the actions and entropies
        """
        distribution = self.policy._get_action_dist_from_latent(rollout.latent_pi)
        values = self.policy.value_net(rollout.latent_vf).flatten()
        return HeadOutputs(values, distribution.log_prob(rollout.actions), distribution.entropy())

    def step(self, batch: CachedRollout, objective: Objective, max_grad_norm: float) -> bool:
        """
        One optimizer step of the heads, within :meth:`training`.

        :param batch: B rows of its rollout
        :param objective: the loss, by its slopes
        :param max_grad_norm: clip the gradient norm of each head to this
        :return: whether a step was made: not if the objective gives no slopes
        :raises ValueError: if a gradient is not finite; no weight has moved then
        """
        if not (self._closed_form_gradients if self.closed_form else self._graph_gradients)(batch, objective):
            return False
        grad_norms = th.stack([gradients.norm() for gradients in self._gradients]).tolist()
        if not all(map(math.isfinite, grad_norms)):
            raise ValueError(
                f"The loss of the heads has gradient norms of {grad_norms}; their weights were left as they were. Lower "
                "`learning_rate`, and check rewards and observations for NaN (VecCheckNan) and for their scale (VecNormalize)."
            )
        for gradients, norm in zip(self._gradients, grad_norms, strict=True):
            if norm > max_grad_norm:
                gradients.mul_(max_grad_norm / norm)
        self.optimizer.step()
        return True

    @th.no_grad()
    def _closed_form_gradients(self, batch: CachedRollout, objective: Objective) -> bool:
        outputs, backward = closed_form.forward(self.policy, batch.latent_pi, batch.latent_vf, batch.actions)
        slopes = objective(batch, outputs)
        if slopes is not None:
            backward(slopes)
        return slopes is not None

    def _graph_gradients(self, batch: CachedRollout, objective: Objective) -> bool:
        with th.enable_grad():
            outputs = self.evaluate(batch)
        values, log_prob, entropy = outputs
        said = HeadOutputs(values.detach(), log_prob.detach(), None if entropy is None else entropy.detach())
        slopes = objective(batch, said)
        if slopes is None:
            return False
        for gradients in self._gradients:
            gradients.zero_()
        ends = [(values, slopes.values), (log_prob, slopes.log_prob)]
        if entropy is not None:
            ends.append((entropy, th.full_like(entropy, slopes.entropy)))
        ends = [(output, slope) for output, slope in ends if output.requires_grad]
        th.autograd.backward([output for output, _ in ends], [slope for _, slope in ends])
        return True


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


def _flat_gradients(parameters: list[nn.Parameter]) -> th.Tensor:
    """One tensor that the gradients of all these parameters are views of."""
    flat = th.zeros(sum(p.numel() for p in parameters), dtype=parameters[0].dtype, device=parameters[0].device)
    for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = part.view_as(parameter)
    return flat


def _whiten_inputs(whitening: Whitening) -> RemovableHandle:
    return whitening.head.register_forward_pre_hook(lambda _, inputs: whitening.coordinates(inputs[0]))
