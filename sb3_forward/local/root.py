"""Run the network of a policy below its heads as SB3 does: from preprocessed observations to the top features."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn


class Root(nn.Module):
    """
    The network below the heads of a policy, from preprocessed observations to the top features of actor and critic.

    :param policy: the policy
    """

    def __init__(self, policy: ActorCriticPolicy) -> None:
        super().__init__()
        self.policy = policy
        self.top = Top(policy.mlp_extractor, policy.share_features_extractor)
        self.whole = None if keeps_extraction(policy) else Whole(policy)

    def forward(self, observations: Any) -> tuple[th.Tensor, th.Tensor]:
        """
        Compute the top features.

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
    """
    SB3's ``mlp_extractor``, called as the policy calls it.

    :param mlp_extractor: that of the policy
    :param shared: whether actor and critic share a features extractor
    """

    def __init__(self, mlp_extractor: nn.Module, shared: bool) -> None:
        super().__init__()
        self.mlp_extractor = mlp_extractor
        self.shared = shared

    def forward(self, actor: th.Tensor, critic: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """
        Compute the top features from those of the extractors.

        :param actor: (B, d) features of the actor's extractor
        :param critic: (B, d) features of the critic's extractor
        :return: the actor's features (B, d_pi) and the critic's (B, d_vf)
        """
        if self.shared:
            return self.mlp_extractor(actor)
        return self.mlp_extractor.forward_actor(actor), self.mlp_extractor.forward_critic(critic)  # type: ignore[operator]


class Whole(nn.Module):
    """
    The network below the heads of a policy that extracts features in its own way.

    :param policy: the policy
    """

    def __init__(self, policy: ActorCriticPolicy) -> None:
        super().__init__()
        self.top = Top(policy.mlp_extractor, policy.share_features_extractor)
        self.extractors = nn.ModuleList([policy.pi_features_extractor, policy.vf_features_extractor])
        self._policy = (policy,)  # a tuple hides the policy from PyTorch: its heads are no part of this module

    def forward(self, observations: PyTorchObs) -> tuple[th.Tensor, th.Tensor]:
        """
        Compute the top features.

        :param observations: (B, ...) as the policy takes them
        :return: the actor's features (B, d_pi) and the critic's (B, d_vf)
        """
        features = self._policy[0].extract_features(observations)
        return self.top(features, features) if self.top.shared else self.top(*features)


def keeps_extraction(policy: ActorCriticPolicy) -> bool:
    """
    Check whether a policy extracts features as SB3 does: with its extractors, from preprocessed observations.

    :param policy: a policy
    :return: whether it does
    """
    stock = type(policy).extract_features is ActorCriticPolicy.extract_features
    return stock and "extract_features" not in vars(policy)


@contextmanager
def at_rest(policy: ActorCriticPolicy) -> Iterator[None]:
    """
    Turn dropout off and fix the statistics of BatchNorm, within ``with``.

    The modes of the modules and PyTorch's random generators are restored at the end, since a user's module may draw random
    numbers.

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
    Draw observations from the space of a policy, and leave the space's own generator as it is.

    :param policy: the policy
    :param rows: B
    :return: (B, ...), preprocessed unless the policy does that itself
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
    Preprocess observations, unless the policy does that itself.

    :param policy: a policy
    :param observations: (B, ...) as the rollout buffer holds them
    :return: (B, ...) inputs of its network
    """
    if isinstance(observations, dict) and isinstance(policy.observation_space, spaces.Dict):
        # Environments may give the parts of an observation in any order
        observations = {key: observations[key] for key in policy.observation_space.spaces}
    if not keeps_extraction(policy):
        return observations
    return preprocess_obs(observations, policy.observation_space, normalize_images=policy.normalize_images)


def leaves(observations: PyTorchObs) -> list[th.Tensor]:
    """
    List the tensors of observations.

    :param observations: a tensor, or a dictionary of tensors
    :return: its tensors
    """
    return list(observations.values()) if isinstance(observations, dict) else [observations]
