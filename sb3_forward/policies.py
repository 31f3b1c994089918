"""
Define actor-critic policies for forward training: SB3's own, with the same names and shapes, but with random biases.

Their weights load into SB3's policies and back. Any other ``ActorCriticPolicy`` can be trained forward too.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch as th
from stable_baselines3.common.distributions import CategoricalDistribution
from stable_baselines3.common.policies import ActorCriticCnnPolicy, ActorCriticPolicy, MultiInputActorCriticPolicy
from stable_baselines3.common.torch_layers import MlpExtractor
from stable_baselines3.common.type_aliases import Schedule
from torch import nn
from torch.distributions import Categorical

from sb3_forward.local.finite import all_finite
from sb3_forward.parameters import check_number


class SparingCategorical(CategoricalDistribution):
    """
    SB3's categorical distribution with fewer checks, and with the same actions and probabilities.

    While gradients are off, as in a rollout, it only checks that the logits are finite. PyTorch's checks, of logits and of
    actions just drawn, and its provisions for samples of any shape take a good part of the time of a step.
    """

    def proba_distribution(self, action_logits: th.Tensor) -> "SparingCategorical":
        """
        Set the logits.

        :param action_logits: (B, ``action_dim``)
        :return: itself
        :raises ValueError: if a logit is NaN
        """
        # A tracer would turn the result of the check into a constant
        traced = th.jit.is_tracing() or th.compiler.is_compiling()
        if traced or th.is_grad_enabled() or not all_finite(action_logits):
            return super().proba_distribution(action_logits)
        self.distribution = Categorical(logits=action_logits, validate_args=False)
        return self

    def sample(self) -> th.Tensor:
        """
        Draw actions.

        :return: (B,) indices
        """
        return th.multinomial(self.distribution.probs, 1, replacement=True).squeeze(1)

    def log_prob(self, actions: th.Tensor) -> th.Tensor:
        """
        Compute the log-probabilities of actions.

        :param actions: (B,) indices, or one for all rows
        :return: (B,)
        :raises RuntimeError: if an index is out of range
        """
        logits = self.distribution.logits
        if actions.shape != logits.shape[:-1]:
            return super().log_prob(actions)
        return logits.gather(1, actions.long()[:, None]).squeeze(1)


class ForwardPolicy(ActorCriticPolicy):
    """
    ``ActorCriticPolicy`` with random biases in the hidden layers of actor and critic.

    SB3 starts them at zero. With an odd activation such as tanh, every feature is then an odd function of the observation, and
    no linear head can represent an even value function of it. Backpropagation would move the biases; a local loss has no
    reason to. The features extractor keeps the biases of its own initialisation.

    Every layer adds to the distortion. With L > 2 layers, the biases of each are scaled by sqrt(2 / L), so that their
    variances add up to those of two layers. With unscaled biases, the outputs of 64 layers hardly depend on the observation.

    :param args: positional arguments of ``ActorCriticPolicy``
    :param bias_init: half-width of the uniform distribution that the biases of one or two layers are drawn from, >= 0; 0 is
        SB3's initialisation (our choice: we do not know the paper's)
    :param kwargs: keyword arguments of ``ActorCriticPolicy``
    :raises TypeError: if ``bias_init`` is no number
    :raises ValueError: if ``bias_init`` is negative or not finite
    """

    bias_init: float

    def __init__(self, *args: Any, bias_init: float = 1.0, **kwargs: Any) -> None:
        bias_init = check_number(
            "bias_init", bias_init, "a finite number of at least 0", 0, advice="0 starts the biases at zero as SB3 does"
        )
        # `_build`, called by the parent's constructor, reads it
        self.__dict__["bias_init"] = bias_init
        super().__init__(*args, **kwargs)

    def _build(self, lr_schedule: Schedule) -> None:
        # The exact type is compared, so that a user's own distribution stays
        if type(self.action_dist) is CategoricalDistribution:
            self.action_dist = SparingCategorical(self.action_dist.action_dim)
        super()._build(lr_schedule)
        for stack in self._stacks() if self.bias_init > 0 else ():
            biases = [layer.bias for layer in stack.modules() if isinstance(layer, nn.Linear) and layer.bias is not None]
            half_width = self.bias_init * math.sqrt(2 / max(len(biases), 2))
            for bias in biases:
                nn.init.uniform_(bias, -half_width, half_width)

    def _stacks(self) -> Iterator[nn.Module]:
        """Yield the hidden layers of actor and of critic, or all together if the extractor is not SB3's."""
        if isinstance(self.mlp_extractor, MlpExtractor):
            yield self.mlp_extractor.policy_net
            yield self.mlp_extractor.value_net
        else:
            yield self.mlp_extractor

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        # SB3 2.9 leaves `share_features_extractor` out: a policy saved with False came back with True and other actions
        data.update(bias_init=self.bias_init, share_features_extractor=self.share_features_extractor)
        return data


class ForwardCnnPolicy(ForwardPolicy, ActorCriticCnnPolicy):
    """:class:`ForwardPolicy` for images: ``NatureCNN`` by default, each of its convolutions one block."""


class ForwardMultiInputPolicy(ForwardPolicy, MultiInputActorCriticPolicy):
    """:class:`ForwardPolicy` for dictionary observations: ``CombinedExtractor`` by default, a chain of blocks per key."""


MlpPolicy = ForwardPolicy
CnnPolicy = ForwardCnnPolicy
MultiInputPolicy = ForwardMultiInputPolicy
