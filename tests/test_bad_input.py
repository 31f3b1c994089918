"""Bad input gets an error that says what to change, and destroys nothing."""

import copy
import io
import math
from typing import Any

import numpy as np
import pytest
import torch as th

from sb3_forward import ForwardA2C, ForwardPPO
from sb3_forward.heads.gradients import HeadOutputs, Slopes
from sb3_forward.heads.training import CachedRollout, HeadTraining
from sb3_forward.local.finite import all_finite
from tests.envs import ALGORITHMS, DEVICES, small_model

NAN, INF = float("nan"), float("inf")
OUT_OF_RANGE: dict[str, list[Any]] = {
    "local_loss": ["cosine", ""],
    "disparity": ["euclidean"],
    "hidden_training": ["bp", "Local"],
    "guidance_coef": [-0.1, 1.5, NAN, INF, np.float32(2), 10**400],
    "local_learning_rate": [
        0.0,
        -1e-3,
        INF,
        NAN,
        1e39,
        np.float64(0),
        "cos_0.1",
        "fast",
        "lin_0",
        "lin_inf",
        lambda progress: 0.0,
    ],
    "local_interval": [0, -1, 4096.0, NAN, np.int64(0)],
    "local_batch_size": [2, 64.0, -64, np.float32(64)],
    "local_memory": [-1, 64.0, np.float32(64)],
    "local_epochs": [0, 1.0, INF],
    "head_learning_rate_scale": [0.0, -1, INF, NAN, 10**400],
}
ARRAY = np.array([0.5, 0.5])
OF_ANOTHER_TYPE: dict[str, list[Any]] = {
    "local_loss": [None, ["strain"], 1, {"strain"}],
    "disparity": [None, ["gaussian"], True],
    "hidden_training": [None, False, ("local",)],
    "guidance_coef": ["0.5", None, True, [0.5], 0.5j, ARRAY, th.ones(2)],
    "local_learning_rate": [None, True, [1e-3], {"lr": 1e-3}, ARRAY, lambda: 1e-3, lambda progress: None, print],
    "local_interval": ["4096", None, True, [4096], ARRAY],
    "local_batch_size": ["64", None, True, np.bool_(True), ARRAY],
    "local_memory": ["64", None, True, np.bool_(True), ARRAY],
    "local_epochs": ["1", None, False, np.timedelta64(1)],
    "head_learning_rate_scale": ["3", None, True, [3.0], ARRAY],
    "whiten_heads": ["no", "False", None, 0, 1, 1.0, [], np.int64(1), ARRAY],
}


def cases(values: dict[str, list[Any]]) -> list[Any]:
    return [pytest.param(name, value, id=f"{name}={value!r:.20}") for name, given in values.items() for value in given]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(("name", "value"), cases(OUT_OF_RANGE))
def test_parameters_out_of_range(algorithm: Any, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^`{name}` must be .*, got .*\\({type(value).__name__}\\)"):
        small_model(algorithm, **{name: value})


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(("name", "value"), cases(OF_ANOTHER_TYPE))
def test_parameters_of_another_type(algorithm: Any, name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"^`{name}` must be .*, got .*\\({type(value).__name__}\\)"):
        small_model(algorithm, **{name: value})


@pytest.mark.parametrize(
    ("value", "error"),
    [(-1, ValueError), (INF, ValueError), (1e39, ValueError), ("x", TypeError), (None, TypeError), (True, TypeError)],
)
def test_bias_init(value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"^`bias_init` must be .*: 0 starts the biases at zero as SB3 does\.$"):
        small_model(ForwardPPO, policy_kwargs={"bias_init": value})


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.array, th.tensor])
def test_numbers_of_numpy_and_pytorch(kind: Any) -> None:
    """Also without a dimension; the model keeps Python's, so that its file needs neither."""
    floats = {"guidance_coef": 0.25, "head_learning_rate_scale": 0.5}
    model = small_model(ForwardPPO, local_learning_rate=kind(0.125), **{name: kind(value) for name, value in floats.items()})
    assert {name: getattr(model, name) for name in floats} == floats
    assert all(type(getattr(model, name)) is float for name in floats)
    assert model.local_lr_schedule(1.0) == 0.125
    whole = np.int16 if kind in (np.float32, np.float64) else kind
    sizes = {"local_interval": 40, "local_epochs": 2, "local_batch_size": 5}
    model = small_model(ForwardPPO, whiten_heads=np.bool_(False), **{name: whole(value) for name, value in sizes.items()})
    assert {name: getattr(model, name) for name in sizes} == sizes
    assert all(type(getattr(model, name)) is int for name in sizes)
    assert model.whiten_heads is False


def test_a_schedule_that_fails_says_how() -> None:
    def schedule(progress: float) -> float:
        raise RuntimeError("no more")

    with pytest.raises(TypeError, match=r"^`local_learning_rate` .*called with 1\.0, it raised RuntimeError\('no more'\)"):
        small_model(ForwardPPO, local_learning_rate=schedule)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(
    ("name", "value", "error"),
    [("guidance_coef", "0.5", TypeError), ("local_interval", 0, ValueError), ("whiten_heads", 1, TypeError)],
)
def test_parameters_are_checked_when_a_model_is_loaded(algorithm: Any, name: str, value: Any, error: type[Exception]) -> None:
    model = small_model(algorithm)
    file = io.BytesIO()
    model.save(file)
    file.seek(0)
    with pytest.raises(error, match=f"^`{name}` must be "):
        algorithm.load(file, custom_objects={name: value})


@pytest.mark.parametrize("value", [1e-3, "0.001", "lin_0.001", lambda progress: 1e-3 * progress])
def test_local_learning_rate_forms(value: Any) -> None:
    assert small_model(ForwardPPO, local_learning_rate=value).local_lr_schedule(1.0) == pytest.approx(1e-3)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_unknown_parameter(algorithm: Any) -> None:
    with pytest.raises(TypeError, match=rf"^{algorithm.__name__}\.__init__\(\) got an unexpected keyword argument 'local_lr'"):
        small_model(algorithm, local_lr=1e-3)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("guidance_coef", [0.0, 0.5])
@pytest.mark.parametrize("device", DEVICES)
def test_non_finite_weights_of_a_block(algorithm: Any, guidance_coef: float, device: str) -> None:
    model = small_model(algorithm, guidance_coef=guidance_coef, device=device)
    model.learn(16)
    model.policy.mlp_extractor.value_net[2].weight.data[0, 0] = np.nan
    before = {name: value.clone() for name, value in model.policy.state_dict().items() if not name.startswith("mlp_extractor")}
    with pytest.raises(ValueError, match=r"value_net\.2\.weight.* is not finite"):
        model.train()
    for name, value in before.items():
        assert th.equal(value, model.policy.state_dict()[name]), name
    assert all(value.isfinite().all() for name, value in model.policy.state_dict().items() if "value_net.2.weight" not in name)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(("guidance_coef", "place"), [(0.0, "fit of the heads"), (0.5, "guidance signal")])
def test_non_finite_returns(algorithm: Any, guidance_coef: float, place: str) -> None:
    model = small_model(algorithm, guidance_coef=guidance_coef)
    model.learn(16)
    model.rollout_buffer.returns[:] = math.nan
    with pytest.raises(ValueError, match=place):
        model.train()
    assert all(parameter.isfinite().all() for parameter in model.policy.parameters())


def test_non_finite_advantages_do_not_wait_for_a_hidden_phase() -> None:
    model = small_model(ForwardA2C, local_interval=48)
    model.learn(16)
    model.rollout_buffer.advantages[0] = math.nan
    with pytest.raises(ValueError, match="guidance signal"):
        model.train()
    assert model.history.waiting_rows == 16


@pytest.mark.parametrize(
    ("values", "finite"),
    [([3e38, 3e38], True), ([], True), ([1.0, math.nan], False), ([math.inf, 1.0], False), ([math.inf, -math.inf], False)],
)
def test_all_finite(values: list[float], finite: bool) -> None:
    """Large numbers, too, the sum of which overflows."""
    assert all_finite(th.tensor(values)) == finite


@pytest.mark.parametrize("closed_form", [True, False])
def test_non_finite_gradient_moves_no_head(closed_form: bool) -> None:
    model = small_model(ForwardPPO)
    model.learn(16)
    heads = model.heads
    heads.closed_form = closed_form
    before = [parameter.clone() for parameter in heads.parameters]
    state = copy.deepcopy([heads.optimizer.state.get(parameter, {}) for parameter in heads.parameters])
    latent = th.randn(8, 64)
    rollout = CachedRollout(latent, latent, th.zeros(8, dtype=th.long), *[th.zeros(8)] * 4)

    def endless(batch: CachedRollout, outputs: HeadOutputs) -> Slopes:
        return Slopes(th.full((8,), math.inf), 0.0)

    with pytest.raises(ValueError, match="gradient norms of"), HeadTraining(heads, rollout, None) as training:
        training.step(training.rollout, endless, 0.5)
    for old, new in zip(before, heads.parameters, strict=True):
        assert th.equal(old, new)
    for parameter, values in zip(heads.parameters, state, strict=True):
        found = heads.optimizer.state.get(parameter, {})
        assert found.keys() == values.keys()
        assert all(th.equal(value, found[key]) for key, value in values.items())
