"""Check parameters, and refuse a wrong one with its name, its value and the values that it may have."""

import math
import reprlib
import warnings
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import FloatSchedule, LinearSchedule

from sb3_forward.local.distances import DISPARITIES, LOCAL_LOSSES

HIDDEN_TRAINING = ("local", "frozen", "backprop")
#: The lower bound of numbers that must be above zero
ABOVE_ZERO = math.ulp(0.0)
#: The upper bound of numbers that must be finite: single precision ends at 3.4e38, and a step of this size must stay within it
FINITE = 1e30


def check_number(name: str, value: Any, wanted: str, low: float, high: float = FINITE, advice: str = "") -> float:
    """
    Check a number.

    Numbers of NumPy and PyTorch count, and so do their arrays and tensors of no dimension.

    :param name: name of the parameter
    :param value: the value that was given
    :param wanted: what it must be, in words
    :param low: the least value
    :param high: the greatest value
    :param advice: further advice for the message
    :return: the number as Python's
    :raises TypeError: if it is no number
    :raises ValueError: if it is out of its range
    """
    given = plain(value)
    if not is_number(given):
        raise TypeError(refusal(name, value, wanted, advice))
    try:
        number = float(given)
    except OverflowError:
        number = math.inf
    if not low <= number <= high:
        raise ValueError(refusal(name, value, wanted, advice))
    return number


def check_whole_number(name: str, value: Any, wanted: str, low: int, advice: str = "") -> int:
    """
    Check a whole number, as :func:`check_number` does. A float is refused, even if it has no fraction.

    :param name: name of the parameter
    :param value: the value that was given
    :param wanted: what it must be, in words
    :param low: the least value
    :param advice: further advice for the message
    :return: the number as Python's
    :raises TypeError: if it is no number
    :raises ValueError: if it is not whole, or too small
    """
    given = plain(value)
    if not is_number(given):
        raise TypeError(refusal(name, value, wanted, advice))
    if not isinstance(given, Integral) or given < low:
        raise ValueError(refusal(name, value, wanted, advice))
    return int(given)


def check_bool(name: str, value: Any) -> bool:
    """
    Check that a value is True or False, and nothing that Python would merely take for one of them.

    :param name: name of the parameter
    :param value: the value that was given
    :return: the value as Python's
    :raises TypeError: if it is neither
    """
    given = plain(value)
    if not isinstance(given, bool):
        raise TypeError(refusal(name, value, "True or False"))
    return given


def check_choice(name: str, value: Any, choices: Iterable[str]) -> str:
    """
    Check that a value is one of a few words.

    :param name: name of the parameter
    :param value: the value that was given
    :param choices: the words
    :return: the word
    :raises TypeError: if it is no text
    :raises ValueError: if it is another word
    """
    wanted = f"one of {', '.join(map(repr, choices))}"
    if not isinstance(value, str):
        raise TypeError(refusal(name, value, wanted))
    if value not in choices:
        raise ValueError(refusal(name, value, wanted))
    return str(value)


def is_number(value: Any) -> bool:
    """
    Check whether a value is a real number.

    Python counts True and False as numbers, but a user who gives one of them has mixed up two parameters.

    :param value: any value, after :func:`plain`
    :return: whether it is a number
    """
    return isinstance(value, Real) and not isinstance(value, bool | np.generic)


def plain(value: Any) -> Any:
    """
    Turn a number or truth value of NumPy or PyTorch into Python's.

    :param value: any value
    :return: Python's number or bool, if it is a scalar, or an array or a tensor of no dimension; else the value as it is
    """
    if isinstance(value, th.Tensor) and value.ndim == 0 and not value.is_complex():
        return value.item()
    if isinstance(value, np.generic | np.ndarray) and value.ndim == 0 and value.dtype.kind in "biuf":
        return float(value) if value.dtype.kind == "f" else value.item()
    return value


def refusal(name: str, value: Any, wanted: str, advice: str = "") -> str:
    """
    Write the message that refuses a value.

    :param name: name of the parameter
    :param value: the value that was given
    :param wanted: what it must be
    :param advice: further advice for the message
    :return: the message
    """
    given = f"got {reprlib.repr(value)} ({type(value).__name__})"
    return f"`{name}` must be {wanted}, {given}: {advice}." if advice else f"`{name}` must be {wanted}, {given}."


def check_own_parameters(model: Any) -> None:
    """
    Check the parameters that a forward-trained algorithm has in addition to SB3's, and turn them into Python's numbers.

    :param model: a model with these parameters as attributes
    :raises TypeError: if one is of another type
    :raises ValueError: if one is out of its range
    """
    model.head_learning_rate_scale = check_number(
        "head_learning_rate_scale", model.head_learning_rate_scale, "a finite number above 0", ABOVE_ZERO
    )
    model.local_interval = check_whole_number(
        "local_interval", model.local_interval, "a whole number of at least 1 (after every rollout)", 1
    )
    model.local_epochs = check_whole_number(
        "local_epochs",
        model.local_epochs,
        "a whole number of at least 1",
        1,
        "use hidden_training='frozen' to leave the hidden layers as they are",
    )
    model.local_batch_size = check_whole_number(
        "local_batch_size",
        model.local_batch_size,
        "a whole number of at least 3",
        3,
        "a local loss compares the distances of pairs of rows, and two rows have only one",
    )
    model.local_memory = check_whole_number(
        "local_memory", model.local_memory, "a whole number of at least 0 (MiB; 0 holds nothing)", 0
    )
    model.local_loss = check_choice("local_loss", model.local_loss, LOCAL_LOSSES)
    model.disparity = check_choice("disparity", model.disparity, DISPARITIES)
    model.guidance_coef = check_number(
        "guidance_coef", model.guidance_coef, "a number in [0, 1] (0 is unguided)", low=0, high=1
    )
    model.hidden_training = check_choice("hidden_training", model.hidden_training, HIDDEN_TRAINING)
    model.whiten_heads = check_bool("whiten_heads", model.whiten_heads)


def warn_if_nothing_moved(model: Any) -> None:
    """
    Warn at the end of ``learn`` if hidden layers that are to learn have not begun to.

    :param model: a forward-trained algorithm
    """
    if model.hidden_training != "local" or model._n_local_phases > 0 or model._n_updates == 0 or not model.network.blocks:
        return
    warnings.warn(
        f"No hidden layer has moved yet: {model.history.waiting_rows} rows wait for a hidden phase, which comes every "
        f"{model.local_interval} rows. Train for longer, or give a smaller `local_interval`; if hidden layers are to stay as "
        "they are, say so with hidden_training='frozen'.",
        stacklevel=3,
    )


def as_schedule(learning_rate: float | str | Schedule) -> FloatSchedule:
    """
    Make the schedule of a local learning rate.

    :param learning_rate: a float, a schedule from remaining progress (1 to 0) to learning rate, or ``"lin_x"``
    :return: the schedule
    :raises TypeError: if it is none of these
    :raises ValueError: if it does not start above zero, at a finite value
    """
    name, wanted = (
        "local_learning_rate",
        "a finite number above 0, a schedule that starts at one, or 'lin_x' from such an x to 0",
    )
    advice = "use hidden_training='frozen' to leave the hidden layers as they are"
    schedule: Any = learning_rate
    if isinstance(learning_rate, str):
        # The Zoo parses such strings for SB3's own learning rate alone
        prefix, _, number = learning_rate.rpartition("_")
        try:
            start = float(number)
        except ValueError:
            start = math.nan
        if prefix not in ("", "lin") or not ABOVE_ZERO <= start <= FINITE:
            raise ValueError(refusal(name, learning_rate, wanted, advice))
        return FloatSchedule(LinearSchedule(start, 0.0, 1.0) if prefix else start)
    if not callable(schedule):
        return FloatSchedule(check_number(name, schedule, wanted, ABOVE_ZERO, advice=advice))
    schedule = FloatSchedule(schedule)
    try:
        start = schedule(1.0)
    except Exception as error:
        raise TypeError(refusal(name, learning_rate, wanted, f"called with 1.0, it raised {error!r}")) from error
    if not ABOVE_ZERO <= start <= FINITE:
        raise ValueError(refusal(name, learning_rate, wanted, f"it starts at {start}; {advice}"))
    return schedule
