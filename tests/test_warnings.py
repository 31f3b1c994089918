"""Nothing happens in silence: a run in which no hidden layer has moved says so."""

import io
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch as th

from tests.envs import ALGORITHMS, hidden_state, small_model

NOT_MOVED = "No hidden layer has moved yet"


def warned(model: Any, steps: int = 16) -> bool:
    """Whether the model says so at the end of these steps."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.learn(steps, reset_num_timesteps=False)
    return any(str(warning.message).startswith(NOT_MOVED) for warning in caught)


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
