"""Export a policy with its normalisation to ONNX, act with onnxruntime: python examples/onnx_export.py [timesteps] [file]"""

import sys
from typing import Any

import numpy as np
import onnxruntime
import torch as th
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

from sb3_forward import ForwardPPO


class Actor(th.nn.Module):
    """From raw observations to deterministic actions, values and log probabilities."""

    def __init__(self, policy: th.nn.Module, env: Any) -> None:
        super().__init__()
        self.policy, self.clip = policy, env.clip_obs
        self.mean, self.variance = th.FloatTensor(env.obs_rms.mean), th.FloatTensor(env.obs_rms.var + env.epsilon)

    def forward(self, observations: th.Tensor) -> tuple[th.Tensor, ...]:
        normalised = (observations - self.mean) / self.variance.sqrt()
        return self.policy(normalised.clamp(-self.clip, self.clip), deterministic=True)


class OnnxAgent(onnxruntime.InferenceSession):
    """What `evaluate_policy` needs of a model, without torch."""

    def predict(self, observations: Any, *_: Any, **__: Any) -> tuple[Any, None]:
        return self.run(["actions"], {"observations": observations})[0], None


def main(timesteps: int = 50_000, file: str = "forward_ppo_cartpole.onnx") -> tuple[float, float]:
    """
    Train, export, compare the outputs with torch's, and evaluate with onnxruntime alone.

    :param timesteps: environment steps
    :param file: where the ONNX model is written
    :return: the largest difference of an output, as a share of its largest value, and the mean return of ten episodes
    """
    env = VecNormalize(make_vec_env("CartPole-v1", n_envs=8, seed=0))
    model = ForwardPPO("MlpPolicy", env, n_steps=128, batch_size=128, learning_rate=2e-3, seed=0, device="cpu")
    actor, observations = Actor(model.learn(timesteps).policy, env).eval(), th.randn(256, 4)
    th.distributions.Distribution.set_default_validate_args(False)  # checks of values, which cannot be exported
    names: dict[str, Any] = {"input_names": ["observations"], "output_names": ["actions", "values", "log_probs"]}
    th.onnx.export(actor, (observations,), file, dynamic_shapes=[{0: "batch"}], external_data=False, verbose=False, **names)
    agent = OnnxAgent(file)
    outputs = zip(agent.run(None, {"observations": observations.numpy()}), actor(observations), strict=True)
    difference = max(float(np.abs(ours - theirs.numpy(force=True)).max() / theirs.abs().max()) for ours, theirs in outputs)
    mean, _ = evaluate_policy(agent, make_vec_env("CartPole-v1", seed=1), n_eval_episodes=10, warn=False)
    print(f"largest difference from torch: {difference:.1e}, mean return of ten episodes: {mean:.0f}")
    return difference, float(mean)  # type: ignore[arg-type]


if __name__ == "__main__":
    main(*(int(argument) if argument.isdigit() else argument for argument in sys.argv[1:]))  # type: ignore[arg-type]
