"""Check whether numbers are finite, and find the parameter of a policy that is not."""

import math

import torch as th
from torch import nn


def all_finite(values: th.Tensor) -> bool:
    """
    Check whether all values are finite numbers.

    :param values: of any shape
    :return: whether each is finite
    """
    # A finite sum proves it in a quarter of the time. A sum may also overflow, so every value is checked if it is not finite
    return math.isfinite(values.sum().item()) or bool(values.isfinite().all())


def parameter_problem(policy: nn.Module) -> str | None:
    """
    Find the first parameter of a policy that is not finite.

    :param policy: the policy
    :return: a message that names it, None if all are finite
    """
    for name, parameter in policy.named_parameters():
        if not all_finite(parameter):
            return f"Parameter {name!r} of the policy is not finite. Load the last checkpoint, and lower the learning rates"
    return None
