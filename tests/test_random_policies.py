"""
What holds for policies of any make: hypothesis composes them of methods, heads, extractors, optimizers and numbers that users
write, and all of them are trained as under SB3.
"""

import io
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn
from torch.nn.utils import parametrizations, weight_norm

from sb3_forward import ForwardPolicy, ForwardPPO, on_policy
from sb3_forward.heads.heads import Heads
from sb3_forward.heads.training import CachedRollout, HeadTraining
from sb3_forward.rollouts.history import WINDOW_ROWS
from tests.envs import ACTIONS, ALGORITHMS, VECTOR, RandomEnv
from tests.test_own_policies import OwnPolicy, decayed

pytestmark = pytest.mark.slow

OBSERVATIONS: dict[str, spaces.Space] = {
    "vector": VECTOR,
    "two vectors": spaces.Dict({"vector": VECTOR, "other": spaces.Box(-1.0, 1.0, (3,), np.float32)}),
}
WIDTH = 8
N_STEPS, N_ENVS = 16, 2


# === Extractors ===


class Extractor(BaseFeaturesExtractor):
    """A layer for each vector, and after them what the subclass has. Plain: the vectors themselves."""

    body = False

    def __init__(self, observation_space: spaces.Space, numbers: str, activation: type[nn.Module], dropout: float) -> None:
        parts = observation_space.spaces if isinstance(observation_space, spaces.Dict) else {"vector": observation_space}
        widths = {name: math.prod(part.shape or ()) for name, part in parts.items()}
        super().__init__(observation_space, WIDTH if self.body else sum(widths.values()))
        self.reads = th.float64 if numbers == "double" else th.float32
        self.gives = th.float32 if numbers == "single" else th.float64
        self.dropout = nn.Dropout(dropout)
        if self.body:
            self.stems = nn.ModuleDict({name: nn.Linear(width, WIDTH) for name, width in widths.items()})
            self.activation = activation()
            self.make()

    def make(self) -> None:
        """Layers after the first."""

    def run(self, hidden: th.Tensor) -> th.Tensor:
        return hidden

    def forward(self, observations: Any) -> th.Tensor:
        parts = observations if isinstance(observations, dict) else {"vector": observations}
        parts = {name: part.to(self.reads) for name, part in parts.items()}
        if not self.body:
            return (th.cat(list(parts.values()), dim=1) if len(parts) > 1 else parts["vector"]).to(self.gives)
        first, *others = (self.activation(self.stems[name](part)) for name, part in parts.items())
        for other in others:
            first = first + other
        return self.run(self.dropout(first)).to(self.gives)


class Stem(Extractor):
    body = True


class Chain(Stem):
    def make(self) -> None:
        self.net = nn.Sequential(nn.Linear(WIDTH, 6), nn.Tanh(), nn.Linear(6, WIDTH), nn.Tanh())

    def run(self, hidden: th.Tensor) -> th.Tensor:
        return self.net(hidden)


class Residual(Stem):
    def make(self) -> None:
        self.layer = nn.Linear(WIDTH, WIDTH)

    def run(self, hidden: th.Tensor) -> th.Tensor:
        return hidden + th.tanh(self.layer(hidden))


class Attention(Stem):
    """Over the entries of the features, two by two."""

    def make(self) -> None:
        self.attention = nn.MultiheadAttention(2, 1, batch_first=True)

    def run(self, hidden: th.Tensor) -> th.Tensor:
        entries = hidden.reshape(-1, WIDTH // 2, 2)
        attended, _ = self.attention(entries, entries, entries)
        return th.tanh(attended.flatten(1))


class Reusing(Stem):
    """The activation is that of the first layers, whether it has parameters or not; so is a normalisation."""

    def make(self) -> None:
        self.layers = nn.ModuleList([nn.Linear(WIDTH, WIDTH) for _ in range(2)])
        self.norm = nn.LayerNorm(WIDTH)

    def run(self, hidden: th.Tensor) -> th.Tensor:
        for layer in self.layers:
            hidden = self.activation(self.norm(layer(hidden)))
        return hidden


class Recurring(Stem):
    """A layer is used twice, with another one between."""

    def make(self) -> None:
        self.first, self.second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def run(self, hidden: th.Tensor) -> th.Tensor:
        return th.tanh(self.first(th.tanh(self.second(th.tanh(self.first(hidden))))))


EXTRACTORS = (Extractor, Stem, Chain, Residual, Attention, Reusing, Recurring)


class Swish(nn.Module):
    """With a slope that is learned."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(th.ones(1))

    def forward(self, inputs: th.Tensor) -> th.Tensor:
        return inputs * th.sigmoid(self.slope * inputs)


# All are bent everywhere: of a unit that is linear on all rows, as a ReLU's may be, a bias moves no distance
ACTIVATIONS = (nn.Tanh, nn.GELU, Swish)


# === Heads ===


def hook_outputs(head: Any) -> Any:
    head.register_forward_hook(lambda module, inputs, output: 0.25 * output)
    return head


def hook_inputs(head: Any) -> Any:
    head.register_forward_pre_hook(lambda module, inputs: (0.5 * inputs[0],))
    return head


def deep(head: Any) -> nn.Module:
    return nn.Sequential(nn.Linear(head.in_features, 6), nn.Tanh(), nn.Linear(6, head.out_features)).to(head.weight.dtype)


# From SB3's linear head to another one
HEADS: dict[str, Callable[[Any], nn.Module]] = {
    "as it is": lambda head: head,
    "plain": lambda head: nn.Linear(head.in_features, head.out_features).to(head.weight.dtype),
    "tanh": lambda head: nn.Sequential(head, nn.Tanh()),
    "softplus": lambda head: nn.Sequential(head, nn.Softplus()),
    "parametrised": parametrizations.weight_norm,
    "weight_norm": weight_norm,
    "hooked": hook_outputs,
    "inputs hooked": hook_inputs,
    "deep": deep,
    "frozen": lambda head: head.requires_grad_(False),
}
# Of these, the weights can be used without a call
WITH_WEIGHTS = ("as it is", "plain", "parametrised")


# === Policies ===


class Composition(NamedTuple):
    """What a policy is made of."""

    methods: str  # "stock" are SB3's; "latent" for a distribution, "written" for everything of its own
    masks: bool  # actions by what is observed
    temperature: float
    value_scale: float
    reads_observations: bool  # the action head, beside the features
    calls_head: bool  # else its weights are used without a call
    extracts: bool  # features in a way of its own
    action_head: str
    value_head: str
    built: tuple[bool, bool]  # whether these heads come in `_build`; else they are exchanged in a model that is built
    numbers: str  # "mixed" is a features extractor in single precision under heads in double
    by_hand: bool  # the optimizer, with groups
    dropout: float


class Built(ForwardPolicy):
    """A policy with heads, numbers and an optimizer of a composition."""

    composition: Composition
    action_net: Any
    value_net: Any
    mlp_extractor: Any

    def _build(self, lr_schedule: Any) -> None:
        super()._build(lr_schedule)
        own = self.composition
        for stack in (self.mlp_extractor.policy_net, self.mlp_extractor.value_net):
            if own.dropout > 0 and len(stack) > 0:
                stack.append(nn.Dropout(own.dropout))
        if own.reads_observations:
            self.action_net = nn.Linear(self.action_net.in_features + VECTOR.shape[0], self.action_net.out_features)
        if own.numbers != "single":
            self.double()
        if own.numbers == "mixed":
            for extractor in (self.pi_features_extractor, self.vf_features_extractor):
                extractor.float()
        self.exchange_heads(built=True)
        if own.by_hand:
            self.optimizer = decayed(self.parameters(), lr_schedule(1))
        else:
            self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]

    def exchange_heads(self, built: bool) -> None:
        own = self.composition
        if own.built[0] == built:
            self.action_net = HEADS[own.action_head](self.action_net)
        if own.built[1] == built:
            self.value_net = HEADS[own.value_head](self.value_net)


def extract_features(policy: Any, obs: Any, features_extractor: Any = None) -> Any:
    """Features in a way of one's own."""
    features = ForwardPolicy.extract_features(policy, obs, features_extractor)
    return 0.5 * features if isinstance(features, th.Tensor) else tuple(0.5 * part for part in features)


class Latent(Built):
    """SB3's methods, with a distribution of its own."""

    def _get_action_dist_from_latent(self, latent_pi: th.Tensor) -> Any:
        return self.said(self.action_net(latent_pi) / self.composition.temperature)

    def said(self, outputs: th.Tensor) -> Any:
        spread = (self.log_std,) if isinstance(self.action_space, spaces.Box) else ()
        return self.action_dist.proba_distribution(outputs, *spread)


class Written(Latent, OwnPolicy):
    """All methods written out."""

    def distribution(self, obs: Any, latent_pi: th.Tensor) -> Any:
        own = self.composition
        vector = obs["vector"] if isinstance(obs, dict) else obs
        if own.reads_observations:
            latent_pi = th.cat([latent_pi, vector.to(latent_pi.dtype)], dim=1)
        outputs = self.action_net(latent_pi) if own.calls_head else nn.functional.linear(latent_pi, self.action_net.weight)
        if own.masks:
            mask = th.zeros_like(outputs, dtype=th.bool)
            mask[:, 0] = vector[:, 0] > 0
            outputs = outputs.masked_fill(mask, 0.0 if isinstance(self.action_space, spaces.Box) else -1e8)
        return self.said(outputs / own.temperature)

    def values(self, latent_vf: th.Tensor) -> th.Tensor:
        return self.composition.value_scale * self.value_net(latent_vf)


BASES = {"stock": Built, "latent": Latent, "written": Written}
OPTIMIZERS: tuple[Any, ...] = (None, th.optim.SGD, th.optim.AdamW, decayed)


class Configuration(NamedTuple):
    """A model to build."""

    algorithm: Any
    composition: Composition
    observations: str
    actions: str
    policy_kwargs: dict[str, Any]
    kwargs: dict[str, Any]


@st.composite
def compositions(draw: st.DrawFn) -> Composition:
    methods = draw(st.sampled_from(list(BASES)))
    written = methods == "written"
    action_head = draw(st.sampled_from(list(HEADS)))
    return Composition(
        methods=methods,
        masks=written and draw(st.booleans()),
        temperature=draw(st.sampled_from([1.0, 0.5])) if methods in ("latent", "written") else 1.0,
        value_scale=draw(st.sampled_from([1.0, 10.0])) if written else 1.0,
        reads_observations=written and draw(st.booleans()),
        calls_head=not (written and action_head in WITH_WEIGHTS and draw(st.booleans())),
        extracts=draw(st.sampled_from([False, False, True])),
        action_head=action_head,
        value_head=draw(st.sampled_from(list(HEADS))),
        built=(draw(st.booleans()), draw(st.booleans())),
        numbers=draw(st.sampled_from(["single", "double", "mixed"])),
        by_hand=draw(st.sampled_from([False, False, True])),
        dropout=draw(st.sampled_from([0.0, 0.5])),
    )


@st.composite
def configurations(draw: st.DrawFn) -> Configuration:
    """Policies, and how they are trained."""
    algorithm = draw(st.sampled_from(ALGORITHMS))
    composition = draw(compositions())
    activation = draw(st.sampled_from(ACTIVATIONS))
    policy_kwargs: dict[str, Any] = {
        "net_arch": draw(st.sampled_from([[], [6], [7, 6], {"pi": [6], "vf": [5, 5]}, {"vf": [6]}])),
        "activation_fn": activation,
        "ortho_init": False,  # with SB3's, what masks and heads of another make change is too little to be told
        "share_features_extractor": draw(st.booleans()),
        "features_extractor_class": draw(st.sampled_from(EXTRACTORS)),
        "features_extractor_kwargs": {
            "numbers": composition.numbers,
            "activation": activation,
            "dropout": composition.dropout,
        },
    }
    optimizer_class = draw(st.sampled_from(OPTIMIZERS))
    if optimizer_class is not None:
        policy_kwargs.update(optimizer_class=optimizer_class, optimizer_kwargs={})
    kwargs: dict[str, Any] = {
        "n_steps": N_STEPS,
        "learning_rate": 0.02,
        "local_learning_rate": 0.02,
        "local_interval": draw(st.sampled_from([1, 64])),
        "local_epochs": draw(st.integers(1, 2)),
        "local_batch_size": draw(st.sampled_from([8, 32])),
        "local_loss": draw(st.sampled_from(["stress", "strain"])),
        "guidance_coef": draw(st.sampled_from([0.0, 0.5, 1.0])),
        "whiten_heads": draw(st.booleans()),
        "ent_coef": draw(st.sampled_from([0.0, 0.01])),
        "seed": draw(st.integers(0, 2**32 - 1)),
    }
    if algorithm is ForwardPPO:
        kwargs.update(batch_size=N_STEPS * N_ENVS, n_epochs=1)
    observations, actions = draw(st.sampled_from(list(OBSERVATIONS))), draw(st.sampled_from(["Discrete", "Box"]))
    return Configuration(algorithm, composition, observations, actions, policy_kwargs, kwargs)


def build(configuration: Configuration, hidden_training: str) -> Any:
    """A new model, with the heads that come after it is built."""
    own = configuration
    env = DummyVecEnv([lambda: RandomEnv(OBSERVATIONS[own.observations], ACTIONS[own.actions])] * N_ENVS)
    attributes: dict[str, Any] = {"composition": own.composition}
    if own.composition.extracts:
        attributes["extract_features"] = extract_features
    policy = type("Drawn", (BASES[own.composition.methods],), attributes)
    kwargs = {**own.kwargs, "policy_kwargs": dict(own.policy_kwargs), "hidden_training": hidden_training}
    model = own.algorithm(policy, env, device="cpu", **kwargs)
    model.policy.exchange_heads(built=False)
    return model


def learn(model: Any, rollouts: int = 2) -> Any:
    return model.learn(rollouts * N_STEPS * N_ENVS, reset_num_timesteps=False)


@contextmanager
def quiet() -> Iterator[None]:
    """Without warnings of networks that cannot be split, and of ways to write policies that are no longer recommended."""
    with warnings.catch_warnings():
        for message in (
            "(?s).*could not be split",
            ".*weight_norm.* is deprecated",
            "Provided features_extractor",
            "No hidden",
        ):
            warnings.filterwarnings("ignore", message)
        yield


def close(found: th.Tensor, expected: th.Tensor) -> None:
    th.testing.assert_close(found.flatten(), expected.flatten().to(found.dtype), rtol=1e-5, atol=1e-5)


def assert_finite(model: Any) -> None:
    for name, value in model.policy.state_dict().items():
        assert value.isfinite().all(), name
    logged = model.logger.name_to_value
    assert all(math.isfinite(value) for key, value in logged.items() if key != "train/explained_variance")


def moved(configuration: Configuration, hidden_training: str) -> tuple[Any, set[str]]:
    """A trained model, and which of its parameters have moved."""
    model = build(configuration, hidden_training)
    before = {name: parameter.detach().clone() for name, parameter in model.policy.named_parameters()}
    if hidden_training == "backprop" and not any(parameter.requires_grad for parameter in model.policy.parameters()):
        return model, set()  # SB3 has nothing to derive its loss by, and says so
    learn(model, WINDOW_ROWS // (N_STEPS * N_ENVS))  # the values are fitted once so many rows have come
    return model, {name for name, parameter in model.policy.named_parameters() if not th.equal(parameter, before[name])}


@given(configurations())
def test_what_acted_is_what_is_trained(configuration: Configuration) -> None:
    """Before a step of the heads, they say of the rollout what the policy said when it acted; so do the values."""
    step, fit_values = HeadTraining.step, Heads.fit_values
    steps: list[Any] = []
    fits: list[tuple[th.Tensor, th.Tensor]] = []

    def watched_step(training: HeadTraining, batch: CachedRollout, objective: Any, max_grad_norm: float) -> bool:
        def watched(rows: CachedRollout, outputs: Any) -> Any:
            steps.append((outputs.log_prob, rows.old_log_prob, outputs.values, rows.old_values))
            return objective(rows, outputs)

        return step(training, batch, watched, max_grad_norm)

    def watched_fit(heads: Heads, features: th.Tensor, *args: Any, **kwargs: Any) -> None:
        if heads.fits_values:
            with th.no_grad():
                said = heads.policy.value_net(features).flatten()
            # A window has one step after the other, up to those of this rollout
            values = model.rollout_buffer.values if model.history.recent else model.rollout_buffer.values.T
            fits.append((said[-values.size :], th.as_tensor(values.flatten())))
        fit_values(heads, features, *args, **kwargs)

    watched = patch.multiple(on_policy, FIT_ROWS=1), patch.object(HeadTraining, "step", watched_step)
    with quiet(), watched[0], watched[1], patch.object(Heads, "fit_values", watched_fit):
        model = build(configuration, "frozen")
        for _ in range(2):
            learn(model, 1)
            assert abs(model.logger.name_to_value.get("train/approx_kl", 0.0)) < 1e-6
    assert len(steps) == 2
    for log_prob, old_log_prob, values, old_values in steps:
        close(log_prob, old_log_prob)
        if values is not None:
            close(values, old_values)
    for said, values in fits:
        close(said, values)
    assert len(fits) == 2 or steps[0][2] is not None
    assert_finite(model)


@given(configurations())
def test_what_moves_under_sb3_moves(configuration: Configuration) -> None:
    """And nothing else does; a file of the model acts as it does, and goes on."""
    with quiet():
        theirs = moved(configuration, "backprop")[1]
        model, ours = moved(configuration, "local")
        assert ours == theirs
        assert_finite(model)
        file = io.BytesIO()
        model.save(file)
        file.seek(0)
        if all(configuration.composition.built):
            loaded = configuration.algorithm.load(file, env=model.env, device="cpu")
        else:
            loaded = build(configuration, "local")
            loaded.set_parameters(file, device="cpu")
        space = OBSERVATIONS[configuration.observations]
        space.seed(0)
        drawn: list[Any] = [space.sample() for _ in range(8)]
        observations: Any = (
            {key: np.stack([row[key] for row in drawn]) for key in drawn[0]} if isinstance(drawn[0], dict) else np.stack(drawn)
        )
        actions = [own.predict(observations, deterministic=True)[0] for own in (model, loaded)]
        np.testing.assert_array_equal(*actions)
        learn(loaded, 1)
        assert_finite(loaded)
