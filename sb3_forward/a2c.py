"""Train A2C (Advantage Actor Critic) with hidden layers that learn forward."""

from typing import Any, Literal, TypeVar

import torch as th
from stable_baselines3 import A2C
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule

from sb3_forward.heads.gradients import HeadOutputs, Slopes
from sb3_forward.heads.training import CachedRollout, HeadTraining, standardised
from sb3_forward.on_policy import ForwardOnPolicyAlgorithm
from sb3_forward.parameters import warn_if_nothing_moved

SelfForwardA2C = TypeVar("SelfForwardA2C", bound="ForwardA2C")


class ForwardA2C(ForwardOnPolicyAlgorithm, A2C):
    """
    A2C without backpropagation through the network.

    Hidden blocks learn to match pairwise distances, and the linear heads take one policy-gradient step per rollout.

    >>> from sb3_forward import ForwardA2C
    >>> model = ForwardA2C("MlpPolicy", "CartPole-v1").learn(50)
    >>> int(model.num_timesteps)
    50

    All parameters up to ``_init_setup_model`` are those of SB3's ``A2C``, where they are explained. Our own follow them, by
    keyword:

    :param local_learning_rate: learning rate of the hidden blocks, > 0; a float, a schedule, or ``"lin_x"`` for a line from x
        to zero
    :param head_learning_rate_scale: the heads' learning rate is this many times ``learning_rate``, > 0: linear heads on
        constant features take larger steps than a deep network, so that the learning rate of an SB3 pipeline can stay;
        ``log_std`` of Gaussian actions has ``learning_rate`` itself
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
        learning_rate: float | Schedule = 7e-4,
        n_steps: int = 5,
        gamma: float = 0.99,
        gae_lambda: float = 1.0,
        ent_coef: float = 0.0,
        vf_coef: float = 0.5,
        max_grad_norm: float = 0.5,
        rms_prop_eps: float = 1e-5,
        use_rms_prop: bool = True,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        rollout_buffer_class: type[RolloutBuffer] | None = None,
        rollout_buffer_kwargs: dict[str, Any] | None = None,
        normalize_advantage: bool = False,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
        *,
        local_learning_rate: float | str | Schedule = 3e-3,
        head_learning_rate_scale: float = 2.0,
        local_interval: int = 4096,
        local_epochs: int = 1,
        local_batch_size: int = 256,
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
            gamma=gamma,
            gae_lambda=gae_lambda,
            ent_coef=ent_coef,
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,
            rms_prop_eps=rms_prop_eps,
            use_rms_prop=use_rms_prop,
            use_sde=use_sde,
            sde_sample_freq=sde_sample_freq,
            rollout_buffer_class=rollout_buffer_class,
            rollout_buffer_kwargs=rollout_buffer_kwargs,
            normalize_advantage=normalize_advantage,
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

    def _log_std_learning_rate(self) -> float:
        # `log_std` does not depend on the features, and A2C has no clipped ratio that limits how fast a step narrows the
        # policy (our choice)
        return self._learning_rate()

    def _head_phase(self, training: HeadTraining) -> None:
        rollout = training.rollout
        if self.normalize_advantage:
            rollout = rollout._replace(advantages=standardised(rollout.advantages))
        training.step(rollout, self._objective, self.max_grad_norm)
        self._n_updates += 1

    def _objective(self, rollout: CachedRollout, outputs: HeadOutputs) -> Slopes:
        """Compute the slopes of A2C's loss, with SB3's entropy bonus, and log the loss."""
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
        super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
        warn_if_nothing_moved(self)
        return self
