"""How an update is put together: the order of its phases, and what each of them is given."""

import math
from itertools import groupby
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from torch import nn

from sb3_forward import ForwardA2C, ForwardPPO, on_policy
from sb3_forward.heads.gradients import HeadOutputs, Slopes
from sb3_forward.heads.heads import Heads
from sb3_forward.heads.training import CachedRollout, HeadTraining
from sb3_forward.heads.whitening import Basis
from sb3_forward.local.blocks import Block
from sb3_forward.rollouts import history
from tests.envs import ALGORITHMS, hidden_state, small_model
from tests.updates import watched_update


def observations_of(model: Any) -> th.Tensor:
    """Those of the rollout, environment by environment."""
    return th.as_tensor(model.rollout_buffer.swap_and_flatten(model.rollout_buffer.observations))


SGD = {"optimizer_class": th.optim.SGD, "ortho_init": False}


def spy(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, seen: list[Any]) -> None:
    """Add the arguments of every call of a method, and what it returned, to a list."""
    method = getattr(owner, name)

    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = method(self, *args, **kwargs)
        seen.append((name, args, result))
        return result

    monkeypatch.setattr(owner, name, watched)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_order_of_the_phases(algorithm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values; action head; hidden layers, block by block from the bottom up; the heads are held: once per rollout."""
    monkeypatch.setattr(on_policy, "FIT_ROWS", 1)
    seen: list[Any] = []
    spy(monkeypatch, Heads, "fit_values", seen)
    spy(monkeypatch, HeadTraining, "step", seen)
    spy(monkeypatch, Block, "local_step", seen)
    spy(monkeypatch, Heads, "refit", seen)
    small_model(algorithm).learn(32)
    assert [name for name, _ in groupby(seen, key=lambda call: call[0])] == ["fit_values", "step", "local_step", "refit"] * 2
    assert [name for name, _, _ in seen].count("refit") == 2


# === Steps of hidden layers ===


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_steps_of_blocks_are_clipped_one_by_one(algorithm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With SGD at a rate of one, a step is as long as the gradient: ``max_grad_norm`` at most."""
    model = small_model(
        algorithm,
        max_grad_norm=1e-3,
        local_batch_size=16,
        local_epochs=1,
        local_learning_rate=1.0,
        policy_kwargs=SGD | {"net_arch": [8, 8]},
    )
    before = hidden_state(model)
    update = watched_update(model, monkeypatch)
    after = hidden_state(model)
    assert len(update.steps) == len(model.network.blocks) == 4
    for step in update.steps:
        assert step.result.grad_norm > 1e-3
        changes = [(after[key] - before[key]).norm() for key in before if key.startswith(f"{step.block.name}/")]
        assert math.hypot(*changes) == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_is_logged_of_the_local_phase(algorithm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Means over minibatches, then over blocks; gradients before they are clipped; the learning rate of that rollout."""
    model = small_model(algorithm, local_epochs=2, max_grad_norm=1e-2, local_learning_rate=lambda left: 0.01 + 0.02 * left)
    before = hidden_state(model)
    update = watched_update(model, monkeypatch)
    after, logged = hidden_state(model), model.logger.name_to_value
    losses: dict[str, list[float]] = {}
    for step in update.steps:
        losses.setdefault(step.block.name, []).append(step.result.loss)
    assert {name: len(values) for name, values in losses.items()} == dict.fromkeys(losses, 4)
    for name, values in losses.items():
        assert logged[f"local/loss/{name}"] == pytest.approx(np.mean(values))
        own = [key for key in before if key.startswith(f"{name}/")]
        change, norm = (
            math.hypot(*(part.norm() for part in parts))
            for parts in ([after[key] - before[key] for key in own], [before[key] for key in own])
        )
        assert logged[f"local/movement/{name}"] == pytest.approx(change / norm, rel=1e-4)
        assert 0 < change < norm
    assert logged["train/local_loss"] == pytest.approx(np.mean([np.mean(values) for values in losses.values()]))
    assert logged["train/local_grad_norm"] == pytest.approx(np.mean([step.result.grad_norm for step in update.steps]))
    assert logged["train/local_learning_rate"] == pytest.approx(0.01 + 0.02 * model._current_progress_remaining, abs=1e-9)


def test_pairs_are_no_minibatch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows match any other two; three do not."""
    for n_steps, sizes in ((10, [8]), (11, [8, 3])):
        update = watched_update(small_model(ForwardA2C, n_steps=n_steps, local_epochs=1), monkeypatch)
        assert [len(step.inputs) for step in update.steps if step.block.name == "actor.0"] == sizes


def test_a_pass_goes_over_all_rows_in_a_new_order(monkeypatch: pytest.MonkeyPatch) -> None:
    update = watched_update(small_model(ForwardPPO, local_epochs=2), monkeypatch)
    inputs = [step.inputs for step in update.steps if step.block.name == "actor.0"]
    first, second = th.cat(inputs[:2]), th.cat(inputs[2:])
    rollout = update.column("observations")
    for order in (first, second):
        assert {tuple(row) for row in order.tolist()} == {tuple(row) for row in rollout.tolist()}
    assert not th.equal(first, second)
    assert not th.equal(first, rollout)


def test_hidden_layers_are_in_training_mode_while_they_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Features that the heads read are made at rest, as in the collection of rollouts."""
    modes: list[tuple[bool, bool]] = []

    class Layer(nn.Linear):
        def forward(self, inputs: th.Tensor) -> th.Tensor:
            modes.append((learning, self.training))
            return super().forward(inputs)

    model = small_model(ForwardPPO)
    layer = model.policy.mlp_extractor.policy_net[0]
    learning = False
    layer.__class__ = Layer
    model._find_blocks()
    modes.clear()
    local_step, head_step = Block.local_step, HeadTraining.step

    def watched(self: Block, *args: Any) -> Any:
        nonlocal learning
        learning = True
        step = local_step(self, *args)
        learning = False
        return step

    def watched_heads(self: HeadTraining, *args: Any) -> bool:
        assert self.heads.policy.training  # as in SB3
        return head_step(self, *args)

    monkeypatch.setattr(Block, "local_step", watched)
    monkeypatch.setattr(HeadTraining, "step", watched_heads)
    model.learn(32)
    assert set(modes) == {(True, True), (False, False)}


# === Steps of the heads ===


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("actions", ["Discrete", "MultiDiscrete"])
def test_steps_of_the_action_head_are_clipped(algorithm: Any, actions: str) -> None:
    kwargs: dict[str, Any] = {"n_epochs": 1, "batch_size": 16} if algorithm is ForwardPPO else {}
    model = small_model(
        algorithm,
        actions=actions,
        hidden_training="frozen",
        whiten_heads=False,
        learning_rate=0.5,
        head_learning_rate_scale=2.0,
        max_grad_norm=1e-3,
        policy_kwargs=SGD,
        **kwargs,
    )
    head = model.policy.action_net
    before = th.cat([head.weight, head.bias[:, None]], dim=1).detach().clone()
    model.learn(16)
    assert (th.cat([head.weight, head.bias[:, None]], dim=1) - before).norm().item() == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize(
    ("actions", "closed_form"), [("Discrete", True), ("Box", True), ("Box", False), ("MultiDiscrete", False)]
)
def test_a_step_in_whitened_coordinates(actions: str, closed_form: bool) -> None:
    """
    Back in plain coordinates, it is the gradient times the inverse of the features' ridged second moments, and means move in
    units of the standard deviation.
    """
    rows = 600
    model = small_model(ForwardPPO, actions=actions, policy_kwargs=SGD | {"net_arch": [5], "log_std_init": -0.5})
    model.heads.set_learning_rates(0.1, 0.0)
    model.heads.closed_form = closed_form
    policy, head = model.policy, model.policy.action_net
    th.manual_seed(0)
    features = th.randn(rows, 5) @ th.randn(5, 5) + 1.0
    with th.no_grad():
        taken = policy._get_action_dist_from_latent(features).sample()
    pulls = th.randn(rows)
    rollout = CachedRollout(features, features, taken, pulls, pulls, pulls, pulls)
    log_prob = policy._get_action_dist_from_latent(features).log_prob(taken)
    slopes = pulls / rows
    weight_grad, bias_grad = th.autograd.grad((slopes * log_prob).sum(), [head.weight, head.bias])
    moments = features.T @ features / rows
    ridged = moments + (0.1 + 1 / rows) * moments.diagonal().mean() * th.eye(5)
    variance = math.exp(-0.5) ** 2 if actions == "Box" else 1.0
    weight = head.weight.detach() - 0.1 * variance * weight_grad @ th.linalg.inv(ridged)
    bias = head.bias.detach() - 0.1 * variance * bias_grad

    def objective(batch: CachedRollout, outputs: HeadOutputs) -> Slopes:
        return Slopes(batch.advantages / len(batch.advantages), 0.0)

    with HeadTraining(model.heads, rollout, None) as training:
        assert training.step(training.rollout, objective, 1e9)
    th.testing.assert_close(head.weight.detach(), weight, rtol=1e-3, atol=1e-5)
    th.testing.assert_close(head.bias.detach(), bias, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("rows", [2, 1000])
def test_few_rows_are_not_blown_up_by_whitened_coordinates(rows: int) -> None:
    """A tenth of the mean variance, and of few rows as much as one of them, is added to every direction."""
    moments = th.diag(th.tensor([4.0, 1.0, 1.0]))
    basis = Basis.of(moments.clone(), rows)
    expected = th.linalg.inv(moments + (0.1 + 1 / rows) * 2 * th.eye(3))
    th.testing.assert_close(basis.whitening @ basis.whitening.T, expected)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_heads_are_whitened_if_asked_to(algorithm: Any) -> None:
    heads = [
        small_model(algorithm, whiten_heads=whiten, hidden_training="frozen").learn(16).policy.action_net.weight
        for whiten in (False, True, True)
    ]
    assert not th.equal(heads[0], heads[1])
    assert th.equal(heads[1], heads[2])


@pytest.mark.parametrize("normalize_advantage", [True, False])
def test_minibatches_of_ppo(normalize_advantage: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row once per epoch, shuffled anew; advantages normalised by those of the minibatch, but not a single one."""
    seen: list[Any] = []
    spy(monkeypatch, HeadTraining, "step", seen)
    with pytest.warns(UserWarning, match="truncated mini-batch"):
        model = small_model(ForwardPPO, n_steps=21, batch_size=10, n_epochs=2, normalize_advantage=normalize_advantage)
    update = watched_update(model, monkeypatch)
    batches = [args[0] for _, args, _ in seen]
    assert [len(batch.returns) for batch in batches] == [10, 10, 1] * 2
    returns, advantages = update.column("returns").flatten(), update.column("advantages").flatten()
    orders = []
    for epoch in (batches[:3], batches[3:]):
        read = th.cat([batch.returns for batch in epoch])
        order = [returns.tolist().index(value) for value in read.tolist()]
        assert sorted(order) == list(range(21))
        orders.append(order)
        for batch in epoch:
            own, order = advantages[order[: len(batch.returns)]], order[len(batch.returns) :]
            if normalize_advantage and len(own) > 1:
                own = (own - own.mean()) / own.std()
            th.testing.assert_close(batch.advantages, own, rtol=1e-4, atol=1e-4)
    assert orders[0] != orders[1]
    assert orders[0] != list(range(21))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_learning_rate_of_the_heads_follows_its_schedule(algorithm: Any) -> None:
    model = small_model(algorithm, learning_rate=lambda progress: 0.01 * progress, head_learning_rate_scale=2.5)
    model.learn(16)
    model._current_progress_remaining = 0.25
    model.train()
    assert [group["lr"] for group in model.heads.optimizer.param_groups] == pytest.approx([2.5 * 0.01 * 0.25])
    assert model.logger.name_to_value["train/learning_rate"] == pytest.approx(0.01 * 0.25)


def test_ranges_of_ppo_follow_their_schedules() -> None:
    """Those of the ratio and of the values; the values are fitted to returns that are no farther than that."""
    model = small_model(
        ForwardPPO,
        clip_range=lambda progress: 0.4 * progress,
        clip_range_vf=lambda progress: 0.2 * progress,
        policy_kwargs={"net_arch": [4]},
        local_interval=4096,
    )
    model.learn(16)
    targets: list[th.Tensor] = []
    model.heads.fit_values = lambda features, moments, held: targets.append(moments(None))
    for progress in (0.5, 0.25):
        model._current_progress_remaining = progress
        model.train()
        assert model.logger.name_to_value["train/clip_range"] == pytest.approx(0.4 * progress)
        assert model.logger.name_to_value["train/clip_range_vf"] == pytest.approx(0.2 * progress)
        returns, values = (
            th.as_tensor(model.rollout_buffer.swap_and_flatten(column)).flatten()
            for column in (model.rollout_buffer.returns, model.rollout_buffer.values)
        )
        expected = values + (returns - values).clamp(-0.2 * progress, 0.2 * progress)
        assert (expected - returns).abs().max() > 0.1
        # The last of the moments is that of the intercept: the sum of what the values lack
        own = model.policy.value_net(model.network.latents(observations_of(model))[1]).flatten()
        assert targets[-1][-1].item() == pytest.approx((expected - own).sum().item(), rel=1e-3)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("vf_coef", [0.0, 0.5])
def test_values_are_fitted_to_the_returns_of_the_rollout(
    algorithm: Any, vf_coef: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ridge regression says, from the weights that the head has; not at all without a coefficient."""
    model = small_model(algorithm, n_steps=256, vf_coef=vf_coef, policy_kwargs={"net_arch": [6]}, local_interval=4096)
    update = watched_update(model, monkeypatch)
    head = update.policy.value_net
    with th.no_grad():
        policy = update.policy
        features = policy.mlp_extractor(policy.extract_features(update.column("observations")))[1]
        inputs = nn.functional.pad(features, (0, 1), value=1.0).double()
        gram = inputs.T @ inputs
        gram += (1e-3 + 1 / 256) * gram.diagonal().mean() * th.eye(7)
        missing = inputs.T @ (update.column("returns") - head(features)).double()
        step = th.linalg.solve(gram, missing).float() if vf_coef else th.zeros(7, 1)
    th.testing.assert_close(model.policy.value_net.weight.detach() - head.weight.detach(), step[:6].T, rtol=1e-3, atol=1e-4)
    th.testing.assert_close(model.policy.value_net.bias.detach() - head.bias.detach(), step[6], rtol=1e-3, atol=1e-4)


def test_features_are_those_of_the_weights_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """A callback may have changed them since the rollout was collected."""

    class Meddler(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_end(self) -> None:
            with th.no_grad():
                self.model.policy.mlp_extractor.value_net[0].weight.mul_(0.5)  # type: ignore[index, union-attr]

    seen: list[Any] = []
    spy(monkeypatch, Heads, "fit_values", seen)
    model = small_model(ForwardPPO, hidden_training="frozen")
    model.learn(16)  # what is recorded is looked at in the first rollout
    model.learn(16, Meddler())
    _, (features, *_), _ = seen[-1]
    with th.no_grad():
        th.testing.assert_close(features, model.network.latents(observations_of(model))[1])


# === Holding the heads ===


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_rows_that_heads_are_refitted_on(algorithm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """All rows of the phase and of the sample; then rows drawn at random go into the sample, for some of its own."""
    monkeypatch.setattr(history, "SAMPLE_ROWS", 24)
    refit = Heads.refit
    held: list[th.Tensor] = []

    def watched(self: Heads, outputs: list[th.Tensor], features: Any, sample: Any) -> Any:
        parts = [features] if sample is None else [features, sample.latents]
        for wanted, output in zip(outputs, self.outputs(*parts), strict=True):
            th.testing.assert_close(wanted, output, rtol=1e-5, atol=1e-5)
        held.append(th.cat([latent_pi for latent_pi, _ in parts]))
        return refit(self, outputs, features, sample)

    monkeypatch.setattr(Heads, "refit", watched)
    # Layers that hardly move: the outputs of each row are those of before, if it is the same row
    model = small_model(algorithm, n_steps=64, local_learning_rate=1e-9, policy_kwargs={"ortho_init": False})

    def places(features: th.Tensor) -> list[int]:
        """Of each row its place among all that have come."""
        with th.no_grad():
            distances = th.cdist(features, model.network.latents(th.cat(observations))[0])
        assert distances.amin(dim=1).max() < 1e-2
        return distances.argmin(dim=1).tolist()

    observations = [watched_update(model, monkeypatch).column("observations")]
    assert places(held[0]) == list(range(64))
    sample = places(model.history.sample.latents[0])
    assert len(set(sample)) == 24
    assert set(sample) != set(range(24))
    observations.append(watched_update(model, monkeypatch).column("observations"))
    # Three rows of the second rollout are taken in for three of the first's
    rows = places(held[1][:64])
    assert rows == list(range(64, 128))
    assert places(held[1][64:]) == sample
    new = places(model.history.sample.latents[0])
    assert len(set(new)) == 24
    changed = [place for place, (old, own) in enumerate(zip(sample, new, strict=True)) if old != own]
    assert len(changed) == 3
    assert changed != [0, 1, 2]
    assert {new[place] for place in changed} < set(rows)
    assert {new[place] for place in changed} != {64, 65, 66}


def test_a_sample_grows_until_it_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last rows come with an exchange of others, so that an eighth is new."""
    monkeypatch.setattr(history, "SAMPLE_ROWS", 40)
    model = small_model(ForwardPPO, n_steps=9)
    sizes = []
    for _ in range(6):
        model.learn(18, reset_num_timesteps=False)
        sizes.append(len(model.history.sample))
        th.testing.assert_close(model.history.sample.latents, model.network.latents(model.history.observations))
    assert sizes == [18, 36, 40, 40, 40, 40]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_features_of_the_sample_are_those_of_the_layers_as_they_are(algorithm: Any) -> None:
    """After each local phase, and after weights were changed from outside."""
    model = small_model(algorithm, local_learning_rate=0.03)
    for _ in range(2):
        model.learn(16, reset_num_timesteps=False)
        with th.no_grad():
            expected = model.network.latents(model.history.observations)
        th.testing.assert_close(model.history.sample.latents, expected)
    with th.no_grad():
        model.policy.mlp_extractor.policy_net[0].weight.mul_(0.5)
    model._prepare()
    with th.no_grad():
        expected = model.network.latents(model.history.observations)
    th.testing.assert_close(model.history.sample.latents, expected)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_weights_that_a_callback_changes_count_for_the_whole_rollout(algorithm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was recorded of the steps before is out of date, also where no hidden layer learns from this rollout."""
    read: list[CachedRollout] = []
    start = HeadTraining.__init__

    def watched(self: HeadTraining, heads: Heads, rollout: CachedRollout, *args: Any) -> None:
        read.append(rollout)
        start(self, heads, rollout, *args)

    monkeypatch.setattr(HeadTraining, "__init__", watched)
    model = small_model(algorithm, hidden_training="frozen")

    def change(_locals: Any, _globals: Any) -> bool:
        if model.num_timesteps == 8:
            with th.no_grad():
                model.policy.mlp_extractor.policy_net[0].weight.mul_(0.5)
        return True

    model.learn(16)  # what is recorded is looked at in the first rollout
    model.learn(16, change)
    observations = th.as_tensor(model.rollout_buffer.swap_and_flatten(model.rollout_buffer.observations))
    with th.no_grad():
        th.testing.assert_close(read[-1].latent_pi, model.network.latents(observations)[0])
    assert model.history.recent == []
