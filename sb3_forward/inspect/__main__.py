"""Read the command line of ``python -m sb3_forward.inspect``, and inspect the model."""

import argparse
import math
import shlex
import sys
from pathlib import Path

from sb3_forward._cli import UserError, import_packages

DESCRIPTION = """\
What have the layers of a trained model learned? Plays the model in its environment, and reports of every hidden block: how it
changes the distances between states (Shepard diagram, stress, strain), how many directions its features use (spectrum,
effective rank), dead and saturated units, how the states lie in it (coloured by return and by value), and how well a linear
probe reads return and value from it, next to the raw observation and to the same network untrained.

Writes PNG files, figures.csv, figures.json and report.html, one page that needs nothing else. Reads models of ForwardPPO,
ForwardA2C, PPO and A2C. Beside a model of the RL Zoo it finds wrappers and normalisation by itself."""

EXAMPLES = """\
examples:
  python -m sb3_forward.inspect logs/forward_ppo/CartPole-v1_1/CartPole-v1.zip --env CartPole-v1
  python -m sb3_forward.inspect ppo.zip --env Pendulum-v1 --stats vecnormalize.pkl --output ppo_report
  python -m sb3_forward.inspect model.zip --env MyEnv-v0 --gym-packages my_envs --steps 20000"""

MIN_STEPS = 256


def parse(arguments: list[str]) -> argparse.Namespace:
    """
    Parse the command line.

    :param arguments: the command line
    :return: its values
    """
    parser = argparse.ArgumentParser(
        "python -m sb3_forward.inspect",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", type=Path, metavar="MODEL.zip", help="a saved model")
    parser.add_argument("--env", required=True, metavar="ID", help="its environment")
    parser.add_argument(
        "--algo",
        choices=["forward_ppo", "forward_a2c", "ppo", "a2c"],
        help="its algorithm (default: the one that saved it)",
    )
    parser.add_argument("--steps", type=float, default=4096, help="steps to play (default: %(default)s)")
    parser.add_argument(
        "--stats", type=Path, metavar="PKL", help="its VecNormalize statistics (default: those beside it, if there are any)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of environment and actions (default: %(default)s)")
    parser.add_argument("--gym-packages", nargs="+", default=[], help="modules to import that register environments")
    parser.add_argument("--device", default="cpu", help="PyTorch device (default: %(default)s)")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="folder of the report (default: beside the model, its name with -inspect)"
    )
    args = parser.parse_args(arguments)
    args.command = shlex.join(["python", "-m", "sb3_forward.inspect", *arguments])
    return args


def inspect(args: argparse.Namespace) -> None:
    """
    Inspect a model, and print the main figures.

    :param args: the command line
    :raises UserError: if something in it makes no sense
    """
    if not MIN_STEPS <= args.steps < math.inf:
        raise UserError(f"--steps must be at least {MIN_STEPS}, got {args.steps:g}: fewer states tell nothing of a layer")
    if args.stats is not None and not args.stats.is_file():
        raise UserError(f"no file {args.stats}")
    # These imports take seconds, so that they come after the checks that need none of them
    from stable_baselines3.common.utils import explained_variance, set_random_seed

    from sb3_forward.inspect.analysis import analyse
    from sb3_forward.inspect.model import attach_env, detect_algo, find_model, find_stats, load_model
    from sb3_forward.inspect.report import Subject, describe, table, write_report
    from sb3_forward.inspect.states import play

    path = find_model(args.model)
    detected = detect_algo(path)
    import_packages(args.gym_packages)
    stats = args.stats or find_stats(path, args.env)
    model = load_model(path, args.algo or detected, args.device)
    env = attach_env(model, path, args.env, stats, args.seed)
    folder = _make_folder(args.output or path.with_name(f"{path.stem}-inspect"))
    subject = Subject(
        model=str(path),
        algorithm=type(model).__name__,
        env=args.env,
        timesteps=model.num_timesteps,
        disparity=getattr(model, "disparity", None) if getattr(model, "hidden_training", None) == "local" else None,
        stats=None if stats is None else str(stats),
        command=args.command,
    )
    set_random_seed(args.seed)
    states = play(model, int(args.steps), args.seed)
    env.close()
    layers = analyse(model, states, args.seed)
    page = write_report(folder, subject, states, layers, float(explained_variance(states.values, states.returns)))
    print("\n".join([*describe(subject, states), "", *_aligned(table(layers, subject.disparity)), "", f"report: {page}"]))


def main(arguments: list[str]) -> int:
    """
    Inspect a model.

    :param arguments: the command line
    :return: the exit code: 0, or 2 for a mistake of the user
    """
    args = parse(arguments)
    try:
        inspect(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: no report was written", file=sys.stderr)
        return 130
    return 0


def _make_folder(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to --output {folder}: {error.strerror}") from error
    return folder


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    # Names are aligned to the left, numbers to the right
    return ["  ".join([*map(str.ljust, row[:2], widths), *map(str.rjust, row[2:], widths[2:])]) for row in rows]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
