"""Find the blocks and the heads of any Stable-Baselines3 actor-critic policy."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn

from sb3_forward.local.blocks import Block
from sb3_forward.local.fingerprint import Fingerprint
from sb3_forward.local.parts import Part
from sb3_forward.local.root import leaves, prepare, sample
from sb3_forward.local.rows import Latents, collect
from sb3_forward.local.splitting import split

# Called in place of a block in a forward pass: maps the block and its inputs to outputs
Visit = Callable[[Block, Any], Any]

HEADS = ("action_net", "value_net", "log_std")
# A forward pass without a graph takes at most this many rows and bytes of observations, which bounds its activations
PASS_ROWS = 512
PASS_BYTES = 2**22
# On a GPU the limit is higher, since small batches leave it idle
PASS_BYTES_ON_GPU = 2**25
# The attributes of SB3's policies that hold the layers below the heads
HIDDEN = ("features_extractor", "pi_features_extractor", "vf_features_extractor", "mlp_extractor")


class HiddenNetwork:
    """
    The layers of a policy below its heads, as blocks; see :mod:`sb3_forward.local.splitting`.

    :param policy: any actor-critic policy of SB3, or a user's subclass of it
    :raises ValueError: if a parameter of the policy belongs to no block and to no head, or if its network cannot be run in
        parts
    """

    def __init__(self, policy: ActorCriticPolicy) -> None:
        self.policy = policy
        _check_places(policy)
        self._split = split(policy)
        trained = _trained(policy)
        self.parts = self._split.parts
        self.inputs = self._split.inputs  #: names of the observations, by key where they are a dictionary
        self.tops = self._split.outputs  #: names of the top features of actor and critic
        self.steps = [_block(part, trained) for part in self.parts]  #: the same parts as blocks, which can be trained
        self.blocks = [block for block in self.steps if block.parameters]
        self.row_bytes = sum(part.nbytes for part in leaves(sample(policy, 1)))  #: of one observation, as the network reads it
        self._pass_bytes = PASS_BYTES if policy.device.type == "cpu" else PASS_BYTES_ON_GPU
        self.pass_rows = self.rows_of(self.row_bytes)  #: of one forward pass from observations
        self.head_parameters = [
            parameter
            for name, parameter in policy.named_parameters()
            if name.split(".")[0] in HEADS and id(parameter) in trained
        ]
        self.fingerprint = Fingerprint(_hidden_tensors(policy))  #: of all weights and statistics below the heads
        self._below = [module for part in modules_below(policy) for module in part.modules()]
        self._modules = list(policy.modules())  # kept, so that no new module can get the identity of one of them
        self._found = _fingerprint(policy)

    def __repr__(self) -> str:
        return "\n".join([f"{type(self).__name__}(", *(f"  {block}" for block in self.blocks), ")"])

    def is_current(self, policy: nn.Module) -> bool:
        """
        Check whether the blocks are still those of a policy.

        Its modules may have been replaced or hooked, and its parameters frozen.

        :param policy: the policy, possibly compiled
        :return: whether it has the same modules and parameters as when the blocks were found
        """
        return _fingerprint(getattr(policy, "_orig_mod", policy)) == self._found

    def latents(self, observations: PyTorchObs, visit: Visit | None = None) -> tuple[th.Tensor, th.Tensor]:
        """
        Compute the top features of a batch.

        :param observations: (B, ...) as the rollout buffer holds them, not yet preprocessed
        :param visit: called in place of each block, once for a shared one; None to run the blocks
        :return: the actor's features (B, d_pi) and the critic's (B, d_vf)
        """
        if not self.is_current(self.policy):
            # A module has been replaced or hooked. The next update will find the new blocks; until then they are found here
            return HiddenNetwork(self.policy).latents(observations, visit)
        return self._walk(observations, None if visit is None else lambda index, values: visit(self.steps[index], values))

    def _walk(self, observations: PyTorchObs, visit: Callable[[int, Any], Any] | None = None) -> Latents:
        return self._split.walk(leaves(prepare(self.policy, observations)), visit)

    @th.no_grad()
    def features(self, batches: Iterable[PyTorchObs], rows: int) -> Latents:
        """
        Compute the top features of observations as in a rollout: with dropout off and the statistics of BatchNorm fixed.

        The blocks must be those of the policy, see :meth:`is_current`; :meth:`latents` looks for itself.

        :param batches: at least one batch of observations, (B, ...) each
        :param rows: number of all observations, N
        :return: the actor's features (N, d_pi) and the critic's (N, d_vf) of all rows
        """
        # Right after a rollout they are in evaluation mode, and to set it again takes as long as a small batch
        if training := any(module.training for module in self._below):
            self.policy.set_training_mode(False)
        latents = collect(map(self._walk, batches), rows)
        if training:
            self.policy.set_training_mode(True)
        return latents

    def rows_of(self, row_bytes: int) -> int:
        """
        Count the rows that a pass may take.

        :param row_bytes: bytes of one row of what it reads, > 0
        :return: the number of rows, >= 1
        """
        return max(min(PASS_ROWS, self._pass_bytes // row_bytes), 1)

    def chunks(self, observations: PyTorchObs) -> Iterator[PyTorchObs]:
        """
        Split observations into batches for one forward pass each.

        :param observations: (N, ...), or a dictionary of such, N >= 1
        :return: the batches
        """
        if isinstance(observations, th.Tensor):
            return iter(observations.split(self.pass_rows))
        parts = (part.split(self.pass_rows) for part in observations.values())
        return (dict(zip(observations, batch, strict=True)) for batch in zip(*parts, strict=True))


def modules_below(policy: ActorCriticPolicy) -> list[nn.Module]:
    """
    List the modules of a policy that are below its heads.

    :param policy: the policy
    :return: its extractors of features, each once, and what is between them and the heads
    """
    found = (getattr(policy, name, None) for name in HIDDEN)
    return list({id(part): part for part in found if part is not None}.values())


def _check_places(policy: ActorCriticPolicy) -> None:
    """
    Refuse a trained parameter that is neither below the heads nor in a head.

    A parameter below the heads that no operation reads is accepted and never moves, as under SB3, which finds no gradient for
    it.
    """
    trained = _trained(policy)
    for name, parameter in policy.named_parameters():
        if id(parameter) in trained and name.split(".")[0] not in (*HIDDEN, *HEADS):
            raise ValueError(
                f"Parameter {name!r} of {type(policy).__name__} is in no block and in no head: what it belongs to is neither "
                f"known to be a hidden layer nor a head ({', '.join(HEADS)}). Put hidden layers into the features extractor "
                "or into `mlp_extractor`, or freeze the parameter with `requires_grad_(False)`."
            )


def _trained(policy: nn.Module) -> set[int]:
    """Return the identities of the parameters that SB3 would train: those of `policy.optimizer` that are not frozen."""
    groups: list[dict[str, Any]] = policy.optimizer.param_groups  # type: ignore[union-attr, assignment]
    return {id(parameter) for group in groups for parameter in group["params"] if parameter.requires_grad}


def _block(part: Part, trained: set[int]) -> Block:
    # A plain chain of modules with one input is called directly, so that its layers can be seen
    plain = isinstance(part.module, nn.Sequential) and not part.spared
    own = [parameter for parameter in part.parameters if id(parameter) in trained]
    return Block(part.name, part.role, part.module if plain else part.forward, own)


def _hidden_tensors(policy: nn.Module) -> Iterator[th.Tensor]:
    tensors = [*policy.named_parameters(), *policy.named_buffers()]
    yield from (tensor for name, tensor in tensors if name.split(".")[0] in HIDDEN)


def _fingerprint(policy: nn.Module) -> list[Any]:
    """List the modules, hooks and trained parameters of a policy, and the class and options of its optimizer."""
    whole: Any = policy.optimizer
    options = [value for group in whole.param_groups for name, value in group.items() if name not in ("params", "lr")]
    # `policy.parameters()` takes several times as long, and every update calls this function
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
