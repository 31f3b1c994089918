"""Policies with methods of their own, and what user code does to their parameters: trained as under SB3, never otherwise."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

from sb3_forward import ForwardA2C, ForwardPolicy, ForwardPPO
from sb3_forward.heads.guidance import actor_guidance
from sb3_forward.rollouts.recorder import LatentRecorder
from tests.envs import ACTIONS, ALGORITHMS, VECTOR, RandomEnv, small_model


class OwnPolicy(ForwardPolicy):
    """SB3's, written out; subclasses say what they change."""

    action_net: Any
    mlp_extractor: Any

    def distribution(self, obs: th.Tensor, latent_pi: th.Tensor) -> Any:
        return self._get_action_dist_from_latent(latent_pi)

    def values(self, latent_vf: th.Tensor) -> th.Tensor:
        return self.value_net(latent_vf)

    def latents(self, obs: Any) -> tuple[th.Tensor, th.Tensor]:
        features = self.extract_features(obs)
        if self.share_features_extractor:
            return self.mlp_extractor(features)
        return self.mlp_extractor.forward_actor(features[0]), self.mlp_extractor.forward_critic(features[1])

    def forward(self, obs: th.Tensor, deterministic: bool = False) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        latent_pi, latent_vf = self.latents(obs)
        distribution = self.distribution(obs, latent_pi)
        actions = distribution.get_actions(deterministic=deterministic)
        return actions.reshape(-1, *self.action_space.shape), self.values(latent_vf), distribution.log_prob(actions)  # type: ignore[misc]

    def evaluate_actions(self, obs: Any, actions: th.Tensor) -> tuple[th.Tensor, th.Tensor, th.Tensor | None]:
        latent_pi, latent_vf = self.latents(obs)
        distribution = self.distribution(obs, latent_pi)
        return self.values(latent_vf), distribution.log_prob(actions), distribution.entropy()

    def get_distribution(self, obs: Any) -> Any:
        return self.distribution(obs, self.latents(obs)[0])

    def predict_values(self, obs: Any) -> th.Tensor:
        return self.values(self.latents(obs)[1])


class Masked(OwnPolicy):
    """The first action is never taken where the first entry of the observation is positive."""

    def distribution(self, obs: th.Tensor, latent_pi: th.Tensor) -> Any:
        mask = th.stack([obs[:, 0] > 0, obs[:, 0] > 2, obs[:, 0] > 2], dim=1)
        return self.action_dist.proba_distribution(self.action_net(latent_pi).masked_fill(mask, -1e8))


class Scaled(OwnPolicy):
    """Values in other units than those of the head."""

    def values(self, latent_vf: th.Tensor) -> th.Tensor:
        return 10 * self.value_net(latent_vf)


class Tempered(OwnPolicy):
    """The logits are divided by a temperature that may change between rollouts."""

    temperature = 1.0

    def distribution(self, obs: th.Tensor, latent_pi: th.Tensor) -> Any:
        return self.action_dist.proba_distribution(self.action_net(latent_pi) / self.temperature)


class Skipping(OwnPolicy):
    """The action head reads the observation beside the features."""

    def _build(self, lr_schedule: Any) -> None:
        super()._build(lr_schedule)
        self.action_net = nn.Linear(64 + 4, 3)
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]

    def distribution(self, obs: th.Tensor, latent_pi: th.Tensor) -> Any:
        return self.action_dist.proba_distribution(self.action_net(th.cat([latent_pi, obs.float()], dim=1)))


class Functional(OwnPolicy):
    """The weights of the action head are used without a call of it."""

    def distribution(self, obs: th.Tensor, latent_pi: th.Tensor) -> Any:
        logits = nn.functional.linear(latent_pi, self.action_net.weight, self.action_net.bias)
        return self.action_dist.proba_distribution(2 * logits)


class Both(Skipping, Scaled):
    """Values in other units, and an action head that cannot be asked by features alone."""


class Twice(OwnPolicy):
    """The action head is called twice."""

    def distribution(self, obs: th.Tensor, latent_pi: th.Tensor) -> Any:
        return self.action_dist.proba_distribution(self.action_net(latent_pi) - 0.5 * self.action_net(latent_pi.flip(1)))


class Keen(OwnPolicy):
    """Nothing but the entropy is another one."""

    def evaluate_actions(self, obs: Any, actions: th.Tensor) -> tuple[th.Tensor, th.Tensor, th.Tensor | None]:
        values, log_prob, entropy = super().evaluate_actions(obs, actions)
        assert entropy is not None
        return values, log_prob, 2 * entropy


class Exploring(OwnPolicy):
    """The actor acts by other features than it learns by."""

    def forward(self, obs: th.Tensor, deterministic: bool = False) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        latent_pi, latent_vf = self.mlp_extractor(self.extract_features(obs))
        distribution = self.distribution(obs, latent_pi + 0.5)
        actions = distribution.get_actions(deterministic=deterministic)
        return actions, self.values(latent_vf), distribution.log_prob(actions)


class Nudged(OwnPolicy):
    """A mean of continuous actions that is hardly another one."""

    def distribution(self, obs: th.Tensor, latent_pi: th.Tensor) -> Any:
        return self.action_dist.proba_distribution(self.action_net(latent_pi) + 0.003, self.log_std)


class Written(OwnPolicy):
    """Everything overridden, and nothing changed."""


POLICIES = {
    "masked": Masked,
    "scaled": Scaled,
    "skipping": Skipping,
    "functional": Functional,
    "both": Both,
    "twice": Twice,
    "keen": Keen,
    "exploring": Exploring,
}


class SameActions(BaseCallback):
    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        th.manual_seed(self.num_timesteps)


def trained(algorithm: Any, policy: Any, hidden_training: str, **kwargs: Any) -> tuple[Any, dict[str, th.Tensor]]:
    """After two rollouts of one minibatch each, and the parameters that it started with."""
    env = DummyVecEnv([lambda: RandomEnv(VECTOR, ACTIONS["Discrete"])] * 2)
    kwargs = {"learning_rate": 0.05, **kwargs}
    if issubclass(algorithm, ForwardPPO):
        kwargs.update(batch_size=32, n_epochs=3)
    model = algorithm(
        policy,
        env,
        n_steps=16,
        seed=0,
        device="cpu",
        max_grad_norm=1e9,
        whiten_heads=False,
        head_learning_rate_scale=1.0,
        hidden_training=hidden_training,
        policy_kwargs={"optimizer_class": th.optim.SGD, "optimizer_kwargs": {}},
        **kwargs,
    )
    if hidden_training == "backprop":
        for name, parameter in model.policy.named_parameters():
            parameter.requires_grad_(name.startswith(("action_net", "value_net")))
    before = {name: parameter.detach().clone() for name, parameter in model.policy.named_parameters()}
    return model.learn(64, SameActions()), before


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_heads_learn_what_the_policy_says(algorithm: Any, policy: str) -> None:
    """As under SB3 with frozen hidden layers, of a policy whose heads alone say something else."""
    vf_coef = 0.5 if issubclass(POLICIES[policy], Scaled) else 0.0
    kwargs = {"vf_coef": vf_coef, "learning_rate": 0.001 if vf_coef > 0 else 0.05, "ent_coef": 0.1}
    theirs, before = trained(algorithm, POLICIES[policy], "backprop", **kwargs)
    ours, _ = trained(algorithm, POLICIES[policy], "frozen", **kwargs)
    assert ours.heads.through_policy == (policy != "exploring")
    for name, value in theirs.policy.state_dict().items():
        th.testing.assert_close(ours.policy.state_dict()[name], value, rtol=1e-4, atol=1e-6, msg=name)
        learns = name.startswith("action_net") or (name.startswith("value_net") and vf_coef > 0)
        assert th.equal(value, before[name]) != learns, name
    logged = {key: value for key, value in theirs.logger.name_to_value.items() if key.startswith("train/")}
    for key, value in logged.items():
        assert ours.logger.name_to_value[key] == pytest.approx(value, rel=1e-3, abs=1e-5), key


@pytest.mark.parametrize("policy", [*POLICIES.values(), Written, Tempered])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_all_layers_learn_and_files_go_on(algorithm: Any, policy: Any) -> None:
    model = small_model(algorithm, policy, n_steps=32)
    before = {name: parameter.detach().clone() for name, parameter in model.policy.named_parameters()}
    model.learn(64)
    assert [name for name, value in model.policy.named_parameters() if th.equal(value, before[name])] == []
    assert model.heads.through_policy == (policy not in (Written, Tempered, Exploring))
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.policy.parameters())
    file = io.BytesIO()
    model.save(file)
    file.seek(0)
    loaded = algorithm.load(file, device="cpu")
    observations = th.rand(8, 4).numpy()
    assert (model.predict(observations, deterministic=True)[0] == loaded.predict(observations, deterministic=True)[0]).all()


@pytest.mark.parametrize("policy", [Masked, Scaled])
def test_what_the_heads_can_do_alone_they_do(policy: Any) -> None:
    """Values that are the head's are fitted; a head that reads the features is whitened, and held to what it says."""
    heads = small_model(ForwardPPO, policy, n_steps=32).learn(32).heads
    assert heads.fits_values == (policy is Masked)
    assert heads.linear_heads == ["action_net", "value_net"]
    assert not heads.closed_form
    for other in (Skipping, Twice):
        assert small_model(ForwardPPO, other, n_steps=32).learn(32).heads.linear_heads == ["value_net"]


def test_methods_of_the_users_own_are_looked_at_in_every_rollout(capsys: pytest.CaptureFixture[str]) -> None:
    model = small_model(ForwardPPO, Tempered, n_steps=32, verbose=1).learn(32)
    assert not model.heads.through_policy
    assert "The heads are trained on cached features" in capsys.readouterr().out
    model.policy.temperature = 2.0
    model.learn(32, reset_num_timesteps=False)
    assert model.heads.through_policy
    assert "through `evaluate_actions` of Tempered" in capsys.readouterr().out


def test_a_method_that_one_policy_is_given_is_seen() -> None:
    model = small_model(ForwardPPO, n_steps=32).learn(32)
    evaluate = model.policy.evaluate_actions

    def scaled(*args: Any) -> tuple[th.Tensor, ...]:
        values, *rest = evaluate(*args)
        return 10 * values, *rest

    model.policy.evaluate_actions = scaled
    model.learn(32, reset_num_timesteps=False)
    assert model.heads.through_policy
    assert not model.heads.fits_values


def test_methods_of_sb3_are_seldom_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """That takes a pass through all layers."""
    monkeypatch.setattr("sb3_forward.rollouts.reader.ROWS_BETWEEN_CHECKS", 64)
    calls: list[Any] = []
    evaluate = ActorCriticPolicy.evaluate_actions

    def watched(*args: Any) -> Any:
        calls.append(args)
        return evaluate(*args)

    monkeypatch.setattr(ActorCriticPolicy, "evaluate_actions", watched)
    model, looked = small_model(ForwardPPO), []
    for _ in range(6):
        model.learn(16, reset_num_timesteps=False)
        looked.append(len(calls))
    assert looked == [1, 1, 1, 1, 1, 2]


@pytest.mark.parametrize("policy", [Written, Exploring])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_features_that_are_kept_are_without_noise(algorithm: Any, policy: Any) -> None:
    model = small_model(algorithm, policy, n_steps=32, local_interval=4096).learn(64)
    assert len(model.history.recent) == 2
    for rollout, _ in model.history.recent:
        with th.no_grad():
            th.testing.assert_close(rollout.cached.latents, model.network.latents(rollout.observations))


def test_a_small_difference_is_one() -> None:
    assert small_model(ForwardPPO, Nudged, "Box", n_steps=32).learn(32).heads.through_policy
    assert not small_model(ForwardPPO, Written, "Box", n_steps=32).learn(32).heads.through_policy


def test_guidance_is_that_of_the_policy() -> None:
    """An action that is masked has no score."""
    model = small_model(ForwardPPO, Masked, n_steps=32).learn(32)
    observations, actions, advantages = th.rand(8, 4), th.full((8,), 2), th.ones(8)
    features = model.network.latents(observations)[0]
    guidance = actor_guidance(model.policy, features, actions, advantages, observations)
    logits = model.policy.action_net(features)
    masked = logits.clone()
    masked[:, 0] = -th.inf
    expected = logits + nn.functional.one_hot(actions, 3) - masked.softmax(dim=1)
    th.testing.assert_close(guidance.wanted, expected)


@pytest.mark.parametrize("woken", [False, True])
@pytest.mark.parametrize("base", [Masked, Written])
def test_hidden_layers_are_at_rest_while_heads_learn(base: Any, woken: bool) -> None:
    """Dropout is off, as in a rollout: before the first step, nothing has diverged. It is no method of one's own."""

    class Waking(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_end(self) -> None:
            self.model.policy.set_training_mode(woken)

    class Dropping(base):
        def _build(self, lr_schedule: Any) -> None:
            super()._build(lr_schedule)
            self.mlp_extractor.policy_net.append(nn.Dropout(0.5))

    model = small_model(ForwardPPO, Dropping, n_steps=32, batch_size=32, n_epochs=1, hidden_training="frozen")
    model.learn(32, Waking())
    assert model.heads.through_policy == (base is Masked)
    assert model.logger.name_to_value["train/approx_kl"] == pytest.approx(0, abs=1e-6)
    assert all(module.training for module in model.policy.modules())  # as SB3 leaves it


# === What user code does to parameters and gradients ===


def hook_gradient(parameter: nn.Parameter, calls: list[Any]) -> None:
    def hook(gradient: th.Tensor) -> th.Tensor:
        calls.append(gradient)
        return 0 * gradient

    parameter.register_hook(hook)


def hook_accumulated(parameter: nn.Parameter, calls: list[Any]) -> None:
    def hook(own: Any) -> None:
        calls.append(own.grad)
        own.grad.zero_()

    parameter.register_post_accumulate_grad_hook(hook)


HOOKS = {"gradient": hook_gradient, "accumulated": hook_accumulated}


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("name", ["mlp_extractor.policy_net.0.weight", "action_net.weight", "value_net.bias", "log_std"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_hooks_of_gradients_are_called_and_heeded(algorithm: Any, name: str, hook: str) -> None:
    model = small_model(algorithm, actions="Box", n_steps=32)
    calls: list[Any] = []
    HOOKS[hook](model.policy.get_parameter(name), calls)
    before = {key: parameter.detach().clone() for key, parameter in model.policy.named_parameters()}
    model.learn(64)
    assert calls
    assert [key for key, value in model.policy.named_parameters() if th.equal(value, before[key])] == [name]


LATE_HOOKS: dict[str, Callable[[nn.Linear, list[Any]], object]] = {
    "gradient": lambda layer, calls: layer.weight.register_hook(calls.append),
    "accumulated": lambda layer, calls: layer.bias.register_post_accumulate_grad_hook(calls.append),
    "backward": lambda layer, calls: layer.register_full_backward_hook(lambda *args: calls.append(args)),
    "before backward": lambda layer, calls: layer.register_full_backward_pre_hook(lambda *args: calls.append(args)),
}


@pytest.mark.filterwarnings("ignore:Full backward hook")
@pytest.mark.parametrize("hook", LATE_HOOKS)
@pytest.mark.parametrize("name", ["mlp_extractor.policy_net.0", "action_net", "value_net"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_hooks_of_a_trained_model_are_called(algorithm: Any, name: str, hook: str) -> None:
    model = small_model(algorithm).learn(16)
    calls: list[Any] = []
    LATE_HOOKS[hook](model.policy.get_submodule(name), calls)
    model.learn(16, reset_num_timesteps=False)
    assert calls


class WritesBack(BaseCallback):
    model: Any

    def _on_step(self) -> bool:
        self.model.set_parameters(self.model.get_parameters())
        return True


class Probes(BaseCallback):
    """Asks the policy, and the values, in between."""

    model: Any

    def _probe(self) -> None:
        with th.random.fork_rng(), th.no_grad():
            observations = th.rand(self.training_env.num_envs, 4)
            self.model.policy(observations)
            self.model.policy.predict_values(observations)
            with pytest.raises(RuntimeError):
                self.model.policy(observations[:, :3])

    def _on_rollout_start(self) -> None:
        self._probe()

    def _on_step(self) -> bool:
        self._probe()
        return True

    def _on_rollout_end(self) -> None:
        self._probe()


class ProbesNearby(Probes):
    """Asks the policy about nearly the same as the algorithm does, before and after."""

    def _probe(self) -> None:
        with th.random.fork_rng(), th.no_grad():
            self.model.policy(th.as_tensor(self.model._last_obs) + 1e-4)


@pytest.mark.parametrize("callback", [WritesBack, Probes, ProbesNearby])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_callbacks_that_change_nothing_change_nothing(algorithm: Any, callback: type[BaseCallback]) -> None:
    models = [small_model(algorithm, n_steps=20, local_interval=48).learn(100, own) for own in (None, callback())]
    for name, value in models[0].policy.named_parameters():
        assert th.equal(models[1].policy.get_parameter(name), value), name
    assert len(models[0].history.recent) == len(models[1].history.recent) > 0


def test_features_are_recorded_in_calls_of_the_policy_alone() -> None:
    """Not in those of the value head by itself, nor in a call that has failed."""
    policy = small_model(ForwardA2C).policy
    recorder = LatentRecorder(policy)
    first, second, other = (th.full((2, *policy.observation_space.shape), value) for value in (0.1, 0.2, 0.3))
    with recorder.recording(), th.no_grad():
        for observations in (first, second):
            with pytest.raises(RuntimeError):
                policy(observations[:, :-1])
            policy(observations)
            recorder.on_step([{}, {}], np.zeros(2, bool))
            policy.predict_values(other)
        (actor, critic), recorded = recorder.take(2, 2, unchanged=True, compute=lambda: pytest.fail("nothing is missing"))
        rows = th.stack([first[0], second[0], first[1], second[1]])  # environment by environment
        expected = policy.mlp_extractor(policy.extract_features(rows))
    assert recorded
    th.testing.assert_close((actor, critic), expected)


@pytest.mark.parametrize("written", ["returns", "advantages, too"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_returns_that_a_callback_has_written_count(algorithm: Any, written: str) -> None:
    class Writes(BaseCallback):
        model: Any

        def _on_step(self) -> bool:
            return True

        def _on_rollout_end(self) -> None:
            buffer = self.model.rollout_buffer
            buffer.returns[:] = 5.0
            if written == "advantages, too":
                buffer.advantages[:] = buffer.returns - buffer.values

    model = small_model(algorithm, n_steps=32, hidden_training="frozen").learn(640, Writes())
    assert model.rollout_buffer.values.mean() == pytest.approx(5.0, abs=0.5)
    assert model.history.recent == []


WRITES: dict[str, Callable[[nn.Parameter], object]] = {
    "copy_": lambda parameter: parameter.data.copy_(parameter.flip(0)),
    "data": lambda parameter: setattr(parameter, "data", parameter.data.flip(0)),
    "vector": lambda parameter: nn.utils.vector_to_parameters(parameter.detach().flip(0).flatten(), [parameter]),
}


@pytest.mark.parametrize("write", WRITES)
def test_weights_written_without_a_trace_are_seen(write: str) -> None:
    """All features that are kept follow: of the sample, of rows that wait, and of the window."""
    model = small_model(ForwardA2C, n_steps=32, local_interval=96).learn(128)
    assert model.history.observations is not None
    assert model.history.waiting_rows == 32
    del model.history.recent[-1]  # what waits is not in the window, too
    assert len(model.history.recent) > 0
    for side in ("policy", "value"):
        WRITES[write](model.policy.get_parameter(f"mlp_extractor.{side}_net.0.weight"))
    assert not model._prepare()
    with th.no_grad():
        expected = model.network.latents(model.history.observations)
        th.testing.assert_close(model.history.sample.latents, expected)
        for rollout in (*model.history.waiting, *(own for own, _ in model.history.recent)):
            th.testing.assert_close(rollout.cached.latents, model.network.latents(rollout.observations))
    assert model._prepare()


def test_backpropagation_in_between_is_seen() -> None:
    model = small_model(ForwardA2C, n_steps=32, local_interval=96).learn(128)
    model.hidden_training = "backprop"
    model.learn(32, reset_num_timesteps=False)
    model.hidden_training = "local"
    assert not model._prepare()
    waiting = model.history.waiting[0]
    with th.no_grad():
        th.testing.assert_close(waiting.cached.latents, model.network.latents(waiting.observations))


# === Optimizers ===


def decayed(parameters: Any, lr: float) -> th.optim.Optimizer:
    """Weight decay for matrices alone."""
    own = list(parameters)
    matrices, rest = [p for p in own if p.ndim > 1], [p for p in own if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.5}, {"params": rest, "weight_decay": 0.0}]
    return th.optim.SGD([group for group in groups if group["params"]], lr=lr)


class Regrouped(ForwardPolicy):
    """The optimizer is made by hand, of another class, and with groups."""

    def _build(self, lr_schedule: Any) -> None:
        super()._build(lr_schedule)
        self.optimizer = decayed(self.parameters(), lr_schedule(1))


@pytest.mark.parametrize("policy", ["function", "by hand", "changed"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_groups_of_the_optimizer_are_kept(algorithm: Any, policy: str) -> None:
    kwargs: dict[str, Any] = {"policy_kwargs": {"optimizer_class": decayed}} if policy == "function" else {}
    model = small_model(algorithm, Regrouped if policy == "by hand" else "MlpPolicy", actions="Box", n_steps=32, **kwargs)
    if policy == "changed":
        model.policy.optimizer = decayed(model.policy.parameters(), 1e-3)
    model.learn(64)
    for optimizer in (model.heads.optimizer, *(block.optimizer for block in model.network.blocks)):
        assert type(optimizer) is th.optim.SGD
        decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
        assert all(decay[id(p)] == (0.5 if p.ndim > 1 else 0.0) for group in optimizer.param_groups for p in group["params"])
    groups = model.heads.optimizer.param_groups
    spread = next(group for group in groups if any(p is model.policy.log_std for p in group["params"]))
    assert len(spread["params"]) == 1


def test_an_option_that_is_changed_later_counts() -> None:
    model = small_model(ForwardPPO, policy_kwargs={"optimizer_class": th.optim.AdamW}).learn(16)
    model.policy.optimizer.param_groups[0]["weight_decay"] = 0.25
    model.learn(16, reset_num_timesteps=False)
    for optimizer in (model.heads.optimizer, *(block.optimizer for block in model.network.blocks)):
        assert {group["weight_decay"] for group in optimizer.param_groups} == {0.25}


@pytest.mark.parametrize(("options", "fused"), [({}, True), ({"foreach": True}, None)])
def test_groups_keep_the_implementation(options: dict[str, Any], fused: bool | None) -> None:
    """That of the optimizer of the whole policy is slower for a few small parameters."""
    model = small_model(ForwardPPO, actions="Box", policy_kwargs={"optimizer_kwargs": options}).learn(16)
    for optimizer in (model.heads.optimizer, *(block.optimizer for block in model.network.blocks)):
        assert {group["fused"] for group in optimizer.param_groups} == {fused}


# === Kinds of numbers ===


class Double(FlattenExtractor):
    def forward(self, observations: th.Tensor) -> th.Tensor:
        return super().forward(observations).double()


class DoublePolicy(ForwardPolicy):
    def _build(self, lr_schedule: Any) -> None:
        super()._build(lr_schedule)
        self.double()
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]


class DoubleAfterLayer(FlattenExtractor):
    """In single precision itself."""

    def __init__(self, observation_space: Any) -> None:
        super().__init__(observation_space)
        self.layer = nn.Linear(4, 4)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return th.tanh(self.layer(super().forward(observations))).double()


class MixedPolicy(DoublePolicy):
    """Only the features extractor is in single precision."""

    def _build(self, lr_schedule: Any) -> None:
        super()._build(lr_schedule)
        self.features_extractor.float()


class DoubleLayer(FlattenExtractor):
    """Reads observations in single precision."""

    def __init__(self, observation_space: Any) -> None:
        super().__init__(observation_space)
        self.layer = nn.Linear(4, 4)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return th.tanh(self.layer(super().forward(observations).double()))


class DoubleExtraction(DoublePolicy):
    """Actor and critic have their features from one block."""

    def extract_features(self, obs: Any, features_extractor: Any = None) -> Any:
        return super().extract_features(obs, features_extractor)


class Fourier(FlattenExtractor):
    """Complex weights."""

    def __init__(self, observation_space: Any) -> None:
        super().__init__(observation_space)
        self.weights = nn.Parameter(th.randn(3, dtype=th.cfloat))
        self.out = nn.Linear(3, 4)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return th.tanh(self.out((th.fft.rfft(observations) * self.weights).abs()))


class HalfExtractor(FlattenExtractor):
    """A layer in bfloat16."""

    def __init__(self, observation_space: Any) -> None:
        super().__init__(observation_space)
        self.layer = nn.Linear(4, 4)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        with th.autocast("cpu", th.bfloat16):
            return th.tanh(self.layer(super().forward(observations))).float()


NUMBERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "double": (DoublePolicy, {"features_extractor_class": Double}),
    "double layer": (DoublePolicy, {"features_extractor_class": DoubleLayer}),
    "double tuple": (DoubleExtraction, {"features_extractor_class": DoubleLayer, "share_features_extractor": False}),
    "mixed": (MixedPolicy, {"features_extractor_class": DoubleAfterLayer}),
    "complex": ("MlpPolicy", {"features_extractor_class": Fourier}),
    "half": ("MlpPolicy", {"features_extractor_class": HalfExtractor}),
}


@pytest.mark.parametrize("numbers", NUMBERS)
@pytest.mark.parametrize("actions", ["Discrete", "Box"])
@pytest.mark.parametrize("guidance_coef", [1.0, 0.5])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_kinds_of_numbers(algorithm: Any, guidance_coef: float, actions: str, numbers: str) -> None:
    policy, policy_kwargs = NUMBERS[numbers]
    # A copy, since A2C puts its optimizer into it
    model = small_model(algorithm, policy, actions, policy_kwargs=dict(policy_kwargs), guidance_coef=guidance_coef)
    before = {name: parameter.detach().clone() for name, parameter in model.policy.named_parameters()}
    model.learn(64)
    assert [name for name, value in model.policy.named_parameters() if th.equal(value, before[name])] == []
    assert not model.heads.through_policy


@pytest.mark.parametrize("factor", [2, -1, 1j])
def test_complex_weights_that_are_written_are_seen(factor: complex) -> None:
    model = small_model(ForwardA2C, policy_kwargs={"features_extractor_class": Fourier}).learn(16)
    assert model._prepare()
    model.policy.features_extractor.weights.data.mul_(factor)
    assert not model._prepare()


# === Compiled policies ===


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_compiled_policy_is_compiled_once(algorithm: Any) -> None:
    """And learns as one that is not compiled, short rollouts and their ends included."""
    compiled: list[Any] = []

    def backend(graph: Any, _: Any) -> Any:
        compiled.append(graph)
        return graph.forward

    models = []
    for compiles in (False, True):
        th._dynamo.reset()
        model = small_model(algorithm, n_steps=20)
        model.set_env(TimeLimit(RandomEnv(), 5))
        model.env.seed(0)
        if compiles:
            model.policy = th.compile(model.policy, backend=backend)
        models.append(model.learn(20).learn(60, reset_num_timesteps=False))
    assert len(compiled) == 1
    assert len(models[0].history.recent) == len(models[1].history.recent) > 0
    assert [(end.env, end.step) for end in models[1].reader.recorder.truncations] == [(0, 4), (0, 9), (0, 14), (0, 19)]
    for name, value in models[0].policy.named_parameters():
        th.testing.assert_close(models[1].policy._orig_mod.get_parameter(name), value, rtol=1e-3, atol=5e-3, msg=name)
