"""What tools see of the API: type checkers, editors, help() and the documentation."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import jedi
import pytest
from stable_baselines3 import A2C, PPO

import sb3_forward
from sb3_forward import ForwardA2C, ForwardPPO
from sb3_forward.local.distances import DISPARITIES, LOCAL_LOSSES
from sb3_forward.on_policy import ForwardOnPolicyAlgorithm
from sb3_forward.parameters import HIDDEN_TRAINING
from tests.bare_python import ROOT

pytestmark = pytest.mark.slow

BOTH = [(ForwardA2C, A2C), (ForwardPPO, PPO)]
# Our parameters, of which the meaning is not quite the same for both
DIFFERENT = {"head_learning_rate_scale"}
# A rollout of A2C has a handful of rows, one of PPO is enough for a hidden phase; A2C was not compared in smaller minibatches
OTHER_DEFAULTS = {"local_interval", "local_batch_size"}


def ours(algorithm: type) -> dict[str, inspect.Parameter]:
    return {key: given for key, given in inspect.signature(algorithm).parameters.items() if given.kind is given.KEYWORD_ONLY}


def descriptions(algorithm: type) -> dict[str, str]:
    """What the docstring says of each parameter."""
    docstring = inspect.getdoc(algorithm)
    assert docstring is not None
    found = re.findall(r"^:param (\w+): (.+?)(?=^:|\Z)", docstring, re.MULTILINE | re.DOTALL)
    return {name: " ".join(text.split()) for name, text in found}


# === Signatures ===


@pytest.mark.parametrize(("algorithm", "stock"), BOTH)
def test_every_argument_arrives_under_its_name(algorithm: Any, stock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """None is forgotten, and no two are exchanged on the way up."""
    handed_on: dict[str, Any] = {}
    signature = inspect.signature(stock.__init__)

    def record(self: Any, *args: Any, **kwargs: Any) -> None:
        handed_on.update(signature.bind(self, *args, **kwargs).arguments)

    monkeypatch.setattr(stock, "__init__", record)
    given = {name: object() for name in inspect.signature(algorithm).parameters}
    model = algorithm(**given)
    assert handed_on.pop("self") is model
    assert handed_on == {name: value for name, value in given.items() if name not in ours(algorithm)}
    for name in ours(algorithm):
        assert getattr(model, name) is given[name]


@pytest.mark.parametrize("algorithm", [ForwardA2C, ForwardPPO])
def test_every_parameter_of_ours_is_described(algorithm: Any) -> None:
    assert list(descriptions(algorithm)) == list(ours(algorithm))


def test_both_algorithms_have_the_same_parameters_and_describe_them_alike() -> None:
    a2c, ppo = ours(ForwardA2C), ours(ForwardPPO)
    assert list(a2c) == list(ppo) == list(ours(ForwardOnPolicyAlgorithm))
    of_a2c, of_ppo = descriptions(ForwardA2C), descriptions(ForwardPPO)
    for name in a2c:
        assert a2c[name].annotation == ppo[name].annotation
        if name in DIFFERENT:
            assert of_a2c[name].startswith(of_ppo[name]), "A2C's adds to it"
        else:
            assert a2c[name].default == ppo[name].default or name in OTHER_DEFAULTS
            assert of_a2c[name] == of_ppo[name]


@pytest.mark.parametrize(
    ("name", "choices"), [("local_loss", LOCAL_LOSSES), ("disparity", DISPARITIES), ("hidden_training", HIDDEN_TRAINING)]
)
def test_choices_of_a_type_are_those_there_are(name: str, choices: Any) -> None:
    for algorithm in (ForwardA2C, ForwardPPO):
        assert set(get_args(ours(algorithm)[name].annotation)) == set(choices)


# === The page of imports ===


def test_stub_exports_what_the_package_does() -> None:
    page = ast.parse((ROOT / "sb3_forward" / "__init__.pyi").read_text())
    imports = [node for node in page.body if isinstance(node, ast.ImportFrom)]
    exported = {alias.name: node.module for node in imports for alias in node.names}
    (names,) = (ast.literal_eval(node.value) for node in page.body if isinstance(node, ast.Assign))
    assert names == sb3_forward.__all__ == dir(sb3_forward)
    assert {*exported, "__version__"} == set(names)
    for name, module in exported.items():
        assert module is not None
        assert getattr(sb3_forward, name) is getattr(importlib.import_module(module), name)


def test_unknown_name() -> None:
    with pytest.raises(ImportError, match="ForwardDQN"):
        from sb3_forward import ForwardDQN  # type: ignore[attr-defined]  # noqa: F401


def test_import_of_the_package_is_free() -> None:
    """Only `sb3_forward` itself is imported; PyTorch and SB3 take seconds, and even `typing` takes milliseconds."""
    code = "import sys; before = set(sys.modules); import sb3_forward; print(set(sys.modules) - before)"
    finished = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert finished.stdout == "{'sb3_forward'}\n", finished.stderr


# === Tools ===

MISTAKES = {
    "n_stepz=64": "n_stepz",
    'n_steps="many"': "n_steps",
    "local_lerning_rate=1e-3": "local_lerning_rate",
    'guidance_coef="0.5"': "guidance_coef",
    'hidden_training="locl"': "hidden_training",
}
RIGHT = """\
from sb3_forward import ForwardA2C, ForwardPPO

ppo = ForwardPPO("MlpPolicy", "CartPole-v1", 1e-3, n_steps=64, guidance_coef=0, local_learning_rate="lin_1e-3")
a2c = ForwardA2C("MlpPolicy", "CartPole-v1", hidden_training="frozen", local_learning_rate=lambda progress: progress).learn(50)
reveal_type(a2c)
"""


def mypy(folder: Path, script: str) -> list[str]:
    """Lines that mypy writes of a user's script. What it imports is in the cache that `make lint` has filled."""
    (folder / "script.py").write_text(script)
    command = [sys.executable, "-m", "mypy", str(folder / "script.py")]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert finished.stderr == ""
    return finished.stdout.splitlines()[:-1]


def test_type_checker_reports_common_mistakes(tmp_path: Path) -> None:
    calls, named = [], []
    for algorithm in ("ForwardA2C", "ForwardPPO"):
        calls += [f'{algorithm}("MlpPolicy", "CartPole-v1", {mistake})' for mistake in MISTAKES] + [f"{algorithm}()"]
        named += [*MISTAKES.values(), "policy"]
    lines = mypy(tmp_path, "\n".join(["from sb3_forward import ForwardA2C, ForwardPPO", *calls]))
    errors = [line for line in lines if ": error: " in line]
    assert len(errors) == len(calls), lines
    for number, (name, error) in enumerate(zip(named, errors, strict=True), 2):
        assert f"script.py:{number}: " in error
        assert f'"{name}"' in error


def test_type_checker_accepts_what_is_right(tmp_path: Path) -> None:
    (revealed,) = mypy(tmp_path, RIGHT)
    assert 'Revealed type is "sb3_forward.a2c.ForwardA2C"' in revealed


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("from sb3_forward import Forw", {"ForwardA2C", "ForwardPPO", "ForwardPolicy"}),
        ("from sb3_forward import ForwardPPO\nForwardPPO(n_st", {"n_steps="}),
        ("from sb3_forward import ForwardA2C\nForwardA2C(guid", {"guidance_coef="}),
    ],
)
def test_editor_completes(typed: str, completed: set[str]) -> None:
    """By jedi, which IPython, Jupyter and many editors ask."""
    project = jedi.Project(ROOT)
    assert completed <= {completion.name for completion in jedi.Script(typed, project=project).complete()}
