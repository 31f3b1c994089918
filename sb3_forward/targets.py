"""What the blocks are to match in one minibatch: made of the distances of their inputs and of the guidance."""

import torch as th
from torch.utils.weak import WeakTensorKeyDictionary

from sb3_forward.blocks import Activations, as_matrix
from sb3_forward.distances import DISPARITIES, LOCAL_LOSSES, Configuration, pairwise_distances


class Targets:
    """
    The targets of all blocks for one minibatch. What they have in common is computed once: the guidance, the inputs that actor
    and critic share, and the Gram matrix of outputs that are the next block's inputs.

    :param local_loss: a key of ``LOCAL_LOSSES``
    :param disparity: a key of ``DISPARITIES``
    :param guidance: (B, k) guidance signals by role of the block, none for unguided targets
    :param guidance_coef: their weight in the target, in [0, 1]
    """

    def __init__(self, local_loss: str, disparity: str, guidance: dict[str, th.Tensor], guidance_coef: float) -> None:
        self._target = LOCAL_LOSSES[local_loss].target
        self._disparity = DISPARITIES[disparity]
        self._coef = guidance_coef
        self._guidance = {role: self._target(pairwise_distances(signal)) for role, signal in guidance.items()}
        # Entries go with their activations: memory does not grow with depth
        self._configurations = WeakTensorKeyDictionary()
        self._unguided = WeakTensorKeyDictionary()

    def of(self, inputs: Activations, role: str) -> th.Tensor:
        """
        :param inputs: of a block, B rows
        :param role: its role
        :return: (B, B) what its local loss compares its outputs to
        """
        # Dictionaries and tuples of activations cannot be keys
        shared = isinstance(inputs, th.Tensor)
        target = self._unguided.get(inputs) if shared else None
        if target is None:
            known = self._configurations.get(inputs) if shared else None
            configuration = Configuration(as_matrix(inputs)) if known is None else known
            target = self._target(self._disparity(configuration.distances))
            if shared:
                self._unguided[inputs] = target
        return target.lerp(self._guidance[role], self._coef) if self._guidance else target

    def remember(self, outputs: Activations, configuration: Configuration) -> None:
        """
        :param outputs: of a block
        :param configuration: theirs
        """
        if isinstance(outputs, th.Tensor):
            self._configurations[outputs] = configuration
