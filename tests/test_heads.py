"""The heads' loss: its slopes, and their gradients in closed form, against automatic differentiation."""

import copy
import math
from typing import Any

import pytest
import torch as th
from torch import nn
from torch.nn import functional as F

from sb3_forward import ForwardA2C, ForwardPolicy, ForwardPPO
from sb3_forward.heads.gradients import HeadOutputs
from sb3_forward.heads.guidance import actor_guidance
from sb3_forward.heads.training import CachedRollout, HeadTraining
from sb3_forward.ppo import Surrogate
from tests.envs import ALGORITHMS, small_model

ROWS = 32


def outputs_and_rollout(seed: int) -> tuple[th.Tensor, th.Tensor, th.Tensor, CachedRollout]:
    """Values, log-probabilities and entropies as leaves of a graph, and a rollout that they move away from."""
    th.manual_seed(seed)
    values, log_prob, entropy = (th.randn(ROWS, requires_grad=True) for _ in range(3))
    old_log_prob = log_prob.detach() + 0.4 * th.randn(ROWS)
    old_values = values.detach() + 0.4 * th.randn(ROWS)
    latent = th.randn(ROWS, 4)
    rest = th.zeros(ROWS), old_values, old_log_prob, th.randn(ROWS), th.randn(ROWS)
    return values, log_prob, entropy, CachedRollout(latent, latent, *rest)


@pytest.mark.parametrize("clip_range_vf", [None, 0.2])
@pytest.mark.parametrize("ent_coef", [0.0, 0.1])
@pytest.mark.parametrize("closed_entropy", [True, False])
def test_slopes_of_ppo(clip_range_vf: float | None, ent_coef: float, closed_entropy: bool) -> None:
    """Those of SB3's loss."""
    values, log_prob, entropy, batch = outputs_and_rollout(1)
    ratio = th.exp(log_prob - batch.old_log_prob)
    policy_loss = -th.min(batch.advantages * ratio, batch.advantages * th.clamp(ratio, 0.8, 1.2)).mean()
    predicted = values
    if clip_range_vf is not None:
        predicted = batch.old_values + th.clamp(values - batch.old_values, -clip_range_vf, clip_range_vf)
    entropy_loss = -entropy.mean() if closed_entropy else log_prob.mean()
    loss = policy_loss + ent_coef * entropy_loss + 0.7 * F.mse_loss(batch.returns, predicted)
    wanted = th.autograd.grad(loss, [values, log_prob, entropy], allow_unused=True)

    surrogate = Surrogate(0.2, clip_range_vf, ent_coef, 0.7, target_kl=None)
    said = HeadOutputs(log_prob.detach(), entropy.detach() if closed_entropy else -log_prob.detach(), values.detach())
    slopes = surrogate(batch, said)
    assert slopes is not None
    assert slopes.values is not None
    th.testing.assert_close(slopes.values, wanted[0])
    # Without a closed form, the entropy is minus the log-probability, and its slope goes on to it
    th.testing.assert_close(slopes.log_prob if closed_entropy else slopes.log_prob - slopes.entropy, wanted[1])
    if closed_entropy:
        th.testing.assert_close(th.full((ROWS,), slopes.entropy), wanted[2])
    assert surrogate.means()["loss"] == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize("ent_coef", [0.0, 0.1])
@pytest.mark.parametrize("closed_entropy", [True, False])
def test_slopes_of_a2c(ent_coef: float, closed_entropy: bool) -> None:
    """Those of SB3's loss, and what it logs."""
    values, log_prob, entropy, batch = outputs_and_rollout(4)
    policy_loss = -(batch.advantages * log_prob).mean()
    entropy_loss = -entropy.mean() if closed_entropy else log_prob.mean()
    value_loss = F.mse_loss(batch.returns, values)
    loss = policy_loss + ent_coef * entropy_loss + 0.7 * value_loss
    wanted = th.autograd.grad(loss, [values, log_prob, entropy], allow_unused=True)

    model = small_model(ForwardA2C, ent_coef=ent_coef, vf_coef=0.7).learn(16)
    said = HeadOutputs(log_prob.detach(), entropy.detach() if closed_entropy else -log_prob.detach(), values.detach())
    slopes = model._objective(batch, said)
    th.testing.assert_close(slopes.values, wanted[0])
    th.testing.assert_close(slopes.log_prob if closed_entropy else slopes.log_prob - slopes.entropy, wanted[1])
    if closed_entropy:
        th.testing.assert_close(th.full((ROWS,), slopes.entropy), wanted[2])
    for name, expected in (("policy", policy_loss), ("entropy", entropy_loss), ("value", value_loss)):
        assert model.logger.name_to_value[f"train/{name}_loss"] == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(("factor", "steps"), [(1.4, True), (1.6, False)])
def test_no_step_above_one_and_a_half_of_the_target_kl(factor: float, steps: bool) -> None:
    """As in SB3."""
    _, _, entropy, batch = outputs_and_rollout(5)
    outputs = HeadOutputs(batch.old_log_prob + 0.1, entropy.detach())
    kl = math.exp(0.1) - 1 - 0.1
    surrogate = Surrogate(0.2, None, 0.0, 0.5, target_kl=kl / factor)
    assert (surrogate(batch, outputs) is not None) == steps
    assert surrogate.kl == pytest.approx(kl, rel=1e-4)


def test_fitted_values_have_no_slope() -> None:
    _, log_prob, entropy, batch = outputs_and_rollout(3)
    surrogate = Surrogate(0.2, 0.1, 0.0, 0.5, target_kl=None)
    slopes = surrogate(batch, HeadOutputs(log_prob.detach(), entropy.detach()))
    assert slopes is not None
    assert slopes.values is None
    error = (batch.old_values - batch.returns).square().mean().item()
    assert surrogate.means()["value_loss"] == pytest.approx(error, rel=1e-5)


def test_logged_means_are_over_minibatches() -> None:
    """As SB3's: every minibatch counts the same, also a short one; the approximate KL is that of the last epoch."""
    values, log_prob, entropy, batch = outputs_and_rollout(2)
    surrogate = Surrogate(0.2, None, 0.0, 0.5, target_kl=None)
    parts = [slice(0, 20), slice(20, 32)]
    for _ in range(2):
        surrogate.begin_epoch()
        for rows in parts:
            said = HeadOutputs(log_prob.detach()[rows], entropy.detach()[rows], values.detach()[rows])
            surrogate(batch.rows(rows), said)
    means = surrogate.means()
    log_ratio = (log_prob - batch.old_log_prob).detach()
    ratio = log_ratio.exp()

    def over_parts(rows: th.Tensor) -> float:
        return sum(rows[part].mean().item() for part in parts) / 2

    assert means["approx_kl"] == pytest.approx(over_parts(ratio - 1 - log_ratio), rel=1e-5)
    assert means["clip_fraction"] == pytest.approx(over_parts(((ratio - 1).abs() > 0.2).float()), rel=1e-5)
    assert means["value_loss"] == pytest.approx(over_parts((values.detach() - batch.returns).square()), rel=1e-5)
    assert means["entropy_loss"] == pytest.approx(-over_parts(entropy.detach()), rel=1e-5)


def after_head_phase(model: Any, rollout: CachedRollout) -> dict[str, th.Tensor]:
    """Parameters of the policy after a head phase on this rollout; policy and optimizer are left as they were."""
    heads = model.heads
    start = copy.deepcopy(model.policy.state_dict())
    state = {parameter: copy.deepcopy(heads.optimizer.state[parameter]) for parameter in heads.parameters}
    th.manual_seed(0)
    with HeadTraining(heads, rollout, None) as training:
        model._head_phase(training)
    assert all(parameter.grad is None for parameter in heads.parameters)
    after = copy.deepcopy(model.policy.state_dict())
    model.policy.load_state_dict(start)
    heads.optimizer.state.update(state)
    return after


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("actions", ["Discrete", "Box"])
def test_closed_form_agrees_with_the_policys_distribution(algorithm: Any, actions: str) -> None:
    """A whole head phase, from the same rollout."""
    model = small_model(algorithm, actions=actions, ent_coef=0.01, policy_kwargs={"ortho_init": False})
    assert model.heads.closed_form
    model.learn(16)
    rollout = model.reader.read(model.rollout_buffer, False)[0]
    results = []
    for closed_form in (True, False):
        model.heads.closed_form = closed_form
        results.append(after_head_phase(model, rollout))
    start = model.policy.state_dict()
    for name, value in results[0].items():
        th.testing.assert_close(value, results[1][name], rtol=1e-5, atol=1e-5)
        # What the heads do not own stays
        assert th.equal(value, start[name]) == (not name.startswith(("action_net", "log_std"))), name


@pytest.mark.parametrize("normalize_advantage", [False, True])
def test_advantages_of_a2c_are_normalised_if_asked_to(normalize_advantage: bool) -> None:
    """A shift of all of them moves the policy only where they are not."""
    model = small_model(ForwardA2C, normalize_advantage=normalize_advantage)
    model.learn(16)
    rollout = model.reader.read(model.rollout_buffer, False)[0]
    plain, shifted = (
        after_head_phase(model, rollout._replace(advantages=rollout.advantages + shift))["action_net.weight"]
        for shift in (0.0, 100.0)
    )
    change = (shifted - plain).abs().max()
    assert change < 1e-4 if normalize_advantage else change > 1e-3


@pytest.mark.parametrize("normalize_advantage", [False, True])
def test_a2c_learns_from_a_single_row(normalize_advantage: bool) -> None:
    """Of which there is no deviation."""
    model = small_model(ForwardA2C, normalize_advantage=normalize_advantage)
    model.learn(16)
    rollout = model.reader.read(model.rollout_buffer, False)[0].rows(slice(1))
    up, down = (after_head_phase(model, rollout._replace(advantages=th.tensor([sign]))) for sign in (100.0, -100.0))
    for name in ("action_net.weight", "action_net.bias"):
        assert up[name].isfinite().all()
        assert (up[name] - down[name]).abs().max() > 1e-3


@pytest.mark.parametrize(("algorithm", "rate"), [(ForwardPPO, 8e-3), (ForwardA2C, 1e-3)])
@pytest.mark.parametrize("use_sde", [False, True])
def test_spread_of_actions_has_a_learning_rate_of_its_own(algorithm: Any, rate: float, use_sde: bool) -> None:
    """A2C, whose steps nothing bounds, does not scale it: its policies would narrow before they have found out."""
    settings: dict[str, Any] = (
        {"n_epochs": 1, "batch_size": 16} if algorithm is ForwardPPO else {"n_steps": 16, "use_rms_prop": False}
    )
    model = small_model(
        algorithm, actions="Box", learning_rate=1e-3, head_learning_rate_scale=8.0, use_sde=use_sde, **settings
    )
    before = model.policy.log_std.detach().clone()
    model.learn(16)
    # The first step of Adam is as long as the learning rate
    assert (model.policy.log_std - before).abs().max().item() == pytest.approx(rate, rel=0.01)
    assert [group["lr"] for group in model.heads.optimizer.param_groups] == pytest.approx([8e-3, rate])


def test_a_value_head_that_is_not_linear_follows_the_gradient() -> None:
    class DeepHead(ForwardPolicy):
        def _build(self, lr_schedule: Any) -> None:
            super()._build(lr_schedule)
            self.value_net = nn.Sequential(nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 1))  # type: ignore[assignment]
            self.optimizer = th.optim.Adam(self.parameters(), lr=lr_schedule(1))

    model = small_model(ForwardPPO, DeepHead)
    assert not model.heads.fits_values
    before = copy.deepcopy(model.policy.value_net.state_dict())
    model.learn(16)
    assert all(not th.equal(before[name], value) for name, value in model.policy.value_net.state_dict().items())


@pytest.mark.parametrize("actions", ["Discrete", "Box"])
def test_closed_form_of_actor_guidance(actions: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what automatic differentiation of the policy's own distribution does."""
    policy = small_model(ForwardPPO, actions=actions, policy_kwargs={"log_std_init": -1.0, "ortho_init": False}).policy
    latent, advantages = th.randn(20, 64), th.randn(20)
    with th.no_grad():
        taken = policy._get_action_dist_from_latent(latent).sample()
        closed = actor_guidance(policy, latent, taken, advantages)
    monkeypatch.setattr("sb3_forward.heads.gradients.applies", lambda policy: False)
    th.testing.assert_close(actor_guidance(policy, latent, taken, advantages), closed, rtol=1e-4, atol=1e-5)


def test_improved_logits_of_several_choices() -> None:
    """Each choice has its own: onehot less probabilities."""
    policy = small_model(ForwardPPO, actions="MultiDiscrete", policy_kwargs={"ortho_init": False}).policy
    latent, advantages, taken = th.randn(4, 64), th.randn(4), th.tensor([[0, 2], [1, 0], [1, 1], [0, 0]])
    logits = policy.action_net(latent).detach()
    scores = [
        F.one_hot(taken[:, choice], size) - part.softmax(dim=1)
        for choice, (part, size) in enumerate(zip(logits.split([2, 3], dim=1), (2, 3), strict=True))
    ]
    expected = logits + advantages[:, None] * th.cat(scores, dim=1)
    th.testing.assert_close(actor_guidance(policy, latent, taken, advantages).wanted, expected)


def test_errors_of_the_critic_do_not_shrink_the_step_of_the_actor() -> None:
    """Gradients of the two are clipped apart, also where that of the values is followed."""

    class DeepHead(ForwardPolicy):
        def _build(self, lr_schedule: Any) -> None:
            super()._build(lr_schedule)
            self.value_net = nn.Sequential(nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 1))  # type: ignore[assignment]
            self.optimizer = th.optim.SGD(self.parameters(), lr=lr_schedule(1))

    changes = []
    for vf_coef in (0.5, 500.0):
        kwargs: dict[str, Any] = {
            "vf_coef": vf_coef,
            "hidden_training": "frozen",
            "whiten_heads": False,
            "max_grad_norm": 1e-3,
        }
        model = small_model(ForwardA2C, DeepHead, policy_kwargs={"optimizer_class": th.optim.SGD}, **kwargs)
        before = model.policy.action_net.weight.detach().clone()
        model.learn(16)
        changes.append(model.policy.action_net.weight.detach() - before)
    assert changes[0].abs().max() > 0
    th.testing.assert_close(*changes, rtol=1e-3, atol=1e-10)


@pytest.mark.parametrize("actions", ["MultiDiscrete", "MultiBinary"])
def test_other_distributions_go_through_the_policy(actions: str) -> None:
    assert not small_model(ForwardA2C, actions=actions).heads.closed_form


def test_gsde_and_own_distributions_go_through_the_policy() -> None:
    assert not small_model(ForwardPPO, actions="Box", use_sde=True).heads.closed_form

    class OwnPolicy(ForwardPolicy):
        def _get_action_dist_from_latent(self, latent_pi: th.Tensor) -> Any:
            return super()._get_action_dist_from_latent(0.5 * latent_pi)

    assert not small_model(ForwardPPO, OwnPolicy).heads.closed_form


@pytest.mark.parametrize("actions", ["Discrete", "MultiDiscrete"])
def test_heads_come_back_from_whitened_coordinates_after_an_error(actions: str) -> None:
    model = small_model(ForwardPPO, actions=actions)
    model.learn(16)
    before = [parameter.clone() for parameter in model.heads.parameters]
    with pytest.raises(KeyboardInterrupt), HeadTraining(model.heads, model.reader.read(model.rollout_buffer, False)[0], None):
        raise KeyboardInterrupt
    assert all(th.equal(old, new) for old, new in zip(before, model.heads.parameters, strict=True))
    assert not model.policy.action_net._forward_pre_hooks
