"""Whether parameters from elsewhere fit a model: found out before anything of it is overwritten."""

import math
from collections.abc import Iterator
from typing import Any

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.preprocessing import get_obs_shape
from stable_baselines3.common.save_util import recursive_getattr


def misfits(model: BaseAlgorithm, found: Any) -> list[str]:
    """
    What ``set_parameters`` would stumble over half-way, or training later.

    :param model: the model
    :param found: what may be like its ``get_parameters()``, and may be anything
    :return: messages, none if it fits
    """
    expected = model.get_parameters()
    problems = list(_other_names(expected, found))
    for name in expected if not problems else ():
        target = recursive_getattr(model, name)
        compare = _optimizer_problems if isinstance(target, th.optim.Optimizer) else _module_problems
        problems += [f"{name}: {problem}" for problem in compare(model, target, found[name])]
    return problems


def _module_problems(model: BaseAlgorithm, module: th.nn.Module, found: Any) -> Iterator[str]:
    expected = module.state_dict()
    yield from _other_names(expected, found)
    if isinstance(found, dict):
        for name, value in expected.items():
            if name in found:
                yield from _other_tensor(repr(name), found[name], (value.shape,))


def _optimizer_problems(model: BaseAlgorithm, optimizer: th.optim.Optimizer, found: Any) -> Iterator[str]:
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
        yield from _row_problems(model, group.get("anchors", {}))
        pending = group.get("pending", [])
        for part in pending if isinstance(pending, list) else [None]:
            yield from _pending_problems(model, part)
        yield from _memory_problems(model, group.get("values", {}))
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, state in found["state"].items():
        if index not in range(len(parameters)) or not isinstance(state, dict):
            yield f"state of an unknown parameter {index!r}"
            continue
        for name, value in state.items():
            if isinstance(value, th.Tensor):
                # Counters of steps are scalars
                yield from _other_tensor(f"{name} of parameter {index}", value, (parameters[index].shape, th.Size()))


def _row_problems(model: BaseAlgorithm, state: Any) -> Iterator[str]:
    """Past observations that are kept beside the state of the optimizers."""
    if state == {}:
        return
    if not (isinstance(state, dict) and isinstance(state.get("rows"), int)):
        yield "no sample of past observations"
        return
    shapes, kept = get_obs_shape(model.observation_space), state.get("observations")
    if not isinstance(shapes, dict):
        shapes, kept = {"": shapes}, {"": kept}
    yield from _other_names(shapes, kept)
    if isinstance(kept, dict):
        for key, shape in shapes.items():
            yield from _other_tensor("past observations", kept.get(key), (th.Size((state["rows"], *shape)),))


def _pending_problems(model: BaseAlgorithm, state: Any) -> Iterator[str]:
    """Rows that wait for a hidden phase: observations, their features, and signals."""
    found = list(_row_problems(model, state))
    yield from found
    if found:
        return
    signals, latents = state.get("signals"), state.get("latents")
    if not (isinstance(signals, dict) and signals.keys() in (set(), {"actor", "critic"})):
        yield "no guidance of past observations"
    elif not (isinstance(latents, list | tuple) and len(latents) == 2):
        yield "no features of past observations"
    else:
        for value in (*signals.values(), *latents):
            width = value.shape[1] if isinstance(value, th.Tensor) and value.ndim == 2 else 1
            yield from _other_tensor("guidance or features of past observations", value, (th.Size((state["rows"], width)),))


def _memory_problems(model: BaseAlgorithm, state: Any) -> Iterator[str]:
    """Sums that the value head is fitted to, each kind there or not."""
    if not isinstance(state, dict):
        yield "no sums of past rollouts"
        return
    width = getattr(getattr(model.policy, "value_net", None), "in_features", 0) + 1
    recent = {"gram": (width, width), "flow": (width, width + 1)}
    for rows, shapes in (("rows", recent), ("held_rows", {"held_gram": (width, width)})):
        if state.keys().isdisjoint((rows, *shapes)):
            continue
        if not (isinstance(state.get(rows), float) and 0 < state[rows] < math.inf):
            yield "no number of past rows"
        for name, shape in shapes.items():
            yield from _other_tensor("sums of past rollouts", state.get(name), (th.Size(shape),))
    if not (isinstance(state.get("new_rows", 0), int) and state.get("new_rows", 0) >= 0):
        yield "no number of new rows"
    if "trace" in state:
        environments = len(state["trace"]) if isinstance(state["trace"], th.Tensor) and state["trace"].ndim == 2 else 1
        yield from _other_tensor("trace of past rollouts", state["trace"], (th.Size((environments, width)),))


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
