"""What is timed."""

from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium as gym
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import FakeImageEnv, SimpleMultiObsEnv
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from benchmarks.speed import sbx
from sb3_forward import ForwardA2C, ForwardPPO

SIDES = ("stock", "forward")
WITH_SBX = (*SIDES, "sbx")
CLASSES: dict[str, dict[str, type[OnPolicyAlgorithm]]] = {
    "ppo": {"stock": PPO, "forward": ForwardPPO},
    "a2c": {"stock": A2C, "forward": ForwardA2C},
}


class Network(NamedTuple):
    """A network, with an environment that it fits."""

    label: str
    policy: str
    env: str | Callable[[], gym.Env]
    net_arch: list[int] | None = None  # None for SB3's default


NETWORKS = {
    "2x64": Network("[64, 64]", "MlpPolicy", "CartPole-v1", [64] * 2),
    "2x256": Network("[256, 256]", "MlpPolicy", "CartPole-v1", [256] * 2),
    "8x256": Network("8 x 256", "MlpPolicy", "CartPole-v1", [256] * 8),
    "64x256": Network("64 x 256", "MlpPolicy", "CartPole-v1", [256] * 64),
    "cnn": Network("NatureCNN, 84 x 84 x 4", "CnnPolicy", lambda: FakeImageEnv(n_channels=4)),
    "dict": Network("CombinedExtractor, image 64 x 64 x 1 and vector", "MultiInputPolicy", SimpleMultiObsEnv),
}


class UpdateCase(NamedTuple):
    """Updates of every side with the same settings."""

    name: str
    algo: str
    network: Network
    n_envs: int
    n_steps: int
    settings: dict[str, float]  # beside n_steps
    target: float | None = None  # what the ratio of train() is not to exceed
    sides: tuple[str, ...] = SIDES

    @property
    def rows(self) -> int:
        """Rows of a rollout."""
        return self.n_envs * self.n_steps

    @property
    def label(self) -> str:
        """What the table says of it."""
        rollout = f"{self.n_envs} envs x {self.n_steps} steps"
        settings = [f"{key} {value}" for key, value in self.settings.items()]
        return ", ".join([f"{self.algo.upper()} {self.network.label}", rollout, *settings])

    def make(self, side: str, device: str) -> OnPolicyAlgorithm:
        """
        :param side: one of ``sides``
        :param device: PyTorch device
        :return: a new model
        """
        kwargs: dict[str, Any] = {**self.settings, "n_steps": self.n_steps, "seed": 0}
        if self.network.net_arch is not None:
            kwargs["policy_kwargs"] = {"net_arch": self.network.net_arch}
        env = make_vec_env(self.network.env, n_envs=self.n_envs, seed=0)
        if side == "sbx":
            return sbx.make(self.network.policy, env, **kwargs)
        return CLASSES[self.algo][side](self.network.policy, env, device=device, **kwargs)


def _ppo(network: str, batch_size: int, target: float | None = None) -> UpdateCase:
    images = network in ("cnn", "dict")
    n_envs, n_steps, n_epochs = (8, 128, 4) if images else (2, 1024, 10)
    settings: dict[str, float] = {"batch_size": batch_size, "n_epochs": n_epochs}
    return UpdateCase(f"ppo-{network}-b{batch_size}", "ppo", NETWORKS[network], n_envs, n_steps, settings, target)


def _a2c(network: str, n_steps: int, target: float | None = None, n_envs: int = 8) -> UpdateCase:
    return UpdateCase(f"a2c-{network}-{n_envs}x{n_steps}", "a2c", NETWORKS[network], n_envs, n_steps, {}, target)


_WITH_TARGET = [
    _ppo("2x64", 64, 0.30),
    _ppo("2x256", 64, 0.25),
    _ppo("8x256", 256, 0.12),
    _ppo("cnn", 64, 0.40),
    _a2c("2x64", 5, 1.0, n_envs=1),
    *[_a2c(network, 5, 1.0) for network in ("2x64", "2x256", "8x256")],
    _a2c("2x64", 16, 1.0),
]
_OTHERS = [_ppo(network, batch_size) for network in NETWORKS for batch_size in (64, 256)]
# A2C's batch is the rollout: 64 and 256 rows
_OTHERS += [_a2c(network, n_steps) for network in NETWORKS for n_steps in (8, 32)]
UPDATE_CASES = {case.name: case for case in (*_WITH_TARGET, *_OTHERS)}
UPDATE_CASES |= {case.name: case for case in _WITH_TARGET}


def _beside_sbx(env: str, n_envs: int, n_epochs: int, width: int, batch_size: int) -> UpdateCase:
    # Without pictures, as in the Zoo: with them LunarLander leaves particles, which take most of the time of its physics
    network = Network(f"[{width}, {width}], {env}", "MlpPolicy", lambda: gym.make(env), [width] * 2)
    name = f"sbx-{env.partition('-')[0].lower()}-2x{width}-b{batch_size}"
    # So slow, all sides act alike, at random: what a step of the physics costs depends on the policy
    settings = {"batch_size": batch_size, "n_epochs": n_epochs, "learning_rate": 1e-8}
    return UpdateCase(name, "ppo", network, n_envs, 256, settings, 0.7, WITH_SBX)  # the target is of learn(), ours over SBX's


_SBX = [
    _beside_sbx(env, n_envs, n_epochs, width, batch_size)
    for batch_size in (64, 256)
    for env, n_envs, n_epochs in (("CartPole-v1", 8, 10), ("LunarLander-v3", 16, 4))
    for width in (64, 256)
]
_SBX.append(_ppo("cnn", 64)._replace(name="sbx-cnn-b64", target=None, sides=WITH_SBX))
SBX_CASES = {case.name: case for case in _SBX}


class RunCase(NamedTuple):
    """A run through the Zoo, each class with the hyperparameters that are shipped for it."""

    name: str
    algo: str
    env: str


RUN_CASES = {
    case.name: case
    for env in ("CartPole-v1", "LunarLander-v3")
    for algo in CLASSES
    for case in [RunCase(f"learn-{env.partition('-')[0].lower()}-{algo}", algo, env)]
}
