"""Read the command line of ``python -m sb3_forward.compare``, and run and report the comparison."""

import argparse
import math
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from sb3_forward._cli import UserError, first_line, folder
from sb3_forward.compare.plan import Question, Run, choose_variants, make_plan, parse_overrides, parse_seeds
from sb3_forward.compare.results import Results
from sb3_forward.compare.sweep import Outcome, on_ray, on_this_machine

DESCRIPTION = """\
Does forward training match backpropagation on an environment of yours? Trains variants with several seeds, each run through
the RL Zoo in a process of its own, and reports final returns, learning curves and their statistics. What is done already is
not run again: the same command goes on where it was stopped.

variants:
  bp        the stock algorithm with the Zoo's hyperparameters
  forward   forward training with the hyperparameters of this package
  frozen    forward, but the hidden layers stay at their random start
  unguided  forward without reward in the local targets (guidance_coef 0)
  plain     forward with heads in the coordinates of the features (whiten_heads False)
  linear    forward without hidden layers: the heads read what the features extractor gives
  bp-same   backpropagation on the network of the forward class, with its hyperparameters"""

EXAMPLES = """\
examples:
  python -m sb3_forward.compare --env CartPole-v1 --algo ppo --seeds 5 --output results
  python -m sb3_forward.compare --env Acrobot-v1 LunarLander-v3 --algo a2c --seeds 11-15 --variants bp,forward --output new
  python -m sb3_forward.compare --env CartPole-v1 --algo ppo --define slow "local_learning_rate:1e-4" --output slow
  python -m sb3_forward.compare --env MyEnv-v0 --gym-packages my_envs --conf ours.yml --bp-conf stock.yml --output mine
  python -m sb3_forward.compare --env Hopper-v5 --algo ppo --seeds 10 --backend ray --address auto --output hopper"""


def parse(arguments: list[str]) -> argparse.Namespace:
    """
    Parse the command line.

    :param arguments: the command line
    :return: its values
    """
    parser = argparse.ArgumentParser(
        "python -m sb3_forward.compare",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--env", nargs="+", metavar="ID", help="environments")
    parser.add_argument("--algo", choices=["ppo", "a2c"], default="ppo", help="the algorithm (default: %(default)s)")
    parser.add_argument("--seeds", default="5", help="5 for the seeds 1 to 5, 11-15 for a range (default: %(default)s)")
    parser.add_argument("--timesteps", type=float, help="steps per run (default: those of the Zoo's hyperparameters)")
    parser.add_argument("--variants", default="bp,forward,frozen,unguided", help="with commas between (default: %(default)s)")
    parser.add_argument(
        "--define",
        nargs="+",
        action="append",
        default=[],
        metavar=("NAME", "key:value"),
        help="another variant: forward with these hyperparameters, as in the Zoo's -params; may be repeated",
    )
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="key:value", help="hyperparameters of all variants of the forward class"
    )
    parser.add_argument(
        "--same-parameters",
        action="store_true",
        help="bp, too, with our hyperparameters on the network of the forward class (hidden_training 'backprop')",
    )
    parser.add_argument("--conf", type=Path, help="your hyperparameters for the forward variants, a YAML file as the Zoo's")
    parser.add_argument("--bp-conf", type=Path, help="your hyperparameters for bp")
    parser.add_argument("--gym-packages", nargs="+", default=[], help="modules to import that register environments")
    parser.add_argument("--device", default="cpu", help="PyTorch device (default: %(default)s)")
    parser.add_argument("--jobs", type=int, help="runs at a time (default: one per CPU)")
    parser.add_argument("--backend", choices=["loky", "ray"], default="loky", help="this machine, or a Ray cluster")
    parser.add_argument("--address", help="of the Ray cluster (default: RAY_ADDRESS, or a new one on this machine)")
    parser.add_argument("--output", type=folder, required=True, metavar="DIR", help="folder of the results")
    parser.add_argument("--report-only", action="store_true", help="run nothing, report what is in DIR")
    args = parser.parse_args(arguments)
    if not args.env and not args.report_only:
        parser.error("the following arguments are required: --env")
    args.command = shlex.join(["python", "-m", "sb3_forward.compare", *arguments])
    return args


def planned(args: argparse.Namespace) -> list[Run]:
    """
    Plan the runs that the command line asks for.

    :param args: the command line
    :return: all of them
    :raises UserError: if something in it makes no sense
    """
    if args.timesteps is not None and not 1 <= args.timesteps < math.inf:
        raise UserError(f"--timesteps must be at least 1 and finite, got {args.timesteps:g}")
    if args.jobs is not None and args.jobs < 1:
        raise UserError(f"--jobs must be at least 1, got {args.jobs}")
    import torch as th

    try:
        th.device(args.device)
    except RuntimeError as error:
        raise UserError(f"--device: {first_line(error)}") from error
    question = Question(
        envs=list(dict.fromkeys(args.env)),
        algo=args.algo,
        seeds=parse_seeds(args.seeds),
        variants=choose_variants(args.variants, args.define),
        common=parse_overrides(args.set),
        timesteps=None if args.timesteps is None else int(args.timesteps),
        same_parameters=args.same_parameters,
        conf=args.conf,
        bp_conf=args.bp_conf,
        gym_packages=args.gym_packages,
        device=args.device,
    )
    plan, remarks = make_plan(question)
    for remark in remarks:
        print(remark)
    return plan


def sweep(args: argparse.Namespace, results: Results) -> int:
    """
    Make the runs that have no result yet.

    :param args: the command line
    :param results: where to save the results
    :return: the number of runs that failed
    :raises UserError: if nothing can be run
    """
    plan = planned(args)
    missing = results.missing(plan)
    steps = sum(run.timesteps for run in plan)
    print(f"{len(plan)} runs of {steps} steps in all, {len(plan) - len(missing)} of them done before")
    if not missing:
        results.add_command(args.command)
        return 0
    outcomes = on_ray(missing, args.jobs, args.address) if args.backend == "ray" else on_this_machine(missing, args.jobs)
    failed = 0
    for outcome, say in with_progress(outcomes, len(missing)):
        log = results.path(outcome.run).with_suffix(".log")
        if outcome.answer is None:
            failed += 1
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_text(outcome.log)
            say(f"FAILED {outcome.run.name}: {outcome.failure} (see {log})")
        else:
            log.unlink(missing_ok=True)
            results.save(outcome.run, outcome.answer)
            results.add_command(args.command)
            final = outcome.answer["rows"][-1]
            say(f"{outcome.run.name}: final return {final['deterministic']:.1f} in {final['wall_seconds']:.0f} s")
    return failed


def with_progress(outcomes: Iterator[Outcome], total: int) -> Iterator[tuple[Outcome, Callable[[str], None]]]:
    """
    Show a progress bar while outcomes come.

    :param outcomes: outcomes as they come
    :param total: how many will come
    :return: each with a function that prints a line above the bar, which is there on a terminal only
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), "elapsed,", TimeRemainingColumn(), "remaining")
    with Progress(*columns, disable=not sys.stdout.isatty()) as progress:
        bar = progress.add_task("runs", total=total)

        def say(line: str) -> None:
            if progress.disable:
                print(line, flush=True)
            else:
                progress.console.print(line, markup=False, highlight=False, soft_wrap=True)

        for outcome in outcomes:
            yield outcome, say
            progress.advance(bar)


def report(results: Results) -> None:
    """
    Write the report of all results, and print its main lines.

    :param results: the results
    :raises UserError: if there are none
    """
    from sb3_forward.compare.report import write_report

    if not results.records():
        raise UserError(f"no results in {results.folder}")
    results.write_tables()
    print("\n".join(write_report(results)))


def main(arguments: list[str]) -> int:
    """
    Run and report a comparison.

    :param arguments: the command line
    :return: the exit code: 0 if all runs are there, 1 if some failed, 2 for a mistake of the user
    """
    args = parse(arguments)
    results = Results(args.output)
    try:
        failed = 0 if args.report_only else sweep(args, results)
        if results.records() or not failed:
            report(results)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from here", file=sys.stderr, flush=True)
        # Unfinished runs end with this process, so there is no need to wait for them
        os._exit(130)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
