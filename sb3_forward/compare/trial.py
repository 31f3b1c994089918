"""
Train one run in its own process, by ``python -m sb3_forward.compare.trial``.

The process reads a run as one line of JSON from stdin, trains it as the Zoo does, and answers with its rows as JSON on stdout.
It exits as soon as stdin is closed, so that no training outlives the process that asked for it.
"""

import argparse
import copy
import importlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import stable_baselines3
import torch as th
import yaml
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecEnv, sync_envs_normalization

import sb3_forward
from sb3_forward.compare.plan import Run
from sb3_forward.zoo.registration import register

EVAL_ENVS = 5
# Far from the seeds of the training environments, which are the run's own and the next ones
EVAL_SEED = 10_000

Row = dict[str, Any]


def train(run: Run) -> list[Row]:
    """
    Train and evaluate one run.

    :param run: the run
    :return: the points of its learning curve, from random actions to the final model
    """
    for package in run.gym_packages:
        importlib.import_module(package)
    th.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        manager, model = set_up(run, Path(folder))
        manager.seed = run.seed + EVAL_SEED
        curve = Curve(run, manager.create_envs(EVAL_ENVS, eval_env=True, no_log=True))
        manager.callbacks.append(curve)
        curve.add_random_actions()
        manager.learn(model)
        curve.add_final()
    return curve.rows


def set_up(run: Run, folder: Path) -> tuple[Any, OnPolicyAlgorithm]:
    """
    Let the Zoo make the model of a run, with its environments.

    :param run: the run
    :param folder: where the Zoo may write
    :return: the Zoo's ``ExperimentManager`` and the model
    """
    register()
    from rl_zoo3.exp_manager import ExperimentManager

    config = folder / "hyperparams.yml"
    config.write_text(yaml.safe_dump({run.env: {**run.hyperparams, "n_timesteps": run.timesteps}}))
    set_random_seed(run.seed)
    manager = ExperimentManager(
        argparse.Namespace(),
        run.zoo_algo,
        run.env,
        log_folder=str(folder),
        n_timesteps=run.timesteps,
        eval_freq=-1,
        log_interval=-2,
        seed=run.seed,
        verbose=0,
        device=run.device,
        config=str(config),
    )
    started = manager.setup_experiment()
    assert started is not None
    assert isinstance(started[0], OnPolicyAlgorithm)
    return manager, started[0]


class Curve(BaseCallback):
    """
    A callback that evaluates the model at evenly spaced steps, and leaves no trace in its training.

    :param run: the run
    :param eval_env: environments that are used for evaluation alone
    """

    def __init__(self, run: Run, eval_env: VecEnv) -> None:
        super().__init__()
        self.run = run
        self.eval_env = eval_env
        self.rows: list[Row] = []
        self.returns: list[float] = []  # of the training episodes since the last row
        self.start = time.perf_counter()
        self.evaluation_seconds = 0.0

    def _on_training_start(self) -> None:
        self.start = time.perf_counter()
        self.evaluation_seconds = 0.0

    def _on_step(self) -> bool:
        self.returns += [info["episode"]["r"] for info in self.locals["infos"] if "episode" in info]
        # The last point is that of the final model, after its last update
        while len(self.rows) < self.run.points and self.num_timesteps >= len(self.rows) * self.run.timesteps / self.run.points:
            self._add(deterministic=self._evaluate(self.model, self.run.curve_episodes))
        return True

    def add_random_actions(self) -> None:
        """Add step 0: uniformly random actions, the zero of normalised scores."""
        self.returns = [self._evaluate(RandomActions(self.eval_env, self.run.seed + EVAL_SEED), self.run.final_episodes)]
        self._add(wall_seconds=0.0)

    def add_final(self) -> None:
        """Add the last row: the final model, with deterministic and with stochastic actions."""
        wall_seconds = self._wall_seconds()
        deterministic = self._evaluate(self.model, self.run.final_episodes)
        assert isinstance(self.model, OnPolicyAlgorithm)
        if self.model.use_sde:
            self.model.policy.reset_noise(EVAL_ENVS)
        stochastic = self._evaluate(self.model, self.run.final_episodes, deterministic=False)
        self._add(deterministic=deterministic, stochastic=stochastic, wall_seconds=wall_seconds)

    def _add(self, **measured: float) -> None:
        row = {
            "env": self.run.env,
            "algo": self.run.algo,
            "variant": self.run.variant,
            "seed": self.run.seed,
            "step": self.num_timesteps,
            "return": float(np.mean(self.returns)) if self.returns else None,
            "deterministic": None,
            "stochastic": None,
            "wall_seconds": self._wall_seconds(),
            **measured,
        }
        self.rows.append(row)
        self.returns = []

    def _wall_seconds(self) -> float:
        return round(time.perf_counter() - self.start - self.evaluation_seconds, 3)

    def _evaluate(self, model: Any, episodes: int, deterministic: bool = True) -> float:
        begin = time.perf_counter()
        if isinstance(model, BaseAlgorithm):
            assert model.env is not None
            sync_envs_normalization(model.env, self.eval_env)
        # The same episodes at every point and for every variant
        self.eval_env.seed(self.run.seed + EVAL_SEED)
        mean, _ = evaluate_policy(model, self.eval_env, n_eval_episodes=episodes, deterministic=deterministic, warn=False)
        self.evaluation_seconds += time.perf_counter() - begin
        return float(mean)  # type: ignore[arg-type]


class RandomActions:
    """
    A policy of uniformly random actions, from a generator of its own.

    :param env: environments
    :param seed: seed of the generator
    """

    def __init__(self, env: VecEnv, seed: int) -> None:
        self.n_envs = env.num_envs
        self.space = copy.deepcopy(env.action_space)
        self.space.seed(seed)

    def predict(self, observation: Any, state: Any = None, **_: Any) -> tuple[np.ndarray, Any]:
        """
        Draw random actions.

        :param observation: unused
        :param state: unused
        :return: an action for each environment, and the state
        """
        return np.stack([self.space.sample() for _ in range(self.n_envs)]), state


def versions() -> dict[str, str]:
    """
    List the versions of the packages that a result depends on.

    :return: the versions by name
    """
    return {
        "python": platform.python_version(),
        "torch": th.__version__,
        "stable_baselines3": stable_baselines3.__version__,
        "sb3_forward": sb3_forward.__version__,
    }


def commit() -> str | None:
    """
    Find the commit of the package.

    :return: the last commit that changed the package, with ``-dirty`` if it was changed since; None outside of a git checkout
    """
    folder = Path(sb3_forward.__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments, "--", "."], cwd=folder, capture_output=True, text=True).stdout.strip()

    try:
        # The answer is empty where the package is not tracked, as in an environment inside of somebody else's repository
        last = git("log", "-1", "--format=%H")
        return last + ("-dirty" if git("status", "--porcelain") else "") if last else None
    except OSError:  # there is no git
        return None


def main() -> None:
    """Read a run from stdin, train it, and write the answer to stdout."""
    # Output of the Zoo and of environments goes to stderr, even from C, so that stdout holds nothing but the answer
    answer_file = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    run = Run(**json.loads(sys.stdin.readline()))
    threading.Thread(target=_exit_with_stdin, daemon=True).start()
    # These are read before the training, during which the checkout may change
    made_with = {"versions": versions(), "commit": commit()}
    json.dump({**made_with, "rows": train(run)}, answer_file)
    answer_file.close()


def _exit_with_stdin() -> None:
    # Not sys.stdin: a lock on it, held by this thread, would be an error at the end of the interpreter
    os.read(0, 1)
    os._exit(1)


if __name__ == "__main__":
    main()
