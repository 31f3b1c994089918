"""
How much memory train() needs against the depth of the network, beside SB3's PPO.

For every depth, and for either class in a process of its own: PPO with so many hidden layers (for actor and critic each)
learns from some rollouts, so that its optimizers have their state; then another rollout is collected, and the train() on it
is watched. It is one in which ours has enough rows for a hidden phase.

  peak_bytes        the most that was allocated at once in train(), beyond what was there when it began: parameters, state of
                    the optimizers and rollout; gradients count. On a CPU from the events of PyTorch's own allocator, as its
                    profiler records them (what is read off them is checked against a case counted by hand), on CUDA from
                    max_memory_allocated()
  parameter_bytes   parameters of the policy, and of convolutions' auxiliary layers
  state_bytes       state of their optimizers
  peak_rss          the most that another such process, without the profiler, has had resident until the end of train():
                    interpreter and libraries, parameters, states, everything (Linux only)

With --network cnn, the layers are convolutions of 16 channels on images of 4 x 84 x 84 (--width is their number of channels,
16 by default), with a layer of 64 units behind them, with --network residual each beside a way around it; --network nature is
NatureCNN, whatever the depth.

The rows go to memory.csv, in the place of older ones of the same settings; memory.md and memory.png (memory-cnn.md and so on)
are made of all rows with this --network, --width, --batch-size and --device.
"""

import argparse
import re
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch as th
from gymnasium import spaces
from matplotlib.figure import Figure
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import FakeImageEnv
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.harness import (
    Row,
    machine,
    machines,
    markdown_table,
    parse_on_device,
    replace_rows,
    save_figure,
    whole_number,
    write_text,
)
from sb3_forward import ForwardPPO

EXAMPLES = """\
examples:
  python -m benchmarks.memory
  python -m benchmarks.memory --depths 4 64 --width 64 --batch-size 64
  python -m benchmarks.memory --device cuda
  python -m benchmarks.memory --network cnn --depths 4 8 16 32
  python -m benchmarks.memory --network nature --depths 3 --batch-size 64"""

CLASSES: dict[str, type[PPO]] = {"stock": PPO, "forward": ForwardPPO}
STATUS = Path("/proc/self/status")
MIB = 2**20


class Setting(NamedTuple):
    """What one row is about."""

    side: str  # key of CLASSES
    network: str  # key of NETWORKS
    depth: int
    width: int
    batch_size: int
    device: str


class Convolutions(BaseFeaturesExtractor):
    """
    Convolutions one after the other, and a layer of 64 units.

    :param observation_space: images, channels first
    :param depth: how many convolutions
    :param width: their channels
    :param residual: whether what each says is added to what it reads
    """

    def __init__(self, observation_space: spaces.Box, depth: int, width: int, residual: bool) -> None:
        super().__init__(observation_space, 64)
        self.stem = nn.Sequential(nn.Conv2d(observation_space.shape[0], width, 8, stride=4), nn.ReLU())
        self.rest = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(depth - 1))
        self.top = nn.Sequential(nn.Flatten(), nn.Linear(width * 20 * 20, 64), nn.ReLU())
        self.residual = residual

    def forward(self, observations: th.Tensor) -> th.Tensor:
        hidden = self.stem(observations)
        for layer in self.rest:
            said = layer(hidden).relu()
            hidden = hidden + said if self.residual else said
        return self.top(hidden)


def mlp(setting: Setting) -> dict[str, Any]:
    """
    :param setting: what to measure
    :return: arguments of PPO
    """
    env = make_vec_env("CartPole-v1", n_envs=2, seed=0)
    return {"policy": "MlpPolicy", "env": env, "policy_kwargs": {"net_arch": [setting.width] * setting.depth}}


def cnn(setting: Setting) -> dict[str, Any]:
    """
    :param setting: what to measure
    :return: arguments of PPO
    """
    kwargs: dict[str, Any] = {}
    if setting.network != "nature":
        own = {"depth": setting.depth, "width": setting.width, "residual": setting.network == "residual"}
        kwargs = {"features_extractor_class": Convolutions, "features_extractor_kwargs": own, "net_arch": []}
    return {"policy": "CnnPolicy", "env": DummyVecEnv([lambda: FakeImageEnv(n_channels=4)] * 2), "policy_kwargs": kwargs}


# By network: what makes it, rows of a rollout per environment, and its width where none is said
NETWORKS: dict[str, tuple[Callable[[Setting], dict[str, Any]], int, int]] = {
    "mlp": (mlp, 1024, 256),
    "cnn": (cnn, 512, 16),
    "residual": (cnn, 512, 16),
    "nature": (cnn, 512, 32),
}


# === In a process of its own ===


def ready_model(setting: Setting) -> OnPolicyAlgorithm:
    """
    :param setting: what to measure
    :return: a model that has learned from some rollouts, and has another one that it has not learned from; from this one,
        the hidden layers of ours learn, too
    """
    th.set_num_threads(1)
    make, n_steps, _ = NETWORKS[setting.network]
    model = CLASSES[setting.side](
        **make(setting),
        n_steps=n_steps,
        batch_size=setting.batch_size,
        n_epochs=1,  # a further one needs no more memory
        seed=0,
        device=setting.device,
    )
    rows = 2 * n_steps
    model.learn(3 * rows)
    train = model.train
    model.train = lambda: None  # type: ignore[method-assign]
    model.learn(rows, reset_num_timesteps=False)
    model.train = train  # type: ignore[method-assign]
    assert not isinstance(model, ForwardPPO) or model.history.waiting_rows + rows >= model.local_interval, (
        "no hidden layer would learn"
    )
    # SB3 keeps the gradients of the last step until it makes new ones: they belong to train()
    model.policy.zero_grad(set_to_none=True)
    return model


def allocated(setting: Setting) -> dict[str, int]:
    """
    :param setting: what to measure
    :return: bytes in tensors, by what they are
    """
    model = ready_model(setting)
    auxiliary = list(model.auxiliary.layers.values()) if isinstance(model, ForwardPPO) else []
    optimizers = [model.policy.optimizer, *(layer.optimizer for layer in auxiliary if layer.optimizer is not None)]
    states = [value for optimizer in optimizers for state in optimizer.state.values() for value in state.values()]
    parameters = [*model.policy.parameters(), *(parameter for layer in auxiliary for parameter in layer.parameters)]
    peak_in = _peak_on_cuda if model.device.type == "cuda" else peak_on_cpu
    return {
        "peak_bytes": peak_in(model.train),
        "parameter_bytes": sum(parameter.nbytes for parameter in parameters),
        "state_bytes": sum(value.nbytes for value in states if isinstance(value, th.Tensor)),
    }


def resident(setting: Setting) -> dict[str, int]:
    """
    :param setting: what to measure
    :return: the most bytes that this process has had resident once the model is trained
    """
    ready_model(setting).train()
    # Not getrusage(): a new process inherits that figure from the one that started it
    found = re.search(r"VmHWM:\s+(\d+) kB", STATUS.read_text())
    assert found is not None
    return {"peak_rss": int(found[1]) * 1024}


def peak_on_cpu(call: Callable[[], object]) -> int:
    """
    :param call: what to watch
    :return: the most bytes of what it allocates for tensors on the CPU that were there at once
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    assert profiler.profiler is not None
    # What was freed that had been there before leaves no event
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def check_peak_on_cpu() -> None:
    """
    :raises RuntimeError: if the profiler's events do not tell what is counted by hand
    """

    def known() -> None:
        one = th.empty(1000)  # 4000 bytes
        two = one + one  # 8000
        del one  # 4000
        three = th.cat([two, two, two])  # 16000
        del two, three
        th.empty(3000)  # 12000

    if (found := peak_on_cpu(known)) != 16_000:
        raise RuntimeError(f"PyTorch {th.__version__} reports a peak of {found} bytes where there are 16000")


def _peak_on_cuda(call: Callable[[], object]) -> int:
    th.cuda.synchronize()
    th.cuda.reset_peak_memory_stats()
    before = th.cuda.memory_allocated()
    call()
    return th.cuda.max_memory_allocated() - before


# === Report ===


def measure(setting: Setting) -> Row:
    """
    :param setting: what to measure
    :return: its row
    """
    row: Row = setting._asdict()
    for reading in (allocated, resident):
        with ProcessPoolExecutor(1, get_context("spawn")) as process:
            row |= process.submit(reading, setting).result()
    return {**row, "machine": machine(setting.device)}


def curves(rows: list[Row]) -> dict[str, dict[int, Row]]:
    """
    :param rows: rows of one width, batch size and device
    :return: by class and depth, shallow to deep
    """
    ordered = sorted(rows, key=lambda row: int(row["depth"]))
    return {side: {int(row["depth"]): row for row in ordered if row["side"] == side} for side in CLASSES}


def report(rows: list[Row]) -> str:
    """
    :param rows: rows of one width, batch size and device, at least one
    :return: the table in Markdown
    """
    stock, forward = curves(rows).values()
    header = ["hidden layers", "SB3: peak of `train()`", "ours", "parameters", "state of optimizers", "SB3: peak RSS", "ours"]
    lines = []
    depths = [depth for depth in stock if depth in forward]
    for depth in depths:
        cells = [stock[depth]["peak_bytes"], forward[depth]["peak_bytes"]]
        cells += [forward[depth]["parameter_bytes"], forward[depth]["state_bytes"]]
        cells += [stock[depth]["peak_rss"], forward[depth]["peak_rss"]]
        lines.append([depth, *(f"{int(cell) / MIB:.2f}" for cell in cells)])
    network, width, batch_size, device = (rows[0][key] for key in ("network", "width", "batch_size", "device"))
    flags = f"--network {network} --width {width} --batch-size {batch_size} --device {device}"
    text = f"Made by `python -m benchmarks.memory {flags}`. {machines(rows)} In MiB; PPO, width {width}, "
    text += f"minibatches of {batch_size} on {device}, rollouts of {2 * NETWORKS[str(network)][1]} rows.\n\n"
    text += markdown_table(header, lines)
    deepest = max(depths, default=0) if network in ("cnn", "residual") else 64
    if {4, deepest} <= set(depths):
        grown = [int(curve[deepest]["peak_bytes"]) / int(curve[4]["peak_bytes"]) for curve in (stock, forward)]
        text += (
            f"\nFrom 4 to {deepest} layers the peak of `train()` grows {grown[0]:.2f} times with SB3, {grown[1]:.2f} times "
        )
        text += "with ours (target: at most 1.10 times).\n"
    return text


def plot(rows: list[Row]) -> Figure:
    """
    :param rows: rows of one width, batch size and device, at least one
    :return: both peaks against the depth
    """
    figure = Figure(figsize=(9.0, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for side, curve in curves(rows).items():
        label = "SB3 (backpropagation)" if side == "stock" else "ours (forward)"
        left.plot(list(curve), [int(row["peak_bytes"]) / MIB for row in curve.values()], "o-", label=label)
        right.plot(list(curve), [int(row["peak_rss"]) / MIB for row in curve.values()], "o-", label=label)
    static = {depth: int(row["parameter_bytes"]) + int(row["state_bytes"]) for depth, row in curve.items()}
    right.plot(list(static), [size / MIB for size in static.values()], "k:", label="parameters and states")
    left.set(title="train(): peak beyond parameters and states", yscale="log")
    right.set(title="peak resident memory of the process", ylim=(0, None))
    for axes in (left, right):
        axes.set(xlabel="hidden layers", ylabel="MiB", xscale="log", xticks=list(curve), xticklabels=list(curve))
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


# === Command line ===


def parse(arguments: list[str]) -> argparse.Namespace:
    """
    :param arguments: the command line
    :return: its values
    """
    parser = argparse.ArgumentParser(
        "python -m benchmarks.memory",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    depths = [2, 4, 8, 16, 32, 64, 128]
    parser.add_argument("--depths", type=whole_number, nargs="+", default=depths, help="hidden layers (default: 2 to 128)")
    parser.add_argument("--network", choices=list(NETWORKS), default="mlp", help="default: %(default)s")
    parser.add_argument("--width", type=whole_number, help="units or channels per layer (default: 256, of a cnn 16)")
    parser.add_argument("--batch-size", type=whole_number, default=256, help="of PPO (default: %(default)s)")
    args = parse_on_device(parser, arguments)
    args.width = args.width or NETWORKS[args.network][2]
    if not STATUS.exists():
        parser.error("the resident memory is read from /proc, which this system does not have: use Linux")
    return args


def main(arguments: list[str]) -> int:
    """
    Measure, and report all that there is with the same width, batch size and device.

    :param arguments: the command line
    :return: the exit code: 0, or 2 for a mistake of the user
    """
    args = parse(arguments)
    check_peak_on_cpu()
    depths = sorted(set(args.depths))
    same = args.width, args.batch_size, args.device
    settings = [Setting(side, args.network, depth, *same) for depth in depths for side in CLASSES]
    for setting in settings:
        row = measure(setting)
        rows = replace_rows(args.output / "memory.csv", [row], lambda row: [str(row[key]) for key in Setting._fields])
        sizes = ", ".join(f"{key} {row[key] / MIB:.2f} MiB" for key in ("peak_bytes", "state_bytes", "peak_rss"))
        print(f"{setting.side}, {setting.depth} layers: {sizes}", flush=True)
    about = [str(value) for value in (args.network, *same)]
    rows = [row for row in rows if [row[key] for key in ("network", "width", "batch_size", "device")] == about]
    name = "memory" if args.network == "mlp" else f"memory-{args.network}"
    write_text(args.output / f"{name}.md", report(rows))
    save_figure(plot(rows), args.output / f"{name}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
