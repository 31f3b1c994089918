"""
README and the guides as a reader follows them, in an environment that has what their own `pip install` lines bring.

    nox -s pages

installs the wheel and runs this file in it, once for each set of extras that a page asks for before what comes next. Commands
and snippets are those that are printed, with fewer steps. Here is nothing but the standard library, as a reader has no more.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
GUIDES = (
    "README.md",
    *(f"docs/{page}.md" for page in ("index", "install", "quickstart", "from_ppo", "policies", "supported", "images")),
    *(f"docs/{page}.md" for page in ("many_envs", "zoo", "compare", "inspect", "loggers", "troubleshooting", "reliability")),
    "examples/README.md",
)
# What takes hours, needs a clone, or has files of the reader's own in it
LEFT_OUT = ("make", "nox", "pip uninstall", "python -m pytest", "python benchmarks/", "python -m benchmarks.", "python tests/")
THEIRS = ("MyEnv-v0", "my_hyperparams.yml", "--address", "push_to_hub", "...")
# Said once more with less: the last value of an option counts
SHORTER = {
    "rl_zoo3.train": "-n 64 --n-trials 1",
    "sb3_forward.zoo train": "-n 64",
    "sb3_forward.zoo.agents": "-n 64",
    "rl_zoo3.enjoy": "-n 300",
    "sb3_forward.zoo enjoy": "-n 300",
    "rl_zoo3.record_video": "-n 50",
    "sb3_forward.compare": "--timesteps 256 --seeds 1 --env CartPole-v1",
    "sb3_forward.inspect": "",
    "rl_zoo3.plots.plot_train": "",
}
# In front of every snippet
LEARN_LESS = """
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
_learn = OnPolicyAlgorithm.learn
OnPolicyAlgorithm.learn = lambda self, total_timesteps, *args, **kwargs: _learn(self, 1, *args, **kwargs)
"""


class Step(NamedTuple):
    """Something that a page tells to do, and the extras that it has asked for until then."""

    extras: str
    command: str
    snippet: bool


def lines(language: str, block: str, inline: str) -> list[str]:
    """
    :param language: of a block, or nothing
    :param block: its text
    :param inline: a command in the text; with no argument it is a name
    :return: command lines
    """
    if inline:
        return [] if re.fullmatch(r"python\s+-m\s+\S+", inline) else [" ".join(inline.split())]
    # What a command gets from the environment is the shell's business
    return [re.sub(r"^\w+=\S+ ", "", line) for line in block.replace("\\\n", " ").splitlines()] if language == "bash" else []


def steps(page: str) -> Iterator[Step]:
    """
    :param page: its path from the root
    :return: commands and snippets, in their order
    """
    extras = ""
    told = re.compile(r"^```(\w+)\n(.*?)^```$|`((?:python|pip)\s[^`]+)`", re.MULTILINE | re.DOTALL)
    for language, block, inline in told.findall((ROOT / page).read_text()):
        if language == "python":
            yield Step(extras, block, True)
        for line in lines(language, block, inline):
            installed = re.match(r'pip install "?(?:\.|sb3-forward)(?:\[([\w,]+)\])?"?', line)
            if installed:
                extras = ",".join(sorted({*extras.split(","), *(installed[1] or "").split(",")} - {""}))
            elif line and not line.startswith(LEFT_OUT) and not any(word in line for word in THEIRS):
                yield Step(extras, line, False)


def sets_of_extras() -> list[str]:
    """
    :return: those that some page asks for before it tells to do something
    """
    return sorted({step.extras for page in GUIDES for step in steps(page)})


def shorter(command: str) -> list[str]:
    """
    :param command: as it is printed
    :return: what is run in its place
    """
    if command.startswith("python examples/"):
        return [sys.executable, *command.split()[1:], "512"]
    for name, less in SHORTER.items():
        if command.startswith(f"python -m {name} "):
            words = shlex.split(command, comments=True)[1:]
            return [
                sys.executable,
                *words,
                *(shlex.split(less) if "-optimize" in words else less.split(" --n-trials")[0].split()),
            ]
    raise ValueError(f"nothing is known of the command {command}")


def follow(page: str, extras: str) -> None:
    """
    Do what a page says, and raise what fails.

    :param page: its path from the root
    :param extras: those of the environment
    """
    told = list(steps(page))
    if all(step.extras != extras for step in told):
        return
    # A reader who has come so far has done what stands before
    told = [step for step in told if set(step.extras.split(",")) <= {"", *extras.split(",")}]
    environment = {**os.environ, "SDL_VIDEODRIVER": "dummy", "MPLBACKEND": "agg"}
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ROOT / "examples", Path(folder) / "examples")
        commands = [shorter(step.command) for step in told if not step.snippet]
        if snippets := [step.command for step in told if step.snippet]:
            # Snippets go on where those before them have ended
            commands.append([sys.executable, "-c", "\n".join([LEARN_LESS, *snippets])])
        for command in commands:
            print(page, *(["snippets"] if command[1] == "-c" else command[1:]), flush=True)
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
            if done.returncode != 0:
                sys.exit(f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}")


if __name__ == "__main__":
    for guide in GUIDES:
        follow(guide, sys.argv[1])
