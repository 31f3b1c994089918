import contextlib
import csv
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
import scipy.stats
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sb3_forward._cli import UserError
from sb3_forward.compare.__main__ import main, parse, planned
from sb3_forward.compare.plan import VARIANTS, Run
from sb3_forward.compare.report import pictures, write_report
from sb3_forward.compare.results import FIELDS, Results
from sb3_forward.compare.statistics import (
    Estimate,
    aggregate,
    by_environments,
    difference,
    estimate,
    improvement,
    iqm,
    iqm_difference,
    measure,
    normalise,
    profile,
    scores,
    summarise,
    table_of_runs,
)
from sb3_forward.compare.sweep import on_this_machine, perform
from sb3_forward.compare.trial import commit, set_up
from tests.bare_python import ROOT

TINY = ["--env", "CartPole-v1", "--timesteps", "300", "--jobs", "2"]
SWEEP = [*TINY, "--variants", "bp,forward", "--seeds", "2"]

pytestmark = pytest.mark.slow


# === The command line ===


def plan(*arguments: str) -> list[Run]:
    return planned(parse([*arguments, "--output", "unused"]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--env", "CartPole-v9"], "CartPole-v1"),
        (["--env", "Qqqqqqqq-v0"], "--gym-packages"),
        (["--env", "CartPole-v1", "--gym-packages", "no_such_module"], "no_such_module"),
        (["--env", "CartPole-v1", "--variants", "bp,forwards"], "forwards"),
        (["--env", "CartPole-v1", "--variants", ""], "no variant"),
        (["--env", "CartPole-v1", "--seeds", "0"], "--seeds"),
        (["--env", "CartPole-v1", "--seeds", "5-1"], "--seeds"),
        (["--env", "CartPole-v1", "--seeds", "five"], "--seeds"),
        (["--env", "CartPole-v1", "--timesteps", "0"], "--timesteps"),
        (["--env", "CartPole-v1", "--jobs", "0"], "--jobs"),
        (["--env", "CartPole-v1", "--set", "local_learning_rat:1"], "local_learning_rate"),
        (["--env", "CartPole-v1", "--set", "gamma"], "key:value"),
        (["--env", "CartPole-v1", "--define", "bp", "gamma:0.9"], "--define"),
        (["--env", "CartPole-v1", "--define", "a/b", "gamma:0.9"], "--define"),
        (["--env", "CartPole-v1", "--define", "empty"], "--define"),
        (["--env", "CartPole-v1", "--conf", "missing.yml"], "missing.yml"),
        (["--report-only"], "no results"),
    ],
)
def test_mistakes(arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    output = tmp_path / "results"
    assert main([*arguments, "--output", str(output)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert not output.exists()


@pytest.mark.parametrize("arguments", [["--output", "x"], ["--env", "CartPole-v1"], ["--algo", "dqn", "--output", "x"]])
def test_mistakes_in_syntax(arguments: list[str]):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)


def test_plan_is_complete_and_in_rounds():
    runs = plan("--env", "CartPole-v1", "Acrobot-v1", "--seeds", "3-4", "--variants", "bp,forward", "--timesteps", "1e3")
    assert len(runs) == 8
    assert [run.seed for run in runs] == [3] * 4 + [4] * 4
    assert {(run.env, run.variant) for run in runs[:4]} == {
        (e, v) for e in ("CartPole-v1", "Acrobot-v1") for v in ("bp", "forward")
    }
    assert {run.timesteps for run in runs} == {1000}


@pytest.mark.parametrize("algo", ["ppo", "a2c"])
def test_variants(algo: str):
    runs = plan("--env", "CartPole-v1", "--algo", algo, "--seeds", "1", "--variants", ",".join(VARIANTS))
    by_variant = {run.variant: run for run in runs}
    assert list(by_variant) == list(VARIANTS)
    # Everybody gets the budget of the stock algorithm
    assert len({run.timesteps for run in runs}) == 1
    assert by_variant["bp"].zoo_algo == algo
    assert not {"local_learning_rate", "hidden_training"} & set(by_variant["bp"].hyperparams)
    ours = by_variant["forward"].hyperparams
    for variant in set(VARIANTS) - {"bp"}:
        assert by_variant[variant].zoo_algo == f"forward_{algo}"
        assert by_variant[variant].hyperparams == {**ours, **VARIANTS[variant]}


@pytest.mark.parametrize(("env", "normalized"), [("CartPole-v1", True), ("FrozenLake-v1", False), ("Blackjack-v1", False)])
def test_observations_are_normalized_where_they_are_vectors(env: str, normalized: bool):
    (run,) = plan("--env", env, "--seeds", "1", "--timesteps", "100", "--variants", "forward")
    assert ("normalize" in run.hyperparams) == normalized


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (None, {"net_arch": []}),
        ({"ortho_init": False, "net_arch": [8]}, {"net_arch": [], "ortho_init": False}),
        ("dict(activation_fn=nn.ReLU, net_arch=[8])", {"net_arch": [], "activation_fn": nn.ReLU}),
    ],
)
def test_variant_without_hidden_layers_keeps_the_rest_of_policy_kwargs(tmp_path: Path, entry: Any, expected: dict[str, Any]):
    conf = tmp_path / "conf.yml"
    policy = {} if entry is None else {"policy_kwargs": entry}
    conf.write_text(yaml.safe_dump({"CartPole-v1": {"policy": "MlpPolicy", "n_timesteps": 1000, **policy}}))
    (run,) = plan("--env", "CartPole-v1", "--seeds", "1", "--variants", "linear", "--conf", str(conf))
    found = run.hyperparams["policy_kwargs"]
    assert (eval(found, {"nn": nn}) if isinstance(found, str) else found) == expected
    _, model = set_up(run, tmp_path)
    assert list(model.policy.mlp_extractor.parameters()) == []


def test_overrides():
    arguments = ["--env", "CartPole-v1", "--seeds", "1", "--variants", "bp,forward", "--set", "gamma:0.5", "gae_lambda:0.5"]
    bp, forward, mine = plan(*arguments, "--define", "mine", "gamma:0.25")
    assert bp.hyperparams.get("gamma") != 0.5
    assert (forward.hyperparams["gamma"], forward.hyperparams["gae_lambda"]) == (0.5, 0.5)
    assert (mine.variant, mine.hyperparams["gamma"], mine.hyperparams["gae_lambda"]) == ("mine", 0.25, 0.5)
    bp, forward, _ = plan(*arguments, "--define", "mine", "gamma:0.25", "--same-parameters")
    assert bp.zoo_algo == forward.zoo_algo == "forward_ppo"
    assert bp.hyperparams == {**forward.hyperparams, "hidden_training": "backprop"}


# === Sweeps ===


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "sb3_forward.compare", *arguments]


def wait_until(condition: Callable[[], object], seconds: float = 1800) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def trials(driver: psutil.Process) -> list[psutil.Process]:
    found = []
    for child in driver.children(recursive=True):
        # It may end just now
        with contextlib.suppress(psutil.NoSuchProcess):
            if "sb3_forward.compare.trial" in child.cmdline():
                found.append(child)
    return found


def stopped(signal_number: int, until: Callable[[], object], *arguments: str) -> tuple[int, str]:
    """
    Start a sweep, and stop it when a condition holds and a trial runs.

    :return: its exit code, and what it has printed
    """
    driver = subprocess.Popen(
        command(*arguments),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # A job in the background hands on that it ignores interrupts; one in a terminal does not
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    process = psutil.Process(driver.pid)
    wait_until(lambda: driver.poll() is not None or (until() and trials(process)))
    assert driver.poll() is None, driver.communicate()[0]
    family = process.children(recursive=True)
    if signal_number == signal.SIGINT:
        # As a terminal does
        os.killpg(driver.pid, signal_number)
    else:
        driver.send_signal(signal_number)
    printed, _ = driver.communicate(timeout=1800)
    gone, alive = psutil.wait_procs(family, timeout=1800)
    assert not alive
    assert gone
    return driver.returncode, printed


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of a sweep that was killed once and started again."""
    folder = tmp_path_factory.mktemp("compare") / "results"
    stopped(signal.SIGKILL, lambda: list(folder.glob("runs/*/*.json")), *SWEEP, "--output", str(folder))
    before = {path: path.read_bytes() for path in folder.glob("runs/*/*")}
    assert 1 <= len(before) < 4
    for content in before.values():
        assert json.loads(content)["rows"][-1]["stochastic"] is not None
    assert not (folder / "report.md").exists()
    assert main([*SWEEP, "--output", str(folder)]) == 0
    assert {path: path.read_bytes() for path in before} == before
    return folder


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Iterator[None]:
        raise AssertionError("nothing should be run")

    monkeypatch.setattr("sb3_forward.compare.__main__.on_this_machine", fail)


def test_killed_sweep_is_finished(folder: Path):
    with (folder / "results.csv").open() as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    assert tuple(reader.fieldnames or ()) == FIELDS
    runs = {(row["variant"], row["seed"]) for row in rows}
    assert runs == {(variant, seed) for variant in ("bp", "forward") for seed in "12"}
    for variant, seed in runs:
        run = [row for row in rows if (row["variant"], row["seed"]) == (variant, seed)]
        steps = [int(row["step"]) for row in run]
        assert steps[0] == 0
        assert steps == sorted(steps)
        assert steps[-1] >= 300
        assert len(run) == 21
        assert [bool(row["deterministic"]) for row in run] == [False] + [True] * 20
        assert [bool(row["stochastic"]) for row in run] == [False] * 20 + [True]
    # The same random actions for all variants
    assert len({(row["seed"], row["return"]) for row in rows if row["step"] == "0"}) == 2
    assert len(pd.read_csv(folder / "summary.csv")) == 2
    report = (folder / "report.md").read_text()
    assert report.count("| 2 |") >= 2
    assert report.count(f"python -m sb3_forward.compare {shlex.join(SWEEP)} --output {folder}\n") == 1
    assert (folder / "curves-ppo-CartPole-v1.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("no_training")
def test_nothing_is_repeated(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert main([*SWEEP, "--output", str(folder)]) == 0
    assert "4 of them done before" in capsys.readouterr().out


@pytest.mark.usefixtures("no_training")
def test_other_settings_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert main([*SWEEP, "--timesteps", "400", "--set", "gamma:0.5", "--output", str(folder)]) == 2
    error = capsys.readouterr().err
    assert "timesteps" in error
    assert "CartPole-v1 ppo bp seed 1" in error
    assert main([*SWEEP, "--set", "gamma:0.5", "--output", str(folder)]) == 2
    error = capsys.readouterr().err
    assert "(gamma)" in error
    assert "CartPole-v1 ppo forward seed 1" in error
    # Nor are other seeds run with them, which would be reported together
    assert main([*SWEEP, "--seeds", "3-3", "--set", "gamma:0.5", "--output", str(folder)]) == 2
    assert "(gamma)" in capsys.readouterr().err


def copy_tables(folder: Path, to: Path) -> Path:
    """Copy the form of a comparison that is committed."""
    to.mkdir()
    for name in ("results.csv", "settings.jsonl", "commands.txt"):
        shutil.copy(folder / name, to)
    return to


@pytest.mark.usefixtures("no_training")
def test_tables_are_enough(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    copy = copy_tables(folder, tmp_path / "copy")
    assert main([*SWEEP, "--output", str(folder)]) == 0
    assert main(["--report-only", "--output", str(copy)]) == 0
    names = {path.name for path in folder.iterdir()} - {"runs"}
    assert {path.name for path in copy.iterdir()} == names
    for name in names:
        assert (copy / name).read_bytes() == (folder / name).read_bytes(), name
    capsys.readouterr()
    assert main([*SWEEP, "--output", str(copy)]) == 0
    assert "4 of them done before" in capsys.readouterr().out
    assert main([*SWEEP, "--set", "gamma:0.5", "--output", str(copy)]) == 2
    assert "(gamma)" in capsys.readouterr().err


def test_tables_are_continued(folder: Path, tmp_path: Path):
    copy = copy_tables(folder, tmp_path / "copy")
    before = Results(copy).records()
    assert main([*TINY, "--variants", "bp,forward", "--seeds", "2-3", "--output", str(copy)]) == 0
    assert {path.name for path in copy.glob("runs/*/*")} == {"ppo-bp-3.json", "ppo-forward-3.json"}
    shutil.rmtree(copy / "runs")
    after = Results(copy).records()
    assert [record for record in after if record["settings"]["seed"] < 3] == before
    assert [record["settings"]["seed"] for record in after] == [1, 2, 3] * 2
    assert [line["seeds"] for line in settings_lines(copy)] == [[1, 2, 3]] * 2


def settings_lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "settings.jsonl").read_text().splitlines()]


def test_commit_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=tmp_path, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    package = tmp_path / "sb3_forward"
    package.mkdir()
    module = package / "__init__.py"
    module.write_text("")
    monkeypatch.setattr("sb3_forward.__file__", str(module))
    assert commit() is None
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    git("init")
    # In the repository of somebody else, who does not track it
    git("-c", "user.name=A", "-c", "user.email=a@b.c", "commit", "--allow-empty", "--message", "theirs")
    assert commit() is None
    git("add", ".")
    git("-c", "user.name=A", "-c", "user.email=a@b.c", "commit", "--message", "ours")
    ours = git("rev-parse", "HEAD")
    assert commit() == ours
    # Results beside it, committed or not, do not change the package
    (tmp_path / "results.csv").write_text("")
    git("add", ".")
    git("-c", "user.name=A", "-c", "user.email=a@b.c", "commit", "--message", "results")
    (tmp_path / "results.csv").write_text("more")
    assert commit() == ours
    module.write_text("changed = True")
    assert commit() == f"{ours}-dirty"
    monkeypatch.setenv("PATH", "")
    assert commit() is None


@pytest.mark.usefixtures("no_training")
def test_report_only(folder: Path, capsys: pytest.CaptureFixture[str]):
    report = folder / "report.md"
    before = report.read_text()
    report.unlink()
    assert main(["--report-only", "--output", str(folder)]) == 0
    assert str(report) in capsys.readouterr().out
    assert report.read_text() == before


def test_failed_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    arguments = [*TINY, "--variants", "bp", "--define", "broken", "gamma:'none'", "--seeds", "1"]
    assert main([*arguments, "--output", str(tmp_path)]) == 1
    (failure,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("FAILED")]
    log = tmp_path / "runs" / "CartPole-v1" / "ppo-broken-1.log"
    assert str(log) in failure
    assert "Traceback" in log.read_text()
    assert [path.name for path in tmp_path.glob("runs/*/*.json")] == ["ppo-bp-1.json"]
    assert set(pd.read_csv(tmp_path / "summary.csv")["variant"]) == {"bp"}


def test_interrupt(tmp_path: Path):
    code, printed = stopped(signal.SIGINT, lambda: True, *SWEEP, "--output", str(tmp_path / "results"))
    assert code == 130
    assert "the same command goes on" in printed
    assert not list(tmp_path.glob("results/**/*.json"))


def test_trial_that_dies_at_once(monkeypatch: pytest.MonkeyPatch):
    dumps = json.dumps

    def slow_dumps(value: object) -> str:
        time.sleep(0.5)
        return dumps(value)

    (run,) = plan("--env", "CartPole-v1", "--seeds", "1", "--variants", "bp")
    monkeypatch.setattr("sb3_forward.compare.sweep.json.dumps", slow_dumps)
    # In the place of the trial: gone before it is told what to do
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    assert perform(run, os.getpid()).failure == "no message"


def test_only_workers_go_down_with_their_parent(monkeypatch: pytest.MonkeyPatch):
    watched: list[int] = []
    monkeypatch.setattr("sb3_forward.compare.sweep._go_down_with_parent", lambda: watched.append(os.getpid()))
    # In the place of the trial
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    (run,) = plan("--env", "CartPole-v1", "--seeds", "1", "--variants", "bp")
    # One job at a time is done by the driver, which may have been left behind by a shell
    assert [outcome.answer for outcome in on_this_machine([run], 1)] == [None]
    assert not watched
    assert perform(run).answer is None
    assert watched == [os.getpid()]


# === Statistics ===

values = st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=12).map(np.array)


def test_iqm():
    assert iqm(np.array([5.0, 1.0, 100.0, 3.0])) == 4.0
    # A quarter of five is one run, rounded down; of three none
    assert iqm(np.array([0.0, 1.0, 2.0, 6.0, 100.0])) == 3.0
    assert iqm(np.array([0.0, 1.0, 5.0])) == 2.0
    # The quarters are those of all runs together
    assert iqm(np.array([0.0, 1.0]), np.array([2.0, 100.0])) == 1.5
    assert iqm_difference(np.array([0.0, 1.0]), np.array([2.0, 100.0]), np.array([1.0, 1.0])[:1], np.array([0.0])) == 1.0


def test_improvement():
    assert improvement(np.array([1.0, 2.0, 3.0]), np.array([2.0])) == 0.5
    assert improvement(np.array([2.0, 3.0]), np.array([1.0, 2.0])) == 3.5 / 4
    # Averaged over environments, not over pairs
    assert improvement(np.array([2.0, 3.0]), np.array([0.0]), np.array([1.0, 2.0]), np.array([1.0])) == (3.5 / 4) / 2


@given(values, values)
def test_improvement_is_mann_whitney(ours: np.ndarray, theirs: np.ndarray):
    statistic = scipy.stats.mannwhitneyu(ours, theirs).statistic
    assert improvement(ours, theirs) == pytest.approx(statistic / (len(ours) * len(theirs)))
    assert improvement(ours, theirs) + improvement(theirs, ours) == pytest.approx(1)


def test_estimate_is_a_stratified_bootstrap():
    generator = np.random.default_rng(3)
    samples = [generator.normal(0, 1, 10), generator.normal(5, 2, 8)]
    ours = estimate(iqm, *samples)
    theirs = scipy.stats.bootstrap(
        samples,
        lambda *drawn, axis: iqm(*drawn),
        vectorized=True,
        n_resamples=20_000,
        method="percentile",
        random_state=np.random.default_rng(4),
    ).confidence_interval
    assert ours.value == iqm(*samples)
    assert ours.low == pytest.approx(theirs.low, abs=0.1)
    assert ours.high == pytest.approx(theirs.high, abs=0.1)
    assert estimate(iqm, *samples) == ours


def test_estimate_keeps_the_runs_of_each_environment():
    # Constant within each environment: resampling changes nothing, were it not to mix them
    assert estimate(iqm, np.zeros(4), np.full(4, 8.0)) == Estimate(4.0, 4.0, 4.0)


def test_estimate_of_single_runs():
    value, low, high = estimate(iqm, np.array([1.0]), np.array([2.0, 3.0]))
    assert value == 2.0
    assert np.isnan([low, high]).all()


@settings(max_examples=20, deadline=None)
@given(values.filter(lambda sample: len(sample) > 1))
def test_interval_lies_within_the_runs(sample: np.ndarray):
    value, low, high = estimate(iqm, sample)
    slack = 1e-9 * np.abs(sample).max()
    assert sample.min() - slack <= low <= high <= sample.max() + slack
    assert sample.min() - slack <= value <= sample.max() + slack


def rows_of(
    variant: str, seed: int, final: float, *, algo: str = "ppo", env: str = "A-v0", returns: list[float | None] | None = None
) -> list[dict[str, Any]]:
    """A run with a learning curve of 4 points, by default a straight line from random actions, at 10."""
    curve: list[float | None] = returns or [10 + (final - 10) * point / 4 for point in range(1, 5)]
    rows = [{"step": 100 * point, "return": value} for point, value in enumerate([10.0, *curve])]
    whole: dict[str, Any] = {"env": env, "algo": algo, "variant": variant, "seed": seed, "deterministic": None}
    made = [{**whole, "stochastic": None, "wall_seconds": float(row["step"] or 0), **row} for row in rows]
    made[-1].update(deterministic=final, stochastic=final - 2)
    return made


def test_measure():
    run = measure(rows_of("forward", 1, 50.0, returns=[None, 30.0, 60.0, 90.0, 30.0, 0.0, 60.0, 20.0, 40.0]))
    # Averages of three: 60, 60, 40, 30, 27, 40
    assert run["drop"] == pytest.approx(60 - (0 + 60 + 20) / 3)
    assert run["area"] == pytest.approx(330 / 8)
    assert run["late"] == 40.0
    assert (run["random"], run["final"], run["stochastic"], run["wall_seconds"]) == (10.0, 50.0, 48.0, 900.0)
    rising = measure(rows_of("forward", 1, 50.0, returns=[float(point) for point in range(20)]))
    assert rising["drop"] == 0.0
    assert rising["late"] == 18.5


def test_measure_of_episodes_longer_than_the_run():
    run = measure(rows_of("forward", 1, 50.0, returns=[None, None]))
    assert np.isnan([run["drop"], run["area"], run["late"]]).all()


def two_envs() -> pd.DataFrame:
    """In A random actions are 10 and bp 110, in B 10 and -90 + 110 = 20."""
    finals = {
        ("A-v0", "bp"): [90.0, 110.0, 130.0],
        ("A-v0", "forward"): [60.0, 110.0, 160.0],
        ("B-v0", "bp"): [19.0, 20.0, 21.0],
        ("B-v0", "forward"): [15.0, 20.0, 25.0],
        ("B-v0", "frozen"): [15.0, 15.0, 15.0],
    }
    runs = [rows_of(v, seed, final, env=e) for (e, v), found in finals.items() for seed, final in enumerate(found)]
    return table_of_runs(runs)


def test_summary():
    summary = summarise(two_envs()).set_index(["env", "variant"])
    row = summary.loc[("A-v0", "forward")]
    assert (row["seeds"], row["final"], row["mean"], row["std"], row["worst"]) == (3, 110.0, 110.0, 50.0, 60.0)
    assert row["final_low"] >= 60.0
    assert row["final_high"] <= 160.0
    assert row["stochastic"] == 108.0
    assert row["area"] == pytest.approx(10 + 100 * (0.25 + 0.5 + 0.75 + 1) / 4)


def test_aggregate():
    table = aggregate(normalise(two_envs()))
    bp, forward, frozen = table["bp"], table["forward"], table["frozen"]
    assert list(table) == ["bp", "forward", "frozen"]
    # Scores of forward: 0.5, 1, 1.5 in both
    assert forward["score"].value == pytest.approx(1.0)
    assert (forward["envs"], forward["runs"]) == (2, 6)
    assert forward["std"] == pytest.approx(0.5)
    assert bp["std"] == pytest.approx((0.2 + 0.1) / 2)
    assert forward["std_ratio"] == pytest.approx(0.5 / 0.15)
    assert forward["area"] == pytest.approx(0.625)
    assert forward["area_ratio"] == pytest.approx(1.0)
    assert forward["gap"] == pytest.approx((0.02 + 0.2) / 2)
    # Each of 3 runs against 3: 0, 1.5, 3 of 9
    assert forward["improvement"].value == pytest.approx(0.5)
    assert (forward["drop"], bp["drop"]) == (0.0, 0.0)
    assert np.isnan(forward["drop_ratio"])
    # In B alone
    assert (frozen["envs"], frozen["runs"], frozen["score"].value) == (1, 3, pytest.approx(0.5))
    assert frozen["area_ratio"] == pytest.approx(0.5)
    assert frozen["std_ratio"] == 0.0


def test_difference():
    runs = normalise(two_envs())
    found = difference(runs, "forward", "frozen")
    assert found is not None
    # In B, the only one that both have been in
    assert found.value == pytest.approx(1.0 - 0.5)
    assert found.low <= found.value <= found.high
    assert difference(runs, "forward", "unguided") is None


def test_profile():
    samples = scores(normalise(two_envs()), "forward", ["A-v0", "B-v0"])
    shares = profile(samples, np.array([0.0, 0.75, 1.25, 2.0]))
    assert shares[:, 0] == pytest.approx([1, 2 / 3, 1 / 3, 0])
    assert shares[0].tolist() == [1, 1, 1]
    assert shares[1, 1] < shares[1, 0] < shares[1, 2]


def test_no_score_mixes_environments():
    """Backpropagation and forward training have both environments, frozen layers have one."""
    (both, of_both), (one, of_one) = by_environments(normalise(two_envs()))
    assert (both, one) == (["A-v0", "B-v0"], ["B-v0"])
    assert (set(of_both["env"]), set(of_both["variant"])) == ({"A-v0", "B-v0"}, {"bp", "forward"})
    assert (set(of_one["env"]), set(of_one["variant"])) == ({"B-v0"}, {"bp", "forward", "frozen"})


def test_scores_of_fewer_environments_stand_apart(tmp_path: Path):
    runs = [rows_of(v, seed, 50.0 + seed, env=e) for e in ("A-v0", "B-v0") for v in ("bp", "forward") for seed in range(2)]
    runs += [rows_of("frozen", seed, 40.0, env="B-v0") for seed in range(2)]
    write_report(write_results(tmp_path, *runs))
    report = (tmp_path / "report.md").read_text()
    assert list(table(report, "In A-v0, B-v0:")) == ["variant", "bp", "forward"]
    assert list(table(report, "In B-v0:")) == ["variant", "bp", "forward", "frozen"]
    # The picture is of what all of them have, and says so
    records = Results(tmp_path).records()
    (axes,) = dict(pictures(records))["profiles-ppo"].axes
    assert axes.get_title() == "PPO in B-v0"
    assert [line.get_label() for line in axes.lines] == ["backpropagation", "forward training", "frozen hidden layers"]
    assert len(axes.collections) == 3


def test_curves_have_gaps_where_a_seed_has_no_return(tmp_path: Path):
    runs = [rows_of("forward", 1, 50.0, returns=[None, 20.0, 30.0]), rows_of("forward", 2, 50.0, returns=[10.0, 20.0, 30.0])]
    (axes,) = dict(pictures(write_results(tmp_path, *runs).records()))["curves-ppo-A-v0"].axes
    assert axes.get_title() == "PPO in A-v0"
    (line,) = axes.lines
    drawn = np.isfinite(np.asarray(line.get_ydata(), dtype=float)).tolist()
    assert drawn == [True, False, True, True]


@pytest.mark.parametrize(("scale", "shift"), [(0.01, 0.0), (100.0, -1000.0), (1.0, 300.0)])
def test_scores_do_not_depend_on_the_scale_of_rewards(scale: float, shift: float):
    runs = two_envs()
    columns = ["random", "final", "stochastic", "late", "area"]
    moved = runs.copy()
    moved[columns] = moved[columns] * scale + shift
    moved["drop"] *= scale
    before, after = aggregate(normalise(runs)), aggregate(normalise(moved))
    for variant in before:
        for key, value in before[variant].items():
            assert after[variant][key] == pytest.approx(value, abs=1e-6, nan_ok=True)


# === The report ===


def write_results(folder: Path, *runs: list[dict[str, Any]]) -> Results:
    results = Results(folder)
    for rows in runs:
        first = rows[0]
        run = Run(first["env"], first["algo"], first["variant"], first["seed"], "any", {"gamma": 0.5}, 400, [])
        results.save(run, {"versions": {"python": "3.10.1"}, "rows": rows})
    return results


def table(report: str, heading: str) -> dict[str, list[str]]:
    """The first table under a heading: the cells of each row by its variant, and the header as "variant"."""
    lines = report.split(f"\n{heading}\n", 1)[1].splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("|"))
    found = {}
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        name, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        found[name] = cells
    del found["---"]
    return found


def test_report(tmp_path: Path):
    finals = {"unguided": 80.0, "forward": 100.0, "bp": 110.0, "mine": 50.0, "frozen": 30.0}
    runs = [rows_of(variant, seed, final + seed) for variant, final in finals.items() for seed in range(4)]
    lines = write_report(write_results(tmp_path, *runs))
    report = (tmp_path / "report.md").read_text()
    by_variant = table(report, "### A-v0")
    # In the order of the command's help, then the user's own
    assert list(by_variant)[1:] == ["bp", "forward", "frozen", "unguided", "mine"]
    header, forward = by_variant["variant"], by_variant["forward"]
    assert dict(zip(header, forward, strict=True))["worst"] == "100.0"
    assert forward[header.index("final IQM")].startswith("101.5 [")
    assert all(len(cells) == len(header) for cells in by_variant.values())
    scores = table(report, "### All environments")
    header = scores["variant"]
    assert all(len(cells) == len(header) for cells in scores.values())
    assert scores["bp"][header.index("score IQM")].startswith("1.000 [")
    assert scores["bp"][header.index("improvement")] == "-"
    assert scores["forward"][header.index("improvement")].startswith("0.000")
    assert scores["forward"][header.index("std / bp")] == "1.000"
    expected = (100 - 30) / (110 + 1.5 - 10)
    assert any(line.startswith(f"ppo, forward - frozen: {expected:+.3f} [") for line in lines)
    assert any(line.startswith("ppo, forward - unguided: ") for line in lines)
    assert not any("plain" in line for line in lines)
    assert lines[-1] == f"report: {tmp_path / 'report.md'}"
    assert "python 3.10.1" in report
    assert "A-v0, ppo, forward: 400 steps" in report
    for name in ("profiles-ppo", "curves-ppo-A-v0"):
        assert f"({name}.png)" in report
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (tmp_path / f"{name}.pdf").read_bytes().startswith(b"%PDF")


def test_report_of_algorithms_and_environments(tmp_path: Path):
    runs = [
        rows_of(variant, seed, final + seed, algo=algo, env=env)
        for algo, variant, final in [
            ("ppo", "bp", 100.0),
            ("ppo", "forward", 60.0),
            ("a2c", "bp", 20.0),
            ("a2c", "forward", 90.0),
        ]
        for env in ("A-v0", "space/B-v0")
        for seed in range(2)
    ]
    lines = write_report(write_results(tmp_path, *runs))
    a2c, ppo = (tmp_path / "report.md").read_text().split("\n## ppo\n")
    for part, algo in ((a2c, "a2c"), (ppo, "ppo")):
        for env in ("A-v0", "space-B-v0"):
            assert f"(curves-{algo}-{env}.png)" in part
            assert (tmp_path / f"curves-{algo}-{env}.png").exists()
    assert float(table(a2c, "### A-v0")["forward"][2]) == 90.5
    assert float(table(ppo, "### A-v0")["forward"][2]) == 60.5
    assert sum("4 runs in 2 environments" in line for line in lines) == 4
    summary = pd.read_csv(tmp_path / "summary.csv")
    assert len(summary) == 8
    assert not summary.duplicated(["algo", "env", "variant"]).any()


def test_report_without_bp(tmp_path: Path):
    runs = [rows_of("forward", seed, 50.0 + seed) for seed in range(3)]
    lines = write_report(write_results(tmp_path, *runs))
    report = (tmp_path / "report.md").read_text()
    assert "A-v0: no scores, as bp was not run" in report
    assert any("bp was not run" in line for line in lines)
    assert "All environments" not in report
    assert not (tmp_path / "profiles-ppo.png").exists()
    assert table(report, "### A-v0")["forward"][0] == "3"


def test_report_where_bp_learns_nothing(tmp_path: Path):
    runs = [rows_of(v, seed, 5.0 + seed, env="B-v0") for v in ("bp", "forward") for seed in range(2)]
    runs += [rows_of(v, seed, 50.0 + seed) for v in ("bp", "forward") for seed in range(2)]
    lines = write_report(write_results(tmp_path, *runs))
    assert "ppo, B-v0: no scores, as bp is no better than random actions" in lines
    assert any(line.startswith("ppo, forward: score 1.000") and "2 runs in 1 environment" in line for line in lines)


def test_report_of_one_seed(tmp_path: Path):
    write_report(write_results(tmp_path, rows_of("bp", 1, 50.0), rows_of("forward", 1, 30.0)))
    report = (tmp_path / "report.md").read_text()
    assert "[" not in "".join(
        "".join(cells) for name in ("### A-v0", "### All environments") for cells in table(report, name)["forward"]
    )
    scores = table(report, "### All environments")
    assert scores["forward"][scores["variant"].index("score IQM")] == "0.500"
    assert scores["forward"][scores["variant"].index("std")] == "-"
    summary = pd.read_csv(tmp_path / "summary.csv").set_index("variant")
    assert summary.loc["forward", "final"] == 30.0
    assert np.isnan(summary.loc["forward", "final_low"])


def test_report_depends_on_the_results_alone(tmp_path: Path):
    runs = [rows_of(v, seed, final + 3.0 * seed) for v, final in (("bp", 90.0), ("forward", 80.0)) for seed in range(5)]
    write_report(write_results(tmp_path / "one", *runs))
    write_report(write_results(tmp_path / "two", *reversed(runs)))
    for name in ("report.md", "summary.csv"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_unfinished_files_are_no_results(tmp_path: Path):
    results = write_results(tmp_path, rows_of("bp", 1, 50.0))
    (tmp_path / "runs" / "A-v0" / ".ppo-bp-2.json.123.tmp").write_text('{"settings": {')
    assert len(results.records()) == 1
    (tmp_path / "runs" / "A-v0" / "ppo-bp-1.log").write_text("a log")
    assert len(results.records()) == 1


def test_report_is_the_same_from_either_form(tmp_path: Path):
    finals = {"bp": 110.0, "forward": 100.0, "mine": 50.0}
    runs = [rows_of(variant, seed, final + seed / 3) for variant, final in finals.items() for seed in range(4)]
    # Before the end of the first episode, and an environment that returns what is no number
    runs += [rows_of("bp", 1, 1 / 3, env="space/B-v0", returns=[None, float("nan"), 1e-300])]
    results = write_results(tmp_path / "runs-only", *runs)
    results.add_command("python -m sb3_forward.compare")
    records = results.records()
    write_report(results)
    results.write_tables()
    tables = Results(copy_tables(results.folder, tmp_path / "tables"))
    write_report(tables)
    # As text, in which NaN is the same as NaN
    assert json.dumps(tables.records(), sort_keys=True) == json.dumps(records, sort_keys=True)
    for path in results.folder.glob("*.*"):
        assert (tables.folder / path.name).read_bytes() == path.read_bytes(), path.name
    # Both together count once
    assert json.dumps(results.records(), sort_keys=True) == json.dumps(records, sort_keys=True)


def test_settings_have_a_line_for_what_differs(tmp_path: Path):
    results = Results(tmp_path)
    for seed, hyperparams, made_with in [
        (1, {"gamma": 0.5, "n_steps": 8}, "aaa"),
        (2, {"n_steps": 8, "gamma": 0.5}, "aaa"),
        (3, {"gamma": 0.5, "n_steps": 8}, "bbb"),
    ]:
        run = Run("A-v0", "ppo", "forward", seed, "any", hyperparams, 400, [])
        results.save(run, {"versions": {"python": "3.10.1"}, "commit": made_with, "rows": rows_of("forward", seed, 50.0)})
    results.write_tables()
    assert [(line["seeds"], line["commit"]) for line in settings_lines(tmp_path)] == [([1, 2], "aaa"), ([3], "bbb")]
    write_report(results)
    report = (tmp_path / "report.md").read_text()
    assert "seeds 1, 2, commit aaa\n" in report
    assert "seeds 3, commit bbb\n" in report


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("results.csv", "A-v0,ppo,forward,1,", "A-v0,ppo,forward,2,", "A-v0 ppo forward 1; A-v0 ppo forward 2"),
        ("settings.jsonl", "[1]", "[1, 7]", "forward 7"),
        ("results.csv", "forward,1,400,50.0", "forward,1,400,49.0", "ppo-forward-1.json is another run"),
        ("results.csv", "forward,1,", "<<<<<<<", "results.csv"),
        ("settings.jsonl", '{"env"', '<<<<<<< {"env"', "settings.jsonl"),
        ("settings.jsonl", '"commit"', '"comit"', "settings.jsonl: 'commit'"),
    ],
)
def test_forms_that_contradict_each_other(
    name: str, old: str, new: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    results = write_results(tmp_path, rows_of("bp", 1, 50.0), rows_of("forward", 1, 50.0))
    results.write_tables()
    if "another" not in message:
        shutil.rmtree(tmp_path / "runs")
    changed = (tmp_path / name).read_text().replace(old, new)
    assert changed != (tmp_path / name).read_text()
    (tmp_path / name).write_text(changed)
    assert main(["--report-only", "--output", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err
    assert (tmp_path / name).read_text() == changed


def test_results_are_not_thrown_away_for_want_of_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    results = write_results(tmp_path, rows_of("bp", 1, 50.0), rows_of("bp", 2, 50.0))
    results.write_tables()
    # As version 0.1 left it
    (tmp_path / "settings.jsonl").unlink()
    assert len(results.records()) == 2
    (tmp_path / "runs" / "A-v0" / "ppo-bp-2.json").unlink()
    before = (tmp_path / "results.csv").read_bytes()
    assert main(["--report-only", "--output", str(tmp_path)]) == 2
    assert "A-v0 ppo bp 2" in capsys.readouterr().err
    assert (tmp_path / "results.csv").read_bytes() == before


COMMITTED = sorted((ROOT / "benchmarks").rglob("settings.jsonl"))


@pytest.mark.skipif(not (ROOT / "benchmarks" / "results").is_dir(), reason="a source distribution has no results")
def test_committed_results_are_found():
    assert len(COMMITTED) >= 7


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.parent.relative_to(ROOT).as_posix())
def test_committed_results_are_as_the_tool_writes_them(path: Path, tmp_path: Path):
    copy = copy_tables(path.parent, tmp_path / "copy")
    Results(copy).write_tables()
    for name in ("results.csv", "settings.jsonl"):
        assert (copy / name).read_bytes() == (path.parent / name).read_bytes()


def test_overrides_that_cannot_be_sent():
    with pytest.raises(UserError, match="quotes"):
        plan("--env", "CartPole-v1", "--set", "policy_kwargs:dict(activation_fn=nn.ReLU)")
