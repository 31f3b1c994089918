"""Handle rows of observations and activations, in one tensor or array, or in a dictionary, tuple or list of them."""

import io
from collections.abc import Iterable
from copy import copy
from typing import Any

import numpy as np
import torch as th

# Top features of actor (N, d_pi) and critic (N, d_vf)
Latents = tuple[th.Tensor, th.Tensor]


def count(data: Any) -> int:
    """
    Count rows.

    :param data: (N, ...)
    :return: N
    """
    if isinstance(data, dict):
        return len(next(iter(data.values())))
    return len(data[0]) if isinstance(data, tuple | list) else len(data)


def pick(data: Any, rows: th.Tensor | np.ndarray | slice | int | tuple[np.ndarray, ...]) -> Any:
    """
    Select rows.

    :param data: (N, ...)
    :param rows: (B,) indices, none of them negative, a range, or one index
    :return: (B, ...) these rows; (...) for one index
    """
    if isinstance(data, dict):
        return {key: pick(value, rows) for key, value in data.items()}
    if isinstance(data, tuple | list):
        return tuple(pick(value, rows) for value in data)
    if isinstance(data, th.Tensor) and isinstance(rows, th.Tensor):
        return data.index_select(0, rows.to(data.device))  # a fifth of the time of `data[rows]`
    return data[rows]


def put(data: Any, rows: th.Tensor, values: Any) -> None:
    """
    Overwrite rows.

    :param data: tensors (N, ...), or dictionaries or tuples of such
    :param rows: (B,) indices, each once
    :param values: what these rows become, (B, ...), in the form of the data
    """
    if isinstance(data, dict):
        for key, own in data.items():
            put(own, rows, values[key])
    elif isinstance(data, tuple | list):
        for own, value in zip(data, values, strict=True):
            put(own, rows, value)
    else:
        data[rows.to(data.device)] = values


def join(parts: list[Any] | tuple[Any, ...]) -> Any:
    """
    Concatenate rows.

    :param parts: tensors (N_i, ...), or dictionaries or tuples of such, all of the same kind; at least one
    :return: all their rows in order
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    if isinstance(first, dict):
        return {key: th.cat([part[key] for part in parts]) for key in first}
    return tuple(map(th.cat, zip(*parts, strict=True))) if isinstance(first, tuple | list) else th.cat(parts)


def collect(parts: Iterable[Latents], rows: int) -> Latents:
    """
    Concatenate top features as they come; unlike :func:`join`, this takes no memory beside that of the result and of one part.

    :param parts: features of actor (N_i, d_pi) and critic (N_i, d_vf), at least one
    :param rows: their number of rows in all, N
    :return: those of actor (N, d_pi) and critic (N, d_vf)
    """
    whole, first = None, 0
    for part in parts:
        if len(part[0]) == rows:
            return part
        if whole is None:
            whole = part[0].new_empty(rows, *part[0].shape[1:]), part[1].new_empty(rows, *part[1].shape[1:])
        for side, own in zip(whole, part, strict=True):
            side[first : first + len(own)] = own
        first += len(part[0])
    assert whole is not None
    return whole


def copied(data: Any, device: th.device) -> Any:
    """
    Copy anything with all its tensors.

    :param data: an object that can be pickled
    :param device: of the tensors of the copy
    :return: the copy
    """
    buffer = io.BytesIO()
    th.save(data, buffer)
    buffer.seek(0)
    return th.load(buffer, map_location=device, weights_only=False)


def moved(data: Any, device: th.device) -> Any:
    """
    Move tensors to a device.

    :param data: dictionaries, lists and tuples of tensors and of anything else
    :param device: where to
    :return: the same with all tensors on the device
    """
    if isinstance(data, th.Tensor):
        return data.to(device)
    if isinstance(data, dict):
        found = copy(data)  # a state_dict has attributes beside its items
        found.update((key, moved(item, device)) for key, item in data.items())
        return found
    if type(data) in (list, tuple):
        return type(data)(moved(item, device) for item in data)
    return data
