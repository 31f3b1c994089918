"""The blocks and the heads of any Stable-Baselines3 actor-critic policy."""

from collections.abc import Callable, Iterator
from typing import Any

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn

from sb3_forward.local.blocks import Activations, Block
from sb3_forward.local.fingerprint import Fingerprint
from sb3_forward.local.optimizers import KEPT
from sb3_forward.local.rows import join
from sb3_forward.local.splitting import Part, cut, leaves, prepare, sample

# What is done with a block on the way up: run it, or train it. From block and inputs to outputs.
Visit = Callable[[Block, Any], Any]

HEADS = ("action_net", "value_net", "log_std")
# A forward pass without a graph takes so many rows and bytes of observations at most, which bounds its activations
PASS_ROWS = 512
PASS_BYTES = 2**22
# On a GPU, which is idle while few rows at a time are sent to it
PASS_BYTES_ON_GPU = 2**25
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
    All of a policy below its heads, as blocks: see :mod:`sb3_forward.local.splitting`.

    :param policy: any actor-critic policy of SB3, or a user's subclass of it
    :raises ValueError: if a parameter of the policy belongs to no block and to no head, or if its network cannot be run in
        parts
    """

    def __init__(self, policy: ActorCriticPolicy) -> None:
        self.policy = policy
        _check_places(policy)
        self._cut = cut(policy)
        trained = _trained(policy)
        self.parts = self._cut.parts
        self.steps = [_block(part, trained) for part in self.parts]  #: the same, with what trains them
        self.blocks = [block for block in self.steps if block.parameters]
        self.row_bytes = sum(part.nbytes for part in leaves(sample(policy, 1)))  #: of one observation, as the network reads it
        pass_bytes = PASS_BYTES if policy.device.type == "cpu" else PASS_BYTES_ON_GPU
        self.pass_rows = max(min(PASS_ROWS, pass_bytes // self.row_bytes), 1)  #: of one forward pass
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

    @property
    def inputs(self) -> list[str]:
        """Names of the observations, by key where they are a dictionary."""
        return self._cut.inputs

    @property
    def tops(self) -> list[str]:
        """Names of the top features of actor and critic."""
        return self._cut.outputs

    def latents(self, observations: PyTorchObs, visit: Visit = run) -> tuple[th.Tensor, th.Tensor]:
        """
        The top features of a batch.

        :param observations: (B, ...) as the rollout buffer holds them, not yet preprocessed
        :param visit: what is done with each block on the way up; a shared block is visited once
        :return: the actor's features (B, d_pi) and the critic's (B, d_vf)
        """
        if not self.is_current(self.policy):
            # Something has been exchanged or hooked, which the next update will find
            return HiddenNetwork(self.policy).latents(observations, visit)
        inputs = leaves(prepare(self.policy, observations))
        return self._cut.walk(inputs, lambda index, values: visit(self.steps[index], values))


class Feed:
    """
    What the blocks of a network read of N rows, while they learn from the bottom up: held where it fits into memory, else
    computed anew from what is held below.

    :param network: the network
    :param observations: from indices (B,) to these rows, as the rollout buffer holds them
    :param rows: N
    :param budget: bytes that may be held
    """

    def __init__(
        self, network: HiddenNetwork, observations: Callable[[th.Tensor], PyTorchObs], rows: int, budget: int
    ) -> None:
        self.network = network
        self.budget = budget
        self.chunks = [
            slice(first, min(first + network.pass_rows, rows)) for first in range(0, rows, network.pass_rows)
        ]  #: all rows, by what one forward pass takes
        self._observations = observations
        self._held: dict[str, th.Tensor] = {}
        self._makers = {name: index for index, part in enumerate(network.parts) for name in part.outputs}
        if rows * network.row_bytes <= budget:
            self._observe(slice(0, rows), self._held)

    def inputs(self, index: int, rows: th.Tensor | slice) -> Any:
        """
        :param index: of a part of the network, those below which do not learn any more
        :param rows: (B,) indices, or a range
        :return: what it reads of these rows
        """
        return self._join(self.network.parts[index].inputs, self._values(self.network.parts[index].inputs, rows))

    def advance(self, index: int) -> None:
        """
        A part has learned: hold what it says of all rows, if that fits.

        :param index: of the part
        """
        part, given = self.network.parts[index], []
        left = self.budget - sum(value.nbytes for value in self._held.values())
        for rows in self.chunks:
            given.append(self.network.steps[index].forward(self.inputs(index, rows)))
            if sum(value.nbytes for value in self._by_name(part.outputs, given[0]).values()) * len(self.chunks) > left:
                return  # whoever reads it computes it again
        self._held.update(self._by_name(part.outputs, join(given)))
        readers = [name for later in self.network.parts[index + 1 :] for name in later.inputs]
        needed = self._needed([*readers, *self.network.tops])
        self._held = {name: value for name, value in self._held.items() if name in needed}

    def tops(self) -> tuple[th.Tensor, th.Tensor]:
        """
        Read the end of the network, once all have learned.

        :return: the top features of actor (N, d_pi) and critic (N, d_vf)
        """
        if all(name in self._held for name in self.network.tops):
            actor, critic = (self._held[name] for name in self.network.tops)
        else:
            parts = [self._join(self.network.tops, self._values(self.network.tops, rows)) for rows in self.chunks]
            actor, critic = (join(list(features)) for features in zip(*parts, strict=True))
        return actor, critic

    def _values(self, names: list[str], rows: th.Tensor | slice) -> dict[str, th.Tensor]:
        """These values of some rows; layers that have to run for it are at rest."""
        found = {name: self._held[name][rows] for name in names if name in self._held}
        if len(found) < len(set(names)):
            training = self.network.policy.training
            self.network.policy.set_training_mode(False)
            for name in names:
                self._compute(name, rows, found)
            self.network.policy.set_training_mode(training)
        return found

    def _compute(self, name: str, rows: th.Tensor | slice, found: dict[str, th.Tensor]) -> None:
        if name in found:
            return
        if name in self._held:
            found[name] = self._held[name][rows]
        elif name not in self._makers:
            self._observe(rows, found)
        else:
            part = self.network.parts[self._makers[name]]
            for own in part.inputs:
                self._compute(own, rows, found)
            given = self.network.steps[self._makers[name]].forward(self._join(part.inputs, found))
            found.update(self._by_name(part.outputs, given))

    def _observe(self, rows: th.Tensor | slice, found: dict[str, th.Tensor]) -> None:
        index = th.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows
        tensors = leaves(prepare(self.network.policy, self._observations(index)))
        found.update(zip(self.network.inputs, tensors, strict=True))

    def _needed(self, names: list[str]) -> set[str]:
        """What is held, of all that these are made of."""
        held = {name for name in names if name in self._held}
        makers = {self._makers[name] for name in names if name not in held and name in self._makers}
        return held.union(*(self._needed(self.network.parts[maker].inputs) for maker in makers))

    @staticmethod
    def _join(names: list[str], values: dict[str, th.Tensor]) -> Any:
        return values[names[0]] if len(names) == 1 else tuple(values[name] for name in names)

    @staticmethod
    def _by_name(names: list[str], given: Any) -> dict[str, th.Tensor]:
        return dict(zip(names, given if len(names) > 1 else [given], strict=True))


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
    assert block.module is not None
    inner = [other for other in block.module.modules() if not list(other.children())]
    return ", ".join(type(other).__name__ for other in inner)


def _fingerprint(policy: nn.Module) -> list[Any]:
    """Which modules and hooks a policy has, which parameters are trained, and by what."""
    whole: Any = policy.optimizer
    options = [value for group in whole.param_groups for name, value in group.items() if name not in ("params", "lr", *KEPT)]
    # `policy.parameters()` would do, but takes several times as long, and every update asks
    found, modules = [type(whole), *options, *sorted(_trained(policy))], [policy]
    while modules:
        module = modules.pop()
        found += [id(module), *module._forward_hooks, *module._forward_pre_hooks]
        found += [*module._backward_hooks, *module._backward_pre_hooks]
        for own in module._parameters.values():
            if own is not None and own.requires_grad:
                found += [id(own), *(own._backward_hooks or ()), *(own._post_accumulate_grad_hooks or ())]
        modules += [child for child in module._modules.values() if child is not None]
    return found
