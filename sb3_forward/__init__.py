"""
Deep reinforcement learning without backpropagation, for Stable-Baselines3.

The names below are imported on first use (PEP 562): the Zoo's start-up hook imports this package in every Python
process of the environment, which must stay next to free. Importing ``typing`` alone would take 15 ms.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sb3_forward.a2c import ForwardA2C
    from sb3_forward.callbacks import LocalLearningCallback
    from sb3_forward.policies import ForwardCnnPolicy, ForwardMultiInputPolicy, ForwardPolicy
    from sb3_forward.ppo import ForwardPPO

__version__ = "0.1.0"

__all__ = [
    "ForwardA2C",
    "ForwardCnnPolicy",
    "ForwardMultiInputPolicy",
    "ForwardPPO",
    "ForwardPolicy",
    "LocalLearningCallback",
    "__version__",
]

_HOMES = {
    "ForwardA2C": "sb3_forward.a2c",
    "ForwardPPO": "sb3_forward.ppo",
    "ForwardPolicy": "sb3_forward.policies",
    "ForwardCnnPolicy": "sb3_forward.policies",
    "ForwardMultiInputPolicy": "sb3_forward.policies",
    "LocalLearningCallback": "sb3_forward.callbacks",
}


def __getattr__(name: str) -> "Any":
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
