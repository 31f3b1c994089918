"""
Compare a policy with its blocks and heads.

Training on cached features is fast. It is right for a policy whose outputs for an observation are those of its heads for the
top features, as with SB3's own policies. A user's policy may mask logits in ``evaluate_actions``, scale values, or read more
than the features. Therefore policy and heads are compared on some rows of the rollout.
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

# The heads that map features, of the actor and of the critic
MAPS = ("action_net", "value_net")
# The methods with which SB3's actor-critic policy computes its outputs
METHODS = (
    "forward",
    "evaluate_actions",
    "predict_values",
    "get_distribution",
    "extract_features",
    "_get_action_dist_from_latent",
)


class Agreement(NamedTuple):
    """The outputs that the heads of a policy have in common with the policy, on some rows."""

    actions: bool  # log-probabilities and entropies of the heads on the features are those of `evaluate_actions`
    values: bool  # so are the values
    reading: tuple[str, ...]  # paths of the heads, and of modules in them, that read the features themselves

    @property
    def complete(self) -> bool:
        """Return whether the heads can be trained on cached features."""
        return self.actions and self.values


def overridden(policy: ActorCriticPolicy) -> list[str]:
    """
    List the methods of SB3's policy that a policy overrides.

    :param policy: an actor-critic policy
    :return: their names; the outputs of such a method may change from rollout to rollout
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
    Compare the outputs of a policy with those of its heads.

    :param policy: the policy; it is left as it was
    :param features: top features of actor and critic, (B, d) each
    :param observations: the same B rows
    :param actions: the actions taken there
    :param say: computes the outputs of the heads for the features: those for the actions, and the values (B,)
    :return: which outputs are the same
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
            return Agreement(False, False, reading)  # the heads cannot read the features
    # Without a closed form of the entropy, SB3 estimates it from the log-probabilities
    same_entropy = entropy is None or alike(outputs.entropy, entropy)
    return Agreement(alike(outputs.log_prob, log_prob) and same_entropy, alike(own_values, values.flatten()), reading)


@contextmanager
def inputs_of(policy: ActorCriticPolicy) -> Iterator[dict[str, list[Any]]]:
    """
    Collect the inputs of the heads, within ``with``.

    :param policy: the policy
    :return: the first argument of every call, by path of each head and of the modules in it
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
