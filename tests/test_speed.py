"""The benchmarks of speed and of growth take the times that they say, and make of them what they say."""

import pytest
from gymnasium.utils.env_checker import check_env

from benchmarks.growth import Noise, Setting, curves, slope
from benchmarks.growth import report as report_growth
from benchmarks.speed.cases import SBX_CASES, SIDES
from benchmarks.speed.report import ratio, report_sbx


def test_slope_is_the_exponent_of_a_power():
    values = [2, 4, 8, 16]
    assert slope(values, [3.0 * value**1.5 for value in values]) == pytest.approx(1.5)


def test_growth_is_that_of_medians_per_row():
    rows = [
        {"algo": "ppo", "axis": "depth", "value": value, "class": side, "steps": 10, "train_cpu": seconds, "machine": "here"}
        for value in (2, 4)
        for side, power in zip(SIDES, (1, 2), strict=True)
        for seconds in (0.0, 10.0 * value**power, 1e9)
    ]
    stock, forward = curves(rows, "ppo", "depth").values()
    assert stock.seconds == [2, 4]
    assert forward.seconds == [4, 16]
    assert "| PPO | layers | 1.00 | 2.00 | no | 1.00 | 2.00 |" in report_growth(rows)
    assert not curves(rows, "a2c", "depth")


def test_environment_of_growth():
    check_env(Noise(3), skip_render_check=True)


@pytest.mark.parametrize("algo", ["ppo", "a2c"])
@pytest.mark.parametrize("side", SIDES)
def test_times_within_learn(algo: str, side: str):
    times = Setting(algo, 128, width=8, actions=3).make(side, "cpu").learn(256)
    assert times["steps"] == 256
    for clock in ("seconds", "cpu"):
        assert 0 < times[f"train_{clock}"] < times[f"learn_{clock}"]


def test_ours_over_sbx():
    rows = [
        {"case": name, "class": side, "repeat": 0, "steps": 100, "machine": "here"}
        | {f"{stage}_{clock}": seconds for stage in ("train", "collect", "learn") for clock in ("seconds", "cpu")}
        for name in SBX_CASES
        for side, seconds in (("stock", 4.0), ("forward", 1.0), ("sbx", 2.0))
    ]
    assert ratio([row for row in rows if row["case"] == "sbx-cnn-b64"], "learn", "sbx", "cpu").value == 0.5
    assert report_sbx(rows).count("| 0.50 [0.50, 0.50] | <= 0.70 |") == len(SBX_CASES) - 1
