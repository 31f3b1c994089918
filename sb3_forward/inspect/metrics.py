"""Measure features by a few figures, as pure functions of tensors."""

import torch as th

from sb3_forward.local.distances import DISPARITIES, LOCAL_LOSSES, pairwise_distances

# A unit is dead if its deviation is no more than this share of the mean deviation of its block's units. The threshold is that
# of the "dormant" units of Sokar et al. (2023), "The Dormant Neuron Phenomenon in Deep Reinforcement Learning". We take
# deviations in place of their mean magnitudes, so that it holds for other activations than ReLU, too (our choice)
DEAD = 0.025
# A unit is saturated if it is on average this far from the middle of its activation's range to an end of it (our choice)
SATURATED = 0.95


def singular_values(features: th.Tensor) -> th.Tensor:
    """
    Compute the singular values of the centred features, their spectrum.

    :param features: (B, d)
    :return: (min(B, d),) in double precision, descending; values that rounding alone may have made are zero; NaN if a feature
        is not finite
    """
    centred = features.double() - features.double().mean(dim=0)
    rows, columns = centred.shape
    gram = centred.T @ centred if columns < rows else centred @ centred.T
    if not gram.isfinite().all():
        return th.full_like(gram[0], th.nan)
    values = th.linalg.eigvalsh(gram).flip(0).clamp_min(0).sqrt()
    rounding = th.finfo(th.float32).eps * features.double().norm()
    return th.where(values <= rounding, 0.0, values)


def effective_rank(values: th.Tensor) -> float:
    """
    Compute how many directions the features really use.

    It is the exponential of the entropy of the normalised singular values (Roy & Vetterli 2007, "The effective rank: a measure
    of effective dimensionality").

    :param values: singular values, >= 0
    :return: between 1 and the number of values that are not zero; 0 for features that do not vary
    """
    total = values.sum()
    return th.special.entr(values / total).sum().exp().item() if total != 0 else 0.0


def unit_deviations(outputs: th.Tensor, units: int) -> th.Tensor:
    """
    Compute how much each unit varies over the rows.

    :param outputs: (B, d), with the outputs of a unit side by side: d is a multiple of ``units``
    :param units: number of units
    :return: (units,) standard deviation over the rows, as root mean square over the outputs of the unit
    """
    return outputs.double().var(dim=0, correction=0).unflatten(0, (units, -1)).mean(dim=1).sqrt()


def dead_share(outputs: th.Tensor, units: int) -> float:
    """
    Compute the share of units whose outputs hardly depend on the row; see :data:`DEAD`.

    :param outputs: (B, d), with the outputs of a unit side by side
    :param units: number of units
    :return: in [0, 1]
    """
    deviations = unit_deviations(outputs, units)
    rounding = th.finfo(th.float32).eps * outputs.double().square().mean().sqrt()
    return (deviations <= (DEAD * deviations.mean()).clamp_min(rounding)).double().mean().item()


def saturated_share(outputs: th.Tensor, units: int, bounds: tuple[float, float]) -> float:
    """
    Compute the share of units that are mostly at an end of their activation's range; see :data:`SATURATED`.

    :param outputs: (B, d), with the outputs of a unit side by side
    :param units: number of units
    :param bounds: lower and upper end of the range
    :return: in [0, 1]
    """
    low, high = bounds
    excursion = ((2 * outputs.double() - low - high) / (high - low)).abs().mean(dim=0)
    return (excursion.unflatten(0, (units, -1)).mean(dim=1) >= SATURATED).double().mean().item()


def distortion(inputs: th.Tensor, outputs: th.Tensor, disparity: str) -> dict[str, float]:
    """
    Measure how far the distances between outputs are from those between inputs.

    The measures are the local losses of :mod:`sb3_forward.local.distances`, without guidance.

    :param inputs: (B, d_in)
    :param outputs: (B, d_out)
    :param disparity: ``"identity"`` or ``"gaussian"``, the transform of the input distances
    :return: ``"stress"`` and ``"strain"``
    """
    disparities = DISPARITIES[disparity](pairwise_distances(inputs))
    return {name: loss.match(outputs, loss.target(disparities))[0].item() for name, loss in LOCAL_LOSSES.items()}
