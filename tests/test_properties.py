"""
What holds for every configuration, not only for those that somebody thought of: hypothesis draws the network, the spaces, the
losses, the optimizer and the sizes.
"""

import inspect
import io
import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

from sb3_forward import ForwardPPO
from sb3_forward.local.blocks import Block
from sb3_forward.local.loss import as_matrix
from sb3_forward.on_policy import ForwardOnPolicyAlgorithm
from tests.envs import ACTIONS, ALGORITHMS, OBSERVATIONS, RandomEnv, hidden_state, small_model
from tests.test_save_load import assert_equal, assert_goes_on_equally, go_on

pytestmark = pytest.mark.slow


class OwnExtractor(BaseFeaturesExtractor):
    """A user's own `forward`, with a normalisation in front and an inner branch: one block."""

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space, 8)
        self.norm = nn.BatchNorm1d(observation_space.shape[0])
        self.wide, self.narrow = nn.Linear(observation_space.shape[0], 8), nn.Linear(observation_space.shape[0], 8)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        normalised = self.norm(observations)
        return th.tanh(self.wide(normalised)) + self.narrow(normalised)


WIDTHS = st.lists(st.integers(4, 9), max_size=3)
NET_ARCHS = WIDTHS | st.fixed_dictionaries({"pi": WIDTHS, "vf": WIDTHS}) | st.fixed_dictionaries({"vf": WIDTHS})
ACTIVATIONS = (nn.Tanh, nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.PReLU, nn.Sigmoid)
OPTIMIZERS: tuple[tuple[type[th.optim.Optimizer] | None, dict[str, Any]], ...] = (
    (None, {}),
    (th.optim.SGD, {}),
    (th.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    (th.optim.Adam, {"amsgrad": True, "betas": (0.5, 0.9)}),
    (th.optim.AdamW, {"weight_decay": 0.1}),
    (RMSpropTFLike, {"alpha": 0.9, "eps": 1e-5}),
)


@st.composite
def policy_kwargs(draw: st.DrawFn, policy: str) -> dict[str, Any]:
    kwargs: dict[str, Any] = {
        "net_arch": draw(NET_ARCHS),
        "activation_fn": draw(st.sampled_from(ACTIVATIONS)),
        "share_features_extractor": draw(st.booleans()),
        "ortho_init": draw(st.booleans()),
    }
    optimizer_class, optimizer_kwargs = draw(st.sampled_from(OPTIMIZERS))
    if optimizer_class is not None:
        kwargs.update(optimizer_class=optimizer_class, optimizer_kwargs=optimizer_kwargs)
    if policy == "CnnPolicy":
        kwargs["features_extractor_kwargs"] = {"features_dim": 8}
    elif policy == "MultiInputPolicy":
        kwargs["features_extractor_kwargs"] = {"cnn_output_dim": 8}
    elif draw(st.booleans()):
        kwargs["features_extractor_class"] = OwnExtractor
    return kwargs


@st.composite
def configurations(draw: st.DrawFn) -> dict[str, Any]:
    """Algorithm, policy, spaces and keyword arguments of a small model."""
    algorithm = draw(st.sampled_from(ALGORITHMS))
    # Images are slow: one draw of four
    policy = draw(st.sampled_from(["MlpPolicy", "MlpPolicy", "CnnPolicy", "MultiInputPolicy"]))
    actions = draw(st.sampled_from(list(ACTIONS)))
    kwargs: dict[str, Any] = {
        "n_steps": draw(st.integers(3, 17)),
        "learning_rate": draw(st.sampled_from([0.0, 1e-3, 0.1])),
        "local_learning_rate": draw(st.sampled_from([1e-3, 0.03, "lin_0.01"])),
        "head_learning_rate_scale": draw(st.sampled_from([0.5, 3.0])),
        "local_interval": 1,
        "local_epochs": draw(st.integers(1, 2)),
        "local_batch_size": draw(st.integers(3, 20)),
        "local_memory": draw(st.integers(0, 1)),
        "local_loss": draw(st.sampled_from(["stress", "strain"])),
        "disparity": draw(st.sampled_from(["identity", "gaussian"])),
        "guidance_coef": draw(st.sampled_from([0.0, 0.5, 1.0])),
        "whiten_heads": draw(st.booleans()),
        "normalize_advantage": draw(st.booleans()),
        "ent_coef": draw(st.sampled_from([0.0, 0.01])),
        "seed": draw(st.integers(0, 2**32 - 1)),
        "policy_kwargs": draw(policy_kwargs(policy)),
    }
    if algorithm is ForwardPPO:
        kwargs.update(batch_size=draw(st.integers(2, 20)), n_epochs=draw(st.integers(1, 3)))
        kwargs["clip_range_vf"] = draw(st.sampled_from([None, 0.2]))
        kwargs["target_kl"] = draw(st.sampled_from([None, 1e-9, 0.05]))
    if actions == "Box" and draw(st.booleans()):
        kwargs.update(use_sde=True, sde_sample_freq=draw(st.sampled_from([-1, 3])))
        kwargs["policy_kwargs"].update(squash_output=draw(st.booleans()), full_std=draw(st.booleans()))
    return {
        "algorithm": algorithm,
        "policy": policy,
        "actions": actions,
        "n_envs": draw(st.integers(1, 3)),
        "kwargs": kwargs,
    }


def build(configuration: dict[str, Any], **changes: Any) -> Any:
    """A new model of a configuration, on environments of its own."""
    policy, actions = configuration["policy"], ACTIONS[configuration["actions"]]
    env = DummyVecEnv([lambda: RandomEnv(OBSERVATIONS[policy], actions) for _ in range(configuration["n_envs"])])
    kwargs = {**configuration["kwargs"], **changes}
    kwargs["policy_kwargs"] = dict(kwargs["policy_kwargs"])
    with warnings.catch_warnings():
        # Minibatches that do not divide the rollout are the point here
        warnings.filterwarnings("ignore", "You have specified a mini-batch size")
        return configuration["algorithm"](policy, env, device="cpu", **kwargs)


def train(model: Any, rollouts: int = 1) -> Any:
    return model.learn(rollouts * model.n_steps * model.n_envs, reset_num_timesteps=False)


def moved(before: dict[str, th.Tensor], after: dict[str, th.Tensor]) -> set[str]:
    """Names of the blocks of which a parameter has changed."""
    return {name.rpartition("/")[0] for name, value in before.items() if not th.equal(value, after[name])}


def silent_blocks(model: Any) -> set[str]:
    """Names of the blocks that say the same of every row of the last rollout, as dead ReLUs do: nothing can move them."""
    silent = set()

    def visit(block: Block, inputs: Any) -> Any:
        outputs = as_matrix(block.forward(inputs))
        if th.equal(outputs, outputs[:1].expand_as(outputs)):
            silent.add(block.name)
        return block.forward(inputs)

    observations = next(model.rollout_buffer.get()).observations
    with th.no_grad():
        model.network.latents(observations, visit)
    return silent


@given(configurations())
def test_training(configuration: dict[str, Any]) -> None:
    """All stays finite, every block moves, and every parameter has exactly one optimizer."""
    model = build(configuration)
    before = hidden_state(model)
    train(model, 2)
    for name, value in model.policy.state_dict().items():
        assert value.isfinite().all(), name
    logged = model.logger.name_to_value
    assert all(math.isfinite(value) for key, value in logged.items() if key != "train/explained_variance")
    blocks = model.network.blocks
    assert {block.name for block in blocks} - silent_blocks(model) <= moved(before, hidden_state(model))
    optimizers = [model.heads.optimizer, *(block.optimizer for block in blocks)]
    owned = [id(parameter) for optimizer in optimizers for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(owned) == sorted(map(id, model.policy.parameters()))


@given(configurations())
def test_nothing_moves_without_learning_rate(configuration: dict[str, Any]) -> None:
    """Frozen blocks and heads at learning rate 0 stay bit for bit what they are."""
    model = build(configuration, hidden_training="frozen", learning_rate=0.0)
    before = {name: value.clone() for name, value in model.policy.named_parameters()}
    train(model, 2)
    for name, value in model.policy.named_parameters():
        assert th.equal(value, before[name]), name


@given(configurations())
def test_gradients_of_the_heads_stop_at_the_heads(configuration: dict[str, Any]) -> None:
    """Whatever the heads are trained on, the first update of hidden blocks that they do not guide is the same."""
    # One after the other, as they draw from the same generators
    model = train(build(configuration, guidance_coef=0.0))
    unbounded = {"clip_range_vf": None, "target_kl": None} if configuration["algorithm"] is ForwardPPO else {}
    other = train(build(configuration, guidance_coef=0.0, learning_rate=0.3, ent_coef=0.5, vf_coef=3.0, **unbounded))
    assert not moved(hidden_state(model), hidden_state(other))
    assert not all(map(th.equal, model.heads.parameters, other.heads.parameters))
    assert all(parameter.grad is None for block in model.network.blocks for parameter in block.parameters)


@given(configurations())
def test_same_seed_same_weights(configuration: dict[str, Any]) -> None:
    first, second = (train(build(configuration), 2) for _ in range(2))
    assert_equal(first.get_parameters(), second.get_parameters())


@given(configurations())
def test_saved_model_goes_on_as_if_never_stopped(configuration: dict[str, Any]) -> None:
    model = train(build(configuration))
    file = io.BytesIO()
    model.save(file)
    file.seek(0)
    resumed = configuration["algorithm"].load(file, env=model.env, device="cpu")
    assert_equal(resumed.get_parameters(), model.get_parameters())
    for running in (model, resumed):
        go_on(running, model.n_steps * model.n_envs)
    assert_goes_on_equally(resumed, model)


NUMBERS = (
    st.integers(-100, 100)
    | st.floats()
    | st.sampled_from([0.5, 1e-30, 1e29, 1e38, 1e300, 10**30, 10**400])
    | st.fractions()
    | st.floats(width=32).map(np.float32)
    | st.integers(-5, 100).map(np.int16)
    | st.floats(0, 1).map(np.array)
    | st.floats(0, 1).map(th.tensor)
)
TEXTS = st.text(max_size=8) | st.sampled_from(
    [
        "stress",
        "strain",
        "identity",
        "gaussian",
        "local",
        "frozen",
        "1e-3",
        "lin_1e-3",
        "lin_nan",
        "lin_-1",
        "lin_",
        "_1",
        "True",
    ]
)
FUNCTIONS = st.sampled_from([abs, print, dict, float, lambda progress: 0.01 * progress, lambda: 0.01, lambda progress: "0.01"])
SCALARS = NUMBERS | TEXTS | FUNCTIONS | st.booleans() | st.complex_numbers() | st.binary(max_size=4) | st.none()
ANYTHING = (
    SCALARS
    | st.lists(SCALARS, max_size=3)
    | st.tuples(SCALARS)
    | st.dictionaries(st.text(max_size=3), SCALARS, max_size=2)
    | st.sets(st.text(max_size=3), max_size=2)
    | st.lists(st.floats(), max_size=3).map(np.array)
    | st.lists(st.floats(), max_size=3).map(th.tensor)
    | st.builds(object)
    | st.sampled_from([np.bool_(True), np.str_("stress"), np.datetime64("2020"), np.timedelta64(5, "s"), NotImplemented])
)
# What is of the right type half of the time: of any value, too few would ever be accepted
LIKELY: dict[str, Any] = {
    "local_learning_rate": NUMBERS | TEXTS | FUNCTIONS,
    "head_learning_rate_scale": NUMBERS,
    "local_interval": NUMBERS,
    "local_epochs": st.integers(1, 4),
    "local_batch_size": NUMBERS,
    "local_memory": NUMBERS,
    "local_loss": TEXTS,
    "disparity": TEXTS,
    "guidance_coef": NUMBERS,
    "hidden_training": TEXTS,
    "whiten_heads": st.booleans(),
    "bias_init": NUMBERS,
}
# So many passes take as long as they take; other runs are of a few dozen steps
MANY_EPOCHS = 100


def test_any_value_is_drawn_for_every_parameter() -> None:
    own = inspect.signature(ForwardOnPolicyAlgorithm).parameters.values()
    assert set(LIKELY) == {parameter.name for parameter in own if parameter.kind is parameter.KEYWORD_ONLY} | {"bias_init"}


@pytest.mark.filterwarnings("ignore:No hidden layer has moved")
@pytest.mark.parametrize("name", LIKELY)
@given(st.sampled_from(ALGORITHMS), st.data())
def test_builds_or_says_what_to_change(name: str, algorithm: Any, data: st.DataObject) -> None:
    """Any value of any parameter of ours is either refused by its name at once, or trains, or diverges and says so."""
    value: Any = data.draw(LIKELY[name] if data.draw(st.booleans()) else ANYTHING)
    given = {"policy_kwargs": {"bias_init": value}} if name == "bias_init" else {name: value}
    refused = diverged = None
    try:
        model = small_model(algorithm, **given)
    except (TypeError, ValueError) as error:
        refused = str(error)
    if refused is not None:
        assert refused.startswith(f"`{name}` must be ")
        assert f"({type(value).__name__})" in refused
        return
    if model.local_epochs > MANY_EPOCHS:
        return
    try:
        train(model)
    except ValueError as error:
        diverged = str(error)
    # No finite number is too large a learning rate beforehand
    assert diverged is None or ("learning_rate" in name and "ower `" in diverged), diverged
    assert all(parameter.isfinite().all() for parameter in model.policy.parameters())
