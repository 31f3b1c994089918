"""Nothing happens in silence: what the blocks are, a run in which no hidden layer has moved, observations out of scale."""

import io
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_forward import ForwardPPO
from tests.envs import ALGORITHMS, OBSERVATIONS, RandomEnv, hidden_state, small_kwargs, small_model

NOT_MOVED = "No hidden layer has moved yet"
UNNORMALISED = "look unnormalised"


def warned(model: Any, steps: int = 16, said: str = NOT_MOVED) -> bool:
    """Whether the model says so in a run of these steps."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.learn(steps, reset_num_timesteps=False)
    return any(said in str(warning.message) for warning in caught)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_run_in_which_nothing_moved_says_so(algorithm: Any) -> None:
    model = small_model(algorithm, local_interval=100)
    before = hidden_state(model)
    with pytest.warns(UserWarning, match=rf"{NOT_MOVED}: 32 rows wait .* every 100 rows.*`local_interval`") as caught:
        model.learn(32)
    assert all(th.equal(value, before[name]) for name, value in hidden_state(model).items())
    # At the line of the user, not at one of ours
    assert {Path(warning.filename) for warning in caught} == {Path(__file__)}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_waiting_rows_are_logged(algorithm: Any) -> None:
    model = small_model(algorithm, local_interval=40)
    logged = []
    for _ in range(4):
        model.learn(16, reset_num_timesteps=False)
        logged.append(model.logger.name_to_value["train/waiting_rows"])
    assert logged == [16, 32, 0, 16]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_it_is_said_no_more_once_a_layer_has_moved(algorithm: Any) -> None:
    model = small_model(algorithm, local_interval=32)
    before = hidden_state(model)
    assert warned(model)
    assert not warned(model)
    assert not all(th.equal(value, before[name]) for name, value in hidden_state(model).items())
    assert not warned(model)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("moved", [True, False])
def test_a_loaded_model_knows_whether_a_layer_has_moved(algorithm: Any, moved: bool) -> None:
    model = small_model(algorithm, local_interval=1 if moved else 100)
    assert warned(model) is not moved
    file = io.BytesIO()
    model.save(file)
    file.seek(0)
    loaded = algorithm.load(file, env=model.env, device="cpu", custom_objects={"local_interval": 100})
    assert warned(loaded) is not moved


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(
    "changes", [{"hidden_training": "frozen"}, {"hidden_training": "backprop"}, {"policy_kwargs": {"net_arch": []}}]
)
def test_nothing_is_said_where_nothing_is_to_move(algorithm: Any, changes: dict[str, Any]) -> None:
    assert not warned(small_model(algorithm, local_interval=100, **changes))


def test_nothing_is_said_of_a_run_that_trained_nothing() -> None:
    assert not warned(small_model(ALGORITHMS[0], local_interval=100), steps=0)


def test_rollouts_of_a_row_wait_until_they_have_distances() -> None:
    """Two rows have a single distance: on these, nothing would ever move."""
    model = small_model(ALGORITHMS[0], n_steps=1)
    before = hidden_state(model)
    assert warned(model, 2)
    assert not warned(model, 1)
    assert not all(th.equal(value, before[name]) for name, value in hidden_state(model).items())


# === Observations out of scale ===

LARGE = np.array([1, 1, 200, 1], dtype=np.float32)
LARGE_THIRD = spaces.Box(-LARGE, LARGE)


def model_on(space: spaces.Space, algorithm: Any = ForwardPPO, policy: str = "MlpPolicy", **kwargs: Any) -> Any:
    return algorithm(policy, RandomEnv(space), **{**small_kwargs(algorithm), **kwargs})


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_observations_that_look_unnormalised_are_named_once(algorithm: Any) -> None:
    model = model_on(LARGE_THIRD, algorithm)
    with pytest.warns(UserWarning, match=r"^Observations look unnormalised: entry 2 .* of 1\d\d\. .*VecNormalize") as caught:
        model.learn(16)
    assert {Path(warning.filename) for warning in caught} == {Path(__file__)}
    assert not warned(model, said=UNNORMALISED)


def test_they_are_named_by_their_key() -> None:
    space = spaces.Dict({"vector": spaces.Box(-1, 1, (2,)), "far": spaces.Box(90, 110, (2, 2))})
    model = model_on(space, policy="MultiInputPolicy")
    with pytest.warns(UserWarning, match=r"^Observations 'far' look unnormalised: entry \d, \d"):
        model.learn(16)


def test_bytes_that_sb3_does_not_divide_are_large() -> None:
    assert warned(model_on(spaces.Box(0, 255, (8,), np.uint8)), said=UNNORMALISED)


def test_nothing_is_said_of_normalised_observations() -> None:
    env = VecNormalize(DummyVecEnv([lambda: RandomEnv(LARGE_THIRD)]))
    assert not warned(ForwardPPO("MlpPolicy", env, **small_kwargs(ForwardPPO)), said=UNNORMALISED)


def test_nothing_is_said_of_them_under_backpropagation() -> None:
    assert not warned(model_on(LARGE_THIRD, hidden_training="backprop"), said=UNNORMALISED)


@pytest.mark.parametrize("policy", OBSERVATIONS)
def test_nothing_is_said_of_images_and_choices(policy: str) -> None:
    assert not warned(small_model(ForwardPPO, policy), said=UNNORMALISED)
    assert not warned(model_on(spaces.Discrete(500)), said=UNNORMALISED)


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1", "Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0"])
def test_nothing_is_said_of_the_classic_environments(env: str) -> None:
    model = ForwardPPO("MlpPolicy", gym.make(env), n_steps=512, batch_size=512, n_epochs=1, seed=0, device="cpu")
    assert not warned(model, 512, UNNORMALISED)


# === Blocks ===


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_block_has_a_line(algorithm: Any, capsys: pytest.CaptureFixture[str]) -> None:
    kwargs = {"net_arch": {"pi": [8, 6], "vf": [5]}, "activation_fn": th.nn.ReLU, "optimizer_class": th.optim.SGD}
    small_model(algorithm, verbose=1, policy_kwargs=kwargs)
    lines = [line for line in capsys.readouterr().out.splitlines() if "Linear" in line]
    layer = "Linear(in_features={}, out_features={}, bias=True), ReLU()"
    assert lines == [
        f"actor.0 (actor, SGD): {layer.format(4, 8)}",
        f"actor.1 (actor, SGD): {layer.format(8, 6)}",
        f"critic (critic, SGD): {layer.format(4, 5)}",
    ]


@pytest.mark.parametrize("changes", [{"verbose": 0}, {"hidden_training": "frozen"}, {"hidden_training": "backprop"}])
def test_no_block_has_a_line(changes: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    small_model(ALGORITHMS[0], **{"verbose": 1, **changes})
    assert "Linear" not in capsys.readouterr().out
