"""
Train agents, and save them as files that execute nothing: parameters, statistics of the observations, a model card.

    python -m sb3_forward.zoo.agents --env CartPole-v1 Pendulum-v1 --output agents

This command trains with the hyperparameters that this package ships. One line loads an agent, with the environments of its
entry:

    model = load_agent("agents/forward_ppo-CartPole-v1")

The module needs ``pip install "sb3-forward[safetensors]"``.
"""

import argparse
import json
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from rl_zoo3 import ALGOS
from rl_zoo3.exp_manager import ExperimentManager
from safetensors.numpy import load_file, save_file
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize

import sb3_forward
from sb3_forward.tensors import load_tensors, save_tensors
from sb3_forward.zoo.registration import ALGO_NAMES, default_config, register

ENVS = ("CartPole-v1", "Pendulum-v1", "Acrobot-v1")
EPISODES = 100
# Parts of each statistic that are saved
KEPT = ("mean", "var", "count")
CARD = """---
{{ card_data }}
---
# **{{ name }}** agent playing **{{ env }}**

Trained without backpropagation for {{ steps }} steps, by sb3-forward {{ version }} with the hyperparameters that it ships,
seed {{ seed }}. Mean return of {{ episodes }} episodes without noise: {{ score }}.

```python
from sb3_forward.zoo.agents import load_agent

model = load_agent("{{ folder }}")  # builds the environments, model.get_env()
```

The files hold numbers alone: nothing in them is executed. Of the Hub, `huggingface_hub.snapshot_download` gives the folder.
"""


def new_agent(algo: str, env: str, seed: int = 0, timesteps: int = 0) -> tuple[BaseAlgorithm, int]:
    """
    Make the model of an entry in our hyperparameters.

    :param algo: ``forward_ppo`` or ``forward_a2c``
    :param env: an environment with an entry in our hyperparameters
    :param seed: seed of environments and model
    :param timesteps: steps to train for, 0 for those of the entry
    :return: the model that the Zoo makes of the entry, on its environments, and the number of steps to train it for
    :raises ValueError: if there is no such entry
    """
    register()
    if algo not in ALGO_NAMES or env not in yaml.safe_load(default_config(algo).read_text()):
        raise ValueError(f"sb3-forward ships no hyperparameters of {algo!r} for {env!r}")
    manager = ExperimentManager(argparse.Namespace(), algo, env, "", n_timesteps=timesteps, seed=seed, verbose=0)
    # This repeats `setup_experiment`, which would write a folder of logs
    with redirect_stdout(StringIO()):
        read, _ = manager.read_hyperparameters()
    hyperparams, manager.env_wrapper, _, manager.vec_env_wrapper = manager._preprocess_hyperparams(read)
    envs = manager.create_envs(manager.n_envs, no_log=True)
    return ALGOS[algo](env=envs, seed=seed, device="cpu", **hyperparams), manager.n_timesteps


def statistics(normalize: VecNormalize) -> dict[str, RunningMeanStd]:
    """
    Return the running statistics of a normalisation.

    :param normalize: normalisation of observations that are vectors
    :return: the statistics by name
    """
    return {"observations": normalize.obs_rms, "returns": normalize.ret_rms}  # type: ignore[dict-item]


def train_agent(algo: str, env: str, output: Path, seed: int = 1, timesteps: int = 0) -> Path:
    """
    Train an agent, evaluate it and write its files.

    :param algo: ``forward_ppo`` or ``forward_a2c``
    :param env: an environment with an entry in our hyperparameters
    :param output: folder in which its folder is made
    :param seed: seed of environments and model
    :param timesteps: steps to train for, 0 for those of the entry
    :return: its folder
    """
    model, timesteps = new_agent(algo, env, seed, timesteps)
    model.learn(timesteps, progress_bar=True)
    folder = output / f"{algo}-{env}"
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(model, folder / "model.safetensors")
    normalize = model.get_vec_normalize_env()
    if normalize is not None:
        normalize.training = False
        kept = {f"{name}/{key}": np.array(getattr(rms, key)) for name, rms in statistics(normalize).items() for key in KEPT}
        save_file(kept, folder / "normalize.safetensors")
    (folder / "agent.json").write_text(json.dumps({"algo": algo, "env": env}) + "\n")
    mean, deviation = evaluate_policy(model, model.get_env(), n_eval_episodes=EPISODES)  # type: ignore[arg-type]
    score = f"{mean:.2f} +/- {deviation:.2f}"
    result = EvalResult("reinforcement-learning", env, env, "mean_reward", score)
    tags = [env, "deep-reinforcement-learning", "reinforcement-learning", "stable-baselines3", "sb3-forward"]
    name = type(model).__name__
    data = ModelCardData(library_name="stable-baselines3", tags=tags, model_name=name, eval_results=[result])
    told: dict[str, Any] = {
        "name": name,
        "env": env,
        "steps": model.num_timesteps,
        "version": sb3_forward.__version__,
        "seed": seed,
    }
    told.update(episodes=EPISODES, score=score, folder=folder.name)
    ModelCard.from_template(data, template_str=CARD, **told).save(folder / "README.md")
    print(f"{folder}: mean return {score}")
    return folder


def load_agent(folder: str | Path) -> BaseAlgorithm:
    """
    Load an agent.

    :param folder: its folder
    :return: the model, which can be trained further, with the environments of its entry; their statistics stay as they are
    :raises ValueError: if the files are damaged, or of an entry that this version does not have
    """
    folder = Path(folder)
    agent = json.loads((folder / "agent.json").read_text())
    model, _ = new_agent(agent["algo"], agent["env"])
    load_tensors(model, folder / "model.safetensors")
    normalize = model.get_vec_normalize_env()
    if normalize is not None:
        normalize.training = False
        kept = load_file(folder / "normalize.safetensors")
        for name, rms in statistics(normalize).items():
            for key in KEPT:
                found = kept.get(f"{name}/{key}")
                if found is None or found.shape != np.shape(getattr(rms, key)) or not np.isfinite(found).all():
                    raise ValueError(f"{folder / 'normalize.safetensors'} is damaged: {name}/{key}")
                setattr(rms, key, found if found.shape else float(found))
    return model


def main() -> None:
    """Train the agents that the command line names."""
    parser = argparse.ArgumentParser(
        "python -m sb3_forward.zoo.agents", description="Train agents, and write them as safetensors."
    )
    parser.add_argument("--algo", choices=ALGO_NAMES, default="forward_ppo", help="default: forward_ppo")
    parser.add_argument(
        "--env", nargs="+", default=ENVS, help=f"with an entry in our hyperparameters, default: {' '.join(ENVS)}"
    )
    parser.add_argument("--output", type=Path, default=Path("agents"), help="folder, default: agents")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("-n", "--timesteps", type=int, default=0, help="default: those of the entry")
    given = parser.parse_args()
    for env in given.env:
        train_agent(given.algo, env, given.output, given.seed, given.timesteps)


if __name__ == "__main__":
    main()
