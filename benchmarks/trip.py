"""
Count the changes of file in one update: how often a reader who follows it has to turn to another page.

    python -m benchmarks.trip
    python -m benchmarks.trip --list

The update is one of ForwardPPO on CartPole: 256 rows, one step of each block, one epoch of the heads in minibatches of 64.
"""

import argparse
import itertools
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import sb3_forward
from sb3_forward import ForwardPPO

PACKAGE = Path(sb3_forward.__file__).parent


def follow_update() -> list[tuple[str, str]]:
    """
    Follow an update.

    :return: file and function of each call within the package, in their order
    """
    model = ForwardPPO(
        "MlpPolicy", "CartPole-v1", n_steps=256, batch_size=64, n_epochs=1, local_batch_size=256, seed=0, device="cpu"
    )
    model.learn(512)
    calls: list[tuple[str, str]] = []
    train = model.train

    def watch(frame: FrameType, event: str, _: Any) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(PACKAGE):
            calls.append((path.relative_to(PACKAGE).as_posix(), frame.f_code.co_name))

    def watched() -> None:
        sys.setprofile(watch)
        try:
            train()
        finally:
            sys.setprofile(None)

    model.train = watched  # type: ignore[method-assign]
    model.learn(256, reset_num_timesteps=False)
    return calls


def main() -> int:
    """
    Count, and print.

    :return: the exit code
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="print file and function at each change")
    options = parser.parse_args()
    calls = follow_update()
    changes = [following for call, following in itertools.pairwise(calls) if call[0] != following[0]]
    if options.list:
        print(*(f"{file} {function}" for file, function in changes), sep="\n")
    files = {file for file, _ in calls}
    print(f"{len(calls)} calls of {len(set(calls))} functions in {len(files)} files, {len(changes)} changes of file")
    return 0


if __name__ == "__main__":
    sys.exit(main())
