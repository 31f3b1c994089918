"""
Split the network between the observations and the heads of a policy into blocks, at its layers.

:mod:`torch.fx` traces the modules into one graph of operations, however their ``forward`` runs them: modules used twice,
functional calls, skip connections. A layer with weights starts a block, and the operations up to the next layer belong to it.
A module that cannot be traced becomes one block, so that it is never silently left untrained.
"""

import copy
import warnings
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import fx, nn

from sb3_forward.local.blocks import hooked
from sb3_forward.local.partition import (
    copy_for_each_user,
    flatten_late,
    keep_together,
    leave_out_dead,
    partition,
    told,
    use_once,
)
from sb3_forward.local.parts import Split, assemble
from sb3_forward.local.root import Root, at_rest, leaves, sample

# A traced network is tried on batches of this many observations: every value between blocks must have as many rows
ROWS = (3, 5)


def split(policy: ActorCriticPolicy) -> Split:
    """
    Split the network of a policy at its layers, and warn of modules that cannot be split.

    :param policy: the policy; it is left as it was
    :return: the network in parts
    """
    root = Root(policy)
    opaque: dict[nn.Module, str] = {}
    if root.whole is not None:
        opaque[root.whole] = "the policy has an `extract_features` of its own"
    # Tracing replaces a module by its operations, and a graph would not call its hooks
    called = [policy.pi_features_extractor, policy.vf_features_extractor, policy.mlp_extractor]
    containers = (module for part in called for module in part.modules() if list(module.children()))
    opaque.update({module: "it has hooks" for module in containers if hooked(module)})
    observations = [sample(policy, rows) for rows in ROWS]
    with at_rest(policy), th.no_grad():
        while isinstance(found := _attempt(root, observations, opaque), Fault):
            opaque[_blamed(root, found, opaque)] = found.reason
    _warn(root, found, opaque)
    return found


class Tracer(fx.Tracer):
    """
    A tracer that stops at the layers of PyTorch.

    :param opaque: modules that are not traced into
    """

    def __init__(self, opaque: Iterable[nn.Module]) -> None:
        super().__init__()
        self.opaque = set(opaque)
        self.inside: list[nn.Module] = []  #: the module being traced and those around it, kept if tracing fails

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        # A user's own layer is called as a whole, since it may do more than a graph shows
        single = not list(module.children()) and sum(parameter.ndim > 1 for parameter in module.parameters()) <= 1
        layer = single and not isinstance(module, nn.Sequential)  # an empty one is no layer
        return layer or module in self.opaque or super().is_leaf_module(module, name)

    def call_module(self, module: nn.Module, *args: Any) -> Any:
        self.inside.append(module)
        result = super().call_module(module, *args)
        self.inside.pop()
        return result


class Fault(NamedTuple):
    """The reason why a graph cannot be made or used."""

    reason: str
    around: list[nn.Module]  # the modules around the fault, the innermost one last


def _attempt(root: Root, observations: list[PyTorchObs], opaque: dict[nn.Module, str]) -> Split | Fault:
    graphs = []
    for training in (True, False):
        root.policy.set_training_mode(training)
        tracer = Tracer(opaque)
        try:
            graphs.append(tracer.trace(root, _concrete(observations[0])))
        except Exception as error:
            return Fault(_first_line(error), tracer.inside)
    in_training, graph = graphs
    for node, other in zip(graph.nodes, in_training.nodes, strict=False):
        if told(node) != told(other):
            return Fault("it does something else in training", _modules_around(root, node))
    leave_out_dead(root, graph)
    use_once(root, graph)
    try:
        values = [_values(root, graph, rows) for rows in observations]
        copy_for_each_user(graph, values)
        numbers, reused = partition(root, graph)
        keep_together(numbers, values[0])
        flatten_late(graph, numbers, values[0])
        for node, number in numbers.items():
            crosses = any(numbers.get(user) != number for user in node.users)
            if crosses and [_rows(value[node]) for value in values] != list(ROWS):
                return Fault("what it hands on has no rows in its first dimension", _modules_around(root, node))
        found = assemble(root, graph, numbers, reused)
        if not all(_is_true(root, found, rows) for rows in observations):
            return Fault("in parts it says something else than as a whole", [])
    except Exception as error:
        return Fault(_first_line(error), [])
    return found


def _is_true(root: Root, found: Split, observations: PyTorchObs) -> bool:
    """Check whether the parts compute what the policy computes."""
    th.manual_seed(0)  # both draw the same noise
    given = found.walk(leaves(copy.deepcopy(observations)), lambda index, inputs: found.parts[index].forward(inputs))
    th.manual_seed(0)
    expected = root(copy.deepcopy(observations))
    return all(th.allclose(*pair, rtol=1e-4, atol=1e-5, equal_nan=True) for pair in zip(given, expected, strict=True))


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


def _concrete(observations: PyTorchObs) -> dict[str, Any] | None:
    return {"observations": dict.fromkeys(observations, fx.PH)} if isinstance(observations, dict) else None


def _modules_around(root: Root, node: fx.Node) -> list[nn.Module]:
    return [root.get_submodule(path) for path, _ in node.meta.get("nn_module_stack", {}).values()]


def _blamed(root: Root, fault: Fault, opaque: dict[nn.Module, str]) -> nn.Module:
    """Find the innermost module around a fault that is not blamed yet."""
    extractors = [root.policy.pi_features_extractor, root.policy.vf_features_extractor]
    for module in [*reversed(fault.around), *extractors, root.top]:
        if module not in opaque and module is not root:
            return module
    raise ValueError(
        f"The network of {type(root.policy).__name__} cannot be trained forward: {fault.reason}. Put hidden layers into the "
        "features extractor or into `mlp_extractor`, as modules that give the same for the same observations."
    )


def _values(root: Root, graph: fx.Graph, observations: PyTorchObs) -> dict[fx.Node, Any]:
    """Compute the value of every operation of a graph."""
    found: dict[fx.Node, Any] = {}

    class Recorder(fx.Interpreter):
        def run_node(self, node: fx.Node) -> Any:
            found[node] = super().run_node(node)
            return found[node]

    recorder = Recorder(root, garbage_collect_values=False, graph=graph)
    recorder.run(*leaves(copy.deepcopy(observations)))
    return found


def _rows(value: Any) -> int | None:
    return len(value) if isinstance(value, th.Tensor) and value.ndim > 0 else None


def _warn(root: Root, found: Split, opaque: dict[nn.Module, str]) -> None:
    whole = "It is one block, and within it gradients go backwards."
    for module, reason in opaque.items():
        if len(_layers(module)) > 1:
            blamed = root.policy if module is root.whole else root.policy.mlp_extractor if module is root.top else module
            warnings.warn(
                f"{type(blamed).__name__} could not be split at its layers ({reason}). {whole} For blocks of one layer each, "
                "write its `forward` without conditions on values and on `self.training`, with rows in the first dimension, "
                "and without hooks.",
                stacklevel=2,
            )
    for path in dict.fromkeys(found.reused):
        warnings.warn(
            f"The weights of {path!r} are used again after other layers. What lies between could not be split. {whole}"
        )
    inside = {layer for module in opaque for layer in module.modules()}
    for part in found.parts if not found.reused else []:
        if len(layers := [type(layer).__name__ for layer in _layers(part.module) if layer not in inside]) > 1:
            warnings.warn(f"Block {part.name!r} has several layers ({', '.join(layers)}), which PyTorch runs as one. {whole}")


def _layers(module: nn.Module) -> list[nn.Module]:
    """List the modules within a module, itself included, that train a matrix and are no normalisation."""
    inner = (other for other in module.modules() if not isinstance(other, nn.LayerNorm))
    return [
        other
        for other in inner
        if any(own is not None and own.ndim > 1 and own.requires_grad for own in other._parameters.values())
    ]
