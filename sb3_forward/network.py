"""The blocks and the heads of any Stable-Baselines3 actor-critic policy."""

from collections.abc import Callable, Iterator
from typing import Any

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn

from sb3_forward.blocks import Activations, Block
from sb3_forward.latents import Fingerprint
from sb3_forward.optimizers import KEPT
from sb3_forward.splitting import Part, cut, leaves, prepare

# What is done with a block on the way up: run it, or train it. From block and inputs to outputs.
Visit = Callable[[Block, Any], Any]

HEADS = ("action_net", "value_net", "log_std")
# Where SB3's policies have what is below the heads
HIDDEN = ("features_extractor", "pi_features_extractor", "vf_features_extractor", "mlp_extractor")


def run(block: Block, inputs: Activations) -> Activations:
    """
    The visit that only runs a block.

    :param block: the block
    :param inputs: its inputs
    :return: its outputs
    """
    return block.forward(inputs)


class HiddenNetwork:
    """
    All of a policy below its heads, as blocks: see :mod:`sb3_forward.splitting`.

    :param policy: any actor-critic policy of SB3, or a user's subclass of it
    :raises ValueError: if a parameter of the policy belongs to no block and to no head, or if its network cannot be run in
        parts
    """

    def __init__(self, policy: ActorCriticPolicy) -> None:
        self.policy = policy
        _check_places(policy)
        self._cut = cut(policy)
        trained = _trained(policy)
        self._steps = [_block(part, trained) for part in self._cut.parts]
        self.blocks = [block for block in self._steps if block.parameters]
        self.head_parameters = [
            parameter
            for name, parameter in policy.named_parameters()
            if name.split(".")[0] in HEADS and id(parameter) in trained
        ]
        self.fingerprint = Fingerprint(_hidden_tensors(policy))  #: of all weights and statistics below the heads
        self._modules = list(policy.modules())  # as long as they are held, no other module has the identity of one of them
        self._found = _fingerprint(policy)

    def __repr__(self) -> str:
        lines = [f"  {block.name} ({block.role}): {_layers(block)}" for block in self.blocks]
        return "\n".join([f"{type(self).__name__}(", *lines, ")"])

    def is_current(self, policy: nn.Module) -> bool:
        """
        Whether the blocks still are those of a policy: its modules may have been exchanged or hooked, or parameters frozen.

        :param policy: the policy, possibly compiled
        :return: whether it is made of the same modules and parameters as when the blocks were found
        """
        return _fingerprint(getattr(policy, "_orig_mod", policy)) == self._found

    def latents(self, observations: PyTorchObs, visit: Visit = run) -> tuple[th.Tensor, th.Tensor]:
        """
        The top features of a batch.

        :param observations: (B, ...) as the rollout buffer holds them, not yet preprocessed
        :param visit: what is done with each block on the way up; a shared block is visited once
        :return: the actor's features (B, d_pi) and the critic's (B, d_vf)
        """
        inputs = leaves(prepare(self.policy, observations))
        return self._cut.walk(inputs, lambda index, values: visit(self._steps[index], values))


def _check_places(policy: ActorCriticPolicy) -> None:
    """Below the heads, what no operation reads stays as it is: as under SB3, which finds no gradient for it."""
    trained = _trained(policy)
    for name, parameter in policy.named_parameters():
        if id(parameter) in trained and name.split(".")[0] not in (*HIDDEN, *HEADS):
            raise ValueError(
                f"Parameter {name!r} of {type(policy).__name__} is in no block and in no head: what it belongs to is neither "
                f"known to be a hidden layer nor a head ({', '.join(HEADS)}). Put hidden layers into the features extractor "
                "or into `mlp_extractor`, or freeze the parameter with `requires_grad_(False)`."
            )


def _trained(policy: nn.Module) -> set[int]:
    """Identities of what SB3 would train: what `policy.optimizer` was given, less what is frozen."""
    groups: list[dict[str, Any]] = policy.optimizer.param_groups  # type: ignore[union-attr, assignment]
    return {id(parameter) for group in groups for parameter in group["params"] if parameter.requires_grad}


def _block(part: Part, trained: set[int]) -> Block:
    # A plain chain of modules with one input is called as it is: what its layers are can be seen
    plain = isinstance(part.module, nn.Sequential) and not part.spared
    own = [parameter for parameter in part.parameters if id(parameter) in trained]
    return Block(part.name, part.role, part.module if plain else part.forward, own)


def _hidden_tensors(policy: nn.Module) -> Iterator[th.Tensor]:
    tensors = [*policy.named_parameters(), *policy.named_buffers()]
    yield from (tensor for name, tensor in tensors if name.split(".")[0] in HIDDEN)


def _layers(block: Block) -> str:
    module = block.forward if isinstance(block.forward, nn.Module) else block.forward.__self__.module  # type: ignore[attr-defined]
    inner = [other for other in module.modules() if not list(other.children())]
    return ", ".join(type(other).__name__ for other in inner)


def _fingerprint(policy: nn.Module) -> list[Any]:
    """Which modules and hooks a policy has, which parameters are trained, and by what."""
    whole: Any = policy.optimizer
    options = [value for group in whole.param_groups for name, value in group.items() if name not in ("params", "lr", *KEPT)]
    # `policy.parameters()` would do, but takes several times as long, and every update asks
    found, modules = [type(whole), *options, *sorted(_trained(policy))], [policy]
    while modules:
        module = modules.pop()
        found += [id(module), *module._forward_hooks, *module._forward_pre_hooks, *module._backward_hooks]
        for own in module._parameters.values():
            if own is not None and own.requires_grad:
                found += [id(own), *(own._backward_hooks or ())]
        modules += [child for child in module._modules.values() if child is not None]
    return found
