"""
Save and load models as files of tensors, which execute nothing when they are read.

SB3's ``load`` unpickles parts of the zip file: never use it on a file that you do not trust. A safetensors file holds only
numbers. It holds nothing about the environment, the architecture or the hyperparameters: you build the model, and fill it.

    save_tensors(model, "cartpole")
    ...
    model = ForwardPPO("MlpPolicy", "CartPole-v1")
    load_tensors(model, "cartpole")

The module needs ``pip install "sb3-forward[safetensors]"``.
"""

import json
from pathlib import Path
from typing import Any

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_forward.files.atomic import save_whole
from sb3_forward.files.validation import misfits

try:
    import safetensors
    import safetensors.torch
except ImportError as error:
    raise ImportError(f"sb3_forward.tensors needs safetensors (pip install 'sb3-forward[safetensors]'): {error}") from error

SUFFIX = "safetensors"
# Entry of the file's header that maps each tensor to its place in the state dictionaries
LAYOUT = "sb3_forward"


def save_tensors(model: BaseAlgorithm, path: str | Path) -> None:
    """
    Save the parameters of the policy and the state of its optimizers.

    :param model: the model, of this package or of SB3
    :param path: the file; ``.safetensors`` is added where there is no suffix
    :raises OSError: if the file cannot be written; nothing has changed then
    """
    tensors: dict[str, th.Tensor] = {}
    layout = json.dumps(_pack(model.get_parameters(), "", tensors, {}))
    content = safetensors.torch.save(tensors, {LAYOUT: layout, "format": "pt"})
    save_whole(path, lambda file: file.write(content), SUFFIX)


def load_tensors(model: BaseAlgorithm, path: str | Path) -> None:
    """
    Load the parameters and the optimizer state of a file into a model.

    :param model: a model with the same network and optimizer as the saved one
    :param path: the file
    :raises FileNotFoundError: if there is none
    :raises ValueError: if the file is damaged or does not match the model, which is left as it was
    """
    path = Path(path)
    if not path.exists() and path.suffix == "":
        path = Path(f"{path}.{SUFFIX}")
    parameters = _read(path, str(model.device))
    if problems := misfits(model, parameters):
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ValueError(
            f"{path} does not fit the model, which was left as it was ({'; '.join(problems[:5])}{more}). Build the model with "
            "the same algorithm, spaces, policy and `policy_kwargs` as the saved one."
        )
    model.set_parameters(parameters)


def _read(path: Path, device: str) -> dict[str, Any]:
    try:
        with safetensors.safe_open(path, framework="pt", device=device) as file:
            layout = (file.metadata() or {}).get(LAYOUT)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no iterator)
        if layout is not None:
            return _unpack(json.loads(layout), tensors)
    except (safetensors.SafetensorError, ValueError, TypeError, LookupError, RecursionError) as error:
        raise ValueError(f"{path} is damaged, or no safetensors file: {error}. Save it again with `save_tensors`.") from error
    raise ValueError(f"{path} was not written by `save_tensors`: its header does not tell what its tensors are.")


def _pack(value: Any, name: str, tensors: dict[str, th.Tensor], known: dict[Any, str]) -> Any:
    """Move the tensors out of a state dictionary, and return the rest in a form that can be written as JSON."""
    if isinstance(value, th.Tensor):
        # A tensor that a policy has under several names, such as those of a shared features extractor, goes into the file once
        name = known.setdefault((value.data_ptr(), value.shape, value.stride(), value.dtype), name)
        tensors[name] = value.detach().clone(memory_format=th.contiguous_format)
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[key, _pack(item, f"{name}/{key}".strip("/"), tensors, known)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [_pack(item, f"{name}/{i}", tensors, known) for i, item in enumerate(value)]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{name} is neither a tensor nor a plain value, but a {type(value).__name__}: it cannot be saved.")


def _unpack(value: Any, tensors: dict[str, th.Tensor]) -> Any:
    if not isinstance(value, dict | list):
        return value
    ((kind, content),) = value.items()  # type: ignore[union-attr]
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _unpack(item, tensors) for key, item in content}
    return {"list": list, "tuple": tuple}[kind](_unpack(item, tensors) for item in content)
