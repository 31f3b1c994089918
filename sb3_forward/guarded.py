"""Guard SB3's on-policy algorithms: leave no torn file behind, and learn from no rollout that is not finite."""

import io
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import TensorDict
from stable_baselines3.common.vec_env import VecEnv

from sb3_forward.files.atomic import save_whole
from sb3_forward.local.rows import moved
from sb3_forward.rollouts.checks import why_no_action, why_not_to_learn

# Files of version 0.1 have these in the groups of `policy.optimizer`
OLD_KEYS = ("anchors", "pending", "values", "hidden")


class GuardedAlgorithm(OnPolicyAlgorithm):
    """A base class that guards files and rollouts; it stands in front of an on-policy algorithm of SB3."""

    def save(
        self,
        path: str | Path | io.BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """
        Save as SB3 does, but keep the previous file if the process is killed or the disk runs full.

        :param path: the zip file, or an open file
        :param exclude: names of attributes to leave out
        :param include: names of attributes to save although SB3 leaves them out
        :raises OSError: if the file cannot be written; nothing has changed then
        """
        write = partial(super().save, exclude=exclude, include=include)
        if isinstance(path, str | Path):
            save_whole(path, write, "zip")
        else:
            write(path)

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """
        Collect a rollout as SB3 does, and refuse it before anything learns from it if it is not finite.

        :param env: the training environments
        :param callback: called at each step
        :param rollout_buffer: the buffer to fill
        :param n_rollout_steps: steps per environment
        :return: False if the callback has stopped the run
        :raises ValueError: with the name and place of the first number that is not finite; the next ``learn`` resets the
            environments
        """
        assert self._last_obs is not None
        cause = None
        try:
            goes_on = super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)
        except (ValueError, RuntimeError) as error:  # PyTorch refuses to make a distribution of NaN, or to draw from it
            cause = error
            reason = why_no_action(self._last_obs, rollout_buffer.pos, self.policy, self._vec_normalize_env)
            if reason is None:
                raise
        else:
            reason = why_not_to_learn(rollout_buffer, self._last_obs, self.policy) if goes_on else None
        if reason is not None:
            self._last_obs = None
            raise ValueError(reason) from cause
        return goes_on

    def set_parameters(
        self, load_path_or_dict: str | TensorDict, exact_match: bool = True, device: th.device | str = "auto"
    ) -> None:
        """
        Set parameters as SB3 does, but move them to the device of the model, even if there is a better one.

        :param load_path_or_dict: a zip file, or what ``get_parameters`` returned
        :param exact_match: whether every parameter must be there
        :param device: ignored
        """
        super().set_parameters(moved(load_path_or_dict, self.device), exact_match, self.device)
        for group in self.policy.optimizer.param_groups:
            for name in OLD_KEYS:
                group.pop(name, None)
