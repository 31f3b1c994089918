"""Advantage Actor Critic (A2C) whose hidden layers learn forward."""

from typing import Any, TypeVar

import torch as th
from stable_baselines3 import A2C
from stable_baselines3.common.type_aliases import MaybeCallback, Schedule

from sb3_forward.closed_form import HeadOutputs, Slopes
from sb3_forward.heads import CachedRollout
from sb3_forward.on_policy import ForwardOnPolicyAlgorithm, standardised

SelfForwardA2C = TypeVar("SelfForwardA2C", bound="ForwardA2C")


class ForwardA2C(ForwardOnPolicyAlgorithm, A2C):
    """
    A2C without backpropagation through the network: hidden blocks match pairwise distances, the linear heads take one
    policy-gradient step per rollout.

    >>> from sb3_forward import ForwardA2C
    >>> model = ForwardA2C("MlpPolicy", "CartPole-v1").learn(50)
    >>> int(model.num_timesteps)
    50

    :param args: positional arguments of SB3's ``A2C``
    :param local_learning_rate: learning rate of the hidden blocks
    :param head_learning_rate_scale: the heads' learning rate is this many times ``learning_rate``; the spread of Gaussian
        actions, ``log_std``, has ``learning_rate`` itself
    :param kwargs: keyword arguments of SB3's ``A2C``, and those of
        :class:`~sb3_forward.on_policy.ForwardOnPolicyAlgorithm`
    """

    def __init__(
        self,
        *args: Any,
        local_learning_rate: float | str | Schedule = 3e-5,
        head_learning_rate_scale: float = 2.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            *args, local_learning_rate=local_learning_rate, head_learning_rate_scale=head_learning_rate_scale, **kwargs
        )

    def _spread_learning_rate(self) -> float:
        # It is no map of features, and nothing keeps a step of A2C from narrowing the policy, as the clipped ratio of PPO does
        # (our choice)
        return self._learning_rate()

    def _head_phase(self, rollout: CachedRollout) -> None:
        if self.normalize_advantage:
            rollout = rollout._replace(advantages=standardised(rollout.advantages))
        self.heads.step(rollout, self._objective, self.max_grad_norm)
        self._n_updates += 1

    def _objective(self, rollout: CachedRollout, outputs: HeadOutputs) -> Slopes:
        """A2C's loss by its slopes, with SB3's entropy bonus; logged."""
        rows = len(rollout.returns)
        values = rollout.old_values if outputs.values is None else outputs.values
        error = values - rollout.returns
        losses = th.stack([-outputs.entropy.mean(), -(rollout.advantages * outputs.log_prob).mean(), error.square().mean()])
        for key, loss in zip(("entropy_loss", "policy_loss", "value_loss"), losses.tolist(), strict=True):
            self.logger.record(f"train/{key}", loss)
        return Slopes(-rollout.advantages / rows, -self.ent_coef / rows, error * (2 * self.vf_coef / rows))

    def learn(
        self: SelfForwardA2C,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 100,
        tb_log_name: str = "ForwardA2C",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfForwardA2C:
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
