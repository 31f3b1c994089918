"""
Compute the guidance of the hidden layers: the outputs that the heads should have.

For the critic these are the returns. For the actor they are the outputs of the action head after one policy-gradient step on
the outputs themselves. No gradient is carried back through a weight.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch as th
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn
from torch.distributions import Normal

from sb3_forward.heads import gradients
from sb3_forward.heads.training import CachedRollout, Observations
from sb3_forward.local.finite import all_finite

# Log-probabilities (N,) of actions, and their distribution
LogProb = tuple[th.Tensor, Distribution]


def guidance(
    policy: ActorCriticPolicy, rollout: CachedRollout, observations: Observations | None, pass_rows: int
) -> dict[str, th.Tensor]:
    """
    Compute the guidance of a rollout.

    :param policy: the actor-critic policy
    :param rollout: N rows of a rollout
    :param observations: observations of the same rows, if the policy computes more from them than its heads do; else None
    :param pass_rows: rows of one forward pass from observations
    :return: by role, ``"actor"`` (N, k) and ``"critic"`` (N, 1)
    :raises ValueError: if it is not finite
    """
    advantages = (rollout.advantages - rollout.advantages.mean()) / (rollout.advantages.std(correction=0) + 1e-8)
    if observations is None:
        actor = improved_outputs(policy, rollout.latent_pi, rollout.actions, advantages)
    else:
        parts = th.arange(len(advantages)).split(pass_rows)
        columns = [(rollout.latent_pi[part], rollout.actions[part], advantages[part], observations(part)) for part in parts]
        actor = th.cat([improved_outputs(policy, *own) for own in columns])
    critic = rollout.returns[:, None]
    if not all_finite(actor + critic):
        raise ValueError(
            "The guidance signal (returns, and advantages times scores) is not finite; no weight was moved by it. Check "
            "rewards and observations for NaN (VecCheckNan) and for their scale (VecNormalize)."
        )
    return {"actor": actor, "critic": critic}


def improved_outputs(
    policy: ActorCriticPolicy,
    latent_pi: th.Tensor,
    actions: th.Tensor,
    advantages: th.Tensor,
    observations: PyTorchObs | None = None,
) -> th.Tensor:
    """
    Compute the outputs of the action head after a policy-gradient step on the outputs: outputs plus advantage times score.

    For the logits of discrete actions, the score is ``onehot(a) - pi``. For Gaussian means it is multiplied by the variance,
    which gives ``a - mu`` and the natural gradient; the result is in units of the standard deviation.

    :param policy: the actor-critic policy
    :param latent_pi: (N, d_pi) top features of the actor
    :param actions: the actions taken
    :param advantages: (N,) advantages of these, of about unit variance
    :param observations: observations of the same rows, if the policy computes more from them than its heads do; else None
    :return: (N, k), k the number of outputs of the action head, or of all its layers together if it returns no single tensor
    """
    if observations is None and gradients.applies(policy):
        return gradients.improved_outputs(policy, latent_pi, actions, advantages)

    def evaluate() -> LogProb:
        if observations is not None:
            return policy.evaluate_actions(observations, actions)[1], policy.action_dist
        distribution = policy._get_action_dist_from_latent(latent_pi.detach())
        return distribution.log_prob(actions), distribution

    outputs, log_prob, distribution = _with_outputs([policy.action_net], evaluate)
    if not outputs:
        # If the head returns no single tensor, or is not called itself, the outputs of its layers take its place
        layers = [module for module in policy.action_net.modules() if module._parameters]
        outputs, log_prob, distribution = _with_outputs(layers, evaluate)
    scores = th.autograd.grad(log_prob.sum(), outputs, allow_unused=True) if outputs else []
    known = [(output.detach(), score) for output, score in zip(outputs, scores, strict=True) if score is not None]
    if not known:
        return advantages[:, None]  # no output of such a head can be read, so that only the advantages are left
    improved, score = (th.cat(columns, dim=1) for columns in zip(*known, strict=True))
    normal = getattr(distribution, "distribution", None)
    if not isinstance(normal, Normal) or normal.mean.shape != improved.shape:
        return improved + advantages[:, None] * score
    variance = normal.variance.detach()
    return (improved + advantages[:, None] * score * variance) / variance.mean(dim=0).sqrt()


def _with_outputs(
    layers: Iterable[nn.Module], evaluate: Callable[[], LogProb]
) -> tuple[list[th.Tensor], th.Tensor, Distribution]:
    """Evaluate actions, and collect the outputs of layers meanwhile; return none of them if one is not a vector per row."""
    outputs: list[Any] = []
    handles = [layer.register_forward_hook(lambda module, inputs, output: outputs.append(output)) for layer in layers]
    try:
        with th.enable_grad():
            log_prob, distribution = evaluate()
    finally:
        for handle in handles:
            handle.remove()

    def is_vector(output: Any) -> bool:
        return isinstance(output, th.Tensor) and output.shape[:-1] == log_prob.shape and output.requires_grad

    vectors = all(map(is_vector, outputs))
    return (outputs if vectors else []), log_prob, distribution
