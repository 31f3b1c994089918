"""Every example runs, in short form."""

import runpy
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).parent.parent / "examples"


def load(name: str) -> Any:
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]


def test_quickstart() -> None:
    assert load("quickstart")(2_048) > 5


def test_swap_in(tmp_path: Path) -> None:
    best = load("swap_in")(2_048, str(tmp_path))
    assert best.is_file()
    assert list(tmp_path.glob("rl_model_*_steps.zip"))
    assert list(tmp_path.glob("rl_model_vecnormalize_*_steps.pkl"))
    assert list(tmp_path.glob("**/events.out.tfevents.*"))


def test_every_example_is_tested() -> None:
    tested = Path(__file__).read_text()
    examples = {path.stem for path in EXAMPLES.glob("*.py")}
    assert examples
    assert all(f'load("{name}")' in tested for name in examples)
