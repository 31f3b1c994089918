"""
Record the top features of a rollout while it is collected.

The policy computes them then, with the weights that the next ``train()`` starts from.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_forward.local.fingerprint import alike
from sb3_forward.local.rows import Latents


class Truncation(NamedTuple):
    """An episode that ended at a time limit: SB3 adds the discounted value of its last observation to the reward."""

    step: int  # of the rollout
    env: int
    observation: Any  # the last one, of one environment


class LatentRecorder:
    """
    A recorder of the inputs of both heads in every call of the policy during a rollout, and of truncated episodes.

    :param policy: the policy
    """

    def __init__(self, policy: ActorCriticPolicy) -> None:
        self.policy = policy
        self._inputs: dict[int, th.Tensor] = {}  # of the last call of the action head, 0, and of the value head, 1
        # For each step, the features of each call of the policy, by the algorithm and perhaps by callbacks
        self._steps: list[list[Latents]] = [[]]
        self.truncations: list[Truncation] = []  #: those of the rollout

    @contextmanager
    def recording(self, hooks: bool = True) -> Iterator[None]:
        """
        Clear the recorder, and record within ``with``.

        :param hooks: False to record no features
        """
        self._steps, self.truncations = [[]], []
        if not hooks:
            yield
            return
        handles = [
            # A call of the policy ends with both heads; the value head is also called alone, for values of last observations
            self.policy.register_forward_hook(lambda *_: self._end_call()),
            # These run before a user's hooks, which may change the inputs of a head. The user's hooks run again whenever the
            # head is called with recorded features
            self.policy.action_net.register_forward_pre_hook(lambda _, inputs: self._keep(0, inputs), prepend=True),
            self.policy.value_net.register_forward_pre_hook(lambda _, inputs: self._keep(1, inputs), prepend=True),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def on_step(self, infos: list[dict[str, Any]], dones: np.ndarray) -> None:
        """
        Note truncated episodes; call this after each step of the environments.

        :param infos: infos of E environments
        :param dones: (E,) whether their episodes have ended
        """
        step = len(self._steps) - 1
        for env in np.flatnonzero(dones):
            info = infos[env]
            # The condition under which SB3 adds a value
            if info.get("terminal_observation") is not None and info.get("TimeLimit.truncated", False):
                self.truncations.append(Truncation(step, int(env), info["terminal_observation"]))
        self._steps.append([])

    def take(self, n_steps: int, n_envs: int, unchanged: bool, compute: Callable[[], Latents]) -> tuple[Latents, bool]:
        """
        Hand out the features of a rollout, once.

        :param n_steps: steps of the rollout
        :param n_envs: environments
        :param unchanged: whether the hidden layers are the same as at the start of the rollout
        :param compute: computes the features of this rollout under the present weights, which costs a forward pass
        :return: features of actor and critic, (n_steps * n_envs, d) each, in the order in which ``RolloutBuffer.get`` flattens
            a rollout; and whether they are those that the policy acted on
        """
        steps, self._steps = self._steps[:n_steps], [[]]
        fits = len(steps) == n_steps and all(len(part) == n_envs for step in steps for call in step for part in call)
        if fits and unchanged and all(len(step) == 1 for step in steps):
            return _environment_by_environment([step[0] for step in steps]), True
        computed = compute()
        found = _found_again(steps, computed, n_envs) if fits else None
        return (computed, False) if found is None else (found, True)

    def _keep(self, side: int, inputs: tuple[Any, ...]) -> None:
        self._inputs[side] = inputs[0].detach()

    def _end_call(self) -> None:
        if len(self._inputs) == 2:
            self._steps[-1].append((self._inputs[0], self._inputs[1]))
        self._inputs = {}


def _found_again(steps: list[list[Latents]], computed: Latents, n_envs: int) -> Latents | None:
    """
    Pick the calls whose features are the same when they are computed again.

    Callbacks may have called the policy, too, and something may have written the same weights again.
    """
    chosen = []
    for step, calls in enumerate(steps):
        wanted = [part.unflatten(0, (n_envs, len(steps)))[:, step] for part in computed]
        same = [call for call in calls if all(map(alike, call, wanted))]
        if not same:
            return None
        # Another call may have had nearly the same observations
        distances = [sum((own - part).norm().item() for own, part in zip(call, wanted, strict=True)) for call in same]
        chosen.append(same[distances.index(min(distances))])
    return _environment_by_environment(chosen)


def _environment_by_environment(calls: list[Latents]) -> Latents:
    actor, critic = (th.stack(parts, dim=1).flatten(end_dim=1) for parts in zip(*calls, strict=True))
    return actor, critic
