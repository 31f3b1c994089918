"""
How well an algorithm learns through the literal RL Zoo command: several seeds, final deterministic evaluation, one CSV.

    python -m benchmarks.learning --algo forward_ppo --env CartPole-v1 --seeds 5
    python -m benchmarks.learning --algo ppo --env CartPole-v1 --seeds 5
    python -m benchmarks.learning --algo forward_ppo --env CartPole-v1 --label frozen -params "hidden_training:'frozen'"
    python -m benchmarks.learning --algo forward_a2c --env CartPole-v1 --label class --class-defaults -n 100000

Rows that the CSV already has are not run again. The last lines are the interquartile mean over seeds with its 95 %
bootstrap interval for every environment, algorithm and label in the CSV.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks.harness import RESULTS, Row, read_rows, replace_rows
from sb3_forward._cli import UserError, import_packages, make_env
from sb3_forward.compare.statistics import estimate, iqm
from sb3_forward.zoo.registration import register

EPISODES = 20


def check(algo: str, envs: list[str]) -> None:
    """
    :param algo: key of the algorithm in the Zoo
    :param envs: environments
    :raises UserError: if one of them is unknown
    """
    import_packages([])
    from rl_zoo3 import ALGOS

    register()
    if algo not in ALGOS:
        raise UserError(f"unknown algorithm {algo!r}, choose from {', '.join(ALGOS)}")
    for env in envs:
        make_env(env).close()


def run(algo: str, env: str, seed: int, params: list[str], class_defaults: bool, n_timesteps: int, folder: Path) -> None:
    """
    Train through the Zoo in a process of its own.

    :param algo: key of the algorithm in the Zoo
    :param env: environment
    :param seed: seed of the run
    :param params: hyperparameters to overwrite, as for ``-params``
    :param class_defaults: the class as ``Class("MlpPolicy", env)`` makes it, in place of hyperparameters from a file
    :param n_timesteps: steps, -1 for those of the Zoo's hyperparameters
    :param folder: log folder
    :raises UserError: if training fails
    """
    command = [sys.executable, "-m", "rl_zoo3.train", "--algo", algo, "--env", env, "--seed", str(seed), "-f", str(folder)]
    command += ["--eval-freq", "10000", "--num-threads", "1", "--device", "cpu", "-n", str(n_timesteps), "--verbose", "0"]
    if params:
        command += ["-params", *params]
    if class_defaults:
        config = folder / "class.yml"
        config.write_text(f"{env}: {{n_timesteps: {n_timesteps}, policy: MlpPolicy}}\n")
        command += ["--conf-file", str(config)]
    log = folder / "train.log"
    with log.open("w") as output:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        finished = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
    if finished.returncode != 0:
        raise UserError(f"{env}, seed {seed}: {log.read_text().strip().splitlines()[-1]}")


def evaluate(algo: str, env: str, folder: Path) -> dict[str, float]:
    """
    Evaluate the final model of a run, deterministically.

    :param algo: key of the algorithm in the Zoo
    :param env: environment
    :param folder: log folder of the run
    :return: timesteps, final mean and deviation over episodes, best evaluation during training, late training return
    """
    import rl_zoo3.import_envs  # noqa: F401
    from rl_zoo3 import ALGOS, create_test_env, get_saved_hyperparams
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.monitor import load_results

    log_path = folder / algo / f"{env}_1"
    hyperparams, stats_path = get_saved_hyperparams(str(log_path / env), test_mode=True)
    test_env = create_test_env(env, stats_path=stats_path, seed=10_000, should_render=False, hyperparams=hyperparams)
    model = ALGOS[algo].load(log_path / f"{env}.zip", device="cpu")
    mean, deviation = evaluate_policy(model, test_env, n_eval_episodes=EPISODES, deterministic=True, warn=False)
    during = np.load(log_path / "evaluations.npz")["results"].mean(axis=1)
    training = load_results(str(log_path))
    steps = training["l"].cumsum()
    late = training["r"][steps > 0.9 * steps.iloc[-1]].mean()
    return {
        "timesteps": model.num_timesteps,
        "final_return": float(mean),  # type: ignore[arg-type]
        "final_std": float(deviation),  # type: ignore[arg-type]
        "best_return": float(max(during.max(), mean)),
        "late_return": float(late),
    }


def identity(row: Row) -> tuple[str, ...]:
    """
    :param row: of the CSV
    :return: what tells its run from all others
    """
    return tuple(row[key] for key in ("env", "algo", "label", "seed"))


def report(rows: list[Row]) -> None:
    """
    Print the interquartile mean and its bootstrap interval for every group of runs.

    :param rows: the CSV's rows
    """
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["env"], row["algo"], row["label"]), []).append(row)
    for (env, algo, label), group in sorted(groups.items()):
        values = np.array([float(row["final_return"]) for row in group])
        middle, low, high = estimate(iqm, values)
        late = np.mean([float(row["late_return"]) for row in group])
        print(
            f"{env:24} {algo:12} {label:12} n={len(values)} final: IQM {middle:8.1f} [{low:8.1f}, {high:8.1f}],"
            f" std {values.std():6.1f}, worst {values.min():8.1f}; late training {late:8.1f}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algo", required=True, help="key of the algorithm in the Zoo")
    parser.add_argument("--env", required=True, nargs="+", help="environments")
    parser.add_argument("--seeds", type=int, default=5, help="seeds 1 to SEEDS (default: %(default)s)")
    parser.add_argument("-n", "--n-timesteps", type=int, default=-1, help="steps (default: those of the hyperparameters)")
    parser.add_argument("--label", default="shipped", help="name of this set of parameters in the CSV (default: %(default)s)")
    parser.add_argument("-params", nargs="+", default=[], help="hyperparameters to overwrite, as in the Zoo")
    parser.add_argument(
        "--class-defaults", action="store_true", help="Class('MlpPolicy', env), no file of hyperparameters; asks for -n"
    )
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time (default: %(default)s)")
    parser.add_argument("--csv", type=Path, default=RESULTS / "learning.csv")
    args = parser.parse_args()
    if args.seeds < 1 or args.jobs < 1:
        parser.error(f"--seeds and --jobs must be at least 1, got {args.seeds} and {args.jobs}")
    if args.class_defaults and args.n_timesteps < 1:
        parser.error("--class-defaults needs -n, the number of steps")
    try:
        check(args.algo, args.env)
    except UserError as error:
        parser.error(str(error))

    lock = threading.Lock()

    def one(job: tuple[str, int]) -> None:
        env, seed = job
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            run(args.algo, env, seed, args.params, args.class_defaults, args.n_timesteps, Path(folder))
            wall_seconds = time.perf_counter() - start
            result = evaluate(args.algo, env, Path(folder))
        row = {"env": env, "algo": args.algo, "label": args.label, "seed": seed, **result, "wall_seconds": wall_seconds}
        line = {key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()}
        with lock:
            replace_rows(args.csv, [line], identity)
        print(", ".join(f"{key} {value}" for key, value in line.items()), flush=True)

    done = set(map(identity, read_rows(args.csv)))
    jobs = [(env, seed) for env in args.env for seed in range(1, args.seeds + 1)]
    try:
        with ThreadPoolExecutor(args.jobs) as pool:
            list(pool.map(one, [job for job in jobs if (job[0], args.algo, args.label, str(job[1])) not in done]))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    report(read_rows(args.csv))
    return 0


if __name__ == "__main__":
    sys.exit(main())
