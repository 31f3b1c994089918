import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import sb3_forward
from sb3_forward.zoo.registration import ALGO_NAMES
from tests.bare_python import HOOK, HOOK_MODULE, ROOT, bare_python

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that is built from the sdist, as a release is."""
    dist = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(dist), str(ROOT)]
    built = subprocess.run(build, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    assert (dist / f"sb3_forward-{sb3_forward.__version__}.tar.gz").is_file()
    return next(dist.glob("*.whl"))


def test_wheel_contents(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        for file in (HOOK, HOOK_MODULE):
            assert archive.read(file.name) == file.read_bytes()
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "sb3_forward").rglob("*.py*") if path.suffix != ".pyc"}
    hyperparams = {f"sb3_forward/hyperparams/{algo}.yml" for algo in ALGO_NAMES}
    payload = {name for name in names if ".dist-info/" not in name}
    assert payload == sources | hyperparams | {"sb3_forward/py.typed", HOOK.name, HOOK_MODULE.name}
    assert "sb3_forward/__init__.pyi" in sources


def test_installed_wheel_trains_through_the_zoo(wheel: Path, tmp_path: Path):
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    code = (
        "site.addsitedir(sys.argv.pop(1))\n"
        "runpy.run_module('rl_zoo3.train', run_name='__main__', alter_sys=True)\n"
        "import sb3_forward\nprint(sb3_forward.__file__)\n"
    )
    run = ["--algo", "forward_ppo", "--env", "CartPole-v1", "-n", "32", "-f", str(tmp_path / "logs"), "-params", "n_envs:1"]
    finished = bare_python(code, str(site), *run)
    assert finished.returncode == 0, finished.stderr
    assert f"Loading hyperparameters from: {site}/sb3_forward/hyperparams/forward_ppo.yml" in finished.stdout
    assert finished.stdout.endswith(f"{site}/sb3_forward/__init__.py\n")
    assert (tmp_path / "logs" / "forward_ppo" / "CartPole-v1_1" / "CartPole-v1.zip").is_file()


def hook_is_installed() -> bool:
    """Whether this environment has the package with its hook, and not just its folder on the path."""
    return any((Path(folder) / HOOK.name).is_file() for folder in sys.path if Path(folder) != ROOT)


@pytest.mark.skipif(not hook_is_installed(), reason="sb3-forward is not installed here")
@pytest.mark.parametrize("command", [["-m", "rl_zoo3.train"], ["-m", "rl_zoo3.cli", "train"]])
def test_the_literal_command(command: list[str], tmp_path: Path):
    if "rl_zoo3.cli" in command:
        pytest.importorskip("seaborn", reason="the Zoo's console script imports its plots, which need rl_zoo3[plots]")
    run = ["--algo", "forward_a2c", "--env", "CartPole-v1", "-n", "8", "-f", str(tmp_path), "--eval-freq", "-1"]
    finished = subprocess.run([sys.executable, *command, *run], capture_output=True, text=True, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert (tmp_path / "forward_a2c" / "CartPole-v1_1" / "CartPole-v1.zip").is_file()
