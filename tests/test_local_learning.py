"""What the method promises: each hidden block learns from its own loss alone, and the heads alone see the policy gradient."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.logger import KVWriter, Logger
from torch import nn

from sb3_forward import ForwardA2C, ForwardPPO, on_policy
from sb3_forward.heads import training
from sb3_forward.heads.gradients import HeadOutputs, Slopes
from sb3_forward.heads.guidance import actor_guidance
from sb3_forward.heads.heads import Heads
from sb3_forward.heads.regression import SampleFeatures, basis_of, cross_moments, gram_matrix
from sb3_forward.heads.training import CachedRollout, HeadTraining
from sb3_forward.heads.whitening import Basis
from sb3_forward.local.phase import HiddenPhase
from sb3_forward.local.rows import Latents, pick
from sb3_forward.rollouts import history
from sb3_forward.rollouts.history import History, PhaseRows
from tests.envs import ALGORITHMS, hidden_state, small_kwargs, small_model


def one_update(algorithm: Any, policy: str = "MlpPolicy", actions: str = "Discrete", **kwargs: Any) -> Any:
    return small_model(algorithm, policy, actions, **kwargs).learn(16)


def same(first: dict[str, th.Tensor], second: dict[str, th.Tensor]) -> bool:
    assert first.keys() == second.keys()
    assert first
    return all(th.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("policy", ["MlpPolicy", "CnnPolicy", "MultiInputPolicy"])
def test_hidden_weights_do_not_see_the_policy_gradient(algorithm: Any, policy: str) -> None:
    """What the heads have learned reaches the blocks as guidance alone: nothing of it does without guidance."""
    base = one_update(algorithm, policy, guidance_coef=0.0)
    others = [
        one_update(algorithm, policy, guidance_coef=0.0, vf_coef=5.0),
        one_update(algorithm, policy, guidance_coef=0.0, ent_coef=0.3),
        one_update(algorithm, policy, guidance_coef=0.0, learning_rate=0.1, whiten_heads=False),
    ]
    for other in others:
        assert same(hidden_state(base), hidden_state(other))
    # The last one shows that the heads do move otherwise
    assert not th.equal(base.policy.action_net.weight, others[-1].policy.action_net.weight)
    # A head that has not moved guides as it did, whatever its loss weighs
    still = [one_update(algorithm, policy, learning_rate=0.0, ent_coef=ent_coef) for ent_coef in (0.0, 0.3)]
    assert same(*map(hidden_state, still))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("policy", ["MlpPolicy", "CnnPolicy", "MultiInputPolicy"])
def test_every_block_moves(algorithm: Any, policy: str) -> None:
    model = small_model(algorithm, policy)
    before = hidden_state(model)
    model.learn(16)
    after = hidden_state(model)
    for block in model.network.blocks:
        assert any(not th.equal(before[key], after[key]) for key in before if key.startswith(f"{block.name}/")), block.name


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("closed_form", [True, False])
def test_graphs_stop_at_the_heads(algorithm: Any, closed_form: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the head phase the features carry no graph, and no hidden parameter has or gets a gradient."""
    model = small_model(algorithm, "CnnPolicy")
    assert model.heads.closed_form
    model.heads.closed_form = closed_form
    hidden = {parameter for block in model.network.blocks for parameter in block.parameters}
    steps = []
    step, evaluate = HeadTraining.step, training.evaluate

    def checked_evaluate(heads: Heads, rollout: CachedRollout) -> HeadOutputs:
        outputs = evaluate(heads, rollout)
        reached = set()
        nodes, seen = [outputs.log_prob.grad_fn], set()
        while nodes:
            node = nodes.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            if hasattr(node, "variable"):
                reached.add(node.variable)
            nodes += [parent for parent, _ in node.next_functions]
        assert reached == (set(heads.clip_groups[0]) if th.is_grad_enabled() else set())
        return outputs

    def checked_step(self: HeadTraining, batch: CachedRollout, *args: Any) -> bool:
        assert not batch.latent_pi.requires_grad
        assert not batch.latent_vf.requires_grad
        assert all(parameter.grad is None for parameter in hidden)
        made = step(self, batch, *args)
        assert all(parameter.grad is None for parameter in hidden)
        steps.append(made)
        return made

    monkeypatch.setattr(training, "evaluate", checked_evaluate)
    monkeypatch.setattr(HeadTraining, "step", checked_step)
    model.learn(16)
    assert steps
    assert all(steps)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_memory_holds_one_block_at_a_time(algorithm: Any) -> None:
    """While a block learns, no graph of another block is alive."""
    model = small_model(algorithm, policy_kwargs={"net_arch": [8] * 6})
    alive: list[int] = []
    peak: list[int] = []

    for block in model.network.blocks:
        forward = block.forward

        def counted(inputs: th.Tensor, forward: Any = forward) -> th.Tensor:
            assert not inputs.requires_grad
            outputs = forward(inputs)
            if outputs.grad_fn is not None:
                alive.append(1)
                peak.append(len(alive))
                # The hook's lifetime is that of the graph
                outputs.grad_fn.register_hook(Dropped(alive))
            return outputs

        block.forward = counted
    model.learn(16)
    assert len(peak) >= 12
    assert max(peak) == 1


class Dropped:
    def __init__(self, alive: list[int]) -> None:
        self.alive = alive

    def __call__(self, *args: Any) -> None: ...

    def __del__(self) -> None:
        self.alive.pop()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_frozen_layers_stay_at_their_random_start(algorithm: Any) -> None:
    model = small_model(algorithm, hidden_training="frozen")
    before, head = hidden_state(model), model.policy.action_net.weight.clone()
    model.learn(48)
    assert same(before, hidden_state(model))
    assert not th.equal(head, model.policy.action_net.weight)


@pytest.mark.parametrize(("algorithm", "stock"), [(ForwardA2C, A2C), (ForwardPPO, PPO)])
@pytest.mark.parametrize("actions", ["Discrete", "Box"])
def test_backprop_is_sb3_on_the_same_network(algorithm: Any, stock: Any, actions: str) -> None:
    """Bit for bit, as soon as the biases start as SB3's do."""
    kwargs = {"learning_rate": 1e-3, "policy_kwargs": {"bias_init": 0.0}}
    ours = small_model(algorithm, actions=actions, hidden_training="backprop", **kwargs).learn(48)
    theirs_kwargs = {key: value for key, value in small_kwargs(algorithm).items() if not key.startswith("local")}
    theirs = stock("MlpPolicy", small_model(algorithm, actions=actions).get_env(), learning_rate=1e-3, **theirs_kwargs)
    theirs.learn(48)
    for (name, ours_value), theirs_value in zip(
        ours.policy.state_dict().items(), theirs.policy.state_dict().values(), strict=True
    ):
        assert th.equal(ours_value, theirs_value), name


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("actions", ["Discrete", "Box", "MultiDiscrete", "MultiBinary"])
def test_guidance_reaches_the_hidden_layers(algorithm: Any, actions: str) -> None:
    unguided, guided = (hidden_state(one_update(algorithm, actions=actions, guidance_coef=coef)) for coef in (0.0, 0.5))
    assert not same(unguided, guided)


def test_improved_logits_move_by_onehot_minus_probabilities() -> None:
    model = small_model(ForwardPPO)
    latent, actions, advantages = th.randn(5, 64), th.tensor([0, 1, 2, 0, 1]), th.randn(5)
    logits = model.policy.action_net(latent).detach()
    expected = logits + advantages[:, None] * (nn.functional.one_hot(actions, 3) - th.softmax(logits, dim=1))
    th.testing.assert_close(actor_guidance(model.policy, latent, actions, advantages).wanted, expected)


def test_improved_means_of_a_gaussian_move_along_the_noise() -> None:
    model = small_model(ForwardPPO, actions="Box", policy_kwargs={"log_std_init": -1.0})
    latent, actions, advantages = th.randn(5, 64), th.randn(5, 2), th.randn(5)
    means = model.policy.action_net(latent).detach()
    expected = (means + advantages[:, None] * (actions - means)) / math.exp(-1.0)
    th.testing.assert_close(actor_guidance(model.policy, latent, actions, advantages).wanted, expected)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_logged_values(algorithm: Any) -> None:
    """SB3's keys all stay, ours come in addition."""
    stock = {ForwardA2C: A2C, ForwardPPO: PPO}[algorithm]
    kwargs: dict[str, Any] = {"clip_range_vf": 0.2} if algorithm is ForwardPPO else {}
    model = one_update(algorithm, actions="Box", **kwargs)
    theirs_kwargs = {key: value for key, value in small_kwargs(algorithm).items() if not key.startswith("local")}
    theirs = stock("MlpPolicy", model.get_env(), **theirs_kwargs, **kwargs).learn(16)
    stock_keys = {key for key in theirs.logger.name_to_value if key.startswith("train/")}
    keys = {key for key in model.logger.name_to_value if key.startswith("train/")}
    assert stock_keys
    assert stock_keys <= keys
    assert keys - stock_keys == {
        "train/local_learning_rate",
        "train/local_loss",
        "train/local_grad_norm",
        "train/waiting_rows",
        "train/drift",
    }
    local = {key for key in model.logger.name_to_value if key.startswith("local/")}
    assert local == {
        f"local/{figure}/{name}"
        for figure in ("r2", "loss", "movement", "constant")
        for name in ("actor.0", "actor.1", "critic.0", "critic.1")
    }
    assert all(np.isfinite(model.logger.name_to_value[key]) for key in (keys | local) - {"train/explained_variance"})


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_no_logged_key_lies_below_another(algorithm: Any, tmp_path: Path) -> None:
    """A tracker that keeps each metric as a file cannot keep one in a folder of the same name (MLflow's file store)."""

    class Tree(KVWriter):
        def write(self, key_values: dict[str, Any], key_excluded: dict[str, Any], step: int = 0) -> None:
            for key, value in key_values.items():
                file = tmp_path / key
                file.parent.mkdir(parents=True, exist_ok=True)
                with file.open("a") as opened:
                    print(step, value, file=opened)

        def close(self) -> None: ...

    model = small_model(algorithm, "MultiInputPolicy", "Box")
    model.set_logger(Logger(folder=None, output_formats=[Tree()]))
    model.learn(48, log_interval=1)
    written = {file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*") if file.is_file()}
    assert {f"local/movement/{block.name}" for block in model.network.blocks} <= written


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_figures_of_single_blocks_stay_off_the_screen(algorithm: Any) -> None:
    """They go to TensorBoard and the CSV."""
    model = one_update(algorithm)
    for key in model.logger.name_to_value:
        if key.startswith("local/"):
            assert model.logger.name_to_excluded[key] == ("stdout", "log")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_is_explained_is_logged_block_by_block(algorithm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    phases: list[HiddenPhase] = []
    learn = HiddenPhase.learn

    def watched(self: HiddenPhase, *args: Any) -> Latents:
        phases.append(self)
        return learn(self, *args)

    monkeypatch.setattr(HiddenPhase, "learn", watched)
    logged = one_update(algorithm).logger.name_to_value
    (phase,) = phases
    assert len(phase.records) == 4
    for name, record in phase.records.items():
        assert logged[f"local/r2/{name}"] == record.explained > 0
        assert logged[f"local/constant/{name}"] == record.constant == 0


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_without_guidance_none_is_explained(algorithm: Any) -> None:
    logged = one_update(algorithm, guidance_coef=0.0).logger.name_to_value
    assert any(key.startswith("local/loss/") for key in logged)
    assert not any(key.startswith("local/r2/") for key in logged)


def test_refit_takes_the_drift_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hidden layers' steps move the policy; the heads, refitted to what they said before, move it back."""
    said: list[th.Tensor] = []
    observations: list[th.Tensor] = []
    hidden_phase, refit = ForwardPPO._hidden_phase, Heads.refit

    def say(policy: Any) -> None:
        with th.no_grad():
            said.append(policy.action_net(policy.mlp_extractor(policy.extract_features(observations[0]))[0]))

    def watch_phase(self: Any, rows: Any) -> Any:
        observations.append(rows.observations(th.arange(rows.number)))
        say(self.policy)
        features = hidden_phase(self, rows)
        say(self.policy)
        return features

    def watch_refit(self: Heads, *given: Any) -> Any:
        say(self.policy)
        return refit(self, *given)

    monkeypatch.setattr(ForwardPPO, "_hidden_phase", watch_phase)
    monkeypatch.setattr(Heads, "refit", watch_refit)
    # Features move fast, under heads that are not near zero
    model = small_model(ForwardPPO, n_steps=256, local_learning_rate=0.03, policy_kwargs={"ortho_init": False})
    logged = model.learn(256).logger.name_to_value["train/drift"]
    before, between, after = said
    variation = (before - before.mean(dim=0)).norm()
    drifting, refitted = ((now - before).norm() / variation for now in (between, after))
    # What is logged is what would have happened
    assert logged == pytest.approx(drifting.item(), rel=1e-3)
    assert drifting > 0.1
    assert refitted < 0.3 * drifting


@pytest.mark.parametrize("sampled", [0, 50])
def test_heads_are_refitted_to_their_outputs(sampled: int) -> None:
    """On the rows of a phase, and on the sample: here the last of 200 rows."""
    model = small_model(ForwardPPO)
    features, moved = th.randn(200, 64), th.linalg.qr(th.randn(64, 64))[0]
    heads = model.policy.action_net, model.policy.value_net
    outputs = [head(features) for head in heads]
    after = features @ moved + 1.0, 3.0 * features @ moved
    wanted = model.heads.outputs((features, features))
    sample = SampleFeatures((after[0][-sampled:], after[1][-sampled:])) if sampled > 0 else None
    assert model.heads.refit(wanted, tuple(part[: 200 - sampled] for part in after), sample) > 0.1
    for head, latent, output in zip(heads, after, outputs, strict=True):
        assert (head(latent) - output).abs().max() < 0.1 * output.std()


def test_the_sample_holds_the_values_of_past_states(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short rollout alone leaves most directions of the features open: the values of other states would be anything."""
    seen: list[Any] = []
    drifts: list[float] = []
    hidden_phase = ForwardPPO._hidden_phase

    def watch(self: Any, rows: Any) -> Any:
        seen.append(rows.observations(th.arange(rows.number)))
        with th.no_grad():
            before = self.policy.predict_values(th.cat(seen))
            features = hidden_phase(self, rows)
            drifts.append((self.policy.predict_values(th.cat(seen)) - before).square().mean().item())
        if not sampled:
            self.history.observations = self.history.sample = None
        return features

    monkeypatch.setattr(ForwardPPO, "_hidden_phase", watch)
    drift = {}
    for sampled in (True, False):
        model = small_model(ForwardPPO, n_steps=16, local_learning_rate=0.003, policy_kwargs={"ortho_init": False})
        seen.clear()
        drifts.clear()
        model.learn(16 * 20)
        drift[sampled] = float(np.mean(drifts))
    assert drift[True] < 0.5 * drift[False]


def watch_blocks(monkeypatch: pytest.MonkeyPatch, algorithm: Any) -> list[PhaseRows]:
    """The rows of each hidden phase, in which blocks stay as they are."""
    trained: list[PhaseRows] = []

    def watched(self: Any, rows: PhaseRows) -> Latents:
        trained.append(rows)
        return rows.cached.latents

    monkeypatch.setattr(algorithm, "_train_blocks", watched)
    return trained


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_short_rollouts_wait_until_they_are_enough_rows(algorithm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few rows say little about distances; meanwhile the heads learn on features that stay as they are."""
    monkeypatch.setattr(on_policy, "FIT_ROWS", 1)
    trained = watch_blocks(monkeypatch, algorithm)
    model = small_model(algorithm, local_interval=48)
    rollouts = []

    def keep(_locals: Any, _globals: Any) -> bool:
        rollouts.append(model._last_obs)
        return True

    heads = [parameter.clone() for parameter in model.heads.parameters]
    model.learn(32, callback=keep)
    assert trained == []
    assert model.history.waiting_rows == 32
    assert all(not th.equal(old, new) for old, new in zip(heads, model.heads.parameters, strict=True))
    model.learn(32, callback=keep, reset_num_timesteps=False)
    (rows,) = trained
    assert rows.number == 48
    # All of them, in their order, each with its own features
    observations = rows.observations(th.arange(48))
    assert isinstance(observations, th.Tensor)
    assert th.equal(observations[:47], th.as_tensor(np.concatenate(rollouts[:47])))
    assert {len(column) for column in rows.cached if column is not None} == {48}
    with th.no_grad():
        th.testing.assert_close(rows.cached.latents, model.network.latents(observations))
    assert model.history.waiting_rows == 16
    assert len(model.history.sample) == 48


def test_rollouts_of_fewer_rows_than_can_be_matched_wait() -> None:
    model, moved = small_model(ForwardA2C, n_steps=1, local_interval=1), []
    for _ in range(6):
        before = hidden_state(model)
        model.learn(1, reset_num_timesteps=False)
        moved.append(not same(before, hidden_state(model)))
    assert moved == [False, False, True] * 2


def test_a_long_rollout_goes_with_those_that_wait() -> None:
    """Whatever its returns are made of."""
    store, features = History(), th.rand(48, 3)
    for first, end in ((0, 10), (10, 48)):
        part = features[first:end]
        column = part[:, 0]
        cached = CachedRollout(part, part, part, column, column, column, 2 * column)
        rows = store.add(partial(pick, part), cached, None, 30)
        assert (rows is None) == (end == 10)
    assert rows is not None
    assert rows.number == 48
    observations = rows.observations(th.arange(48))
    assert isinstance(observations, th.Tensor)
    assert th.equal(observations, features)
    assert th.equal(rows.cached.actions, features)
    assert th.equal(rows.cached.returns, 2 * features[:, 0])


def test_guidance_that_is_switched_on_guides_the_rows_that_wait() -> None:
    model = small_model(ForwardA2C, guidance_coef=0.0, local_interval=48).learn(32)
    model.guidance_coef = 0.5
    model.learn(16)
    assert model.history.waiting_rows == 0
    assert all(f"local/r2/{block.name}" in model.logger.name_to_value for block in model.network.blocks)


def test_target_kl_stops_before_the_step() -> None:
    model = small_model(ForwardPPO, n_epochs=5, target_kl=1e-9, learning_rate=0.03)
    model.learn(16)
    # Two minibatches per epoch: after the first step, the second is beyond the bound
    assert model._n_updates == 1
    assert model.logger.name_to_value["train/approx_kl"] > 1e-9


def test_local_learning_rate_follows_its_schedule() -> None:
    rates = []
    model = small_model(ForwardPPO, local_learning_rate="lin_0.1")
    for _ in range(4):
        model.learn(16, reset_num_timesteps=False)
    model = small_model(ForwardPPO, local_learning_rate="lin_0.1")

    def record(_locals: Any, _globals: Any) -> bool:
        rates.append(model.network.blocks[0].optimizer.param_groups[0]["lr"])
        return True

    model.learn(64, callback=record)
    assert sorted({round(rate, 6) for rate in rates}, reverse=True) == [0.1, 0.075, 0.05, 0.025]
    assert model.network.blocks[0].optimizer.param_groups[0]["lr"] == 0.0
    # The heads keep their own
    assert model.heads.optimizer.param_groups[0]["lr"] == pytest.approx(9 * 3e-4)


def test_learning_rate_zero_moves_no_head() -> None:
    """Gradients and updates are mapped into whitened coordinates and back; nothing moves the heads before the local phase."""
    model = small_model(ForwardPPO, learning_rate=0.0, local_interval=17)
    heads = (model.policy.action_net, model.policy.value_net)
    before = [parameter.clone() for head in heads for parameter in head.parameters()]
    model.learn(16)
    for old, new in zip(before, (parameter for head in heads for parameter in head.parameters()), strict=True):
        assert th.equal(old, new)


def test_whitened_coordinates_condition_the_head() -> None:
    """Plain gradient descent on strongly correlated features: hopeless in plain coordinates, quick in whitened ones."""
    th.manual_seed(0)
    latent = th.randn(512, 64) @ th.diag(th.logspace(0, -2, 64)) @ th.linalg.qr(th.randn(64, 64))[0] + 5.0
    wanted = (latent - latent.mean(dim=0)) @ (10 * th.randn(64))
    rollout = CachedRollout(latent, latent, wanted[:, None].expand(512, 2), *[wanted] * 4)

    def towards_the_actions(batch: CachedRollout, outputs: HeadOutputs) -> Slopes:
        return Slopes(th.full_like(outputs.log_prob, -1 / len(batch.returns)), 0.0)

    losses = {}
    for whiten in (False, True):
        model = small_model(ForwardPPO, actions="Box", policy_kwargs={"optimizer_class": th.optim.SGD})
        model.policy.log_std.requires_grad_(False)
        model._find_blocks()
        # About the largest that do not diverge
        model.heads.optimizer.param_groups[0]["lr"] = 0.5 if whiten else 0.0005
        with HeadTraining(model.heads, rollout, None, whiten) as steps:
            for _ in range(200):
                steps.step(steps.rollout, towards_the_actions, 1e9)
        losses[whiten] = (model.policy.action_net(latent)[:, 0] - wanted).square().mean().item() / wanted.var().item()
    assert losses[True] < 0.3 * losses[False]


def test_coordinates_of_a_rollout_of_few_rows_are_those_of_the_sample() -> None:
    sampled, few, many = th.randn(200, 64), th.randn(511, 64), 5 * th.randn(512, 64)
    expected = Basis.of(sampled.T @ sampled / 200, 200)
    th.testing.assert_close(basis_of(few, SampleFeatures((sampled, sampled))).whitening, expected.whitening)
    sample = SampleFeatures((few, few))
    th.testing.assert_close(basis_of(few, sample).whitening, Basis.of(few.T @ few / 511, 511).whitening)
    both = Basis.of((many.T @ many / 512 + few.T @ few / 511) / 2, 1023)
    th.testing.assert_close(basis_of(many, sample).whitening, both.whitening)
    assert (both.whitening @ both.inverse - th.eye(64)).abs().max() < 1e-4


def test_single_row_does_not_blow_up_whitened_coordinates() -> None:
    model = small_model(ForwardA2C, n_steps=1)
    before = model.policy.value_net.weight.clone()
    model.learn(1)
    assert (model.policy.value_net.weight - before).abs().max() < 0.1


def test_values_find_a_far_level() -> None:
    """At once, at any scale, and without a learning rate: they are fitted."""
    model = small_model(ForwardPPO)
    latent = th.randn(256, 64)
    returns = 1e4 + 1e3 * latent[:, 0]
    model.heads.fit_values(latent, lambda _: cross_moments(latent, returns[:, None]))
    assert (model.policy.value_net(latent).flatten() - returns).abs().mean() < 0.1 * returns.std()


def test_the_level_of_the_returns_does_not_spread_to_states_that_were_never_seen() -> None:
    """The bias does not carry it alone: what was never tried stays worth a try (with that, Acrobot was never solved)."""
    model = small_model(ForwardPPO)
    seen = th.nn.functional.one_hot(th.arange(256) % 32, 64).float()
    novel = th.nn.functional.one_hot(32 + th.arange(32), 64).float()
    model.heads.fit_values(seen, lambda _: cross_moments(seen, th.full((256, 1), -100.0)))
    assert model.policy.value_net(seen).mean() < -90
    assert model.policy.value_net(novel).mean() > -100 * 0.97


@pytest.mark.parametrize(("times", "share"), [(3, 1 / 4), (50, 1 / 8)])
def test_the_sample_holds_the_fit_of_the_values(times: int, share: float) -> None:
    """A rollout moves the values by its share of all rows, as the mean over all of them would, but by an eighth at least."""
    model = small_model(ForwardPPO)
    with th.no_grad():
        model.policy.value_net.weight.zero_()
    latent = th.rand(100, 64)
    held = gram_matrix(latent.repeat(times, 1)), 100 * times
    model.heads.fit_values(latent, lambda _: cross_moments(latent, th.ones(100, 1)), held)
    assert model.policy.value_net(latent).mean().item() == pytest.approx(share, abs=0.02)


def test_no_value_coefficient_no_fit() -> None:
    model = small_model(ForwardPPO, vf_coef=0.0, hidden_training="frozen")
    before = model.policy.value_net.weight.clone()
    model.learn(16)
    assert th.equal(before, model.policy.value_net.weight)


def test_large_observations_do_not_wait_for_more_than_may_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "BYTES", 48 * 4 * 4)  # 48 rows of four floats
    assert history.fitting({"one": th.zeros(1, 1), "others": th.zeros(1, 3)}) == 48
    trained = watch_blocks(monkeypatch, ForwardPPO)
    small_model(ForwardPPO, local_interval=4096).learn(96)
    small_model(ForwardPPO, n_steps=64, local_interval=4096).learn(64)
    assert [rows.number for rows in trained] == [48, 48, 64]
