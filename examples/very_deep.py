"""An actor of 64 layers: trained forward, left random, and by backpropagation: python examples/very_deep.py [timesteps] [layers]"""

import sys

from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

from sb3_forward import ForwardPPO

# Linear heads take larger steps than a deep network bears: each has a learning rate that suits it
LEARNING_RATES = {"local": 2e-3, "frozen": 2e-3, "backprop": 3e-4}


def main(timesteps: int = 20_000, layers: int = 64) -> dict[str, float]:
    """
    Train the very same network in three ways.

    :param timesteps: environment steps of each
    :param layers: hidden layers of the actor
    :return: mean return of ten episodes by `hidden_training`
    """
    returns = {}
    for hidden_training, learning_rate in LEARNING_RATES.items():
        env = VecNormalize(make_vec_env("CartPole-v1", n_envs=8, seed=0))
        model = ForwardPPO(
            "MlpPolicy",
            env,
            learning_rate=learning_rate,
            n_steps=128,
            batch_size=256,
            local_batch_size=128,
            policy_kwargs={"net_arch": {"pi": [64] * layers, "vf": [64, 64]}},
            hidden_training=hidden_training,
            seed=0,
            device="cpu",
        )
        model.learn(timesteps)
        env.training, env.norm_reward = False, False
        mean, _ = evaluate_policy(model, env, n_eval_episodes=10, warn=False)
        returns[hidden_training] = float(mean)  # type: ignore[arg-type]
        print(f"{layers} layers, {hidden_training:8}: mean return of ten episodes {mean:.0f}")
    return returns


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
