"""Draw the plots of a report."""

from io import BytesIO

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from sb3_forward.compare.statistics import by_environments, estimate, iqm, profile, scores

# The names of variants in words; one of the user's own has none
WORDS = {
    "bp": "backpropagation",
    "forward": "forward training",
    "frozen": "frozen hidden layers",
    "unguided": "forward without guidance",
    "plain": "forward with plain heads",
    "linear": "no hidden layers",
    "bp-same": "backpropagation, same settings",
}


def plot_curves(rows: pd.DataFrame, variants: list[str]) -> Figure:
    """
    Plot the learning curves of all variants.

    :param rows: rows of all runs of one algorithm in one environment
    :param variants: their variants, in order
    :return: the plot
    """
    figure, axes = _empty(f"{rows['algo'].iloc[0].upper()} in {rows['env'].iloc[0]}")
    draw_curves(axes, rows, variants)
    return figure


def draw_curves(axes: Axes, rows: pd.DataFrame, variants: list[str]) -> None:
    """
    Draw learning curves: interquartile mean of the training return over seeds, with its interval.

    Where a seed has no return, as before the end of its first episode, the curve has a gap.

    :param axes: what to draw on
    :param rows: rows of all runs of one algorithm in one environment
    :param variants: the variants to draw, in order
    """
    for variant in variants:
        runs = rows[rows["variant"] == variant]
        # The points of all seeds lie at the same steps, give or take a few where the budget does not divide evenly
        points = runs.assign(point=runs.groupby("seed").cumcount()).groupby("point")
        curve = np.array([_point(returns.to_numpy(dtype=float), runs["seed"].nunique()) for _, returns in points["return"]])
        _line(axes, points["step"].mean().to_numpy(), curve, WORDS.get(variant, variant))
    axes.set(xlabel="environment steps", ylabel="training return")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.legend()


def _point(returns: np.ndarray, seeds: int) -> tuple[float, ...]:
    missing = len(returns) < seeds or np.isnan(returns).any()
    return (np.nan, np.nan, np.nan) if missing else estimate(iqm, returns)


def plot_profiles(runs: pd.DataFrame) -> Figure:
    """
    Plot performance profiles: the share of runs above each score, with its interval, in environments that all shown have.

    :param runs: one normalised row per run, of one algorithm
    :return: the plot
    """
    envs, shown = max(by_environments(runs), key=lambda found: found[1]["variant"].nunique())
    figure, axes = _empty(f"{runs['algo'].iloc[0].upper()} in {', '.join(envs)}")
    thresholds = np.linspace(min(0.0, shown["final"].min()), max(1.0, shown["final"].max()), 201)
    for variant in shown["variant"].drop_duplicates():
        _line(axes, thresholds, profile(scores(shown, variant, envs), thresholds), WORDS.get(variant, variant))
    axes.set(xlabel="score (random actions 0, backpropagation 1)", ylabel="share of runs above it", ylim=(-0.02, 1.02))
    axes.legend()
    return figure


def render(figure: Figure, kind: str) -> bytes:
    """
    Render a plot, the same bytes for the same plot.

    :param figure: the plot
    :param kind: ``"png"`` or ``"pdf"``
    :return: a file of this kind
    """
    file = BytesIO()
    figure.savefig(file, dpi=300, format=kind, metadata={"CreationDate": None} if kind == "pdf" else None)
    return file.getvalue()


def _empty(title: str) -> tuple[Figure, Axes]:
    # Not pyplot, which would look for a display
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, wrap=True)
    axes.grid(alpha=0.3)
    return figure, axes


def _line(axes: Axes, places: np.ndarray, estimates: np.ndarray, label: str) -> None:
    """Draw a line with its interval: estimates are (N, 3), and NaN leaves a gap."""
    (line,) = axes.plot(places, estimates[:, 0], label=label)
    axes.fill_between(places, estimates[:, 1], estimates[:, 2], color=line.get_color(), alpha=0.2, linewidth=0)
