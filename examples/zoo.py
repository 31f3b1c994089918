"""The RL Zoo from train to enjoy to video, by its own commands: python examples/zoo.py [timesteps] [folder]"""

import subprocess
import sys
from pathlib import Path


def zoo(command: str, *arguments: object) -> None:
    """
    Run one command of the RL Zoo.

    :param command: train, enjoy, record_video, ...
    :param arguments: its arguments
    """
    line = [sys.executable, "-m", f"rl_zoo3.{command}", *map(str, arguments)]
    print("$ python", *line[1:], flush=True)
    subprocess.run(line, check=True)


def main(timesteps: int = 100_000, folder: str = "runs/zoo") -> Path:
    """
    Train with the shipped hyperparameters, evaluate without a window, and film.

    :param timesteps: environment steps
    :param folder: where all is written
    :return: the video
    """
    run = ["--algo", "forward_ppo", "--env", "CartPole-v1", "-f", folder]
    zoo("train", *run, "-n", timesteps, "--seed", 0, "--eval-freq", max(timesteps // 5, 1))
    zoo("enjoy", *run, "-n", min(timesteps, 2_000), "--no-render")
    zoo("record_video", *run, "-n", min(timesteps, 500), "-o", f"{folder}/videos")
    video = max(Path(folder, "videos").glob("*.mp4"), key=lambda path: path.stat().st_mtime)
    print(f"video: {video}")
    return video


if __name__ == "__main__":
    main(*(int(argument) if argument.isdigit() else argument for argument in sys.argv[1:]))  # type: ignore[arg-type]
