"""Load a saved model, and make the environment that it was trained in, as the RL Zoo or a user's own script did."""

import json
import re
import zipfile
from pathlib import Path
from typing import Any

from gymnasium import spaces
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.preprocessing import is_image_space_channels_first
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecFrameStack, VecNormalize

from sb3_forward._cli import UserError, first_line, make_env
from sb3_forward.inspect.recording import network_of

ALGOS = ("forward_ppo", "forward_a2c", "ppo", "a2c")
# Environments side by side. Each adds at least one episode, and probes are tested on episodes that they have not been fitted
# to
N_ENVS = 8
# The Zoo's own commands replace these, too: schedules may have been pickled by another Python
UNUSED = {"learning_rate": 0.0, "lr_schedule": lambda _: 0.0, "clip_range": lambda _: 0.0}


def find_model(path: Path) -> Path:
    """
    Find the file of a model.

    :param path: a model, with or without ``.zip``
    :return: its file
    :raises UserError: if there is none
    """
    if path.is_file():
        return path
    suffixed = path.parent / f"{path.name}.zip"
    if suffixed.is_file():
        return suffixed
    raise UserError(f"{path} is a folder, give the .zip file of a model" if path.is_dir() else f"no file {path}")


def detect_algo(path: Path) -> str:
    """
    Detect the algorithm that saved a model.

    :param path: file of a model
    :return: the algorithm, one of :data:`ALGOS`
    :raises UserError: if it is no model, or a model of another algorithm
    """
    try:
        with zipfile.ZipFile(path) as archive:
            data = json.loads(archive.read("data"))
    except (OSError, zipfile.BadZipFile, KeyError, ValueError) as error:
        raise UserError(f"{path} is no model saved by Stable-Baselines3: {first_line(error)}") from error
    # It must be on-policy, and not TRPO, whose models otherwise look like those of A2C
    if "gae_lambda" not in data or "cg_max_steps" in data:
        raise UserError(f"{path} is a model of another algorithm: only A2C, PPO and their forward versions can be inspected")
    return ("forward_" if "hidden_training" in data else "") + ("ppo" if "clip_range" in data else "a2c")


def load_model(path: Path, algo: str, device: str) -> OnPolicyAlgorithm:
    """
    Load a model.

    :param path: file of a model
    :param algo: one of :data:`ALGOS`
    :param device: PyTorch device
    :return: the model, without environment
    :raises UserError: if it cannot be loaded, or cannot be split into blocks
    """
    from rl_zoo3 import ALGOS as CLASSES

    from sb3_forward.zoo.registration import register

    register()
    try:
        model = CLASSES[algo].load(path, device=device, custom_objects=UNUSED)
        assert isinstance(model, OnPolicyAlgorithm)
        network_of(model.policy)
    except Exception as error:
        raise UserError(f"cannot read {path} as a model of {algo}: {first_line(error)}") from error
    model.verbose = 0
    return model


def find_stats(model: Path, env: str) -> Path | None:
    """
    Find the statistics of ``VecNormalize`` where the RL Zoo, SB3's ``CheckpointCallback`` and most scripts save them.

    :param model: file of a model
    :param env: ID of its environment
    :return: file of the statistics, if there is one
    """
    checkpoint = re.sub(r"^(.*)_(\d+_steps)$", r"\1_vecnormalize_\2.pkl", model.stem)
    candidates = (model.parent / checkpoint, zoo_folder(model, env) / "vecnormalize.pkl", model.parent / "vecnormalize.pkl")
    return next((path for path in candidates if path.suffix == ".pkl" and path.is_file()), None)


def zoo_folder(model: Path, env: str) -> Path:
    """
    Return the folder in which the Zoo saves hyperparameters and statistics.

    :param model: file of a model
    :param env: ID of its environment
    :return: the folder beside the model
    """
    return model.parent / env.replace("/", "-")


def attach_env(model: OnPolicyAlgorithm, path: Path, env: str, stats: Path | None, seed: int) -> VecEnv:
    """
    Give a model :data:`N_ENVS` environments like those that it was trained in.

    They have the wrappers, arguments and frame stack of the Zoo if a folder of the Zoo's lies beside the model; else they have
    what SB3 does to Atari games. With statistics, they are normalised.

    :param model: the model
    :param path: its file
    :param env: ID of the environment
    :param stats: statistics of ``VecNormalize``, None for no normalisation
    :param seed: seed of the first environment, the others have the next ones
    :return: the environments
    :raises UserError: if they cannot be made, or do not match the model or the statistics
    """
    hyperparams, env_kwargs = _zoo_settings(zoo_folder(path, env))
    made = make_env(env, **env_kwargs)
    made.close()
    venv = _make_envs(env, hyperparams, env_kwargs, seed)
    if stats is not None:
        venv = _normalise(venv, stats)
    n_stack = hyperparams.get("frame_stack") or _image_stack(venv.observation_space, model.observation_space)
    if n_stack > 1:
        venv = VecFrameStack(venv, n_stack)
    model.n_envs = N_ENVS
    try:
        model.set_env(venv)
    except ValueError as error:
        raise UserError(f"{env} is not the environment of {path}: {first_line(error)}") from error
    assert model.env is not None
    return model.env


def _zoo_settings(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the hyperparameters and the arguments of the environment that the Zoo saved; none if it saved none."""
    import yaml
    from rl_zoo3.utils import get_saved_hyperparams

    if not (folder / "config.yml").is_file():
        return {}, {}
    try:
        hyperparams, _ = get_saved_hyperparams(str(folder), test_mode=True)
        env_kwargs = dict(hyperparams.pop("env_kwargs", None) or {})
        arguments = folder / "args.yml"
        if arguments.is_file():
            env_kwargs = yaml.load(arguments.read_text(), yaml.UnsafeLoader).get("env_kwargs") or env_kwargs
    except Exception as error:
        raise UserError(f"cannot read the Zoo's settings in {folder}: {first_line(error)}") from error
    return hyperparams, env_kwargs


def _make_envs(env: str, hyperparams: dict[str, Any], env_kwargs: dict[str, Any], seed: int) -> VecEnv:
    from rl_zoo3 import create_test_env
    from rl_zoo3.exp_manager import ExperimentManager

    settings = dict(hyperparams)
    if not settings and ExperimentManager.is_atari(env):
        settings = {"env_wrapper": ["stable_baselines3.common.atari_wrappers.AtariWrapper"]}
    try:
        return create_test_env(
            env,
            n_envs=N_ENVS,
            seed=seed,
            should_render=False,
            hyperparams=settings,
            env_kwargs=env_kwargs,
            vec_env_cls=DummyVecEnv,
        )
    except Exception as error:
        raise UserError(f"cannot make {env} as the model was trained in: {first_line(error)}") from error


def _normalise(venv: VecEnv, stats: Path) -> VecNormalize:
    try:
        normalised = VecNormalize.load(str(stats), venv)
        if not isinstance(normalised, VecNormalize):
            raise ValueError("it holds something else")
    except Exception as error:
        raise UserError(f"{stats} holds no VecNormalize statistics of this environment: {first_line(error)}") from error
    normalised.training = False
    return normalised


def _image_stack(env_space: spaces.Space, model_space: spaces.Space) -> int:
    """Count the images that the model sees at once, by their channels."""
    if not all(isinstance(space, spaces.Box) and len(space.shape) == 3 for space in (env_space, model_space)):
        return 1
    channels, stacked = (
        space.shape[0 if is_image_space_channels_first(space) else -1]  # type: ignore[arg-type, index]
        for space in (env_space, model_space)
    )
    return stacked // channels if stacked % channels == 0 else 1
