"""Train PPO (Proximal Policy Optimization) with hidden layers that learn forward."""

from typing import Any, Literal, TypeVar

import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule

from sb3_forward.heads.gradients import HeadOutputs, Slopes
from sb3_forward.heads.training import CachedRollout, HeadTraining, standardised
from sb3_forward.on_policy import ForwardOnPolicyAlgorithm
from sb3_forward.parameters import warn_if_nothing_moved
from sb3_forward.rollouts.history import Transitions

SelfForwardPPO = TypeVar("SelfForwardPPO", bound="ForwardPPO")


class ForwardPPO(ForwardOnPolicyAlgorithm, PPO):
    """
    PPO without backpropagation through the network.

    After a rollout, hidden blocks learn to match pairwise distances, one block after the other. Then the linear heads
    optimise the clipped surrogate objective for all epochs.

    >>> from sb3_forward import ForwardPPO
    >>> model = ForwardPPO("MlpPolicy", "CartPole-v1", n_steps=64).learn(64)
    >>> int(model.num_timesteps)
    64

    All parameters up to ``_init_setup_model`` are those of SB3's ``PPO``, where they are explained. Our own follow them, by
    keyword:

    :param local_learning_rate: learning rate of the hidden blocks, > 0; a float, a schedule, or ``"lin_x"`` for a line from x
        to zero
    :param head_learning_rate_scale: the heads' learning rate is this many times ``learning_rate``, > 0: linear heads on
        constant features take larger steps than a deep network, so that the learning rate of an SB3 pipeline can stay
    :param local_interval: rows (transitions) from one hidden phase to the next, >= 1: rollouts wait until they have this many
        together, and with 1 a phase follows every rollout. The interval is shorter where this many observations would take
        more than 8 MiB
    :param local_epochs: passes of each block over the rows of a hidden phase, >= 1
    :param local_batch_size: rows of each step of a block, >= 3
    :param local_memory: MiB of block inputs that a hidden phase keeps in memory, >= 0; larger inputs, such as those from
        images, are computed again from the layers below when they are read
    :param local_loss: the unguided part of the local loss, ``"strain"`` (classical scaling, one minus CKA) or ``"stress"``
        (metric MDS)
    :param disparity: ``"gaussian"`` or ``"identity"``, the transform of the input distances in the unguided part
    :param guidance_coef: share of the guided part of the local loss, in [0, 1]; 0 is pure distance matching, unguided
    :param hidden_training: ``"local"``; ``"frozen"`` leaves the hidden layers at their random start; ``"backprop"`` is SB3's
        own ``train()`` on the very same network
    :param whiten_heads: let the action head's optimizer work in whitened coordinates of the features
    :raises TypeError: if one of our own parameters is of another type
    :raises ValueError: if one of our own parameters is out of its range, or a parameter of the policy is in no block and no
        head
    """

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 3e-4,
        n_steps: int = 2048,
        batch_size: int = 64,
        n_epochs: int = 10,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        clip_range: float | Schedule = 0.2,
        clip_range_vf: float | Schedule | None = None,
        normalize_advantage: bool = True,
        ent_coef: float = 0.0,
        vf_coef: float = 0.5,
        max_grad_norm: float = 0.5,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        rollout_buffer_class: type[RolloutBuffer] | None = None,
        rollout_buffer_kwargs: dict[str, Any] | None = None,
        target_kl: float | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
        *,
        local_learning_rate: float | str | Schedule = 3e-3,
        head_learning_rate_scale: float = 9.0,
        local_interval: int = 1,
        local_epochs: int = 1,
        local_batch_size: int = 128,
        local_memory: int = 64,
        local_loss: Literal["strain", "stress"] = "strain",
        disparity: Literal["gaussian", "identity"] = "gaussian",
        guidance_coef: float = 1.0,
        hidden_training: Literal["local", "frozen", "backprop"] = "local",
        whiten_heads: bool = True,
    ) -> None:
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            n_steps=n_steps,
            batch_size=batch_size,
            n_epochs=n_epochs,
            gamma=gamma,
            gae_lambda=gae_lambda,
            clip_range=clip_range,
            clip_range_vf=clip_range_vf,
            normalize_advantage=normalize_advantage,
            ent_coef=ent_coef,
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,
            use_sde=use_sde,
            sde_sample_freq=sde_sample_freq,
            rollout_buffer_class=rollout_buffer_class,
            rollout_buffer_kwargs=rollout_buffer_kwargs,
            target_kl=target_kl,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=_init_setup_model,
            local_learning_rate=local_learning_rate,
            head_learning_rate_scale=head_learning_rate_scale,
            local_interval=local_interval,
            local_epochs=local_epochs,
            local_batch_size=local_batch_size,
            local_memory=local_memory,
            local_loss=local_loss,
            disparity=disparity,
            guidance_coef=guidance_coef,
            hidden_training=hidden_training,
            whiten_heads=whiten_heads,
        )

    def _head_phase(self, training: HeadTraining) -> None:
        clip_range = self.clip_range(self._current_progress_remaining)  # type: ignore[operator]
        clip_range_vf = self._current_clip_range_vf()
        if clip_range_vf is not None:
            self.logger.record("train/clip_range_vf", clip_range_vf)
        rollout = training.rollout
        surrogate = Surrogate(clip_range, clip_range_vf, self.ent_coef, self.vf_coef, self.target_kl)
        for epoch in range(self.n_epochs):
            surrogate.begin_epoch()
            shuffled = self._normalised(rollout.rows(th.randperm(len(rollout.returns), device=self.device)))
            finished = True
            for first in range(0, len(shuffled.returns), self.batch_size):
                batch = shuffled.rows(slice(first, first + self.batch_size))
                finished = finished and training.step(batch, surrogate, self.max_grad_norm)
            self._n_updates += 1
            if not finished:
                if self.verbose >= 1:
                    print(f"Early stopping at step {epoch} due to reaching max kl: {surrogate.kl:.2f}")
                break
        for key, value in surrogate.means().items():
            self.logger.record(f"train/{key}", value)
        self.logger.record("train/clip_range", clip_range)

    def _value_targets(self, rollout: CachedRollout) -> th.Tensor:
        clip_range_vf = self._current_clip_range_vf()
        if clip_range_vf is None:
            return rollout.returns
        return rollout.old_values + (rollout.returns - rollout.old_values).clamp(-clip_range_vf, clip_range_vf)

    def _transitions(self) -> Transitions | None:
        # Clipped values must stay near those of the rollout, whatever older returns are
        return super()._transitions() if self._current_clip_range_vf() is None else None

    def _current_clip_range_vf(self) -> float | None:
        if self.clip_range_vf is None:
            return None
        return self.clip_range_vf(self._current_progress_remaining)  # type: ignore[operator]

    def _normalised(self, rollout: CachedRollout) -> CachedRollout:
        """Normalise the advantages of each minibatch of a shuffled rollout, for all minibatches at once."""
        if not self.normalize_advantage:
            return rollout
        whole = len(rollout.advantages) // self.batch_size * self.batch_size
        parts = rollout.advantages[:whole].view(-1, self.batch_size), rollout.advantages[whole:].view(1, -1)
        return rollout._replace(advantages=th.cat([standardised(part).flatten() for part in parts if part.numel() > 0]))

    def learn(
        self: SelfForwardPPO,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "ForwardPPO",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfForwardPPO:
        super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
        warn_if_nothing_moved(self)
        return self


class Surrogate:
    """
    PPO's loss (Schulman et al. 2017, with SB3's entropy bonus and value clipping) as an objective of the heads, and its
    figures for the log.

    :param clip_range: clip range of the probability ratio
    :param clip_range_vf: clip range of the values, None for no clipping
    :param ent_coef: weight of the entropy bonus
    :param vf_coef: weight of the value loss
    :param target_kl: no step is made above 1.5 times this approximate KL, None for no limit
    """

    def __init__(
        self, clip_range: float, clip_range_vf: float | None, ent_coef: float, vf_coef: float, target_kl: float | None
    ) -> None:
        self.clip_range = clip_range
        self.clip_range_vf = clip_range_vf
        self.ent_coef = ent_coef
        self.vf_coef = vf_coef
        self.target_kl = target_kl
        self.kl = 0.0
        # For all rows of each minibatch so far: log ratio, clipped surrogate, error of the value, entropy
        self.records: list[tuple[th.Tensor, ...]] = []
        self.first_of_epoch = 0

    def begin_epoch(self) -> None:
        """Begin a pass over the rollout."""
        self.first_of_epoch = len(self.records)

    def __call__(self, batch: CachedRollout, outputs: HeadOutputs) -> Slopes | None:
        """
        Compute the slopes of the loss on a minibatch.

        :param batch: B rows, with advantages that are normalised if they should be
        :param outputs: outputs of the heads for them
        :return: the slopes of the loss, or None beyond ``target_kl``
        """
        rows = len(batch.returns)
        log_ratio = outputs.log_prob - batch.old_log_prob
        ratio = log_ratio.exp()
        plain = batch.advantages * ratio
        clipped = batch.advantages * ratio.clamp(1 - self.clip_range, 1 + self.clip_range)
        # Where the clipped term is the smaller one, it is constant and has no slope
        log_prob_slope = th.where(clipped < plain, 0.0, plain).mul_(-1 / rows)
        error, value_slope = self._value_error(batch, outputs.values)
        self.records.append((log_ratio, th.min(plain, clipped), error, outputs.entropy))
        if self.target_kl is not None:
            self.kl = approximate_kl(log_ratio).mean().item()
            # SB3 also stops before the step
            if self.kl > 1.5 * self.target_kl:
                return None
        return Slopes(log_prob_slope, -self.ent_coef / rows, value_slope)

    def _value_error(self, batch: CachedRollout, values: th.Tensor | None) -> tuple[th.Tensor, th.Tensor | None]:
        """
        Compute the errors of the values, and the slopes of the loss with respect to values that are trained on a gradient.
        """
        if values is None:
            return batch.old_values - batch.returns, None
        error = values - batch.returns
        slope = 2 * self.vf_coef / len(error) * error
        if self.clip_range_vf is None:
            return error, slope
        moved = values - batch.old_values
        error = batch.old_values + moved.clamp(-self.clip_range_vf, self.clip_range_vf) - batch.returns
        return error, th.where(moved.abs() > self.clip_range_vf, 0.0, slope)

    def means(self) -> dict[str, float]:
        """
        Average the figures that SB3's PPO logs.

        :return: by key, means over minibatches; ``approx_kl`` over those of the last epoch, ``loss`` of the last one
        """
        sizes = th.tensor([len(record[0]) for record in self.records])
        log_ratio, surrogate, error, entropy = (th.cat(rows).cpu() for rows in zip(*self.records, strict=True))
        weights = (1 / (sizes * len(sizes))).to(log_ratio).repeat_interleave(sizes)
        last_epoch, last = int(sizes[: self.first_of_epoch].sum()), slice(-int(sizes[-1]), None)

        def mean(rows: th.Tensor, first: int = 0) -> float:
            return (th.dot(weights[first:], rows[first:]) / weights[first:].sum()).item()

        loss = -surrogate[last].mean() - self.ent_coef * entropy[last].mean() + self.vf_coef * error[last].square().mean()
        return {
            "entropy_loss": -mean(entropy),
            "policy_gradient_loss": -mean(surrogate),
            "value_loss": mean(error.square()),
            "clip_fraction": mean((log_ratio.expm1().abs() > self.clip_range).to(error)),
            "approx_kl": mean(approximate_kl(log_ratio), last_epoch),
            "loss": loss.item(),
        }


def approximate_kl(log_ratio: th.Tensor) -> th.Tensor:
    """
    Estimate KL(old || new) by ``(r - 1) - log r``, with ``r`` the probability ratio.

    The estimates are never negative (J. Schulman, "Approximating KL divergence", 2020). SB3's PPO logs their mean.

    :param log_ratio: (N,) log of new over old probability of the actions taken
    :return: (N,) one estimate for each action, >= 0
    """
    return log_ratio.expm1() - log_ratio
