"""
Write a file beside its place, and rename it into its place once it is whole.

SB3 writes into the place itself. If the process is killed while it saves, or if the disk runs full, half a file is left where
the last good one was.
"""

import os
import shutil
import uuid
import warnings
from collections.abc import Callable
from io import BufferedWriter
from pathlib import Path


def save_whole(path: str | Path, write: Callable[[BufferedWriter], object], suffix: str) -> None:
    """
    Write a file so that its place holds, at any moment, either its old or all of its new content.

    If the process is killed meanwhile, a file ``.NAME.XXXXXXXX.part`` is left beside it. Nothing reads this file, and you can
    delete it.

    :param path: the place; as SB3 does, a missing suffix is added, missing folders are made, and ``_2`` is appended where a
        folder is in the way
    :param write: writes the content into an open file
    :param suffix: suffix of files of this kind, without the dot
    :raises OSError: if the file cannot be written (a full disk, a missing permission); nothing has changed then
    """
    target = _target(Path(path), suffix)
    try:
        if target.exists() and not target.is_file():  # nothing can be renamed onto a pipe or a device
            with target.open("wb") as file:
                write(file)
        else:
            replace(target, write)
    except OSError as error:
        raise OSError(
            error.errno,
            f"Could not save to {target} ({error.strerror or error}): make room or choose another place, and save again. "
            "The model in memory is as it was, and so is what this file held before",
        ) from error


def _target(path: Path, suffix: str) -> Path:
    """Find the file that SB3 would open for a path."""
    if path.suffix == "":
        path = Path(f"{path}.{suffix}")
    while path.is_dir():
        warnings.warn(f"Path '{path}' is a folder. Will save instead to {path}_2")
        path = Path(f"{path}_2")
    return Path(os.path.realpath(path))  # a link stays a link


def replace(target: Path, write: Callable[[BufferedWriter], object]) -> None:
    """
    Write a file beside its place and rename it into it.

    :param target: the place: a file, or nothing yet
    :param write: writes the content into an open file
    """
    if not target.parent.is_dir():
        warnings.warn(f"Path '{target.parent}' does not exist. Will create it.")
        target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        target.open("r+b").close()  # a protected file must stay as it is, and a rename would not ask
    part = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        with part.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())  # the content must reach the disk before the name does, in case the machine stops here
        if target.exists():
            shutil.copymode(target, part)
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
