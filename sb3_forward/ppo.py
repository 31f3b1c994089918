"""Proximal Policy Optimization (PPO) whose hidden layers learn forward."""

from typing import Any, TypeVar

import numpy as np
import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.type_aliases import MaybeCallback, Schedule
from torch.nn import functional as F

from sb3_forward.heads import CachedRollout
from sb3_forward.on_policy import ForwardOnPolicyAlgorithm, approximate_kl

SelfForwardPPO = TypeVar("SelfForwardPPO", bound="ForwardPPO")


class ForwardPPO(ForwardOnPolicyAlgorithm, PPO):
    """
    PPO without backpropagation through the network: hidden blocks match pairwise distances once per rollout, the linear
    heads optimise the clipped surrogate objective for all epochs.

    >>> from sb3_forward import ForwardPPO
    >>> model = ForwardPPO("MlpPolicy", "CartPole-v1", n_steps=64).learn(64)
    >>> int(model.num_timesteps)
    64

    :param args: positional arguments of SB3's ``PPO``
    :param local_learning_rate: learning rate of the hidden blocks
    :param head_learning_rate_scale: the heads' learning rate is this many times ``learning_rate``
    :param kwargs: keyword arguments of SB3's ``PPO``, and those of
        :class:`~sb3_forward.on_policy.ForwardOnPolicyAlgorithm`
    """

    def __init__(
        self,
        *args: Any,
        local_learning_rate: float | str | Schedule = 1e-3,
        head_learning_rate_scale: float = 3.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            *args, local_learning_rate=local_learning_rate, head_learning_rate_scale=head_learning_rate_scale, **kwargs
        )

    def _head_phase(self, rollout: CachedRollout) -> None:
        clip_range = self.clip_range(self._current_progress_remaining)  # type: ignore[operator]
        clip_range_vf = None
        if self.clip_range_vf is not None:
            clip_range_vf = self.clip_range_vf(self._current_progress_remaining)  # type: ignore[operator]
            self.logger.record("train/clip_range_vf", clip_range_vf)
        stop = False
        steps: list[dict[str, float]] = []
        for epoch in range(self.n_epochs):
            first_of_epoch = len(steps)
            for rows in th.randperm(len(rollout.returns), device=self.device).split(self.batch_size):
                loss, record = self._surrogate(rollout.minibatch(rows), clip_range, clip_range_vf)
                steps.append(record)
                # SB3 stops before the step, too
                if self.target_kl is not None and record["approx_kl"] > 1.5 * self.target_kl:
                    stop = True
                    if self.verbose >= 1:
                        print(f"Early stopping at step {epoch} due to reaching max kl: {record['approx_kl']:.2f}")
                    break
                self.heads.step(loss, self.max_grad_norm)
            self._n_updates += 1
            if stop:
                break
        for key in ("entropy_loss", "policy_gradient_loss", "value_loss", "clip_fraction"):
            self.logger.record(f"train/{key}", float(np.mean([record[key] for record in steps])))
        self.logger.record("train/approx_kl", float(np.mean([record["approx_kl"] for record in steps[first_of_epoch:]])))
        self.logger.record("train/loss", loss.item())
        self.logger.record("train/clip_range", clip_range)

    def _surrogate(
        self, batch: CachedRollout, clip_range: float, clip_range_vf: float | None
    ) -> tuple[th.Tensor, dict[str, float]]:
        """PPO's loss on a minibatch (Schulman et al. 2017, with SB3's entropy bonus and value clipping), and its record."""
        values, log_prob, entropy = self.heads.evaluate(batch)
        advantages = batch.advantages
        # A minibatch of one has no deviation: https://github.com/DLR-RM/stable-baselines3/issues/325
        if self.normalize_advantage and len(advantages) > 1:
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        log_ratio = log_prob - batch.old_log_prob
        ratio = log_ratio.exp()
        clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
        policy_loss = -th.min(advantages * ratio, advantages * clipped).mean()
        if clip_range_vf is not None:
            values = batch.old_values + (values - batch.old_values).clamp(-clip_range_vf, clip_range_vf)
        value_loss = F.mse_loss(batch.returns, values)
        # Without a closed form, the entropy is estimated from the log-probabilities
        entropy_loss = log_prob.mean() if entropy is None else -entropy.mean()
        loss = policy_loss + self.ent_coef * entropy_loss + self.vf_coef * value_loss
        record = {
            "entropy_loss": entropy_loss.item(),
            "policy_gradient_loss": policy_loss.item(),
            "value_loss": value_loss.item(),
            "approx_kl": approximate_kl(log_ratio.detach()).item(),
            "clip_fraction": ((ratio - 1).abs() > clip_range).float().mean().item(),
        }
        return loss, record

    def learn(
        self: SelfForwardPPO,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "ForwardPPO",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfForwardPPO:
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
