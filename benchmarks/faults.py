"""
What is lost when a run is killed, when the disk is full, or when it is read-only.

    python benchmarks/faults.py
    python benchmarks/faults.py kill --times 50 --algo forward_a2c
    python benchmarks/faults.py kill --stock        # the same with SB3's PPO, which writes into the place itself
    python benchmarks/faults.py full-disk read-only

`kill`: a run on CartPole that saves all the time (numbered checkpoints with the statistics of VecNormalize, and one file that
is written over again and again) is killed with SIGKILL at a random moment, and the next process goes on from the last
checkpoint; after each kill, every file that it left is loaded. `full-disk` and `read-only` save onto small file systems of
their own (Linux, `unshare`). The exit code is 1 if anything was lost that should not have been.
"""

import argparse
import copy
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, CheckpointCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_forward import ForwardA2C, ForwardPPO

ALGORITHMS: dict[str, type[BaseAlgorithm]] = {"forward_a2c": ForwardA2C, "forward_ppo": ForwardPPO}
STOCK: dict[str, type[BaseAlgorithm]] = {"forward_a2c": A2C, "forward_ppo": PPO}
N_ENVS = 4
# Steps of each environment between two checkpoints
SAVE_EVERY = 16
KEPT_CHECKPOINTS = 5


class Last(BaseCallback):
    """Saves into one and the same file, as a run's best and final model are, and tells how far the run is."""

    def __init__(self, folder: Path, steps: Any) -> None:
        super().__init__()
        self.folder = folder
        self.steps = steps

    def _on_step(self) -> bool:
        self.steps.value = self.num_timesteps
        if self.n_calls % SAVE_EVERY == 0:
            self.model.save(self.folder / "last.zip")
        return True


class Checkpoint(NamedTuple):
    """A pair of files that both load."""

    steps: int
    model: Path
    statistics: Path


def checkpoints(folder: Path) -> list[Path]:
    """
    :param folder: of the run
    :return: the numbered zip files, the newest first
    """
    return sorted(folder.glob("run_*_steps.zip"), key=_steps, reverse=True)


def _steps(model: Path) -> int:
    (steps,) = re.findall(r"\d+", model.name)
    return int(steps)


def statistics_of(model: Path) -> Path:
    """
    :param model: a numbered zip file
    :return: where SB3 saves the statistics of VecNormalize that go with it
    """
    return model.with_name(f"run_vecnormalize_{_steps(model)}_steps.pkl")


def loads(algorithm: type[BaseAlgorithm], file: Path) -> bool:
    """
    :param algorithm: class of the model
    :param file: a saved model, or saved statistics of VecNormalize
    :return: whether it loads, with finite parameters
    """
    try:
        if file.suffix == ".pkl":
            VecNormalize.load(str(file), make_vec_env("CartPole-v1", n_envs=N_ENVS))
            return True
        policy = algorithm.load(file, device="cpu").policy
        return all(bool(value.isfinite().all()) for value in policy.state_dict().values())
    except Exception as error:  # whatever a torn file makes of the loaders
        print(f"  {file.name}: {type(error).__name__}: {error}"[:120])
        return False


def last_checkpoint(algorithm: type[BaseAlgorithm], folder: Path) -> Checkpoint | None:
    """
    :param algorithm: class of the model
    :param folder: of the run
    :return: the newest checkpoint of which model and statistics load
    """
    for model in checkpoints(folder):
        statistics = statistics_of(model)
        if statistics.exists() and loads(algorithm, statistics) and loads(algorithm, model):
            return Checkpoint(_steps(model), model, statistics)
    return None


def train(algorithm: type[BaseAlgorithm], folder: Path, steps: Any, more: int) -> None:
    """
    Go on from the last checkpoint, or begin.

    :param algorithm: class of the model
    :param folder: of the run
    :param steps: shared counter of the steps that were taken
    :param more: steps to take
    """
    th.set_num_threads(1)
    venv = make_vec_env("CartPole-v1", n_envs=N_ENVS, seed=0)
    found = last_checkpoint(algorithm, folder)
    if found is None:
        env = VecNormalize(venv)
        kwargs: dict[str, Any] = {"n_steps": 64} if issubclass(algorithm, A2C) else {"n_steps": 64, "n_epochs": 2}
        model: BaseAlgorithm = algorithm("MlpPolicy", env, device="cpu", seed=0, **kwargs)
    else:
        env = VecNormalize.load(str(found.statistics), venv)
        model = algorithm.load(found.model, env=env, device="cpu")
    save = CheckpointCallback(SAVE_EVERY, str(folder), name_prefix="run", save_vecnormalize=True)
    model.learn(more, callback=CallbackList([save, Last(folder, steps)]), reset_num_timesteps=False)


def kill(algorithm: type[BaseAlgorithm], times: int, seed: int) -> bool:
    """
    Kill a run again and again, and load what it leaves.

    :param algorithm: class of the model
    :param times: number of kills
    :param seed: of the moments
    :return: whether all model files loaded and every process went on
    """
    context = get_context("forkserver")
    context.set_forkserver_preload(["stable_baselines3", "sb3_forward.a2c", "sb3_forward.ppo"])
    moments = random.Random(seed)
    files, torn = Counter[str](), Counter[str]()
    cut, went_on, before, lost = 0, 0, 0, []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for _ in range(times):
            steps = context.Value("q", 0)
            process = context.Process(target=train, args=(algorithm, folder, steps, 10**9))
            process.start()
            while steps.value == 0 and process.is_alive():
                time.sleep(0.01)
            time.sleep(moments.uniform(0.0, 0.5))
            process.kill()
            process.join()
            went_on += steps.value > before
            cut += len(list(folder.glob(".*.part")))
            for file in [*folder.glob("*.zip"), *folder.glob("*.pkl")]:
                files[file.suffix] += 1
                if not loads(algorithm, file):
                    torn[file.suffix] += 1
                    file.unlink()
            last = last_checkpoint(algorithm, folder)
            before = last.steps if last is not None else 0
            lost.append(steps.value - before)
            tidy(folder)
        steps = context.Value("q", 0)
        train(algorithm, folder, steps, 4 * N_ENVS * SAVE_EVERY)
        went_on += steps.value > before
    print(
        f"{algorithm.__name__}: killed {times} times, {cut} of them while it wrote a model beside its place. Examined "
        f"{files['.zip']} models and {files['.pkl']} statistics of VecNormalize (written by SB3): {torn['.zip']} and "
        f"{torn['.pkl']} torn. {went_on} of {times + 1} processes took the run further. Steps lost per kill: "
        f"{np.mean(lost):.0f} in the mean, {max(lost)} at most; checkpoints are {SAVE_EVERY * N_ENVS} apart."
    )
    return torn[".zip"] == 0 and went_on == times + 1


def tidy(folder: Path) -> None:
    """
    Keep the newest checkpoints, so that later kills do not load the old ones again.

    :param folder: of the run
    """
    for file in folder.glob(".*.part"):
        file.unlink()
    for model in checkpoints(folder)[KEPT_CHECKPOINTS:]:
        model.unlink()
        statistics_of(model).unlink(missing_ok=True)


def on_small_disk(fault: str, options: list[str]) -> bool:
    """
    Start this program again with a file system of four megabytes that nobody else sees.

    :param fault: ``full-disk`` or ``read-only``
    :param options: further arguments
    :return: whether nothing was lost
    """
    with tempfile.TemporaryDirectory() as folder:
        mount = f'mount -t tmpfs -o size=4m tmpfs {folder} && exec "$@"'
        inside = [sys.executable, __file__, fault, "--inside", folder, *options]
        return subprocess.run(["unshare", "--map-root-user", "--mount", "sh", "-c", mount, "sh", *inside]).returncode == 0


def full_disk(algorithm: type[BaseAlgorithm], folder: Path, times: int, seed: int) -> bool:
    """
    Save with too little room, and again with enough.

    :param algorithm: class of the model
    :param folder: on a file system of four megabytes, room for a model and another
    :param times: number of attempts, each with another amount of room
    :param seed: of these amounts
    :return: whether the file of before and the model were unharmed each time
    """
    amounts, model, file = random.Random(seed), small_model(algorithm), folder / "model.zip"
    model.save(file)
    unharmed = told = 0
    for _ in range(times):
        saved = file.read_bytes()
        model.learn(64, reset_num_timesteps=False)
        fill(folder / "filler", keep_free=amounts.randrange(len(saved)))
        with Attempt(model) as attempt:
            model.save(file)
        told += attempt.told
        kept = file.read_bytes() == saved and sorted(os.listdir(folder)) == ["filler", "model.zip"]
        (folder / "filler").unlink()
        model.save(file)
        unharmed += attempt.model_unharmed and kept and same(algorithm.load(file, device="cpu"), model)
    print(
        f"{algorithm.__name__}: {times} saves onto a full disk, {told} clear errors; file of before and model in memory "
        f"unharmed, and saved when there was room again, {unharmed} times."
    )
    return told == unharmed == times


def read_only(algorithm: type[BaseAlgorithm], folder: Path) -> bool:
    """
    Save onto a file system that has become read-only, and again when it can be written.

    :param algorithm: class of the model
    :param folder: mount point of a small file system
    :return: whether the file of before and the model were unharmed
    """
    model, file = small_model(algorithm), folder / "model.zip"
    model.save(file)
    saved = file.read_bytes()
    model.learn(64, reset_num_timesteps=False)
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    with Attempt(model) as attempt:
        model.save(file)
    unharmed = attempt.model_unharmed and file.read_bytes() == saved and os.listdir(folder) == ["model.zip"]
    subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True)
    model.save(file)
    again = same(algorithm.load(file, device="cpu"), model)
    print(
        f"{algorithm.__name__}: saved onto a read-only file system: error {'clear' if attempt.told else 'UNCLEAR'}, file of "
        f"before and model {'unharmed' if unharmed else 'HARMED'}; saved when it could be written: {'yes' if again else 'NO'}."
    )
    return attempt.told and unharmed and again


class Attempt:
    """
    An attempt to save that should fail: catches the error, and compares the model with what it was.

    :param model: the model
    """

    def __init__(self, model: BaseAlgorithm) -> None:
        self.model = model
        self.before = copy.deepcopy(model.get_parameters())
        self.told = False
        self.model_unharmed = False

    def __enter__(self) -> "Attempt":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: Any) -> bool:
        self.told = isinstance(error, OSError) and "Could not save to" in str(error)
        self.model_unharmed = equal(self.before, self.model.get_parameters())
        return isinstance(error, OSError)


def small_model(algorithm: type[BaseAlgorithm]) -> BaseAlgorithm:
    """
    :param algorithm: class of the model
    :return: one that has been trained a little
    """
    return algorithm("MlpPolicy", "CartPole-v1", n_steps=64, device="cpu", seed=0).learn(64)  # type: ignore[call-arg]


def fill(file: Path, keep_free: int) -> None:
    """
    :param file: to be made as large as the disk allows
    :param keep_free: bytes of room to leave
    """
    room = os.statvfs(file.parent)
    file.write_bytes(bytes(max(room.f_bavail * room.f_frsize - keep_free, 0)))


def same(first: BaseAlgorithm, second: BaseAlgorithm) -> bool:
    """
    :param first: a model
    :param second: another
    :return: whether their parameters and optimizers are equal
    """
    return equal(first.get_parameters(), second.get_parameters())


def equal(first: Any, second: Any) -> bool:
    """
    :param first: nested dictionaries and lists of tensors and plain values
    :param second: others
    :return: whether they are equal
    """
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(equal, first, second))
    return th.equal(first, second) if isinstance(first, th.Tensor) else first == second


FAULTS = ("kill", "full-disk", "read-only")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faults", nargs="*", default=list(FAULTS), help=f"any of {', '.join(FAULTS)} (default: all)")
    parser.add_argument("--algo", nargs="+", choices=list(ALGORITHMS), default=list(ALGORITHMS), help="(default: both)")
    parser.add_argument("--times", type=int, default=50, help="kills, and saves onto a full disk (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments (default: %(default)s)")
    parser.add_argument("--stock", action="store_true", help="SB3's A2C and PPO instead, to see what is lost with them")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if unknown := set(args.faults) - set(FAULTS):
        parser.error(f"unknown fault: {', '.join(sorted(unknown))}, choose from {', '.join(FAULTS)}")
    if args.times < 1:
        parser.error(f"--times must be at least 1, got {args.times}")
    outcomes = []
    for name in args.algo:
        algorithm = (STOCK if args.stock else ALGORITHMS)[name]
        for fault in args.faults:
            options = ["--algo", name, "--times", str(args.times), "--seed", str(args.seed), *["--stock"] * args.stock]
            if fault == "kill":
                outcomes.append(kill(algorithm, args.times, args.seed))
            elif args.inside is None:
                outcomes.append(on_small_disk(fault, options))
            elif fault == "full-disk":
                outcomes.append(full_disk(algorithm, args.inside, args.times, args.seed))
            else:
                outcomes.append(read_only(algorithm, args.inside))
    return 0 if all(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
