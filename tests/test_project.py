"""What maintainers rely on: workflow, hooks, version, changelog and release."""

import re
import runpy
import shutil
import subprocess
from collections.abc import Callable
from importlib.metadata import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml

import sb3_forward
from tests.bare_python import ROOT

pytestmark = pytest.mark.skipif(not (ROOT / ".github").is_dir(), reason="a source distribution has no workflow")

MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))


# === Commands ===


def test_every_target_is_phony_and_explained():
    phony = set(re.findall(r"^\.PHONY: (.+)$", MAKEFILE, re.MULTILINE)[0].split())
    explained = set(re.findall(r"^([a-z-]+):.*  ## \S", MAKEFILE, re.MULTILINE))
    assert TARGETS == phony == explained


def test_ci_is_the_command_of_the_readme():
    (command,) = re.findall(r"^exec (.+)$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    assert re.search(rf"^{command}\s", (ROOT / "README.md").read_text(), re.MULTILINE)


def test_workflow():
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    assert {"lint", "docs", "test"} <= set(jobs["make"]["strategy"]["matrix"]["target"]) <= TARGETS
    assert jobs["make"]["steps"][-1]["run"] == "make ${{ matrix.target }}"
    matrix = jobs["nox"]["strategy"]["matrix"]
    pythons = re.findall(r"Python :: (\d\.\d+)", "\n".join(metadata("sb3-forward").get_all("Classifier") or []))
    assert matrix["python"] == pythons
    sessions = set(re.findall(r"^def (\w+)\(session", (ROOT / "noxfile.py").read_text(), re.MULTILINE))
    assert {"tests", "wheel"} <= {*matrix["session"], *(more["session"] for more in matrix["include"])} <= sessions


def test_hooks_before_a_commit():
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    entries = [hook["entry"].split() for hook in repository["hooks"]]
    assert [words[0] for words in entries] == ["make", "make"]
    assert {words[1] for words in entries} <= TARGETS


# === Release ===


def test_version_is_said_once():
    version = re.escape(sb3_forward.__version__)
    assert re.search(rf"^version: {version}$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    release = sb3_forward.__version__.removesuffix(".dev0")
    heading = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[0]
    assert heading.startswith(f"{release} ("), f"the changelog begins with {heading}"


def test_headings_of_the_changelog():
    for release in (ROOT / "CHANGELOG.md").read_text().split("\n## ")[1:]:
        headings = re.findall(r"^### (.+)$", release, re.MULTILINE)
        assert headings == [kind for kind in ("Breaking", "New", "Fixes", "Docs") if kind in headings]
        assert headings


@pytest.fixture
def ready(tmp_path: Path) -> Path:
    """A repository that can be released."""
    (tmp_path / "sb3_forward").mkdir()
    for path, old, new in (
        ("sb3_forward/__init__.py", r'(?<=^__version__ = ").+(?=")', "7.8.9"),
        ("CITATION.cff", r"(?<=^version: ).+", "7.8.9"),
        ("CHANGELOG.md", r"(?<=^## )\d.+", "7.8.9 (2030-12-01)"),
        (
            "pyproject.toml",
            r"(?=^\[project.optional-dependencies\])",
            '[project.urls]\nRepository = "https://localhost/us"\n\n',
        ),
        (".ci/release.py", "", ""),
    ):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(re.sub(old, new, (ROOT / path).read_text(), count=1, flags=re.MULTILINE))
    git(tmp_path, "init", "--quiet")
    commit(tmp_path)
    return tmp_path


def git(folder: Path, *arguments: str) -> None:
    author = ["-c", "user.name=us", "-c", "user.email=us@localhost"]
    subprocess.run(["git", *author, *arguments], cwd=folder, check=True, capture_output=True)


def commit(folder: Path) -> None:
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "all")


def problems(folder: Path) -> list[str]:
    return list(runpy.run_path(str(ROOT / ".ci" / "release.py"))["problems"](folder))


def replaced(path: str, old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        text = (folder / path).read_text()
        assert old in text
        (folder / path).write_text(text.replace(old, new))
        commit(folder)

    return change


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (replaced("sb3_forward/__init__.py", "7.8.9", "7.8.9.dev0"), "no version of a release"),
        (replaced("CITATION.cff", "7.8.9", "7.8.8"), "CITATION.cff is of 7.8.8, and not of 7.8.9"),
        (replaced("CHANGELOG.md", "(2030-12-01)", "(unreleased)"), "CHANGELOG.md begins with '## 7.8.9 (unreleased)'"),
        (replaced("pyproject.toml", "Repository =", "Elsewhere ="), "address of the Repository"),
        (lambda folder: git(folder, "tag", "v7.8.9"), "a tag v7.8.9 already"),
        (lambda folder: (folder / "new.py").touch(), "not committed:\n?? new.py"),
    ],
)
def test_release_is_refused(spoil: Callable[[Path], Any], said: str, ready: Path):
    assert problems(ready) == []
    spoil(ready)
    assert any(said in problem for problem in problems(ready))


def test_release_says_it_and_fails(ready: Path):
    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(["python", ".ci/release.py"], cwd=ready, capture_output=True, text=True)

    assert run().returncode == 0
    git(ready, "tag", "v7.8.9")
    refused = run()
    assert refused.returncode == 1
    assert refused.stderr == "- there is a tag v7.8.9 already\n"


def test_site_has_the_address_of_the_repository(monkeypatch: pytest.MonkeyPatch):
    """Once pyproject.toml names one."""
    from mkdocs.config.defaults import MkDocsConfig

    from docs import hooks

    found = {"Project-URL": ["Changes, https://localhost/changes", "Repository, https://localhost/us/sb3-forward"]}
    monkeypatch.setattr(hooks, "metadata", lambda name: type("Metadata", (), {"get_all": found.get}))
    config = hooks.on_config(MkDocsConfig())
    assert (config.repo_url, config.repo_name) == ("https://localhost/us/sb3-forward", "us/sb3-forward")
