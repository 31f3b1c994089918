"""
What the forward-trained on-policy algorithms share: their parameters, the phases of an update, the cached features, and logs.

``train()`` is the method's pseudo-code. Once enough rows are there, the hidden layers learn, each from its own loss, and the
heads are refitted to what they said. Then the heads learn from the policy-gradient loss, on features that stay constant.
"""

import math
import warnings
from abc import abstractmethod
from collections.abc import Iterable
from copy import copy
from functools import partial
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import (
    DictRolloutBufferSamples,
    PyTorchObs,
    RolloutBufferSamples,
    Schedule,
    TensorDict,
)
from stable_baselines3.common.utils import (
    FloatSchedule,
    LinearSchedule,
    explained_variance,
    obs_as_tensor,
    update_learning_rate,
)
from stable_baselines3.common.vec_env import VecEnv

from sb3_forward.guarded import GuardedAlgorithm
from sb3_forward.heads.agreement import Agreement, agreement, overridden
from sb3_forward.heads.evaluation import Memory, Steps, are_lambda_returns, make_steps
from sb3_forward.heads.gradients import HeadOutputs
from sb3_forward.heads.heads import CachedRollout, Heads, Observations, improved_outputs
from sb3_forward.local.distances import DISPARITIES, LOCAL_LOSSES
from sb3_forward.local.fingerprint import alike
from sb3_forward.local.finite import all_finite
from sb3_forward.local.network import HiddenNetwork
from sb3_forward.local.optimizers import maker_of, regroup, set_apart
from sb3_forward.local.phase import BlockRecord, HiddenPhase, LocalObjective
from sb3_forward.local.rows import Latents, join, pick
from sb3_forward.parameters import (
    ABOVE_ZERO,
    FINITE,
    check_bool,
    check_choice,
    check_number,
    check_whole_number,
    refusal,
)
from sb3_forward.policies import ForwardCnnPolicy, ForwardMultiInputPolicy, ForwardPolicy
from sb3_forward.rollouts.anchors import Anchors
from sb3_forward.rollouts.pending import Pending, Rows
from sb3_forward.rollouts.recorder import LatentRecorder

HIDDEN_TRAINING = ("local", "frozen", "backprop")
# It is seen on so many rows whether blocks and heads say what the policy says, and again after so many (our choice)
CHECKED_ROWS = 64
ROWS_BETWEEN_CHECKS = 2048


class ForwardOnPolicyAlgorithm(GuardedAlgorithm):
    """
    Base of the forward-trained algorithms: put in front of A2C or PPO, it replaces their ``train()``.

    Its own parameters are explained at :class:`~sb3_forward.ppo.ForwardPPO`, and have their defaults at the algorithms.

    :param args: positional arguments of the SB3 algorithm
    :param kwargs: keyword arguments of the SB3 algorithm
    :raises TypeError: if one of its own parameters is of another type
    :raises ValueError: if one of them is out of its range, or a parameter of the policy is in no block and no head
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
        self._n_local_phases = 0  # in which a hidden layer has moved; saved as SB3's `_n_updates`
        super().__init__(*args, **kwargs)

    def _setup_model(self) -> None:
        # `load` writes the parameters after the constructor: here they pass in both ways
        self._check_parameters()
        self.local_lr_schedule = as_schedule(self.local_learning_rate)
        super()._setup_model()
        if self.hidden_training != "backprop":
            self._find_blocks()

    def _check_parameters(self) -> None:
        self.head_learning_rate_scale = check_number(
            "head_learning_rate_scale", self.head_learning_rate_scale, "a finite number above 0", ABOVE_ZERO
        )
        self.local_interval = check_whole_number(
            "local_interval", self.local_interval, "a whole number of at least 1 (after every rollout)", 1
        )
        self.local_epochs = check_whole_number(
            "local_epochs",
            self.local_epochs,
            "a whole number of at least 1",
            1,
            "use hidden_training='frozen' to leave the hidden layers as they are",
        )
        self.local_batch_size = check_whole_number(
            "local_batch_size",
            self.local_batch_size,
            "a whole number of at least 3",
            3,
            "a local loss compares the distances of pairs of rows, and two rows have only one",
        )
        self.local_memory = check_whole_number(
            "local_memory", self.local_memory, "a whole number of at least 0 (MiB; 0 holds nothing)", 0
        )
        self.local_loss = check_choice("local_loss", self.local_loss, LOCAL_LOSSES)
        self.disparity = check_choice("disparity", self.disparity, DISPARITIES)
        self.guidance_coef = check_number(
            "guidance_coef", self.guidance_coef, "a number in [0, 1] (0 is unguided)", low=0, high=1
        )
        self.hidden_training = check_choice("hidden_training", self.hidden_training, HIDDEN_TRAINING)
        self.whiten_heads = check_bool("whiten_heads", self.whiten_heads)

    def _maybe_recommend_cpu(self, mlp_class_name: str = ForwardPolicy.__name__) -> None:
        super()._maybe_recommend_cpu(mlp_class_name)

    def _excluded_save_params(self) -> list[str]:
        # All are derived from the policy: the state of the optimizers and the anchors is in `policy.optimizer`
        return [
            *super()._excluded_save_params(),
            "network",
            "heads",
            "anchors",
            "pending",
            "_recorder",
            "_fingerprint",
            "_rows_to_check",
            "_agreement",
        ]

    def _find_blocks(self) -> None:
        """Split the policy into blocks and heads, each with an optimizer of its own."""
        policy = getattr(self.policy, "_orig_mod", self.policy)  # a compiled policy keeps its parameters there
        self.network = HiddenNetwork(policy)
        maker, options = maker_of(policy)
        for block in self.network.blocks:
            block.build_optimizer(maker, self.local_lr_schedule(1), options)
        self.heads = Heads(policy, self.network.head_parameters)
        self.heads.build_optimizer(maker, self._head_learning_rate(), options)
        for optimizer in (self.heads.optimizer, *(block.optimizer for block in self.network.blocks)):
            if optimizer is not None:
                regroup(optimizer, like=policy.optimizer)
        if self.heads.spread is not None:
            set_apart(self.heads.optimizer, self.heads.spread)  # it has a learning rate of its own
        self._recorder = LatentRecorder(policy)
        self.pending = Pending([], self.local_interval)
        self._rows_to_check = 0  # until it is seen again whether blocks and heads say what the policy says
        self._agreement: Agreement | None = None
        self._fingerprint = self.network.fingerprint()  # of the hidden layers as they were last

    def _learning_rate(self) -> float:
        # The last rollout of a run goes past its end, where the Zoo's linear schedules are negative
        return max(self.lr_schedule(self._current_progress_remaining), 0.0)

    def _head_learning_rate(self) -> float:
        return self.head_learning_rate_scale * self._learning_rate()

    def _spread_learning_rate(self) -> float:
        """That of the spread of Gaussian actions, ``log_std``."""
        return self._head_learning_rate()

    def _local_learning_rate(self) -> float:
        return max(self.local_lr_schedule(self._current_progress_remaining), 0.0)

    def set_parameters(
        self, load_path_or_dict: str | TensorDict, exact_match: bool = True, device: th.device | str = "auto"
    ) -> None:
        """
        SB3's ``set_parameters``; all that is taken over goes to the device of the model, also where there is a better one.

        :param load_path_or_dict: a zip file, or what ``get_parameters`` returned
        :param exact_match: whether every parameter must be there
        :param device: of no effect
        """
        super().set_parameters(_moved(load_path_or_dict, self.device), exact_match, self.device)

    def _prepare_optimizers(self) -> bool:
        """
        Bring the blocks, the heads' optimizer, all that is kept in its state and the anchors up to date.

        :return: whether the hidden layers are what they were when the rollout began
        """
        group = self.policy.optimizer.param_groups[0]
        if not self.network.is_current(self.policy):
            self._find_blocks()
            for name in ("pending", "values"):
                group.pop(name, None)  # what is kept there are features of another network
        self._update_learning_rate(self.policy.optimizer)
        self.heads.set_learning_rates(self._head_learning_rate(), self._spread_learning_rate())
        # `policy.optimizer` never steps: it holds the state of every block's optimizer, keyed by parameter as SB3 lays it
        # out, so that models save, load and exchange their parameters with SB3's own A2C and PPO.
        self.heads.optimizer.state = self.policy.optimizer.state
        self.anchors = Anchors(group.setdefault("anchors", {}))
        if self.pending.state is not (waiting := group.setdefault("pending", [])):
            self.pending = Pending(waiting, self.local_interval)
        self.heads.memory = Memory(group.setdefault("values", {}))
        return self._find_changes()

    def _find_changes(self) -> bool:
        """
        Bring what is kept of the hidden layers up to date, if something else has written to them since they were left.

        :return: whether they are what they were when the rollout began
        """
        group = self.policy.optimizer.param_groups[0]
        now, before, kept = self.network.fingerprint(), self._fingerprint, group.get("hidden")
        unchanged = self.network.fingerprint.shows(before, now)
        if not (unchanged if kept is before else self.network.fingerprint.shows(kept, now)):
            # Another class may have trained on, or another file may have been loaded
            self.pending.recompute(lambda rows: self._latents([rows]))
            self.heads.memory.forget()
        if not unchanged or (self.anchors.rows > 0) != (self.heads.anchors is not None):
            self._remember_anchors()
        self._fingerprint = group["hidden"] = now
        return unchanged

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """
        Collect a rollout as SB3 does, and keep what the heads read meanwhile for ``train()``.

        :param env: the training environments
        :param callback: called at each step
        :param rollout_buffer: the buffer to fill
        :param n_rollout_steps: steps per environment
        :return: False if the callback has stopped the run
        """
        if self.hidden_training == "backprop":
            return super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)
        # A hook that comes and goes would have a compiled policy compiled anew in every rollout
        with self._recorder.recording(hooks=not self._is_compiled()):
            return super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)

    def train(self) -> None:
        """
        Update the policy with the current rollout: once enough rows have come since the last time, the hidden blocks on their
        local losses; then the heads on the policy gradient, over features that are constant.

        :raises ValueError: if a loss is not finite; the weights it would have moved are left as they were
        """
        if self.hidden_training == "backprop":
            super().train()
            return
        unchanged = self._prepare_optimizers()
        for head in (self.heads.policy.action_net, self.heads.policy.value_net):
            head.train()  # as under SB3; the layers below are when they learn
        observations: Observations = self._observations
        if _hands_out_as_sb3(self.rollout_buffer):
            shape = self.rollout_buffer.buffer_size, self.rollout_buffer.n_envs
            latents, recorded = self._recorder.take(*shape, unchanged, self._rollout_latents)
            if self._is_compiled() and unchanged:
                self._recorder.compute(self._last_obs, self.policy.obs_to_tensor, lambda rows: self._latents([rows])[1])
                recorded = True
            rollout = self._cached_rollout(latents)
        else:
            # What a buffer of the user's own hands out is what is learned from, in the order of then
            recorded, samples = False, next(iter(self.rollout_buffer.get(None)))
            observations = partial(pick, samples.observations)
            rollout = self._sampled_rollout(samples)
        rollout, recorded = self._checked(rollout, observations, recorded)
        guided = self.hidden_training == "local" and self.guidance_coef > 0
        signals = self._guidance(rollout, observations) if guided else {}
        rows = Rows(len(rollout.returns), observations, signals, [(rollout.latent_pi, rollout.latent_vf)])
        enough = self.pending.add(rows)
        values_learn = self.vf_coef * self._head_learning_rate() > 0
        # What was recorded of the steps belongs to the features of before
        steps = self._steps(rollout) if values_learn and recorded else None
        if steps is not None:
            self.heads.remember_steps(rollout.latent_vf, steps)
        if enough is not None:
            features = self._hidden_phase(enough)
            # The last rows are those of this rollout
            actor, critic = (feature[-len(rollout.returns) :] for feature in features)
            rollout = rollout._replace(latent_pi=actor, latent_vf=critic)
        if values_learn:
            self.heads.fit_values(rollout.latent_vf, self._value_targets(rollout), remembered=steps is not None)
        with self.heads.training(rollout, self.whiten_heads, observations) as whitened:
            self._head_phase(whitened)
        if enough is not None:
            # Not before the values are fitted: anchors hold them where they are
            self.heads.exchange(features, *self.anchors.exchange(enough.number, enough.observations))
            self.heads.memory.release()  # the anchors hold the values now
        self.logger.record("train/waiting_rows", self.pending.rows)
        values, returns = self.rollout_buffer.values.flatten(), self.rollout_buffer.returns.flatten()
        self.logger.record("train/explained_variance", explained_variance(values, returns))
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        if hasattr(self.policy, "log_std"):
            self.logger.record("train/std", th.exp(self.policy.log_std).mean().item())

    def _update_info_buffer(self, infos: list[dict[str, Any]], dones: np.ndarray | None = None) -> None:
        super()._update_info_buffer(infos, dones)
        if self.hidden_training != "backprop" and dones is not None:
            # As SB3 finds out which episodes it bootstraps
            cut = [env for env in range(len(infos)) if dones[env] and _is_cut(infos[env])]
            self._recorder.expect(cut, [infos[env]["terminal_observation"] for env in cut])

    def _is_compiled(self) -> bool:
        return hasattr(self.policy, "_orig_mod")

    @th.no_grad()
    def _checked(self, rollout: CachedRollout, observations: Observations, recorded: bool) -> tuple[CachedRollout, bool]:
        """
        See on some rows whether features, blocks and heads say what the policy says, before anything learns from a rollout;
        else go the slower way. Methods of the user's own are looked at in every rollout.

        :param rollout: the rollout with its features
        :param observations: its observations
        :param recorded: whether the features are those that the policy acted by
        :return: the same, with the features that are learned on
        """
        rows = len(rollout.returns)
        policy = self.heads.policy
        own_methods = overridden(policy)
        self._rows_to_check -= rows
        if self._rows_to_check >= 0 and not own_methods:
            return rollout, recorded
        self._rows_to_check = ROWS_BETWEEN_CHECKS
        some = th.linspace(0, rows - 1, min(rows, CHECKED_ROWS)).long()
        seen = observations(some)
        features = self._latents([seen])
        if recorded and not all(map(alike, (part[some] for part in (rollout.latent_pi, rollout.latent_vf)), features)):
            # What acted had features of another kind, for example with noise, and may go on so
            self._rows_to_check = 0
            latents = self._rollout_latents()
            rollout, recorded = rollout._replace(latent_pi=latents[0], latent_vf=latents[1]), False
        part = rollout.rows(some)._replace(latent_pi=features[0], latent_vf=features[1])

        def say() -> tuple[HeadOutputs, th.Tensor]:
            self.heads.follow(None)
            return self.heads.evaluate(part), policy.value_net(features[1]).flatten()

        found = agreement(policy, features, seen, part.actions, say)
        self.heads.follow(found)
        if found != self._agreement and self.verbose >= 1:
            name = f"`evaluate_actions` of {type(policy).__name__}, which says what its heads alone do not"
            print(f"The heads are trained {'on cached features' if found.complete else f'through {name}'}")
        self._agreement = found
        return rollout, recorded

    @th.no_grad()
    def _steps(self, rollout: CachedRollout) -> Steps | None:
        """What the returns of a short rollout are made of, to remember it by; None if that is not known."""
        buffer, last, cuts = self.rollout_buffer, self._recorder.last, self._recorder.cuts
        # A buffer of the user's own may have returns of another kind
        known = type(buffer).compute_returns_and_advantage is RolloutBuffer.compute_returns_and_advantage
        if not self.heads.fits_values or not known or last is None or self._rollout_rows() >= Memory.ROWS:
            return None
        ends, values = self._last_episode_starts, self.heads.policy.value_net(last).flatten()
        if not are_lambda_returns(buffer, values.numpy(force=True), np.asarray(ends)):
            return None  # something of the user's own has written to them, and they count as they are
        rewards = buffer.rewards.T.copy()
        for env, step, features in cuts:
            rewards[env, step] -= self.gamma * self.heads.policy.value_net(features).item()
        starts = np.empty((buffer.n_envs, buffer.buffer_size + 1), np.float32)
        starts[:, :-1], starts[:, -1] = buffer.episode_starts.T, ends
        features = rollout.latent_vf.unflatten(0, rewards.shape)
        trace = self.heads.memory.trace
        if trace is not None and len(trace) != buffer.n_envs:
            trace = None
        return make_steps(features, last, rewards, starts, cuts, trace, buffer.gamma, buffer.gae_lambda)

    def _value_targets(self, rollout: CachedRollout) -> th.Tensor:
        """What the values are fitted to, (N,)."""
        return rollout.returns

    @abstractmethod
    def _head_phase(self, rollout: CachedRollout) -> None:
        """
        Train the heads on the policy-gradient loss of the algorithm.

        :param rollout: the rollout with constant features
        """

    @th.no_grad()
    def _hidden_phase(self, rows: Rows) -> Latents:
        """Train the hidden layers, and refit the heads to what they said before. Returns the top features of all rows."""
        if self.hidden_training != "local" or not self.network.blocks:
            return join(rows.latents)
        before = [*rows.latents, *([] if self.heads.anchors is None else [self.heads.anchors])]
        outputs = self.heads.say(*before)
        features = self._train_blocks(rows)
        self._remember_anchors()
        self._fingerprint = self.policy.optimizer.param_groups[0]["hidden"] = self.network.fingerprint()
        if self.heads.memory.rows:
            after = [features, *([] if self.heads.anchors is None else [self.heads.anchors])]
            self.heads.memory.carry(join(before)[1], join(after)[1])
        self.heads.memory.release()  # sums over features of before
        drift = self.heads.hold(outputs, features)
        if drift is not None:
            self.logger.record("train/drift", drift)
        return features

    def _remember_anchors(self) -> None:
        """Cache what depends on the features of the anchors, for as long as the hidden layers stay."""
        self.heads.forget()
        if self.anchors.rows > 0:
            self.heads.remember(self._latents(self.anchors.batches(self.network.pass_rows)))

    def _train_blocks(self, rows: Rows) -> Latents:
        for block in self.network.blocks:
            assert block.optimizer is not None
            update_learning_rate(block.optimizer, self._local_learning_rate())
            block.optimizer.state = self.policy.optimizer.state
        objective = LocalObjective(self.guidance_coef, self.local_loss, self.disparity)
        sizes = self.local_epochs, self.local_batch_size, self.max_grad_norm
        phase = HiddenPhase(self.network, objective, *sizes, budget=self.local_memory * 2**20)
        features = phase.learn(rows.observations, rows.number, rows.signals)
        self._log_blocks(phase.records)
        return features

    def _guidance(self, rollout: CachedRollout, observations: Observations) -> dict[str, th.Tensor]:
        """
        What the heads should say of each row, in the light of the rewards: rows between which it differs are drawn apart,
        others together. For the critic the returns; for the actor the outputs of its head after a policy-gradient step of
        their own; shared blocks are guided by both.
        """
        advantages = (rollout.advantages - rollout.advantages.mean()) / (rollout.advantages.std(correction=0) + 1e-8)
        if self.heads.through_policy:
            parts = th.arange(len(advantages)).split(self.network.pass_rows)
            own = [(rollout.latent_pi[part], rollout.actions[part], advantages[part], observations(part)) for part in parts]
            actor = th.cat([improved_outputs(self.heads.policy, *columns) for columns in own])
        else:
            actor = improved_outputs(self.heads.policy, rollout.latent_pi, rollout.actions, advantages)
        critic = rollout.returns[:, None]
        if not all_finite(actor + critic):
            raise ValueError(
                "The guidance signal (returns, and advantages times scores) is not finite; no weight was moved by it. Check "
                "rewards and observations for NaN (VecCheckNan) and for their scale (VecNormalize)."
            )
        return {"actor": actor, "critic": critic}

    @th.no_grad()
    def _latents(self, batches: Iterable[PyTorchObs]) -> Latents:
        """Top features of observations, at least one batch of them."""
        # As in the collection of rollouts: dropout off, statistics of BatchNorm at rest
        self.policy.set_training_mode(False)
        actor, critic = zip(*map(self.network.latents, batches), strict=True)
        self.policy.set_training_mode(True)
        return th.cat(actor), th.cat(critic)

    def _rollout_latents(self) -> Latents:
        return self._latents(map(self._observations, th.arange(self._rollout_rows()).split(self.network.pass_rows)))

    def _cached_rollout(self, latents: Latents) -> CachedRollout:
        """The rollout on its top features, and what the heads' loss needs beside."""
        buffer = self.rollout_buffer
        columns = (buffer.values, buffer.log_probs, buffer.advantages, buffer.returns)
        return self._as_learned(latents, self._column(buffer.actions), map(self._column, columns))

    def _sampled_rollout(self, samples: RolloutBufferSamples | DictRolloutBufferSamples) -> CachedRollout:
        """The same of what a buffer has handed out."""
        parts = th.arange(len(samples.returns)).split(self.network.pass_rows)
        latents = self._latents(pick(samples.observations, part) for part in parts)
        columns = (samples.old_values, samples.old_log_prob, samples.advantages, samples.returns)
        return self._as_learned(latents, samples.actions, columns)

    def _as_learned(self, latents: Latents, actions: th.Tensor, columns: Iterable[th.Tensor]) -> CachedRollout:
        """With actions as SB3 has them, and numbers in the precision of the policy."""
        if isinstance(self.action_space, spaces.Discrete):
            actions = actions.long().flatten()
        return CachedRollout(*latents, actions, *(column.flatten().to(latents[1].dtype) for column in columns))

    def _column(self, values: np.ndarray) -> th.Tensor:
        """
        :param values: (T, E, ...) of a rollout, or (E T, ...) if the buffer was read before
        :return: (E T, ...) environment by environment, as ``RolloutBuffer.get`` flattens it
        """
        if not self.rollout_buffer.generator_ready:
            values = RolloutBuffer.swap_and_flatten(values)
        return self.rollout_buffer.to_torch(values.astype(np.float32, copy=False))

    def _rollout_rows(self) -> int:
        return self.rollout_buffer.buffer_size * self.rollout_buffer.n_envs

    def _observations(self, rows: th.Tensor) -> PyTorchObs:
        """These rows of the rollout, environment by environment."""
        buffer, index = self.rollout_buffer, rows.numpy(force=True)
        places = index if buffer.generator_ready else (index % buffer.buffer_size, index // buffer.buffer_size)
        return obs_as_tensor(pick(buffer.observations, places), self.device)

    def _warn_if_nothing_moved(self) -> None:
        """At the end of ``learn``: hidden layers that are to learn, and have not begun to, should not pass unnoticed."""
        if self.hidden_training != "local" or self._n_local_phases > 0 or self._n_updates == 0:
            return
        if any(block.optimizer is not None for block in self.network.blocks):
            warnings.warn(
                f"No hidden layer has moved yet: {self.pending.rows} rows wait for a hidden phase, which comes every "
                f"{self.local_interval} rows. Train for longer, or give a smaller `local_interval`; if hidden layers are to "
                "stay as they are, say so with hidden_training='frozen'.",
                stacklevel=3,
            )

    def _log_blocks(self, records: dict[str, BlockRecord]) -> None:
        self.logger.record("train/local_learning_rate", self._local_learning_rate())
        if not records:
            return
        self._n_local_phases += 1
        for name, record in records.items():
            for figure, value in (("r2", record.explained), ("loss", record.loss), ("movement", record.movement)):
                if not math.isnan(value):
                    # Too many and too long for the table on the screen
                    self.logger.record(f"local/{figure}/{name}", value, exclude=("stdout", "log"))
        self.logger.record("train/local_loss", float(np.mean([record.loss for record in records.values()])))
        self.logger.record("train/local_grad_norm", float(np.mean([record.grad_norm for record in records.values()])))


def _hands_out_as_sb3(buffer: RolloutBuffer) -> bool:
    """Whether what a buffer hands out is what it holds."""
    stock = (RolloutBuffer, DictRolloutBuffer)
    return type(buffer).get in [kind.get for kind in stock] and type(buffer)._get_samples in [
        kind._get_samples for kind in stock
    ]


def approximate_kl(log_ratio: th.Tensor) -> th.Tensor:
    """
    Estimate of KL(old || new) that is never negative in the mean: ``mean((r - 1) - log r)`` with ``r`` the probability
    ratio (J. Schulman, "Approximating KL divergence", 2020); what SB3's PPO logs as ``approx_kl``.

    :param log_ratio: (N,) log of new over old probability of the actions taken
    :return: scalar >= 0
    """
    return (log_ratio.exp() - 1 - log_ratio).mean()


def standardised(advantages: th.Tensor) -> th.Tensor:
    """
    Advantages as SB3 normalises them, each row by itself; of one advantage there is no deviation
    (https://github.com/DLR-RM/stable-baselines3/issues/325).

    :param advantages: (..., N)
    :return: the same with mean zero and deviation one; as they were where N is one
    """
    if advantages.shape[-1] < 2:
        return advantages
    return (advantages - advantages.mean(dim=-1, keepdim=True)) / (advantages.std(dim=-1, keepdim=True) + 1e-8)


def as_schedule(learning_rate: float | str | Schedule) -> FloatSchedule:
    """
    The schedule that a local learning rate stands for.

    :param learning_rate: a float, a schedule from remaining progress (1 to 0) to learning rate, or ``"lin_x"``
    :return: the schedule
    :raises TypeError: if it is none of these
    :raises ValueError: if it does not start above zero, at a finite value
    """
    name, wanted = (
        "local_learning_rate",
        "a finite number above 0, a schedule that starts at one, or 'lin_x' from such an x to 0",
    )
    advice = "use hidden_training='frozen' to leave the hidden layers as they are"
    schedule: Any = learning_rate
    if isinstance(learning_rate, str):
        # The Zoo parses such strings for SB3's own learning rate alone
        prefix, _, number = learning_rate.rpartition("_")
        try:
            start = float(number)
        except ValueError:
            start = math.nan
        if prefix not in ("", "lin") or not ABOVE_ZERO <= start <= FINITE:
            raise ValueError(refusal(name, learning_rate, wanted, advice))
        return FloatSchedule(LinearSchedule(start, 0.0, 1.0) if prefix else start)
    if not callable(schedule):
        return FloatSchedule(check_number(name, schedule, wanted, ABOVE_ZERO, advice=advice))
    schedule = FloatSchedule(schedule)
    try:
        start = schedule(1.0)
    except Exception as error:
        raise TypeError(refusal(name, learning_rate, wanted, f"called with 1.0, it raised {error!r}")) from error
    if not ABOVE_ZERO <= start <= FINITE:
        raise ValueError(refusal(name, learning_rate, wanted, f"it starts at {start}; {advice}"))
    return schedule


def _moved(value: Any, device: th.device) -> Any:
    """Dictionaries, lists and tuples with their tensors on the device; all else as it is."""
    if isinstance(value, th.Tensor):
        return value.to(device)
    if isinstance(value, dict):
        moved = copy(value)  # a state_dict has attributes beside its items
        moved.update((key, _moved(item, device)) for key, item in value.items())
        return moved
    if type(value) in (list, tuple):
        return type(value)(_moved(item, device) for item in value)
    return value


def _is_cut(info: dict[str, Any]) -> bool:
    return info.get("terminal_observation") is not None and info.get("TimeLimit.truncated", False)
