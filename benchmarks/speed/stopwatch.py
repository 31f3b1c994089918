"""Takes the times of a case: every side in one process, by turns."""

import gc
import io
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, redirect_stdout
from pathlib import Path
from typing import Any

import torch as th
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from benchmarks.harness import Row
from benchmarks.speed.cases import SIDES, RunCase, UpdateCase
from sb3_forward.compare.plan import VARIANTS, Question, make_plan
from sb3_forward.compare.trial import set_up

STAGES = ("train", "collect", "learn")


class Stopwatch:
    """
    Takes the time within ``learn()``, and of it within ``train()`` and ``collect_rollouts()``.

    :param model: the model; its methods are replaced
    """

    def __init__(self, model: OnPolicyAlgorithm) -> None:
        self.model = model
        self._start_anew()
        model.train = self._timed("train", model.train)  # type: ignore[method-assign]
        model.collect_rollouts = self._timed("collect", model.collect_rollouts)  # type: ignore[method-assign]
        model.learn = self._timed("learn", model.learn)  # type: ignore[method-assign]

    def learn(self, steps: int) -> Row:
        """
        Go on learning.

        :param steps: environment steps, rounded up to whole rollouts
        :return: the steps that were done, and within each method the seconds on the clock and those of the CPU, which other
            processes take none of
        """
        self._start_anew()
        before = self.model.num_timesteps
        # What the other class left is not collected at the expense of this one
        gc.collect()
        self.model.learn(steps, reset_num_timesteps=False)
        times = {f"{stage}_seconds": round(seconds, 7) for stage, seconds in self.seconds.items()}
        times |= {f"{stage}_cpu": round(seconds, 7) for stage, seconds in self.cpu.items()}
        return {"steps": self.model.num_timesteps - before, **times}

    def _start_anew(self) -> None:
        self.seconds, self.cpu = dict.fromkeys(STAGES, 0.0), dict.fromkeys(STAGES, 0.0)

    def _timed(self, stage: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            start, start_cpu = time.perf_counter(), time.process_time()
            try:
                return method(*args, **kwargs)
            finally:
                if self.model.device.type == "cuda":
                    th.cuda.synchronize(self.model.device)  # what is queued belongs to it
                self.seconds[stage] += time.perf_counter() - start
                self.cpu[stage] += time.process_time() - start_cpu

        return timed


def time_updates(case: UpdateCase, repeats: int, device: str) -> Iterator[Row]:
    """
    :param case: the case
    :param repeats: how many of each class
    :param device: PyTorch device
    :return: one row per class and repeat
    """
    watches = {side: Stopwatch(case.make(side, device)) for side in case.sides}
    # Ours has a hidden phase in as many rollouts as make these rows
    ours: Any = watches["forward"].model
    rows = -(-ours.local_interval // case.rows) * case.rows
    for watch in watches.values():
        # What is made on first use: the state of the optimizers, for ours a full set of anchors, and what JAX compiles
        watch.learn(rows)
        watch.learn(rows)
    for repeat in range(repeats):
        for side in by_turns(case.sides, repeat):
            times = watches[side].learn(rows)
            yield {"case": case.name, "class": side, "repeat": repeat, **times}


def time_runs(case: RunCase, repeats: int, timesteps: int, device: str) -> Iterator[Row]:
    """
    :param case: the case
    :param repeats: runs of each class, with the seeds 0, 1, ...
    :param timesteps: length of a run
    :param device: PyTorch device
    :return: one row per class and repeat
    """
    variants = {name: VARIANTS[name] for name in ("bp", "forward")}
    question = Question([case.env], case.algo, [0], variants, {}, timesteps, False, None, None, [], device)
    runs = dict(zip(SIDES, make_plan(question)[0], strict=True))
    for repeat in range(repeats):
        for side in by_turns(SIDES, repeat):
            with tempfile.TemporaryDirectory() as folder:
                # It prints the hyperparameters
                with redirect_stdout(io.StringIO()):
                    _, model = set_up(runs[side]._replace(seed=repeat), Path(folder))
                with closing(model.get_env()):  # type: ignore[type-var]
                    times = Stopwatch(model).learn(timesteps)
            yield {"case": case.name, "class": side, "repeat": repeat, **times}


def by_turns(sides: tuple[str, ...], repeat: int) -> tuple[str, ...]:
    """
    :param sides: what is measured
    :param repeat: number of the repeat
    :return: their order in it, so that what drifts meanwhile, such as the clock of the CPU, meets all alike
    """
    return sides if repeat % 2 == 0 else sides[::-1]
