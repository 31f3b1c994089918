"""
What runs of the Zoo on Atari reached, side by side: returns and seconds of every variant.

    python -m benchmarks.atari logs
    python -m benchmarks.atari logs --film film.gif

reads the Zoo's log folders logs/VARIANT/SEED, as these commands write them:

    set -- --env PongNoFrameskip-v4 -n 1000000 --seed 1 --eval-freq -1 --device cpu --num-threads 1
    python -m rl_zoo3.train --algo ppo "$@" -f logs/bp/1
    python -m rl_zoo3.train --algo forward_ppo "$@" -f logs/forward/1
    python -m rl_zoo3.train --algo forward_ppo "$@" -params "hidden_training:'frozen'" -f logs/frozen/1

It writes atari.csv, with the mean return of the games that ended in each fiftieth of the frames, atari.md and atari.png. There
are four frames to a step. Returns are those of training, of whole games without clipped rewards, with the policy's noise. A
film has one game of every model of forward training, side by side.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import ale_py
import gymnasium as gym
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.monitor import load_results
from stable_baselines3.common.vec_env import VecFrameStack

from benchmarks.harness import RESULTS, machine, markdown_table, save_figure, write_text
from sb3_forward import ForwardPPO
from sb3_forward._cli import folder
from sb3_forward.compare.plots import WORDS

gym.register_envs(ale_py)

PARTS = 50
VARIANTS = ("bp", "forward", "frozen")


def returns(run: Path) -> pd.DataFrame:
    """
    Read the games of a run.

    :param run: folder with the Zoo's monitor files
    :return: a row for each part of the frames in which a game ended: frames at its end, number of games, their mean return,
        and seconds from the start to the last of them
    """
    games = load_results(str(run))
    frames = games["l"].cumsum()  # of finished games, one after the other as they ended
    size = -(-frames.iloc[-1] // PARTS)
    games["frames"] = -(-frames // size) * size
    found = games.groupby("frames").agg(games=("r", "size"), mean_return=("r", "mean"), seconds=("t", "max"))
    return found.reset_index()


def read(logs: Path) -> pd.DataFrame:
    """
    Read all runs.

    :param logs: folder with a folder per variant, with one per seed
    :return: their rows, with environment, variant and seed before them
    :raises FileNotFoundError: if there are none
    """
    tables = []
    for variant in VARIANTS:
        for saved in sorted(logs.glob(f"{variant}/*/*/*_*/*.zip")):
            rows = returns(saved.parent)
            for place, (name, value) in enumerate({"env": saved.stem, "variant": variant, "seed": saved.parts[-4]}.items()):
                rows.insert(place, name, value)
            tables.append(rows)
    if not tables:
        places = ", ".join(f"{variant}/SEED" for variant in VARIANTS)
        raise FileNotFoundError(f"{logs} has no finished runs in {places}: -h shows the commands that make them")
    return pd.concat(tables)


def summary(rows: pd.DataFrame) -> list[list[str]]:
    """
    Sum up every run.

    :param rows: from :func:`read`
    :return: environment, variant, seed, mean return of the games in the last tenth of the frames, mean over all
        parts, seconds
    """
    lines = []
    for (env, variant, seed), run in rows.groupby(["env", "variant", "seed"]):
        last = run[run["frames"] > 0.9 * run["frames"].max()]
        late = np.average(last["mean_return"], weights=last["games"])
        seconds = run["seconds"].max()
        lines.append([env, WORDS[variant], seed, f"{late:.1f}", f"{run['mean_return'].mean():.1f}", f"{seconds:.0f}"])
    return lines


def draw(rows: pd.DataFrame) -> Figure:
    """
    Draw the returns of all runs against frames and against seconds.

    :param rows: from :func:`read`
    :return: the picture
    """
    envs = sorted(rows["env"].unique())
    figure = Figure(figsize=(10.0, 3.6 * len(envs)), layout="constrained")
    for axes, env in zip(figure.subplots(len(envs), 2, squeeze=False), envs, strict=True):
        for place, over in zip(axes, ("frames", "seconds"), strict=True):
            for (variant, seed), run in rows[rows["env"] == env].groupby(["variant", "seed"]):
                first = seed == rows["seed"].min()
                color = f"C{VARIANTS.index(variant)}"
                place.plot(run[over], run["mean_return"], color=color, label=WORDS[variant] if first else None)
            place.set(title=env, xlabel=over, ylabel="return")
            place.grid(alpha=0.3)
        axes[0].legend()
    return figure


def film(logs: Path, file: Path) -> None:
    """
    Film a game of the first model of forward training in every environment, side by side.

    :param logs: folder of the runs
    :param file: the GIF
    """
    models = {saved.stem: saved for saved in sorted(logs.glob("forward/*/*/*_*/*.zip"), reverse=True)}
    shots = [_play(env, models[env]) for env in sorted(models)]
    length = max(map(len, shots))  # the shorter ones end with their last picture
    pairs = (np.hstack([own[min(index, len(own) - 1)] for own in shots]) for index in range(length))
    first, *rest = (Image.fromarray(pair).quantize(16) for pair in pairs)
    first.save(file, save_all=True, append_images=rest, duration=50, loop=0)


def _play(env: str, saved: Path) -> list[np.ndarray]:
    """Play a game with the policy's noise, as in training, and take every third picture."""
    whole_game = {"terminal_on_life_loss": False}
    game = VecFrameStack(
        make_atari_env(env, seed=1, env_kwargs={"render_mode": "rgb_array"}, wrapper_kwargs=whole_game), n_stack=4
    )
    model = ForwardPPO.load(saved, device="cpu", seed=1)
    observations: Any = game.reset()
    pictures, over = list[np.ndarray](), False
    while not over:
        pictures.append(np.asarray(game.render()))
        action, _ = model.predict(observations, deterministic=False)
        observations, _, dones, infos = game.step(action)
        over = bool(dones[0]) and "episode" in infos[0]
    print(f"{env}: {len(pictures)} steps, return {infos[0]['episode']['r']:.0f}")
    return pictures[::3]


def main(arguments: list[str]) -> int:
    """
    Read, sum up and draw.

    :param arguments: the command line
    :return: exit status
    """
    parser = argparse.ArgumentParser(
        "python -m benchmarks.atari", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("logs", type=Path, help="folder of the runs")
    parser.add_argument("--film", type=Path, metavar="FILE", help="a GIF of the models of forward training")
    parser.add_argument("--output", type=folder, metavar="DIR", default=RESULTS, help="default: benchmarks/results")
    options = parser.parse_args(arguments)
    try:
        rows = read(options.logs)
    except FileNotFoundError as error:
        parser.error(str(error))
    options.output.mkdir(parents=True, exist_ok=True)
    rows.round({"mean_return": 3, "seconds": 1}).to_csv(options.output / "atari.csv", index=False)
    header = ["environment", "variant", "seed", "return, last tenth", "mean return", "seconds"]
    note = f"Made by `python -m benchmarks.atari` from runs of the Zoo. Measured on {machine()}."
    write_text(options.output / "atari.md", f"# Atari\n\n{note}\n\n{markdown_table(header, summary(rows))}\n")
    save_figure(draw(rows), options.output / "atari.png")
    if options.film is not None:
        film(options.logs, options.film)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
