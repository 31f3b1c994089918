"""Trained agents as files: what is loaded acts as what was trained, and nothing else is."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import ModelCard
from safetensors.numpy import load_file, save_file

from sb3_forward import ForwardA2C, ForwardPPO
from sb3_forward.zoo import agents

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return agents.train_agent("forward_a2c", "CartPole-v1", tmp_path_factory.mktemp("agents"), timesteps=8192)


def normalized(model: Any, raw: np.ndarray) -> np.ndarray:
    """Observations as the environments of the model give them."""
    env = model.get_vec_normalize_env()
    env.reset()
    return env.normalize_obs(raw)


def test_files(folder: Path):
    assert folder.name == "forward_a2c-CartPole-v1"
    names = {path.name for path in folder.iterdir()}
    assert names == {"README.md", "agent.json", "model.safetensors", "normalize.safetensors"}


def test_what_is_loaded_acts_as_what_was_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    trained: list[Any] = []
    new_agent = agents.new_agent

    def remember(*args: Any) -> Any:
        trained.append(new_agent(*args))
        return trained[-1]

    monkeypatch.setattr(agents, "new_agent", remember)
    monkeypatch.setattr(sys, "argv", ["agents", "--env", "Pendulum-v1", "--output", str(tmp_path), "--timesteps", "1600"])
    agents.main()
    loaded = agents.load_agent(tmp_path / "forward_ppo-Pendulum-v1")
    model = trained[0][0]
    assert type(loaded) is ForwardPPO
    assert model.num_timesteps == 1600
    raw = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    ours, theirs = normalized(loaded, raw), normalized(model, raw)
    assert np.array_equal(ours, theirs)
    assert not np.array_equal(ours, raw)
    assert np.array_equal(loaded.predict(ours, deterministic=True)[0], model.predict(theirs, deterministic=True)[0])
    assert np.array_equal(normalized(loaded, raw), ours)  # the statistics stay


def test_what_the_card_says(folder: Path, monkeypatch: pytest.MonkeyPatch):
    card = ModelCard.load(folder / "README.md")
    assert (card.data.model_name, card.data.eval_results[0].dataset_name) == ("ForwardA2C", "CartPole-v1")
    assert f"without noise: {card.data.eval_results[0].metric_value}." in card.text.replace("\n", " ")
    monkeypatch.chdir(folder.parent)
    (code,) = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    model = names["model"]
    assert model.__class__ is ForwardA2C
    assert model.learn(128).num_timesteps == 128  # it can be trained on


@pytest.mark.parametrize(
    ("agent", "said"),
    [
        ({"algo": "forward_a2c", "env": "some_module:CartPole-v1"}, "no hyperparameters of 'forward_a2c' for 'some_module"),
        ({"algo": "ppo", "env": "CartPole-v1"}, "no hyperparameters of 'ppo'"),
        ({"algo": "forward_a2c", "env": "Acrobot-v1"}, "does not fit the model"),
    ],
)
def test_what_is_not_ours_is_refused(agent: dict[str, str], said: str, folder: Path, tmp_path: Path):
    for name in ("model.safetensors", "normalize.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "agent.json").write_text(json.dumps(agent))
    with pytest.raises(ValueError, match=said):
        agents.load_agent(tmp_path)


@pytest.mark.parametrize("value", [np.zeros(3), np.full(4, np.nan), None])
def test_damaged_statistics_are_refused(value: np.ndarray | None, folder: Path, tmp_path: Path):
    for name in ("model.safetensors", "agent.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    kept = load_file(folder / "normalize.safetensors")
    del kept["observations/mean"]
    save_file(kept if value is None else {**kept, "observations/mean": value}, tmp_path / "normalize.safetensors")
    with pytest.raises(ValueError, match="is damaged: observations/mean"):
        agents.load_agent(tmp_path)
