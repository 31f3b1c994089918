"""
A pipeline of real processes: each one stage, one torch thread, connected by ``torch.distributed`` (gloo).

It shows two things that a simulation cannot: the weights in the end are those of one process, bit for bit, and the time is
what is simulated.
"""

import os
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch as th
import torch.distributed as dist
import torch.multiprocessing as mp

from benchmarks.pipeline.blocks import learn, make_blocks
from sb3_forward.local.loss import Guidance, standardise


class Chain(NamedTuple):
    """What is trained: equal blocks one after another, on random minibatches."""

    blocks: int
    width: int
    rows: int
    minibatches: int


class Trained(NamedTuple):
    """What a pipeline made of a chain."""

    seconds: float
    weights: list[th.Tensor]  # of all blocks, from the bottom up


def train(chain: Chain, stages: int) -> Trained:
    """
    :param chain: the chain
    :param stages: processes, at most as many as blocks
    :return: the time from the first step to the last one, and the weights
    """
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_stage, (stages, chain, folder), nprocs=stages)
        answers = [th.load(Path(folder) / f"{stage}.pt") for stage in range(stages)]
    seconds = max(answer["end"] for answer in answers) - min(answer["start"] for answer in answers)
    return Trained(seconds, [weight for answer in answers for weight in answer["weights"]])


def _stage(stage: int, stages: int, chain: Chain, folder: str) -> None:
    th.set_num_threads(1)
    # All of them are on this machine
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=stage, world_size=stages)
    bounds = [chain.blocks * part // stages for part in (stage, stage + 1)]
    blocks = make_blocks(chain.width, bounds[1] - bounds[0], bounds[0])
    generator = th.Generator().manual_seed(0)
    # The signal of the guidance is known before the hidden phase: every stage has it
    guidance = [standardise(Guidance.whole(th.randn(chain.rows, 1, generator=generator))) for _ in range(chain.minibatches)]
    data = th.randn(chain.minibatches, chain.rows, chain.width, generator=generator)
    below, above = stage - 1, stage + 1
    sent = []
    dist.barrier()
    start = time.perf_counter()
    for minibatch in range(chain.minibatches):
        activations = data[minibatch]
        if stage > 0:
            dist.recv(activations, below)
        for block in blocks:
            activations = learn(block, activations, guidance[minibatch])
        if above < stages:
            sent.append(dist.isend(activations, above))
    for work in sent:
        assert work is not None
        work.wait()
    # Of the same clock in all processes
    end = time.perf_counter()
    weights = [parameter.detach() for block in blocks for parameter in block.parameters]
    th.save({"start": start, "end": end, "weights": weights}, Path(folder) / f"{stage}.pt")
    dist.barrier()
    dist.destroy_process_group()
