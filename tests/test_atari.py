"""The table of Atari's runs says what the Zoo's monitors have written."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ale_py")
from benchmarks.atari import read, summary


def write_run(logs: Path, variant: str, seed: int, returns: list[float]) -> None:
    """Write two monitors of games of 100 frames, that end by turns, one each second."""
    run = logs / variant / str(seed) / "ppo" / "Pong_1"
    run.mkdir(parents=True)
    (run / "Pong.zip").touch()
    for env in range(2):
        games = [f"{value},100,{second + 1}.0" for second, value in enumerate(returns) if second % 2 == env]
        (run / f"{env}.monitor.csv").write_text("\n".join(['#{"t_start": 0, "env_id": "Pong"}', "r,l,t", *games]) + "\n")


def test_returns_are_means_over_the_games_of_a_part(tmp_path: Path) -> None:
    write_run(tmp_path, "bp", 1, list(np.arange(100.0)))
    rows = read(tmp_path)
    assert list(rows["frames"]) == list(range(200, 10_001, 200))
    assert list(rows["games"]) == [2] * 50
    assert list(rows["mean_return"]) == list(np.arange(0.5, 100, 2))
    assert list(rows["seconds"]) == list(range(2, 101, 2))


def test_every_run_is_summed_up(tmp_path: Path) -> None:
    write_run(tmp_path, "bp", 1, list(np.arange(100.0)))
    write_run(tmp_path, "forward", 2, [5.0] * 80 + [7.0] * 20)
    assert summary(read(tmp_path)) == [
        ["Pong", "backpropagation", "1", "94.5", "49.5", "100"],
        ["Pong", "forward training", "2", "7.0", "5.4", "100"],
    ]


def test_runs_that_have_not_finished_are_left_out(tmp_path: Path) -> None:
    write_run(tmp_path, "frozen", 1, [1.0] * 10)
    next(tmp_path.rglob("*.zip")).unlink()
    with pytest.raises(FileNotFoundError, match="has no finished runs in bp"):
        read(tmp_path)
