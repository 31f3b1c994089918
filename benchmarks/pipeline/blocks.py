"""Times of one block on this machine: what backpropagation does with it, what forward learning does, and the heads on top."""

import statistics
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, cast

import torch as th
from stable_baselines3.common.env_util import make_vec_env
from torch import nn
from torch.utils.benchmark import Timer

from benchmarks.harness import Row
from sb3_forward import ForwardPPO
from sb3_forward.local.blocks import Block
from sb3_forward.local.loss import Guidance, guided, linear_image, own_target, standardise

# A stack, so that what a call costs by itself is shared out as it is in a stage
LAYERS = 4
MIN_SECONDS = 0.3  # of every timing
EPS = 1e-5  # of Adam, as SB3 sets it

GRID = [(rows, width) for width in (64, 256, 1024, 2048) for rows in (32, 64, 128, 256, 512)]
# Sizes that the cost model is not fitted to: between those it is fitted to, and beyond
HELD_OUT = [(64, 512), (256, 512), (256, 3072)]
HEADS_GRID = [(width, batch_size, epochs) for width in (64, 256, 1024) for batch_size in (64, 256) for epochs in (1, 10)]
HEADS_HELD_OUT = [(512, 128, 4)]
HEADS_ROWS = 2048


class BlockSize(NamedTuple):
    """A linear layer with tanh, as wide below as above."""

    rows: int
    width: int


def make_blocks(width: int, count: int, first: int = 0) -> list[Block]:
    """
    Blocks of a chain: those from ``first`` on are the same in whichever stage they are made.

    :param width: units
    :param count: how many
    :param first: place of the lowest one in the chain
    :return: blocks with an optimizer each
    """
    blocks = []
    for place in range(first, first + count):
        th.manual_seed(place)
        layer = nn.Linear(width, width)
        # As SB3 initialises hidden layers, with the random biases of our policies
        nn.init.orthogonal_(layer.weight, 2**0.5)
        nn.init.uniform_(layer.bias, -1.0, 1.0)
        module = nn.Sequential(layer, nn.Tanh())
        block = Block(f"actor.{place}", "actor", module, module.parameters())
        block.build_optimizer(th.optim.Adam, 1e-3, {"eps": EPS})
        blocks.append(block)
    return blocks


@th.no_grad()
def learn(block: Block, inputs: th.Tensor, guidance: Guidance) -> th.Tensor:
    """
    One step of a block on the guided loss, as :class:`~sb3_forward.ForwardPPO` does it, but for the image: it is fitted to the
    rows of this step alone, and not to those of a rollout.

    :param block: the block
    :param inputs: (B, d) from the block below
    :param guidance: (B, k) from :func:`~sb3_forward.local.loss.standardise`
    :return: (B, d) for the block above
    """

    def objective(outputs: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        image = linear_image(outputs, guidance.wanted)
        return guided(outputs, own_target(outputs, guidance, image), image)

    outputs = block.local_step(inputs, objective, max_grad_norm=0.5).outputs
    assert isinstance(outputs, th.Tensor)
    return outputs


def time_block(size: BlockSize) -> dict[str, float]:
    """
    :param size: rows and width
    :return: seconds of each part for one block
    """
    blocks = make_blocks(size.width, LAYERS)
    stack = nn.Sequential(*(cast(nn.Module, block.forward) for block in blocks))
    optimizer = th.optim.Adam(stack.parameters(), lr=1e-3, eps=EPS)
    # A stage in the middle hands a gradient down
    inputs = th.randn(size.rows, size.width, requires_grad=True)
    above = th.randn(size.rows, size.width)
    guidance = standardise(Guidance.whole(th.randn(size.rows, 1)))

    outputs = stack(inputs)

    def backward() -> None:
        outputs.backward(above, retain_graph=True)

    def features() -> None:
        with th.no_grad():
            stack(inputs)

    def local() -> None:
        activations = inputs.detach()
        for block in blocks:
            activations = learn(block, activations, guidance)

    calls = {
        "forward": lambda: stack(inputs),
        "backward": backward,  # leaves gradients for the step
        "step": optimizer.step,
        "features": features,
        "local": local,
    }
    return {part: _seconds(call) / LAYERS for part, call in calls.items()}


def _seconds(call: Callable[[], object]) -> float:
    return Timer("call()", globals={"call": call}, num_threads=1).blocked_autorange(min_run_time=MIN_SECONDS).median


def time_heads(width: int, batch_size: int, epochs: int) -> float:
    """
    All of an update that does not grow with depth: heads, their refit and their whitened coordinates. It is the time of
    ``train()`` on a network with one hidden layer of that width, whose own step is small beside.

    :param width: units of the top layer
    :param batch_size: of PPO
    :param epochs: of PPO
    :return: seconds
    """
    th.set_num_threads(1)
    model = ForwardPPO(
        "MlpPolicy",
        make_vec_env("CartPole-v1", n_envs=2, seed=0),
        n_steps=HEADS_ROWS // 2,
        batch_size=batch_size,
        n_epochs=epochs,
        policy_kwargs={"net_arch": [width]},
        seed=0,
        device="cpu",
    )
    model.learn(2 * HEADS_ROWS)
    return statistics.median(_duration(model.train) for _ in range(3))


def _duration(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure() -> Iterator[Row]:
    """
    :return: a row per part and size
    """
    for rows, width in GRID + HELD_OUT:
        for part, seconds in time_block(BlockSize(rows, width)).items():
            yield {"part": part, "rows": rows, "width": width, "epochs": 0, "seconds": seconds}
    for width, batch_size, epochs in HEADS_GRID + HEADS_HELD_OUT:
        seconds = time_heads(width, batch_size, epochs)
        yield {"part": "heads", "rows": batch_size, "width": width, "epochs": epochs, "seconds": seconds}
