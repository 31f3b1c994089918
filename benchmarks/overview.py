"""
The picture of the README: what forward training reaches, how long it takes, and what an update holds in memory.

    python -m benchmarks.overview
    python -m benchmarks.overview --output elsewhere

draws it from committed tables: learning curves on LunarLander, seconds of training (both of the runs on held-out seeds), and
the peak of an update against depth. Nothing is run.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.harness import RESULTS, save_figure
from sb3_forward._cli import folder
from sb3_forward.compare.plots import WORDS, draw_curves

HELD_OUT = RESULTS / "held-out"
TIMED = ("classic", "lunar-lander", "distractors")
SIDES = {"stock": WORDS["bp"], "forward": WORDS["forward"]}


def seconds() -> pd.DataFrame:
    """
    :return: mean seconds of training, a row per environment and a column per variant
    """
    tables = pd.concat([pd.read_csv(HELD_OUT / name / "summary.csv") for name in TIMED])
    return tables.pivot(index="env", columns="variant", values="wall_seconds")[["bp", "forward"]].iloc[::-1]


def memory() -> pd.DataFrame:
    """
    :return: MiB of the peak of an update, a row per number of hidden layers and a column per side
    """
    chosen = "network == 'mlp' and width == 256 and batch_size == 256 and device == 'cpu'"
    rows = pd.read_csv(RESULTS / "memory.csv").query(chosen)
    return rows.pivot(index="depth", columns="side", values="peak_bytes") / 2**20


def draw() -> Figure:
    """
    :return: the picture
    """
    figure = Figure(figsize=(13.0, 3.8), layout="constrained")
    curves, times, peaks = figure.subplots(1, 3)
    draw_curves(curves, pd.read_csv(HELD_OUT / "lunar-lander" / "results.csv"), ["bp", "forward", "frozen"])
    curves.set_title("LunarLander-v3, PPO, five seeds")
    _bars(times, seconds())
    for side, words in SIDES.items():
        peaks.plot(memory().index, memory()[side], "o-", label=words)
    depths = list(memory().index)
    peaks.set(xscale="log", yscale="log", xticks=depths, xticklabels=depths, xlabel="hidden layers of 256", ylabel="MiB")
    peaks.minorticks_off()
    peaks.set_title("peak memory of an update, PPO")
    peaks.legend()
    for axes in (curves, times, peaks):
        axes.grid(alpha=0.3)
    return figure


def _bars(axes: Axes, table: pd.DataFrame) -> None:
    places = np.arange(len(table))
    for variant, shift in (("bp", 0.2), ("forward", -0.2)):
        axes.barh(places + shift, table[variant], 0.4, label=WORDS[variant])
    axes.set(yticks=places, yticklabels=table.index, xlabel="seconds of training, without evaluation")
    axes.set_title("time of learn(), PPO")
    axes.legend()


def main(arguments: list[str]) -> int:
    """
    Draw the picture.

    :param arguments: the command line
    :return: the exit code
    """
    parser = argparse.ArgumentParser(
        "python -m benchmarks.overview", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=folder, metavar="DIR", default=RESULTS, help="default: benchmarks/results")
    output: Path = parser.parse_args(arguments).output
    save_figure(draw(), output / "overview.png")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
