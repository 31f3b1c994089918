"""What the benchmarks share: the machine in words, and files that appear whole or not at all."""

import argparse
import csv
import os
import platform
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import stable_baselines3
import torch as th
from matplotlib.figure import Figure

from sb3_forward._cli import folder, write_whole

RESULTS = Path(__file__).parent / "results"

Row = dict[str, Any]


def machine(device: str = "cpu") -> str:
    """
    :param device: PyTorch device that is measured
    :return: the hardware and the versions that a time or a size depends on
    """
    hardware = [f"{_cpu_name()} ({os.cpu_count()} cores)", f"{platform.system()} {platform.machine()}"]
    if th.device(device).type == "cuda":
        hardware.insert(0, th.cuda.get_device_name(device))
    software = [
        f"Python {platform.python_version()}",
        f"PyTorch {th.__version__}",
        f"Stable-Baselines3 {stable_baselines3.__version__}",
    ]
    return ", ".join([*hardware, *software])


def _cpu_name() -> str:
    described = Path("/proc/cpuinfo")  # Linux; elsewhere Python knows
    lines = described.read_text().splitlines() if described.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown CPU"


def read_rows(path: Path) -> list[Row]:
    """
    :param path: a CSV
    :return: its rows, none if there is no such file
    """
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def replace_rows(path: Path, new: Iterable[Row], same: Callable[[Row], Any]) -> list[Row]:
    """
    Put rows into a CSV, in the place of those that tell the same.

    :param path: the CSV
    :param new: the rows, at least one
    :param same: of a row: what it tells about
    :return: all rows of the CSV
    """
    new = [{key: str(value) for key, value in row.items()} for row in new]
    told = {str(same(row)) for row in new}
    rows = [row for row in read_rows(path) if str(same(row)) not in told] + new
    write_rows(path, rows)
    return rows


def write_rows(path: Path, rows: list[Row]) -> None:
    """
    :param path: the CSV
    :param rows: all its rows, at least one
    """

    def write(file: Any) -> None:
        writer = csv.DictWriter(file, list(rows[-1]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)

    write_whole(path, write)


def machines(rows: list[Row]) -> str:
    """
    :param rows: rows with a column ``machine``
    :return: a sentence that names every machine in them
    """
    return "Measured on " + "; and on ".join(dict.fromkeys(row["machine"] for row in rows)) + "."


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """
    :param header: names of the columns
    :param rows: cells, as many in each
    :return: the table in Markdown
    """
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def write_text(path: Path, text: str) -> None:
    """
    :param path: where
    :param text: what
    """
    write_whole(path, lambda file: file.write(text))


def save_figure(figure: Figure, path: Path) -> None:
    """
    :param figure: a figure
    :param path: where its PNG goes
    """
    write_whole(path, lambda file: figure.savefig(file.buffer, dpi=120, format="png"))


def parse_on_device(parser: argparse.ArgumentParser, arguments: list[str]) -> argparse.Namespace:
    """
    :param parser: of a benchmark that runs on a CPU or a GPU
    :param arguments: the command line
    :return: its values, with ``device`` and ``output``, where the results go; those of a GPU by themselves
    """
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="default: %(default)s")
    where = "default: benchmarks/results; with --device cuda benchmarks/results/cuda"
    parser.add_argument("--output", type=folder, metavar="DIR", help=where)
    args = parser.parse_args(arguments)
    if args.device == "cuda" and not th.cuda.is_available():
        parser.error("there is no CUDA device: use --device cpu")
    if args.output is None:
        args.output = RESULTS / "cuda" if args.device == "cuda" else RESULTS
    return args


def whole_number(text: str) -> int:
    """
    The ``type`` of an argument of a command line.

    :param text: such as ``"7"`` or ``"1e5"``
    :return: the number
    :raises argparse.ArgumentTypeError: if it is not whole, or below one
    """
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not value.is_integer() or value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(value)
