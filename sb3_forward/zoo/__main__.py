"""
Run the RL Zoo's scripts with the forward algorithms, without the start-up hook: ``python -m sb3_forward.zoo COMMAND ...``.
"""

import runpy
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import wrapt

from sb3_forward.zoo.registration import register

COMMANDS = {
    "train": ("rl_zoo3.train", "train, tune (-optimize) or continue (-i) an agent"),
    "enjoy": ("rl_zoo3.enjoy", "watch or evaluate a trained agent"),
    "record_video": ("rl_zoo3.record_video", "film a trained agent"),
    "record_training": ("rl_zoo3.record_training", "film the checkpoints of a training run (needs ffmpeg)"),
    "push_to_hub": ("rl_zoo3.push_to_hub", "upload a trained agent and its model card to the Hugging Face Hub"),
    "load_from_hub": ("rl_zoo3.load_from_hub", "download a trained agent from the Hugging Face Hub"),
    "benchmark": ("rl_zoo3.benchmark", "evaluate all trained agents of a folder"),
    "plot_train": ("rl_zoo3.plots.plot_train", "plot the training reward (the plots need rl_zoo3[plots])"),
    "all_plots": ("rl_zoo3.plots.all_plots", "compare the evaluations of several runs"),
    "plot_from_file": ("rl_zoo3.plots.plot_from_file", "plot what all_plots has saved"),
}

EXAMPLES = """\
  python -m sb3_forward.zoo train --algo forward_a2c --env CartPole-v1 -P
  python -m sb3_forward.zoo train --algo forward_ppo --env LunarLander-v3 -optimize --n-trials 100
  python -m sb3_forward.zoo enjoy --algo forward_a2c --env CartPole-v1 -f logs --no-render
  python -m sb3_forward.zoo train -h"""


def main(arguments: list[str]) -> int:
    """
    Run one script of the Zoo.

    :param arguments: the command and its own arguments
    :return: the exit code
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0
    command, *script_arguments = arguments
    if command not in COMMANDS:
        print(f"unknown command {command!r}, choose from: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    register()
    wrapt.wrap_function_wrapper(subprocess, "call", _call_with_forward_algorithms)
    # argparse takes the name in its usage line from `sys.argv`
    sys.argv = [f"python -m sb3_forward.zoo {command}", *script_arguments]
    runpy.run_module(COMMANDS[command][0], run_name="__main__")
    return 0


def usage() -> str:
    """
    Write the help text.

    :return: the text
    """
    commands = "\n".join(f"  {name:16} {purpose}" for name, (_, purpose) in COMMANDS.items())
    return f"usage: python -m sb3_forward.zoo COMMAND ...\n\ncommands:\n{commands}\n\nexamples:\n{EXAMPLES}"


def _call_with_forward_algorithms(
    wrapped: Callable[..., int], instance: Any, args: tuple[list[str], ...], kwargs: dict[str, Any]
) -> int:
    """Redirect the scripts that a script starts, `python -m rl_zoo3.record_video` and `python enjoy.py`, to this command."""
    command = args[0]
    match command:
        case ["python", "-m", "rl_zoo3.record_video", *rest]:
            command = [sys.executable, "-m", "sb3_forward.zoo", "record_video", *rest]
        case ["python", "enjoy.py", *rest]:
            command = [sys.executable, "-m", "sb3_forward.zoo", "enjoy", *rest]
    return wrapped(command, *args[1:], **kwargs)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
