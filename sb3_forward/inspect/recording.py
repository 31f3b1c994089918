"""Run observations through the blocks of a policy, and keep inputs and outputs, without a trace in its training."""

import math
from typing import NamedTuple

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn
from torch.nn.modules.conv import _ConvNd

from sb3_forward.inspect.metrics import dead_share, distortion, effective_rank, saturated_share, singular_values
from sb3_forward.local.blocks import Block
from sb3_forward.local.loss import Activations, as_matrix
from sb3_forward.local.network import HiddenNetwork
from sb3_forward.local.root import at_rest

# Activations with a lower and an upper bound that their outputs approach, but cannot pass
BOUNDS: dict[type[nn.Module], tuple[float, float]] = {
    nn.Tanh: (-1.0, 1.0),
    nn.Softsign: (-1.0, 1.0),
    nn.Sigmoid: (0.0, 1.0),
}
# Modules that may follow an activation in its block without changing its bounds
TRANSPARENT = (nn.Flatten, nn.Identity, nn.Dropout)


class Recording(NamedTuple):
    """The inputs and outputs of one block for B observations."""

    block: Block
    inputs: th.Tensor  # (B, d_in)
    outputs: th.Tensor  # (B, d_out)

    @property
    def units(self) -> int:
        """Count the units of the outputs: the channels of a convolution, else one unit for every column."""
        channels = [layer.out_channels for layer in _layers(self.block) if isinstance(layer, _ConvNd)]
        return channels[-1] if channels else self.outputs.shape[1]

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Return the lower and upper bound of the block's activation, ``None`` where it has none."""
        layers = [layer for layer in _layers(self.block) if not isinstance(layer, TRANSPARENT)]
        return BOUNDS.get(type(layers[-1])) if layers else None

    def figures(self, disparity: str) -> dict[str, float]:
        """
        Compute the figures of the block.

        :param disparity: ``"identity"`` or ``"gaussian"``, the transform of the input distances
        :return: stress, strain, effective rank, share of dead and of saturated units (NaN if the activation is unbounded)
        """
        return {
            **distortion(self.inputs, self.outputs, disparity),
            "effective_rank": effective_rank(singular_values(self.outputs)),
            "dead": dead_share(self.outputs, self.units),
            "saturated": saturated_share(self.outputs, self.units, self.bounds) if self.bounds else math.nan,
        }


def network_of(policy: nn.Module) -> HiddenNetwork:
    """
    Find the blocks of a policy.

    :param policy: any actor-critic policy, also a compiled one
    :return: its blocks
    :raises ValueError: if it cannot be split into blocks and heads
    """
    policy = getattr(policy, "_orig_mod", policy)
    if not isinstance(policy, ActorCriticPolicy):
        raise ValueError(f"{type(policy).__name__} is no actor-critic policy as A2C and PPO have them.")
    return HiddenNetwork(policy)


def record(policy: nn.Module, observations: PyTorchObs) -> list[Recording]:
    """
    Run observations through a policy, and keep the inputs and outputs of its blocks.

    :param policy: any actor-critic policy, also a compiled one; it is left as it was, training modes and random generators
        included
    :param observations: (B, ...) as the rollout buffer holds them, on the device of the policy
    :return: inputs and outputs of every block with parameters, from the bottom up
    :raises ValueError: if the policy cannot be split into blocks and heads
    """
    network = network_of(policy)
    recordings: list[Recording] = []

    def keep(block: Block, inputs: Activations) -> Activations:
        outputs = block.forward(inputs)
        if block.parameters:
            recordings.append(Recording(block, as_matrix(inputs), as_matrix(outputs)))
        return outputs

    with th.no_grad(), at_rest(network.policy):
        network.latents(observations, keep)
    return recordings


def _layers(block: Block) -> list[nn.Module]:
    # A network that could not be split is one module, whose layers are not known
    return list(block.forward) if isinstance(block.forward, nn.Sequential) else []
