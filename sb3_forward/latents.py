"""
The top features of a rollout, kept while it is collected: the policy has computed them then, by the very weights that the
next ``train()`` starts from.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_forward.evaluation import Cut

Latents = tuple[th.Tensor, th.Tensor]


class LatentRecorder:
    """
    Keeps what the heads of a policy read in each call of the policy itself; and in those of ``predict_values`` that bootstrap
    episodes which go on after the rollout or were cut, not in those of callbacks in between.

    :param policy: the policy
    """

    def __init__(self, policy: ActorCriticPolicy) -> None:
        self.policy = policy
        self._parameters = list(policy.parameters())
        self._inside = False
        self._versions: list[int] = []
        self._forget()

    def _forget(self) -> None:
        self._actor: list[th.Tensor] = []
        self._critic: list[th.Tensor] = []
        self._waiting: list[int] = []
        self.cuts: list[Cut] = []
        # What the value head reads of the observations after the last step, (n_envs, d); None if unknown
        self.last: th.Tensor | None = None

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Forget what was recorded before, and record."""
        self._forget()
        self._versions = versions(self._parameters)
        hooks = [
            self.policy.register_forward_pre_hook(lambda *_: self._enter(True)),
            self.policy.register_forward_hook(lambda *_: self._enter(False), always_call=True),
            self.policy.action_net.register_forward_pre_hook(lambda _, inputs: self._keep(self._actor, inputs)),
            self.policy.value_net.register_forward_pre_hook(lambda _, inputs: self._keep_critic(inputs)),
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def take(self, n_steps: int, n_envs: int) -> Latents | None:
        """
        Hand out what was recorded, once.

        :param n_steps: steps of the rollout
        :param n_envs: environments
        :return: features of actor and critic, (n_steps * n_envs, d) each, in the order in which ``RolloutBuffer.get`` flattens
            a rollout; None if they are not those of this rollout under the present weights
        """
        calls = self._actor, self._critic
        self._actor, self._critic = [], []
        fits = all(len(tensors) == n_steps and all(len(tensor) == n_envs for tensor in tensors) for tensors in calls)
        if not fits or self._versions != versions(self._parameters):
            return None
        actor, critic = (th.stack(tensors, dim=1).flatten(end_dim=1) for tensors in calls)
        return actor, critic

    def expect(self, cut: list[int]) -> None:
        """
        A step has been made: what the value head reads next are the ends of these episodes, one by one, and then, if it was
        the last step, what follows.

        :param cut: environments the episodes of which were cut by it
        """
        self._waiting, self.last = cut, None

    def _enter(self, inside: bool) -> None:
        self._inside = inside

    def _keep(self, where: list[th.Tensor], inputs: tuple[Any, ...]) -> None:
        if self._inside:
            where.append(inputs[0].detach())

    def _keep_critic(self, inputs: tuple[Any, ...]) -> None:
        self._keep(self._critic, inputs)
        if not self._inside:
            features = inputs[0].detach()
            if self._waiting:
                self.cuts.append(Cut(self._waiting.pop(0), len(self._critic) - 1, features))
            elif self.last is None:
                self.last = features


def versions(parameters: Iterable[th.nn.Parameter]) -> list[int]:
    """
    :param parameters: of a policy
    :return: how often each was changed in place: as long as these stay, so do the features that were made with them
    """
    return [parameter._version for parameter in parameters]
