"""
Run the own tests of Stable-Baselines3 and of the RL Zoo twice, as they are and with our classes in the place of A2C and PPO.

What passes with the stock classes and does not pass with ours is a regression, and makes the exit code 1, but for a few known
differences, which are printed with their reason. A test that fails either way (no network, no downloaded agents) says nothing
about us and is not counted.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import xml.etree.ElementTree as ElementTree
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent.resolve()
ROOT = HERE.parent.parent

# In the Zoo's tests the algorithms are names, quoted or behind --algo
ZOO_NAMES = re.compile(r"(?<=[\"'])(ppo|a2c)(?=[\"'])|(?<=--algo )(ppo|a2c)\b")
# Where SB3's tests expect the name of the class: in the log folder's name and in a warning
SB3_NAMES = {
    "logname = model_name.upper()": "logname = MODEL_DICT[model_name][0].__name__",
    "You are trying to run PPO": "You are trying to run ForwardPPO",
}
# What must not pass with ours, by the start of the test's name, and why
KNOWN_DIFFERENCES = {
    f"tests.test_train_eval_mode::test_a2c_ppo_train_with_batch_norm[{env}-A2C]": (
        "wants the statistics of a hidden layer to move within 200 steps; those of A2C move every 4096"
    )
    for env in ("CartPole-v1", "Pendulum-v1")
}
# The repository has these at its root, the sdist has not
ZOO_SCRIPTS = ("train", "enjoy")


def unpacked_sdist(package: str, cache: Path) -> Path:
    """
    Download the source distribution of the installed release, once.

    :param package: its name
    :param cache: folder to keep it in
    :return: the unpacked folder
    :raises subprocess.CalledProcessError: if pip cannot download it
    """
    stem = f"{package}-{version(package)}"
    archive = cache / f"{stem}.tar.gz"
    if not archive.exists():
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
        subprocess.run([*pip, "--dest", str(cache), f"{package}=={version(package)}"], check=True)
    if not (cache / stem).is_dir():
        with tarfile.open(archive) as sdist:
            sdist.extractall(cache, filter="data")
    return cache / stem


def start_pytest(folder: Path, files: list[str], arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
    """
    :param folder: where to run
    :param files: test files, relative to it
    :param arguments: for pytest
    :param log: file for the output; the results go into an XML file beside it
    :return: the running process
    """
    paths = [str(HERE), str(ROOT), os.environ.get("PYTHONPATH", "")]
    env = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        # The Zoo's tests call `python`
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={log.with_suffix('.xml')}"]
    # A file that cannot be imported (a missing extra) fails either way
    command.append("--continue-on-collection-errors")
    with log.open("wb") as output:
        return subprocess.Popen([*command, *arguments, *files], cwd=folder, env=env, stdout=output, stderr=subprocess.STDOUT)


def outcomes(log: Path) -> dict[str, str]:
    """
    :param log: log file of a finished run
    :return: "passed", "skipped" or the message of the failure, by test; our names count as the stock ones
    """
    found = {}
    for case in ElementTree.parse(log.with_suffix(".xml")).getroot().iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        name = name.replace("ForwardA2C", "A2C").replace("ForwardPPO", "PPO")
        name = name.replace("forward_a2c", "a2c").replace("forward_ppo", "ppo")
        failures = [child for child in case if child.tag in ("failure", "error")]
        if failures:
            found[name] = (failures[0].get("message") or "failed").splitlines()[0]
        else:
            found[name] = "skipped" if case.find("skipped") is not None else "passed"
    return found


def start_sb3(sdist: Path, work: Path, arguments: list[str]) -> dict[str, subprocess.Popen[bytes]]:
    """
    :param sdist: Stable-Baselines3's unpacked source distribution
    :param work: folder for copies of the tests and for the logs
    :param arguments: for pytest
    :return: the two processes
    """
    builds_ours = re.compile(r"\b(A2C|PPO)\b")
    running = {}
    for kind, plugin in (("stock", []), ("forward", ["-p", "swap"])):
        folder = work / f"sb3-{kind}"
        # Only the tests: the package beside them would shadow the installed one
        shutil.copytree(sdist / "tests", folder / "tests")
        (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n    expensive\n")
        if kind == "forward":
            rename_in_place(folder / "tests")
        files = sorted(f"tests/{path.name}" for path in folder.glob("tests/test_*.py") if builds_ours.search(path.read_text()))
        running[kind] = start_pytest(folder, files, [*plugin, *arguments], work / f"sb3-{kind}.log")
    return running


def rename_in_place(tests: Path) -> None:
    """
    :param tests: copy of Stable-Baselines3's tests
    """
    for path in tests.glob("test_*.py"):
        source = path.read_text()
        for stock, ours in SB3_NAMES.items():
            source = source.replace(stock, ours)
        path.write_text(source)


def start_zoo(sdist: Path, work: Path, arguments: list[str]) -> dict[str, subprocess.Popen[bytes]]:
    """
    :param sdist: the RL Zoo's unpacked source distribution
    :param work: folder for copies of the tests and for the logs
    :param arguments: for pytest
    :return: the two processes
    """
    running = {}
    for kind in ("stock", "forward"):
        folder = work / f"zoo-{kind}"
        shutil.copytree(sdist / "tests", folder / "tests")
        shutil.copytree(sdist / "hyperparams", folder / "hyperparams")
        (folder / "rl-trained-agents").mkdir()
        (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n    slow\n")
        for script in ZOO_SCRIPTS:
            (folder / f"{script}.py").write_text(f"from rl_zoo3.{script} import {script}\n\n{script}()\n")
        files = [f"tests/test_{topic}.py" for topic in ("train", "enjoy", "hyperparams_opt")]
        for file in files:
            path = folder / file
            # Asks the Hugging Face Hub for its list of agents while the tests are being collected
            source = path.read_text().replace("trained_models.update(get_hf_trained_models())", "")
            path.write_text(source if kind == "stock" else ZOO_NAMES.sub(r"forward_\g<0>", source))
        running[kind] = start_pytest(folder, files, arguments, work / f"zoo-{kind}.log")
    return running


def report(suite: str, work: Path) -> int:
    """
    Print the comparison.

    :param suite: "sb3" or "zoo"
    :param work: folder of the logs
    :return: number of regressions
    :raises RuntimeError: if nothing passes with the stock classes, so that there is nothing to compare with
    """
    stock, forward = (outcomes(work / f"{suite}-{kind}.log") for kind in ("stock", "forward"))
    passing = [name for name, outcome in stock.items() if outcome == "passed"]
    if not passing:
        raise RuntimeError(f"No test passes with the stock classes, see {work / suite}-stock.log")
    different = {name: forward.get(name, "not run") for name in passing if forward.get(name) != "passed"}
    known = {name: reason for name in different for start, reason in KNOWN_DIFFERENCES.items() if name.startswith(start)}
    regressions = {name: outcome for name, outcome in different.items() if name not in known}
    failing = sum(outcome not in ("passed", "skipped") for outcome in stock.values())
    print(f"{suite}: {len(stock)} tests, {len(passing)} pass with the stock classes ({failing} fail with them too)")
    print(f"{suite}: {len(passing) - len(different)} of these {len(passing)} pass with ours")
    for name, reason in known.items():
        print(f"  KNOWN DIFFERENCE {name}: {reason}")
    for name, outcome in regressions.items():
        print(f"  REGRESSION {name}: {outcome}")
    return len(regressions)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suites", nargs="*", default=["sb3", "zoo"], help="sb3, zoo or both (the default)")
    parser.add_argument("-k", default="", help="only the tests that match, as in pytest")
    default_cache = Path(tempfile.gettempdir()) / "sb3-forward-upstream"
    parser.add_argument("--cache", type=Path, default=default_cache, help="folder for the downloads (default: %(default)s)")
    args = parser.parse_args()
    if unknown := set(args.suites) - {"sb3", "zoo"}:
        parser.error(f"unknown suite: {', '.join(sorted(unknown))}")

    args.cache.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="run-", dir=args.cache))
    starts = {"sb3": (start_sb3, "stable_baselines3"), "zoo": (start_zoo, "rl_zoo3")}
    regressions = 0
    for suite in args.suites:
        start, package = starts[suite]
        # The two runs side by side, one thread each
        running = start(unpacked_sdist(package, args.cache), work, ["-k", args.k] if args.k else [])
        for process in running.values():
            process.wait()
        regressions += report(suite, work)
    print(f"logs: {work}")
    return 1 if regressions else 0


if __name__ == "__main__":
    sys.exit(main())
