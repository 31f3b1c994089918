"""
Schedules of layer-parallel training, and a discrete-event simulation of them.

A network is cut into stages, one per device, from the bottom up; tensors go from one stage to its neighbour over a link that
carries one at a time, in each direction, while the devices work. Three schedules:

- *GPipe* (Huang et al. 2019): the forward passes of all microbatches of an update, then all their backward passes.
- *1F1B* (PipeDream-Flush, Narayanan et al. 2021): after its first forward passes a stage alternates between forward and
  backward, so that it never holds more microbatches than there are stages from it to the top.
- *local*: a block needs nothing from above. A stage learns from a minibatch, hands its outputs up, and takes the next one: an
  update begins before the one before has reached the top, and every block still sees the minibatches in the same order, with
  the same weights below, as on one device.
"""

from collections import defaultdict
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

import simpy

# Which way what a task has made travels: to the stage above, to the one below, or nowhere
DIRECTIONS = {"forward": 1, "backward": -1, "step": 0, "local": 1, "features": 1, "heads": 0}


class Task(NamedTuple):
    """One piece of work of a stage."""

    kind: str  # of DIRECTIONS
    update: int  # counted from the first update of the rollout
    part: int = 0  # microbatch of the update


class Span(NamedTuple):
    """When a stage did a task."""

    stage: int
    task: Task
    start: float
    end: float


Programs = list[list[Task]]  # what each stage does, in order


def gpipe(stages: int, updates: int, microbatches: int) -> Programs:
    """
    :param stages: number of stages S
    :param updates: optimizer steps, one after another
    :param microbatches: parts M of the minibatch of an update
    :return: the program of each stage
    """
    program = []
    for update in range(updates):
        program += [Task("forward", update, part) for part in range(microbatches)]
        program += [Task("backward", update, part) for part in range(microbatches)]
        program.append(Task("step", update))
    return [program] * stages


def one_f_one_b(stages: int, updates: int, microbatches: int) -> Programs:
    """
    :param stages: number of stages S
    :param updates: optimizer steps, one after another
    :param microbatches: parts M of the minibatch of an update
    :return: the program of each stage
    """
    programs = []
    for stage in range(stages):
        program = []
        ahead = min(stages - stage - 1, microbatches)
        for update in range(updates):
            forward = [Task("forward", update, part) for part in range(microbatches)]
            backward = [Task("backward", update, part) for part in range(microbatches)]
            program += forward[:ahead]
            for pair in zip(forward[ahead:], backward, strict=False):
                program += pair
            program += [*backward[microbatches - ahead :], Task("step", update)]
        programs.append(program)
    return programs


def local(stages: int, updates: int, feature_batches: int = 0, heads: bool = False) -> Programs:
    """
    :param stages: number of stages S
    :param updates: minibatches of the hidden phase
    :param feature_batches: batches of the pass that computes the top features
    :param heads: whether the highest stage trains the heads on them afterwards
    :return: the program of each stage
    """
    program = [Task("local", update) for update in range(updates)]
    program += [Task("features", batch) for batch in range(feature_batches)]
    return [program] * (stages - 1) + [[*program, Task("heads", 0)] if heads else program]


def simulate(programs: Programs, seconds: Callable[[Task, int], float], transfer: float) -> list[Span]:
    """
    :param programs: what each stage does, in order
    :param seconds: duration of a task, given its stage
    :param transfer: time that a link takes for one tensor
    :return: when everything was done, in order of its end
    :raises ValueError: if the stages wait for each other for ever
    """
    env = simpy.Environment()
    stages = range(len(programs))
    arrived: dict[tuple[Task, int], simpy.Event] = defaultdict(env.event)
    links: dict[tuple[int, int], simpy.Resource] = defaultdict(lambda: simpy.Resource(env))
    spans: list[Span] = []

    def send(task: Task, source: int, target: int) -> Generator[simpy.Event, Any, None]:
        with links[source, target].request() as turn:
            yield turn
            yield env.timeout(transfer)
        arrived[task, target].succeed()

    def work(stage: int) -> Generator[simpy.Event, Any, None]:
        for task in programs[stage]:
            direction = DIRECTIONS[task.kind]
            if direction and stage - direction in stages:
                yield arrived[task, stage]
            start = env.now
            yield env.timeout(seconds(task, stage))
            spans.append(Span(stage, task, start, env.now))
            if direction and stage + direction in stages:
                env.process(send(task, stage, stage + direction))

    for stage in stages:
        env.process(work(stage))
    env.run()
    if len(spans) < sum(map(len, programs)):
        raise ValueError("the stages wait for each other for ever: in no order of time can these programs be done")
    return spans


def makespan(spans: list[Span]) -> float:
    """
    :param spans: what was done
    :return: time until all of it was done
    """
    return max(span.end for span in spans)


def bubble(spans: list[Span]) -> float:
    """
    :param spans: what was done
    :return: share of the devices' time in which they were idle, in [0, 1)
    """
    stages = len({span.stage for span in spans})
    return 1 - sum(span.end - span.start for span in spans) / (stages * makespan(spans))


def held(spans: list[Span], stage: int) -> int:
    """
    :param spans: what was done with backpropagation
    :param stage: a stage
    :return: the most microbatches whose activations it held for their backward passes at once
    """
    here = [span for span in spans if span.stage == stage]
    changes = [(span.start, 1) for span in here if span.task.kind == "forward"]
    changes += [(span.end, -1) for span in here if span.task.kind == "backward"]
    now = most = 0
    # What is freed makes room for what begins at the same moment
    for _, change in sorted(changes):
        now += change
        most = max(most, now)
    return most
