"""The command line of ``python -m benchmarks.speed``."""

import argparse
import sys
from fnmatch import fnmatchcase

import torch as th

from benchmarks.harness import machine, parse_on_device, read_rows, replace_rows, save_figure, whole_number, write_text
from benchmarks.speed import sbx
from benchmarks.speed.cases import RUN_CASES, SBX_CASES, UPDATE_CASES, RunCase, UpdateCase
from benchmarks.speed.report import plot, ratio, report, report_sbx
from benchmarks.speed.stopwatch import STAGES, time_runs, time_updates
from sb3_forward._cli import UserError

DESCRIPTION = """\
How long an update, the collection of a rollout and a whole run take, beside SB3's stock class.

Both classes run in one process, by turns, on one torch thread. A repeat is one call of learn(), of which the time within
train() and within collect_rollouts() is taken too, so that every update learns from a rollout that was just collected. The
tables have medians over repeats and their ratio, ours over SB3's: below 1 is faster.

cases:
  ppo-NETWORK-bBATCH, a2c-NETWORK-ENVSxSTEPS
                   updates with the same settings and the same network
  learn-ENV-ALGO   runs through the Zoo: SB3's class with the Zoo's hyperparameters, ours with those of this package, for the
                   same number of environment steps
  sbx-ENV-NETWORK-bBATCH
                   with --sbx, these alone: updates with SBX, which JAX compiles, as a third side; everything runs on one core

The times go to speed.csv, in the place of older ones of the same case; speed.md and speed.png are made of all that it has.
Those with SBX go to speed_sbx.csv and speed_sbx.md."""

EXAMPLES = """\
examples:
  python -m benchmarks.speed
  python -m benchmarks.speed --cases ppo-2x64-b64 a2c-2x64-8x5 --repeats 15
  python -m benchmarks.speed --cases "ppo-cnn-*" "learn-*" --repeats 3 --timesteps 5e4
  python -m benchmarks.speed --device cuda
  python -m benchmarks.speed --sbx --repeats 15"""


def choose(patterns: list[str], with_sbx: bool) -> list[UpdateCase | RunCase]:
    """
    :param patterns: names of cases, with wildcards
    :param with_sbx: whether they are those with SBX
    :return: the cases
    :raises UserError: if a pattern fits none
    """
    known: dict[str, UpdateCase | RunCase] = {**SBX_CASES} if with_sbx else {**UPDATE_CASES, **RUN_CASES}
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in known):
            raise UserError(f"no case {pattern!r}, choose from {', '.join(known)}")
    return [case for name, case in known.items() if any(fnmatchcase(name, pattern) for pattern in patterns)]


def parse(arguments: list[str]) -> argparse.Namespace:
    """
    :param arguments: the command line
    :return: its values
    """
    parser = argparse.ArgumentParser(
        "python -m benchmarks.speed",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = ", ".join([*UPDATE_CASES, *RUN_CASES, *SBX_CASES])
    parser.add_argument("--cases", nargs="+", default=["*"], metavar="NAME", help=f"with wildcards (default: all): {names}")
    parser.add_argument("--repeats", type=whole_number, default=7, help="of each class (default: %(default)s)")
    parser.add_argument("--timesteps", type=whole_number, default=100_000, help="of the learn-* cases (default: %(default)s)")
    parser.add_argument("--sbx", action="store_true", help="the cases with SBX, on one core of the CPU")
    args = parse_on_device(parser, arguments)
    if args.sbx and args.device != "cpu":
        parser.error("--sbx is for --device cpu")
    return args


def main(arguments: list[str]) -> int:
    """
    Take the times of the chosen cases, and report all that there are.

    :param arguments: the command line
    :return: the exit code: 0, or 2 for a mistake of the user
    """
    args = parse(arguments)
    try:
        cases = choose(args.cases, args.sbx)
        if args.sbx:
            sbx.stay_on_one_core()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    th.set_num_threads(1)
    table = args.output / ("speed_sbx.csv" if args.sbx else "speed.csv")
    measured_on = ", ".join([machine(args.device), *([sbx.versions()] if args.sbx else [])])
    for case in cases:
        if isinstance(case, UpdateCase):
            rows = list(time_updates(case, args.repeats, args.device))
        else:
            rows = list(time_runs(case, args.repeats, args.timesteps, args.device))
        replace_rows(table, [{**row, "machine": measured_on} for row in rows], lambda row: row["case"])
        against = ("sbx", "cpu") if args.sbx else ("stock", "seconds")
        print(f"{case.name}: " + ", ".join(f"{stage} {ratio(rows, stage, *against)}" for stage in STAGES), flush=True)
    rows = read_rows(table)
    if args.sbx:
        write_text(args.output / "speed_sbx.md", report_sbx(rows))
        return 0
    write_text(args.output / "speed.md", report(rows))
    save_figure(plot(rows), args.output / "speed.png")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
