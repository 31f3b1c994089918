"""
How the time of train() grows with the network, the rollout and the actions, beside SB3's class.

Along each axis one quantity grows, and the others stay: two layers of 64 units, for actor and critic each, two actions, and
rollouts of 8 environments with 2048 rows for PPO, 128 for A2C, whose batch is the rollout. PPO has minibatches of 256 rows and
four epochs, larger and fewer than by default, so that what ours does once per rollout counts the more. The environments say
random numbers and pay random rewards, which costs little.

Both classes run in one process, by turns, on one torch thread. A repeat is one call of learn() over as many rollouts as ours
has a hidden phase in; of it, the CPU time within train() counts, per row. A slope is that of a straight line through the
medians on logarithmic axes: 1 is a time per row that grows in proportion.

The rows go to growth.csv, in the place of older ones of the same algorithm and axis; growth.md and growth.png are made of all
that it has.
"""

import argparse
import math
import statistics
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from stable_baselines3.common.vec_env import DummyVecEnv

from benchmarks.harness import (
    Row,
    machine,
    machines,
    markdown_table,
    parse_on_device,
    read_rows,
    replace_rows,
    save_figure,
    whole_number,
    write_text,
)
from benchmarks.speed.cases import CLASSES, SIDES
from benchmarks.speed.stopwatch import Stopwatch, by_turns

EXAMPLES = """\
examples:
  python -m benchmarks.growth
  python -m benchmarks.growth --algos a2c --axes width --repeats 9"""

AXES = {
    "width": [64, 128, 256, 512, 1024],
    "depth": [2, 4, 8, 16, 32, 64],
    "rows": [256, 1024, 4096, 16384, 65536],
    "actions": [2, 8, 32, 128, 512],
}
UNITS = {"width": "units per layer", "depth": "layers", "rows": "rows per rollout", "actions": "actions"}
ENVS = 8
ROWS = {"ppo": 2048, "a2c": 128}
# Ours may not grow faster than SB3's by more
MARGIN = 0.1


class Noise(gym.Env[np.ndarray, np.int64]):
    """
    Says eight random numbers, whatever one does, and pays a random reward.

    :param actions: how many actions there are
    """

    EPISODE = 200

    def __init__(self, actions: int) -> None:
        self.observation_space = spaces.Box(-5, 5, (8,), np.float32)
        self.action_space = spaces.Discrete(actions)
        self._steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self._steps = 0
        return self._say(), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self._steps += 1
        return self._say(), self.np_random.standard_normal(), self._steps >= self.EPISODE, False, {}

    def _say(self) -> np.ndarray:
        return self.np_random.random(8, np.float32)


class Setting(NamedTuple):
    """What is timed."""

    algo: str
    rows: int
    width: int = 64
    depth: int = 2
    actions: int = 2

    def make(self, side: str, device: str) -> Stopwatch:
        """
        :param side: ``"stock"`` or ``"forward"``
        :param device: PyTorch device
        :return: a new model, timed
        """
        kwargs: dict[str, Any] = {"batch_size": 256, "n_epochs": 4} if self.algo == "ppo" else {}
        env = DummyVecEnv([lambda: Noise(self.actions)] * ENVS)
        kwargs |= {"n_steps": self.rows // ENVS, "policy_kwargs": {"net_arch": [self.width] * self.depth}}
        return Stopwatch(CLASSES[self.algo][side]("MlpPolicy", env, seed=0, device=device, **kwargs))


def time_axis(algo: str, axis: str, repeats: int, device: str) -> Iterator[Row]:
    """
    :param algo: ``"ppo"`` or ``"a2c"``
    :param axis: key of AXES
    :param repeats: how many of each class
    :param device: PyTorch device
    :return: one row per value, class and repeat
    """
    for value in AXES[axis]:
        setting = Setting(algo, **{"rows": ROWS[algo], axis: value})
        watches = {side: setting.make(side, device) for side in SIDES}
        ours: Any = watches["forward"].model
        steps = math.ceil(ours.local_interval / setting.rows) * setting.rows
        for watch in watches.values():
            watch.learn(steps)  # the state of the optimizers is made, and the anchors
        for repeat in range(repeats):
            for side in by_turns(SIDES, repeat):
                times = watches[side].learn(steps)
                about = {"algo": algo, "axis": axis, "value": value, "class": side, "repeat": repeat}
                yield about | {key: times[key] for key in ("steps", "train_seconds", "train_cpu")}


# === Report ===


class Curve(NamedTuple):
    """Seconds of the CPU per row against what grows, of one class."""

    values: list[int]
    seconds: list[float]

    @property
    def slope(self) -> float:
        """Exponent of the power of the value that comes nearest."""
        return slope(self.values, self.seconds)

    @property
    def last_slope(self) -> float:
        """The same between the last two values, where what does not grow weighs least."""
        return slope(self.values[-2:], self.seconds[-2:])


def slope(values: list[int], seconds: list[float]) -> float:
    """
    :param values: of what grows, at least two
    :param seconds: of each
    :return: slope of the line of least squares through their logarithms
    """
    return float(np.polyfit(np.log(values), np.log(seconds), 1)[0])


def curves(rows: list[Row], algo: str, axis: str) -> dict[str, Curve]:
    """
    :param rows: all rows
    :param algo: ``"ppo"`` or ``"a2c"``
    :param axis: key of AXES
    :return: the medians by class, none if nothing was measured
    """
    times: dict[str, dict[int, list[float]]] = {side: {} for side in SIDES}
    for row in rows:
        if (row["algo"], row["axis"]) == (algo, axis):
            times[row["class"]].setdefault(int(row["value"]), []).append(float(row["train_cpu"]) / int(row["steps"]))
    return {
        side: Curve(list(found), [statistics.median(of) for of in found.values()]) for side, found in times.items() if found
    }


def report(rows: list[Row]) -> str:
    """
    :param rows: all rows, at least one
    :return: slopes and times as tables in Markdown
    """
    slopes, times = [], []
    for algo in CLASSES:
        for axis, unit in UNITS.items():
            found = curves(rows, algo, axis)
            if not found:
                continue
            stock, forward = (found[side] for side in SIDES)
            holds = "yes" if forward.slope <= stock.slope + MARGIN else "no"
            cells = [f"{own:.2f}" for own in (stock.slope, forward.slope, stock.last_slope, forward.last_slope)]
            slopes.append([algo.upper(), unit, *cells[:2], holds, *cells[2:]])
            for value, theirs, ours in zip(stock.values, stock.seconds, forward.seconds, strict=True):
                times.append([algo.upper(), unit, value, f"{theirs * 1e6:.1f}", f"{ours * 1e6:.1f}", f"{ours / theirs:.2f}"])
    text = f"Made by `python -m benchmarks.growth`. {machines(rows)} One torch thread, CPU time, medians.\n\n"
    header = ["", "against", "slope of SB3's `train()`", "of ours", f"within {MARGIN}", "SB3's at the end", "ours at the end"]
    text += markdown_table(header, slopes)
    return text + "\n" + markdown_table(["", "", "", "SB3's `train()`, us per row", "ours", "ratio"], times)


def plot(rows: list[Row]) -> Figure:
    """
    :param rows: all rows, at least one
    :return: the times of both classes against what grows
    """
    figure = Figure(figsize=(12.0, 6.0), layout="constrained")
    panels = figure.subplots(len(CLASSES), len(AXES), sharey="row")
    for line, algo in zip(panels, CLASSES, strict=True):
        for axes, (axis, unit) in zip(line, UNITS.items(), strict=True):
            for side, curve in curves(rows, algo, axis).items():
                name = "SB3" if side == "stock" else "ours"
                axes.plot(curve.values, [seconds * 1e6 for seconds in curve.seconds], "o-", label=f"{name}: {curve.slope:.2f}")
                axes.legend(title="slope")
            axes.set(xscale="log", yscale="log", xlabel=unit)
            axes.set_xticks(AXES[axis], [f"{value}" for value in AXES[axis]])
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.minorticks_off()
            axes.grid(alpha=0.3)
        line[0].set_ylabel(f"{algo.upper()}: train(), us per row")
    return figure


# === Command line ===


def parse(arguments: list[str]) -> argparse.Namespace:
    """
    :param arguments: the command line
    :return: its values
    """
    parser = argparse.ArgumentParser(
        "python -m benchmarks.growth",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--algos", nargs="+", choices=list(CLASSES), default=list(CLASSES), help="default: both")
    parser.add_argument("--axes", nargs="+", choices=list(AXES), default=list(AXES), help="default: all")
    parser.add_argument("--repeats", type=whole_number, default=3, help="of each class (default: %(default)s)")
    return parse_on_device(parser, arguments)


def main(arguments: list[str]) -> int:
    """
    Take the times along the chosen axes, and report all that there are.

    :param arguments: the command line
    :return: the exit code: 0, or 2 for a mistake of the user
    """
    args = parse(arguments)
    th.set_num_threads(1)
    table = args.output / "growth.csv"
    for algo in args.algos:
        for axis in args.axes:
            rows = [{**row, "machine": machine(args.device)} for row in time_axis(algo, axis, args.repeats, args.device)]
            rows = replace_rows(table, rows, lambda row: (row["algo"], row["axis"]))
            found = ", ".join(f"{side} {curve.slope:.2f}" for side, curve in curves(rows, algo, axis).items())
            print(f"{algo}, {axis}: slopes {found}", flush=True)
    rows = read_rows(table)
    write_text(args.output / "growth.md", report(rows))
    save_figure(plot(rows), args.output / "growth.png")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
