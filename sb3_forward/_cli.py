"""Share code between the commands: errors of their users, environments by name, and files that are never half written."""

import argparse
import difflib
import importlib
from collections.abc import Callable, Iterable
from io import BufferedWriter, TextIOWrapper
from pathlib import Path
from typing import Any, TextIO

from sb3_forward.files.atomic import replace


class UserError(Exception):
    """A mistake of the user, of which only the text is printed."""


def first_line(error: Exception) -> str:
    """
    Return the first line of an error.

    :param error: an exception of another package
    :return: its message in one line, or its class if it has no message
    """
    return (str(error).splitlines() or [type(error).__name__])[0]


def import_packages(names: Iterable[str]) -> None:
    """
    Import the modules that register environments.

    :param names: modules, in addition to those that the RL Zoo imports
    :raises UserError: if one cannot be imported
    """
    import rl_zoo3.import_envs  # noqa: F401

    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise UserError(f"cannot import --gym-packages {name}: {error}") from error


def make_env(env: str, **kwargs: Any) -> Any:
    """
    Make an environment, so that problems with it are reported before any work starts.

    :param env: its ID
    :param kwargs: arguments of its constructor
    :return: the environment
    :raises UserError: if it is unknown or cannot be made
    """
    import gymnasium as gym

    if env not in gym.registry:
        close = difflib.get_close_matches(env, gym.registry, n=1)
        raise UserError(
            f"unknown environment {env!r}"
            + (f", did you mean {close[0]}?" if close else "; is its package in --gym-packages?")
        )
    try:
        return gym.make(env, **kwargs)
    except Exception as error:
        raise UserError(f"cannot make {env}: {first_line(error)}") from error


def folder(text: str) -> Path:
    """
    Check an argument of a command line that names a folder; it is used as ``type`` of the argument.

    :param text: path of a folder that exists or can be made
    :return: the path
    :raises argparse.ArgumentTypeError: if a file is in the way
    """
    path = Path(text)
    nearest = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not nearest.is_dir():
        raise argparse.ArgumentTypeError(f"{nearest} is no folder")
    return path


def write_whole(path: Path, write: Callable[[TextIO], object]) -> None:
    """
    Write a text file so that nobody can read half of it.

    :param path: its place
    :param write: writes into the open file
    """

    def write_text(file: BufferedWriter) -> None:
        text = TextIOWrapper(file, encoding="utf-8", newline="")
        write(text)
        text.detach()

    path.parent.mkdir(parents=True, exist_ok=True)
    replace(path, write_text)
