"""Bad input gets an error that says what to change, and destroys nothing."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch as th

from sb3_forward import ForwardA2C, ForwardPPO
from sb3_forward.closed_form import HeadOutputs, Slopes
from sb3_forward.finite import all_finite
from sb3_forward.heads import CachedRollout
from tests.envs import ALGORITHMS, DEVICES, small_model


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("local_loss", "cosine"),
        ("disparity", "euclidean"),
        ("hidden_training", "bp"),
        ("guidance_coef", -0.1),
        ("guidance_coef", 1.5),
        ("guidance_coef", float("nan")),
        ("local_learning_rate", 0.0),
        ("local_learning_rate", -1e-3),
        ("local_learning_rate", "cos_0.1"),
        ("local_learning_rate", "fast"),
        ("local_learning_rate", "lin_0"),
        ("local_batch_size", 2),
        ("local_batch_size", 64.0),
        ("local_batch_size", -64),
        ("local_epochs", 0),
        ("local_epochs", 1.0),
        ("local_learning_rate", float("inf")),
        ("head_learning_rate_scale", 0.0),
        ("head_learning_rate_scale", float("inf")),
    ],
)
def test_parameters_out_of_range(algorithm: Any, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must"):
        small_model(algorithm, **{name: value})


@pytest.mark.parametrize("value", [1e-3, "0.001", "lin_0.001", lambda progress: 1e-3 * progress])
def test_local_learning_rate_forms(value: Any) -> None:
    assert small_model(ForwardPPO, local_learning_rate=value).local_lr_schedule(1.0) == pytest.approx(1e-3)


def test_unknown_parameter() -> None:
    with pytest.raises(TypeError, match="local_lr"):
        small_model(ForwardA2C, local_lr=1e-3)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("guidance_coef", [0.0, 0.5])
@pytest.mark.parametrize("device", DEVICES)
def test_non_finite_weights_of_a_block(algorithm: Any, guidance_coef: float, device: str) -> None:
    model = small_model(algorithm, guidance_coef=guidance_coef, device=device)
    model.learn(16)
    model.network.critic.blocks[1].parameters[0].data[0, 0] = np.nan
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

    with pytest.raises(ValueError, match="gradient norms of"), heads.training(rollout) as whitened:
        heads.step(whitened, endless, 0.5)
    for old, new in zip(before, heads.parameters, strict=True):
        assert th.equal(old, new)
    for parameter, values in zip(heads.parameters, state, strict=True):
        found = heads.optimizer.state.get(parameter, {})
        assert found.keys() == values.keys()
        assert all(th.equal(value, found[key]) for key, value in values.items())
