"""
Send runs to processes, on this machine or on a Ray cluster, and hand their outcomes back as they come.

The process that waits for a trial holds the trial's stdin open, and exits when the process that gave it the work exits. The
trial exits when its stdin closes.
"""

import contextlib
import functools
import itertools
import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch as th

from sb3_forward._cli import UserError
from sb3_forward.compare.plan import Run

# Networks and batches are small: more threads than one only slow each other down
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}


class Outcome(NamedTuple):
    """The outcome of a run."""

    run: Run
    answer: dict[str, Any] | None  # None if it failed
    log: str  # all that it has written to stderr

    @property
    def failure(self) -> str:
        """Return the last line of the log, which names the exception."""
        return (self.log.strip().splitlines() or ["no message"])[-1]


def perform(run: Run, driver: int | None = None) -> Outcome:
    """
    Train a run in a process of its own.

    :param run: the run
    :param driver: id of the driver's process, if this may be the driver itself
    :return: its outcome
    """
    # A driver must go on when its parent, a shell, is gone
    if os.getpid() != driver:
        _go_down_with_parent()
    # A trial must find the packages that this process finds
    path = os.pathsep.join(entry for entry in sys.path if entry)
    with (
        tempfile.TemporaryFile("w+", errors="replace") as log,
        subprocess.Popen(
            [sys.executable, "-m", "sb3_forward.compare.trial"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            # With a buffer, closing the pipe would write the rest of a run to a dead trial once more
            bufsize=0,
            env={**os.environ, **ONE_THREAD, "PYTHONPATH": path},
            # On Ctrl-C the Zoo ends the training as if it were done, and the run would pass for a finished one
            start_new_session=True,
        ) as trial,
    ):
        assert trial.stdin is not None
        assert trial.stdout is not None
        # A trial that has died before is found by its exit code
        with contextlib.suppress(BrokenPipeError):
            trial.stdin.write(json.dumps(run._asdict()).encode() + b"\n")
        # Not communicate(), which would close stdin
        answer = trial.stdout.read()
        trial.wait()
        log.seek(0)
        text = log.read()
    if trial.returncode < 0:
        text += f"\nkilled by signal {-trial.returncode}" + (" (out of memory?)" if trial.returncode == -9 else "")
    return Outcome(run, json.loads(answer) if trial.returncode == 0 else None, text)


@functools.cache
def _go_down_with_parent() -> None:
    """Exit when the parent exits, since a worker that waits for a trial would not notice the death of the driver."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def on_this_machine(runs: list[Run], jobs: int | None) -> Iterator[Outcome]:
    """
    Perform runs on this machine.

    :param runs: the runs
    :param jobs: how many at a time, None for as many as there are CPUs
    :return: their outcomes as they come
    :raises UserError: if joblib is not installed
    """
    try:
        import joblib
    except ImportError as error:
        raise UserError(f"this needs joblib (pip install 'sb3-forward[compare]'): {error}") from error
    parallel = joblib.Parallel(
        n_jobs=jobs or -1, backend="loky", batch_size=1, pre_dispatch="all", return_as="generator_unordered"
    )
    return parallel(joblib.delayed(perform)(run, os.getpid()) for run in runs)


def on_ray(runs: list[Run], jobs: int | None, address: str | None) -> Iterator[Outcome]:
    """
    Perform runs on a Ray cluster.

    Each run is a plain task. Joblib's Ray backend, tried with Ray 2.60 and joblib 1.6, hands out no result before all are
    there (it refuses ``return_as``), and waits for ever once a dead node leaves no room for all of its actors.

    A run on CUDA has a GPU to itself.

    :param runs: the runs
    :param jobs: how many at a time, None for as many as the cluster has CPUs
    :param address: address of the cluster; None for that in ``RAY_ADDRESS``, or a new cluster on this machine
    :return: their outcomes as they come
    :raises UserError: if there is no such cluster, or none with a GPU where runs need one
    """
    try:
        import ray
    except ImportError as error:
        raise UserError(f"--backend ray needs Ray (pip install 'sb3-forward[ray]'): {error}") from error
    try:
        cluster = ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(f"no Ray cluster at {address}: {str(error).splitlines()[0]}") from error
    with cluster:
        gpus = int(any(th.device(run.device).type == "cuda" for run in runs))
        if gpus > ray.cluster_resources().get("GPU", 0):
            raise UserError("--device cuda: no node of the Ray cluster has a GPU. Start one with `ray start --num-gpus`")
        # A run that is lost with its node starts again on another; a run that fails by itself has an outcome, and is not
        # repeated
        task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=-1)(perform)
        waiting = iter(runs)
        started = {task.remote(run): run for run in itertools.islice(waiting, jobs)}
        while started:
            (done,), _ = ray.wait(list(started), num_returns=1)
            run = started.pop(done)
            try:
                yield ray.get(done)
            except ray.exceptions.RayError as error:
                yield Outcome(run, None, str(error))
            for following in itertools.islice(waiting, 1):
                started[task.remote(following)] = following
