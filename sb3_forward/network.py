"""
Finding the blocks and the heads in any Stable-Baselines3 actor-critic policy.

A features extractor or MLP that SB3 composed of modules run one after another is split at its parametrised layers.
What cannot be split without reading its code (a user's own ``forward``) is one block, trained as a whole: never
silently left untrained.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor, MlpExtractor, NatureCNN
from torch import nn

from sb3_forward.blocks import Activations, Block

# What is done with a block on the way up: run it, or train it. From block and inputs to outputs.
Visit = Callable[[Block, Any], Any]

HEADS = ("action_net", "value_net", "log_std")


def run(block: Block, inputs: Activations) -> Activations:
    """
    The visit that only runs a block.

    :param block: the block
    :param inputs: its inputs
    :return: its outputs
    """
    return block.forward(inputs)


class Chain:
    """
    Blocks one after another.

    :param blocks: from the bottom up; none is the identity
    """

    def __init__(self, blocks: list[Block]) -> None:
        self.blocks = blocks

    def walk(self, activations: Any, visit: Visit) -> Any:
        """
        Send a batch up the blocks.

        :param activations: inputs of the lowest block
        :param visit: what is done with each block
        :return: outputs of the highest block
        """
        for block in self.blocks:
            activations = visit(block, activations)
        return activations


class Branches:
    """
    One chain per key of a dictionary observation, their outputs concatenated (``CombinedExtractor``).

    :param chains: key -> chain
    """

    def __init__(self, chains: dict[str, Chain]) -> None:
        self.chains = chains

    @property
    def blocks(self) -> list[Block]:
        """The blocks of all chains."""
        return [block for chain in self.chains.values() for block in chain.blocks]

    def walk(self, observations: Any, visit: Visit) -> th.Tensor:
        """
        Send a batch up every chain.

        :param observations: key -> (B, ...)
        :param visit: what is done with each block
        :return: (B, d) concatenated outputs
        """
        return th.cat([chain.walk(observations[key], visit) for key, chain in self.chains.items()], dim=1)


class HiddenNetwork:
    """
    All of a policy below its heads, as blocks.

    :param policy: any actor-critic policy of SB3, or a user's subclass of it
    :raises ValueError: if a parameter of the policy belongs to no block and to no head, or to two
    """

    def __init__(self, policy: ActorCriticPolicy) -> None:
        self.policy = policy
        self.shared = policy.share_features_extractor
        if self.shared:
            self.actor_extractor = _extractor(policy.features_extractor, "extractor", "shared")
            self.critic_extractor = self.actor_extractor
        else:
            self.actor_extractor = _extractor(policy.pi_features_extractor, "actor_extractor", "actor")
            self.critic_extractor = _extractor(policy.vf_features_extractor, "critic_extractor", "critic")
        self.joint: Block | None = None
        self.actor, self.critic = Chain([]), Chain([])
        if _keeps(policy.mlp_extractor, MlpExtractor, "forward_actor", "forward_critic"):
            self.actor = Chain(_split(policy.mlp_extractor.policy_net, "actor", "actor"))
            self.critic = Chain(_split(policy.mlp_extractor.value_net, "critic", "critic"))
        else:
            self.joint = Block("mlp_extractor", "shared", self._forward_joint, policy.mlp_extractor.parameters())
        self.head_parameters = _head_parameters(policy)
        self._trainable = _trainable(policy)
        self._check_every_parameter_once()

    def is_current(self, policy: nn.Module) -> bool:
        """
        Whether the blocks still are those of a policy: its modules may have been replaced, or parameters frozen.

        :param policy: the policy, possibly compiled
        :return: whether it has the same trainable parameters as when the blocks were found
        """
        return _trainable(policy) == self._trainable

    @property
    def blocks(self) -> list[Block]:
        """Every block with parameters, each once, from the bottom up."""
        found = [*self.actor_extractor.blocks]
        if not self.shared:
            found += self.critic_extractor.blocks
        found += [self.joint] if self.joint is not None else []
        found += self.actor.blocks + self.critic.blocks
        return [block for block in found if block.parameters]

    def latents(self, observations: Any, visit: Visit = run) -> tuple[th.Tensor, th.Tensor]:
        """
        The top features of a batch.

        :param observations: (B, ...) as the rollout buffer holds them, not yet preprocessed
        :param visit: what is done with each block on the way up; a shared block is visited once
        :return: the actor's features (B, d_pi) and the critic's (B, d_vf)
        """
        policy = self.policy
        inputs = preprocess_obs(observations, policy.observation_space, normalize_images=policy.normalize_images)
        actor_features = self.actor_extractor.walk(inputs, visit)
        critic_features = actor_features if self.shared else self.critic_extractor.walk(inputs, visit)
        if self.joint is not None:
            return visit(self.joint, (actor_features, critic_features))
        return self.actor.walk(actor_features, visit), self.critic.walk(critic_features, visit)

    def _forward_joint(self, features: tuple[th.Tensor, th.Tensor]) -> tuple[th.Tensor, th.Tensor]:
        mlp_extractor = self.policy.mlp_extractor
        if self.shared:
            return mlp_extractor(features[0])
        return mlp_extractor.forward_actor(features[0]), mlp_extractor.forward_critic(features[1])

    def _check_every_parameter_once(self) -> None:
        names = {parameter: name for name, parameter in self.policy.named_parameters() if parameter.requires_grad}
        owners: dict[nn.Parameter, list[str]] = {parameter: [] for parameter in names}
        for block in self.blocks:
            for parameter in block.parameters:
                owners[parameter].append(block.name)
        for parameter in self.head_parameters:
            owners[parameter].append("heads")
        for parameter, name in names.items():
            if len(owners[parameter]) != 1:
                places = " and in ".join(owners[parameter]) or "no block and in no head"
                raise ValueError(
                    f"Parameter {name!r} of {type(self.policy).__name__} is in {places}: every parameter must be trained by "
                    f"exactly one block or by the heads ({', '.join(HEADS)}). Put hidden layers into the features extractor "
                    "or into `mlp_extractor`, do not share weights between layers, or freeze the parameter with "
                    "`requires_grad_(False)`."
                )


def _extractor(module: nn.Module, name: str, role: str) -> Chain | Branches:
    if _keeps(module, CombinedExtractor, "forward"):
        branches = module.extractors.items()  # type: ignore[union-attr, operator]
        return Branches({key: Chain(_split(branch, f"{name}.{key}", role)) for key, branch in branches})
    return Chain(_split(module, name, role))


def _split(module: nn.Module, name: str, role: str) -> list[Block]:
    groups: list[list[nn.Module]] = []
    for layer in _layers(module):
        # What comes before the first weight matrix (a Flatten, a BatchNorm) belongs to the first block
        if groups and not (_starts_block(layer) and any(_starts_block(other) for other in groups[-1])):
            groups[-1].append(layer)
        else:
            groups.append([layer])
    return [
        Block(
            f"{name}.{index}" if len(groups) > 1 else name,
            role,
            nn.Sequential(*group),
            (parameter for layer in group for parameter in layer.parameters()),
        )
        for index, group in enumerate(groups)
    ]


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    if _keeps(module, nn.Sequential, "forward"):
        for child in module.children():
            yield from _layers(child)
    elif _keeps(module, NatureCNN, "forward"):
        yield from _layers(module.cnn)  # type: ignore[arg-type]
        yield from _layers(module.linear)  # type: ignore[arg-type]
    elif _keeps(module, FlattenExtractor, "forward"):
        yield module.flatten  # type: ignore[misc]
    else:
        yield module


def _starts_block(layer: nn.Module) -> bool:
    # A weight matrix or a convolution starts a block; slopes of a PReLU and gains of a normalisation go with the layer before
    return not isinstance(layer, nn.LayerNorm) and any(parameter.ndim > 1 for parameter in layer.parameters())


def _keeps(module: nn.Module, base: type[nn.Module], *methods: str) -> bool:
    return isinstance(module, base) and all(getattr(type(module), name) is getattr(base, name) for name in methods)


def _trainable(policy: nn.Module) -> list[int]:
    # `policy.parameters()` would do, but takes several times as long, and every update asks
    found, modules = [], [policy]
    while modules:
        module = modules.pop()
        found += [id(own) for own in module._parameters.values() if own is not None and own.requires_grad]
        modules += [child for child in module._modules.values() if child is not None]
    return found


def _head_parameters(policy: ActorCriticPolicy) -> list[nn.Parameter]:
    named = policy.named_parameters()
    return [parameter for name, parameter in named if name.split(".")[0] in HEADS and parameter.requires_grad]
