"""
Find numbers in a rollout that are not finite, and name their place, before anything learns from them.

Each rollout is checked once, both the data from the environments and the policy's outputs for them. SB3's ``VecCheckNan``,
around the environments, checks every step.
"""

import numpy as np
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

from sb3_forward.local.finite import parameter_problem

Observations = np.ndarray | dict[str, np.ndarray]

MEND = "Mend the environment; VecCheckNan(env, raise_exception=True) around it stops where it happens"


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
