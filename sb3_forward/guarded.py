"""SB3's on-policy algorithm, guarded: no torn file is left behind, and no rollout is learnt from that is not finite."""

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
    """Put in front of an on-policy algorithm of SB3, it guards its files and its rollouts."""

    def save(
        self,
        path: str | Path | io.BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """
        SB3's ``save``; when it is killed or the disk runs full, the file of before is left, not half of a new one.

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
        SB3's ``collect_rollouts``, which refuses what is not finite before anything learns from it.

        :param env: the training environments
        :param callback: called at each step
        :param rollout_buffer: the buffer to fill
        :param n_rollout_steps: steps per environment
        :return: False if the callback has stopped the run
        :raises ValueError: naming what is not finite, and where; the next ``learn`` resets the environments
        """
        assert self._last_obs is not None
        cause = None
        try:
            goes_on = super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)
        except (ValueError, RuntimeError) as error:  # torch makes no distribution of NaN, or draws nothing from it
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
        SB3's ``set_parameters``; all that is taken over goes to the device of the model, also where there is a better one.

        :param load_path_or_dict: a zip file, or what ``get_parameters`` returned
        :param exact_match: whether every parameter must be there
        :param device: of no effect
        """
        super().set_parameters(moved(load_path_or_dict, self.device), exact_match, self.device)
        for group in self.policy.optimizer.param_groups:
            for name in OLD_KEYS:
                group.pop(name, None)
