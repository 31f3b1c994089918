"""The hidden phase: block by block from the bottom up, what each is given, what it hands on, and that layers learn in it."""

import copy
import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from benchmarks.memory import peak_on_cpu
from sb3_forward import ForwardPPO, on_policy
from sb3_forward.heads.heads import Heads
from sb3_forward.heads.training import CachedRollout, HeadTraining
from sb3_forward.local import phase
from sb3_forward.local.auxiliary import AuxiliaryLayers
from sb3_forward.local.blocks import Block
from sb3_forward.local.loss import (
    Activations,
    Guidance,
    LinearImage,
    as_matrix,
    balanced,
    linear_image,
    own_target,
    standardise,
)
from sb3_forward.local.phase import HiddenPhase, LocalObjective
from sb3_forward.local.rows import count, join, pick
from tests.envs import ALGORITHMS, OBSERVATIONS, RandomEnv, hidden_state, small_model
from tests.test_run import BatchNormExtractor
from tests.updates import SharedLayer, permutation, watched_update

GUIDED = LocalObjective(1.0, "strain", "gaussian")


def hidden_phase(model: Any, objective: LocalObjective = GUIDED, **kwargs: Any) -> HiddenPhase:
    defaults = {"epochs": 2, "batch_size": 16, "max_grad_norm": 1e9, "budget": 2**20, "auxiliary": AuxiliaryLayers()}
    return HiddenPhase(model.network, objective, **{**defaults, **kwargs})


def learn(run: HiddenPhase, observations: Any, guidance: dict[str, Guidance]) -> Any:
    return run.learn(lambda rows: pick(observations, rows), count(observations), guidance)


def sample(policy: str, rows: int) -> Any:
    """Observations as the rollout buffer holds them."""
    space = OBSERVATIONS[policy]
    space.seed(0)
    drawn = [space.sample() for _ in range(rows)]
    if isinstance(space, spaces.Dict):
        columns = {key: th.as_tensor(np.stack([row[key] for row in drawn])) for key in space.spaces}
        return columns | {"choice": columns["choice"][:, None]}
    return th.as_tensor(np.stack(drawn))


def signals(rows: int) -> dict[str, Guidance]:
    generator = th.Generator().manual_seed(1)
    said, change, returns = (th.randn(rows, columns, generator=generator) for columns in (3, 3, 1))
    return {"actor": Guidance(said, change), "critic": Guidance.whole(returns)}


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Block, Any, Any]]:
    """Every local step: its block, its inputs, and a copy of what maps them, as it was before."""
    seen: list[tuple[Block, Any, Any]] = []
    local_step = Block.local_step

    def watched(self: Block, inputs: Activations, *args: Any) -> Any:
        seen.append((self, inputs, copy.deepcopy(self.forward)))
        return local_step(self, inputs, *args)

    monkeypatch.setattr(Block, "local_step", watched)
    return seen


# === The way up ===


class Joint(nn.Module):
    """A user's own network below the heads, of which the code is not known: one block."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 6)
        self.latent_dim_pi, self.latent_dim_vf = 4, 2

    def forward(self, features: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        return self.forward_actor(features), self.forward_critic(features)

    def forward_actor(self, features: th.Tensor) -> th.Tensor:
        return th.tanh(self.layer(features))[:, :4]

    def forward_critic(self, features: th.Tensor) -> th.Tensor:
        return th.tanh(self.layer(features))[:, 4:]


class JointPolicy(ActorCriticPolicy):
    def _build_mlp_extractor(self) -> None:
        self.mlp_extractor = Joint()  # type: ignore[assignment]


@pytest.mark.parametrize("policy", ["MlpPolicy", "CnnPolicy", "MultiInputPolicy", JointPolicy])
def test_inputs_of_a_block_stand_still_and_are_what_the_block_below_says_now(
    policy: Any, steps: list[tuple[Block, Any, Any]]
) -> None:
    model = small_model(ForwardPPO, policy)
    observations = sample(policy if isinstance(policy, str) else "MlpPolicy", 20)
    learn(hidden_phase(model, batch_size=10), observations, signals(20))
    assert [block.name for block, _, _ in steps] == [block.name for block in model.network.blocks for _ in range(4)]
    inputs_of: dict[str, th.Tensor] = {}

    def visit(block: Block, inputs: Any) -> Any:
        inputs_of[block.name] = as_matrix(inputs)
        return block.forward(inputs)

    model.policy.set_training_mode(False)
    with th.no_grad():
        model.network.latents(observations, visit)
    for first in range(0, len(steps), 2):
        block = steps[first][0]
        seen = th.cat([as_matrix(inputs) for _, inputs, _ in steps[first : first + 2]])
        # Every row once in a pass
        assert sorted(permutation(seen, inputs_of[block.name]).tolist()) == list(range(20))


@pytest.mark.parametrize("policy", ["MlpPolicy", "CnnPolicy", "MultiInputPolicy"])
@pytest.mark.parametrize("rows", [5, 600])
def test_features_are_those_of_the_layers_as_they_are_now(policy: str, rows: int) -> None:
    """Of all rows in their order, also where they are too many for one forward pass."""
    if policy != "MlpPolicy":
        rows = min(rows, 40)
    model, observations = small_model(ForwardPPO, policy), sample(policy, rows)
    with th.no_grad():
        before = model.network.latents(observations)
        features = learn(hidden_phase(model), observations, signals(rows))
        after = model.network.latents(observations)
    for old, now, fresh in zip(before, features, after, strict=True):
        th.testing.assert_close(now, fresh, rtol=1e-4, atol=1e-5)
        assert (now - old).abs().max() > 1e-3


def test_layers_without_parameters_to_train_pass_on_what_they_say(steps: list[tuple[Block, Any, Any]]) -> None:
    """A frozen layer, too."""
    model = small_model(ForwardPPO)
    below = model.policy.mlp_extractor.value_net[:2]
    below[0].requires_grad_(False)
    model._find_blocks()
    observations, before = sample("MlpPolicy", 16), below[0].weight.clone()
    learn(hidden_phase(model, epochs=1), observations, signals(16))
    (inputs,) = (inputs for block, inputs, _ in steps if block.name == "critic.1")
    assert th.equal(below[0].weight, before)
    permutation(inputs, below(observations))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(("interval", "n_steps"), [(1, 16), (40, 16), (1, 256)])
def test_heads_learn_on_the_features_of_the_rollout(
    algorithm: Any, interval: int, n_steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the layers learn from it: the action head on its rows alone, the values on rows before, too, if it is short."""
    monkeypatch.setattr(on_policy, "FIT_ROWS", 1)
    read: list[CachedRollout] = []
    fitted: list[th.Tensor] = []
    start, fit_values = HeadTraining.__init__, Heads.fit_values

    def watched(self: HeadTraining, heads: Heads, rollout: CachedRollout, *args: Any) -> None:
        read.append(rollout)
        start(self, heads, rollout, *args)

    def watched_fit(self: Heads, features: th.Tensor, *args: Any, **kwargs: Any) -> None:
        fitted.append(features)
        fit_values(self, features, *args, **kwargs)

    monkeypatch.setattr(HeadTraining, "__init__", watched)
    monkeypatch.setattr(Heads, "fit_values", watched_fit)
    model = small_model(algorithm, local_interval=interval, local_learning_rate=0.03, n_steps=n_steps)
    for rollout in range(3):
        before = hidden_state(model)
        update = watched_update(model, monkeypatch)
        moved = any(not th.equal(old, new) for old, new in zip(before.values(), hidden_state(model).values(), strict=True))
        assert moved == (interval == 1 or rollout == 2)
        with th.no_grad():
            actor, critic = update.policy.mlp_extractor(update.policy.extract_features(update.column("observations")))
        th.testing.assert_close(read[-1].latent_pi, actor, rtol=1e-4, atol=1e-5)
        th.testing.assert_close(fitted[-1][-n_steps:], critic, rtol=1e-4, atol=1e-5)
        assert th.equal(read[-1].returns, update.column("returns").flatten())


# === What guides ===


def test_only_what_is_guided_moves() -> None:
    """The critic's layers learn nothing from the actor's guidance, nor the other way round; shared ones learn from both."""
    shared = {"features_extractor_class": SharedLayer, "net_arch": [8]}
    for constant, still in (("actor", "actor"), ("critic", "critic")):
        model = small_model(ForwardPPO, policy_kwargs=shared)
        guidance = signals(32)
        guidance[constant] = Guidance(*(th.full_like(part, 0.7) for part in guidance[constant]))
        run = hidden_phase(model)
        learn(run, sample("MlpPolicy", 32), guidance)
        assert {name: record.movement > 0 for name, record in run.records.items()} == {
            "extractor": True,
            **{role: role != still for role in ("actor", "critic")},
        }
        assert run.records[still].explained == 0


def test_actor_and_critic_count_alike_for_what_they_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """The changes of both have the same norm, whatever their columns and however large they are."""
    found: list[Guidance] = []

    def watched(outputs: th.Tensor, guidance: Guidance, image: LinearImage) -> th.Tensor:
        found.append(guidance)
        return own_target(outputs, guidance, image)

    monkeypatch.setattr(phase, "own_target", watched)
    model = small_model(ForwardPPO, policy_kwargs={"features_extractor_class": SharedLayer, "net_arch": []})
    guidance = signals(32)
    guidance["actor"] = guidance["actor"]._replace(change=0.01 * guidance["actor"].change)
    learn(hidden_phase(model), sample("MlpPolicy", 32), guidance)
    (shared,) = found
    assert shared.change[:, :3].norm().item() == pytest.approx(shared.change[:, 3:].norm().item())
    assert shared.wanted.square().mean().item() == pytest.approx(1, rel=1e-4)
    for part, parts in zip(shared, zip(*guidance.values(), strict=True), strict=True):
        for column, given in zip(part.T, th.cat(parts, dim=1).T, strict=True):
            if given.any():
                assert th.corrcoef(th.stack([column, given]))[0, 1].item() == pytest.approx(1)
            else:
                assert not column.any()


def test_a_head_with_nothing_to_change_leaves_the_other_alone() -> None:
    """Its columns are not blown up to have a norm."""
    still, other = Guidance(th.randn(20, 2), th.zeros(20, 2)), Guidance(th.randn(20, 1), th.randn(20, 1))
    joined = balanced([standardise(still), standardise(other)])
    assert joined.said[:, :2].any()
    assert not joined.change[:, :2].any()
    assert joined.change[:, 2:].any()
    assert joined.wanted.isfinite().all()


def test_without_weight_no_image_is_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phase, "linear_image", lambda *_: pytest.fail("an image of weight zero was fitted"))
    model = small_model(ForwardPPO)
    for objective, guidance in ((LocalObjective(0.0, "strain", "gaussian"), signals(32)), (GUIDED, {})):
        run = hidden_phase(model, objective)
        learn(run, sample("MlpPolicy", 32), guidance)
        assert all(math.isnan(record.explained) and record.movement > 0 for record in run.records.values())


@pytest.mark.parametrize("coef", [0.0, 0.25, 0.5, 1.0])
def test_the_coefficient_is_the_share_of_the_guided_loss(coef: float) -> None:
    """Of its value and of its gradient: with SGD, a step is the mixture of both steps."""

    def phase_of(share: float) -> tuple[float, th.Tensor]:
        model = small_model(ForwardPPO, policy_kwargs={"net_arch": {"vf": [8], "pi": []}, "optimizer_class": th.optim.SGD})
        before = hidden_state(model)
        run = hidden_phase(model, LocalObjective(share, "stress", "identity"), epochs=1, batch_size=32)
        learn(run, sample("MlpPolicy", 32), signals(32))
        return run.records["critic"].loss, th.cat(
            [(new - old).flatten() for old, new in zip(before.values(), hidden_state(model).values(), strict=True)]
        )

    (own_loss, own_step), (guided_loss, guided_step), (loss, step) = map(phase_of, (0.0, 1.0, coef))
    assert loss == pytest.approx((1 - coef) * own_loss + coef * guided_loss, rel=1e-4)
    th.testing.assert_close(step, (1 - coef) * own_step + coef * guided_step, rtol=1e-3, atol=1e-6)
    assert (own_step - guided_step).norm() > 0.1 * own_step.norm()


def test_the_image_is_fitted_to_all_rows_before_every_pass(
    steps: list[tuple[Block, Any, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: list[tuple[th.Tensor, th.Tensor, int]] = []

    def watched(outputs: th.Tensor, columns: th.Tensor) -> LinearImage:
        fitted.append((as_matrix(outputs), columns, len(steps)))
        return linear_image(outputs, columns)

    monkeypatch.setattr(phase, "linear_image", watched)
    model, observations, guidance = small_model(ForwardPPO), sample("MlpPolicy", 48), signals(48)
    run = hidden_phase(model, epochs=3)
    learn(run, observations, guidance)
    # Three minibatches to a pass
    assert [made for _, _, made in fitted] == [3 * passes for passes in range(3 * 4)]
    inputs: dict[str, th.Tensor] = {"actor.0": observations, "critic.0": observations}
    for outputs, signal, made in fitted:
        block, _, before = steps[made]
        if block.name not in inputs:
            (below,) = (other for other in model.network.blocks if other.name == f"{block.role}.0")
            inputs[block.name] = below.forward(observations)
        th.testing.assert_close(outputs, before(inputs[block.name]), rtol=1e-4, atol=1e-5)
        th.testing.assert_close(signal, standardise(guidance[block.role]).wanted)
        # What is recorded is that of the last pass
        last = [made for _, _, made in fitted if steps[made][0] is block][-1]
        if made == last:
            assert run.records[block.name].explained == pytest.approx(linear_image(outputs, signal).explained.item())


# === What is recorded ===


def test_records_of_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Means over all steps; how far the parameters have come, in units of how long they were."""
    made: dict[str, list[Any]] = {}
    local_step = Block.local_step

    def watched(self: Block, *args: Any) -> Any:
        made.setdefault(self.name, []).append(local_step(self, *args))
        return made[self.name][-1]

    monkeypatch.setattr(Block, "local_step", watched)
    model = small_model(ForwardPPO)
    before = hidden_state(model)
    run = hidden_phase(model, max_grad_norm=1e-3)
    learn(run, sample("MlpPolicy", 40), signals(40))
    after = hidden_state(model)
    assert list(run.records) == [block.name for block in model.network.blocks]
    for name, record in run.records.items():
        assert len(made[name]) == 2 * 3
        assert record.loss == pytest.approx(np.mean([step.loss for step in made[name]]))
        assert record.grad_norm == pytest.approx(np.mean([step.grad_norm for step in made[name]]))
        assert record.grad_norm > 1e-3
        old, new = (
            th.cat([value.flatten() for key, value in found.items() if key.startswith(f"{name}/")])
            for found in (before, after)
        )
        assert record.movement == pytest.approx(((new - old).norm() / old.norm()).item(), rel=1e-4)


@pytest.mark.parametrize(("policy", "name", "units"), [("MlpPolicy", "actor.0", 64), ("CnnPolicy", "extractor.0", 32)])
def test_a_layer_that_is_switched_off_is_told(policy: str, name: str, units: int) -> None:
    """Once nine in ten of its units give the same for all rows; the layers above it, which cannot tell them apart, are not."""
    model = small_model(ForwardPPO, policy, policy_kwargs={"activation_fn": nn.ReLU, "net_arch": [64, 8]})
    observations = sample(policy, 20)
    if policy == "CnnPolicy":
        observations[..., :12, :12] = 0  # a corner that never changes is no channel that is switched off
    block = next(own for own in model.network.blocks if own.name == name)
    assert block.optimizer is not None
    block.optimizer.param_groups[0]["lr"] = 0.0
    bias = block.parameters[1]
    for off, told in ((1, False), (units * 7 // 8, False), (units * 15 // 16, True), (units, True)):
        with th.no_grad():
            bias.fill_(100.0)[:off] = -1e6
        run = hidden_phase(model, epochs=1)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            learn(run, observations, signals(20))
        assert run.records[name].constant == pytest.approx(off / units)
        assert [name in str(own.message) for own in caught] == [True] * told
        assert all("lower `local_learning_rate`" in str(own.message) for own in caught)
    assert run.records["actor.1" if policy == "MlpPolicy" else "extractor.1"].constant == 1


def test_what_changes_between_forward_passes_is_not_constant() -> None:
    """Outputs that are the same for all rows of one forward pass, and others for those of the next."""
    model = small_model(ForwardPPO, policy_kwargs={"activation_fn": nn.ReLU})
    model.network.pass_rows = 8
    observations = th.zeros(20, 4)
    observations[8:16] = 1.0
    with th.no_grad():
        for parameter in model.network.blocks[0].parameters:
            parameter.fill_(1.0)
    for block in model.network.blocks:
        assert block.optimizer is not None
        block.optimizer.param_groups[0]["lr"] = 0.0
    run = hidden_phase(model, epochs=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learn(run, observations, signals(20))
    assert run.records[model.network.blocks[0].name].constant == 0


def test_observations_that_never_change_are_no_fault_of_a_layer() -> None:
    model = small_model(ForwardPPO)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = hidden_phase(model)
        learn(run, th.ones(20, 4), signals(20))
    assert all(record.constant == 1 for record in run.records.values())


def test_too_few_rows_move_nothing() -> None:
    model = small_model(ForwardPPO)
    before = hidden_state(model)
    run = hidden_phase(model)
    features = learn(run, sample("MlpPolicy", 2), signals(2))
    assert run.records == {}
    assert all(th.equal(old, new) for old, new in zip(before.values(), hidden_state(model).values(), strict=True))
    th.testing.assert_close(features, model.network.latents(sample("MlpPolicy", 2)))


# === Training mode ===


def test_batch_norm_sees_every_minibatch_once() -> None:
    """Its statistics move in the steps alone, and features are made by them, without dropout."""
    model = small_model(ForwardPPO, policy_kwargs={"features_extractor_class": BatchNormExtractor})
    extractor = model.policy.features_extractor
    observations = sample("MlpPolicy", 40)
    features = learn(hidden_phase(model), observations, signals(40))
    assert int(extractor.batch_norm.num_batches_tracked) == 2 * 3
    assert model.policy.training
    model.policy.set_training_mode(False)
    with th.no_grad():
        th.testing.assert_close(features, model.network.latents(observations))
    assert (extractor.batch_norm.running_mean != 0).all()


# === Memory ===


@pytest.mark.filterwarnings("ignore")
def test_peak_of_activations_does_not_grow_with_depth() -> None:
    """One block's inputs and outputs are all that is held at a time, whatever lies above."""
    observations, guidance = th.rand(2000, 4), signals(2000)

    def peak(depth: int) -> int:
        model = small_model(ForwardPPO, policy_kwargs={"net_arch": [32] * depth})
        run = hidden_phase(model, epochs=1, batch_size=500)
        learn(run, observations, guidance)  # makes the state of the optimizers
        return peak_on_cpu(lambda: learn(run, observations, guidance))

    shallow, deep = peak(2), peak(12)
    assert shallow > 2 * 4 * 2000 * 32
    assert deep < 1.05 * shallow


# === Rows of activations ===


def test_rows_of_whatever_flows_between_blocks() -> None:
    matrix = th.arange(12.0).view(6, 2)
    for activations in (matrix, {"a": matrix, "b": 2 * matrix}, (matrix, 2 * matrix)):
        assert count(activations) == 6
        parts = [pick(activations, slice(0, 4)), pick(activations, th.tensor([4, 5]))]
        assert [count(part) for part in parts] == [4, 2]
        joined = join(parts)
        assert type(joined) is type(activations)
        assert th.equal(as_matrix(joined), as_matrix(activations))
        assert th.equal(as_matrix(pick(activations, th.tensor([5, 0]))), as_matrix(activations)[[5, 0]])
        assert join(parts[:1]) is parts[0]


# === Layers learn ===


def among_noise(rows: int, seed: int) -> tuple[th.Tensor, th.Tensor]:
    """Inputs of which most are noise, and returns that hang on two of them in a way that no linear map says."""
    generator = th.Generator().manual_seed(seed)
    inputs = th.randn(rows, 20, generator=generator)
    return inputs, (inputs[:, :1] + inputs[:, 1:2]).abs() + 0.1 * th.randn(rows, 1, generator=generator)


def understood(model: Any) -> float:
    """R2 on other rows, of a ridge regression of the returns on the critic's features."""
    (inputs, returns), (others, expected) = among_noise(600, seed=100), among_noise(600, seed=101)
    with th.no_grad():
        (features, _), (other_features, _) = (reversed(model.network.latents(rows)) for rows in (inputs, others))
    level, unit = returns.mean(), returns.std()
    image = linear_image(features, (returns - level) / unit, ridge=0.1)
    return (
        1 - ((expected - level) / unit - image.of(other_features)).square().mean().item() / (expected.std() / unit).item() ** 2
    )


def small_model_on(env: RandomEnv, net_arch: list[int]) -> ForwardPPO:
    kwargs = {"net_arch": net_arch}
    return ForwardPPO(
        "MlpPolicy", env, n_steps=16, batch_size=16, local_learning_rate=3e-3, seed=0, device="cpu", policy_kwargs=kwargs
    )


@pytest.mark.parametrize("net_arch", [[64], [64, 64]])
def test_layers_come_to_contain_what_guides_them(net_arch: list[int]) -> None:
    """In ten rollouts. Random layers do not, nor do those that only keep the distances of their inputs."""
    learned = {}
    for coef in (0.0, 1.0):
        env = RandomEnv(spaces.Box(-5.0, 5.0, (20,), np.float32))
        model = small_model_on(env, net_arch)
        frozen = understood(model)
        run = hidden_phase(model, LocalObjective(coef, "strain", "gaussian"), epochs=4, batch_size=64, max_grad_norm=0.5)
        for rollout in range(10):
            inputs, returns = among_noise(600, seed=rollout)
            learn(run, inputs, dict.fromkeys(("actor", "critic"), Guidance.whole(returns)))
        learned[coef] = understood(model)
    assert frozen < 0.1
    assert learned[0.0] < 0.3
    assert learned[1.0] > 0.7
    assert all(record.explained > 0.9 for record in run.records.values())
