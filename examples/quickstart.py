"""Train CartPole forward, save, load, and watch the mean return: python examples/quickstart.py [timesteps]"""

import sys
import tempfile
from pathlib import Path

from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

from sb3_forward import ForwardPPO


def main(timesteps: int = 50_000) -> float:
    """
    Train, save, load and evaluate.

    :param timesteps: environment steps
    :return: mean return of ten episodes
    """
    env = VecNormalize(make_vec_env("CartPole-v1", n_envs=8, seed=0), norm_reward=False)
    # Long rollouts and a long horizon: a cart that drifts out of its track shows in the returns hundreds of steps before
    settings = {"n_steps": 256, "batch_size": 2048, "n_epochs": 20, "gamma": 0.995, "gae_lambda": 0.99, "learning_rate": 1e-3}
    model = ForwardPPO("MlpPolicy", env, seed=0, device="cpu", **settings)  # type: ignore[arg-type]
    model.learn(timesteps)
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "forward_ppo_cartpole")
        model = ForwardPPO.load(Path(folder) / "forward_ppo_cartpole", env=env)
    env.training = False
    mean, deviation = evaluate_policy(model, env, n_eval_episodes=10, warn=False)
    print(f"mean return of ten episodes: {mean:.0f} +- {deviation:.0f}")
    return float(mean)  # type: ignore[arg-type]


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
