"""The site builds, and what README and docs print holds: code runs, commands parse, links lead somewhere, figures are rows."""

import argparse
import ast
import csv
import inspect
import re
import runpy
import shlex
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium as gym
import matplotlib
import numpy as np
import pytest
import rl_zoo3.import_envs  # noqa: F401
from matplotlib.image import imread
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from benchmarks import overview
from sb3_forward import ForwardA2C, ForwardPolicy, ForwardPPO
from sb3_forward.on_policy import ForwardOnPolicyAlgorithm
from sb3_forward.zoo.agents import train_agent
from sb3_forward.zoo.registration import register
from tests.bare_python import ROOT

register()

BESIDE = ("README", "CONTRIBUTING", "SECURITY", "examples/README")
PAGES = sorted([*(ROOT / f"{page}.md" for page in BESIDE), *(ROOT / "docs").rglob("*.md")])
REPORTS = sorted([ROOT / "CHANGELOG.md", *(ROOT / "benchmarks" / "results").rglob("*.md")])
COMMAND = re.compile(r"(python (-m )?[^-\s]\S* |make |pip install |nox -s )\S")
# Stands for an environment of the reader
THEIRS = "MyEnv-v0"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="a source distribution has no docs"),
]


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def prose(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[list[str]]:
    """Lines of the bash blocks, and commands with arguments in the text that are not cut short by dots."""
    lines = [line for block in blocks(page, "bash") for line in block.replace("\\\n", " ").splitlines()]
    inline = [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose(page))]
    lines += [code for code in inline if COMMAND.match(code) and "..." not in code]
    found = [shlex.split(line, comments=True) for line in lines]
    # Settings of the environment in front of it are the shell's business
    return [words[next(i for i, word in enumerate(words) if "=" not in word) :] for words in found if words]


def links(page: Path) -> list[str]:
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)) if "://" not in target]


def pictures(page: Path) -> list[str]:
    return re.findall(r"!\[[^]]*\]\(([^)]+)\)", prose(page))


def parametrize(pages: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("page", pages, ids=map(name, pages))


# === The site ===


def test_site(tmp_path: Path):
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    built = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    for page in (ROOT / "docs").rglob("*.md"):
        html = (tmp_path / page.relative_to(ROOT / "docs").with_suffix(".html")).read_text()
        # It asks no other server for anything
        assert not re.search(r"<(script|img|iframe)[^>]+src=\"?(https?:)?//", html)
        assert not re.search(r"<link[^>]+rel=\"?stylesheet[^>]+href=\"?(https?:)?//", html)
    assert all((tmp_path / f"{page}.html").is_file() for page in ("CHANGELOG", "CONTRIBUTING", "SECURITY"))
    api = (tmp_path / "api.html").read_text()
    for algorithm in (ForwardPPO, ForwardA2C):
        section = api.split(f'id="{algorithm.__module__}.{algorithm.__name__}"')[1].split('<h2 id="sb3_forward.')[0]
        assert [key for key in inspect.signature(algorithm).parameters if key not in section] == []
        assert '<span class="gp">&gt;&gt;&gt; </span>' in section, "examples are no code"
    for page in PAGES:
        for target in links(page):
            if target.startswith("../"):
                beside = re.sub(r"\.md(#.*)?$", ".html", target.removeprefix("../").removeprefix("docs/"))
                beside = beside.replace("README.html", "index.html")
                assert (tmp_path / beside).is_file(), f"{target} of {name(page)} is not in the site"
    gallery = (tmp_path / "examples" / "index.html").read_text()
    for path in (ROOT / "examples").glob("*.py"):
        assert f'href="#{path.stem}py"' in gallery
        assert f'id="{path.stem}py"' in gallery
    for report in REPORTS:
        for picture in pictures(report):
            drawn = tmp_path / name(report.parent / picture)
            assert drawn.read_bytes().startswith(b"\x89PNG"), f"{picture} of {name(report)} is no picture"


# === Code ===


@parametrize([page for page in PAGES if blocks(page, "python")])
def test_code_runs_as_printed(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    learn = OnPolicyAlgorithm.learn

    def learn_less(self: OnPolicyAlgorithm, total_timesteps: int, *args: Any, **kwargs: Any) -> OnPolicyAlgorithm:
        return learn(self, 1, *args, **kwargs)

    monkeypatch.setattr(OnPolicyAlgorithm, "learn", learn_less)
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    if "load_agent(" in page.read_text():
        train_agent("forward_ppo", "CartPole-v1", tmp_path / "agents")  # as the command of the page does
    for code in blocks(page, "python"):
        exec(compile(code, name(page), "exec"), namespace)
    printed = capsys.readouterr().out
    assert all(shown in printed for shown in blocks(page, "text") if shown.startswith("HiddenNetwork("))


def test_first_snippet_of_the_readme_learns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks(ROOT / "README.md", "python")[0], "README.md", "exec"), {})
    found = re.search(r"mean return of ten episodes: (\d+) \+- ", capsys.readouterr().out)
    assert found
    assert int(found[1]) >= 400


# === Commands ===


class Parsed(Exception):
    """A command line was understood."""


def understands(module: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the command as far as its arguments have been parsed; what it does not understand ends it with SystemExit."""
    parse_args = argparse.ArgumentParser.parse_args

    def parse_and_stop(self: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> None:
        parse_args(self, args, namespace)
        raise Parsed

    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
        patch.setattr(sys, "argv", [module, *arguments])
        patch.setattr(subprocess, "call", subprocess.call)  # which `python -m sb3_forward.zoo` wraps
        try:
            with pytest.raises(Parsed):
                runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit:
            pytest.fail(f"{module} does not understand {shlex.join(arguments)}")


def extras() -> set[str]:
    project = (ROOT / "pyproject.toml").read_text()
    table = project.split("[project.optional-dependencies]")[1].split("\n[")[0]
    return set(re.findall(r"^(\w+) = \[", table, re.MULTILINE))


def check(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    match words:
        case ["python", "-m", ("pytest" | "mkdocs") as module, *arguments]:
            assert find_spec(module) is not None
            assert all((ROOT / argument).exists() for argument in arguments if argument.startswith("tests/"))
        case ["python", "-m", module, *arguments]:
            understands(module, arguments, monkeypatch)
        case ["python", file, *arguments]:
            assert (ROOT / file).is_file()
            if file.startswith("benchmarks/"):
                understands(file.removesuffix(".py").replace("/", "."), arguments, monkeypatch)
        case ["make", *targets]:
            known = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
            assert set(targets) <= set(known)
        case ["pip", "install", *packages]:
            for package in packages:
                asked = re.fullmatch(r"(?:\.|sb3-forward)(?:\[([\w,]+)\])?", package)
                assert asked, f"{package} is not ours"
                assert set((asked[1] or "").split(",")) - {""} <= extras()
        case ["nox", "-s", *sessions]:
            known = re.findall(r"^def (\w+)\(session", (ROOT / "noxfile.py").read_text(), re.MULTILINE)
            assert {session.split("-")[0] for session in sessions} <= set(known)
        case ["tensorboard", "--logdir", _]:
            assert find_spec("tensorboard") is not None
        case _:
            pytest.fail(f"no check knows the command {shlex.join(words)}")


@parametrize([page for page in PAGES if commands(page)])
def test_commands(page: Path, monkeypatch: pytest.MonkeyPatch):
    for words in commands(page):
        check(words, monkeypatch)
        if "--gym-packages" in words and THEIRS not in words:
            import_module(words[words.index("--gym-packages") + 1])
        envs = {word for word in words if re.fullmatch(r"[\w/]+-v\d+", word)} - {THEIRS}
        assert envs <= set(gym.registry)


def test_every_extra_is_explained():
    assert set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "install.md").read_text(), re.MULTILINE)) == extras()


@parametrize(PAGES)
def test_named_commands_exist(page: Path):
    """Also those that are cut short."""
    for module in re.findall(r"python\s+-m\s+((?:sb3_forward|benchmarks|rl_zoo3)[\w.]*\w)", page.read_text()):
        assert find_spec(module) is not None, module
    for script in re.findall(r"python\s+(\w+/\w+\.py)", page.read_text()):
        assert (ROOT / script).is_file(), script


# === Links and pictures ===


@pytest.fixture(scope="module")
def in_git() -> set[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("this is no clone")
    return set(listed.stdout.splitlines())


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.fixture(scope="module")
def with_the_site() -> set[str]:
    """Pictures of reports, which are drawn when the site is built; that they are, its test says."""
    return {name(report.parent / picture) for report in REPORTS if report.name == "report.md" for picture in pictures(report)}


@parametrize([*PAGES, *REPORTS])
def test_links(page: Path, in_git: set[str], with_the_site: set[str]):
    for target in links(page):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        # The README is read where nothing is drawn
        known = in_git if page.name == "README.md" else in_git | with_the_site
        assert name(file) in known, f"{target} is neither in git nor drawn with the site"
        assert not anchor or anchor in anchors(file), f"there is no heading for {target}"


@parametrize([page for page in PAGES if re.search(r"!\[", page.read_text())])
def test_pictures_have_their_command(page: Path):
    for picture in pictures(page):
        if picture.endswith(".svg"):
            continue  # drawn by hand
        folder, file = Path(picture).parent.name, Path(picture).name
        if picture.endswith(".gif"):
            made = "`python examples/film.py`" if file == "film.gif" else f"--film docs/{file}"
            assert made in page.read_text()
            continue
        # Folders of results are called after the command that made them, and a word more; those on held-out seeds have one
        command = f"benchmarks.{re.split(r'[_.]', file)[0]}" if folder == "results" else f"sb3_forward.{folder.split('-')[0]}"
        if "held-out" in Path(picture).parts:
            command = "sb3_forward.compare"
        told = any(words[:3] == ["python", "-m", command] for words in commands(page))
        assert told or f"`python -m {command}`" in page.read_text(), f"{picture} without {command}"


def test_design_has_every_module():
    design = (ROOT / "docs" / "design.md").read_text()
    package = ROOT / "sb3_forward"
    rooms = (package, *(package / name for name in ("local", "heads", "rollouts", "files")))
    modules = {path.relative_to(package).as_posix() for room in rooms for path in room.glob("*.py")}
    assert [name for name in sorted(modules) if not name.endswith("__init__.py") and f"`{name}`" not in design] == []


# === Figures ===


def test_returns_behind_the_defaults_are_those_of_the_csv():
    finals: dict[tuple[str, str], list[float]] = {}
    with (ROOT / "benchmarks" / "results" / "tuning.csv").open() as file:
        for row in csv.DictReader(file):
            if (row["algo"], row["commit"]) == ("forward_ppo", "2d95556") and 101 <= int(row["seed"]) <= 105:
                finals.setdefault((row["env"], row["variant"]), []).append(float(row["final"]))
    page = (ROOT / "docs" / "parameters.md").read_text()
    header = re.search(r"^\| changed \| row \|(.+)\|$", page, re.MULTILINE)
    rows = re.findall(r"^\| [^|]+ \| ([\w-]+) \|(.+ ± .+)\|$", page, re.MULTILINE)
    assert header
    assert rows
    for variant, cells in rows:
        for env, cell in zip(header[1].split("|"), cells.split("|"), strict=True):
            found = finals[env.strip(), variant]
            assert len(found) == 5
            assert cell.strip() == f"{np.mean(found):.0f} ± {np.std(found, ddof=1):.0f}", (env, variant)


def test_differences_are_those_of_the_reports():
    """What training of the hidden layers adds, and guidance."""
    page = ROOT / "docs" / "learning.md"
    rows = re.findall(r"^\| \[.+\]\((.+report\.md)\) \| (.+) \| (.+) \|$", page.read_text(), re.MULTILINE)
    assert len(rows) == 6
    for path, *differences in rows:
        report = (page.parent / path).read_text()
        algo = "a2c" if "/a2c/" in path else "ppo"
        for variant, difference in zip(("frozen", "unguided"), differences, strict=True):
            line = f"- {algo}, forward - {variant}: "
            assert f"{line}{difference}\n" in report if difference != "-" else line not in report, (path, variant)


VARIANTS = {"backpropagation": "bp", "forward": "forward", "frozen": "frozen", "unguided": "unguided"}


@parametrize([ROOT / "README.md", ROOT / "docs" / "learning.md", ROOT / "docs" / "images.md"])
def test_returns_on_held_out_seeds_are_those_of_the_reports(page: Path):
    """Every table with a column of environments and of steps; seconds have columns of their own, and A2C tables of its own."""
    reports = [path.read_text() for path in (ROOT / "benchmarks" / "results" / "held-out").glob("*/report.md")]
    tables = re.findall(
        r"^\| environment(, A2C)? \| steps \| (.+) \|\n\|[-|]+\|\n((?:\|.+\|\n)+)", page.read_text(), re.MULTILINE
    )
    assert tables
    for algo, header, rows in tables:
        own = [report for report in reports if ("\n## a2c\n" if algo else "\n## ppo\n") in report]
        for row in rows.splitlines():
            env, _, *cells = (cell.strip() for cell in row.strip("|").split("|"))
            (section,) = [report.split(f"### {env}\n")[1].split("\n#")[0] for report in own if f"### {env}\n" in report]
            for column, cell in zip(header.split(" | "), cells, strict=True):
                if column.startswith("s "):
                    (seconds,) = re.findall(rf"^\| {VARIANTS[column[2:]]} \|.*\| (\S+) \|$", section, re.MULTILINE)
                    assert cell in ("-", f"{float(seconds):.0f}"), (env, column)
                else:
                    assert re.search(rf"^\| {VARIANTS[column]} \| \d+ \| {re.escape(cell)} \|", section, re.MULTILINE), (
                        env,
                        column,
                    )


def test_picture_of_the_readme_is_that_of_the_tables(tmp_path: Path):
    with matplotlib.rc_context(matplotlib.rcParamsDefault):  # the Zoo's plots have set others
        assert overview.main(["--output", str(tmp_path)]) == 0
    drawn, committed = (imread(folder / "overview.png") for folder in (tmp_path, overview.RESULTS))
    assert drawn.shape == committed.shape
    assert np.abs(drawn - committed).mean() < 0.01  # another Matplotlib draws letters otherwise
    curves, times, peaks = overview.draw().axes
    assert [line.get_label() for line in curves.lines] == ["backpropagation", "forward training", "frozen hidden layers"]
    summary = csv.DictReader((overview.HELD_OUT / "lunar-lander" / "summary.csv").open())
    seconds = {row["variant"]: float(row["wall_seconds"]) for row in summary}
    assert {seconds["bp"], seconds["forward"]} <= {bar.get_width() for bar in times.patches}  # type: ignore[attr-defined]
    stock, forward = (np.asarray(line.get_ydata(), dtype=float) for line in peaks.lines)
    assert (round(stock[0], 2), round(stock[-1], 2)) == (1.79, 128.03)
    assert np.round(forward, 2).tolist() == [15.6] * len(stock)


# === Parameters ===


def test_every_parameter_and_its_default():
    rows = re.findall(r"^\| `(\w+)` \| `(.+?)` \| `(.+?)` \|", (ROOT / "docs" / "parameters.md").read_text(), re.MULTILINE)
    printed = {parameter: (ast.literal_eval(ppo), ast.literal_eval(a2c)) for parameter, ppo, a2c in rows}

    def defaults(function: Any) -> dict[str, Any]:
        parameters = inspect.signature(function).parameters.values()
        return {parameter.name: parameter.default for parameter in parameters if parameter.kind == parameter.KEYWORD_ONLY}

    shared = {**defaults(ForwardPolicy.__init__), **defaults(ForwardOnPolicyAlgorithm.__init__)}
    ppo, a2c = ({**shared, **defaults(algorithm.__init__)} for algorithm in (ForwardPPO, ForwardA2C))
    assert printed == {parameter: (ppo[parameter], a2c[parameter]) for parameter in shared}
