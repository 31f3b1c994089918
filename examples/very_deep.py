"""The same settings with 4 and with 64 hidden layers, forward and by backpropagation: python examples/very_deep.py [timesteps]"""

import sys

from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

from sb3_forward import ForwardPPO


def main(timesteps: int = 30_000, depths: tuple[int, ...] = (4, 64)) -> dict[tuple[int, str], float]:
    out = {}
    import time

    for depth in depths:
        for hidden in ("local", "frozen", "backprop"):
            t = time.time()
            env = VecNormalize(make_vec_env("CartPole-v1", n_envs=8, seed=0))
            model = ForwardPPO(
                "MlpPolicy",
                env,
                n_steps=128,
                batch_size=256,
                learning_rate=1e-3,
                seed=0,
                device="cpu",
                policy_kwargs={"net_arch": [64] * depth},
                hidden_training=hidden,
            )
            model.learn(timesteps)
            env.training, env.norm_reward = False, False
            mean, _ = evaluate_policy(model, env, n_eval_episodes=10, warn=False)
            print(depth, hidden, mean, time.time() - t, flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
