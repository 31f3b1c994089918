"""Every example runs, in short form, and does what it promises."""

import inspect
import json
import re
import runpy
from pathlib import Path
from typing import Any

import huggingface_sb3
import onnx
import pytest
from huggingface_hub import ModelCard
from optuna.trial import TrialState
from PIL import Image
from torch.distributions import Distribution

EXAMPLES = Path(__file__).parent.parent / "examples"

pytestmark = pytest.mark.slow


def load(name: str) -> Any:
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]


def test_quickstart() -> None:
    assert load("quickstart")(2_048) > 5


def test_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Its cells as they stand, one after the other."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    notebook = json.loads((EXAMPLES / "quickstart.ipynb").read_text())
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell.get("outputs") for cell in notebook["cells"])
    names: dict[str, Any] = {}
    for cell in cells:
        exec(cell, names)
    found = re.search(r"mean return of ten episodes: (\d+)", capsys.readouterr().out)
    assert found
    assert int(found[1]) > 400


def test_swap_in(tmp_path: Path) -> None:
    best = load("swap_in")(2_048, str(tmp_path))
    assert best.is_file()
    assert list(tmp_path.glob("rl_model_*_steps.zip"))
    assert list(tmp_path.glob("rl_model_vecnormalize_*_steps.pkl"))
    assert list(tmp_path.glob("**/events.out.tfevents.*"))


def test_zoo(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    video = load("zoo")(256, str(tmp_path))
    assert video.stat().st_size > 1_000
    assert b"ftyp" in video.read_bytes()[:12]
    assert "Mean reward:" in capfd.readouterr().out


def test_own_env() -> None:
    model, before, after = load("own_env")(8_192)
    assert {"extractor.0", "extractor.1"} <= {block.name for block in model.network.blocks}
    assert after > before


def test_images() -> None:
    before, after = load("images")(4_096)
    assert -1 <= before < after <= 1


def test_film(tmp_path: Path) -> None:
    pytest.importorskip("Box2D", reason="LunarLander needs the extra `envs`")
    file = tmp_path / "film.gif"
    load("film")(1_024, file=str(file))
    with Image.open(file) as film:
        assert (film.size, film.format) == ((600, 200), "GIF")
        assert film.n_frames > 10


def test_atari() -> None:
    assert load("atari")(1_024) >= 0


def test_very_deep() -> None:
    results = load("very_deep")(1_024, 2, 8)
    kept = {run: kibibytes for run, (kibibytes, _) in results.items()}
    assert kept["ForwardPPO", 8] == kept["ForwardPPO", 2] == 0  # these layers need no graph at all
    assert kept["PPO", 8] > 2 * kept["PPO", 2]


def test_hyperparameter_search(tmp_path: Path) -> None:
    study = load("hyperparameter_search")(256, str(tmp_path), trials=2)
    assert [trial.number for trial in study.trials] == [0, 1, 2, 3]
    assert {trial.state for trial in study.trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
    records = [json.loads(line) for line in (tmp_path / "journal.log").read_text().splitlines()]
    assert len({record["worker_id"] for record in records if "trial_id" in record}) == 2


def test_onnx_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Distribution, "_validate_args", Distribution._validate_args)  # is restored afterwards
    file = tmp_path / "model.onnx"
    difference, mean = load("onnx_export")(2_048, str(file))
    assert difference < 1e-5
    assert mean > 5
    onnx.checker.check_model(str(file))
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_fine_tune() -> None:
    returns = load("fine_tune")(1_024)
    assert returns["loaded into ForwardPPO"] == returns["PPO"]
    assert returns["loaded into PPO"] == returns["trained on forward"]
    assert returns["trained on by PPO"] > 5


def test_model_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load("model_card")(2_048, str(tmp_path))
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.library_name == "stable-baselines3"
    assert {"CartPole-v1", "reinforcement-learning"} <= set(card.data.tags)
    assert card.data.model_name == "ForwardPPO"
    (result,) = card.data.eval_results
    assert (result.dataset_name, result.metric_type) == ("CartPole-v1", "mean_reward")
    assert re.fullmatch(r"\d+\.\d\d \+/- \d+\.\d\d", result.metric_value)

    # What the card tells others to run
    monkeypatch.setattr(huggingface_sb3, "load_from_hub", lambda repository, file: str(tmp_path / file))
    (code,) = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["model"].num_timesteps == 2_048


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_short_and_with_its_command(path: Path) -> None:
    source = path.read_text()
    assert len(source.splitlines()) < 60
    assert f": python examples/{path.name} [timesteps]" in source.splitlines()[0]
    assert "timesteps" in inspect.signature(load(path.stem)).parameters
    assert f"python examples/{path.name}`" in (EXAMPLES / "README.md").read_text()


def test_every_example_is_tested() -> None:
    tested = Path(__file__).read_text()
    examples = {path.stem for path in EXAMPLES.glob("*.py")}
    assert examples
    assert all(f'load("{name}")' in tested for name in examples)
