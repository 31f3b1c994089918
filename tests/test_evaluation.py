"""Least-squares policy evaluation: returns taken apart, and what the value head remembers of short rollouts."""

import io
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from sb3_forward import ForwardA2C, ForwardPPO
from sb3_forward.heads.evaluation import Cut, Memory, Steps, make_steps, solve_ridge, with_level
from sb3_forward.heads.heads import Heads
from tests.envs import ALGORITHMS, RandomEnv, small_model


class Counting(gym.Env):
    """Four states in a circle, a reward of one for each step, no end."""

    observation_space = spaces.Discrete(4)
    action_space = spaces.Discrete(2)
    state = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.state = 0
        return self.state, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        self.state = (self.state + 1) % 4
        return self.state, 1.0, False, False, {}


class Curious(BaseCallback):
    """Asks for values where SB3 does not."""

    def _ask(self, rows: int) -> None:
        observations = th.as_tensor(np.stack([self.training_env.observation_space.sample() for _ in range(rows)]))
        self.model.policy.predict_values(observations)  # type: ignore[operator]

    def _on_step(self) -> bool:
        self._ask(1)
        self._ask(self.training_env.num_envs)
        return True

    def _on_rollout_end(self) -> None:
        self._ask(self.training_env.num_envs)


def weights_of(head: Any) -> th.Tensor:
    return th.cat([head.weight, head.bias[:, None]], dim=1).detach().T


def random_steps(features: th.Tensor) -> Steps:
    rows, width = len(features), features.shape[1] + 1
    following, rewards = 0.5 * th.rand(rows, width), th.rand(rows, 1)
    return Steps(th.rand(rows, width), th.cat([with_level(features) - following, rewards], dim=1), th.rand(1, width))


def spy_on_fits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[th.Tensor, th.Tensor, Steps | None, th.Tensor]]:
    """What the values are fitted to, and the weights from which on."""
    calls: list[Any] = []
    told: list[Steps] = []
    remember_steps, fit_values = Heads.remember_steps, Heads.fit_values

    def spy_on_steps(self: Heads, features: th.Tensor, steps: Steps) -> None:
        told.append(steps)
        remember_steps(self, features, steps)

    def spy(self: Heads, features: th.Tensor, returns: th.Tensor, remembered: bool) -> None:
        calls.append((features, returns, told[-1] if remembered else None, weights_of(self.policy.value_net)))
        fit_values(self, features, returns, remembered)

    monkeypatch.setattr(Heads, "remember_steps", spy_on_steps)
    monkeypatch.setattr(Heads, "fit_values", spy)
    return calls


def fit(heads: Heads, features: th.Tensor, steps: Steps) -> None:
    """A rollout that is remembered."""
    heads.remember_steps(features, steps)
    heads.fit_values(features, th.zeros(len(features)), remembered=True)


@pytest.mark.parametrize("gae_lambda", [0.0, 0.9, 1.0])
@pytest.mark.parametrize(("limit", "n_steps"), [(5, 16), (100, 16), (5, 15), (100, 14)])
def test_returns_taken_apart(gae_lambda: float, limit: int, n_steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    What is missing of a rollout's returns is what SB3 says, with episodes that end, are cut, and go on after the rollout, or
    end or are cut with it, whatever callbacks ask.
    """
    calls = spy_on_fits(monkeypatch)
    env = make_vec_env(lambda: gym.wrappers.TimeLimit(RandomEnv(), limit), n_envs=3, seed=1)
    model = ForwardA2C("MlpPolicy", env, n_steps=n_steps, gae_lambda=gae_lambda, gamma=0.9, seed=1, device="cpu")
    for rollout in range(4):
        model.heads.memory.forget()  # else what went before has a part in it
        model.learn(3 * n_steps, Curious(), reset_num_timesteps=False)
        features, returns, steps, weights = calls[rollout]
        assert steps is not None
        inputs, memory = with_level(features), Memory({})
        memory.add(inputs, steps)
        expected = inputs.T @ (returns[:, None] - inputs @ weights)
        th.testing.assert_close(memory.missing(weights), expected, rtol=1e-3, atol=1e-3)


def test_traces_go_on_from_rollout_to_rollout(monkeypatch: pytest.MonkeyPatch) -> None:
    """In an episode that does so."""
    calls = spy_on_fits(monkeypatch)
    model = ForwardA2C("MlpPolicy", Counting(), n_steps=5, gamma=0.9, gae_lambda=0.8, seed=1, device="cpu").learn(10)
    (_, _, first, _), (features, _, second, _) = calls
    assert first is not None
    assert second is not None
    th.testing.assert_close(second.traces[0], with_level(features)[0] + 0.9 * 0.8 * first.trace[0])
    assert model.heads.memory.trace is second.trace


@pytest.mark.parametrize("gae_lambda", [0.0, 0.9, 1.0])
def test_two_short_rollouts_are_as_one_long(gae_lambda: float) -> None:
    """Traces go on, until an episode ends."""
    features, last, rewards = th.rand(2, 12, 3), th.rand(2, 3), np.random.default_rng(0).random((2, 12))
    starts = np.zeros((2, 13))
    starts[0, 0] = starts[0, 3] = starts[1, 9] = starts[1, 12] = 1
    cut = [Cut(0, 2, th.rand(1, 3))]

    def steps(first: int, end: int, trace: th.Tensor | None) -> Steps:
        after = features[:, end] if end < 12 else last
        parts = features[:, first:end], after, rewards[:, first:end], starts[:, first : end + 1]
        return make_steps(*parts, cut if first == 0 else [], trace, 0.9, gae_lambda)

    whole, halves = Memory({}), Memory({})
    whole.add(with_level(features.flatten(0, 1)), steps(0, 12, None))
    halves.add(with_level(features[:, :6].flatten(0, 1)), steps(0, 6, None))
    halves.add(with_level(features[:, 6:].flatten(0, 1)), steps(6, 12, halves.trace))
    for name in ("gram", "flow"):
        th.testing.assert_close(halves.state[name], whole.state[name])
    th.testing.assert_close(halves.trace, whole.trace)


def test_steps_of_one_episode() -> None:
    """Worked by hand: three steps, the last of which ends the episode, with gamma and lambda one half."""
    features, starts = th.tensor([[[1.0], [2.0], [4.0]]]), np.array([[1, 0, 0, 1]])
    steps = make_steps(features, th.tensor([[8.0]]), np.array([[1.0, 10.0, 100.0]]), starts, [], None, 0.5, 0.5)
    # Features and level; of each step what is left of the one before is a quarter
    assert steps.traces.tolist() == [[1, 1], [2 + 1 / 4, 1 + 1 / 4], [4 + 2 / 4 + 1 / 16, 1 + 1 / 4 + 1 / 16]]
    assert steps.flow.tolist() == [[1 - 2 / 2, 1 - 1 / 2, 1], [2 - 4 / 2, 1 - 1 / 2, 10], [4, 1, 100]]
    assert steps.trace.tolist() == steps.traces[2:].tolist()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_values_of_an_endless_episode(algorithm: Any) -> None:
    """Rollouts of five steps find a far value, although episodes are cut: 1 / (1 - gamma). PPO's layers move after each."""
    kwargs = {"batch_size": 5, "n_epochs": 1} if algorithm is ForwardPPO else {}
    env = gym.wrappers.TimeLimit(Counting(), 8)
    model = algorithm("MlpPolicy", env, gamma=0.98, n_steps=5, seed=1, device="cpu", **kwargs)
    model.learn(1000 if algorithm is ForwardPPO else 500)
    observation = model.policy.obs_to_tensor(np.array(0))[0]
    assert model.policy.predict_values(observation).item() == pytest.approx(50, abs=1)


def test_fit_to_two_rollouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the ridge regression over the rows of both, by their temporal differences of today, the older fading."""
    monkeypatch.setattr(Memory, "ROWS", 120)
    monkeypatch.setattr(Memory, "FIT_ROWS", 40)
    model = small_model(ForwardPPO)
    heads, head = model.heads, model.policy.value_net
    rows = []
    for weight in (2 / 3, 1.0):
        features, before = th.rand(40, 64), weights_of(head)
        steps = random_steps(features)
        fit(heads, features, steps)
        rows.append((weight, with_level(features), steps))
    gram, missing = th.zeros(65, 65), th.zeros(65, 1)
    for weight, inputs, steps in rows:
        gram += weight * inputs.T @ inputs
        missing += weight * steps.traces.T @ (steps.flow[:, -1:] - steps.flow[:, :-1] @ before)
    # The third of the older rows that has faded holds the values where they are
    gram += rows[0][1].T @ rows[0][1] / 3
    gram.diagonal().add_((1e-3 + 1 / 80) * gram.diagonal().mean())
    th.testing.assert_close(weights_of(head), before + th.linalg.solve(gram, missing), rtol=5e-3, atol=1e-2)


def test_rollouts_that_have_waited_have_as_many_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of two fits for both; a rollout that is not to be remembered is fitted at once, and draws on what is."""
    monkeypatch.setattr(Memory, "FIT_ROWS", 30)
    numbers: list[int] = []
    steps = Memory.steps

    def watched(self: Memory, gram: th.Tensor, weights: th.Tensor, ridge: float, number: int) -> th.Tensor:
        numbers.append(number)
        return steps(self, gram, weights, ridge, number)

    monkeypatch.setattr(Memory, "steps", watched)
    heads = small_model(ForwardPPO).heads
    for _ in range(4):
        features = th.rand(16, 64)
        fit(heads, features, random_steps(features))
    assert numbers == [2, 2]


def test_a_rollout_that_is_not_remembered_draws_on_those_that_are() -> None:
    """Ridge regression over the rows of both. No trace goes through it."""
    model = small_model(ForwardPPO)
    heads, head = model.heads, model.policy.value_net
    old, new, returns = th.rand(64, 64), th.rand(64, 64), th.rand(64)
    fit(heads, old, random_steps(old))
    heads.memory.fade = lambda rows: heads.memory.state.pop("trace")
    before, memory = weights_of(head), heads.memory
    inputs = with_level(new)
    gram = memory.gram + inputs.T @ inputs
    gram.diagonal().add_((1e-3 + 1 / 128) * gram.diagonal().mean())
    missing = memory.missing(before) + inputs.T @ (returns[:, None] - inputs @ before)
    heads.fit_values(new, returns)
    th.testing.assert_close(weights_of(head), before + th.linalg.solve(gram, missing), rtol=5e-3, atol=1e-2)


def test_a_trace_ends_where_steps_are_missing() -> None:
    heads = small_model(ForwardPPO).heads
    features = th.rand(64, 64)
    fit(heads, features, random_steps(features))
    assert heads.memory.trace is not None
    heads.fit_values(features, th.zeros(64))
    assert heads.memory.rows > 0
    assert heads.memory.trace is None


def test_rollouts_that_have_waited_have_a_step_each() -> None:
    """Each is towards the returns with the values after the one before."""
    features, weights, gram = th.rand(40, 6), th.randn(7, 1), th.eye(7) * 40
    memory, inputs = Memory({}), with_level(features)
    memory.add(inputs, random_steps(features))
    one_by_one = weights
    for _ in range(3):
        one_by_one = one_by_one + solve_ridge(gram.clone(), memory.missing(one_by_one), 0.1)
    th.testing.assert_close(weights + memory.steps(gram.clone(), weights, 0.1, 3), one_by_one)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_values_are_fitted_once_enough_rows_have_come(algorithm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rollouts of 16 rows, the head is fitted to three of them at once; a saved model goes on counting."""
    monkeypatch.setattr(Memory, "FIT_ROWS", 40)
    model = small_model(algorithm, n_steps=16, local_interval=4096)
    fitted = []
    for _ in range(7):
        before = weights_of(model.policy.value_net)
        model.learn(16, reset_num_timesteps=False)
        fitted.append(not th.equal(before, weights_of(model.policy.value_net)))
        buffer = io.BytesIO()
        model.save(buffer)
        model = algorithm.load(buffer, env=model.get_env())
    assert fitted == [False, False, True, False, False, True, False]


def test_memory_fades_and_ends() -> None:
    memory = Memory({})
    inputs = th.ones(128, 2)
    steps = Steps(inputs, th.ones(128, 3), inputs[:1])
    for _ in range(20):
        memory.fade(128)
        memory.add(inputs, steps)
    assert memory.rows == pytest.approx(256, rel=1e-3)
    assert memory.gram[0, 0].item() == pytest.approx(memory.rows)  # type: ignore[index]
    assert memory.missing(th.tensor([[1.0], [0.0]])).abs().max() < 1e-3
    memory.fade(256)
    assert (memory.rows, memory.held_rows) == (0, pytest.approx(20 * 128))
    memory.release()
    memory.fitted()
    assert memory.state == {}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(("n_steps", "remembered"), [(16, 16 + 16 * (1 - 1 / 16)), (256, 0)])
def test_only_short_rollouts_are_remembered(algorithm: Any, n_steps: int, remembered: float) -> None:
    """A long one is enough by itself. All are held, until the anchors hold the values."""
    model = small_model(algorithm, n_steps=n_steps, local_interval=4096).learn(2 * n_steps)
    memory = model.heads.memory
    assert (memory.rows, memory.rows + memory.held_rows) == pytest.approx((remembered, 2 * n_steps))
    model.pending.interval = 1
    model.learn(n_steps)
    assert model.anchors.rows == 3 * n_steps
    assert memory.held_rows == 0
    assert (memory.rows > 0) == (remembered > 0)


def test_what_is_remembered_goes_over_to_features_that_have_moved() -> None:
    """After a linear map of the features, and of the weights with them, as much is missing as before."""
    memory, before, rotation = Memory({}), th.randn(200, 8), th.linalg.qr(th.randn(8, 8)).Q
    inputs, weights = with_level(before), th.randn(9, 1)
    memory.add(inputs, random_steps(before))
    missing, trace = memory.missing(weights), memory.trace
    assert trace is not None
    after = before @ rotation + 0.1
    memory.carry(before, after)
    th.testing.assert_close(memory.gram, with_level(after).T @ with_level(after), rtol=1e-2, atol=1.0)
    moved = th.cat([rotation.T @ weights[:-1], weights[-1:]])
    moved[-1] -= 0.1 * moved[:-1].sum()
    back = th.eye(9)
    back[:8, :8], back[8, :8] = rotation, 0.1
    th.testing.assert_close(memory.missing(moved), back.T @ missing, rtol=1e-2, atol=2.0)
    assert trace is not None
    th.testing.assert_close(memory.trace, trace @ back, rtol=1e-2, atol=1e-2)


def test_returns_of_another_kind_are_not_remembered() -> None:

    class Shifted(RolloutBuffer):
        def compute_returns_and_advantage(self, last_values: th.Tensor, dones: np.ndarray) -> None:
            super().compute_returns_and_advantage(last_values, dones)
            self.returns = self.returns + 1

    model = small_model(ForwardA2C, rollout_buffer_class=Shifted, local_interval=2048).learn(64)
    assert model.heads.memory.rows == 0


@pytest.mark.parametrize(("clip_range_vf", "remembered"), [(None, True), (0.2, False)])
def test_values_that_are_clipped_are_not_drawn_by_older_returns(clip_range_vf: float | None, remembered: bool) -> None:
    model = small_model(ForwardPPO, clip_range_vf=clip_range_vf, local_interval=4096).learn(64)
    assert (model.heads.memory.rows > 0) == remembered


def test_a_fit_that_fails_is_not_remembered() -> None:
    model = small_model(ForwardPPO)
    heads = model.heads
    features = th.rand(40, 64)
    steps = random_steps(features)
    fit(heads, features, steps)
    before = weights_of(model.policy.value_net)
    with pytest.raises(ValueError, match="`value_net` were left as they were"):
        fit(heads, features, steps._replace(flow=3e38 * steps.flow))
    assert heads.memory.state == {}
    assert th.equal(weights_of(model.policy.value_net), before)
    fit(heads, features, steps)
    assert weights_of(model.policy.value_net).isfinite().all()
