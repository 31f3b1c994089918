"""An existing SB3 pipeline with one name changed, PPO to ForwardPPO: python examples/swap_in.py [timesteps] [folder]"""

import sys
from pathlib import Path

from stable_baselines3.common.callbacks import CheckpointCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_forward import ForwardPPO  # was: from stable_baselines3 import PPO


def main(timesteps: int = 50_000, folder: str = "runs/swap_in") -> Path:
    """
    Train with normalisation, evaluation, checkpoints and TensorBoard.

    :param timesteps: environment steps
    :param folder: where all is written
    :return: the best model
    """
    env = VecNormalize(make_vec_env("Acrobot-v1", n_envs=8, seed=0))
    eval_env = VecNormalize(make_vec_env("Acrobot-v1", seed=1), training=False, norm_reward=False)
    callbacks = [
        EvalCallback(eval_env, best_model_save_path=folder, eval_freq=max(timesteps // 40, 1), verbose=0),
        CheckpointCallback(save_freq=max(timesteps // 20, 1), save_path=folder, save_vecnormalize=True),
    ]
    model = ForwardPPO("MlpPolicy", env, n_steps=256, tensorboard_log=folder, seed=0, device="cpu")  # was: PPO(...)
    model.learn(timesteps, callback=callbacks)
    best = Path(folder) / "best_model.zip"
    print(f"best model: {best}")
    return best


if __name__ == "__main__":
    main(*(int(argument) if argument.isdigit() else argument for argument in sys.argv[1:]))  # type: ignore[arg-type]
