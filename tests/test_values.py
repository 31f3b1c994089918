"""The fit of the values: to the returns of a rollout, or of a window of short ones."""

import io
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from sb3_forward import ForwardA2C, ForwardPPO, on_policy
from sb3_forward.heads.heads import Heads
from sb3_forward.heads.regression import ReturnMoments, follow_from_rewards, gram_matrix, return_moments
from sb3_forward.heads.training import CachedRollout
from sb3_forward.rollouts import history
from sb3_forward.rollouts.history import History, Transitions
from sb3_forward.rollouts.recorder import Truncation
from tests.envs import ALGORITHMS, OBSERVATIONS, RandomEnv, small_model
from tests.updates import weights_of


class Counting(gym.Env):
    """Four states in a circle, a reward of one for each step, no end."""

    observation_space = gym.spaces.Discrete(4)
    action_space = gym.spaces.Discrete(2)
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


def spy_on_fits(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Features, the weights of the head, the moments that it is fitted by, on what it is held, and how often it is fitted."""
    calls: list[Any] = []
    fit_values = Heads.fit_values

    def spy(self: Heads, features: th.Tensor, moments: Any, *args: Any) -> None:
        weights = weights_of(self.policy.value_net)
        calls.append((features, weights, moments(weights), *args))
        fit_values(self, features, moments, *args)

    monkeypatch.setattr(Heads, "fit_values", spy)
    return calls


# === Returns ===


def with_intercept(features: th.Tensor) -> th.Tensor:
    return th.nn.functional.pad(features, (0, 1), value=1.0)


def test_moments_of_one_episode() -> None:
    """Worked by hand: three steps, the last of which ends the episode, with gamma and lambda one half."""
    features, rewards = th.tensor([[[1.0]], [[2.0]], [[4.0]]]), np.array([[1.0], [10.0], [100.0]])
    following = th.tensor([[[1.0, 0.5]], [[2.0, 0.5]], [[0.0, 0.0]]])
    moments = return_moments(features, following, rewards, np.array([[0.5], [0.5], [0.0]], np.float32), 0.5)
    # With values of zero the returns are 100, 10 + 100 / 4 and 1 + (10 + 100 / 4) / 4
    returns = [1 + 35 / 4, 35.0, 100.0]
    assert moments(th.zeros(2, 1)).flatten().tolist() == [returns[0] + 2 * returns[1] + 4 * returns[2], sum(returns)]
    # With values of 2, 4 and 8 they are 100, 10 + (8 + 100) / 4 and 1 + (4 + 37) / 4, by half the value and half the return
    errors = [1 + 41 / 4 - 2, 37.0 - 4, 100.0 - 8]
    assert moments(th.tensor([[2.0], [0.0]])).flatten().tolist() == [errors[0] + 2 * errors[1] + 4 * errors[2], sum(errors)]


@pytest.mark.parametrize("gae_lambda", [0.0, 0.9, 1.0])
@pytest.mark.parametrize(("limit", "n_steps"), [(5, 16), (100, 16), (5, 15), (100, 14)])
def test_returns_of_a_window_of_one_rollout_are_those_of_sb3(
    gae_lambda: float, limit: int, n_steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    With episodes that end, are truncated, and go on after the rollout, or end or are truncated with it, whatever callbacks
    ask.
    """
    monkeypatch.setattr(on_policy, "FIT_ROWS", 1)
    calls = spy_on_fits(monkeypatch)
    env = make_vec_env(lambda: gym.wrappers.TimeLimit(RandomEnv(), limit), n_envs=3, seed=1)
    model = ForwardA2C("MlpPolicy", env, n_steps=n_steps, gae_lambda=gae_lambda, gamma=0.9, seed=1, device="cpu")
    for rollout in range(4):
        model.history.forget_returns()  # else earlier rollouts are in the window
        model.learn(3 * n_steps, Curious(), reset_num_timesteps=False)
        features, weights, moments, *_ = calls[rollout]
        inputs, returns = with_intercept(features), th.as_tensor(model.rollout_buffer.returns).flatten()[:, None]
        np.testing.assert_allclose((inputs @ weights).flatten(), model.rollout_buffer.values.flatten(), rtol=1e-4, atol=1e-5)
        th.testing.assert_close(moments, inputs.T @ (returns - inputs @ weights), rtol=1e-3, atol=1e-3)
        # The rollout is as it was
        assert model._end[2] is not None
        assert follow_from_rewards(model.rollout_buffer, model._end[2], model._end[1])


class Steps:
    """Twelve random steps of two environments: episodes that are truncated, and that terminate."""

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        self.features = th.rand(2, 12, 3)
        self.rewards, self.starts, self.observations = random.random((12, 2)), np.zeros((13, 2)), random.random((13, 2, 3))
        self.starts[0, 0] = self.starts[3, 0] = self.starts[6, 1] = self.starts[9, 1] = self.starts[12, 1] = 1
        self.truncations = [Truncation(step, env, random.random(3)) for step, env in ((2, 0), (8, 1))]

    def add(self, store: History, first: int, end: int) -> None:
        """Take a rollout of some of them in."""
        part, ends = self.features[:, first:end].flatten(end_dim=1), (self.starts[end], self.observations[end])
        truncations = [own._replace(step=own.step - first) for own in self.truncations if first <= own.step < end]
        steps = Transitions(self.rewards[first:end], self.starts[first:end], *ends, truncations)
        rows = CachedRollout(-part, part, *[part[:, 0]] * 5)  # the other columns are not read
        store.add(lambda index: th.zeros(len(index), 1), rows, steps, 100)

    @staticmethod
    def moments(store: History, gae_lambda: float) -> th.Tensor:
        """Of a window; the features of its ends are their observations."""
        ends = th.cat([th.as_tensor(own).view(-1, 3) for own in store.ends]).float()
        return store.window(ends, 0.9, gae_lambda)[1](th.arange(4.0)[:, None])


@pytest.mark.parametrize("gae_lambda", [0.0, 0.9, 1.0])
def test_two_short_rollouts_are_as_one_long(gae_lambda: float) -> None:
    """Returns reach from one into the other, until an episode ends."""
    steps, whole, parts = Steps(), History(), History()
    steps.add(whole, 0, 12)
    for bounds in ((0, 5), (5, 12)):
        steps.add(parts, *bounds)
    th.testing.assert_close(steps.moments(parts, gae_lambda), steps.moments(whole, gae_lambda))


@pytest.mark.parametrize("gae_lambda", [0.0, 0.9, 1.0])
@pytest.mark.parametrize("end", [5, 6])
def test_no_return_reaches_over_the_end_of_a_window(gae_lambda: float, end: int) -> None:
    """Where environments go on from elsewhere, a window is as two of them."""
    steps, both, apart = Steps(), History(), (History(), History())
    for store, bounds in zip(apart, ((0, end), (end, 12)), strict=True):
        both.close_window()
        steps.add(both, *bounds)
        steps.add(store, *bounds)
    expected = sum(steps.moments(store, gae_lambda) for store in apart)
    th.testing.assert_close(steps.moments(both, gae_lambda), expected)


@pytest.mark.parametrize("between", ["reset", "steps", ""])
def test_a_window_is_closed_where_environments_go_on_from_elsewhere(between: str) -> None:
    """They are reset, or a callback stops a rollout that has begun."""
    model = ForwardA2C("MlpPolicy", Counting(), n_steps=16, device="cpu").learn(16)
    if between == "steps":
        model.learn(16, lambda *_: model.num_timesteps < 20, reset_num_timesteps=False)
    model.learn(16, reset_num_timesteps=between == "reset")
    steps = model.history.recent[0][1]
    assert (len(steps.truncations), steps.next_starts.tolist()) == (int(between != ""), [between != ""])


def test_other_environments_have_a_window_of_their_own() -> None:
    buffer = io.BytesIO()
    small_model(ForwardA2C).learn(48).save(buffer)
    model: Any = ForwardA2C.load(buffer, env=make_vec_env(RandomEnv, 2), device="cpu")
    assert [rewards.shape for rewards in rewards_of(model)] == [(16, 1)] * 3
    model.learn(64)
    assert [rewards.shape for rewards in rewards_of(model)] == [(16, 2)] * 2


def rewards_of(model: Any) -> list[np.ndarray]:
    """In the window."""
    return [steps.rewards for _, steps in model.history.recent]


def test_last_observations_come_in_any_order() -> None:
    """Those of truncated episodes are given as the environment made them, while spaces sort their keys."""

    class Backwards(RandomEnv):
        def step(self, action: Any) -> Any:
            observation, *rest = super().step(action)
            return dict(reversed(observation.items())), *rest

    def fitted(env: type[RandomEnv]) -> th.Tensor:
        made = gym.wrappers.TimeLimit(env(OBSERVATIONS["MultiInputPolicy"]), 5)
        model = ForwardA2C("MultiInputPolicy", made, n_steps=16, seed=1, device="cpu").learn(64)
        return weights_of(model.policy.value_net)

    assert th.equal(fitted(Backwards), fitted(RandomEnv))


def test_last_observations_are_read_in_one_pass() -> None:
    model = small_model(ForwardA2C).learn(16)
    ends = [np.full((2, 4), 0.1, np.float32), *np.eye(4, dtype=np.float32)[:3]]
    one_by_one = th.cat([model.reader.end_features([end]) for end in ends])
    batches: list[int] = []
    layer = model.policy.mlp_extractor.value_net[0]
    handle = layer.register_forward_hook(lambda module, inputs, outputs: batches.append(len(outputs)))
    together = model.reader.end_features(ends)
    handle.remove()
    assert batches == [5]
    th.testing.assert_close(together, one_by_one)


# === Fit ===


@pytest.mark.parametrize("sampled", [0, 30])
def test_fit_is_a_ridge_regression(sampled: int) -> None:
    """From the weights that the head has, to the returns on the rows and to its own values on the sample."""
    model = small_model(ForwardPPO)
    features, returns, past = th.rand(40, 64), th.rand(40), th.rand(sampled, 64)
    before = weights_of(model.policy.value_net)
    moments = with_intercept(features).T @ (returns[:, None] - with_intercept(features) @ before)
    model.heads.fit_values(features, lambda _: moments, (gram_matrix(past) if sampled else None, sampled))
    inputs, held = (with_intercept(rows).double() for rows in (features, past))
    gram = inputs.T @ inputs + held.T @ held
    gram.diagonal().add_((1e-3 + 1 / (40 + sampled)) * gram.diagonal().mean())
    step = th.linalg.solve(gram, inputs.T @ (returns[:, None] - inputs @ before.double()))
    th.testing.assert_close(weights_of(model.policy.value_net), (before + step).float(), rtol=5e-3, atol=1e-3)


@pytest.mark.parametrize(("size", "regressions"), [(-1, 3), (20, 1)])
def test_regressions_one_after_the_other(size: float, regressions: int) -> None:
    """Each of them from the values of the one before; but one alone where returns of values of returns only grow."""
    model = small_model(ForwardPPO, policy_kwargs={"net_arch": [4]})
    features = th.rand(40, 4)
    moments, weights = ReturnMoments(size * th.rand(5, 5), 20 * th.rand(5, 1)), []
    start = {name: value.clone() for name, value in model.policy.value_net.state_dict().items()}
    for iterations in ([3], [1] * regressions):
        model.policy.value_net.load_state_dict(start)
        for number in iterations:
            model.heads.fit_values(features, moments, iterations=number)
        weights.append(weights_of(model.policy.value_net))
    th.testing.assert_close(*weights, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("n_steps", [16, 256])
def test_values_are_held_on_the_sample(n_steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_policy, "FIT_ROWS", 1)
    calls = spy_on_fits(monkeypatch)
    small_model(ForwardA2C, n_steps=n_steps, local_epochs=1).learn(3 * n_steps)
    assert [held[1] for _, _, _, held, *_ in calls] == [0, n_steps, 2 * n_steps]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_values_are_fitted_once_enough_rows_have_come(algorithm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rollouts of 16 rows, the head is fitted to three of them at once, and as often; a saved model goes on counting."""
    monkeypatch.setattr(on_policy, "FIT_ROWS", 48)
    calls = spy_on_fits(monkeypatch)
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
    assert [iterations for *_, iterations in calls] == [3, 3]


@pytest.mark.parametrize("hidden_training", ["local", "frozen"])
def test_window_reaches_back_so_many_rows(hidden_training: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On rows that have left it, the values are held until they are in the sample."""
    monkeypatch.setattr(history, "WINDOW_ROWS", 48)
    monkeypatch.setattr(on_policy, "FIT_ROWS", 1)
    calls = spy_on_fits(monkeypatch)
    model = small_model(ForwardA2C, n_steps=16, local_interval=4096, hidden_training=hidden_training).learn(16 * 5)

    def gram(rollouts: int, sample: bool) -> th.Tensor:
        """Of the critic's features on so many of the rollouts that wait, the first ones, and on the sample."""
        observations = [rollout.observations for rollout in model.history.waiting[:rollouts]]
        observations += [model.history.observations] if sample else []
        return gram_matrix(model.network.latents(th.cat(observations))[1].detach())

    assert [len(features) for features, *_ in calls] == [16, 32, 48, 48, 48]
    th.testing.assert_close(calls[-1][3][0], gram(2, False))
    assert model.history.held()[1] == 32
    model.local_interval = 1
    model.learn(16, reset_num_timesteps=False)
    assert calls[-1][3][1] == 48  # the values are fitted before the phase
    assert model.history.held()[1] == len(model.history.sample) == 96
    th.testing.assert_close(model.history.held()[0], gram(0, True))
    model.local_interval = 4096
    model.learn(16 * 5, reset_num_timesteps=False)
    # Three more have left that were in the sample, and two that were not
    assert calls[-1][3][1] == model.history.held()[1] == 96 + 32
    th.testing.assert_close(calls[-1][3][0], gram(2, True))
    model.history.forget_returns()
    assert model.history.held()[1] == 96 + 80


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(("n_steps", "rollouts"), [(16, 2), (256, 0)])
def test_only_short_rollouts_are_in_the_window(algorithm: Any, n_steps: int, rollouts: int) -> None:
    """A long one is enough by itself."""
    model = small_model(algorithm, n_steps=n_steps, local_interval=4096).learn(2 * n_steps)
    assert len(model.history.recent) == rollouts


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("interval", [1, 48])
def test_features_of_the_window_are_those_of_the_layers_as_they_are(algorithm: Any, interval: int) -> None:
    """Also of rollouts that were in a hidden phase before the last one."""
    model = small_model(algorithm, n_steps=16, local_interval=interval, local_learning_rate=0.03).learn(16 * 6)
    assert len(model.history.recent) == 6
    for rollout, _ in model.history.recent:
        with th.no_grad():
            latents = model.network.latents(rollout.observations)
        th.testing.assert_close(rollout.cached.latents, latents)


def test_returns_of_another_kind_count_as_they_are() -> None:

    class Shifted(RolloutBuffer):
        def compute_returns_and_advantage(self, last_values: th.Tensor, dones: np.ndarray) -> None:
            super().compute_returns_and_advantage(last_values, dones)
            self.returns = self.returns + 1

    model = small_model(ForwardA2C, rollout_buffer_class=Shifted, local_interval=2048).learn(64)
    assert model.history.recent == []


@pytest.mark.parametrize(("clip_range_vf", "rollouts"), [(None, 4), (0.2, 0)])
def test_values_that_are_clipped_are_not_drawn_by_older_returns(clip_range_vf: float | None, rollouts: int) -> None:
    model = small_model(ForwardPPO, clip_range_vf=clip_range_vf, local_interval=4096).learn(64)
    assert len(model.history.recent) == rollouts


def test_a_window_that_cannot_be_fitted_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_policy, "FIT_ROWS", 1)
    model = small_model(ForwardA2C, local_interval=4096).learn(32)
    rollout, steps = model.history.recent[-1]
    model.history.recent[-1] = rollout, steps._replace(rewards=np.full_like(steps.rewards, 3e38))
    before = weights_of(model.policy.value_net)
    with pytest.raises(ValueError, match="`value_net` were left as they were"):
        model.learn(16, reset_num_timesteps=False)
    assert (model.history.recent, model.history.new_rows) == ([], 0)
    assert th.equal(weights_of(model.policy.value_net), before)
    model.learn(16, reset_num_timesteps=False)
    assert weights_of(model.policy.value_net).isfinite().all()


# === Far values ===


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_values_of_an_endless_episode(algorithm: Any) -> None:
    """Rollouts of five steps find a far value, 1 / (1 - gamma), although episodes are truncated."""
    kwargs = {"batch_size": 5, "n_epochs": 1} if algorithm is ForwardPPO else {}
    env = gym.wrappers.TimeLimit(Counting(), 8)
    model = algorithm("MlpPolicy", env, gamma=0.98, n_steps=5, seed=1, device="cpu", **kwargs)
    model.learn(1000 if algorithm is ForwardPPO else 500)
    observation = model.policy.obs_to_tensor(np.array(0))[0]
    assert model.policy.predict_values(observation).item() == pytest.approx(50, abs=1)


def test_environments_that_are_reset_end_no_episode() -> None:
    """The step before a reset is bootstrapped, as under SB3; the value of an endless episode stays."""
    model = ForwardA2C("MlpPolicy", Counting(), gamma=0.98, gae_lambda=1.0, n_steps=6, seed=1, device="cpu")
    for _ in range(150):
        model.learn(6)
    observation = model.policy.obs_to_tensor(np.array(0))[0]
    assert model.policy.predict_values(observation).item() == pytest.approx(50, abs=1)
