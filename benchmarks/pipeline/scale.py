"""Networks and numbers of devices far beyond this machine: the schedules simulated with the times of the cost model."""

from collections.abc import Callable
from typing import NamedTuple

from benchmarks.pipeline.cost import CostModel
from benchmarks.pipeline.schedules import Programs, Span, Task, bubble, held, local, makespan, simulate

# Between neighbours: Ethernet of 10 Gbit/s, an assumption
LINK_BYTES_PER_SECOND = 1.25e9
LINK_LATENCY = 50e-6
FLOAT = 4  # bytes


class Plan(NamedTuple):
    """A chain of equal layers on a number of equal devices, and a rollout to learn from."""

    layers: int
    width: int
    devices: int
    rollout: int = 16_384
    batch_size: int = 256
    epochs: int = 10  # of PPO

    @property
    def updates(self) -> int:
        """Minibatches of one pass over the rollout."""
        return self.rollout // self.batch_size

    def transfer(self, rows: float) -> float:
        """
        :param rows: rows of a tensor that goes from one stage to the next
        :return: seconds on the link
        """
        return LINK_LATENCY + rows * self.width * FLOAT / LINK_BYTES_PER_SECOND


class Outcome(NamedTuple):
    """What a schedule comes to."""

    one_pass: float  # seconds for one pass over the rollout, of hidden layers alone
    update: float  # seconds for train(), which is PPO's epochs with backpropagation, all phases with forward learning
    idle: float  # share of the devices' time in one pass
    held_bytes: float  # activations that the device with the most of them holds
    microbatches: int = 1


def backpropagation(plan: Plan, model: CostModel, schedule: Callable[[int, int, int], Programs], microbatches: int) -> Outcome:
    """
    :param plan: the plan
    :param model: the cost model
    :param schedule: :func:`gpipe` or :func:`one_f_one_b`
    :param microbatches: parts of a minibatch
    :return: what it comes to
    """
    spans = spans_of_backpropagation(plan, model, schedule, microbatches)
    # No update begins before the one before has ended: all are alike
    one_pass = plan.updates * makespan(spans)
    rows = plan.batch_size / microbatches
    layers_bytes = rows * plan.width * FLOAT * plan.layers / plan.devices
    return Outcome(one_pass, plan.epochs * one_pass, bubble(spans), held(spans, 0) * layers_bytes, microbatches)


def spans_of_backpropagation(
    plan: Plan, model: CostModel, schedule: Callable[[int, int, int], Programs], microbatches: int, updates: int = 1
) -> list[Span]:
    """
    :param plan: the plan
    :param model: the cost model
    :param schedule: :func:`gpipe` or :func:`one_f_one_b`
    :param microbatches: parts of a minibatch
    :param updates: optimizer steps
    :return: when what is done
    """
    rows = plan.batch_size / microbatches
    layers = plan.layers / plan.devices
    seconds = {kind: layers * model.block(kind, rows, plan.width) for kind in ("forward", "backward")}
    seconds["step"] = layers * model.block("step", 0, plan.width)
    programs = schedule(plan.devices, updates, microbatches)
    return simulate(programs, lambda task, stage: seconds[task.kind], plan.transfer(rows))


def best_backpropagation(plan: Plan, model: CostModel, schedule: Callable[[int, int, int], Programs]) -> Outcome:
    """
    :param plan: the plan
    :param model: the cost model
    :param schedule: :func:`gpipe` or :func:`one_f_one_b`
    :return: what it comes to with the best number of microbatches: more of them leave less idle time, but are smaller, and
        what a call costs by itself counts for more
    """

    def seconds(microbatches: int) -> float:
        rows = plan.batch_size / microbatches
        both = sum(model.block(kind, rows, plan.width) for kind in ("forward", "backward"))
        # Of equal stages, but for the transfers
        return (microbatches + plan.devices - 1) * both

    counts = [2**power for power in range(plan.batch_size.bit_length())]
    return backpropagation(plan, model, schedule, min(counts, key=seconds))


def forward_learning(plan: Plan, model: CostModel) -> Outcome:
    """
    :param plan: the plan
    :param model: the cost model
    :return: what it comes to
    """
    one_pass = spans_of_forward_learning(plan, model, plan.updates)
    update = spans_of_forward_learning(plan, model, plan.updates, heads=True)
    # Of one block: inputs, outputs before and after the activation, and their gradient; a handful of B x B matrices
    held_bytes = FLOAT * (4 * plan.batch_size * plan.width + 6 * plan.batch_size**2)
    return Outcome(makespan(one_pass), makespan(update), bubble(one_pass), held_bytes)


def spans_of_forward_learning(plan: Plan, model: CostModel, updates: int, heads: bool = False) -> list[Span]:
    """
    :param plan: the plan
    :param model: the cost model
    :param updates: minibatches of the hidden phase
    :param heads: whether the pass for the features and the heads follow
    :return: when what is done
    """
    layers = plan.layers / plan.devices
    seconds = {kind: layers * model.block(kind, plan.batch_size, plan.width) for kind in ("local", "features")}
    seconds["heads"] = model.heads(plan.rollout, plan.width, plan.batch_size, plan.epochs)
    programs = local(plan.devices, updates, updates if heads else 0, heads)

    def duration(task: Task, stage: int) -> float:
        return seconds[task.kind]

    return simulate(programs, duration, plan.transfer(plan.batch_size))
