"""
Share the parameters and the phases of an update between the forward-trained on-policy algorithms.

``train()`` is the method's pseudo-code. Once enough rows have come, the hidden layers learn, each from its own loss, and the
heads are refitted to their previous outputs. Then the heads learn from the policy-gradient loss, on constant features.
"""

from abc import abstractmethod
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.common.utils import explained_variance, update_learning_rate
from stable_baselines3.common.vec_env import VecEnv

from sb3_forward.guarded import GuardedAlgorithm
from sb3_forward.heads.guidance import guidance, refuse_unless_finite
from sb3_forward.heads.heads import Heads
from sb3_forward.heads.regression import cross_moments
from sb3_forward.heads.training import CachedRollout, HeadTraining
from sb3_forward.local.auxiliary import AuxiliaryLayers
from sb3_forward.local.loss import LocalObjective
from sb3_forward.local.network import HiddenNetwork
from sb3_forward.local.optimizers import give_optimizers, set_apart
from sb3_forward.local.phase import HiddenPhase
from sb3_forward.local.records import log
from sb3_forward.local.rows import Latents, count
from sb3_forward.parameters import as_schedule, check_own_parameters
from sb3_forward.policies import ForwardCnnPolicy, ForwardMultiInputPolicy, ForwardPolicy
from sb3_forward.rollouts.checks import warn_if_unnormalised
from sb3_forward.rollouts.history import FIT_ROWS, History, PhaseRows, Transitions
from sb3_forward.rollouts.reader import RolloutReader


class ForwardOnPolicyAlgorithm(GuardedAlgorithm):
    """
    The base class of the forward-trained algorithms; in front of A2C or PPO, it replaces their ``train()``.

    Its own parameters are explained at :class:`~sb3_forward.ppo.ForwardPPO`, and have their defaults at the algorithms. All
    others are those of the SB3 algorithm.

    :raises TypeError: if one of its own parameters is of another type
    :raises ValueError: if one of its own parameters is out of its range, or a parameter of the policy is in no block and no
        head
    """

    policy_aliases: dict[str, type[BasePolicy]] = {  # type: ignore[misc]  # noqa: RUF012
        "MlpPolicy": ForwardPolicy,
        "CnnPolicy": ForwardCnnPolicy,
        "MultiInputPolicy": ForwardMultiInputPolicy,
    }

    def __init__(
        self,
        *args: Any,
        local_learning_rate: float | str | Schedule,
        head_learning_rate_scale: float,
        local_interval: int,
        local_epochs: int,
        local_batch_size: int,
        local_memory: int,
        local_loss: str,
        disparity: str,
        guidance_coef: float,
        hidden_training: str,
        whiten_heads: bool,
        **kwargs: Any,
    ) -> None:
        self.local_learning_rate = local_learning_rate
        self.head_learning_rate_scale = head_learning_rate_scale
        self.local_interval = local_interval
        self.local_epochs = local_epochs
        self.local_batch_size = local_batch_size
        self.local_memory = local_memory
        self.local_loss = local_loss
        self.disparity = disparity
        self.guidance_coef = guidance_coef
        self.hidden_training = hidden_training
        self.whiten_heads = whiten_heads
        self.history = History()  #: the part of the past that is kept; saved with the model
        self.auxiliary = AuxiliaryLayers()  #: of convolutions; no part of the policy, but saved with the model
        self._n_local_phases = 0  # phases in which a hidden layer has moved; saved as `_n_updates` is
        super().__init__(*args, **kwargs)

    def _setup_model(self) -> None:
        # `load` writes the parameters after the constructor has run, and then calls this method, too
        check_own_parameters(self)
        self.local_lr_schedule = as_schedule(self.local_learning_rate)
        # After the last rollout: the observations, (E,) whether an episode starts there, and their values as SB3 computed them
        self._end: tuple[Any, Any, np.ndarray | None] = None, None, None
        super()._setup_model()
        if self.hidden_training != "backprop":
            self._find_blocks()
            if self.verbose >= 1 and self.hidden_training == "local":
                print(*self.network.blocks, sep="\n")
            if self.history.fingerprint is None:
                self.history.fingerprint = self.network.fingerprint()

    def _maybe_recommend_cpu(self, mlp_class_name: str = ForwardPolicy.__name__) -> None:
        super()._maybe_recommend_cpu(mlp_class_name)

    def _excluded_save_params(self) -> list[str]:
        # The first three are derived from the policy, and the state of the optimizers is in `policy.optimizer`
        return [*super()._excluded_save_params(), "network", "heads", "reader", "_end"]

    def _find_blocks(self) -> None:
        """Split the policy into blocks and heads, each with an optimizer of its own."""
        policy = getattr(self.policy, "_orig_mod", self.policy)  # a compiled policy keeps its parameters there
        self.network = HiddenNetwork(policy)
        self.heads = Heads(policy, self.network.head_parameters)
        give_optimizers(policy, self.network.blocks, self.local_lr_schedule(1))
        give_optimizers(policy, [self.heads], self._head_learning_rate())
        if self.heads.log_std is not None:
            set_apart(self.heads.optimizer, self.heads.log_std)  # it has a learning rate of its own
        self.reader = RolloutReader(self.network, self.heads, self.verbose)

    def _learning_rate(self) -> float:
        # The last rollout of a run goes past its end, where the Zoo's linear schedules are negative
        return max(self.lr_schedule(self._current_progress_remaining), 0.0)

    def _head_learning_rate(self) -> float:
        return self.head_learning_rate_scale * self._learning_rate()

    def _log_std_learning_rate(self) -> float:
        return self._head_learning_rate()

    def _local_learning_rate(self) -> float:
        return max(self.local_lr_schedule(self._current_progress_remaining), 0.0)

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """
        Collect a rollout as SB3 does, with the features that the heads read.

        :param env: the training environments
        :param callback: called at each step
        :param rollout_buffer: the buffer to fill
        :param n_rollout_steps: steps per environment
        :return: False if the callback has stopped the run
        """
        if self.hidden_training == "backprop":
            return super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)
        if self._last_obs is not self._end[0]:
            self.history.close_window()  # the environments were reset, or a callback stopped a rollout half-way
        compiled = hasattr(self.policy, "_orig_mod")  # a hook that comes and goes would make PyTorch compile it again
        with self.reader.recorder.recording(hooks=not compiled):
            goes_on = super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)
        values = callback.locals.get("values") if goes_on else None
        known = values.flatten().numpy(force=True) if isinstance(values, th.Tensor) else None
        self._end = self._last_obs if goes_on else None, np.asarray(self._last_episode_starts), known
        return goes_on

    def _update_info_buffer(self, infos: list[dict[str, Any]], dones: np.ndarray | None = None) -> None:
        super()._update_info_buffer(infos, dones)
        if self.hidden_training != "backprop" and dones is not None:
            self.reader.recorder.on_step(infos, dones)

    def train(self) -> None:
        """
        Update the policy with the current rollout.

        The heads learn from the policy gradient, over constant features. Once enough rows wait, the hidden blocks then learn
        from their local losses. In the other order the heads would learn on features that were fitted to these very rows.

        :raises ValueError: if a loss is not finite; the weights it would have moved are left as they were
        """
        if self.hidden_training == "backprop":
            super().train()
            return
        warn_if_unnormalised(self)
        unchanged = self._prepare()
        rollout, observations = self.reader.read(self.rollout_buffer, unchanged)
        if self.hidden_training == "local" and self.guidance_coef > 0:
            refuse_unless_finite(rollout.advantages + rollout.returns)  # before it waits together with others
        steps = self._transitions() if unchanged else None
        rows = self.history.add(observations, rollout, steps, self.local_interval)
        self._fit_values(rollout)
        self.policy.set_training_mode(True)  # as under SB3
        with HeadTraining(self.heads, rollout, self.history.sample, self.whiten_heads, observations) as training:
            self._head_phase(training)
        del training  # with its copies of the features
        if rows is not None:
            latents = self._hidden_phase(rows)
            self.history.exchange(rows.number, rows.observations, latents)
        self._log()

    def _prepare(self) -> bool:
        """
        Bring blocks, optimizers and history up to date.

        :return: whether the hidden layers are the same as after the last update
        """
        if not self.network.is_current(self.policy):
            self._find_blocks()
            self.history.forget_features()
        self._update_learning_rate(self.policy.optimizer)
        self.heads.set_learning_rates(self._head_learning_rate(), self._log_std_learning_rate())
        # `policy.optimizer` never steps: it holds the state of every other optimizer, keyed by parameter as SB3 lays it out,
        # so that models save, load and exchange their parameters with SB3's own A2C and PPO
        owners: list[Any] = [self.heads, *self.network.blocks]
        for owner in owners:
            owner.optimizer.state = self.policy.optimizer.state
        for head in (self.heads.policy.action_net, self.heads.policy.value_net):
            head.train()  # as under SB3; the layers below are in this mode only while they learn
        kept, now = self.history.fingerprint, self.network.fingerprint()
        if kept is not None and kept.device != now.device:
            self.history = self.history.to(now.device)
        unchanged = self.network.fingerprint.shows(kept, now)
        if not unchanged:
            # The network is new, or something else has written to its weights, or other parameters were loaded
            self.history.refresh(self._features, now, [], None)
        return unchanged

    def _features(self, observations: PyTorchObs) -> Latents:
        return self.network.features(self.network.chunks(observations), count(observations))

    def _transitions(self) -> Transitions | None:
        """Read the transitions of the rollout, if it is short; return None if it is not."""
        return self.reader.transitions(self.rollout_buffer, *self._end, self.gamma)

    @th.no_grad()
    def _hidden_phase(self, rows: PhaseRows) -> Latents:
        """Train the hidden layers, refit the heads to their previous outputs, and return the new top features of all rows."""
        if self.hidden_training != "local" or not self.network.blocks:
            return rows.cached.latents
        before = [rows.cached.latents, *([] if self.history.sample is None else [self.history.sample.latents])]
        outputs = self.heads.outputs(*before)
        latents = self._train_blocks(rows)
        self.history.refresh(self._features, self.network.fingerprint(), rows.parts, latents)
        drift = self.heads.refit(outputs, latents, self.history.sample)
        if drift is not None:
            self.logger.record("train/drift", drift)
        return latents

    def _train_blocks(self, rows: PhaseRows) -> Latents:
        for block in self.network.blocks:
            assert block.optimizer is not None
            update_learning_rate(block.optimizer, self._local_learning_rate())
        objective = LocalObjective(self.guidance_coef, self.local_loss, self.disparity)
        sizes = self.local_epochs, self.local_batch_size, self.max_grad_norm
        phase = HiddenPhase(self.network, objective, *sizes, self.local_memory * 2**20, self.auxiliary)
        through = rows.observations if self.heads.through_policy else None
        signals = guidance(self.heads.policy, rows.cached, through, self.network.pass_rows) if self.guidance_coef > 0 else {}
        latents = phase.learn(rows.observations, rows.number, signals)
        self.logger.record("train/local_learning_rate", self._local_learning_rate())
        if phase.records:
            self._n_local_phases += 1
            log(phase.records, self.logger)
        return latents

    @th.no_grad()
    def _fit_values(self, rollout: CachedRollout) -> None:
        """Fit the value head to the returns of the rollout, or of the last ones together if they are short."""
        if self.vf_coef * self._head_learning_rate() <= 0 or not self.heads.fits_values:
            return
        if not self.history.recent:
            residuals = self._value_targets(rollout)[:, None] - self.heads.policy.value_net(rollout.latent_vf)
            moments = cross_moments(rollout.latent_vf, residuals)
            self.heads.fit_values(rollout.latent_vf, lambda _: moments, self.history.held())
        elif self.history.new_rows >= FIT_ROWS:
            ends = self.reader.end_features(self.history.ends)
            features, returns = self.history.window(ends, self.rollout_buffer.gamma, self.rollout_buffer.gae_lambda)
            try:
                # There is one regression for each rollout since the last fit (our choice)
                iterations = max(self.history.new_rows // len(rollout.returns), 1)
                self.heads.fit_values(features, returns, self.history.held(), iterations)
            except ValueError:
                self.history.forget_returns()
                raise
            self.history.new_rows = 0

    def _value_targets(self, rollout: CachedRollout) -> th.Tensor:
        """Return the targets that the values are fitted to, (N,)."""
        return rollout.returns

    @abstractmethod
    def _head_phase(self, training: HeadTraining) -> None:
        """
        Train the heads on the policy-gradient loss of the algorithm.

        :param training: makes the steps, on its rollout with constant features
        """

    def _log(self) -> None:
        self.logger.record("train/waiting_rows", self.history.waiting_rows)
        values, returns = self.rollout_buffer.values.flatten(), self.rollout_buffer.returns.flatten()
        self.logger.record("train/explained_variance", explained_variance(values, returns))
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        if hasattr(self.policy, "log_std"):
            self.logger.record("train/std", th.exp(self.policy.log_std).mean().item())
