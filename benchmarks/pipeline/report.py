"""Tables and figures of the pipeline."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.harness import Row, machines, markdown_table
from benchmarks.pipeline.cost import CostModel, errors
from benchmarks.pipeline.scale import (
    Plan,
    best_backpropagation,
    forward_learning,
    spans_of_backpropagation,
    spans_of_forward_learning,
)
from benchmarks.pipeline.schedules import Span, gpipe, makespan, one_f_one_b

PLANS = [
    Plan(layers=64, width=256, devices=8),
    Plan(layers=256, width=256, devices=64),
    Plan(layers=256, width=1024, devices=16),
    Plan(layers=256, width=1024, devices=64),
    Plan(layers=1024, width=1024, devices=256),
    Plan(layers=1024, width=4096, devices=64),
    Plan(layers=4096, width=4096, devices=256),
]
CURVE = Plan(layers=256, width=1024, devices=1)
DEVICES = [2**power for power in range(9)]
PICTURED = Plan(layers=4, width=1024, devices=4)
MINIBATCHES = 8
COLORS = {"forward": "C0", "backward": "C1", "step": "C3", "local": "C2", "features": "C4", "heads": "C5"}


def report(blocks: list[Row], processes: list[Row], model: CostModel) -> str:
    """
    :param blocks: measured times of blocks
    :param processes: measured times of pipelines
    :param model: the cost model that was fitted to the former
    :return: the tables in Markdown
    """
    text = f"Made by `python -m benchmarks.pipeline`. {machines([*blocks, *processes])}\n"
    text += "\nRelative error of the cost model on the times of one block, and of the heads:\n\n" + _errors(blocks, model)
    text += "\nPipelines of real processes on this machine, and the same simulated with the measured time of a block:\n\n"
    text += _processes(processes)
    text += f"\nSimulated with the cost model of one core: rollouts of {CURVE.rollout} rows, minibatches of "
    text += f"{CURVE.batch_size}, {CURVE.epochs} epochs of PPO:\n\n" + _scales(model)
    return text


def _errors(blocks: list[Row], model: CostModel) -> str:
    header = ["part", "median", "largest", "largest of sizes not fitted to"]
    found = errors(model, blocks).items()
    return markdown_table(header, [[part, *(f"{value:.0%}" for value in error)] for part, error in found])


def _processes(processes: list[Row]) -> str:
    header = ["blocks", "width", "rows", "minibatches", "stages", "measured, s", "simulated, s", "weights as with one stage"]
    lines = []
    for row in processes:
        cells = [row[key] for key in ("blocks", "width", "rows", "minibatches", "stages")]
        lines.append([*cells, f"{float(row['seconds']):.3f}", f"{float(row['simulated']):.3f}", row["same_weights"]])
    return markdown_table(header, lines)


def _scales(model: CostModel) -> str:
    header = ["layers", "width", "devices", "schedule", "one pass, s", "idle", "`train()`, s", "activations per device, MiB"]
    lines: list[list[Any]] = []
    for plan in PLANS:
        outcomes = {
            "GPipe": best_backpropagation(plan, model, gpipe),
            "1F1B": best_backpropagation(plan, model, one_f_one_b),
            "local": forward_learning(plan, model),
        }
        for name, outcome in outcomes.items():
            label = name if name == "local" else f"{name}, {outcome.microbatches} microbatches"
            times = [f"{outcome.one_pass:.4g}", f"{outcome.idle:.0%}", f"{outcome.update:.4g}"]
            lines.append([plan.layers, plan.width, plan.devices, label, *times, f"{outcome.held_bytes / 2**20:.1f}"])
    return markdown_table(header, lines)


def plot_schedules(model: CostModel) -> Figure:
    """
    :param model: the cost model
    :return: who does what and when
    """
    updates, microbatches = MINIBATCHES, 4
    pictures = {
        f"GPipe, {microbatches} microbatches": spans_of_backpropagation(PICTURED, model, gpipe, microbatches, updates),
        f"1F1B, {microbatches} microbatches": spans_of_backpropagation(PICTURED, model, one_f_one_b, microbatches, updates),
        "local": spans_of_forward_learning(PICTURED, model, updates),
    }
    figure = Figure(figsize=(9.0, 5.0), layout="constrained")
    longest = max(map(makespan, pictures.values()))
    for axes, (name, spans) in zip(figure.subplots(3, 1, sharex=True), pictures.items(), strict=True):
        _gantt(axes, spans)
        axes.set(title=f"{name}: {MINIBATCHES} minibatches of {PICTURED.batch_size}", ylabel="device", xlim=(0, longest * 1e3))
    axes.set(xlabel="ms")
    return figure


def _gantt(axes: Axes, spans: list[Span]) -> None:
    for kind in dict.fromkeys(span.task.kind for span in spans):
        chosen = [span for span in spans if span.task.kind == kind]
        axes.barh(
            [span.stage for span in chosen],
            [(span.end - span.start) * 1e3 for span in chosen],
            left=[span.start * 1e3 for span in chosen],
            color=COLORS[kind],
            edgecolor="white",
            linewidth=0.5,
            label=kind,
        )
    axes.set(yticks=sorted({span.stage for span in spans}))
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))


def plot_speedup(model: CostModel) -> Figure:
    """
    :param model: the cost model
    :return: how much faster one pass over the rollout is with more devices, and how long ``train()`` takes
    """
    plans = [CURVE._replace(devices=devices) for devices in DEVICES]
    curves = {
        "GPipe": [best_backpropagation(plan, model, gpipe) for plan in plans],
        "1F1B": [best_backpropagation(plan, model, one_f_one_b) for plan in plans],
        "local": [forward_learning(plan, model) for plan in plans],
    }
    figure = Figure(figsize=(9.0, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, outcomes in curves.items():
        label, style = (name, "o-") if name != "1F1B" else (name, "s--")
        left.plot(DEVICES, [outcomes[0].one_pass / outcome.one_pass for outcome in outcomes], style, label=label)
        right.plot(DEVICES, [outcome.update for outcome in outcomes], style, label=label)
    left.plot(DEVICES, DEVICES, "k:", label="as many times as devices")
    left.set(title="one pass over the rollout", ylabel="times faster than on one device")
    right.set(title=f"train(), {CURVE.epochs} epochs of PPO", ylabel="seconds")
    for axes in (left, right):
        axes.set(xlabel=f"devices for {CURVE.layers} layers of {CURVE.width}", xscale="log", yscale="log")
        axes.set(xticks=DEVICES, xticklabels=DEVICES)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend()
    return figure
