"""The start-up hook in odd and broken environments: the stock Zoo always works, ours works or says why in one line."""

import os
import shutil
import subprocess
import sys
import textwrap
import venv
from pathlib import Path

import pytest

from tests.bare_python import HOOK, HOOK_MODULE, ROOT, bare_python

LIST_ALGOS = "from rl_zoo3 import ALGOS; print(*ALGOS)"
ONE_LINE = "sb3-forward: forward_a2c and forward_ppo are not available in the RL Zoo ("

pytestmark = pytest.mark.slow


def packages() -> list[str]:
    """Folders of all packages but ours."""
    return [path for path in sys.path if Path(path).is_dir() and not (Path(path) / "sb3_forward").is_dir()]


def install(site: Path) -> None:
    """Put the package and its hook into a folder, as the wheel does."""
    shutil.copytree(ROOT / "sb3_forward", site / "sb3_forward", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "hyperparams", site / "sb3_forward" / "hyperparams")
    shutil.copy(HOOK, site)
    shutil.copy(HOOK_MODULE, site)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with this one's packages and an installed copy of ours; its Python."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "packages.pth").write_text("\n".join(packages()))
    install(site)
    return folder / "bin" / "python"


def run(python: Path, *arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    ours = ("PYTHONPATH", "SB3_FORWARD_ZOO_HOOK")
    env = {name: value for name, value in os.environ.items() if name not in ours}
    return subprocess.run(
        [str(python), *arguments], env={**env, **variables}, cwd=cwd, capture_output=True, text=True, timeout=1800
    )


# === Flags of the interpreter, and how its processes are started ===


@pytest.mark.parametrize("flag", ["-I", "-E", "-OO"])
def test_flags(flag: str, environment: Path, tmp_path: Path) -> None:
    finished = run(environment, flag, "-c", LIST_ALGOS, cwd=tmp_path)
    assert finished.stdout.split()[-2:] == ["forward_a2c", "forward_ppo"], finished.stderr
    assert "sb3-forward" not in finished.stderr


def test_without_site(environment: Path, tmp_path: Path) -> None:
    """-S reads no .pth file: the Zoo is stock, and ours is there for those who ask."""
    site = environment.parent.parent.glob("lib/python*/site-packages")
    path = os.pathsep.join([*map(str, site), *packages()])
    finished = run(environment, "-S", "-c", LIST_ALGOS, cwd=tmp_path, PYTHONPATH=path)
    assert "ppo" in finished.stdout.split(), finished.stderr
    assert "forward" not in finished.stdout
    help_text = run(environment, "-S", "-m", "sb3_forward.zoo", "train", "-h", cwd=tmp_path, PYTHONPATH=path)
    assert "forward_a2c" in help_text.stdout, help_text.stderr


@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_subprocess_workers(start_method: str, environment: Path, tmp_path: Path) -> None:
    script = f"""
        from rl_zoo3 import ALGOS
        from stable_baselines3.common.env_util import make_vec_env
        from stable_baselines3.common.vec_env import SubprocVecEnv

        if __name__ == "__main__":
            workers = {{"vec_env_cls": SubprocVecEnv, "vec_env_kwargs": {{"start_method": "{start_method}"}}}}
            env = make_vec_env("CartPole-v1", n_envs=1, **workers)
            sizes = {{"n_steps": 32, "batch_size": 32, "local_interval": 64}}
            print(ALGOS["forward_ppo"]("MlpPolicy", env, device="cpu", **sizes).learn(64).num_timesteps)
            env.close()
    """
    (tmp_path / "script.py").write_text(textwrap.dedent(script))
    finished = run(environment, "script.py", cwd=tmp_path)
    assert finished.stdout == "64\n", finished.stderr
    assert finished.stderr == ""


def test_under_pytest(environment: Path, tmp_path: Path) -> None:
    """Its hook, which rewrites assertions, comes before ours."""
    test = "from rl_zoo3 import ALGOS\ndef test_algos():\n    assert 'forward_ppo' in ALGOS\n"
    (tmp_path / "test_algos.py").write_text(test)
    finished = run(environment, "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=tmp_path)
    assert finished.returncode == 0, finished.stdout


# === Two copies ===

WHERE = """
import sys
assert not any(name.startswith("sb3_forward") for name in sys.modules)
import sb3_forward.zoo.registration
print(sb3_forward.__file__, sb3_forward.zoo.registration.__file__)
"""


@pytest.mark.parametrize("isolated", [False, True])
def test_the_copy_that_python_finds_first_wins(isolated: bool, environment: Path, tmp_path: Path) -> None:
    """In a checkout, the checkout; isolated from it, the installed package. Never a mixture."""
    shutil.copytree(ROOT / "sb3_forward", tmp_path / "sb3_forward", ignore=shutil.ignore_patterns("__pycache__"))
    finished = run(environment, *["-I"] * isolated, "-c", WHERE, cwd=tmp_path)
    package, registration = (Path(path).parent for path in finished.stdout.split())
    installed = next(environment.parent.parent.glob("lib/python*/site-packages"))
    assert package == (installed if isolated else tmp_path) / "sb3_forward"
    assert registration == package / "zoo"


def test_a_second_start_leaves_the_package_in_use(environment: Path, tmp_path: Path) -> None:
    """As `site.addsitedir` makes one, in a process that has imported the package."""
    code = (
        "import site, sys, sb3_forward.local.blocks as blocks\nsite.addsitedir(sys.argv[1])\n"
        "import sb3_forward.local.blocks as again\nprint(again is blocks)"
    )
    site = str(next(environment.parent.parent.glob("lib/python*/site-packages")))
    assert run(environment, "-c", code, site, cwd=tmp_path).stdout == "True\n"


# === Broken packages ===

FAKE_ZOO = {
    "rl_zoo3/__init__.py": "from rl_zoo3.utils import ALGOS\n",
    "rl_zoo3/utils.py": "ALGOS = {'ppo': object}\n",
}
# First the path, or the hook of an installed copy would be found
WITH_FILES = """
sys.path.insert(0, sys.argv[1])
site.addsitedir(sys.argv[1])
"""


def with_files(folder: Path, files: dict[str, str], code: str = LIST_ALGOS) -> subprocess.CompletedProcess[str]:
    """Run code where a folder with our package, and with these files in place of its own, comes first on the path."""
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return bare_python(WITH_FILES + code, str(folder))


def test_the_hook_itself_is_broken(tmp_path: Path) -> None:
    install(tmp_path)
    finished = with_files(tmp_path, {**FAKE_ZOO, HOOK_MODULE.name: "this is no Python"})
    assert (finished.stdout, finished.stderr) == ("ppo\n", "")


@pytest.mark.parametrize(
    ("broken", "content", "reason"),
    [
        ("sb3_forward/__init__.py", "this is no Python", "SyntaxError: invalid syntax (__init__.py, line 1)"),
        ("sb3_forward/a2c.py", "this is no Python", "SyntaxError: invalid syntax (a2c.py, line 1)"),
        ("sb3_forward/a2c.py", "raise RuntimeError('first line\\nsecond line')", "RuntimeError: first line"),
        ("sb3_forward/zoo/registration.py", "", "ImportError: cannot import name 'register'"),
        ("wrapt/__init__.py", "raise OSError('half an upgrade')", "OSError: half an upgrade"),
        ("wrapt/__init__.py", "", "AttributeError: module 'wrapt' has no attribute 'register_post_import_hook'"),
        ("rl_zoo3/utils.py", "ALGOS = ('ppo',)", "AttributeError: 'tuple' object has no attribute 'update'"),
    ],
)
def test_says_why_in_one_line(broken: str, content: str, reason: str, tmp_path: Path) -> None:
    install(tmp_path)
    finished = with_files(tmp_path, {**FAKE_ZOO, broken: content})
    assert finished.stdout == "ppo\n", finished.stderr
    (line,) = finished.stderr.splitlines()
    assert line.startswith(ONE_LINE + reason)


def test_hyperparameters_are_missing(tmp_path: Path) -> None:
    install(tmp_path)
    (tmp_path / "sb3_forward" / "hyperparams" / "forward_ppo.yml").unlink()
    finished = with_files(tmp_path, FAKE_ZOO)
    assert finished.stdout == "ppo\n"
    (line,) = finished.stderr.splitlines()
    assert line.startswith(ONE_LINE + "FileNotFoundError: ")
    assert line.endswith("forward_ppo.yml is missing: install sb3-forward again, and not into a zip file)")


def test_in_a_zip_file(tmp_path: Path) -> None:
    install(tmp_path / "unpacked")
    archive = shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "unpacked")
    site = tmp_path / "site"
    site.mkdir()
    shutil.copy(HOOK, site)
    code = f"sys.path.insert(0, {archive!r})\n" + WITH_FILES + LIST_ALGOS
    finished = bare_python(code, str(site))
    assert "ppo" in finished.stdout.split(), finished.stderr
    assert "forward" not in finished.stdout
    (line,) = (line for line in finished.stderr.splitlines() if "sb3-forward" in line)
    assert line.startswith(ONE_LINE + "FileNotFoundError: ")


@pytest.mark.parametrize("content", ["raise ImportError('the Zoo itself is broken')", "import a_package_that_is_missing"])
def test_the_zoo_is_broken(content: str, tmp_path: Path) -> None:
    """Its own error comes through, and not a word of ours."""
    install(tmp_path)
    finished = with_files(tmp_path, {"rl_zoo3/__init__.py": content})
    assert finished.returncode == 1
    assert finished.stderr.splitlines()[-1].startswith(("ImportError: the Zoo itself", "ModuleNotFoundError: No module"))
    assert "sb3-forward" not in finished.stderr
