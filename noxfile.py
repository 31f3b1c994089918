"""
The fast tests and those of the Zoo with every Python and with the lowest versions, the wheel, and what README and guides tell
readers to do, each in its own environment.

    nox
    nox -s tests-3.13 -- tests/test_zoo.py
    nox -s lowest wheel-3.11
    nox -s "pages(extras='envs')"

With TORCH=torch==2.13.0 in front, that release of PyTorch instead of the newest, or of the lowest. A Python that is not there
is skipped. Environments stay in .nox, each of one to several gigabytes, most of it PyTorch.
"""

import os
from pathlib import Path

import nox
from packaging.requirements import Requirement

from tests.reader import sets_of_extras

ROOT = Path(__file__).parent
PROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PROJECT)
TORCH = os.environ.get("TORCH")
PARALLEL = ["--numprocesses", "logical", "--maxprocesses", "8", "--dist", "worksteal"]
# Slow, but what differs most between Pythons, and between versions of the Zoo
HOOK_AND_ZOO = [f"tests/test_{topic}.py" for topic in ("callbacks", "hostile_envs", "properties", "startup_hook", "zoo")]
PRINT_VERSIONS = """
import platform
from importlib.metadata import version
packages = "stable_baselines3", "torch", "gymnasium", "rl_zoo3", "numpy", "wrapt", "scipy", "seaborn", "moviepy"
print("Python " + platform.python_version(), *(f"{package} {version(package)}" for package in packages), sep=", ")
"""

# Small networks on small batches: more threads than one only slow each other down
os.environ.setdefault("OMP_NUM_THREADS", "1")


def run_tests(session: nox.Session, pins: list[str]) -> None:
    """
    :param session: where to install and run
    :param pins: versions to install with
    """
    session.install("--editable", ".[tests]", *pins)
    session.run("python", "-c", PRINT_VERSIONS, log=False)
    if session.posargs:
        session.run("pytest", "-q", *session.posargs)
    else:
        session.run("pytest", "-q", *PARALLEL, "-m", "not slow")
        session.run("pytest", "-q", *PARALLEL, *HOOK_AND_ZOO)


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """the fast tests and those of the Zoo, or those after --, with the newest version of every dependency"""
    run_tests(session, [TORCH or "torch"])


@nox.session(python=PYTHONS[0])
def lowest(session: nox.Session) -> None:
    """the same with the lowest version that pyproject.toml allows"""
    pins = {
        needed.name: f"{needed.name}=={bound.version}"
        for needed in map(Requirement, PROJECT["project"]["dependencies"])
        for bound in needed.specifier
        if bound.operator == ">="
    }
    if TORCH:
        pins["torch"] = TORCH
    run_tests(session, list(pins.values()))


def install_wheel(session: nox.Session, extras: str = "") -> Path:
    """
    :param session: where to install the wheel that is built from the sdist
    :param extras: with these
    :return: a folder for what it writes
    """
    folder = Path(session.create_tmp()).resolve()
    session.install("build")
    session.run("python", "-m", "build", "--outdir", str(folder))
    (built,) = folder.glob("*.whl")
    session.install("--no-compile", f"sb3-forward[{extras}] @ {built.as_uri()}", TORCH or "torch")
    return folder


# Never in an environment of before: pip would take the wheel that is in there for this one
@nox.session(python=PYTHONS, reuse_venv=False)
def wheel(session: nox.Session) -> None:
    """what a release is: the wheel that is built from the sdist, with no extra, trains through the Zoo"""
    folder = install_wheel(session)
    session.chdir(folder)
    session.run("python", "-c", PRINT_VERSIONS, log=False)
    session.run("python", "-m", "rl_zoo3.train", "--algo", "forward_a2c", "--env", "CartPole-v1", "-n", "64", "-f", "logs")
    if not (folder / "logs" / "forward_a2c" / "CartPole-v1_1" / "CartPole-v1.zip").is_file():
        session.error("the Zoo left no model")


@nox.session(python=PYTHONS[1], reuse_venv=False)
@nox.parametrize("extras", sets_of_extras())
def pages(session: nox.Session, extras: str) -> None:
    """commands and snippets of README and guides, in environments that their own lines make, from the wheel"""
    session.chdir(install_wheel(session, extras))
    session.run("python", str(ROOT / "tests" / "reader.py"), extras)
