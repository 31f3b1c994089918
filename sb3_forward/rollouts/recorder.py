"""
The top features of a rollout, kept while it is collected: the policy has computed them then, by the very weights that the
next ``train()`` starts from.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import PyTorchObs

from sb3_forward.heads.evaluation import Cut
from sb3_forward.local.fingerprint import alike
from sb3_forward.local.rows import Latents


class LatentRecorder:
    """
    Keeps what the heads of a policy read in each call of the policy itself; and in those of ``predict_values`` that bootstrap
    episodes which go on after the rollout or were cut, not in those of callbacks in between.

    :param policy: the policy
    """

    def __init__(self, policy: ActorCriticPolicy) -> None:
        self.policy = policy
        self._forget()

    def _forget(self) -> None:
        self._inside = False
        self._call: tuple[list[th.Tensor], list[th.Tensor]] = ([], [])
        # By step: what was read in each call of the policy, by the algorithm and perhaps by callbacks
        self._steps: list[list[Latents]] = [[]]
        self._waiting: list[int] = []
        self._ends: list[tuple[int, int, Any]] = []  # environment, step and last observation of episodes that were cut
        self.cuts: list[Cut] = []
        # What the value head reads of the observations after the last step, (n_envs, d); None if unknown
        self.last: th.Tensor | None = None

    @contextmanager
    def recording(self, hooks: bool = True) -> Iterator[None]:
        """
        Forget what was recorded before, and record.

        :param hooks: False to hook nothing, and to compute the features later
        """
        self._forget()
        if not hooks:
            yield
            return
        handles = [
            self.policy.register_forward_pre_hook(lambda *_: self._enter()),
            self.policy.register_forward_hook(lambda *_: self._leave(), always_call=True),
            # Before hooks of the user's own, which may change what a head reads, and are called by it later, too
            self.policy.action_net.register_forward_pre_hook(lambda _, inputs: self._keep(0, inputs), prepend=True),
            self.policy.value_net.register_forward_pre_hook(lambda _, inputs: self._keep_critic(inputs), prepend=True),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def take(self, n_steps: int, n_envs: int, unchanged: bool, compute: Callable[[], Latents]) -> tuple[Latents, bool]:
        """
        Hand out what was recorded, once.

        :param n_steps: steps of the rollout
        :param n_envs: environments
        :param unchanged: whether the hidden layers are what they were before the rollout
        :param compute: the features of this rollout under the present weights, at the cost of a forward pass
        :return: features of actor and critic, (n_steps * n_envs, d) each, in the order in which ``RolloutBuffer.get`` flattens
            a rollout; and whether they are those that the policy acted by
        """
        steps, self._steps = self._steps[:n_steps], [[]]
        fits = len(steps) == n_steps and all(len(part) == n_envs for step in steps for call in step for part in call)
        if fits and unchanged and all(len(step) == 1 for step in steps):
            return _environment_by_environment([step[0] for step in steps]), True
        computed = compute()
        found = _found_again(steps, computed, n_envs) if fits else None
        return (computed, False) if found is None else (found, True)

    def compute(
        self, last: Any, as_tensor: Callable[[Any], tuple[PyTorchObs, bool]], features: Callable[[PyTorchObs], th.Tensor]
    ) -> None:
        """
        What follows the rollout and what its cut episodes ended with, if nothing was recorded.

        :param last: observations after the last step, (n_envs, ...)
        :param as_tensor: the policy's own ``obs_to_tensor``
        :param features: what the value head reads of observations
        """
        self.cuts = [Cut(env, step, features(as_tensor(end)[0])) for env, step, end in self._ends]
        self.last = features(as_tensor(last)[0])

    def expect(self, cut: list[int], ends: list[Any]) -> None:
        """
        A step has been made: what the value head reads next are the ends of these episodes, one by one, and then, if it was
        the last step, what follows.

        :param cut: environments the episodes of which were cut by it
        :param ends: their last observations
        """
        self._waiting, self.last = cut, None
        self._ends += [(env, len(self._steps) - 1, end) for env, end in zip(cut, ends, strict=True)]
        self._steps.append([])

    def _enter(self) -> None:
        self._inside, self._call = True, ([], [])

    def _leave(self) -> None:
        actor, critic = self._call
        self._inside, self._call = False, ([], [])
        if len(actor) == len(critic) == 1:
            self._steps[-1].append((actor[0], critic[0]))

    def _keep(self, head: int, inputs: tuple[Any, ...]) -> None:
        if self._inside:
            self._call[head].append(inputs[0].detach())

    def _keep_critic(self, inputs: tuple[Any, ...]) -> None:
        self._keep(1, inputs)
        if not self._inside:
            features = inputs[0].detach()
            if self._waiting:
                self.cuts.append(Cut(self._waiting.pop(0), len(self._steps) - 2, features))
            elif self.last is None:
                self.last = features


def _found_again(steps: list[list[Latents]], computed: Latents, n_envs: int) -> Latents | None:
    """
    Of what was recorded, that which is computed anew: callbacks may have called the policy, too, and weights may have been
    written that are the same.
    """
    chosen = []
    for step, calls in enumerate(steps):
        wanted = [part.unflatten(0, (n_envs, len(steps)))[:, step] for part in computed]
        same = [call for call in calls if all(map(alike, call, wanted))]
        if not same:
            return None
        # Another call may have been of observations that are nearly the same
        distances = [sum((own - part).norm().item() for own, part in zip(call, wanted, strict=True)) for call in same]
        chosen.append(same[distances.index(min(distances))])
    return _environment_by_environment(chosen)


def _environment_by_environment(calls: list[Latents]) -> Latents:
    actor, critic = (th.stack(parts, dim=1).flatten(end_dim=1) for parts in zip(*calls, strict=True))
    return actor, critic
