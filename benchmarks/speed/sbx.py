"""
SBX as a third side: SB3's algorithms, compiled by JAX.

JAX takes as many threads as the process has cores, so the whole process gets one core, and every side runs on it.
"""

import os
import warnings
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from sb3_forward._cli import UserError

# The affinity is what counts; these keep it from making threads that would wait for each other
XLA_FLAGS = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


def stay_on_one_core() -> None:
    """
    Give this process one core, before JAX is imported.

    :raises UserError: if SBX is not installed, or the system has no such call
    """
    if find_spec("sbx") is None:
        raise UserError("SBX is not installed: pip install sbx-rl")
    if not hasattr(os, "sched_setaffinity"):
        raise UserError("this system does not let a process choose its cores: use Linux")
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    os.environ.update(XLA_FLAGS=XLA_FLAGS, JAX_PLATFORMS="cpu")


def make(policy: str, env: Any, **kwargs: Any) -> OnPolicyAlgorithm:
    """
    :param policy: name of the policy
    :param env: the environments
    :param kwargs: further arguments of the constructor, without ``device``
    :return: SBX's PPO, which has compiled what it says of a single observation: the first episode that is cut by a limit of
        time needs it, and may come late
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from sbx import PPO
    model = PPO(policy, env, **kwargs)
    observation, _ = model.policy.prepare_obs(model.observation_space.sample())
    model.vf.apply(model.policy.vf_state.params, observation)
    return model


def versions() -> str:
    """
    :return: the packages that its times depend on
    """
    return f"SBX {version('sbx-rl')}, JAX {version('jax')}"
