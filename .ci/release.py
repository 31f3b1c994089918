"""Whether this commit can be released: version, changelog, citation, tag, address, and a tree without changes."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path


def git(root: Path, *arguments: str) -> str:
    """
    :param root: of the repository
    :param arguments: of git
    :return: what it prints
    """
    return subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True).stdout.rstrip()


def version(root: Path) -> str:
    """
    :param root: of the repository
    :return: that of the package
    """
    (found,) = re.findall(r'^__version__ = "(.+)"$', (root / "sb3_forward" / "__init__.py").read_text(), re.MULTILINE)
    return found


def problems(root: Path) -> Iterator[str]:
    """
    :param root: of the repository
    :return: what speaks against a release
    """
    ours = version(root)
    if not re.fullmatch(r"\d+\.\d+\.\d+", ours):
        yield f"__version__ is {ours}, which is no version of a release"
    (cited,) = re.findall(r"^version: (.+)$", (root / "CITATION.cff").read_text(), re.MULTILINE)
    if cited != ours:
        yield f"CITATION.cff is of {cited}, and not of {ours}"
    heading = re.findall(r"^## .+$", (root / "CHANGELOG.md").read_text(), re.MULTILINE)[0]
    if not re.fullmatch(rf"## {re.escape(ours)} \(\d{{4}}-\d\d-\d\d\)", heading):
        yield f"CHANGELOG.md begins with '{heading}', and not with '## {ours} (YEAR-MONTH-DAY)'"
    if git(root, "tag", "--list", f"v{ours}"):
        yield f"there is a tag v{ours} already"
    urls = re.search(r"^\[project\.urls\]\n((?:.+\n)*)", (root / "pyproject.toml").read_text(), re.MULTILINE)
    if not urls or not re.search(r'^Repository = "https://', urls[1], re.MULTILINE):
        yield "pyproject.toml has no [project.urls] with the address of the Repository"
    if changes := git(root, "status", "--porcelain"):
        yield f"there are changes that are not committed:\n{changes}"


def main() -> None:
    """Say what speaks against a release of this commit, and fail if anything does."""
    found = list(problems(Path(__file__).parent.parent))
    print(*(f"- {problem}" for problem in found), sep="\n", file=sys.stderr)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
