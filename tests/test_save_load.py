import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import set_random_seed
from torch import nn

from sb3_forward import ForwardA2C, ForwardPPO
from tests.envs import ACTIONS, ALGORITHMS, OBSERVATIONS, RandomEnv, needs_gpu, small_kwargs, small_model


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {name: leaf for key, item in value.items() for name, leaf in leaves(item, f"{path}/{key}").items()}
    if isinstance(value, list | tuple):
        return leaves(dict(enumerate(value)), path)
    return {path: value}


def assert_equal(first: Any, second: Any) -> None:
    first, second = leaves(first), leaves(second)
    assert first.keys() == second.keys()
    for name, value in first.items():
        if isinstance(value, th.Tensor):
            assert th.equal(value, second[name]), name
        else:
            assert value == second[name], name


def distance(first: Any, second: Any) -> float:
    """Of the parameters of two policies, in units of what the second ones are."""
    a, b = (nn.utils.parameters_to_vector(model.policy.parameters()).detach() for model in (first, second))
    return ((a - b).norm() / b.norm()).item()


def assert_goes_on_equally(first: Any, second: Any) -> None:
    """
    But for rounding, after a rollout: features computed with other rows beside them differ in the last digit, on some
    processors, and sooner or later an action that is drawn is another one. See below for what is lost without the saved state.
    """
    assert distance(first, second) < 1e-4
    states = [model.get_parameters()["policy.optimizer"] for model in (first, second)]
    assert states[0]["state"].keys() == states[1]["state"].keys()
    assert [sorted(group) for group in states[0]["param_groups"]] == [sorted(group) for group in states[1]["param_groups"]]


def go_on(model: Any, steps: int) -> None:
    """Continue a run whose end both sides agree on, from the same state of the random generators and the environment."""
    set_random_seed(1)
    model.env.seed(1)
    model._last_obs = None
    model.learn(steps, reset_num_timesteps=False)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("policy", ["MlpPolicy", "CnnPolicy", "MultiInputPolicy"])
@pytest.mark.parametrize("actions", [*ACTIONS, "gSDE"])
def test_resumed_run_equals_uninterrupted_run(tmp_path: Path, algorithm: Any, policy: str, actions: str) -> None:
    """Policy, the state of every optimizer, and schedules."""
    kwargs: dict[str, Any] = {"local_learning_rate": "lin_0.01", "guidance_coef": 0.3, "local_loss": "strain"}
    if actions == "gSDE":
        actions = "Box"
        kwargs["use_sde"] = True
    model = small_model(algorithm, policy, actions, **kwargs)
    model.learn(32)
    model.save(tmp_path / "model")
    resumed = algorithm.load(tmp_path / "model", env=model.env, device="cpu")
    assert_equal(resumed.get_parameters(), model.get_parameters())
    assert model.get_parameters()["policy.optimizer"]["state"]
    for running in (model, resumed):
        go_on(running, 16)
    assert_goes_on_equally(resumed, model)
    assert resumed.num_timesteps == model.num_timesteps == 48
    assert resumed._n_updates == model._n_updates
    assert resumed.logger.name_to_value["train/local_learning_rate"] == model.logger.name_to_value["train/local_learning_rate"]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_rows_that_wait_for_a_local_phase_are_saved(tmp_path: Path, algorithm: Any) -> None:
    model = small_model(algorithm, local_interval=48).learn(32)
    start = model.get_parameters()["policy"]["mlp_extractor.policy_net.0.weight"].clone()
    model.save(tmp_path / "model")
    resumed = algorithm.load(tmp_path / "model", env=model.env, device="cpu")
    for running in (model, resumed):
        go_on(running, 32)
    assert_equal(resumed.get_parameters(), model.get_parameters())
    assert not th.equal(model.get_parameters()["policy"]["mlp_extractor.policy_net.0.weight"], start)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_optimizer_state_matters(tmp_path: Path, algorithm: Any) -> None:
    """The checks above can fail: without the saved optimizer state, the resumed run differs, and by more than rounding."""
    model = small_model(algorithm)
    model.learn(32)
    model.save(tmp_path / "model")
    resumed = algorithm.load(tmp_path / "model", env=model.env, device="cpu")
    resumed.policy.optimizer.state.clear()
    for running in (model, resumed):
        go_on(running, 16)
    assert distance(resumed, model) > 1e-3


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_same_seed_same_weights(algorithm: Any) -> None:
    first, second = (small_model(algorithm, guidance_coef=0.5).learn(48) for _ in range(2))
    assert_equal(first.get_parameters(), second.get_parameters())
    other = small_model(algorithm, seed=1, guidance_coef=0.5).learn(48)
    assert not th.equal(first.policy.value_net.weight, other.policy.value_net.weight)


@pytest.mark.parametrize(("algorithm", "stock"), [(ForwardA2C, A2C), (ForwardPPO, PPO)])
@pytest.mark.parametrize("policy", ["MlpPolicy", "CnnPolicy", "MultiInputPolicy"])
@pytest.mark.parametrize("exact_match", [False, True])
def test_parameters_pass_to_sb3_and_back(
    tmp_path: Path, algorithm: Any, stock: type[BaseAlgorithm], policy: str, exact_match: bool
) -> None:
    ours = small_model(algorithm, policy)
    stock_kwargs = {key: value for key, value in small_kwargs(algorithm).items() if not key.startswith("local")}
    theirs: Any = stock(policy, ours.get_env(), policy_kwargs=ours.policy_kwargs, **{**stock_kwargs, "seed": 3})
    observation = OBSERVATIONS[policy].sample()
    for source, destination in ((theirs, ours), (ours, theirs)):
        source.learn(32)
        source.save(tmp_path / "source")
        destination.set_parameters(tmp_path / "source.zip", exact_match=exact_match)
        assert_equal(destination.policy.state_dict(), source.policy.state_dict())
        np.testing.assert_array_equal(
            destination.predict(observation, deterministic=True)[0], source.predict(observation, deterministic=True)[0]
        )
        # ... and training goes on
        destination.learn(16)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_parameters_go_to_the_device_of_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, algorithm: Any) -> None:
    """SB3 would read them onto the best device that there is."""
    source = small_model(algorithm).learn(32)
    source.save(tmp_path / "source")
    monkeypatch.setattr(th.cuda, "is_available", lambda: True)
    destination = small_model(algorithm)
    destination.set_parameters(tmp_path / "source.zip")
    assert_equal(destination.get_parameters(), source.get_parameters())


@needs_gpu
@pytest.mark.parametrize("devices", [("cpu", "cuda"), ("cuda", "cpu")])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_parameters_pass_between_devices(algorithm: Any, devices: tuple[str, str]) -> None:
    source, destination = (small_model(algorithm, device=device) for device in devices)
    destination.set_parameters(source.learn(48).get_parameters())
    observation = RandomEnv().observation_space.sample()
    np.testing.assert_allclose(
        destination.predict(observation, deterministic=True)[0], source.predict(observation, deterministic=True)[0], 1e-3, 1e-5
    )
    # ... and training goes on
    destination.learn(48)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_schedule_that_ends_below_zero(tmp_path: Path, algorithm: Any) -> None:
    """The last rollout ends past the last step, where a linear schedule without a floor is negative."""
    model = small_model(algorithm, learning_rate=lambda progress: 1e-3 * progress, local_learning_rate="lin_0.001")
    model.learn(20)
    assert model._current_progress_remaining < 0
    assert model.heads.optimizer.param_groups[0]["lr"] == 0
    assert all(block.optimizer.param_groups[0]["lr"] == 0 for block in model.network.blocks)
    model.save(tmp_path / "model")
    algorithm.load(tmp_path / "model", env=model.env, device="cpu").learn(16)


def test_stock_zip_trains_forward(tmp_path: Path) -> None:
    stock = PPO("MlpPolicy", RandomEnv(), n_steps=16, batch_size=8, n_epochs=1, device="cpu").learn(16)
    stock.save(tmp_path / "stock")
    model = ForwardPPO.load(tmp_path / "stock", env=stock.get_env(), device="cpu", local_batch_size=8, local_interval=16)
    assert type(model.policy) is ActorCriticPolicy
    before = model.network.blocks[0].parameters[0].clone()
    model.learn(16)
    assert not th.equal(before, model.network.blocks[0].parameters[0])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_parameters_can_change_on_load(algorithm: Any) -> None:
    """As the Zoo does when it continues a run, or only watches."""
    buffer = io.BytesIO()
    model = small_model(algorithm, local_learning_rate=0.5)
    model.learn(16)
    model.save(buffer)
    buffer.seek(0)
    loaded = algorithm.load(
        buffer, env=model.env, device="cpu", custom_objects={"learning_rate": 0.0}, local_learning_rate="lin_0.25"
    )
    assert loaded.local_lr_schedule(0.5) == 0.125
    assert loaded.lr_schedule(1.0) == 0.0
    loaded.learn(16)
    buffer.seek(0)
    with pytest.raises(ValueError, match="local_loss"):
        algorithm.load(buffer, env=model.env, local_loss="cosine")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_backprop_continues_forward_and_back(tmp_path: Path, algorithm: Any) -> None:
    model = small_model(algorithm)
    for hidden_training in ("backprop", "local", "frozen"):
        model.learn(16)
        model.save(tmp_path / "model")
        model = algorithm.load(tmp_path / "model", env=model.env, device="cpu", hidden_training=hidden_training)
    model.learn(16)
    assert model.hidden_training == "frozen"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_one_optimizer_per_block(algorithm: Any) -> None:
    model = small_model(algorithm, "CnnPolicy")
    optimizers = [block.optimizer for block in model.network.blocks] + [model.heads.optimizer]
    assert len(set(map(id, optimizers))) == len(model.network.blocks) + 1
    assert {type(optimizer) for optimizer in optimizers} == {type(model.policy.optimizer)}
    owned = [parameter for optimizer in optimizers for group in optimizer.param_groups for parameter in group["params"]]
    assert len(owned) == len(set(owned))
    assert set(owned) == set(model.policy.parameters())
    model.learn(16)
    # After training, every parameter has its moments in the one state that is saved; the values are fitted, without any
    assert set(model.policy.optimizer.state) == set(owned) - set(model.policy.value_net.parameters())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("refit", [True, False])
def test_files_from_when_the_refit_was_an_option(algorithm: Any, refit: bool) -> None:
    model = small_model(algorithm).learn(16)
    model.refit_heads = refit
    buffer = io.BytesIO()
    model.save(buffer)
    buffer.seek(0)
    resumed = algorithm.load(buffer, env=model.env, device="cpu")
    for running in (model, resumed):
        go_on(running, 32)
    assert_equal(resumed.get_parameters(), model.get_parameters())
