"""A file holds what it held before or all of the new content, whatever happens while it is written."""

import os
import resource
import signal
import stat
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from stable_baselines3.common.save_util import load_from_zip_file, save_to_zip_file

from sb3_forward import ForwardPPO
from sb3_forward.files.atomic import save_whole
from tests.bare_python import ROOT
from tests.envs import ALGORITHMS, small_model
from tests.test_save_load import assert_equal

pytestmark = pytest.mark.skipif(os.name != "posix", reason="limits, signals and permissions of POSIX")


@contextmanager
def full_disk(free: int) -> Iterator[None]:
    """No file can grow beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def unprivileged() -> Iterator[None]:
    """Permissions hold for root, too."""
    uid = os.geteuid()
    if uid == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        if uid == 0:
            os.seteuid(uid)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_disk_is_full(algorithm: Any, share: float, tmp_path: Path) -> None:
    model = small_model(algorithm).learn(16)
    file = tmp_path / "model.zip"
    model.save(file)
    saved = file.read_bytes()
    model.learn(16)
    for path in (file, tmp_path / "another"):
        with full_disk(int(share * len(saved))), pytest.raises(OSError, match=f"Could not save to {path}.*make room"):
            model.save(path)
    assert os.listdir(tmp_path) == ["model.zip"]
    assert file.read_bytes() == saved
    # The model goes on, and is saved where there is room
    model.learn(16)
    model.save(file)
    assert_equal(algorithm.load(file, device="cpu").get_parameters(), model.get_parameters())


def test_stock_save_does_tear() -> None:
    """The check above can fail: this is what SB3's own function leaves of the file."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.zip"
        save_to_zip_file(file, data={"first": 1})
        with full_disk(100), pytest.raises(OSError, match="File too large"):
            save_to_zip_file(file, data={"second": 2})
        with pytest.raises(ValueError, match="wasn't a zip-file"):
            load_from_zip_file(file)


def test_folder_is_read_only() -> None:
    model = small_model(ForwardPPO).learn(16)
    # pytest's own folders are closed to others
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o555)
        with unprivileged(), pytest.raises(PermissionError, match=f"Could not save to {folder}/model.zip"):
            model.save(f"{folder}/model")
        os.chmod(folder, 0o755)
        assert os.listdir(folder) == []
    model.learn(16)


def test_file_is_protected() -> None:
    """A file without write permission stays, although a rename would not ask."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        file = Path(folder) / "model.zip"
        file.write_text("precious")
        file.chmod(0o444)
        with unprivileged(), pytest.raises(PermissionError, match="Could not save"):
            save_whole(file, lambda opened: None, "zip")
        assert file.read_text() == "precious"
        assert os.listdir(folder) == ["model.zip"]


KILLED = """
import os, signal, sys
from sb3_forward.files.atomic import save_whole
def write(file):
    file.write(b"new" * 100_000)
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
save_whole(sys.argv[1], write, "zip")
"""


def test_killed_while_saving(tmp_path: Path) -> None:
    file = tmp_path / "model.zip"
    file.write_text("old")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    killed = subprocess.run([sys.executable, "-c", KILLED, str(file)], env=environment, cwd=tmp_path)
    assert killed.returncode == -signal.SIGKILL
    assert file.read_text() == "old"
    (part,) = set(os.listdir(tmp_path)) - {"model.zip"}
    assert part.startswith(".model.zip.")
    assert part.endswith(".part")


def test_interrupted_while_saving(tmp_path: Path) -> None:
    def write(file: Any) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_whole(tmp_path / "model", write, "zip")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("path", ["model", "model.zip", "model.v2", "a/b/model", "folder", "folder.zip", "twice.zip"])
def test_lands_where_sb3_would_save(path: str, tmp_path: Path) -> None:
    landed = []
    for name in ("theirs", "ours"):
        root = tmp_path / name
        for folder in ("folder.zip", "twice.zip", "twice.zip_2"):
            (root / folder).mkdir(parents=True)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if name == "theirs":
                save_to_zip_file(str(root / path), data={})
            else:
                save_whole(str(root / path), lambda file: save_to_zip_file(file, data={}), "zip")
        files = sorted(str(file.relative_to(root)) for file in root.rglob("*") if file.is_file())
        landed.append((files, [str(warning.message).replace(str(root), "") for warning in caught]))
    assert landed[0] == landed[1]
    assert len(landed[0][0]) == 1


def test_permissions_and_links(tmp_path: Path) -> None:
    """New files get the permissions that the process gives, old ones keep theirs, and links go on pointing."""
    umask = os.umask(0o027)
    try:
        save_whole(tmp_path / "new", lambda file: None, "zip")
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "new.zip").stat().st_mode) == 0o640
    kept = tmp_path / "kept.zip"
    kept.touch()
    kept.chmod(0o600)
    (tmp_path / "link.zip").symlink_to(kept)
    save_whole(tmp_path / "link", lambda file: file.write(b"new"), "zip")
    assert (tmp_path / "link.zip").is_symlink()
    assert kept.read_bytes() == b"new"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


def test_device_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "link.zip").symlink_to("/dev/full")
    with pytest.raises(OSError, match="Could not save to /dev/full"):
        save_whole(tmp_path / "link", lambda file: file.write(bytes(100_000)), "zip")
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)
