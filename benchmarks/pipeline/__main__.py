"""The command line of ``python -m benchmarks.pipeline``."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import torch as th

from benchmarks.harness import RESULTS, Row, machine, read_rows, save_figure, write_rows, write_text
from benchmarks.pipeline import blocks
from benchmarks.pipeline.cost import CostModel
from benchmarks.pipeline.processes import Chain, train
from benchmarks.pipeline.report import plot_schedules, plot_speedup, report
from benchmarks.pipeline.schedules import local, makespan, simulate
from sb3_forward._cli import folder

DESCRIPTION = """\
Layer-parallel training: what forward learning and backpropagation come to when the layers are spread over devices.

Three steps. The times of one block on this machine (pipeline_blocks.csv), to which a cost model is fitted. Pipelines of one
and two real processes (pipeline_processes.csv), beside the same pipelines simulated. Networks and numbers of devices far
beyond this machine, simulated with the cost model. Tables go to pipeline.md, figures to pipeline_schedules.png and
pipeline_speedup.png.

What the two CSV files have already is not measured again, unless you ask for it with --measure."""

EXAMPLES = """\
examples:
  python -m benchmarks.pipeline             tables and figures, measures what is missing
  python -m benchmarks.pipeline --measure   takes all times anew (ten minutes on two idle cores)"""

CHAINS = [Chain(blocks=8, width=256, rows=256, minibatches=64), Chain(blocks=8, width=1024, rows=64, minibatches=64)]
STAGES = (1, 2)  # as many as the smallest machines have cores


def measure_processes() -> Iterator[Row]:
    """
    :return: a row per chain and number of stages
    :raises RuntimeError: if the weights depend on the number of stages
    """
    for chain in CHAINS:
        seconds = blocks.time_block(blocks.BlockSize(chain.rows, chain.width))["local"]
        trained = {stages: train(chain, stages) for stages in STAGES}
        for stages, outcome in trained.items():
            pairs = zip(outcome.weights, trained[STAGES[0]].weights, strict=True)
            same = all(th.equal(one, other) for one, other in pairs)
            if not same:
                raise RuntimeError(f"{chain} with {stages} stages ends in other weights than with {STAGES[0]}")
            simulated = simulated_seconds(chain, stages, seconds)
            row = {**chain._asdict(), "stages": stages, "seconds": outcome.seconds, "simulated": simulated}
            yield {**row, "same_weights": "yes"}


def simulated_seconds(chain: Chain, stages: int, seconds: float) -> float:
    """
    :param chain: a chain
    :param stages: number of stages
    :param seconds: of one step of one of its blocks
    :return: how long it trains, between processes on one machine, which need next to no time to hand something over
    """
    return makespan(simulate(local(stages, chain.minibatches), lambda *_: chain.blocks / stages * seconds, transfer=0.0))


def measured(table: Path, measurement: Iterator[Row], anew: bool) -> list[Row]:
    """
    :param table: a CSV
    :param measurement: what fills it
    :param anew: whether to measure what it has, too
    :return: its rows
    """
    if anew or not table.exists():
        rows = []
        for row in measurement:
            rows.append({**row, "machine": machine()})
            print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
        write_rows(table, rows)
    return read_rows(table)


def main(arguments: list[str]) -> int:
    """
    Measure what is missing, simulate, and report.

    :param arguments: the command line
    :return: the exit code, 0
    """
    parser = argparse.ArgumentParser(
        "python -m benchmarks.pipeline",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--measure", action="store_true", help="measure everything anew")
    parser.add_argument("--output", type=folder, default=RESULTS, metavar="DIR", help="default: benchmarks/results")
    args = parser.parse_args(arguments)
    th.set_num_threads(1)
    times = measured(args.output / "pipeline_blocks.csv", blocks.measure(), args.measure)
    processes = measured(args.output / "pipeline_processes.csv", measure_processes(), args.measure)
    model = CostModel(times)
    write_text(args.output / "pipeline.md", report(times, processes, model))
    save_figure(plot_schedules(model), args.output / "pipeline_schedules.png")
    save_figure(plot_speedup(model), args.output / "pipeline_speedup.png")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
