"""Represent a network in parts, each with the operations of one block."""

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch as th
from torch import fx, nn

from sb3_forward.local.loss import Activations
from sb3_forward.local.partition import in_place, read
from sb3_forward.local.root import Root

# Names of blocks in logs and errors, by the beginning of their module's path
NAMES = (
    ("policy.mlp_extractor.policy_net", "actor"),
    ("policy.mlp_extractor.value_net", "critic"),
    ("policy.mlp_extractor", "mlp_extractor"),
    ("policy.vf_features_extractor", "critic_extractor"),
    ("policy.pi_features_extractor", "actor_extractor"),
    ("policy.features_extractor", "extractor"),
    ("top", "mlp_extractor"),
    ("whole", "policy"),
)


class Part(NamedTuple):
    """A part of the network: the operations of one block."""

    name: str
    role: str  # heads that backpropagation would send a gradient from: "actor", "critic" or "shared"
    module: nn.Module  # maps the values of ``inputs`` to that of ``outputs``, a tuple if there are several
    parameters: list[nn.Parameter]
    inputs: list[str]
    outputs: list[str]
    spared: bool  # whether the module writes to its inputs, and therefore gets copies
    last: list[str]  # inputs that no later part reads

    def forward(self, inputs: Activations) -> Activations:
        """
        Run the part.

        :param inputs: (B, ...) or a tuple of such
        :return: the outputs, a tuple if there are several
        """
        values = inputs if isinstance(inputs, tuple) else (inputs,)
        return self.module(*([value.clone() for value in values] if self.spared else values))  # type: ignore[union-attr]


# Called in place of a part in a forward pass: maps its index and its inputs to its outputs
Visit = Callable[[int, Any], Any]


class Split(NamedTuple):
    """A network in parts."""

    parts: list[Part]  # in an order in which they can be computed
    inputs: list[str]  # names of the values from outside: the observations, by key where they are a dictionary
    outputs: list[str]  # names of the top features of actor and critic
    reused: list[str]  # paths of the modules that are used again after others: all between is one part

    def walk(self, observations: list[th.Tensor], visit: Visit | None = None) -> tuple[th.Tensor, th.Tensor]:
        """
        Run a batch through the parts, and free each value after its last use.

        :param observations: (B, ...) each, in the order of ``inputs``
        :param visit: called in place of each part; None to run them
        :return: the actor's features (B, d_pi) and the critic's (B, d_vf)
        """
        values: dict[str, Any] = dict(zip(self.inputs, observations, strict=True))
        for index, part in enumerate(self.parts):
            read = tuple(values[name] for name in part.inputs)
            for name in part.last:
                del values[name]
            inputs = read[0] if len(read) == 1 else read
            given = part.forward(inputs) if visit is None else visit(index, inputs)
            values.update(zip(part.outputs, given if len(part.outputs) > 1 else [given], strict=True))
        actor, critic = (values[name] for name in self.outputs)
        return actor, critic


def assemble(root: Root, graph: fx.Graph, numbers: dict[fx.Node, float], reused: list[str]) -> Split:
    """
    Make the parts of a partitioned network.

    :param root: the network
    :param graph: its operations
    :param numbers: the part of each operation, from :func:`~sb3_forward.local.partition.partition`
    :param reused: paths of the modules that are used again after others
    :return: the network in parts
    """
    output = next(iter(reversed(graph.nodes)))
    tops: list[str] = [node.name for node in output.args[0]]
    reach: dict[float, set[str]] = {}
    parts, names = [], []
    later = set(tops)
    for number in sorted(set(numbers.values()), reverse=True):
        nodes = [node for node in graph.nodes if numbers.get(node) == number]
        inputs = list(dict.fromkeys(other for node in nodes for other in node.all_input_nodes if numbers.get(other) != number))
        outputs = [node for node in nodes if any(numbers.get(user) != number for user in node.users)]
        roles = {role for role, top in zip(("actor", "critic"), tops, strict=True) for node in outputs if node.name == top}
        for node in outputs:
            for user in node.users:
                roles |= reach.get(numbers.get(user, 0), set()) if user is not output else set()
        reach[number] = roles
        parameters = list(dict.fromkeys(parameter for node in nodes for parameter in read(root, node)))
        names.append(_name(root, nodes))
        role = next(iter(roles)) if len(roles) == 1 else "shared"
        spared = any(in_place(root, node) and not set(inputs).isdisjoint(node.all_input_nodes) for node in nodes)
        module = _module(root, nodes, inputs, outputs)
        last = [name for name in _names(inputs) if name not in later]
        later.update(last)
        parts.append(Part("", role, module, parameters, _names(inputs), _names(outputs), spared, last))
    placeholders = [node.name for node in graph.nodes if node.op == "placeholder"]
    return Split(_numbered(parts[::-1], names[::-1]), placeholders, tops, reused)


def _names(nodes: list[fx.Node]) -> list[str]:
    return [node.name for node in nodes]


def _numbered(parts: list[Part], names: list[str]) -> list[Part]:
    """Give parts their names, with an index where several have the same."""
    numbers = Counter(name for part, name in zip(parts, names, strict=True) if part.parameters)
    seen: Counter[str] = Counter()
    found = []
    for part, name in zip(parts, names, strict=True):
        if part.parameters and numbers[name] > 1:
            found.append(part._replace(name=f"{name}.{seen[name]}"))
            seen[name] += 1
        else:
            found.append(part._replace(name=name))
    return found


def _name(root: Root, nodes: list[fx.Node]) -> str:
    """Name a part after the place of its first layer."""
    layers = [node for node in nodes if read(root, node)] or nodes
    node = layers[0]
    stack = [path for path, _ in node.meta.get("nn_module_stack", {}).values()]
    path = str(node.target) if node.op == "call_module" else (stack or [""])[-1]
    for start, name in NAMES:
        if path == start or path.startswith(f"{start}."):
            rest = path[len(start) + 1 :].split(".")
            separate = name == "extractor" and not root.top.shared
            # An extractor such as SB3's CombinedExtractor has a branch for each key
            branch = f".{rest[1]}" if rest[0] == "extractors" and len(rest) > 1 else ""
            return ("actor_extractor" if separate else name) + branch
    return path or "network"


def _module(root: Root, nodes: list[fx.Node], inputs: list[fx.Node], outputs: list[fx.Node]) -> nn.Module:
    """Make a module of the operations of a part: a sequence if they are a chain of modules, else a graph."""
    before = inputs[0] if len(inputs) == 1 else None
    chain = []
    for node in nodes:
        if node.op != "call_module" or node.args != (before,) or node.kwargs:
            break
        chain.append(root.get_submodule(str(node.target)))
        before = node
    if len(chain) == len(nodes) and outputs == nodes[-1:]:
        return nn.Sequential(*chain)
    graph = fx.Graph()
    copies = {node: graph.placeholder(node.name) for node in inputs}
    for node in nodes:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    handed = [copies[node] for node in outputs]
    graph.output(handed[0] if len(handed) == 1 else tuple(handed))
    return fx.GraphModule(root, graph)
