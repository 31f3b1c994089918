"""The docstrings of the package: each begins with a sentence, and a public one explains every parameter."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import sb3_forward

PACKAGE = Path(sb3_forward.__file__).parent
# No sentence in the imperative begins so, and no name of a thing
NO_SENTENCE = re.compile(r"(What|How|Of|Beside|For|Where|Whether)\b|:(param|return|raises)\b")

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def docstrings(node: Documented, name: str, public: bool = True) -> Iterator[tuple[str, Documented, bool, str]]:
    """Yield path, node, whether it is public, and docstring of all that has one."""
    text = ast.get_docstring(node)
    if text is not None:
        yield name, node, public, text
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            hidden = child.name.startswith("_") and not child.name.startswith("__")
            shown = public and not hidden and isinstance(node, ast.Module | ast.ClassDef)
            yield from docstrings(child, f"{name}.{child.name}", shown)


DOCSTRINGS = [
    found
    for path in sorted(PACKAGE.rglob("*.py"))
    for found in docstrings(ast.parse(path.read_text()), ".".join(path.relative_to(PACKAGE).with_suffix("").parts))
]


def test_every_docstring_begins_with_a_sentence():
    assert len(DOCSTRINGS) > 400
    assert [name for name, _, _, text in DOCSTRINGS if NO_SENTENCE.match(text)] == []


@pytest.mark.parametrize("text", ["What it is.", "How it is made.", "Of rows.", ":param x: a number", ":return: a number"])
def test_others_are_found(text: str):
    module = ast.parse(f'class Public:\n    def method(self):\n        """\n        {text}\n        """')
    assert [name for name, _, _, text in docstrings(module, "module") if NO_SENTENCE.match(text)] == ["module.Public.method"]


def test_public_docstrings_explain_every_parameter():
    missing = []
    for name, node, public, text in DOCSTRINGS:
        if public and isinstance(node, ast.FunctionDef):
            given = [one.arg for one in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            explained = re.findall(r"^:param (\w+):", text, re.MULTILINE)
            missing += [f"{name}: {one}" for one in given if one not in ("self", "cls", *explained)]
    assert missing == []
