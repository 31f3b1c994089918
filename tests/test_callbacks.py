from pathlib import Path
from typing import Any

import pytest
import torch as th
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.logger import KVWriter, Logger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sb3_forward import ForwardA2C, ForwardPPO, LocalLearningCallback
from sb3_forward.inspect.recording import record
from tests.envs import ALGORITHMS, OBSERVATIONS, RandomEnv, small_model
from tests.test_recording import RestlessExtractor

pytestmark = pytest.mark.slow

FIGURES = ("stress", "strain", "effective_rank", "dead", "saturated")


class Kept(KVWriter):
    """Keeps what SB3 logs."""

    def __init__(self) -> None:
        self.dumps: list[dict[str, Any]] = []

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        self.dumps.append({key: value for key, value in key_values.items() if key.startswith("blocks/")})

    def close(self) -> None: ...


def learn(model: Any, timesteps: int, callback: LocalLearningCallback | None = None, **kwargs: Any) -> list[dict[str, Any]]:
    """The figures of every dump."""
    kept = Kept()
    model.set_logger(Logger(None, [kept]))
    model.learn(timesteps, callback=callback, **kwargs)
    return kept.dumps


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("policy", OBSERVATIONS)
@pytest.mark.parametrize("hidden_training", ["local", "frozen", "backprop"])
def test_training_is_the_same_with_it(algorithm: Any, policy: str, hidden_training: str):
    models = [small_model(algorithm, policy, hidden_training=hidden_training) for _ in range(2)]
    logged = []
    for model, callback in zip(models, (None, LocalLearningCallback(every=1, rows=12)), strict=True):
        model.set_random_seed(0)
        logged = learn(model, 48, callback, log_interval=1)
    states = [model.policy.state_dict() for model in models]
    assert all(th.equal(states[0][name], value) for name, value in states[1].items())
    assert len(logged) == 3
    for block in small_model(algorithm, policy).network.blocks:
        for figure in FIGURES:
            # Only tanh has a range; the layers of images and of their features have ReLU
            assert (f"blocks/{figure}/{block.name}" in logged[-1]) == (figure != "saturated" or block.role != "shared")


@pytest.mark.parametrize("algorithm", [*ALGORITHMS, PPO, A2C])
def test_training_is_the_same_with_a_restless_extractor(algorithm: Any):
    """Dropout, BatchNorm, and random numbers drawn in the forward pass."""
    kwargs = {"policy_kwargs": {"features_extractor_class": RestlessExtractor}, "n_steps": 16, "seed": 0, "device": "cpu"}
    if issubclass(algorithm, PPO):
        kwargs["batch_size"] = 8
    if algorithm in ALGORITHMS:
        kwargs["local_interval"] = 1
    models = [algorithm("MlpPolicy", RandomEnv(), **kwargs) for _ in range(2)]
    for model, callback in zip(models, (None, LocalLearningCallback(every=1)), strict=True):
        model.set_random_seed(0)
        model.learn(48, callback=callback)
    states = [model.policy.state_dict() for model in models]
    assert all(th.equal(states[0][name], value) for name, value in states[1].items())


def test_figures_are_those_of_the_last_rollout():
    """The weights that are read are those that the rollout was collected with: in the first, the initial ones."""
    model = small_model(ForwardPPO, disparity="identity")
    initial = small_model(ForwardPPO)
    observations = []

    def keep(locals_: dict[str, Any], _globals: Any) -> bool:
        observations.append(locals_["obs_tensor"])
        return True

    callback = LocalLearningCallback(rows=16)
    kept = Kept()
    model.set_logger(Logger(None, [kept]))
    model.learn(16, callback=[callback, _function(keep)])
    for recording in record(initial.policy, th.cat(observations)):
        figures = recording.figures("identity")
        for figure in FIGURES:
            # The rows are the same, in another order
            logged = kept.dumps[0][f"blocks/{figure}/{recording.block.name}"]
            assert logged == pytest.approx(figures[figure], rel=1e-4, abs=1e-6)


def _function(function: Any) -> Any:
    from stable_baselines3.common.callbacks import ConvertCallback

    return ConvertCallback(function)


@pytest.mark.parametrize(("every", "log_interval", "expected"), [(None, 2, [2, 4, 6]), (3, 1, [3, 6]), (4, 2, [4])])
def test_every(every: int | None, log_interval: int, expected: list[int]):
    model = small_model(ForwardA2C)
    dumps = learn(model, 6 * 16, LocalLearningCallback(every), log_interval=log_interval)
    assert [(index + 1) * log_interval for index, dump in enumerate(dumps) if dump] == expected


@pytest.mark.parametrize("algorithm", [A2C, ForwardA2C])
def test_small_rollouts_are_looked_at_together(algorithm: Any):
    callback = LocalLearningCallback(rows=20)
    model = algorithm("MlpPolicy", RandomEnv(), n_steps=8, seed=0, device="cpu")
    learn(model, 5 * 8, callback, log_interval=1)
    observations = callback._observations()
    assert isinstance(observations, th.Tensor)
    assert observations.shape == (20, 4)
    assert len(observations.unique(dim=0)) == 20
    # The last rollout is among them as a whole, and no more rollouts are kept than are needed
    newest = th.as_tensor(model.rollout_buffer.observations).reshape(8, 4)
    assert (newest[:, None] == observations[-8:]).all(dim=2).any(dim=1).all()
    assert len(callback._recent) == 3


def test_single_observations():
    model = ForwardA2C("MlpPolicy", RandomEnv(), n_steps=1, seed=0, device="cpu")
    assert learn(model, 3, LocalLearningCallback(), log_interval=1)[-1]["blocks/effective_rank/actor.0"] > 0


def test_no_blocks():
    model = small_model(ForwardPPO, policy_kwargs={"net_arch": []})
    assert learn(model, 16, LocalLearningCallback()) == [{}]


def test_compiled_policy():
    model = small_model(ForwardPPO)
    model.policy = th.compile(model.policy, backend="eager")
    assert "blocks/strain/critic.1" in learn(model, 16, LocalLearningCallback())[-1]


def test_tensorboard(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    model = small_model(ForwardPPO, tensorboard_log=str(tmp_path), verbose=1)
    model.learn(32, callback=LocalLearningCallback())
    (run,) = tmp_path.iterdir()
    events = EventAccumulator(str(run)).Reload()
    for figure in FIGURES:
        assert [event.step for event in events.Scalars(f"blocks/{figure}/actor.0")] == [16, 32]
    assert "blocks" not in capsys.readouterr().out


def test_mistakes():
    with pytest.raises(ValueError, match="`every` must be at least 1"):
        LocalLearningCallback(every=0)
    with pytest.raises(ValueError, match="`rows` must be at least 2"):
        LocalLearningCallback(rows=1)
    with pytest.raises(ValueError, match="DQN has none"):
        DQN("MlpPolicy", "CartPole-v1", device="cpu").learn(8, callback=LocalLearningCallback())
