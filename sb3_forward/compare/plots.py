"""Draw the plots of a report, as PNG."""

from io import BytesIO

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sb3_forward.compare.statistics import estimate, iqm, profile


def plot_curves(rows: pd.DataFrame, variants: list[str]) -> bytes:
    """
    Plot the learning curves of all variants: interquartile mean of the training return over seeds, with its interval.

    :param rows: rows of all runs of one algorithm in one environment
    :param variants: their variants, in order
    :return: the plot
    """
    figure, axes = _empty()
    for variant in variants:
        runs = rows[rows["variant"] == variant]
        # The points of all seeds lie at the same steps, give or take a few where the budget does not divide evenly
        points = runs.assign(point=runs.groupby("seed").cumcount()).dropna(subset="return").groupby("point")
        curve = np.array([estimate(iqm, returns.to_numpy(dtype=float)) for _, returns in points["return"]])
        steps = points["step"].mean().to_numpy()
        (line,) = axes.plot(steps, curve[:, 0], label=variant)
        axes.fill_between(steps, curve[:, 1], curve[:, 2], color=line.get_color(), alpha=0.2, linewidth=0)
    axes.set(xlabel="environment steps", ylabel="training return")
    return _png(figure, axes)


def plot_profiles(runs: pd.DataFrame) -> bytes:
    """
    Plot the performance profiles of all variants: the share of runs above each score.

    :param runs: one normalised row per run, of one algorithm
    :return: the plot
    """
    figure, axes = _empty()
    thresholds = np.linspace(min(0.0, runs["final"].min()), max(1.0, runs["final"].max()), 201)
    for variant in runs["variant"].drop_duplicates():
        axes.plot(thresholds, profile(runs, variant, thresholds), label=variant)
    axes.set(xlabel="normalised score", ylabel="share of runs above it", ylim=(-0.02, 1.02))
    return _png(figure, axes)


def _empty() -> tuple[Figure, Axes]:
    # Not pyplot, which would look for a display
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    return figure, figure.subplots()


def _png(figure: Figure, axes: Axes) -> bytes:
    axes.grid(alpha=0.3)
    axes.legend()
    png = BytesIO()
    figure.savefig(png, dpi=120, format="png")
    return png.getvalue()
