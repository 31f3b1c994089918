"""
The fast tests with the lowest and with the newest versions of what this package depends on, each in an environment of its own.

    python benchmarks/compatibility.py
    python benchmarks/compatibility.py lowest --torch 2.8.0 --python python3.10
    python benchmarks/compatibility.py newest --tests tests/test_zoo.py

`lowest` pins every dependency to the lower bound in pyproject.toml, `newest` pins none. The exit code is 1 if anything fails.
Needs Python 3.11 and the package `packaging`; each environment takes one to several gigabytes of disk, most of it PyTorch.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import tomllib  # type: ignore[import-not-found]
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
TESTS = [
    f"tests/test_{topic}.py"
    for topic in (
        "bad_input",
        "blocks",
        "compatibility",
        "distances",
        "heads",
        "hyperparams",
        "local_learning",
        "network",
        "policies",
        "run",
        "save_load",
        "saving",
        "tensors",
        "zoo",
    )
]
SHOWN = ("stable_baselines3", "torch", "gymnasium", "rl_zoo3", "numpy", "wrapt", "scipy", "seaborn", "moviepy")


def lowest(torch: str | None) -> list[str]:
    """
    :param torch: release to pin instead of its lower bound
    :return: pip's constraints that pin every dependency to its lower bound
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = {}
    for requirement in map(Requirement, project["dependencies"]):
        for bound in requirement.specifier:
            if bound.operator == ">=":
                pins[requirement.name] = f"{requirement.name}=={bound.version}"
    if torch is not None:
        pins["torch"] = f"torch=={torch}"
    return list(pins.values())


def check(name: str, python: str, torch: str | None, tests: list[str], folder: Path) -> bool:
    """
    Install into a new environment, and run tests there.

    :param name: ``lowest`` or ``newest``
    :param python: the interpreter to make it with
    :param torch: release of PyTorch, None for the bound or the newest
    :param tests: arguments of pytest
    :param folder: where to make it
    :return: whether everything could be installed and the tests pass
    """
    bin_folder, constraints, log = folder / name / "bin", folder / f"{name}.txt", folder / f"{name}.log"
    constraints.write_text("\n".join(lowest(torch) if name == "lowest" else [f"torch=={torch}"] * (torch is not None)))
    pip = [str(bin_folder / "python"), "-m", "pip", "install", "--quiet", "--constraint", str(constraints)]
    # PyTorch by itself first: some indexes offer it in several builds
    commands = [[python, "-m", "venv", str(folder / name)], [*pip, "torch"], [*pip, "--editable", f"{ROOT}[tests]"]]
    commands.append([str(bin_folder / "python"), "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests])
    with log.open("w") as output:
        for command in commands:
            print(f"{name}: {' '.join(command)}", file=output, flush=True)
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            if subprocess.run(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT).returncode != 0:
                print(f"{name}: FAILED, see {log}\n" + "\n".join(log.read_text().splitlines()[-15:]))
                return False
    code = f"from importlib.metadata import version; print(*(name + ' ' + version(name) for name in {SHOWN}), sep=', ')"
    versions = subprocess.run([str(bin_folder / "python"), "-c", code], capture_output=True, text=True, check=True).stdout
    print(f"{name}: {log.read_text().splitlines()[-1]} with {versions.strip()}")
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", default=["lowest", "newest"], help="lowest, newest or both (the default)")
    parser.add_argument("--torch", help="release of PyTorch for both (default: its lower bound, and the newest)")
    parser.add_argument("--python", default=sys.executable, help="interpreter to test with (default: the running one)")
    parser.add_argument("--tests", nargs="+", default=TESTS, help="arguments of pytest (default: the fast tests)")
    parser.add_argument("--folder", type=Path, help="keep the environments and logs here (default: a temporary folder)")
    args = parser.parse_args()
    if unknown := set(args.sets) - {"lowest", "newest"}:
        parser.error(f"unknown set: {', '.join(sorted(unknown))}, choose from lowest, newest")
    if shutil.which(args.python) is None:
        parser.error(f"there is no interpreter {args.python}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        return 0 if all([check(name, args.python, args.torch, args.tests, folder) for name in args.sets]) else 1


if __name__ == "__main__":
    sys.exit(main())
