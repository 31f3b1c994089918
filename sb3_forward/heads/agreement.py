"""
Whether a policy says what its blocks and heads say.

The fast way through the heads reads cached features. It is right for a policy that says of an observation what its heads say
of the top features, as SB3's does. A user's own may mask logits in ``evaluate_actions``, scale values, or read more than the
features; so it is looked at, on rows of the rollout at hand.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn

from sb3_forward.heads.gradients import HeadOutputs
from sb3_forward.local.fingerprint import alike
from sb3_forward.local.root import at_rest
from sb3_forward.local.rows import Latents

# The heads that map features: of the actor, and of the critic
MAPS = ("action_net", "value_net")
# What SB3's actor-critic policy says of observations
METHODS = (
    "forward",
    "evaluate_actions",
    "predict_values",
    "get_distribution",
    "extract_features",
    "_get_action_dist_from_latent",
)


class Agreement(NamedTuple):
    """What the blocks and heads of a policy have in common with the policy, on some rows."""

    actions: bool  # log-probabilities and entropies of the heads on the features are those of `evaluate_actions`
    values: bool  # so are the values
    reading: tuple[str, ...]  # paths of the heads, and of modules in them, that read the features themselves

    @property
    def complete(self) -> bool:
        """Whether cached features do."""
        return self.actions and self.values


def overridden(policy: ActorCriticPolicy) -> list[str]:
    """
    :param policy: an actor-critic policy
    :return: the methods of SB3's that it has others for: what they say may change from rollout to rollout
    """
    return [
        name for name in METHODS if name in vars(policy) or getattr(type(policy), name) is not getattr(ActorCriticPolicy, name)
    ]


def agreement(
    policy: ActorCriticPolicy,
    features: Latents,
    observations: PyTorchObs,
    actions: th.Tensor,
    say: Callable[[], tuple[HeadOutputs, th.Tensor]],
) -> Agreement:
    """
    Compare what a policy says with what its heads say.

    :param policy: the policy; it is left as it was
    :param features: top features of actor and critic, (B, d) each
    :param observations: the same B rows
    :param actions: taken there
    :param say: what the heads say of the features: of the actions, and the values (B,)
    :return: what is the same
    """
    with at_rest(policy), th.no_grad():
        with inputs_of(policy) as read:
            values, log_prob, entropy = policy.evaluate_actions(observations, actions)
        own = dict(zip(MAPS, features, strict=True))
        once = {path: inputs[0] for path, inputs in read.items() if len(inputs) == 1 and isinstance(inputs[0], th.Tensor)}
        reading = tuple(path for path, given in once.items() if alike(given, own[path.split(".")[0]]))
        try:
            outputs, own_values = say()
        except (RuntimeError, TypeError, ValueError, AttributeError, NotImplementedError):
            return Agreement(False, False, reading)  # the heads do not take the features
    # Without a closed form, SB3 estimates it from the log-probabilities
    same_entropy = entropy is None or alike(outputs.entropy, entropy)
    return Agreement(alike(outputs.log_prob, log_prob) and same_entropy, alike(own_values, values.flatten()), reading)


@contextmanager
def inputs_of(policy: ActorCriticPolicy) -> Iterator[dict[str, list[Any]]]:
    """
    Watch what the heads read.

    :param policy: the policy
    :return: by path of each head and of the modules in it, the first argument of every call
    """
    heads = {path: module for path, module in policy.named_modules() if path.split(".")[0] in MAPS}
    read: dict[str, list[Any]] = {path: [] for path in heads}

    def watch(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        return lambda _, inputs: read[name].append(inputs[0] if inputs else None)

    handles = [head.register_forward_pre_hook(watch(name)) for name, head in heads.items()]
    try:
        yield read
    finally:
        for handle in handles:
            handle.remove()
