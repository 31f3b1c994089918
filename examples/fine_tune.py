"""Train a stock PPO model on forward, then hand it back to PPO: python examples/fine_tune.py [timesteps]"""

import sys
from typing import Any

from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

from sb3_forward import ForwardPPO


def mean_return(model: BaseAlgorithm, env: VecNormalize) -> float:
    """
    Evaluate, with the normalisation as it is.

    :param model: the model
    :param env: the training environment
    :return: mean return of twenty episodes, the same ones for every model
    """
    eval_env = VecNormalize(make_vec_env("CartPole-v1", seed=1), training=False, norm_reward=False)
    eval_env.obs_rms = env.obs_rms
    mean, _ = evaluate_policy(model, eval_env, n_eval_episodes=20, warn=False)
    return float(mean)  # type: ignore[arg-type]


def main(timesteps: int = 4_000) -> dict[str, float]:
    """
    PPO, then ForwardPPO, then PPO again, all on one environment and with one set of parameters.

    :param timesteps: environment steps of each of the three
    :return: mean returns, in the order of events
    """
    env = VecNormalize(make_vec_env("CartPole-v1", n_envs=8, seed=0))
    settings: dict[str, Any] = {"n_steps": 128, "batch_size": 128, "seed": 0, "device": "cpu"}
    stock = PPO("MlpPolicy", env, **settings).learn(timesteps)
    returns = {"PPO": mean_return(stock, env)}

    forward = ForwardPPO("MlpPolicy", env, **settings)
    forward.set_parameters(stock.get_parameters(), exact_match=False)  # type: ignore[arg-type]
    returns["loaded into ForwardPPO"] = mean_return(forward, env)
    forward.learn(timesteps)
    returns["trained on forward"] = mean_return(forward, env)

    stock.set_parameters(forward.get_parameters(), exact_match=False)  # type: ignore[arg-type]
    returns["loaded into PPO"] = mean_return(stock, env)
    stock.learn(timesteps, reset_num_timesteps=False)
    returns["trained on by PPO"] = mean_return(stock, env)

    for event, value in returns.items():
        print(f"{event:22} {value:5.0f}")
    return returns


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
