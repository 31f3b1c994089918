import base64
import csv
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sb3_contrib import TRPO, RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize

from sb3_forward import ForwardA2C, ForwardPPO
from sb3_forward.inspect.__main__ import main, parse
from sb3_forward.inspect.analysis import principal_coordinates
from sb3_forward.inspect.model import attach_env, detect_algo, find_stats, load_model
from sb3_forward.inspect.probe import FOLDS, RIDGES, held_out_r2, predict, split_by_episode
from sb3_forward.inspect.report import FIGURES
from sb3_forward.inspect.states import play
from sb3_forward.zoo.__main__ import main as zoo
from tests.bare_python import ROOT
from tests.envs import IMAGE, RandomEnv, small_kwargs

PLAY = ["--steps", "256"]
GUIDE = ROOT / "docs" / "inspect.md"
ODD_KEY = "<b>&/x"

pytestmark = pytest.mark.slow


class Countdown(gym.Env):
    """Four steps with a reward of 1 each; the observation is how many are left."""

    observation_space = spaces.Box(0.0, 4.0, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, truncated: bool = False) -> None:
        self.truncated = truncated
        self.left = 4

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.left = 4
        return np.array([4.0], np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.left -= 1
        end = self.left == 0
        return np.array([self.left], np.float32), 1.0, end and not self.truncated, end and self.truncated, {}


class Odd(RandomEnv):
    """Observations with a key that is no name of a file, and means something in HTML."""

    def __init__(self) -> None:
        super().__init__(spaces.Dict({ODD_KEY: IMAGE, "choice": spaces.Discrete(3)}))

    def _observe(self) -> Any:
        self.first = 0.0
        return self.observation_space.sample()


@pytest.fixture(scope="module", autouse=True)
def _environments() -> Iterator[None]:
    made: dict[str, Any] = {
        "Countdown-v0": Countdown,
        "CutCountdown-v0": lambda: Countdown(truncated=True),
        "Odd-v0": Odd,
        "Image-v0": lambda: RandomEnv(IMAGE),
        "Vector-v0": RandomEnv,
        "Broken-v0": lambda: int("not a number"),
    }
    for name, entry_point in made.items():
        gym.register(name, entry_point)
    yield
    for name in made:
        del gym.registry[name]


@pytest.fixture(scope="module")
def zoo_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zoo")
    run = ["--algo", "forward_ppo", "--env", "CartPole-v1", "-n", "512", "-f", str(folder), "--eval-freq", "-1", "--seed", "1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", sys.argv)
        patch.setattr(subprocess, "call", subprocess.call)
        assert zoo(["train", *run, "-params", "n_envs:2", "n_steps:128"]) == 0
    return folder / "forward_ppo" / "CartPole-v1_1" / "CartPole-v1.zip"


@pytest.fixture(scope="module")
def zoo_report(zoo_model: Path) -> Path:
    """As a user makes it, from another folder."""
    command = [sys.executable, "-m", "sb3_forward.inspect", zoo_model.name, "--env", "CartPole-v1", "--steps", "1000"]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "", "HOME": str(zoo_model.parent), "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(command, capture_output=True, text=True, cwd=zoo_model.parent, env=environment)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.endswith("report: CartPole-v1-inspect/report.html\n")
    return zoo_model.parent / "CartPole-v1-inspect"


def figures_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "figures.json").read_text())


def by_layer(folder: Path) -> dict[str, dict[str, Any]]:
    return {layer["layer"]: layer for layer in figures_of(folder)["layers"]}


# === Probes and coordinates ===


def random_features(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, columns))


def test_probe_of_what_is_linear_and_of_noise():
    features, episodes = random_features(300, 5), np.repeat(np.arange(10), 30)
    targets = np.stack([features @ [1.0, -2.0, 0.0, 3.0, 0.5] + 7, random_features(300, 1, seed=1)[:, 0]], axis=1)
    linear, noise = held_out_r2(features, targets, episodes)
    assert linear > 0.9999
    assert -0.1 < noise < 0.05


def test_probe_does_not_know_the_held_out_episodes():
    """Features that tell which episode a state is of, and no more, are worth nothing: rows of one are never on both sides."""
    episodes = np.repeat(np.arange(20), 20)
    features = np.eye(20)[episodes] + 0.01 * random_features(400, 20)
    targets = random_features(20, 1, seed=1)[episodes]
    assert held_out_r2(features, targets, episodes)[0] < 0.1


def test_wide_layers_are_not_ahead_for_their_width():
    episodes = np.repeat(np.arange(10), 20)
    targets = random_features(200, 1, seed=1)
    assert held_out_r2(random_features(200, 1000), targets, episodes)[0] < 0.1


def test_probe_of_nothing():
    features, episodes = random_features(60, 3), np.repeat(np.arange(6), 10)
    assert np.isnan(held_out_r2(features, np.ones((60, 1)), episodes)).all()
    assert held_out_r2(np.ones((60, 3)), features[:, :1], episodes)[0] <= 0
    assert np.isnan(held_out_r2(features, features[:, :1], episodes // 3)).all()


@pytest.mark.parametrize("columns", [3, 20, 50])
def test_ridge_regression(columns: int):
    """As a problem of least squares with a row for every weight; wide features are solved for through the dual system."""
    features, others, targets = random_features(20, columns), random_features(7, columns, 1), random_features(20, 2, 2)
    centred, missing = features - features.mean(axis=0), targets - targets.mean(axis=0)
    predicted = predict(features, targets, others)
    for ridge, found in zip(RIDGES, predicted, strict=True):
        penalty = np.sqrt(ridge * 20 * features.var(axis=0).mean()) * np.eye(columns)
        right = np.concatenate([missing, np.zeros((columns, 2))])
        weights = np.linalg.lstsq(np.concatenate([centred, penalty]), right)[0]
        assert np.allclose(found, (others - features.mean(axis=0)) @ weights + targets.mean(axis=0), atol=1e-5)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=30))
def test_folds_hold_whole_episodes(lengths: list[int]):
    episodes = np.repeat(np.arange(len(lengths)), lengths)
    folds = split_by_episode(episodes)
    assert set(folds) == set(range(min(FOLDS, len(lengths))))
    assert all(len(set(folds[episodes == episode])) == 1 for episode in range(len(lengths)))
    sizes = np.bincount(folds)
    assert sizes.max() - sizes.min() <= max(lengths)


@pytest.mark.parametrize("shape", [(30, 4), (8, 50)])
def test_principal_coordinates(shape: tuple[int, int]):
    features = random_features(*shape)
    coordinates = principal_coordinates(features)
    assert coordinates.shape == (shape[0], min(shape))
    distances = [np.linalg.norm(rows[:, None] - rows, axis=2) for rows in (features, coordinates)]
    assert np.allclose(*distances)
    norms = np.linalg.norm(coordinates, axis=0)
    assert (np.diff(norms) <= 1e-6).all()
    assert np.allclose(norms, np.linalg.svd(features - features.mean(axis=0), compute_uv=False), atol=1e-6)


# === Playing ===


def saved(model: Any, path: Path) -> Path:
    model.save(path)
    return path.with_suffix(".zip")


def test_returns_are_discounted_sums_of_rewards(tmp_path: Path):
    model = PPO("MlpPolicy", make_vec_env("Countdown-v0"), gamma=0.5, n_steps=8, batch_size=8, device="cpu")
    path = saved(model, tmp_path / "model")
    loaded = load_model(path, "ppo", "cpu")
    attach_env(loaded, path, "Countdown-v0", None, 0)
    states = play(loaded, 30, 0)
    # Whole steps of all eight environments
    assert (states.steps, states.episode_returns) == (32, [4.0] * 8)
    assert isinstance(states.observations, th.Tensor)
    left = states.observations.numpy().flatten()
    assert np.allclose(states.returns, 2 - 2 * 0.5**left)
    assert all(sorted(left[states.episodes == episode]) == [1, 2, 3, 4] for episode in set(states.episodes))
    assert len(set(states.episodes)) == 8


def test_value_stands_in_where_an_episode_is_cut(tmp_path: Path):
    model = ForwardPPO("MlpPolicy", make_vec_env("CutCountdown-v0"), gamma=0.5, n_steps=8, batch_size=8, device="cpu")
    path = saved(model, tmp_path / "model")
    loaded = load_model(path, "forward_ppo", "cpu")
    attach_env(loaded, path, "CutCountdown-v0", None, 0)
    states = play(loaded, 32, 0)
    assert isinstance(states.observations, th.Tensor)
    left = states.observations.numpy().flatten()
    with th.no_grad():
        last = loaded.policy.predict_values(th.zeros(1, 1)).item()
    assert abs(last) > 1e-3
    assert np.allclose(states.returns, 2 - 2 * 0.5**left + last * 0.5**left, atol=1e-5)


# === Models of all kinds ===


def test_zoo_model(zoo_model: Path, zoo_report: Path):
    figures = figures_of(zoo_report)
    stats = zoo_model.parent / "CartPole-v1" / "vecnormalize.pkl"
    assert stats.is_file()
    assert (zoo_model.parent / figures["stats"]).samefile(stats)
    assert (figures["algorithm"], figures["disparity"], figures["timesteps"]) == ("ForwardPPO", "gaussian", 512)
    assert figures["steps"] == figures["rows"] == 1000
    layers = by_layer(zoo_report)
    assert list(layers) == ["observation", "actor.0", "actor.1", "critic.0", "critic.1"]
    # The value is a linear function of the critic's top features
    assert layers["critic.1"]["value_r2"] > 0.99
    assert layers["observation"]["value_r2"] < layers["critic.1"]["value_r2"]
    for name, layer in layers.items():
        assert 1 <= layer["effective_rank"] <= layer["width"]
        assert len(layer["spectrum"]) == layer["width"]
        assert (layer["stress_gaussian"] is None) == (name == "observation")


def test_csv_and_json_agree(zoo_report: Path):
    with (zoo_report / "figures.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5
    for row, layer in zip(rows, figures_of(zoo_report)["layers"], strict=True):
        assert (row["layer"], row["role"], int(row["width"])) == (layer["layer"], layer["role"], layer["width"])
        for name in FIGURES:
            assert row[name] == ("" if layer[name] is None else str(layer[name]))


def test_stock_model_on_odd_observations(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    policy_kwargs = {"features_extractor_kwargs": {"cnn_output_dim": 4}, "net_arch": {"vf": [5]}}
    model = A2C("MultiInputPolicy", make_vec_env("Odd-v0"), policy_kwargs=policy_kwargs, device="cpu").learn(20)
    path = saved(model, tmp_path / "stock")
    assert main([str(path.with_suffix("")), "--env", "Odd-v0", *PLAY]) == 0
    assert "no VecNormalize statistics" in capsys.readouterr().out
    folder = tmp_path / "stock-inspect"
    assert figures_of(folder)["disparity"] is None
    layers = by_layer(folder)
    assert list(layers) == ["observation", *(f"extractor.{ODD_KEY}.{index}" for index in range(4)), "critic"]
    assert [layers[name]["width"] for name in ("observation", f"extractor.{ODD_KEY}.3", "critic")] == [3 * 36 * 36 + 3, 4, 5]
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "<b>" not in page
    assert "extractor.&lt;b&gt;&amp;/x.0" in page
    # Nothing unfinished is left, and nothing lies elsewhere
    assert {path.suffix for path in folder.iterdir()} == {".png", ".csv", ".json", ".html"}
    assert {path.name for path in tmp_path.iterdir()} == {"stock.zip", "stock-inspect"}


def test_images_in_a_stack(tmp_path: Path):
    env = VecFrameStack(make_vec_env("Image-v0"), 2)
    policy_kwargs = {"features_extractor_kwargs": {"features_dim": 16}}
    model = ForwardPPO("CnnPolicy", env, policy_kwargs=policy_kwargs, **small_kwargs(ForwardPPO)).learn(16)
    path = saved(model, tmp_path / "images")
    assert main([str(path), "--env", "Image-v0", "--output", str(tmp_path / "out"), *PLAY]) == 0
    layers = by_layer(tmp_path / "out")
    assert list(layers) == ["observation", *(f"extractor.{index}" for index in range(4))]
    assert (layers["observation"]["width"], layers["extractor.3"]["width"]) == (2 * 3 * 36 * 36, 16)


def test_same_figures_again(tmp_path: Path):
    kwargs = {"policy_kwargs": {"net_arch": {"pi": [4]}}, **small_kwargs(ForwardA2C)}
    path = saved(ForwardA2C("MlpPolicy", make_vec_env("Vector-v0"), **kwargs).learn(32), tmp_path / "model")
    for name in ("first", "second"):
        assert main([str(path), "--env", "Vector-v0", "--seed", "3", "--output", str(tmp_path / name), *PLAY]) == 0
    first, second = (figures_of(tmp_path / name) for name in ("first", "second"))
    assert first["algorithm"] == "ForwardA2C"
    assert first["layers"] == second["layers"]
    assert first["episode_returns"] == second["episode_returns"]


def test_without_blocks(tmp_path: Path):
    model = PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8, policy_kwargs={"net_arch": []}, device="cpu")
    path = saved(model, tmp_path / "linear")
    assert main([str(path), "--env", "CartPole-v1", *PLAY]) == 0
    assert list(by_layer(tmp_path / "linear-inspect")) == ["observation"]
    assert "no hidden block" in (tmp_path / "linear-inspect" / "report.html").read_text()


@pytest.mark.parametrize(
    ("algorithm", "algo"), [(ForwardPPO, "forward_ppo"), (ForwardA2C, "forward_a2c"), (PPO, "ppo"), (A2C, "a2c")]
)
def test_algorithms_are_detected(algorithm: Any, algo: str, tmp_path: Path):
    path = saved(algorithm("MlpPolicy", "CartPole-v1", device="cpu"), tmp_path / "model")
    assert detect_algo(path) == algo
    # Parameters go from a stock model to a forward one, and back
    for other in ("ppo", "forward_a2c"):
        load_model(path, other, "cpu")


def test_statistics_are_found(tmp_path: Path):
    model = tmp_path / "rl_model_500_steps.zip"
    places = ["vecnormalize.pkl", "ALE-Pong-v5/vecnormalize.pkl", "rl_model_vecnormalize_500_steps.pkl"]
    assert find_stats(model, "ALE/Pong-v5") is None
    for place in places:  # each goes before those above it
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).touch()
        assert find_stats(model, "ALE/Pong-v5") == tmp_path / place
    assert find_stats(tmp_path / "other.zip", "CartPole-v1") == tmp_path / "vecnormalize.pkl"


def test_observations_and_rewards_are_normalised_as_in_training(tmp_path: Path):
    env = VecNormalize(make_vec_env("Countdown-v0", n_envs=2), gamma=0.5)
    model = PPO("MlpPolicy", env, gamma=0.5, n_steps=32, batch_size=64, device="cpu").learn(64)
    path = saved(model, tmp_path / "model")
    env.save(str(tmp_path / "vecnormalize.pkl"))
    loaded = load_model(path, "ppo", "cpu")
    attach_env(loaded, path, "Countdown-v0", tmp_path / "vecnormalize.pkl", 0)
    states = play(loaded, 32, 0)
    assert isinstance(states.observations, th.Tensor)
    raw = np.array([[4.0], [3.0], [2.0], [1.0]], np.float32)
    assert np.allclose(np.unique(states.observations), np.unique(np.asarray(env.normalize_obs(raw))), atol=1e-5)
    scale = 1 / np.sqrt(env.ret_rms.var + env.epsilon)
    assert states.returns.max() == pytest.approx(scale * (1 + 0.5 + 0.25 + 0.125), rel=1e-5)
    assert states.episode_returns == [4.0] * 8


# === The report ===


class Page(HTMLParser):
    """What a page asks for."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attributes.items() if name in ("src", "href", "srcset", "action")]
        if tag == "img":
            self.images.append(attributes)


def test_page_holds_everything(zoo_report: Path):
    page = Page(zoo_report / "report.html")
    assert not {"script", "iframe", "object", "embed"} & set(page.tags)
    assert all(address.startswith("data:") for address in page.addresses)
    pictures = sorted(zoo_report.glob("*.png"))
    assert len(page.images) == len(pictures) == 1 + 2 + 4 * 3
    assert all(image["alt"] for image in page.images)
    inside = [base64.b64decode((image["src"] or "").removeprefix("data:image/png;base64,")) for image in page.images]
    assert sorted(inside) == sorted(path.read_bytes() for path in pictures)
    assert "url(" not in (zoo_report / "report.html").read_text(encoding="utf-8")
    for path in pictures:
        with Image.open(path) as picture:
            # A picture, not a plain canvas
            assert len(picture.convert("L").getcolors() or []) > 20


CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


@pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver")
def test_page_in_a_browser(zoo_report: Path, tmp_path: Path):
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    flags = "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking disable-component-update"
    for flag in [*flags.split(), "disable-sync", "window-size=1280,6000", f"user-data-dir={tmp_path / 'profile'}"]:
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        page = zoo_report / "report.html"
        driver.get(page.as_uri())
        images = driver.execute_async_script(
            "const done = arguments[0], look = i => i.decode().then(() => [i.naturalWidth, i.width], () => [0, i.width]);"
            "Promise.all(Array.from(document.images, look)).then(done)"
        )
        messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
        console = driver.get_log("browser")
        overflow = driver.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
        driver.save_screenshot(str(tmp_path / "screenshot.png"))
    finally:
        driver.quit()
    assert len(images) == 15
    assert all(decoded > 0 and shown > 0 for decoded, shown in images)
    assert console == []
    sent = [message["params"] for message in messages if message["method"] == "Network.requestWillBeSent"]
    # The browser's own first page is in the log, too
    ours = {params["requestId"]: params["request"]["url"] for params in sent if params["documentURL"] == page.as_uri()}
    assert page.as_uri() in ours.values()
    assert all(url == page.as_uri() or url.startswith("data:") for url in ours.values())
    failed = [message["params"]["requestId"] for message in messages if message["method"] == "Network.loadingFailed"]
    assert not ours.keys() & set(failed)
    assert overflow <= 0
    with Image.open(tmp_path / "screenshot.png") as picture:
        assert len(picture.convert("L").getcolors() or []) > 100


# === Mistakes ===


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8, device="cpu").save(folder / "ppo")
    DQN("MlpPolicy", "CartPole-v1", buffer_size=8, device="cpu").save(folder / "dqn")
    TRPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8, device="cpu").save(folder / "trpo")
    RecurrentPPO("MlpLstmPolicy", "CartPole-v1", n_steps=8, batch_size=8, device="cpu").save(folder / "recurrent")
    env = VecNormalize(make_vec_env("CartPole-v1"))
    env.save(str(folder / "cartpole.pkl"))
    (folder / "text.zip").write_text("no archive")
    (folder / "text.pkl").write_text("no pickle")
    shutil.make_archive(str(folder / "archive"), "zip", folder, "text.pkl")
    return folder


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.zip", "--env", "CartPole-v1"], "no file"),
        ([".", "--env", "CartPole-v1"], "is a folder"),
        (["text.zip", "--env", "CartPole-v1"], "is no model"),
        (["archive.zip", "--env", "CartPole-v1"], "is no model"),
        (["dqn.zip", "--env", "CartPole-v1"], "another algorithm"),
        (["trpo.zip", "--env", "CartPole-v1"], "another algorithm"),
        (["recurrent.zip", "--env", "CartPole-v1"], "lstm"),
        (["ppo.zip", "--env", "CartPole-v9"], "did you mean CartPole-v1?"),
        (["ppo.zip", "--env", "Qqqqqqqq-v0"], "--gym-packages"),
        (["ppo.zip", "--env", "Broken-v0"], "cannot make Broken-v0"),
        (["ppo.zip", "--env", "Pendulum-v1"], "Pendulum-v1 is not the environment of"),
        (["ppo.zip", "--env", "CartPole-v1", "--gym-packages", "no_such_module"], "no_such_module"),
        (["ppo.zip", "--env", "CartPole-v1", "--steps", "100"], "--steps must be at least 256"),
        (["ppo.zip", "--env", "CartPole-v1", "--steps", "nan"], "--steps must be at least 256"),
        (["ppo.zip", "--env", "CartPole-v1", "--stats", "missing.pkl"], "no file"),
        (["ppo.zip", "--env", "CartPole-v1", "--stats", "text.pkl"], "no VecNormalize statistics"),
        (["ppo.zip", "--env", "CartPole-v1", "--device", "abacus"], "abacus"),
        (["ppo.zip", "--env", "CartPole-v1", "--output", "text.pkl"], "cannot write to --output"),
    ],
)
def test_mistakes(
    arguments: list[str], message: str, models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(models)
    before = set(models.iterdir())
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r"error: .+\n", error), error
    assert message in error
    assert set(models.iterdir()) == before


def test_statistics_of_another_environment(models: Path, capsys: pytest.CaptureFixture[str]):
    assert main([str(models / "ppo"), "--env", "Pendulum-v1", "--stats", str(models / "cartpole.pkl")]) == 2
    assert "cartpole.pkl holds no VecNormalize statistics of this environment" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["ppo.zip"], ["ppo.zip", "--env", "CartPole-v1", "--algo", "dqn"]])
def test_mistakes_in_syntax(arguments: list[str]):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)


@pytest.mark.skipif(not GUIDE.is_file(), reason="the guide is not in the sdist")
def test_guide():
    """Its script runs, in short form; its commands are those of the command line."""
    (script,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    namespace: dict[str, Any] = {}
    exec(script.replace("1e5", "64").replace('"runs"', "None"), namespace)
    assert namespace["model"].num_timesteps >= 64
    commands = re.findall(r"^python -m sb3_forward\.inspect (.*)$", GUIDE.read_text(), re.MULTILINE)
    assert commands
    for command in commands:
        assert parse(shlex.split(command)).env == "CartPole-v1"


def test_help_has_examples(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit, match="0"):
        main(["-h"])
    assert "examples:" in capsys.readouterr().out
