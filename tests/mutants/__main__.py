"""
Put each fault of the catalogue into a copy of the package, and run the fast tests on it until one fails.

    python -m tests.mutants
    python -m tests.mutants -k carry --jobs 2
    python -m tests.mutants --without earlier.log

A fault that every test passes has survived: write the test that it asks for, or say in the catalogue why it is none. The exit
code is 1 if one has survived that is not said to be equivalent, or if one that is said to be has been found.
"""

import argparse
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from tests.mutants.catalogue import MUTANTS, PRIORITIES, TESTS, Mutant

ROOT = Path(__file__).parent.parent.parent
SECONDS = 600  # a test that hangs has failed


class Outcome(NamedTuple):
    """What the tests said of a mutant."""

    mutant: Mutant
    failed: str  # the first test that failed, empty if none has


def tests_of(mutant: Mutant | None) -> list[list[str]]:
    """
    Order the tests, those that should find it first.

    :param mutant: the mutant
    :return: files, in three parts
    """
    first = [mutant.found_by] if mutant is not None and mutant.found_by else []
    second = [topic for topic in PRIORITIES.get(mutant.file, ()) if topic not in first] if mutant is not None else []
    parts = first, second, [topic for topic in TESTS if topic not in first + second]
    return [[f"tests/test_{topic}.py" for topic in part] for part in parts if part]


def judge(index: int | None) -> tuple[int | None, str, float]:
    """
    Run the tests on a copy of the package with the fault in it, in a process of its own.

    :param index: of the mutant, None for the package as it is
    :return: its index, the test that failed if any has, and the seconds that it took
    """
    mutant = None if index is None else MUTANTS[index]
    # The modules of the method are those of the copy; PyTorch and SB3 have been loaded before the fork
    for name in [name for name in sys.modules if name.split(".")[0] in ("sb3_forward", "tests")]:
        del sys.modules[name]
    import pytest

    class FirstFailure:
        failed = ""

        def pytest_runtest_logreport(self, report: Any) -> None:
            self.failed = self.failed or (report.nodeid if report.failed else "")

        def pytest_collectreport(self, report: Any) -> None:
            self.failed = self.failed or (f"{report.nodeid} (import)" if report.failed else "")

    start, plugin = time.monotonic(), FirstFailure()
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        folder = Path(name)
        shutil.copytree(ROOT / "sb3_forward", folder / "sb3_forward", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(ROOT / "tests", folder / "tests")
        shutil.copy(ROOT / "pyproject.toml", folder)
        if mutant is not None:
            mutant.apply(folder)
        os.chdir(folder)
        sys.path.insert(0, str(folder))
        with (folder / "log").open("w") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            signal.signal(signal.SIGALRM, _stop)
            signal.alarm(SECONDS)
            for files in tests_of(mutant):
                code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--tb=no", *files], [plugin])
                if code != 0:
                    plugin.failed = plugin.failed or f"exit code {int(code)}"
                    break
            signal.alarm(0)
        loaded = Path(str(sys.modules["sb3_forward"].__file__))
        assert loaded.is_relative_to(folder), f"the tests ran on {loaded}"
        os.chdir(ROOT)
    return index, plugin.failed, time.monotonic() - start


def _stop(*_: Any) -> None:
    raise TimeoutError(f"The tests took more than {SECONDS} s.")


def report(outcomes: list[Outcome]) -> int:
    """
    Print what was found of all mutants.

    :param outcomes: theirs
    :return: how many are a fault of the tests, or of the catalogue
    """
    survived = [mutant for mutant, failed in outcomes if not failed]
    equivalent = [mutant for mutant in survived if mutant.equivalent]
    missed = [mutant for mutant in survived if not mutant.equivalent]
    wrong = [mutant for mutant, failed in outcomes if failed and mutant.equivalent]
    for mutant in equivalent:
        print(f"EQUIVALENT {mutant.file}: {mutant.why} ({mutant.equivalent})")
    for mutant in missed:
        print(f"SURVIVED {mutant.file}: {mutant.why}")
    for mutant in wrong:
        print(f"FOUND, though said to be equivalent, {mutant.file}: {mutant.why}")
    killed = len(outcomes) - len(survived)
    print(f"{len(outcomes)} mutants: {killed} killed, {len(equivalent)} equivalent, {len(missed)} survived")
    return len(missed) + len(wrong)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-k", default="", help="only those of which file or reason have this in them")
    parser.add_argument("--without", type=Path, help="the output of an earlier run: what was killed there is not tried again")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time (default: %(default)s)")
    args = parser.parse_args()
    before = args.without.read_text() if args.without is not None else ""
    chosen = [
        index
        for index, mutant in enumerate(MUTANTS)
        if args.k in f"{mutant.file}: {mutant.why}" and f"{mutant.file}: {mutant.why}: killed by" not in before
    ]
    for index in chosen:
        MUTANTS[index].check(ROOT)

    # Loaded once, for all processes to come
    import hypothesis  # noqa: F401
    import torch
    from stable_baselines3 import PPO

    torch.set_num_threads(1)
    PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8, device="cpu").learn(8)  # PyTorch loads more when it first trains
    outcomes = []
    with multiprocessing.get_context("fork").Pool(args.jobs, maxtasksperchild=1) as pool:
        for found, failed, seconds in pool.imap_unordered(judge, chosen):
            assert found is not None
            mutant = MUTANTS[found]
            outcomes.append(Outcome(mutant, failed))
            print(
                f"{mutant.file}: {mutant.why}: {f'killed by {failed}' if failed else 'survived'} ({seconds:.0f} s)", flush=True
            )
        # If the package as it is failed a test, all that this test has killed would be none
        if failed := pool.apply(judge, [None])[1]:
            print(f"The package as it is fails {failed}: no verdict counts.")
            return 1
    return 1 if report(outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
