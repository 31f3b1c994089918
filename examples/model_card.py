"""Pack a model and its card for the Hugging Face Hub, without upload: python examples/model_card.py [timesteps] [folder]"""

import sys
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

from sb3_forward import ForwardPPO

REPOSITORY = "your-name/forward_ppo-CartPole-v1"
TEMPLATE = """---
{{ card_data }}
---
# **ForwardPPO** agent playing **CartPole-v1**, trained without backpropagation for {{ timesteps }} steps
```python
from huggingface_sb3 import load_from_hub
from sb3_forward import ForwardPPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

env = VecNormalize.load(load_from_hub("{{ repository }}", "vec_normalize.pkl"), make_vec_env("CartPole-v1"))
model = ForwardPPO.load(load_from_hub("{{ repository }}", "model.zip"), env=env)
```
"""


def main(timesteps: int = 50_000, folder: str = "runs/model_card") -> ModelCard:
    """
    Train, evaluate, and write the files of a repository: `HfApi().upload_folder` would upload them.

    :param timesteps: environment steps
    :param folder: where all is written
    :return: the card
    """
    files = Path(folder)
    files.mkdir(parents=True, exist_ok=True)
    env = VecNormalize(make_vec_env("CartPole-v1", n_envs=8, seed=0), norm_reward=False)
    settings = {"n_steps": 256, "batch_size": 2048, "n_epochs": 20, "gamma": 0.995, "gae_lambda": 0.99, "learning_rate": 1e-3}
    model = ForwardPPO("MlpPolicy", env, seed=0, device="cpu", **settings).learn(timesteps)  # type: ignore[arg-type]
    env.training = False
    mean, deviation = evaluate_policy(model, env, n_eval_episodes=10, warn=False)
    model.save(files / "model.zip")
    env.save(str(files / "vec_normalize.pkl"))
    task, score = "reinforcement-learning", f"{mean:.2f} +/- {deviation:.2f}"
    result = EvalResult(task, "CartPole-v1", "CartPole-v1", "mean_reward", score)
    tags = ["CartPole-v1", "deep-reinforcement-learning", task, "stable-baselines3", "sb3-forward"]
    data = ModelCardData(library_name="stable-baselines3", tags=tags, model_name="ForwardPPO", eval_results=[result])
    card = ModelCard.from_template(data, template_str=TEMPLATE, timesteps=timesteps, repository=REPOSITORY)
    card.save(files / "README.md")
    print(f"mean return {score}, card in {files / 'README.md'}")
    return card


if __name__ == "__main__":
    main(*(int(argument) if argument.isdigit() else argument for argument in sys.argv[1:]))  # type: ignore[arg-type]
