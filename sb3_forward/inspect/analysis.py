"""Analyse each layer of a model: the observation, which is not learned, and every block above it."""

import math
from typing import NamedTuple

import numpy as np
import scipy.linalg
import torch as th
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.type_aliases import PyTorchObs

from sb3_forward.inspect.metrics import (
    dead_share,
    distortion,
    effective_rank,
    saturated_share,
    singular_values,
    unit_deviations,
)
from sb3_forward.inspect.probe import held_out_r2
from sb3_forward.inspect.recording import Recording, network_of, record
from sb3_forward.inspect.states import States
from sb3_forward.local.distances import DISPARITIES, gaussian_disparity, pairwise_distances
from sb3_forward.local.loss import as_matrix
from sb3_forward.local.rows import pick

# Rows of one forward pass; they bound the memory of a convolution's activations
CHUNK = 256
# Distances are compared between this many rows, the first ones; a multiple of CHUNK
DISTANCE_ROWS = 512
# Pairs of these rows that a Shepard diagram shows
PAIRS = 3000
OBSERVATION = "observation"


class Shepard(NamedTuple):
    """Distances of some pairs of rows, divided by their mean, in order of the input distances."""

    inputs: np.ndarray
    outputs: np.ndarray
    gaussian: np.ndarray  # Gaussian disparities of the input distances, over their mean


class Layer(NamedTuple):
    """The observation, or a block."""

    name: str
    role: str  # actor, critic or shared
    width: int
    spectrum: np.ndarray  # (min(B, width),) singular values of the centred features, descending
    embedding: np.ndarray  # (B, 2)
    figures: dict[str, float]  # NaN where a figure does not apply
    shepard: Shepard | None  # None for the observation, which has no inputs
    activity: np.ndarray | None  # (units,) deviation of each unit over their mean, descending


def analyse(model: OnPolicyAlgorithm, states: States, seed: int) -> list[Layer]:
    """
    Analyse the layers of a model.

    :param model: a model
    :param states: states that it visited
    :param seed: seed of the untrained network, and of the pairs in the Shepard diagrams
    :return: the observation, then every block from the bottom up
    """
    policy = network_of(model.policy).policy
    inputs = preprocess_obs(states.observations, policy.observation_space, normalize_images=policy.normalize_images)
    observation = _layer(OBSERVATION, "shared", as_matrix(inputs), states)
    before = {recording.block.name: recording for recording in _record(_untrained(model, seed), states.observations)}
    layers = [observation]
    for recording in _record(policy, states.observations):
        layer = _layer(recording.block.name, recording.block.role, recording.outputs, states)
        untrained = before[recording.block.name].outputs if recording.block.name in before else None
        layers.append(_add_block_figures(layer, recording, untrained, states, seed))
    return [layer._replace(embedding=_turned(layer.embedding, observation.embedding)) for layer in layers]


def principal_coordinates(features: np.ndarray) -> np.ndarray:
    """
    Compute the coordinates of the rows on the principal axes of their features.

    This is classical scaling (Torgerson 1952) of their distances. It keeps all that depends on distances alone, such as the
    spectrum and linear probes.

    :param features: (B, d)
    :return: (B, min(B, d)), the columns centred, uncorrelated, and in descending order of their norms
    """
    centred = features - features.mean(axis=0)
    if centred.shape[1] <= len(centred):
        _, axes = scipy.linalg.eigh(centred.T @ centred)
        return centred @ axes[:, ::-1]
    values, vectors = scipy.linalg.eigh(centred @ centred.T)
    return vectors[:, ::-1] * np.sqrt(values[::-1].clip(min=0))


def _layer(name: str, role: str, features: th.Tensor, states: States) -> Layer:
    coordinates = principal_coordinates(features.double().cpu().numpy())
    spectrum = singular_values(features)
    return_r2, value_r2 = _probe(coordinates, states)
    return Layer(
        name,
        role,
        features.shape[1],
        spectrum.numpy(force=True),
        np.pad(coordinates, ((0, 0), (0, 1)))[:, :2],
        {"effective_rank": effective_rank(spectrum), "return_r2": return_r2, "value_r2": value_r2},
        None,
        None,
    )


def _add_block_figures(layer: Layer, recording: Recording, untrained: th.Tensor | None, states: States, seed: int) -> Layer:
    inputs, outputs, units = recording.inputs[:DISTANCE_ROWS], recording.outputs[:DISTANCE_ROWS], recording.units
    figures = {
        f"{name}_{disparity}": value
        for disparity in DISPARITIES
        for name, value in distortion(inputs, outputs, disparity).items()
    }
    figures["dead"] = dead_share(recording.outputs, units)
    bounds = recording.bounds
    figures["saturated"] = saturated_share(recording.outputs, units, bounds) if bounds else math.nan
    untrained_r2 = (
        (math.nan, math.nan) if untrained is None else _probe(principal_coordinates(untrained.double().cpu().numpy()), states)
    )
    figures.update(zip(("untrained_return_r2", "untrained_value_r2"), untrained_r2, strict=True))
    deviations = unit_deviations(recording.outputs, units).cpu().numpy()
    return layer._replace(
        figures={**layer.figures, **figures},
        shepard=_shepard(inputs, outputs, seed),
        activity=np.sort(deviations / (deviations.mean() or 1.0))[::-1],
    )


def _probe(coordinates: np.ndarray, states: States) -> tuple[float, float]:
    scores = held_out_r2(coordinates, np.stack([states.returns, states.values], axis=1), states.episodes)
    return float(scores[0]), float(scores[1])


def _shepard(inputs: th.Tensor, outputs: th.Tensor, seed: int) -> Shepard:
    distances = pairwise_distances(inputs)
    first, second = np.triu_indices(len(inputs), k=1)
    chosen = np.random.default_rng(seed).choice(len(first), min(PAIRS, len(first)), replace=False)
    scaled = [
        (matrix / matrix.mean().clamp_min(th.finfo(matrix.dtype).tiny)).cpu().numpy()[first[chosen], second[chosen]]
        for matrix in (distances, pairwise_distances(outputs), gaussian_disparity(distances))
    ]
    order = scaled[0].argsort()
    return Shepard(*(column[order] for column in scaled))


def _record(policy: ActorCriticPolicy, observations: PyTorchObs) -> list[Recording]:
    """Run :func:`record` chunk by chunk, and keep inputs only of the rows that distances are compared between."""
    rows = len(next(iter(observations.values()))) if isinstance(observations, dict) else len(observations)
    chunks = [record(policy, pick(observations, slice(first, first + CHUNK))) for first in range(0, rows, CHUNK)]
    return [
        Recording(
            parts[0].block,
            th.cat([part.inputs for part in parts[: DISTANCE_ROWS // CHUNK]]),
            th.cat([part.outputs for part in parts]),
        )
        for parts in zip(*chunks, strict=True)
    ]


def _untrained(model: OnPolicyAlgorithm, seed: int) -> ActorCriticPolicy:
    """Make the same network with random weights, as ``_setup_model`` makes it."""
    with th.random.fork_rng([]):
        th.manual_seed(seed)
        policy = model.policy_class(
            model.observation_space,
            model.action_space,
            lambda _: 0.0,
            use_sde=model.use_sde,
            **model.policy_kwargs,
        )
    assert isinstance(policy, ActorCriticPolicy)
    return policy.to(model.device)


def _turned(embedding: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """
    Turn and mirror an embedding, so that it lies as near as possible to another one of the same rows.

    This is the orthogonal Procrustes problem. Distances, which are all that an embedding shows, stay the same.
    """
    rotation, _ = scipy.linalg.orthogonal_procrustes(embedding, reference)
    return embedding @ rotation
