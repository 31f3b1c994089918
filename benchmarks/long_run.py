"""
A long run under a sampler: does memory grow, do steps become slower, are optimizers and schedules right at its end?

    python benchmarks/long_run.py
    python benchmarks/long_run.py --algo forward_a2c --timesteps 1e5 --csv /tmp/long_run.csv
    python benchmarks/long_run.py --algo a2c        # SB3's, for what grows without us

Trains on CartPole with normalised observations and linear schedules. One row of the CSV is one sample: resident memory of the
process (RSS), and wall-clock time per step of an environment since the sample before. The first tenth of the run is warm-up:
it is in the CSV, but not in the summary. The exit code is 1 if an optimizer or a schedule ends up wrong.
"""

import argparse
import csv
import math
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch as th
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecNormalize

from sb3_forward import ForwardA2C, ForwardPPO
from sb3_forward.on_policy import ForwardOnPolicyAlgorithm

ALGORITHMS: dict[str, type[OnPolicyAlgorithm]] = {"forward_a2c": ForwardA2C, "forward_ppo": ForwardPPO, "a2c": A2C, "ppo": PPO}
N_ENVS = 8
SAMPLES = 400
WARM_UP = 0.1


class Sample(NamedTuple):
    """A row of the CSV."""

    timesteps: int
    rss_mb: float
    us_per_step: float


class Sampler(BaseCallback):
    """
    Samples memory and time at the ends of rollouts, and counts these.

    :param every: steps between two samples, at least
    """

    def __init__(self, every: int) -> None:
        super().__init__()
        self.every = every
        self.samples: list[Sample] = []
        self.rollouts = 0
        self.process = psutil.Process()

    def _on_training_start(self) -> None:
        self.steps, self.time = 0, time.perf_counter()

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self.rollouts += 1
        steps = self.num_timesteps - self.steps
        if steps >= self.every:
            now = time.perf_counter()
            rss = self.process.memory_info().rss / 2**20
            self.samples.append(Sample(self.num_timesteps, rss, 1e6 * (now - self.time) / steps))
            self.steps, self.time = self.num_timesteps, now


def build(algo: str) -> OnPolicyAlgorithm:
    """
    :param algo: key of the algorithm
    :return: a model whose learning rates go to zero
    """
    env = VecNormalize(make_vec_env("CartPole-v1", n_envs=N_ENVS, seed=0))
    kwargs: dict[str, Any] = {"learning_rate": LinearSchedule(7e-4, 0.0, 1.0), "n_steps": 128, "seed": 0, "device": "cpu"}
    if issubclass(ALGORITHMS[algo], ForwardOnPolicyAlgorithm):
        kwargs["local_learning_rate"] = LinearSchedule(1e-3 if algo == "forward_ppo" else 3e-5, 0.0, 1.0)
    return ALGORITHMS[algo]("MlpPolicy", env, **kwargs)


def wrong(model: ForwardOnPolicyAlgorithm, rollouts: int, timesteps: int) -> list[str]:
    """
    What is not as it should be after a run.

    :param model: the model
    :param rollouts: how many were trained on
    :param timesteps: what the run was asked for
    :return: messages
    """
    problems = []
    # The last update is that of the last rollout, which may go past the end
    progress = max(1 - model.num_timesteps / timesteps, 0.0)
    rows = model.n_steps * N_ENVS
    waiting = math.ceil(model.local_interval / rows)  # rollouts per phase
    minibatches = rollouts // waiting * model.local_epochs * math.ceil(waiting * rows / model.local_batch_size)
    for block in model.network.blocks:
        assert block.optimizer is not None
        rate, expected = block.optimizer.param_groups[0]["lr"], model.local_lr_schedule(progress)
        if not math.isclose(rate, expected, abs_tol=1e-12):
            problems.append(f"the learning rate of block {block.name} ends at {rate}, not at {expected}")
        for parameter in block.parameters:
            state = block.optimizer.state[parameter]
            if int(state["step"]) != minibatches:
                problems.append(f"block {block.name} has made {int(state['step'])} steps, not {minibatches}")
            if not all(value.isfinite().all() for value in (parameter, *state.values())):
                problems.append(f"block {block.name} or its optimizer is not finite")
    return problems


def summary(samples: list[Sample]) -> str:
    """
    :param samples: of a whole run
    :return: growth of memory and drift of time after the warm-up
    """
    steady = np.array(samples[math.ceil(WARM_UP * len(samples)) :])
    steps, rss, time_per_step = steady.T
    slope = np.polyfit(steps / 1e6, rss, 1)[0]
    quarter = max(len(steady) // 4, 1)
    first, last = np.median(time_per_step[:quarter]), np.median(time_per_step[-quarter:])
    return (
        f"from {steps[0]:.0f} to {steps[-1]:.0f} steps: RSS {rss[0]:.1f} to {rss[-1]:.1f} MiB (at most {rss.max():.1f}, trend "
        f"{slope:+.2f} MiB per million steps); {first:.0f} us per step in the first quarter, {last:.0f} in the last "
        f"({100 * (last / first - 1):+.1f} %)"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algo", choices=list(ALGORITHMS), default="forward_ppo", help="(default: %(default)s)")
    parser.add_argument("--timesteps", type=float, default=2e6, help="(default: %(default)g)")
    parser.add_argument("--csv", type=Path, help="(default: benchmarks/results/long_run_ALGO.csv)")
    args = parser.parse_args()
    if not 20_000 <= args.timesteps < math.inf:
        parser.error(f"--timesteps must be finite and at least 20000, or there is nothing to compare, got {args.timesteps:g}")
    th.set_num_threads(1)
    model, sampler = build(args.algo), Sampler(int(args.timesteps) // SAMPLES)
    model.learn(int(args.timesteps), callback=sampler)
    file = args.csv or Path(__file__).parent / "results" / f"long_run_{args.algo}.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(Sample._fields)
        writer.writerows((timesteps, round(rss, 2), round(us, 1)) for timesteps, rss, us in sampler.samples)
    print(f"{type(model).__name__}, {summary(sampler.samples)}. Samples: {file}")
    if not isinstance(model, ForwardOnPolicyAlgorithm):
        return 0
    problems = wrong(model, sampler.rollouts, int(args.timesteps))
    print("\n".join(problems) or f"Optimizers and schedules are right after {sampler.rollouts} rollouts.")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
