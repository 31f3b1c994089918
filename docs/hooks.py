"""
What MkDocs cannot do by itself: pages that link to files beside ``docs/``, by paths that are right in the repository, too.

Results, changelog, examples and the pages at the root become part of the site at their path from the root; ``../`` goes from
the links of the pages in ``docs/``, and ``docs/`` from those elsewhere. The pictures of comparisons are drawn from their
tables, and the page of examples ends with their code.
"""

import re
from functools import cache
from importlib.metadata import metadata
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from sb3_forward.compare.plots import render
from sb3_forward.compare.report import pictures
from sb3_forward.compare.results import Results

ROOT = Path(__file__).parent.parent
BESIDE = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "hyperparams/*.yml",
    "benchmarks/*.yml",
    "examples/README.md",
    "examples/*.ipynb",
    *(f"benchmarks/results/**/*.{kind}" for kind in ("md", "png", "csv", "jsonl", "txt")),
)
# Of Sphinx, as the docstrings of Stable-Baselines3 have it, after its names have become code
ROLE = re.compile(r":(?:class|func|meth|mod):<code>~?([\w.]+)</code>")


def on_config(config: Any) -> Any:
    """
    :param config: of the site
    :return: the same, with the address of the repository where pyproject.toml has one
    """
    for entry in metadata("sb3-forward").get_all("Project-URL") or []:
        label, address = entry.split(", ", 1)
        if label == "Repository":
            config.repo_url, config.repo_name = address, address.split("/", 3)[3]
    return config


def on_files(files: Files, config: Any) -> Files:
    """
    :param files: what is in ``docs/``
    :param config: of the site
    :return: the same, what lies beside, and pictures
    """
    for path in sorted(path for pattern in BESIDE for path in ROOT.glob(pattern)):
        files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    for report in sorted(ROOT.glob("benchmarks/results/**/report.md")):
        for name, png in _pictures(report.parent, report.with_name("results.csv").stat().st_mtime).items():
            drawn = File.generated(config, report.with_name(name).relative_to(ROOT).as_posix(), content=png)
            # One of a report that was made here may be older than the table
            if older := files.get_file_from_path(drawn.src_uri):
                files.remove(older)
            files.append(drawn)
    return files


@cache
def _pictures(folder: Path, changed: float) -> dict[str, bytes]:
    """The pictures of a comparison, drawn once by ``mkdocs serve`` as long as its table is not changed."""
    return {f"{name}.png": render(figure, "png") for name, figure in pictures(Results(folder).records())}


def on_page_markdown(markdown: str, page: Any, **kwargs: Any) -> str:
    """
    :param markdown: of a page
    :param page: the page
    :param kwargs: not used
    :return: the same, with links as the site has them
    """
    if page.file.src_uri == "examples/README.md":
        code = [f"\n## {path.name}\n\n````python\n{path.read_text()}````\n" for path in sorted(ROOT.glob("examples/*.py"))]
        markdown = re.sub(r"\]\((\w+)\.py\)", r"](#\1py)", markdown) + "".join(code)
    if "/" in page.file.src_uri:
        return markdown.replace("](../docs/", "](../")
    return markdown.replace("](../", "](").replace("](docs/", "](")


def on_page_content(html: str, **kwargs: Any) -> str:
    """
    :param html: of a page
    :param kwargs: not used
    :return: the same, with the names in docstrings as links to what they name
    """
    return ROLE.sub(r'<autoref optional identifier="\1"><code>\1</code></autoref>', html)
