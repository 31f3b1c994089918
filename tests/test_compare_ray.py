import itertools
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest

from sb3_forward._cli import UserError
from sb3_forward.compare import sweep
from sb3_forward.compare.__main__ import main
from sb3_forward.compare.plan import Run
from sb3_forward.compare.sweep import Outcome, on_ray
from tests.test_compare import TINY, trials, wait_until

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head that runs nothing."""
    from ray.cluster_utils import Cluster

    before = set(psutil.Process().children(recursive=True))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    yield cluster
    ray.shutdown()
    cluster.shutdown()
    _, alive = psutil.wait_procs(set(psutil.Process().children(recursive=True)) - before, timeout=1800)
    assert not alive


def test_node_is_lost(cluster: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    cluster.add_node(num_cpus=1)
    node = cluster.add_node(num_cpus=1)
    (raylet,) = node.all_processes["raylet"]
    lost: list[psutil.Process] = []

    def lose_node() -> None:
        process = psutil.Process(raylet.process.pid)
        wait_until(lambda: trials(process))
        lost.extend(trials(process))
        cluster.remove_node(node, allow_graceful=False)

    losing = threading.Thread(target=lose_node)
    losing.start()
    arguments = [*TINY, "--variants", "forward", "--seeds", "3", "--backend", "ray", "--address", cluster.address]
    assert main([*arguments, "--output", str(tmp_path)]) == 0
    losing.join()
    gone, alive = psutil.wait_procs(lost, timeout=1800)
    assert len(gone) == 1
    assert not alive
    printed = capsys.readouterr().out
    for seed in (1, 2, 3):
        assert printed.count(f"forward seed {seed}: final return") == 1
    rows = pd.read_csv(tmp_path / "results.csv")
    assert rows.groupby("seed").size().to_dict() == {1: 21, 2: 21, 3: 21}


def test_a_run_on_cuda_has_a_gpu_to_itself(cluster: Any, monkeypatch: pytest.MonkeyPatch):
    """The GPUs are names that a node was given. No run uses one."""
    runs = [Run("CartPole-v1", "ppo", "forward", seed, "forward_ppo", {}, 100, [], "cuda") for seed in range(6)]
    with pytest.raises(UserError, match="no node of the Ray cluster has a GPU"):
        list(on_ray(runs, None, cluster.address))
    cluster.add_node(num_cpus=6, num_gpus=2)

    def watch(run: Run) -> Outcome:
        started = time.time()
        time.sleep(0.5)
        return Outcome(run, {"gpu": os.environ["CUDA_VISIBLE_DEVICES"], "time": (started, time.time())}, "")

    monkeypatch.setattr(sweep, "perform", watch)
    answers = [outcome.answer or {} for outcome in on_ray(runs, None, cluster.address)]
    assert len(answers) == 6
    assert {answer["gpu"] for answer in answers} == {"0", "1"}
    for gpu in "01":
        times = sorted(answer["time"] for answer in answers if answer["gpu"] == gpu)
        assert all(first[1] <= second[0] for first, second in itertools.pairwise(times))


def test_no_cluster(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    arguments = [*TINY, "--variants", "bp", "--seeds", "1", "--backend", "ray", "--address", "nonsense"]
    assert main([*arguments, "--output", str(tmp_path)]) == 2
    assert "no Ray cluster at nonsense" in capsys.readouterr().err
