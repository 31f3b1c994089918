"""
How well linear heads can read the returns from the critic's features, by the way these are trained.

    python benchmarks/features.py --env CartPole-v1 HalfCheetah-v5 --timesteps 5e4 --seeds 3

One PPO run per environment and seed (backpropagation, with the shipped hyperparameters) gives every variant the very same
rollouts. Before a variant learns from a rollout, ridge regression on its features of the two rollouts before predicts the
returns of this one: the figure is their explained variance, for the best of four ridges, averaged over the run. So the
features are compared alone, without the feedback of a policy that they would act on.
"""

import argparse
import contextlib
import csv
import io
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
import yaml
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import explained_variance

from sb3_forward import ForwardPPO
from sb3_forward.zoo.registration import default_config, register

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1)  # relative to the mean variance of the features
# Readings below are as useless as this, and would rule the mean
WORST = -1.0
FIELDS = ("env", "seed", "variant", "explained_variance", "second_half")
VARIANTS: dict[str, dict[str, Any]] = {
    "frozen": {"hidden_training": "frozen"},
    "unguided": {"guidance_coef": 0.0},
    "guided": {},
    "guidance only": {"guidance_coef": 1.0},
    "guided stress": {"local_loss": "stress"},
    "guided identity": {"disparity": "identity"},
    "backprop": {"hidden_training": "backprop"},
}
BACKPROP_EPOCHS = 5
BACKPROP_LEARNING_RATE = 3e-4


class Variant:
    """
    A critic that learns from the rollouts of another model.

    :param teacher: the model that plays
    :param kwargs: parameters of ``ForwardPPO``
    """

    def __init__(self, teacher: ForwardPPO, kwargs: dict[str, Any]) -> None:
        self.backprop = kwargs.get("hidden_training") == "backprop"
        self.frozen = kwargs.get("hidden_training") == "frozen"
        self.model = ForwardPPO(
            type(teacher.policy),
            teacher.get_env(),
            n_steps=2,
            batch_size=2 * teacher.n_envs,
            policy_kwargs=teacher.policy_kwargs,
            seed=teacher.seed,
            device="cpu",
            **{**kwargs, "hidden_training": "frozen" if self.frozen else "local"},
        )
        self.model.set_logger(teacher.logger)
        self.model.rollout_buffer = teacher.rollout_buffer
        parameters = self.model.policy.parameters()
        self.optimizer = th.optim.Adam(parameters, lr=BACKPROP_LEARNING_RATE, eps=1e-5)
        self.past: list[tuple[th.Tensor, th.Tensor]] = []  # observations and returns of two rollouts
        self.readings: list[list[float]] = []  # per rollout and ridge

    def read(self, observations: th.Tensor, returns: th.Tensor) -> None:
        """
        Predict the returns of a rollout from the rollouts before.

        :param observations: (N, d)
        :param returns: (N,)
        """
        if self.past:
            before, targets = (th.cat(parts) for parts in zip(*self.past, strict=True))
            features, here = self._features(before), self._features(observations)
            mean, level = features.mean(dim=0), targets.mean()
            centred = features - mean
            gram = centred.T @ centred
            identity = th.eye(len(gram)) * gram.diagonal().mean()
            self.readings.append([])
            for ridge in RIDGES:
                weights = th.linalg.solve(gram + ridge * identity, centred.T @ (targets - level))
                predicted = (here - mean) @ weights + level
                self.readings[-1].append(max(explained_variance(predicted.numpy(), returns.numpy()), WORST))
        self.past = [*self.past[-1:], (observations, returns)]

    def learn(self, observations: th.Tensor, returns: th.Tensor) -> None:
        """
        Train the hidden layers on a rollout.

        :param observations: (N, d)
        :param returns: (N,)
        """
        if self.backprop:
            targets = (returns - returns.mean()) / (returns.std() + 1e-8)
            for _ in range(BACKPROP_EPOCHS):
                for rows in th.randperm(len(returns)).split(64):
                    loss = (self.model.policy.predict_values(observations[rows]).flatten() - targets[rows]).square().mean()
                    self.optimizer.zero_grad()
                    loss.backward()
                    self.optimizer.step()
        elif not self.frozen:
            self.model._prepare_optimizers()
            latents = self.model._latents()
            self.model._local_phase(self.model._cached_rollout(latents))
            self.model.heads.refit(latents, self.model._latents())

    @th.no_grad()
    def _features(self, observations: th.Tensor) -> th.Tensor:
        return self.model.policy.mlp_extractor.forward_critic(observations)


class Readings(BaseCallback):
    """
    Shows every rollout to all variants.

    :param variants: by name
    """

    def __init__(self, variants: dict[str, dict[str, Any]]) -> None:
        super().__init__()
        self.definitions = variants
        self.variants: dict[str, Variant] = {}

    def _on_training_start(self) -> None:
        assert isinstance(self.model, ForwardPPO)
        self.variants = {name: Variant(self.model, kwargs) for name, kwargs in self.definitions.items()}

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        assert isinstance(self.model, ForwardPPO)
        buffer = self.model.rollout_buffer
        next(buffer.get(1))  # flattens it
        observations, returns = th.as_tensor(buffer.observations).float(), th.as_tensor(buffer.returns).flatten()
        for variant in self.variants.values():
            variant.read(observations, returns)
            variant.learn(observations, returns)


def measure(env: str, seed: int, timesteps: int) -> list[dict[str, Any]]:
    """
    :param env: environment with vector observations
    :param seed: seed of the run and of every variant
    :param timesteps: length of the run
    :return: rows of the CSV
    """
    from rl_zoo3.exp_manager import ExperimentManager

    entry = yaml.safe_load(default_config("forward_ppo").read_text())[env]
    entry.update(hidden_training="backprop", n_timesteps=timesteps)
    readings = Readings(VARIANTS)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        config = Path(folder) / "hyperparams.yml"
        config.write_text(yaml.safe_dump({env: entry}))
        manager = ExperimentManager(
            argparse.Namespace(),
            "forward_ppo",
            env,
            folder,
            n_timesteps=timesteps,
            eval_freq=-1,
            log_interval=-2,
            seed=seed,
            verbose=0,
            device="cpu",
            config=str(config),
        )
        started = manager.setup_experiment()
        assert started is not None
        manager.callbacks.append(readings)
        manager.learn(started[0])
    rows = []
    for name, variant in readings.variants.items():
        table = np.array(variant.readings)
        best = table.mean(axis=0).argmax()
        half = table[len(table) // 2 :, best].mean()
        values = {"explained_variance": round(float(table[:, best].mean()), 4), "second_half": round(float(half), 4)}
        rows.append({"env": env, "seed": seed, "variant": name, **values})
    return rows


def main() -> None:
    """Measure every environment with every seed, and print the means over seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", nargs="+", required=True)
    parser.add_argument("--timesteps", type=float, default=5e4)
    parser.add_argument("--seeds", type=int, default=3, help="the seeds 1 to this one (default: %(default)s)")
    parser.add_argument("--csv", type=Path, default=Path(__file__).parent / "results" / "features.csv")
    args = parser.parse_args()
    if unknown := set(args.env) - set(yaml.safe_load(default_config("forward_ppo").read_text())):
        parser.error(f"no hyperparameters for {', '.join(sorted(unknown))}")
    if not (args.seeds >= 1 and 1 <= args.timesteps < math.inf):
        parser.error(f"--seeds and --timesteps must be at least 1, got {args.seeds} and {args.timesteps:g}")
    import rl_zoo3.import_envs  # noqa: F401

    register()
    th.set_num_threads(1)
    rows = []
    if args.csv.exists():
        with args.csv.open() as file:
            rows = [row for row in csv.DictReader(file) if row["env"] not in args.env]
    for env in args.env:
        new = [row for seed in range(1, args.seeds + 1) for row in measure(env, seed, int(args.timesteps))]
        for name in VARIANTS:
            values = [row["explained_variance"] for row in new if row["variant"] == name]
            print(f"{env:28} {name:16} {np.mean(values):6.3f}  ({', '.join(f'{value:.3f}' for value in values)})", flush=True)
        rows += new
        args.csv.parent.mkdir(parents=True, exist_ok=True)
        with args.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
