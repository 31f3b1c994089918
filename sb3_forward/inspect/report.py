"""
Write the report: PNG files, the figures as JSON and CSV, and one HTML page that holds all of them and needs nothing else.
"""

import base64
import csv
import html
import json
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from sb3_forward._cli import write_whole
from sb3_forward.inspect.analysis import DISTANCE_ROWS, Layer
from sb3_forward.inspect.metrics import DEAD, SATURATED
from sb3_forward.inspect.plots import DPI, plot_embedding, plot_probes, plot_shepard, plot_spectrum
from sb3_forward.inspect.states import States

# Figures of a layer, in the order of the CSV
FIGURES = (
    "effective_rank",
    "dead",
    "saturated",
    "stress_identity",
    "strain_identity",
    "stress_gaussian",
    "strain_gaussian",
    "return_r2",
    "untrained_return_r2",
    "value_r2",
    "untrained_value_r2",
)

STYLE = """\
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1b1f24; background: #fff; margin: 2rem auto; max-width: 76rem;
  padding: 0 1rem; }
h1 { font-size: 1.7rem; margin-bottom: .3rem; }
h2 { font-size: 1.25rem; margin-top: 2.5rem; padding-top: .7rem; border-top: 1px solid #d0d7de; }
.note, figcaption, summary { color: #57606a; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid #d0d7de; text-align: right; white-space: nowrap; }
th { font-weight: 600; vertical-align: bottom; white-space: normal; }
th:first-child, td:first-child, th:nth-child(2), td:nth-child(2) { text-align: left; }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; }
figure { margin: .5rem 0; }
img { max-width: 100%; height: auto; display: block; }
dt { font-weight: 600; }
dd { margin: 0 0 .6rem 1.2rem; }
@media (max-width: 60rem) { table { font-size: .72rem; } th, td { padding: .3rem; } }"""

HOW_TO_READ = f"""\
<dl>
<dt>Probe (R²)</dt><dd>How well ridge regression on the layer's features predicts the Monte-Carlo return, and the critic's
value, of episodes that were held out: 1 is perfect, 0 is no better than the mean. <em>untrained</em> is the same network with
random weights (one draw of them): what a trained layer has above it was learned. The critic's own top block predicts the value
perfectly, which is a linear function of it.</dd>
<dt>Effective rank</dt><dd>How many directions the features really use: the exponential of the entropy of their normalised
singular values.</dd>
<dt>Dead</dt><dd>Share of the units that vary at most {DEAD} times as much as the units of their block do on average. A
convolution's units are its channels.</dd>
<dt>Saturated</dt><dd>Share of the units of a bounded activation (such as tanh) that are, on average, {SATURATED:.0%} of the
way from the middle of its range to an end.</dd>
<dt>Stress, strain</dt><dd>How far the distances between a block's outputs are from those between its inputs ({DISTANCE_ROWS}
states, without guidance): 0 is no distortion. Under the identity disparity all distances count as they are; under the Gaussian
one neighbours are told apart, and far pairs are all equally far.</dd>
<dt>Shepard diagram</dt><dd>A dot for each of some pairs of states: how far they are apart below the block, and above it. The
lines are what each disparity asks for. Stress is the mean squared vertical distance from the line. Guidance draws dots away
from it on purpose.</dd>
<dt>Spectrum, activity</dt><dd>The singular values of the centred features. How much each unit varies, over the mean of the
block.</dd>
<dt>Embedding</dt><dd>The states on the two principal axes of the layer's features (classical multidimensional scaling), turned
to lie like the observation's. Where one colour keeps to itself, a linear head can tell these states from the others.</dd>
</dl>"""


class Subject(NamedTuple):
    """The model that was inspected, and its environment."""

    model: str
    algorithm: str
    env: str
    timesteps: int  # of its training
    disparity: str | None  # of the training of its blocks, if they were trained
    stats: str | None
    command: str


def write_report(folder: Path, subject: Subject, states: States, layers: list[Layer], critic_r2: float) -> Path:
    """
    Write all files of the report, the page last.

    :param folder: the place of the files
    :param subject: the model that was inspected
    :param states: the states that it visited
    :param layers: the analysis of its layers
    :param critic_r2: share of the variance of the return that the critic explains
    :return: the page
    """
    pictures = _pictures(layers, states, subject.disparity, critic_r2)
    for name, (png, _) in pictures.items():
        write_whole(folder / name, lambda file, png=png: file.buffer.write(png))  # type: ignore[misc]
    write_whole(folder / "figures.csv", lambda file: _write_csv(file, layers))
    figures = _as_json(subject, states, layers, critic_r2)
    write_whole(folder / "figures.json", lambda file: file.write(json.dumps(figures, indent=2, allow_nan=False) + "\n"))
    page = folder / "report.html"
    write_whole(page, lambda file: file.write(_page(subject, states, layers, critic_r2, pictures)))
    return page


def table(layers: list[Layer], disparity: str | None) -> list[list[str]]:
    """
    Make the table of a report.

    :param layers: the layers
    :param disparity: the disparity that they were trained with, None for none
    :return: head and rows of the table of a report
    """
    shown = disparity or "gaussian"
    columns = [
        ("effective rank", "effective_rank", ".1f"),
        ("dead", "dead", ".0%"),
        ("saturated", "saturated", ".0%"),
        (f"stress ({shown})", f"stress_{shown}", ".3f"),
        (f"strain ({shown})", f"strain_{shown}", ".3f"),
        ("R² return", "return_r2", ".3f"),
        ("R² return, untrained", "untrained_return_r2", ".3f"),
        ("R² value", "value_r2", ".3f"),
        ("R² value, untrained", "untrained_value_r2", ".3f"),
    ]
    rows = [
        [layer.name, layer.role, str(layer.width), *(_number(layer.figures.get(key), form) for _, key, form in columns)]
        for layer in layers
    ]
    return [["layer", "role", "width", *(head for head, _, _ in columns)], *rows]


def describe(subject: Subject, states: States) -> list[str]:
    """
    Describe a model and the states that it visited.

    :param subject: the model that was inspected
    :param states: the states that it visited
    :return: lines on both
    """
    returns = states.episode_returns
    ended = f"{len(returns)} episodes ended, mean return {sum(returns) / len(returns):.4g}" if returns else "no episode ended"
    normalised = f"normalised by {subject.stats}" if subject.stats else "as they are (no VecNormalize statistics)"
    return [
        f"{subject.algorithm} of {subject.model}, after {subject.timesteps} steps of training",
        f"{states.steps} steps in {subject.env} with sampled actions: {ended}",
        f"{len(states.returns)} of the states are looked at",
        f"observations {normalised}",
    ]


def _pictures(layers: list[Layer], states: States, disparity: str | None, critic_r2: float) -> dict[str, tuple[bytes, str]]:
    """Draw the pictures, as PNG with a description, by file name."""
    pictures = {"probes.png": (plot_probes(layers, critic_r2), "Held-out R² of linear probes of every layer")}
    for index, layer in enumerate(layers):
        name, words = _stem(index, layer), layer.name
        if layer.shepard is not None:
            pictures[f"{name}-shepard.png"] = plot_shepard(layer, disparity), f"Shepard diagram of {words}"
        pictures[f"{name}-embedding.png"] = plot_embedding(layer, states), f"Embedding of the states by {words}"
        pictures[f"{name}-spectrum.png"] = plot_spectrum(layer), f"Spectrum and activity of {words}"
    return pictures


def _stem(index: int, layer: Layer) -> str:
    # The keys of a dictionary observation become parts of the name
    return f"{index:02}-{re.sub(r'[^A-Za-z0-9_.-]', '_', layer.name)}"


def _page(
    subject: Subject, states: States, layers: list[Layer], critic_r2: float, pictures: dict[str, tuple[bytes, str]]
) -> str:
    title = f"What the layers of {subject.algorithm} learned in {subject.env}"
    critic = (
        f"The critic's own value has an R² of {_number(critic_r2, '.3f')} as a prediction of the return (explained variance)."
    )
    body = [
        f"<h1>{html.escape(title)}</h1>",
        f'<p class="note">{"<br>".join(map(html.escape, describe(subject, states)))}</p>',
        f'<div class="wide">{_html_table(table(layers, subject.disparity))}</div>',
        f"<p>{html.escape(critic)}</p>",
        _image("probes.png", *pictures["probes.png"]),
        f"<details open><summary>How to read this</summary>{HOW_TO_READ}</details>",
    ]
    if len(layers) == 1:
        body.append("<p>The network has no hidden block: its heads read the observation.</p>")
    for index, layer in enumerate(layers):
        own = [_image(name, *picture) for name, picture in pictures.items() if name.startswith(f"{_stem(index, layer)}-")]
        heading = f"{html.escape(layer.name)} <small>({layer.width} wide)</small>"
        body.append(f'<h2>{heading}</h2>\n<div class="pictures">{"".join(own)}</div>')
    body.append(f"<h2>Command</h2>\n<pre>{html.escape(subject.command)}</pre>")
    # No request leaves the page, whatever the names in it are
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    head = [
        "<head>",
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<link rel="icon" href="data:,">',
        f"<title>{html.escape(title)}</title>",
        f"<style>{STYLE}</style>",
        "</head>",
    ]
    return "\n".join(["<!doctype html>", '<html lang="en">', *head, "<body>", *body, "</body>", "</html>\n"])


def _image(name: str, png: bytes, words: str) -> str:
    # The size in pixels is in the PNG's header. Pictures are shown at 100 pixels to the inch, and are sharp on finer screens
    width, height = (int.from_bytes(png[start : start + 4], "big") * 100 // DPI for start in (16, 20))
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    size = f'width="{width}" height="{height}"'
    return f'<figure id="{html.escape(name)}"><img src="{source}" alt="{html.escape(words)}" {size}></figure>'


def _html_table(rows: list[list[str]]) -> str:
    head, *body = rows

    def line(cells: Iterable[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return f"<table><thead>{line(head, 'th')}</thead><tbody>{''.join(line(row, 'td') for row in body)}</tbody></table>"


def _write_csv(file: TextIO, layers: list[Layer]) -> None:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["layer", "role", "width", *FIGURES])
    for layer in layers:
        values = [layer.figures.get(name, math.nan) for name in FIGURES]
        writer.writerow([layer.name, layer.role, layer.width, *("" if math.isnan(value) else value for value in values)])


def _as_json(subject: Subject, states: States, layers: list[Layer], critic_r2: float) -> dict[str, Any]:
    return {
        **subject._asdict(),
        "steps": states.steps,
        "rows": len(states.returns),
        "episode_returns": states.episode_returns,
        "critic_r2": _or_none(critic_r2),
        "layers": [
            {
                "layer": layer.name,
                "role": layer.role,
                "width": layer.width,
                **{name: _or_none(layer.figures.get(name, math.nan)) for name in FIGURES},
                "spectrum": layer.spectrum.tolist(),
            }
            for layer in layers
        ],
    }


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _number(value: float | None, form: str) -> str:
    return "-" if value is None or math.isnan(value) else format(value, form)
