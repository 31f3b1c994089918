"""Medians and ratios of the times, as tables and as a plot."""

import statistics
from typing import NamedTuple

from matplotlib.figure import Figure

from benchmarks.harness import Row, machines, markdown_table
from benchmarks.speed.cases import RUN_CASES, SBX_CASES, UPDATE_CASES
from benchmarks.speed.stopwatch import STAGES

METHODS = {"train": "`train()`", "collect": "`collect_rollouts()`", "learn": "`learn()`"}


class Ratio(NamedTuple):
    """Medians of another side and ours in seconds per environment step, their ratio, and its range over pairs of repeats."""

    other: float
    forward: float
    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def ratio(rows: list[Row], stage: str, other: str = "stock", clock: str = "seconds") -> Ratio:
    """
    :param rows: rows of one case
    :param stage: ``"train"``, ``"collect"`` or ``"learn"``
    :param other: the side that ours is held against
    :param clock: ``"seconds"`` on the clock, or those of the ``"cpu"``
    :return: ours against it
    """

    def times(side: str) -> list[float]:
        chosen = sorted((row for row in rows if row["class"] == side), key=lambda row: int(row["repeat"]))
        return [float(row[f"{stage}_{clock}"]) / int(row["steps"]) for row in chosen]

    theirs, forward = times(other), times("forward")
    pairs = [ours / them for ours, them in zip(forward, theirs, strict=True)]
    medians = statistics.median(theirs), statistics.median(forward)
    return Ratio(*medians, medians[1] / medians[0], min(pairs), max(pairs))


def by_case(rows: list[Row]) -> dict[str, list[Row]]:
    """
    :param rows: all rows
    :return: those of each case, in the order of the cases
    """
    groups = {name: [row for row in rows if row["case"] == name] for name in (*UPDATE_CASES, *RUN_CASES, *SBX_CASES)}
    return {name: group for name, group in groups.items() if group}


def report(rows: list[Row]) -> str:
    """
    :param rows: all rows, at least one
    :return: the tables in Markdown
    """
    updates, runs = [], []
    for name, group in by_case(rows).items():
        train, collect, learn = (ratio(group, stage) for stage in STAGES)
        repeats = len(group) // 2
        if name in UPDATE_CASES:
            case = UPDATE_CASES[name]
            times = [f"{seconds * case.rows * 1e3:.1f}" for seconds in (train.other, train.forward)]
            target = "" if case.target is None else f"<= {case.target:.2f}"
            updates.append([f"`{name}`", case.label, *times, train, target, collect, learn, repeats])
        else:
            run = RUN_CASES[name]
            times = [f"{seconds * 1e5:.1f}" for seconds in (learn.other, learn.forward)]
            steps = min(int(row["steps"]) for row in group)
            runs.append([f"`{name}`", f"{run.env}, {run.algo.upper()}, {steps} steps", *times, learn, train, collect, repeats])
    text = f"Made by `python -m benchmarks.speed`. {machines(rows)} One torch thread. Ratios are ours over SB3's.\n"
    if updates:
        header = ["case", "settings", "SB3's `train()`, ms", "ours, ms", "ratio", "target"]
        text += "\n" + markdown_table([*header, METHODS["collect"], METHODS["learn"], "repeats"], updates)
    if runs:
        header = ["case", "run", "SB3's `learn()`, s per 1e5 steps", "ours, s", "ratio"]
        text += "\n" + markdown_table([*header, METHODS["train"], METHODS["collect"], "repeats"], runs)
    return text


def report_sbx(rows: list[Row]) -> str:
    """
    :param rows: rows of cases with SBX, at least one
    :return: the table in Markdown
    """
    lines = []
    for name, group in by_case(rows).items():
        case = SBX_CASES[name]
        learn, train, collect = (ratio(group, stage, "sbx", "cpu") for stage in ("learn", "train", "collect"))
        stock = ratio(group, "learn", "stock", "cpu")
        times = [f"{seconds * case.rows * 1e3:.0f}" for seconds in (stock.other, learn.other, learn.forward)]
        target = "" if case.target is None else f"<= {case.target:.2f}"
        on_the_clock = f"{ratio(group, 'learn', 'sbx').value:.2f}"
        lines.append([f"`{name}`", case.label, *times, learn, target, on_the_clock, train, collect, stock, len(group) // 3])
    header = ["case", "settings", "SB3's `learn()`, ms per rollout", "SBX's", "ours", "ours / SBX", "target", "on the clock"]
    text = f"Made by `python -m benchmarks.speed --sbx`. {machines(rows)} One thread on one core, CPU time.\n\n"
    return text + markdown_table([*header, "... `train()`", "... `collect_rollouts()`", "ours / SB3", "repeats"], lines)


def plot(rows: list[Row]) -> Figure:
    """
    :param rows: all rows, at least one
    :return: the ratios of every case
    """
    groups = by_case(rows)
    figure = Figure(figsize=(8.0, 1.5 + 0.28 * len(groups)), layout="constrained")
    axes = figure.subplots()
    for stage, marker in zip(STAGES, "os^", strict=True):
        for position, group in enumerate(groups.values()):
            found = ratio(group, stage)
            label = METHODS[stage].strip("`") if position == 0 else None
            color = f"C{STAGES.index(stage)}"
            axes.plot(found.value, position, marker, color=color, label=label, alpha=0.8)
            axes.plot([found.low, found.high], [position] * 2, color=color, linewidth=1, alpha=0.8)
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set(xscale="log", xlabel="time, ours over SB3's", yticks=range(len(groups)), yticklabels=list(groups))
    axes.invert_yaxis()
    axes.grid(alpha=0.3, which="both", axis="x")
    axes.legend()
    return figure
