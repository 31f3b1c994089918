import argparse
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import rl_zoo3.exp_manager
import yaml
from rl_zoo3 import ALGOS
from rl_zoo3.exp_manager import ExperimentManager

from sb3_forward.zoo.registration import ALGO_NAMES, default_config, register

register()

ENV_IDS = [
    "CartPole-v1",
    "Acrobot-v1",
    "Pendulum-v1",
    "MountainCar-v0",
    "MountainCarContinuous-v0",
    "LunarLander-v3",
    "LunarLanderContinuous-v3",
    "BipedalWalker-v3",
    "Hopper-v5",
    "HalfCheetah-v5",
    "Walker2d-v5",
    "Swimmer-v5",
    "Ant-v5",
]
# An environment that has no entry of its own, for each of the general ones
STANDS_FOR = {"default": "CartPoleNoVel-v1", "atari": "ALE/Pong-v5"}
ZOO_FOLDER = Path(rl_zoo3.exp_manager.__file__).parent / "hyperparams"

SHIPPED: dict[str, dict[str, Any]] = {algo: yaml.safe_load(default_config(algo).read_text()) for algo in ALGO_NAMES}


def installed(env_id: str) -> bool:
    try:
        gym.make(env_id).close()
    except (gym.error.Error, ImportError):
        return False
    return True


@pytest.mark.parametrize("algo", ALGO_NAMES)
def test_entries(algo: str):
    assert set(SHIPPED[algo]) == {"default", "atari", *ENV_IDS}


@pytest.mark.parametrize("algo", ALGO_NAMES)
@pytest.mark.parametrize("entry", ["default", "atari", *ENV_IDS])
def test_entry_trains(algo: str, entry: str, tmp_path: Path):
    env_id = STANDS_FOR.get(entry, entry)
    if not installed(env_id):
        pytest.skip(f"{env_id} is not installed")
    # One short rollout; everything else as shipped
    tiny = {"n_envs": 1, "n_steps": 8}
    if "ppo" in algo:
        tiny.update(batch_size=8, n_epochs=1)
    options: dict[str, Any] = {"n_timesteps": 8, "eval_freq": -1, "log_interval": -1, "seed": 1, "device": "cpu"}
    manager = ExperimentManager(argparse.Namespace(), algo, env_id, str(tmp_path), hyperparams=tiny, **options)
    started = manager.setup_experiment()
    assert started is not None
    model, used = started
    assert type(model) is ALGOS[algo]
    assert used == {**SHIPPED[algo][entry], **tiny}
    manager.learn(model)
    manager.save_trained_model(model)
    assert model.num_timesteps == 8
    assert (Path(manager.save_path) / f"{manager.env_name}.zip").is_file()


@pytest.mark.parametrize("algo", ALGO_NAMES)
def test_budget_is_the_zoos(algo: str):
    """Results are comparable with the stock algorithm's: as many steps as it gets."""
    stock = yaml.safe_load((ZOO_FOLDER / f"{algo.removeprefix('forward_')}.yml").read_text())
    # The Zoo's MuJoCo entries are for the previous version of the environments
    ours = {entry: values["n_timesteps"] for entry, values in SHIPPED[algo].items()}
    assert ours == {entry: stock[entry.replace("-v5", "-v4")]["n_timesteps"] for entry in ours}


@pytest.mark.parametrize("algo", ALGO_NAMES)
def test_observations_are_normalized(algo: str):
    """Distances between observations mean nothing while one dimension is a hundred times another."""
    for entry, values in SHIPPED[algo].items():
        if entry == "atari":
            assert "normalize" not in values
        else:
            assert values["normalize"] in (True, "dict(norm_obs=True, norm_reward=False)")
