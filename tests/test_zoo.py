import argparse
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import optuna
import pytest
import rl_zoo3.exp_manager
import rl_zoo3.hyperparams_opt
import yaml
from huggingface_hub import ModelCard
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from rl_zoo3 import ALGOS
from rl_zoo3.exp_manager import ExperimentManager
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sb3_forward import ForwardA2C, ForwardPPO
from sb3_forward.zoo.__main__ import main
from sb3_forward.zoo.registration import ALGO_NAMES, default_config, register
from tests.bare_python import HOOK, ROOT, bare_python

register()

ENV_ID = "CartPole-v1"
# Small enough for a test, whatever the shipped hyperparameters are
TINY = ["-params", "n_envs:2", "n_steps:16", "local_batch_size:16", "--seed", "1", "--num-threads", "1"]

Zoo = Callable[..., str]

pytestmark = pytest.mark.slow


@pytest.fixture
def zoo(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Zoo:
    """Runs `python -m sb3_forward.zoo ...` in this process, and returns what it has printed."""
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(subprocess, "call", subprocess.call)

    def run(*arguments: object) -> str:
        assert main([str(argument) for argument in arguments]) == 0
        return capfd.readouterr().out

    return run


def trained(zoo: Zoo, algo: str, folder: Path, *arguments: object) -> Path:
    """A run of 64 steps; its log folder."""
    zoo("train", "--algo", algo, "--env", ENV_ID, "-n", 64, "-f", folder, "--eval-freq", 32, *TINY, *arguments)
    return folder / algo / f"{ENV_ID}_1"


# === Registration ===


def test_registered():
    assert ALGOS["forward_a2c"] is ForwardA2C
    assert ALGOS["forward_ppo"] is ForwardPPO
    assert set(ALGO_NAMES) <= set(rl_zoo3.hyperparams_opt.HYPERPARAMS_SAMPLER)
    assert set(ALGO_NAMES) <= set(rl_zoo3.hyperparams_opt.HYPERPARAMS_CONVERTER)


def test_registered_once():
    algos, wrapper = dict(ALGOS), vars(ExperimentManager)["__init__"]
    register()
    assert algos == ALGOS
    assert vars(ExperimentManager)["__init__"] is wrapper
    assert not hasattr(wrapper.__wrapped__, "__wrapped__")


@pytest.mark.parametrize("algo", ALGO_NAMES)
def test_default_config(algo: str, tmp_path: Path):
    args = argparse.Namespace()
    ours = str(default_config(algo))
    assert os.path.isfile(ours)
    assert ExperimentManager(args, algo, ENV_ID, str(tmp_path)).config == ours
    assert ExperimentManager(args=args, algo=algo, env_id=ENV_ID, log_folder=str(tmp_path)).config == ours
    assert ExperimentManager(args, algo, ENV_ID, str(tmp_path), config=None).config == ours
    assert ExperimentManager(args, algo, ENV_ID, str(tmp_path), config="own.yml").config == "own.yml"
    stock = ExperimentManager(args, algo.removeprefix("forward_"), ENV_ID, str(tmp_path)).config
    assert Path(stock).parent.parent == Path(rl_zoo3.exp_manager.__file__).parent


def test_default_config_in_subclass(tmp_path: Path):
    class OwnManager(ExperimentManager):
        def __init__(self, log_folder: str) -> None:
            super().__init__(argparse.Namespace(), "forward_a2c", ENV_ID, log_folder, seed=3)

    manager = OwnManager(str(tmp_path))
    assert manager.config == str(default_config("forward_a2c"))
    assert manager.seed == 3


def test_missing_arguments_say_so():
    with pytest.raises(TypeError, match="missing a required argument: 'algo'"):
        ExperimentManager(argparse.Namespace())  # type: ignore[call-arg]


# === The Zoo's scripts ===


@pytest.mark.parametrize("algo", ALGO_NAMES)
def test_train_enjoy_continue_record(algo: str, zoo: Zoo, tmp_path: Path):
    pytest.importorskip("moviepy")
    run = trained(zoo, algo, tmp_path, "--save-freq", 32)
    assert {"CartPole-v1.zip", "best_model.zip", "rl_model_32_steps.zip", "rl_model_64_steps.zip"} <= set(os.listdir(run))
    saved = yaml.unsafe_load((run / ENV_ID / "config.yml").read_text())
    shipped = yaml.safe_load(default_config(algo).read_text())[ENV_ID]
    assert saved["learning_rate"] == shipped["learning_rate"]
    assert saved["n_steps"] == 16

    watch = ["--algo", algo, "--env", ENV_ID, "-f", tmp_path, "-n", 50, "--no-render"]
    assert "CartPole-v1.zip" in zoo("enjoy", *watch)
    assert "best_model.zip" in zoo("enjoy", *watch, "--load-best")
    assert "rl_model_64_steps.zip" in zoo("enjoy", *watch, "--load-last-checkpoint")
    zoo("record_video", *watch, "-o", tmp_path / "videos")
    assert next((tmp_path / "videos").glob("*.mp4")).stat().st_size > 0

    zoo("train", "--algo", algo, "--env", ENV_ID, "-n", 32, "-f", tmp_path, *TINY, "-i", run / "CartPole-v1.zip")
    continued = ALGOS[algo].load(tmp_path / algo / f"{ENV_ID}_2" / f"{ENV_ID}.zip")
    assert type(continued) is ALGOS[algo]


@pytest.mark.parametrize("algo", ALGO_NAMES)
@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_optimize_and_load_trial(algo: str, sampler: str, zoo: Zoo, tmp_path: Path):
    study = ["--algo", algo, "--env", ENV_ID, "-f", tmp_path, "--storage", f"{tmp_path}/study.log", "--study-name", "study"]
    # The seed is one with short rollouts and few epochs in both trials
    search = f"-optimize --n-trials 2 --sampler {sampler} --n-startup-trials 1 --n-evaluations 1 --seed 40 --pruner none"
    zoo("train", *study, *search.split(), "--no-optim-plots", "-n", 32, "-params", "n_envs:1")
    zoo("train", *study, "--trial-id", 1, "-n", 32, "-params", "n_envs:1", "n_steps:16")

    storage = JournalStorage(JournalFileBackend(f"{tmp_path}/study.log"))
    trial = optuna.load_study(study_name="study", storage=storage).trials[1]
    assert trial.state == optuna.trial.TrialState.COMPLETE
    model: Any = ALGOS[algo].load(max((tmp_path / algo).glob(f"{ENV_ID}_*/{ENV_ID}.zip")))
    for name in ("local_epochs", "local_loss", "disparity", "guidance_coef"):
        assert getattr(model, name) == trial.params[name]
    assert model.local_batch_size == 2 ** trial.params["local_batch_size_pow"]
    assert model.learning_rate(1.0) == trial.params["learning_rate"]


@pytest.mark.parametrize("algo", ALGO_NAMES)
@pytest.mark.parametrize("seed", range(5))
def test_converter_inverts_sampler(algo: str, seed: int):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    trial = study.ask()
    sampled = rl_zoo3.hyperparams_opt.HYPERPARAMS_SAMPLER[algo](trial, 1, 1, {})
    assert rl_zoo3.hyperparams_opt.HYPERPARAMS_CONVERTER[algo](trial.params) == sampled
    env = gym.make(ENV_ID)
    model: Any = ALGOS[algo]("MlpPolicy", env, **sampled)
    assert model.local_batch_size == sampled["local_batch_size"]


def test_push_to_hub_and_back(zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    uploads = []
    hub = SimpleNamespace(
        create_repo=lambda **_: "the-hub",
        snapshot_download=lambda repo_id, local_dir: os.makedirs(local_dir),
        upload_folder=lambda **upload: uploads.append(upload),
    )
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: hub)
    monkeypatch.chdir(tmp_path)
    trained(zoo, "forward_a2c", tmp_path / "logs")
    zoo("push_to_hub", "--algo", "forward_a2c", "--env", ENV_ID, "-f", "logs", "-orga", "me", "--no-render", "-n", 10)
    repo = tmp_path / "hub" / f"forward_a2c-{ENV_ID}"
    assert [upload["repo_id"] for upload in uploads] == [f"me/forward_a2c-{ENV_ID}"]
    card = (repo / "README.md").read_text()
    assert "# **ForwardA2C** Agent playing **CartPole-v1**" in card
    assert f"python -m rl_zoo3.train --algo forward_a2c --env {ENV_ID}" in card
    assert ENV_ID in ModelCard.load(repo / "README.md").data.tags
    assert zipfile.is_zipfile(repo / f"forward_a2c-{ENV_ID}.zip")

    monkeypatch.setattr("huggingface_sb3.load_from_hub", lambda repo_id, filename: str(repo / filename))
    sys.modules.pop("rl_zoo3.load_from_hub", None)
    zoo("load_from_hub", "--algo", "forward_a2c", "--env", ENV_ID, "-orga", "me", "-f", "loaded")
    sys.modules.pop("rl_zoo3.load_from_hub", None)
    out = zoo("enjoy", "--algo", "forward_a2c", "--env", ENV_ID, "-f", "loaded", "-n", 20, "--no-render")
    assert f"loaded/forward_a2c/{ENV_ID}_1/{ENV_ID}.zip" in out


def test_record_training_films_with_our_algorithms(zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    trained(zoo, "forward_ppo", tmp_path, "--save-freq", 64)
    commands: list[list[str]] = []
    monkeypatch.setattr(subprocess, "call", lambda command: commands.append(command) or 0)  # type: ignore[func-returns-value]
    zoo("record_training", "--algo", "forward_ppo", "--env", ENV_ID, "-f", tmp_path, "-n", 20, "-o", tmp_path / "videos")
    # The final model, the best one and one checkpoint
    assert [command[:4] for command in commands] == [[sys.executable, "-m", "sb3_forward.zoo", "record_video"]] * 3
    assert commands[2][-2:] == ["--load-checkpoint", "64"]
    without_hook = {**os.environ, "SB3_FORWARD_ZOO_HOOK": "0", "PYTHONPATH": str(ROOT)}
    subprocess.run(commands[2], check=True, env=without_hook)
    assert list((tmp_path / "videos").glob("checkpoint-64-forward_ppo-CartPole-v1*.mp4"))


def test_callback_is_a_hyperparameter(zoo: Zoo, tmp_path: Path):
    run = ["--algo", "forward_ppo", "--env", ENV_ID, "-n", 64, "-f", tmp_path, "--eval-freq", -1]
    parameters = ["-params", "n_envs:1", "n_steps:32", "callback:'sb3_forward.LocalLearningCallback'"]
    zoo("train", *run, "--tensorboard-log", tmp_path / "tb", *parameters)
    (events,) = (tmp_path / "tb").glob("**/events.out.tfevents.*")
    assert "blocks/strain/critic.1" in EventAccumulator(str(events)).Reload().Tags()["scalars"]


def test_help_and_unknown_command(capsys: pytest.CaptureFixture[str]):
    assert main([]) == main(["-h"]) == 0
    assert "python -m sb3_forward.zoo train --algo forward_a2c" in capsys.readouterr().out
    assert main(["trian"]) == 2
    assert "unknown command 'trian', choose from: train, enjoy" in capsys.readouterr().err


def test_usage_names_the_command(zoo: Zoo, capfd: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stopped:
        zoo("train", "--algo", "none")
    assert stopped.value.code == 2
    assert "usage: python -m sb3_forward.zoo train" in capfd.readouterr().err


# === The start-up hook ===


@pytest.fixture
def site_folder(tmp_path: Path) -> str:
    """A folder with the hook in it, as site-packages would have it; the package itself is on the path of the test."""
    folder = tmp_path / "site"
    folder.mkdir()
    shutil.copy(HOOK, folder)
    return str(folder)


WITH_HOOK = f"sys.path.insert(0, {str(ROOT)!r})\nsite.addsitedir(sys.argv.pop(1))\n"
TRAIN = "runpy.run_module('rl_zoo3.train', run_name='__main__', alter_sys=True)\n"
# Import errors of a package are what this leads to, without a broken package on disk
MISSING = "sys.modules[{!r}] = None\n"
LIST_ALGOS = "from rl_zoo3 import ALGOS\nprint(*ALGOS)\n"


def test_hook_is_one_line():
    assert HOOK.read_text().count("\n") == 1
    assert HOOK.read_text().startswith("import os;")


def test_start_up_imports_nothing_but_the_hook(site_folder: str):
    # Python 3.13 reads every .pth file with this codec
    code = "import encodings.utf_8_sig\nbefore = set(sys.modules)\n" + WITH_HOOK + "print(sorted(set(sys.modules) - before))"
    finished = bare_python(code, site_folder)
    assert finished.stdout == "['_sb3_forward_zoo']\n"
    assert finished.stderr == ""


def test_hook_trains(site_folder: str, tmp_path: Path):
    """Two hooks on the path are one hook, and the Zoo's own module finds our algorithm and its hyperparameters."""
    run = ["--algo", "forward_a2c", "--env", ENV_ID, "-n", "40", "-f", str(tmp_path), *TINY, "--vec-env", "subproc"]
    finished = bare_python(WITH_HOOK.replace(".pop(1)", "[1]") + WITH_HOOK + TRAIN, site_folder, *run)
    assert finished.returncode == 0, finished.stderr
    assert f"Loading hyperparameters from: {default_config('forward_a2c')}" in finished.stdout
    assert (tmp_path / "forward_a2c" / f"{ENV_ID}_1" / f"{ENV_ID}.zip").is_file()


def test_hook_waits_for_a_zoo_that_comes_later(site_folder: str):
    code = (
        WITH_HOOK
        + """
import importlib.util
path, sys.path = sys.path, [path for path in sys.path if not os.path.isdir(os.path.join(path, "rl_zoo3"))]
assert importlib.util.find_spec("rl_zoo3") is None and "wrapt" not in sys.modules
sys.path = path
sys.path_importer_cache.clear()
from rl_zoo3 import ALGOS
import rl_zoo3.hyperparams_opt
print(ALGOS["forward_ppo"].__name__, "forward_ppo" in rl_zoo3.hyperparams_opt.HYPERPARAMS_SAMPLER)
print([type(finder).__name__ for finder in sys.meta_path].count("ZooWatcher"))
"""
    )
    assert bare_python(code, site_folder).stdout == "ForwardPPO True\n0\n"


def test_hook_after_the_zoo(site_folder: str):
    finished = bare_python("from rl_zoo3 import ALGOS\n" + WITH_HOOK + "print(*ALGOS)\n", site_folder)
    assert finished.stdout.split()[-2:] == ["forward_a2c", "forward_ppo"]


def test_hook_switched_off(site_folder: str):
    code = WITH_HOOK + "print('_sb3_forward_zoo' in sys.modules)\n" + LIST_ALGOS
    finished = bare_python(code, site_folder, SB3_FORWARD_ZOO_HOOK="0")
    assert finished.stdout.startswith("False\n")
    assert "forward" not in finished.stdout


def test_hook_without_package_is_silent(site_folder: str):
    finished = bare_python(MISSING.format("sb3_forward") + WITH_HOOK + "print('alive')", site_folder)
    assert (finished.stdout, finished.stderr) == ("alive\n", "")


def test_stock_zoo_trains_without_wrapt(site_folder: str, tmp_path: Path):
    run = ["--algo", "ppo", "--env", ENV_ID, "-n", "16", "-f", str(tmp_path), "-params", "n_envs:1", "n_steps:16"]
    finished = bare_python(MISSING.format("wrapt") + WITH_HOOK + TRAIN, site_folder, *run)
    assert finished.returncode == 0, finished.stderr
    reports = [line for line in finished.stderr.splitlines() if "forward" in line]
    assert len(reports) == 1
    assert reports[0].startswith("sb3-forward: forward_a2c and forward_ppo are not available in the RL Zoo (")
    assert "wrapt" in reports[0]


def test_stock_zoo_with_broken_algorithm(site_folder: str):
    finished = bare_python(MISSING.format("sb3_forward.ppo") + WITH_HOOK + LIST_ALGOS, site_folder)
    assert {"a2c", "ppo"} <= set(finished.stdout.split())
    assert "forward" not in finished.stdout
    assert "not available in the RL Zoo (ModuleNotFoundError: import of sb3_forward.ppo halted" in finished.stderr


def test_default_entry_fits_observations_that_are_no_vectors(zoo: Zoo, tmp_path: Path):
    """Discrete observations cannot go through VecNormalize: trained without it, and watched without it."""
    run = ["--algo", "forward_ppo", "--env", "FrozenLake-v1", "-n", 32, "-f", tmp_path]
    printed = zoo("train", *run, "--eval-freq", -1, "-params", "n_steps:16", "batch_size:16", "local_batch_size:16")
    assert "training without VecNormalize" in printed
    config = yaml.load((tmp_path / "forward_ppo/FrozenLake-v1_1/FrozenLake-v1/config.yml").read_text(), yaml.UnsafeLoader)
    assert "normalize" not in config
    zoo("enjoy", "--algo", "forward_ppo", "--env", "FrozenLake-v1", "-f", tmp_path, "-n", 20, "--no-render")
