"""Convolutions: how they are split, what is compared of them, and what a hidden phase on images holds in memory."""

import re
import warnings
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from benchmarks.memory import peak_on_cpu
from sb3_forward import ForwardA2C, ForwardCnnPolicy, ForwardPPO
from sb3_forward.local import phase
from sb3_forward.local.blocks import Block
from sb3_forward.local.feed import Feed
from sb3_forward.local.network import HiddenNetwork
from sb3_forward.local.rows import pick
from sb3_forward.rollouts import reader
from tests.envs import ACTIONS, ALGORITHMS, OBSERVATIONS, RandomEnv, hidden_state, small_model
from tests.test_hidden_phase import JointPolicy, hidden_phase, learn, sample, signals


class Convolutions(BaseFeaturesExtractor):
    """A convolution after the other, and branches that meet again."""

    depth = 3

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space, 16)
        self.stem = nn.Conv2d(3, 8, 3, stride=3)
        self.inner = nn.ModuleList([nn.Conv2d(8, 8, 3, padding=1) for _ in range(self.depth - 1)])
        self.out = nn.Linear(8 * 12 * 12, 16)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        hidden = self.stem(observations).relu()
        for layer in self.inner:
            hidden = hidden + layer(hidden).relu()
        return self.out(hidden.flatten(1)).relu()


def cnn_model(algorithm: Any, extractor: Any = Convolutions, **kwargs: Any) -> Any:
    return small_model(algorithm, "CnnPolicy", policy_kwargs={"features_extractor_class": extractor}, **kwargs)


def names(model: Any) -> list[str]:
    return [f"{part.name}: {[type(own).__name__ for own in _leaves(part)]}" for part in model.network.parts]


def _leaves(part: Any) -> list[nn.Module]:
    return [own for own in part.module.modules() if not list(own.children())]


# === Blocks ===


def test_maps_are_flattened_by_the_layer_that_reads_them() -> None:
    """So that a block of convolutions says feature maps, channel by channel."""
    model = small_model(ForwardPPO, "CnnPolicy")
    read, said = [], []

    def visit(block: Block, inputs: Any) -> Any:
        outputs = block.forward(inputs)
        read.append(inputs.ndim)
        said.append(outputs.ndim)
        return outputs

    model.network.latents(sample("CnnPolicy", 2), visit)
    assert read == [4, 4, 4, 4]
    assert said == [4, 4, 4, 2]
    shown = repr(model.network).splitlines()[-2]
    assert re.fullmatch(r"  extractor\.3 \(shared, Adam\): Flatten\(.*\), Linear\(.*\), ReLU\(\)", shown)


def test_maps_that_two_layers_read_are_flattened_once() -> None:
    class Flat(Convolutions):
        def forward(self, observations: th.Tensor) -> th.Tensor:
            return self.stem(observations).relu().flatten(1)

        def __init__(self, observation_space: spaces.Box) -> None:
            super().__init__(observation_space)
            self._features_dim = 8 * 12 * 12

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = cnn_model(ForwardPPO, Flat)
    first, flat, *_ = model.network.parts
    assert [block.name for block in model.network.blocks][:3] == ["extractor", "actor.0", "actor.1"]
    assert [block.role for block in model.network.blocks][:3] == ["shared", "actor", "actor"]
    assert first.outputs == flat.inputs
    before = hidden_state(model)
    model.learn(16)
    assert all(not th.equal(value, before[name]) for name, value in hidden_state(model).items())


def test_means_of_maps_belong_to_the_layer_that_gives_them() -> None:
    class Means(Convolutions):
        depth = 1

        def __init__(self, observation_space: spaces.Box) -> None:
            super().__init__(observation_space)
            self.out = nn.Linear(8, 16)

        def forward(self, observations: th.Tensor) -> th.Tensor:
            return self.out(self.stem(observations).relu().mean((2, 3))).relu()

    said: dict[str, th.Size] = {}

    def visit(block: Block, inputs: Any) -> Any:
        outputs = block.forward(inputs)
        said[block.name] = outputs.shape
        return outputs

    cnn_model(ForwardPPO, Means).network.latents(sample("CnnPolicy", 2), visit)
    assert said["extractor.0"] == (2, 8)


# === What a hidden phase holds ===


@pytest.mark.parametrize("policy", [*OBSERVATIONS, JointPolicy])
@pytest.mark.parametrize("budget", [0, 20_000, 350_000, 2**24])
def test_what_is_computed_anew_is_what_would_be_held(policy: Any, budget: int) -> None:
    """Of any network, whatever fits: inputs of every part, and the top features."""
    network = small_model(ForwardPPO, policy).network
    network.pass_rows = 7
    observations, rows = sample("MlpPolicy" if policy is JointPolicy else policy, 20), th.tensor([3, 19, 0])
    feed = Feed(network, lambda index: pick(observations, index), 20, budget)
    expected: list[Any] = []
    with th.no_grad():
        latents = network.latents(observations, lambda block, inputs: expected.append(inputs) or block.forward(inputs))  # type: ignore[func-returns-value]
        for index, inputs in enumerate(expected):
            for chosen in (rows, slice(2, 9), th.randperm(20)):
                th.testing.assert_close(feed.inputs(index, chosen), pick(inputs, chosen), rtol=1e-4, atol=1e-5)
            feed.advance(index)
        th.testing.assert_close(feed.tops(), latents, rtol=1e-4, atol=1e-5)


class Past(Convolutions):
    """Large maps are read again, after small ones that are made of them."""

    depth = 1

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space)
        self.small, self.out = nn.Conv2d(8, 1, 1), nn.Linear(9 * 12 * 12, 16)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        hidden = self.stem(observations).relu()
        return self.out(th.cat([hidden, self.small(hidden).relu()], dim=1).flatten(1)).relu()


class PastOfVectors(BaseFeaturesExtractor):
    """Many features are read again, after a few that are made of them."""

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space, 16)
        self.wide, self.small, self.out = nn.Linear(observation_space.shape[0], 64), nn.Linear(64, 1), nn.Linear(65, 16)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        hidden = self.wide(observations).relu()
        return self.out(th.cat([hidden, self.small(hidden).relu()], dim=1)).relu()


@pytest.mark.parametrize(
    ("policy", "extractor"), [*((own, None) for own in OBSERVATIONS), ("CnnPolicy", Past), ("MlpPolicy", PastOfVectors)]
)
def test_what_is_held_fits_and_all_else_is_computed_from_it(policy: str, extractor: Any) -> None:
    """Vectors that fit are asked for once; images stay bytes."""
    given: dict[str, Any] = {} if extractor is None else {"policy_kwargs": {"features_extractor_class": extractor}}
    network = small_model(ForwardPPO, policy, **given).network
    network.pass_rows = 7
    observations, whole = sample(policy, 20), 20 * network.row_bytes
    asked: list[int] = []

    def read(index: th.Tensor) -> Any:
        asked.append(len(index))
        return pick(observations, index)

    for budget in (0, 6000, *range(whole, whole + 5000, 500), *range(whole, whole + 200_000, 20_000), 2**24):
        asked.clear()
        feed = Feed(network, read, 20, budget)
        with th.no_grad():
            for index in range(len(network.parts)):
                feed.advance(index)
                assert sum(value.nbytes for value in feed._held.values()) <= budget
            feed.tops()
        if budget >= whole and policy == "MlpPolicy":
            assert asked == [1, 20]
        else:
            assert max(asked) <= 7


def test_a_step_runs_lower_layers_pass_by_pass() -> None:
    network = small_model(ForwardPPO, "CnnPolicy").network
    network.pass_rows = 7
    observations, asked = sample("CnnPolicy", 20), list[int]()

    def read(index: th.Tensor) -> Any:
        asked.append(len(index))
        return pick(observations, index)

    feed = Feed(network, read, 20, budget=0)
    asked.clear()
    with th.no_grad():
        feed.inputs(len(network.parts) - 1, th.randperm(20))
    assert asked == [7, 7, 6]


def test_outputs_take_the_place_of_inputs_that_nothing_else_reads() -> None:
    """One convolution's outputs fit beside the top features, and no others."""
    network = small_model(ForwardPPO, "CnnPolicy").network
    observations, asked = sample("CnnPolicy", 20), list[int]()

    def read(index: th.Tensor) -> Any:
        asked.append(len(index))
        return pick(observations, index)

    feed = Feed(network, read, 20, budget=20 * 4 * (32 * 8 * 8 + 512))
    with th.no_grad():
        feed.advance(0)
        asked.clear()
        for index, part in enumerate(network.parts[1:], 1):
            feed.advance(index)
            assert part.outputs[0] in feed._held
        th.testing.assert_close(feed.tops(), network.latents(observations), rtol=1e-4, atol=1e-5)
    assert asked == []


def test_top_features_have_no_more_memory_than_they_need() -> None:
    """They are in the files of the model."""
    network = small_model(ForwardPPO, policy_kwargs={"net_arch": [64, 8]}).network
    observations = sample("MlpPolicy", 20)
    feed = Feed(network, lambda index: pick(observations, index), 20, 2**24)
    with th.no_grad():
        for index in range(len(network.parts)):
            feed.advance(index)
        assert [top.untyped_storage().nbytes() for top in feed.tops()] == [20 * 8 * 4] * 2


def test_observations_are_not_overwritten() -> None:
    kwargs = {"net_arch": [2, 2], "share_features_extractor": False}
    network = small_model(ForwardPPO, policy_kwargs=kwargs).network
    observations = sample("MlpPolicy", 20)
    before = observations.clone()
    feed = Feed(network, lambda index: observations if len(index) == 20 else pick(observations, index), 20, 2**24)
    with th.no_grad():
        for index in range(len(network.parts)):
            feed.advance(index)
        th.testing.assert_close(feed.tops(), network.latents(before))
    assert th.equal(observations, before)


def test_outputs_of_a_wider_type_keep_it() -> None:
    class Wide(Convolutions):
        """Its top layer is in double precision."""

        def __init__(self, observation_space: spaces.Box) -> None:
            super().__init__(observation_space)
            self.out = self.out.double()
            self.last = nn.Linear(16, 16)

        def forward(self, observations: th.Tensor) -> th.Tensor:
            hidden = self.out(self.stem(observations).relu().flatten(1).double()).relu()
            return self.last(hidden.float()).relu()

    network = small_model(ForwardPPO, "CnnPolicy", policy_kwargs={"features_extractor_class": Wide}).network
    observations = sample("CnnPolicy", 20)
    feed = Feed(network, lambda index: pick(observations, index), 20, 2**24)
    types = []
    with th.no_grad():
        for index, part in enumerate(network.parts):
            given = network.steps[index].forward(feed.inputs(index, slice(0, 1)))
            feed.advance(index)
            types.append((given.dtype, feed._held[part.outputs[0]].dtype))
    assert types.count((th.double, th.double)) == 1


def test_inputs_of_more_bytes_take_fewer_rows_to_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sb3_forward.local.network.PASS_BYTES", 4 * 4 * 3 * 36 * 36)
    network = small_model(ForwardPPO, "CnnPolicy").network
    feed = Feed(network, lambda index: pick(sample("CnnPolicy", 20), index), 20, 0)
    with th.no_grad():
        counts = [feed.step_rows(index) for index in range(len(network.parts))]
        widths = [feed.inputs(index, slice(0, 1)).nbytes for index in range(len(network.parts))]
    assert network.pass_rows == 4
    assert counts == [max(min(512, 4 * 4 * 3 * 36 * 36 // width), 1) for width in widths]
    assert counts[0] == 4
    assert max(counts) > 20


@pytest.mark.parametrize("memory", [0, 3])
def test_memory_is_given_in_mebibytes(memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []

    class Watched(Feed):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            given.append(self.budget)

    monkeypatch.setattr(phase, "Feed", Watched)
    small_model(ForwardPPO, local_memory=memory).learn(16)
    assert given == [memory * 2**20]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_memory_changes_nothing_but_memory(algorithm: Any) -> None:
    states = [hidden_state(cnn_model(algorithm, local_memory=memory).learn(32)) for memory in (0, 64)]
    for name, value in states[0].items():
        th.testing.assert_close(states[1][name], value, rtol=1e-3, atol=5e-4, msg=name)


def test_layers_that_run_for_those_above_are_at_rest() -> None:
    """Dropout is off and statistics of BatchNorm stay, when a layer runs again since what it says was not held."""

    class Noisy(Convolutions):
        def __init__(self, observation_space: spaces.Box) -> None:
            super().__init__(observation_space)
            self.norm, self.dropout = nn.BatchNorm2d(8), nn.Dropout(0.5)

        def forward(self, observations: th.Tensor) -> th.Tensor:
            hidden = self.dropout(self.norm(self.stem(observations)).relu())
            return self.out(self.inner[0](hidden).relu().flatten(1)).relu()

    statistics = []
    for memory in (0, 64):
        model = cnn_model(ForwardPPO, Noisy, local_memory=memory, local_epochs=1, local_batch_size=8).learn(16)
        norm = model.policy.features_extractor.norm
        assert norm.num_batches_tracked == 2
        statistics.append(norm.running_mean.clone())
    th.testing.assert_close(*statistics)


def test_a_dropout_of_two_layers_is_off_in_the_lower_one() -> None:
    """When that one runs again for a step of the upper one."""
    seen: list[tuple[bool, int]] = []

    class Watched(nn.Dropout):
        def forward(self, inputs: th.Tensor) -> th.Tensor:
            seen.append((self.training, inputs.shape[1]))
            return super().forward(inputs)

    class Twice(Convolutions):
        def __init__(self, observation_space: spaces.Box) -> None:
            super().__init__(observation_space)
            self.dropout = Watched(0.5)

        def forward(self, observations: th.Tensor) -> th.Tensor:
            hidden = self.dropout(self.stem(observations).relu())
            return self.dropout(self.out(hidden.flatten(1)).relu())

    model = cnn_model(ForwardPPO, Twice, local_memory=0, local_epochs=1, local_batch_size=8)
    model.learn(16)
    lower = [training for training, channels in seen if channels == 8]
    upper = [training for training, channels in seen if channels == 16]
    # Two steps of either, and the lower one runs for those of the upper one, too
    assert (sum(lower), sum(upper)) == (2, 2)


class Normed(Convolutions):
    """What BatchNorm says of a row depends on the others."""

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.out(self.norm(self.stem(observations)).relu().flatten(1)).relu()


@pytest.mark.parametrize(("extractor", "guided"), [(Convolutions, True), (Convolutions, False), (Normed, True)])
def test_steps_in_parts_are_those_of_the_whole_minibatch(
    extractor: Any, guided: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a minibatch of images is more than a forward pass takes."""
    sizes: dict[str, set[int]] = {}
    limits: set[float] = set()
    gradients, step = Block.gradients, Block.step

    def watched(self: Block, inputs: Any, *args: Any) -> Any:
        sizes.setdefault(self.name, set()).add(len(inputs))
        return gradients(self, inputs, *args)

    def watched_step(self: Block, *args: Any) -> Any:
        limits.add(args[-1])
        return step(self, *args)

    monkeypatch.setattr(Block, "gradients", watched)
    monkeypatch.setattr(Block, "step", watched_step)
    states = []
    # Adam makes much of the rounding errors of a gradient near zero
    kwargs = {"features_extractor_class": extractor, "optimizer_class": th.optim.SGD}
    for rows in (512, 5):
        sizes.clear()
        monkeypatch.setattr("sb3_forward.local.network.PASS_BYTES", rows * 4 * 3 * 36 * 36)
        model = small_model(ForwardPPO, "CnnPolicy", local_learning_rate=0.1, policy_kwargs=kwargs)
        assert model.network.pass_rows == rows
        run = hidden_phase(model, epochs=1, batch_size=16, max_grad_norm=0.5)
        observations = sample("CnnPolicy", 32)
        th.manual_seed(0)
        learn(run, observations, signals(32) if guided else {})
        states.append((hidden_state(model), run.records))
    for name, value in states[0][0].items():
        th.testing.assert_close(states[1][0][name], value, rtol=1e-3, atol=1e-5, msg=name)
    for name, record in states[0][1].items():
        assert states[1][1][name].loss == pytest.approx(record.loss, rel=1e-3)
        assert states[1][1][name].grad_norm == pytest.approx(record.grad_norm, rel=1e-3)
    assert limits == {0.5}
    first, *_, last = model.network.blocks
    assert sizes[first.name] == ({5, 1} if guided and not first.has_batch_norm else {16})
    assert sizes[last.name] == {16}, "its inputs are small"
    assert sizes["extractor.0"] == ({5, 1} if guided and extractor is Convolutions else {16})


def test_pairs_of_rows_are_compared_over_the_whole_minibatch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The unguided loss is none of single rows."""
    seen: list[int] = []
    local_step = Block.local_step

    def watched(self: Block, inputs: Any, *args: Any) -> Any:
        seen.append(len(inputs))
        return local_step(self, inputs, *args)

    monkeypatch.setattr(Block, "local_step", watched)
    model = cnn_model(ForwardPPO, n_steps=32, local_batch_size=16, guidance_coef=0.5)
    model.network.pass_rows = 5
    model.learn(32)
    assert set(seen) == {16}


def test_images_go_into_the_phase_as_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more rows than a forward pass takes are floats at a time."""
    model = cnn_model(ForwardPPO, local_memory=0)
    model.network.pass_rows = 4
    asked: list[int] = []
    whole = reader._observations

    def watched(buffer: Any, device: Any, index: th.Tensor) -> Any:
        rows = whole(buffer, device, index)
        assert isinstance(rows, th.Tensor)
        assert rows.dtype == th.uint8
        asked.append(len(rows))
        return rows

    monkeypatch.setattr(reader, "_observations", watched)
    monkeypatch.setattr(reader, "WINDOW_ROWS", 1)  # else a copy of so few rows is kept
    model.learn(16)
    # But for those that go into the sample
    assert sorted(set(asked)) in ([1, 4, 16], [1, 2, 4, 16])


def peak_of_an_update(depth: int, local_memory: int, **kwargs: Any) -> int:
    extractor = type("Deep", (Convolutions,), {"depth": depth})
    model = ForwardPPO(
        ForwardCnnPolicy,
        RandomEnv(OBSERVATIONS["CnnPolicy"], ACTIONS["Discrete"]),
        n_steps=512,
        batch_size=64,
        n_epochs=1,
        local_memory=local_memory,
        seed=0,
        device="cpu",
        policy_kwargs={"features_extractor_class": extractor},
        **kwargs,
    )
    model.network.pass_rows = 32
    model.learn(1024)
    train, model.train = model.train, lambda: None  # type: ignore[method-assign]
    model.learn(512, reset_num_timesteps=False)
    return peak_on_cpu(train)


@pytest.mark.filterwarnings("ignore")
def test_peak_does_not_grow_with_the_number_of_convolutions() -> None:
    assert peak_of_an_update(9, 1) < 1.1 * peak_of_an_update(3, 1)


@pytest.mark.filterwarnings("ignore")
def test_peak_has_no_room_for_images_as_floats() -> None:
    """Those of 512 rows have 7.6 MiB, which may be held in the second case."""
    nothing, everything = (peak_of_an_update(3, memory, guidance_coef=0.0) for memory in (0, 64))
    assert everything < nothing + 1e6


def test_a2c_learns_from_images() -> None:
    model = cnn_model(ForwardA2C, n_steps=8, local_interval=24)
    before = hidden_state(model)
    model.learn(48)
    assert all(not th.equal(value, before[name]) for name, value in hidden_state(model).items())
    assert all(np.isfinite(parameter.detach().numpy()).all() for parameter in model.policy.parameters())


def test_bytes_of_a_row_are_those_that_the_network_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    network: HiddenNetwork = small_model(ForwardPPO, "CnnPolicy").network
    assert network.row_bytes == 4 * 3 * 36 * 36
    assert network.pass_rows == 2**22 // network.row_bytes
    assert small_model(ForwardPPO).network.pass_rows == 512
    assert small_model(ForwardPPO, "MultiInputPolicy").network.row_bytes == 4 * (3 * 36 * 36 + 4 + 3)
    monkeypatch.setattr("sb3_forward.local.network.PASS_BYTES", 1000)
    assert small_model(ForwardPPO, "CnnPolicy").network.pass_rows == 1
