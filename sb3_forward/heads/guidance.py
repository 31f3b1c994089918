"""
Compute the guidance of the hidden layers: what the heads say, and how that should change.

For the critic the change is what its values lack of the returns. For the actor it is one policy-gradient step on the outputs
of the action head themselves. No gradient is carried back through a weight.
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
from sb3_forward.local.loss import Guidance
from sb3_forward.local.rows import join

# Log-probabilities (N,) of actions, and their distribution
LogProb = tuple[th.Tensor, Distribution]


def guidance(
    policy: ActorCriticPolicy, rollout: CachedRollout, observations: Observations | None, pass_rows: int
) -> dict[str, Guidance]:
    """
    Compute the guidance of the rows of one rollout, or of several together.

    :param policy: the actor-critic policy
    :param rollout: N rows
    :param observations: observations of the same rows, if the policy computes more from them than its heads do; else None
    :param pass_rows: rows of one forward pass from observations
    :return: by role, ``"actor"`` (N, k) and ``"critic"`` (N, 1)
    :raises ValueError: if it is not finite
    """
    advantages = (rollout.advantages - rollout.advantages.mean()) / (rollout.advantages.std(correction=0) + 1e-8)
    if observations is None:
        actor = actor_guidance(policy, rollout.latent_pi, rollout.actions, advantages)
    else:
        parts = th.arange(len(advantages)).split(pass_rows)
        columns = [(rollout.latent_pi[part], rollout.actions[part], advantages[part], observations(part)) for part in parts]
        actor = Guidance(*join([actor_guidance(policy, *own) for own in columns]))
    critic = Guidance(rollout.old_values[:, None], (rollout.returns - rollout.old_values)[:, None])
    refuse_unless_finite(actor.wanted + critic.wanted)
    return {"actor": actor, "critic": critic}


def refuse_unless_finite(signal: th.Tensor) -> None:
    """
    Refuse what hidden layers cannot be guided by.

    :param signal: guidance, or what it is made of; of any shape
    :raises ValueError: if it is not finite
    """
    if not all_finite(signal):
        raise ValueError(
            "The guidance signal (returns, and advantages times scores) is not finite; no weight was moved by it. Check "
            "rewards and observations for NaN (VecCheckNan) and for their scale (VecNormalize)."
        )


def actor_guidance(
    policy: ActorCriticPolicy,
    latent_pi: th.Tensor,
    actions: th.Tensor,
    advantages: th.Tensor,
    observations: PyTorchObs | None = None,
) -> Guidance:
    """
    Compute the outputs of the action head, and a policy-gradient step on them: advantage times score.

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
        return gradients.actor_guidance(policy, latent_pi, actions, advantages)

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
    scores = th.autograd.grad(log_prob, outputs, th.ones_like(log_prob), allow_unused=True) if outputs else []
    known = [(output.detach(), score) for output, score in zip(outputs, scores, strict=True) if score is not None]
    if not known:
        # No output of such a head can be read, so that only the advantages are left
        return Guidance.whole(advantages[:, None])
    said, score = (th.cat(columns, dim=1) for columns in zip(*known, strict=True))
    change = advantages[:, None] * score
    normal = getattr(distribution, "distribution", None)
    if not isinstance(normal, Normal) or normal.mean.shape != said.shape:
        return Guidance(said, change)
    variance = normal.variance.detach()
    unit = variance.mean(dim=0).sqrt()
    return Guidance(said / unit, change * variance / unit)


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
