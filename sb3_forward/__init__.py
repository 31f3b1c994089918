"""
Train agents without backpropagation: forward-trained A2C and PPO for Stable-Baselines3.

Editors and type checkers read ``__init__.pyi`` in place of this file: a plain page of imports. Here each name is imported on
first use (PEP 562), so that ``import sb3_forward``, and with it the help of the commands, does not wait for PyTorch. Importing
``typing`` for its ``TYPE_CHECKING`` would take some 10 ms; this page takes 0.2.
"""

__version__ = "0.2.0.dev0"

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


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
