"""Rollout buffers of the user's own: what they hand out is what is learned from, as under SB3."""

from typing import Any

import pytest
import torch as th
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.env_util import make_vec_env

from sb3_forward import ForwardA2C
from tests.envs import ALGORITHMS, RandomEnv, small_model


class Same(RolloutBuffer):
    """Hands out what SB3's buffer does."""

    def _get_samples(self, batch_inds: Any, env: Any = None) -> Any:
        return super()._get_samples(batch_inds, env)


class SameDict(DictRolloutBuffer):
    def _get_samples(self, batch_inds: Any, env: Any = None) -> Any:
        return super()._get_samples(batch_inds, env)


class Nothing(RolloutBuffer):
    """Takes advantages and returns to zero."""

    def _get_samples(self, batch_inds: Any, env: Any = None) -> Any:
        samples = super()._get_samples(batch_inds, env)
        return samples._replace(advantages=0 * samples.advantages, returns=0 * samples.returns)


class Half(RolloutBuffer):
    """Hands out every second row alone."""

    def get(self, batch_size: int | None = None) -> Any:
        for samples in super().get(batch_size):
            self.handed_out = type(samples)(*(column[::2] for column in samples))
            yield self.handed_out


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_is_handed_out_is_learned_from(algorithm: Any) -> None:
    model = small_model(
        algorithm, rollout_buffer_class=Nothing, normalize_advantage=False, ent_coef=0.0, n_steps=300, hidden_training="frozen"
    )
    before = model.policy.action_net.weight.clone()
    model.policy.value_net.bias.data.fill_(5.0)
    model.learn(900)
    assert th.equal(before, model.policy.action_net.weight)
    assert abs(model.rollout_buffer.values).mean() < 0.1


@pytest.mark.parametrize("policy", ["MlpPolicy", "MultiInputPolicy"])
def test_a_buffer_that_changes_nothing(policy: str) -> None:
    """But the order of the rows, which A2C's action head does not see."""
    weights = []
    for own in (False, True):
        buffer = (SameDict if policy == "MultiInputPolicy" else Same) if own else None
        model = small_model(ForwardA2C, policy, rollout_buffer_class=buffer, n_steps=300, hidden_training="frozen").learn(300)
        weights.append(model.policy.action_net.weight)
    th.testing.assert_close(*weights, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_buffer_that_leaves_rows_out(algorithm: Any) -> None:
    model = small_model(algorithm, rollout_buffer_class=Half, n_steps=32, local_interval=32).learn(64)
    assert len(model.history.sample) == 32
    assert model.history.waiting_rows == 0
    assert model.learn(32, reset_num_timesteps=False).history.waiting_rows == 16
    assert th.equal(model.history.waiting[0].observations, model.rollout_buffer.handed_out.observations)


@pytest.mark.parametrize("buffer", [Same, Half])
@pytest.mark.parametrize("n_envs", [1, 2])
def test_rows_in_an_order_of_their_own_are_in_no_window(buffer: Any, n_envs: int) -> None:
    model = ForwardA2C("MlpPolicy", make_vec_env(RandomEnv, n_envs), n_steps=32, rollout_buffer_class=buffer, device="cpu")
    assert model.learn(320).history.recent == []
