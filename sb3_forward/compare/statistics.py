"""
Compute statistics of few runs: interquartile means, bootstrap intervals stratified by environment, probability of improvement.

They follow Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice" (NeurIPS 2021).
"""

# This uses NumPy and SciPy instead of rliable, the library of the paper's authors. It is archived, and its release 1.2.0 fails
# to import with pandas 3 (through arch), which it gets from Python 3.11 on.

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import trim_mean

from sb3_forward.compare.plan import VARIANTS

RESAMPLES = 2_000
CONFIDENCE = 0.95
SMOOTHING = 3  # points of the learning curve

# Takes one array of runs per environment, (n,) or (resamples, n) each
Statistic = Callable[..., np.ndarray]


class Estimate(NamedTuple):
    """A statistic with its bootstrap interval, which is NaN where an environment has a single run."""

    value: float
    low: float
    high: float


# === Statistics of arrays ===


def estimate(statistic: Statistic, *samples: np.ndarray) -> Estimate:
    """
    Compute a statistic with its bootstrap interval.

    :param statistic: takes as many arrays as there are samples, with runs along the last axis
    :param samples: runs, (n,) each; each is resampled within itself
    :return: the statistic with its percentile interval, the same for the same samples
    """
    value = float(statistic(*samples))
    if min(map(len, samples)) < 2:
        return Estimate(value, np.nan, np.nan)
    generator = np.random.default_rng(0)
    drawn = [sample[generator.integers(len(sample), size=(RESAMPLES, len(sample)))] for sample in samples]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(statistic(*drawn), [tail, 1 - tail])
    return Estimate(value, float(low), float(high))


def iqm(*samples: np.ndarray) -> np.ndarray:
    """
    Compute the interquartile mean.

    :param samples: (..., n) each
    :return: (...), mean of all runs without the lowest and the highest quarter
    """
    return trim_mean(np.concatenate(samples, axis=-1), 0.25, axis=-1)


def iqm_difference(*samples: np.ndarray) -> np.ndarray:
    """
    Compute the difference of two interquartile means.

    :param samples: (..., n) each, the first half of one variant and the second of another
    :return: (...), interquartile mean of the first variant minus that of the second
    """
    half = len(samples) // 2
    return iqm(*samples[:half]) - iqm(*samples[half:])


def improvement(*samples: np.ndarray) -> np.ndarray:
    """
    Compute the probability that a run of one variant is better than a run of another.

    :param samples: (..., n) each, the first half of one variant and the second of another, in the same order of environments
    :return: (...), share of pairs in which the run of the first variant is above that of the second (Mann and Whitney's U),
        averaged over environments; a tie counts half
    """
    half = len(samples) // 2
    shares = []
    for ours, theirs in zip(samples[:half], samples[half:], strict=True):
        difference = ours[..., :, None] - theirs[..., None, :]
        shares.append((0.5 + 0.5 * np.sign(difference)).mean(axis=(-2, -1)))
    return np.mean(shares, axis=0)


# === Statistics of tables ===


def measure(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """
    Compute the figures of one run.

    :param rows: the rows of one run
    :return: the figures by name
    """
    first, last = rows[0], rows[-1]
    # A point before the end of the first episode has no return
    returns = pd.Series([row["return"] for row in rows[1:]], dtype=float)
    smooth = returns.dropna().rolling(SMOOTHING).mean()
    return {
        **{key: first[key] for key in ("algo", "env", "variant", "seed")},
        "random": first["return"],
        "final": last["deterministic"],
        "stochastic": last["stochastic"],
        "late": returns.tail(max(1, len(returns) // 10)).mean(),
        "drop": (smooth.cummax() - smooth).max(),
        "area": returns.mean(),
        "wall_seconds": last["wall_seconds"],
    }


def table_of_runs(runs: list[list[dict[str, Any]]]) -> pd.DataFrame:
    """
    Make a table of the figures of runs.

    :param runs: the rows of each run
    :return: one row per run, by algorithm, environment, variant (in the order of ``VARIANTS``) and seed
    """
    order = list(VARIANTS)

    def position(run: dict[str, Any]) -> tuple[Any, ...]:
        variant = run["variant"]
        return run["algo"], run["env"], order.index(variant) if variant in order else len(order), variant, run["seed"]

    return pd.DataFrame(sorted(map(measure, runs), key=position))


def summarise(runs: pd.DataFrame) -> pd.DataFrame:
    """
    Summarise the runs of each variant.

    :param runs: one row per run
    :return: one row per algorithm, environment and variant
    """
    rows = []
    for (algo, env, variant), group in runs.groupby(["algo", "env", "variant"], sort=False):
        final = group["final"]
        value, low, high = estimate(iqm, final.to_numpy())
        row = {"algo": algo, "env": env, "variant": variant, "seeds": len(group)}
        row |= {"final": value, "final_low": low, "final_high": high}
        row |= {"mean": final.mean(), "std": final.std(), "worst": final.min()}
        rows.append(row | group[["stochastic", "late", "drop", "area", "wall_seconds"]].mean().to_dict())
    return pd.DataFrame(rows)


def normalise(runs: pd.DataFrame) -> pd.DataFrame:
    """
    Normalise returns to scores.

    :param runs: one row per run, of one algorithm
    :return: the rows of the environments in which backpropagation is better than random actions; in all columns of returns,
        random actions are 0 and its mean final return is 1
    """
    groups = [runs[:0]]
    for _, group in runs.groupby("env", sort=False):
        random = group["random"].mean()
        scale = group["final"][group["variant"] == "bp"].mean() - random
        if scale > 0:
            scaled = {key: (group[key] - random) / scale for key in ("final", "stochastic", "late", "area")}
            groups.append(group.assign(**scaled, drop=group["drop"] / scale))
    return pd.concat(groups)


def scores(runs: pd.DataFrame, variant: str, envs: list[str]) -> list[np.ndarray]:
    """
    Select the final scores of a variant.

    :param runs: one normalised row per run, of one algorithm
    :param variant: a variant
    :param envs: environments
    :return: the variant's final scores in each of them
    """
    chosen = runs[runs["variant"] == variant]
    return [chosen["final"][chosen["env"] == env].to_numpy() for env in envs]


def shared_envs(runs: pd.DataFrame, *variants: str) -> list[str]:
    """
    List the environments in which all of some variants have runs.

    :param runs: one row per run, of one algorithm
    :param variants: variants
    :return: these environments
    """
    return [env for env, group in runs.groupby("env", sort=False) if set(variants) <= set(group["variant"])]


def by_environments(runs: pd.DataFrame) -> Iterator[tuple[list[str], pd.DataFrame]]:
    """
    Group variants by the environments in which they have runs, so that no score of one mixes in what others lack.

    :param runs: one normalised row per run, of one algorithm
    :return: for each set of environments that some variant has, the largest first: the environments, and the rows there of all
        variants that have all of them
    """
    had = {variant: shared_envs(runs, variant) for variant in runs["variant"].drop_duplicates()}
    for envs in sorted(map(list, dict.fromkeys(map(tuple, had.values()))), key=len, reverse=True):
        whole = [variant for variant, own in had.items() if set(envs) <= set(own)]
        yield envs, runs[runs["env"].isin(envs) & runs["variant"].isin(whole)]


def aggregate(runs: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """
    Compute statistics over all environments.

    :param runs: one normalised row per run, of one algorithm
    :return: the statistics by variant
    """

    def over_envs(chosen: pd.DataFrame) -> dict[str, float]:
        by_env = chosen.groupby("env")
        return {
            "area": by_env["area"].mean().mean(),
            "std": by_env["final"].std().mean(),
            "drop": by_env["drop"].mean().mean(),
            "gap": (by_env["final"].mean() - by_env["stochastic"].mean()).mean(),
        }

    table = {}
    for variant in runs["variant"].drop_duplicates():
        envs = shared_envs(runs, variant)
        ours = scores(runs, variant, envs)
        backprop = scores(runs, "bp", envs)
        values = over_envs(runs[runs["variant"] == variant])
        reference = over_envs(runs[(runs["variant"] == "bp") & runs["env"].isin(envs)])
        ratios = {f"{key}_ratio": _ratio(values[key], reference[key]) for key in ("area", "std", "drop")}
        table[variant] = {
            "envs": len(envs),
            "runs": sum(map(len, ours)),
            "score": estimate(iqm, *ours),
            "improvement": estimate(improvement, *ours, *backprop),
            **values,
            **ratios,
        }
    return table


def _ratio(value: float, reference: float) -> float:
    return value / reference if reference > 0 else np.nan


def difference(runs: pd.DataFrame, variant: str, other: str) -> Estimate | None:
    """
    Compute how much higher one variant scores than another.

    :param runs: one normalised row per run, of one algorithm
    :param variant: a variant
    :param other: another variant
    :return: the difference of their scores in the environments that they share; None if they share none
    """
    envs = shared_envs(runs, variant, other)
    return estimate(iqm_difference, *scores(runs, variant, envs), *scores(runs, other, envs)) if envs else None


def profile(samples: list[np.ndarray], thresholds: np.ndarray) -> np.ndarray:
    """
    Compute the performance profile of a variant.

    :param samples: its scores in each environment, (n,) each
    :param thresholds: (T,) scores
    :return: (T, 3), the share of its runs above each of them, averaged over environments, and its interval
    """

    def above(threshold: float) -> Statistic:
        return lambda *drawn: np.mean([(runs > threshold).mean(axis=-1) for runs in drawn], axis=0)

    return np.array([estimate(above(threshold), *samples) for threshold in thresholds])
