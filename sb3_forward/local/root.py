"""
The network of a policy below its heads, as SB3 runs it: from preprocessed observations to the top features.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn


class Root(nn.Module):
    """
    From the preprocessed observations to the top features of actor and critic, as the policy computes them.

    :param policy: the policy
    """

    def __init__(self, policy: ActorCriticPolicy) -> None:
        super().__init__()
        self.policy = policy
        self.top = Top(policy.mlp_extractor, policy.share_features_extractor)
        self.whole = None if keeps_extraction(policy) else Whole(policy)

    def forward(self, observations: Any) -> tuple[th.Tensor, th.Tensor]:
        """
        :param observations: (B, ...), or a dictionary of such
        :return: the actor's features (B, d_pi) and the critic's (B, d_vf)
        """
        if self.whole is not None:
            actor, critic = self.whole(observations)
        elif self.top.shared:
            features = self.policy.features_extractor(observations)
            actor, critic = self.top(features, features)
        else:
            extract_actor, extract_critic = self.policy.pi_features_extractor, self.policy.vf_features_extractor
            actor, critic = self.top(extract_actor(observations), extract_critic(observations))
        return actor, critic


class Top(nn.Module):
    """SB3's ``mlp_extractor`` as the policy calls it."""

    def __init__(self, mlp_extractor: nn.Module, shared: bool) -> None:
        super().__init__()
        self.mlp_extractor = mlp_extractor
        self.shared = shared

    def forward(self, actor: th.Tensor, critic: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """
        :param actor: (B, d) features of the actor's extractor
        :param critic: (B, d) features of the critic's
        :return: the top features
        """
        if self.shared:
            return self.mlp_extractor(actor)
        return self.mlp_extractor.forward_actor(actor), self.mlp_extractor.forward_critic(critic)  # type: ignore[operator]


class Whole(nn.Module):
    """
    All of a policy below its heads, where the policy extracts features in a way of its own.

    :param policy: the policy
    """

    def __init__(self, policy: ActorCriticPolicy) -> None:
        super().__init__()
        self.top = Top(policy.mlp_extractor, policy.share_features_extractor)
        self.extractors = nn.ModuleList([policy.pi_features_extractor, policy.vf_features_extractor])
        self._policy = (policy,)  # no module of this one: its heads are not part of it

    def forward(self, observations: PyTorchObs) -> tuple[th.Tensor, th.Tensor]:
        """
        :param observations: (B, ...) as the policy takes them
        :return: the top features
        """
        features = self._policy[0].extract_features(observations)
        return self.top(features, features) if self.top.shared else self.top(*features)


def keeps_extraction(policy: ActorCriticPolicy) -> bool:
    """
    :param policy: a policy
    :return: whether its features are those of its extractors on the preprocessed observations, as SB3 has it
    """
    stock = type(policy).extract_features is ActorCriticPolicy.extract_features
    return stock and "extract_features" not in vars(policy)


@contextmanager
def at_rest(policy: ActorCriticPolicy) -> Iterator[None]:
    """
    Dropout off and statistics of BatchNorm at rest. What is done meanwhile leaves no trace in the modes of the modules, nor in
    PyTorch's random generators: a module of the user's own may even draw random numbers.

    :param policy: the policy
    """
    modes = {module: module.training for module in policy.modules()}
    devices = [policy.device] if policy.device.type == "cuda" else []
    policy.set_training_mode(False)
    try:
        with th.random.fork_rng(devices):
            yield
    finally:
        for module, training in modes.items():
            module.training = training


def sample(policy: ActorCriticPolicy, rows: int) -> PyTorchObs:
    """
    Draw observations from the space of a policy, whose own generator stays as it is.

    :param policy: the policy
    :param rows: B
    :return: (B, ...), preprocessed unless the policy has its own way of that
    """
    space = copy.deepcopy(policy.observation_space)
    space.seed(0)
    drawn: list[Any] = [space.sample() for _ in range(rows)]
    stacked = (
        {key: np.stack([row[key] for row in drawn]) for key in drawn[0]} if isinstance(drawn[0], dict) else np.stack(drawn)
    )
    return prepare(policy, policy.obs_to_tensor(stacked)[0])


def prepare(policy: ActorCriticPolicy, observations: PyTorchObs) -> PyTorchObs:
    """
    :param policy: a policy
    :param observations: (B, ...) as the rollout buffer holds them
    :return: what its network reads of them
    """
    if not keeps_extraction(policy):
        return observations
    return preprocess_obs(observations, policy.observation_space, normalize_images=policy.normalize_images)


def leaves(observations: PyTorchObs) -> list[th.Tensor]:
    """
    :param observations: a tensor, or a dictionary of tensors
    :return: its tensors
    """
    return list(observations.values()) if isinstance(observations, dict) else [observations]
