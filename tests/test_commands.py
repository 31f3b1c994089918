"""Every command explains itself with examples, and answers a mistake of its user in one line, with exit code 2."""

import re
import runpy
import sys
from pathlib import Path

import pytest

from tests.bare_python import ROOT


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")


COMMANDS = sorted(
    module_of(path)
    for folder in ("sb3_forward", "benchmarks")
    for path in [*(ROOT / folder).glob("*.py"), *(ROOT / folder).glob("*/__main__.py")]
    if '__name__ == "__main__"' in path.read_text()
)


def run(module: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_all_commands_are_found():
    assert {"sb3_forward.compare", "sb3_forward.inspect", "sb3_forward.zoo", "benchmarks.speed"} <= set(COMMANDS)


@pytest.mark.parametrize("module", COMMANDS)
def test_help(module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    assert run(module, ["-h"], monkeypatch) == 0
    script = module.replace(".", "/") + r"\.py"
    assert re.search(rf"^ +python (-m {module}|{script})\b.* ", capsys.readouterr().out, re.MULTILINE), "no example"


MISTAKES = [
    ("sb3_forward.compare", "--env CartPol-v1 --output {}/new", "did you mean CartPole-v1?"),
    ("sb3_forward.compare", "--env CartPole-v1 --output {}/new --seeds x", "--seeds must be a number"),
    ("sb3_forward.compare", "--env CartPole-v1 --output {}/new --timesteps inf", "--timesteps must be at least 1"),
    ("sb3_forward.compare", "--env CartPole-v1 --output {}/new --device gpu", "--device: "),
    ("sb3_forward.compare", "--env CartPole-v1 --output {}/new --set nonsense:1", "no hyperparameter 'nonsense'"),
    ("sb3_forward.compare", "--env CartPole-v1 --output {}/file", "is no folder"),
    ("sb3_forward.compare", "--env CartPole-v1 --output {}/file/new", "is no folder"),
    ("sb3_forward.inspect", "{}/nothing.zip --env CartPole-v1", "no file"),
    ("sb3_forward.inspect", "{}/file --env CartPole-v1", "no model saved by Stable-Baselines3"),
    ("sb3_forward.inspect", "{}/file --env CartPole-v1 --steps nan", "--steps must be at least"),
    ("sb3_forward.zoo", "trian", "unknown command 'trian'"),
    ("benchmarks.atari", "{}/new", "has no finished runs"),
    ("benchmarks.depth", "--seeds x --output {}/new", "--seeds must be a number"),
    ("benchmarks.depth", "--depths 0.5", "must be a whole number"),
    ("benchmarks.faults", "flood", "unknown fault: flood"),
    ("benchmarks.growth", "--axes height", "invalid choice: 'height'"),
    ("benchmarks.growth", "--output {}/file", "is no folder"),
    ("benchmarks.learning", "--algo forward_ddpg --env CartPole-v1", "unknown algorithm 'forward_ddpg'"),
    ("benchmarks.learning", "--algo forward_ppo --env CartPol-v1", "did you mean CartPole-v1?"),
    ("benchmarks.learning", "--algo forward_ppo --env CartPole-v1 --seeds 0", "must be at least 1"),
    ("benchmarks.long_run", "--timesteps inf", "--timesteps must be finite"),
    ("benchmarks.memory", "--depths x", "must be a whole number"),
    ("benchmarks.memory", "--output {}/file", "is no folder"),
    ("benchmarks.overview", "--output {}/file", "is no folder"),
    ("benchmarks.pipeline", "--output {}/file", "is no folder"),
    ("benchmarks.speed", "--cases nothing", "no case 'nothing'"),
    ("benchmarks.speed", "--sbx --cases ppo-2x64-b64", "no case 'ppo-2x64-b64'"),
    ("benchmarks.trip", "file", "unrecognized arguments: file"),
]


def test_every_command_has_a_mistake():
    assert {module for module, _, _ in MISTAKES} == set(COMMANDS)


@pytest.mark.parametrize(("module", "arguments", "answer"), MISTAKES)
def test_mistakes(
    module: str,
    arguments: str,
    answer: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    (tmp_path / "file").write_text("not what it should be")
    assert run(module, arguments.format(tmp_path).split(), monkeypatch) == 2
    *usage, message = capsys.readouterr().err.splitlines()
    assert answer in message
    assert not usage or usage[0].startswith("usage: ")
    assert not (tmp_path / "new").exists()
