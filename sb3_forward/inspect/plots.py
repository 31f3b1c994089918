"""Draw the pictures of a report, as PNG in memory."""

import io

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sb3_forward.inspect.analysis import Layer
from sb3_forward.inspect.metrics import DEAD
from sb3_forward.inspect.states import States

DPI = 140
# Inches of one panel
PANEL = (3.9, 3.2)
# A lower score is drawn at this one: such a probe is as good as none, and would squeeze the others
WORST = -0.25


def plot_embedding(layer: Layer, states: States) -> bytes:
    """
    Plot the two principal axes of a layer's features, coloured by return and by value.

    :param layer: the layer
    :param states: the states that it was analysed on
    :return: PNG
    """
    figure, axes = _panels(2)
    total = np.square(layer.spectrum).sum()
    share = np.square(layer.spectrum[:2]).sum() / total if total > 0 else 0.0
    for panel, (label, colours) in zip(axes, {"return": states.returns, "value": states.values}.items(), strict=True):
        low, high = np.percentile(colours, [1, 99])
        points = panel.scatter(layer.embedding[:, 0], layer.embedding[:, 1], c=colours, s=5, linewidths=0, vmin=low, vmax=high)
        panel.set(aspect="equal", adjustable="datalim", xticks=[], yticks=[], title=f"coloured by {label}")
        figure.colorbar(points, ax=panel, label=label, extend="both")
    axes[0].set_xlabel(f"these two axes hold {share:.0%} of the variance", loc="left")
    return _png(figure)


def plot_shepard(layer: Layer, disparity: str | None) -> bytes:
    """
    Plot output against input distances of a block, with the targets of the two disparities.

    :param layer: a block
    :param disparity: the disparity that it was trained with, ``None`` for none
    :return: PNG
    """
    figure, (panel,) = _panels(1)
    assert layer.shepard is not None
    inputs, outputs, gaussian = layer.shepard
    panel.scatter(inputs, outputs, s=4, alpha=0.25, linewidths=0, color="tab:gray")
    for name, target, colour in (("identity", inputs, "tab:blue"), ("gaussian", gaussian, "tab:orange")):
        label = f"{name} (trained with)" if name == disparity else name
        panel.plot(inputs, target, label=label, color=colour, linewidth=2 if name == disparity else 1.2)
    top = max(np.percentile(column, 99.9) for column in layer.shepard) * 1.05 or 1.0
    panel.set(xlabel="input distance / mean", ylabel="output distance / mean", xlim=(0, top), ylim=(0, top))
    panel.set_title("Shepard diagram")
    panel.legend(loc="lower right")
    return _png(figure)


def plot_spectrum(layer: Layer) -> bytes:
    """
    Plot the singular values of a layer's features, and the activity of its units.

    :param layer: the layer
    :return: PNG
    """
    figure, axes = _panels(1 if layer.activity is None else 2)
    values = layer.spectrum[layer.spectrum > 0]
    index = np.arange(1, len(values) + 1)
    axes[0].plot(index, values / values.max(initial=0.0), marker=".", markersize=4 if len(values) < 100 else 0)
    axes[0].axvline(layer.figures["effective_rank"], color="tab:orange", label="effective rank")
    axes[0].set(xlabel="direction", ylabel="singular value / largest", title="spectrum")
    axes[0].set(yscale="log", ylim=(min(0.08, values.min(initial=1.0) / values.max(initial=1.0) / 1.5), 1.5))
    axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].legend()
    if layer.activity is not None:
        # Lower values are drawn at the bottom, since zero has no logarithm
        axes[1].plot(np.arange(1, len(layer.activity) + 1), layer.activity.clip(min=DEAD / 10), color="tab:green")
        axes[1].axhline(DEAD, color="tab:red", linestyle="--", label="dead below")
        axes[1].set(xlabel="unit, most active first", ylabel="deviation / mean", title="activity of units", yscale="log")
        axes[1].legend()
    return _png(figure)


def plot_probes(layers: list[Layer], critic_r2: float) -> bytes:
    """
    Plot how well linear probes of every layer predict return and value.

    :param layers: the layers
    :param critic_r2: share of the variance of the return that the critic itself explains
    :return: PNG
    """
    figure, axes = _panels(2, height=1.2 + 0.45 * len(layers), sharey=True)
    places = np.arange(len(layers))
    for panel, target in zip(axes, ("return", "value"), strict=True):
        for offset, prefix, label, colour in ((0.2, "", "trained", "tab:blue"), (-0.2, "untrained_", "untrained", "silver")):
            scores = np.array([layer.figures.get(f"{prefix}{target}_r2", np.nan) for layer in layers])
            panel.barh(places - offset, scores.clip(WORST), height=0.36, label=label, color=colour)
        panel.axvline(0, color="black", linewidth=0.8)
        panel.set(title=f"probe of the {target}", xlabel="held-out R²", xlim=(WORST, 1.02))
        panel.set_yticks(places, [layer.name for layer in layers])
    if critic_r2 >= WORST:
        axes[0].axvline(critic_r2, color="tab:orange", linestyle="--", label="the critic's own value")
    axes[0].invert_yaxis()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return _png(figure)


def _panels(count: int, height: float = PANEL[1], sharey: bool = False) -> tuple[Figure, list[Axes]]:
    # Not pyplot, which would look for a display
    figure = Figure(figsize=(count * PANEL[0], height), layout="constrained")
    return figure, list(figure.subplots(1, count, squeeze=False, sharey=sharey)[0])


def _png(figure: Figure) -> bytes:
    for axes in figure.axes:
        if axes.get_label() != "<colorbar>":
            axes.grid(alpha=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()
