"""
Read a rollout as the heads see it: with top features in place of observations.

The features are recorded while the rollout is collected, or computed from its observations. Before anything learns from them,
they are compared with the policy on some rows.
"""

from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.common.utils import obs_as_tensor

from sb3_forward.heads.agreement import Agreement, agreement, overridden
from sb3_forward.heads.gradients import HeadOutputs
from sb3_forward.heads.heads import Heads
from sb3_forward.heads.regression import follow_from_rewards
from sb3_forward.heads.training import CachedRollout, Observations, evaluate
from sb3_forward.local.fingerprint import alike
from sb3_forward.local.network import HiddenNetwork
from sb3_forward.local.rows import Latents, count, join, pick
from sb3_forward.rollouts.history import WINDOW_ROWS, Transitions
from sb3_forward.rollouts.recorder import LatentRecorder

# Heads and policy are compared on this many rows, and again after this many (our choice)
CHECKED_ROWS = 64
ROWS_BETWEEN_CHECKS = 2048


class RolloutReader:
    """
    A reader of the rollouts of a model.

    :param network: the policy as blocks
    :param heads: its heads; they are trained as the comparison with the policy requires
    :param verbose: 1 to print how the heads are trained
    """

    def __init__(self, network: HiddenNetwork, heads: Heads, verbose: int) -> None:
        self.network = network
        self.heads = heads
        self.verbose = verbose
        self.recorder = LatentRecorder(network.policy)
        self._rows_to_check = 0  # until heads and policy are compared again
        self._agreement: Agreement | None = None

    def read(self, buffer: RolloutBuffer, unchanged: bool) -> tuple[CachedRollout, Observations]:
        """
        Read a rollout.

        :param buffer: the full buffer
        :param unchanged: whether the hidden layers are the same as at the start of the rollout
        :return: N rows as the heads see them, and a function from indices to their observations
        """
        observations: Observations = partial(_observations, buffer, self.network.policy.device)
        if _hands_out_as_sb3(buffer):
            compute = partial(self._latents_of, observations, buffer.buffer_size * buffer.n_envs)
            latents, recorded = self.recorder.take(buffer.buffer_size, buffer.n_envs, unchanged, compute)
            held = (buffer.values, buffer.log_probs, buffer.advantages, buffer.returns)
            actions = _column(buffer, buffer.actions)
            rollout = self._rollout(buffer, latents, actions, [_column(buffer, values) for values in held])
        else:
            # A user's own buffer may hand out other rows, or in another order: these are the rows to learn from
            recorded, samples = False, next(iter(buffer.get(None)))
            observations = partial(pick, samples.observations)
            latents = self._latents_of(observations, len(samples.returns))
            columns = (samples.old_values, samples.old_log_prob, samples.advantages, samples.returns)
            rollout = self._rollout(buffer, latents, samples.actions, columns)
        return self._checked(rollout, observations, recorded), observations

    @th.no_grad()
    def transitions(
        self, buffer: RolloutBuffer, following: Any, starts: np.ndarray, values: np.ndarray | None, gamma: float
    ) -> Transitions | None:
        """
        Read the transitions that the returns of a short rollout are computed from.

        :param buffer: the full buffer
        :param following: observations after the last step, (E, ...), or a dictionary of such
        :param starts: (E,) whether an episode starts with these
        :param values: (E,) values of these, None if they are not known
        :param gamma: discount factor with which SB3 adds the values of truncated episodes to rewards
        :return: the transitions; None if the rollout is as long as the window, or its returns are of another kind
        """
        short = buffer.buffer_size * buffer.n_envs < WINDOW_ROWS
        # A buffer of the user's own may compute others, and return its rows in another order, or not all of them
        known = type(buffer).compute_returns_and_advantage is RolloutBuffer.compute_returns_and_advantage
        known = known and _hands_out_as_sb3(buffer)
        if not (short and known and self.heads.fits_values) or values is None:
            return None
        if not follow_from_rewards(buffer, values, starts):
            return None  # a callback has written other returns, which are used as they are
        rewards, truncations = buffer.rewards.copy(), list(self.recorder.truncations)
        if truncations:
            features = self.end_features([end.observation for end in truncations])
            added = self.network.policy.value_net(features).flatten().tolist()
            for end, value in zip(truncations, added, strict=True):
                rewards[end.step, end.env] -= gamma * value
        return Transitions(rewards, buffer.episode_starts.copy(), starts, following, truncations)

    def end_features(self, ends: list[Any]) -> th.Tensor:
        """
        Compute the critic's features of observations in the form that environments return.

        :param ends: batches of observations, or single ones
        :return: (N, d_vf) of all rows
        """
        together = join([self.network.policy.obs_to_tensor(end)[0] for end in ends])
        return self.network.features(self.network.chunks(together), count(together))[1]

    def _latents_of(self, observations: Observations, rows: int) -> Latents:
        return self.network.features(map(observations, th.arange(rows).split(self.network.pass_rows)), rows)

    def _rollout(
        self, buffer: RolloutBuffer, latents: Latents, actions: th.Tensor, columns: Iterable[th.Tensor]
    ) -> CachedRollout:
        """Make the rows that the heads see, with actions in SB3's form and numbers in the precision of the policy."""
        if isinstance(buffer.action_space, spaces.Discrete):
            actions = actions.long().flatten()
        return CachedRollout(*latents, actions, *(column.flatten().to(latents[1].dtype) for column in columns))

    @th.no_grad()
    def _checked(self, rollout: CachedRollout, observations: Observations, recorded: bool) -> CachedRollout:
        """
        Compare features, blocks and heads with the policy on some rows.

        Where they differ, the heads are trained the slower way. A policy with methods of its own is compared in every rollout.
        """
        rows, policy = len(rollout.returns), self.network.policy
        self._rows_to_check -= rows
        if self._rows_to_check >= 0 and not overridden(policy):
            return rollout
        self._rows_to_check = ROWS_BETWEEN_CHECKS
        some = th.linspace(0, rows - 1, min(rows, CHECKED_ROWS)).long()
        seen = observations(some)
        features = self.network.features([seen], count(seen))
        if recorded and not all(map(alike, (part[some] for part in (rollout.latent_pi, rollout.latent_vf)), features)):
            # The policy acted on other features, for example noisy ones, and may do so again
            self._rows_to_check = 0
            latents = self._latents_of(observations, rows)
            rollout = rollout.with_latents(latents)
        part = rollout.rows(some).with_latents(features)

        def outputs() -> tuple[HeadOutputs, th.Tensor]:
            self.heads.follow(None)
            return evaluate(self.heads, part), policy.value_net(features[1]).flatten()

        found = agreement(policy, features, seen, part.actions, outputs)
        self.heads.follow(found)
        if found != self._agreement and self.verbose >= 1:
            name = f"`evaluate_actions` of {type(policy).__name__}, which computes more than its heads do"
            print(f"The heads are trained {'on cached features' if found.complete else f'through {name}'}")
        self._agreement = found
        return rollout


def _observations(buffer: RolloutBuffer, device: th.device, rows: th.Tensor) -> PyTorchObs:
    """Select rows of a rollout, counted environment by environment; ``get`` flattens a buffer in place."""
    index = rows.numpy(force=True)
    places = index if buffer.generator_ready else (index % buffer.buffer_size, index // buffer.buffer_size)
    return obs_as_tensor(pick(buffer.observations, places), device)


def _column(buffer: RolloutBuffer, values: np.ndarray) -> th.Tensor:
    """Flatten (T, E, ...) of a rollout to (E T, ...), environment by environment, as ``RolloutBuffer.get`` does."""
    if not buffer.generator_ready:
        values = RolloutBuffer.swap_and_flatten(values)
    return buffer.to_torch(values.astype(np.float32, copy=False))


def _hands_out_as_sb3(buffer: RolloutBuffer) -> bool:
    """Check whether a buffer hands out exactly the rows that it stores."""
    stock = (RolloutBuffer, DictRolloutBuffer)
    return type(buffer).get in [kind.get for kind in stock] and type(buffer)._get_samples in [
        kind._get_samples for kind in stock
    ]
