"""The catalogue of faults fits the code; ``python -m tests.mutants`` runs the tests on each of them, which takes a while."""

from pathlib import Path

import pytest

from tests.mutants.catalogue import MUTANTS, PRIORITIES, TESTS

ROOT = Path(__file__).parent.parent


def test_every_fault_has_its_place() -> None:
    """What it replaces occurs once, and what comes of it is Python."""
    for mutant in MUTANTS:
        mutant.check(ROOT)
        compile(mutant.mutated(ROOT), mutant.file, "exec")


def test_no_fault_is_listed_twice() -> None:
    assert len({(mutant.file, mutant.old, mutant.new) for mutant in MUTANTS}) == len(MUTANTS)
    assert len({(mutant.file, mutant.why) for mutant in MUTANTS}) == len(MUTANTS)


def test_a_fault_without_a_place_is_refused() -> None:
    with pytest.raises(ValueError, match="occurs 0 times"):
        MUTANTS[0]._replace(old="no such text").check(ROOT)


def test_tests_of_the_faults_are_there() -> None:
    for topic in (*TESTS, *(topic for topics in PRIORITIES.values() for topic in topics)):
        assert (ROOT / "tests" / f"test_{topic}.py").is_file(), topic
