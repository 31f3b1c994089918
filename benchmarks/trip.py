"""
Count the changes of file in one update: how often a reader who follows it has to turn to another page.

    python -m benchmarks.trip

The update is one of ForwardPPO on CartPole: 256 rows, one hidden phase, one epoch in minibatches of 64.
"""

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
    model = ForwardPPO("MlpPolicy", "CartPole-v1", n_steps=256, batch_size=64, n_epochs=1, seed=0, device="cpu").learn(512)
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


if __name__ == "__main__":
    calls = follow_update()
    files = [file for file, _ in calls]
    changes = sum(file != following for file, following in itertools.pairwise(files))
    print(f"{len(calls)} calls of {len(set(calls))} functions in {len(set(files))} files, {changes} changes of file")
