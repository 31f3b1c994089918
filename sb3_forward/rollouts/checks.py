"""
Find numbers in a rollout that are not finite, or large, and name their place, before anything learns from them.

Each rollout is checked once, both the data from the environments and the policy's outputs for them. SB3's ``VecCheckNan``,
around the environments, checks every step.
"""

import warnings

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

from sb3_forward.local.finite import parameter_problem

Observations = np.ndarray | dict[str, np.ndarray]

MEND = "Mend the environment; VecCheckNan(env, raise_exception=True) around it stops where it happens"
# A larger root mean square looks unnormalised. VecNormalize clips there, and the classic environments stay below (measured)
LARGE = 10.0


def why_not_to_learn(buffer: RolloutBuffer, last_observations: Observations, policy: nn.Module) -> str | None:
    """
    Look for numbers in a rollout that are not finite.

    NaN in observations is accepted if the policy's outputs are finite: its features extractor then handles missing values,
    since nothing else turns NaN into finite numbers.

    :param buffer: the full buffer, N steps of E environments
    :param last_observations: (E, ...) observations after the last step, or a dictionary of such
    :param policy: the policy that acted
    :return: a message that names an observation, parameter, reward or return, None if all are finite
    """
    finite = all(np.isfinite(part).all() for part in (buffer.returns, buffer.values, buffer.log_probs))
    looked_at = (buffer.observations, 0), (_as_step(last_observations), buffer.buffer_size)
    problem = next(filter(None, (_observation(*part, nan_is_fine=finite) for part in looked_at)), None)
    if problem is None and not finite:
        problem = parameter_problem(policy) or _reward(buffer)
    return problem and f"{problem}. Nothing was learnt from this rollout."


def why_no_action(observations: Observations, step: int, policy: nn.Module, normalization: VecNormalize | None) -> str | None:
    """
    Look for the reason why a policy cannot act.

    :param observations: (E, ...) present observations, or a dictionary of such
    :param step: step of the rollout
    :param policy: the policy
    :param normalization: normalisation of the observations, None if there is none
    :return: a message that names an observation or parameter, None if all are finite
    """
    problem = _observation(_as_step(observations), step) or parameter_problem(policy)
    if normalization is not None and (original := _observation(_as_step(normalization.get_original_obs()), step)):
        # By now its statistics have turned the observations of every environment into NaN
        problem = f"{original}. VecNormalize has taken it in: load its statistics from the last checkpoint"
    return problem and f"{problem}."


def warn_if_unnormalised(model: OnPolicyAlgorithm) -> None:
    """
    Warn of observations that are large in some entry, if the model has made no update yet.

    Images that SB3 divides by 255 are left out, and so are observations that it turns into zeros and ones.

    :param model: a forward-trained algorithm, with a full rollout buffer of N steps of E environments
    """
    if model._n_updates > 0:
        return
    space, found = model.observation_space, model.rollout_buffer.observations
    parts = space.spaces if isinstance(space, spaces.Dict) else {"": space}
    for key, part in parts.items():
        if not isinstance(part, spaces.Box) or is_image_space(part):
            continue
        size = _root_mean_square(found[key] if isinstance(found, dict) else found)
        if size.max() > LARGE:
            name = f"Observations {key!r}" if key else "Observations"
            place = ", ".join(map(str, np.unravel_index(size.argmax(), size.shape)))
            warnings.warn(
                f"{name} look unnormalised: {f'entry {place} has' if place else 'they have'} a root mean square of "
                f"{size.max():.3g}. The largest entries rule all distances between observations. Put VecNormalize around the "
                "environments.",
                stacklevel=6,
            )


def _root_mean_square(values: np.ndarray) -> np.ndarray:
    """Compute that of each entry of observations (N, E, ...); it is 0 where some are NaN, which the policy handles."""
    # Without a copy of the rollout
    total = np.einsum("ne...,ne...->...", values, values, dtype=float, casting="unsafe")
    return np.sqrt(np.where(np.isnan(total), 0, total) / (values.shape[0] * values.shape[1]))


def _as_step(observations: Observations) -> Observations:
    if isinstance(observations, dict):
        return {key: value[None] for key, value in observations.items()}
    return observations[None]


def _observation(observations: Observations, first_step: int = 0, nan_is_fine: bool = False) -> str | None:
    """Describe the first of the observations (N, E, ...) that is not finite."""
    for key, values in observations.items() if isinstance(observations, dict) else [("", observations)]:
        if (place := _first_non_finite(values, nan_is_fine)) is not None:
            step, env, *entry = place
            name = f"Observation {key!r}" if key else "The observation"
            entries = f" in entry {', '.join(map(str, entry))}" if entry else ""
            when = f"of environment {env} at step {first_step + step} of the rollout"
            return f"{name} {when} is {values[place]}{entries}. {MEND}"
    return None


def _reward(buffer: RolloutBuffer) -> str:
    if (place := _first_non_finite(buffer.rewards)) is not None:
        step, env = place
        return (
            f"The reward of environment {env} at step {step} of the rollout, or the value of the last observation of its "
            f"episode, is {buffer.rewards[place]}. {MEND}"
        )
    largest = np.abs(buffer.rewards).max()
    return f"The returns of rewards of up to {largest:.3g} overflow. Bring the rewards to a common scale (VecNormalize)"


def _first_non_finite(values: np.ndarray, nan_is_fine: bool = False) -> tuple[int, ...] | None:
    if not np.issubdtype(values.dtype, np.floating):  # integers are finite, and images are large
        return None
    finite = ~np.isinf(values) if nan_is_fine else np.isfinite(values)
    return None if finite.all() else tuple(int(i) for i in np.argwhere(~finite)[0])
