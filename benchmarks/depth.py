"""
Do very deep networks learn? PPO on CartPole with 32, 64 and 128 hidden layers, for actor and critic each.

variants:
  bp        SB3's PPO with the Zoo's hyperparameters: backpropagation through all layers
  forward   ForwardPPO with the hyperparameters of this package
  frozen    the same, but the hidden layers stay at their random start: what the depth alone does to the features

Nothing is changed for the depth but net_arch. Every run is a process of its own; the final return is that of the last model,
deterministic, over 20 episodes. Rows that depth.csv has are not run again; depth.md and depth.png are made of all rows with
this --width and --timesteps.
"""

import argparse
import sys
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.harness import (
    RESULTS,
    Row,
    machine,
    machines,
    markdown_table,
    read_rows,
    replace_rows,
    save_figure,
    whole_number,
    write_text,
)
from sb3_forward._cli import UserError, folder
from sb3_forward.compare.plan import VARIANTS, Question, Run, make_plan, parse_seeds
from sb3_forward.compare.statistics import Estimate, estimate, iqm, measure
from sb3_forward.compare.sweep import on_this_machine

EXAMPLES = """\
examples:
  python -m benchmarks.depth --seeds 5
  python -m benchmarks.depth --depths 32 --seeds 1 --variants forward --timesteps 5e4
  python -m benchmarks.depth --depths 2 8 32 --width 256 --seeds 11-15 --jobs 2"""

CHOICES = ("bp", "forward", "frozen")
SETTING = ("variant", "depth", "width", "timesteps", "seed")
MEASURED = ("final", "stochastic", "late", "area", "wall_seconds")


def plan(depths: list[int], width: int, timesteps: int, seeds: list[int], variants: list[str]) -> list[tuple[Row, Run]]:
    """
    :param depths: numbers of hidden layers
    :param width: units of each
    :param timesteps: environment steps of a run
    :param seeds: seeds
    :param variants: names of variants
    :return: each run with its setting, all of the first seed first
    """
    chosen = {name: VARIANTS[name] for name in variants}
    question = Question(["CartPole-v1"], "ppo", [0], chosen, {}, timesteps, False, None, None, [], "cpu")
    templates, _ = make_plan(question)
    planned = []
    for seed in seeds:
        for depth in depths:
            for run in templates:
                setting = {"variant": run.variant, "depth": depth, "width": width, "timesteps": timesteps, "seed": seed}
                hyperparams = {**run.hyperparams, "policy_kwargs": {"net_arch": [width] * depth}}
                planned.append((setting, run._replace(seed=seed, hyperparams=hyperparams)))
    return planned


def key(row: Row) -> tuple[str, ...]:
    """
    :param row: a row or a setting
    :return: what it is about
    """
    return tuple(str(row[name]) for name in SETTING)


def perform(planned: list[tuple[Row, Run]], jobs: int, table: Path) -> int:
    """
    Run what the table does not have.

    :param planned: the runs with their settings
    :param jobs: runs at a time
    :param table: the CSV
    :return: the number of runs that failed
    """
    done = set(map(key, read_rows(table)))
    missing = [(setting, run) for setting, run in planned if key(setting) not in done]
    failed = 0
    for outcome in on_this_machine([run for _, run in missing], jobs):
        setting = next(setting for setting, run in missing if run == outcome.run)
        name = ", ".join(f"{name} {value}" for name, value in setting.items())
        if outcome.answer is None:
            failed += 1
            print(f"FAILED {name}: {outcome.failure}", file=sys.stderr, flush=True)
            continue
        measured = measure(outcome.answer["rows"])
        row = {**setting, **{column: round(float(measured[column]), 3) for column in MEASURED}, "machine": machine()}
        replace_rows(table, [row], key)
        print(f"{name}: " + ", ".join(f"{column} {row[column]}" for column in MEASURED), flush=True)
    return failed


# === Report ===


def finals(rows: list[Row]) -> dict[str, dict[int, list[float]]]:
    """
    :param rows: rows of one width and length
    :return: final returns of all seeds, by variant and depth
    """
    depths = sorted({int(row["depth"]) for row in rows})
    table: dict[str, dict[int, list[float]]] = {}
    for variant in CHOICES:
        for depth in depths:
            found = [float(row["final"]) for row in rows if row["variant"] == variant and int(row["depth"]) == depth]
            if found:
                table.setdefault(variant, {})[depth] = found
    return table


def report(rows: list[Row]) -> str:
    """
    :param rows: rows of one width and length, at least one
    :return: the table in Markdown
    """
    lines = []
    for variant, by_depth in finals(rows).items():
        for depth, returns in by_depth.items():
            value, low, high = _estimate(returns)
            each = ", ".join(f"{final:.0f}" for final in returns)
            # One seed has no interval
            interval = f" [{low:.1f}, {high:.1f}]" if len(returns) > 1 else ""
            lines.append([variant, depth, f"{value:.1f}{interval}", each])
    width, timesteps = rows[0]["width"], rows[0]["timesteps"]
    text = f"Made by `python -m benchmarks.depth --width {width} --timesteps {timesteps}`. {machines(rows)} Final return on "
    text += "CartPole-v1: interquartile mean over seeds with its 95 % bootstrap interval.\n\n"
    return text + markdown_table(["variant", "hidden layers", "final return", "seeds"], lines)


def plot(rows: list[Row]) -> Figure:
    """
    :param rows: rows of one width and length, at least one
    :return: final returns against depth, a point for every seed, a line through the interquartile means
    """
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    for variant, by_depth in finals(rows).items():
        (line,) = axes.plot(list(by_depth), [_estimate(returns).value for returns in by_depth.values()], label=variant)
        for depth, returns in by_depth.items():
            axes.plot([depth] * len(returns), returns, "o", color=line.get_color(), alpha=0.6)
    depths = sorted({int(row["depth"]) for row in rows})
    axes.set(xlabel="hidden layers", ylabel="final return", xscale="log", xticks=depths, xticklabels=depths, ylim=(0, 520))
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def _estimate(returns: list[float]) -> Estimate:
    import numpy as np

    return estimate(iqm, np.array(returns))


# === Command line ===


def parse(arguments: list[str]) -> argparse.Namespace:
    """
    :param arguments: the command line
    :return: its values
    """
    parser = argparse.ArgumentParser(
        "python -m benchmarks.depth",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--depths", type=whole_number, nargs="+", default=[32, 64, 128], help="default: 32 64 128")
    parser.add_argument("--width", type=whole_number, default=64, help="units per layer (default: %(default)s)")
    parser.add_argument("--timesteps", type=whole_number, default=100_000, help="per run (default: %(default)s)")
    parser.add_argument("--seeds", default="5", help="5 for the seeds 1 to 5, 11-15 for a range (default: %(default)s)")
    parser.add_argument("--variants", nargs="+", choices=CHOICES, default=CHOICES, help="default: all")
    parser.add_argument("--jobs", type=whole_number, default=1, help="runs at a time (default: %(default)s)")
    parser.add_argument("--output", type=folder, default=RESULTS, metavar="DIR", help="default: benchmarks/results")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """
    Run what is missing, and report.

    :param arguments: the command line
    :return: the exit code: 0, 1 if a run failed, 2 for a mistake of the user
    """
    args = parse(arguments)
    table = args.output / "depth.csv"
    try:
        planned = plan(sorted(set(args.depths)), args.width, args.timesteps, parse_seeds(args.seeds), list(args.variants))
        failed = perform(planned, args.jobs, table)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    about = [str(args.width), str(args.timesteps)]
    rows = [row for row in read_rows(table) if [row["width"], row["timesteps"]] == about]
    if rows:
        write_text(args.output / "depth.md", report(rows))
        save_figure(plot(rows), args.output / "depth.png")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
