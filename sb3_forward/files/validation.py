"""Check whether parameters from elsewhere match a model, before any of its own are overwritten."""

from collections.abc import Iterator
from typing import Any

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.save_util import recursive_getattr


def misfits(model: BaseAlgorithm, found: Any) -> list[str]:
    """
    List the problems that ``set_parameters`` would meet half-way, or training later.

    :param model: the model
    :param found: a dictionary like its ``get_parameters()``, or anything else
    :return: messages, none if all parameters match
    """
    expected = model.get_parameters()
    problems = list(_other_names(expected, found))
    for name in expected if not problems else ():
        target = recursive_getattr(model, name)
        compare = _optimizer_problems if isinstance(target, th.optim.Optimizer) else _module_problems
        problems += [f"{name}: {problem}" for problem in compare(target, found[name])]
    return problems


def _module_problems(module: th.nn.Module, found: Any) -> Iterator[str]:
    expected = module.state_dict()
    yield from _other_names(expected, found)
    if isinstance(found, dict):
        for name, value in expected.items():
            if name in found:
                yield from _other_tensor(repr(name), found[name], (value.shape,))


def _optimizer_problems(optimizer: th.optim.Optimizer, found: Any) -> Iterator[str]:
    expected = optimizer.state_dict()
    yield from _other_names(expected, found)
    if not (isinstance(found, dict) and isinstance(found.get("state"), dict) and isinstance(found.get("param_groups"), list)):
        yield "no state of an optimizer"
        return
    groups = found["param_groups"]
    if not all(isinstance(group, dict) for group in groups):
        yield "no parameter groups"
        return
    if [group.get("params") for group in groups] != [group["params"] for group in expected["param_groups"]]:
        yield "made for other parameters"
        return
    for group in groups:
        if missing := sorted(set(optimizer.defaults) - group.keys()):
            yield f"made by another class than {type(optimizer).__name__}, without its {', '.join(missing)}"
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, state in found["state"].items():
        if index not in range(len(parameters)) or not isinstance(state, dict):
            yield f"state of an unknown parameter {index!r}"
            continue
        for name, value in state.items():
            if isinstance(value, th.Tensor):
                # Counters of steps are scalars
                yield from _other_tensor(f"{name} of parameter {index}", value, (parameters[index].shape, th.Size()))


def _other_names(expected: dict[str, Any], found: Any) -> Iterator[str]:
    if not isinstance(found, dict):
        yield f"{', '.join(map(repr, expected))} missing"
        return
    yield from (f"{name!r} is missing" for name in expected if name not in found)
    yield from (f"{name!r} is not in the model" for name in found if name not in expected)


def _other_tensor(name: str, found: Any, shapes: tuple[th.Size, ...]) -> Iterator[str]:
    if not isinstance(found, th.Tensor):
        yield f"{name} is no tensor"
    elif found.shape not in shapes:
        yield f"{name} has the shape {tuple(found.shape)}, the model needs {tuple(shapes[0])}"
    elif not found.isfinite().all():
        yield f"{name} is not finite"
