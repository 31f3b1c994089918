"""What autograd keeps with 4 and with 32 layers, and the returns: python examples/very_deep.py [timesteps] [layers ...]"""

import sys
from typing import Any

import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

from sb3_forward import ForwardPPO


class Saved:
    """A tensor that autograd keeps for its backward pass; one that is kept twice counts twice."""

    now = peak = 0

    def __init__(self, tensor: th.Tensor) -> None:
        self.tensor = tensor
        Saved.now += tensor.nbytes
        Saved.peak = max(Saved.peak, Saved.now)

    def __del__(self) -> None:
        Saved.now -= self.tensor.nbytes


def main(timesteps: int = 20_000, *depths: int) -> dict[tuple[str, int], tuple[float, float]]:
    """
    Train with the settings of a shallow network, which only `net_arch` makes deep.

    :param timesteps: environment steps of each run
    :param depths: hidden layers of the actor, and of the critic; 4 and 32 by default
    :return: class and depth -> KiB that autograd kept at once, and mean return of ten episodes
    """
    results = {}
    runs: dict[type[PPO], dict[str, Any]] = {ForwardPPO: {"learning_rate": 2e-3, "local_batch_size": 128}, PPO: {}}
    for cls, settings in runs.items():
        for depth in depths or (4, 32):
            env = VecNormalize(make_vec_env("CartPole-v1", n_envs=8, seed=0))
            architecture = {"net_arch": [64] * depth}
            model = cls("MlpPolicy", env, n_steps=128, batch_size=256, seed=0, policy_kwargs=architecture, **settings)
            Saved.peak = Saved.now
            with th.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.tensor):
                model.learn(timesteps)
            env.training, env.norm_reward = False, False
            mean, _ = evaluate_policy(model, env, n_eval_episodes=10, warn=False)
            results[cls.__name__, depth] = Saved.peak / 2**10, float(mean)  # type: ignore[arg-type]
            print(
                f"{cls.__name__:10} {depth:3} layers: {Saved.peak / 2**10:6.0f} KiB kept, mean return {mean:.0f}", flush=True
            )
    return results


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
