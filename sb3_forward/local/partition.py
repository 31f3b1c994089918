"""
Partition the graph of a network at its layers: give each operation the number of its part.

A layer with weights starts a part, and the operations up to the next layer belong to it.
"""

import math
import operator
from typing import Any

import torch as th
from torch import fx, nn

from sb3_forward.local.root import Root

JOINING = (th.cat, th.concat, th.concatenate, th.stack, th.hstack, th.vstack)
IN_PLACE = (operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.setitem)


def partition(root: Root, graph: fx.Graph) -> tuple[dict[fx.Node, float], list[str]]:
    """
    Assign each operation to a part that reads only from parts with lower numbers.

    :param root: the network
    :param graph: its operations, with those that are free marked by :func:`copy_for_each_user`
    :return: the number of each operation's part, and the paths of modules whose parameters are read again after other layers
    """
    numbers: dict[fx.Node, float] = {}
    reused: list[str] = []
    owners: dict[nn.Parameter, float] = {}
    highest = 0

    def merge(first: float, last: float) -> None:
        numbers.update({key: first for key, number in numbers.items() if first <= number <= last})
        owners.update({key: first for key, number in owners.items() if first <= number <= last})

    operations = [node for node in graph.nodes if node.op not in ("placeholder", "output")]
    for node in operations:
        if "free" in node.meta:
            continue
        parameters = read(root, node)
        below = {numbers[other] for other in node.all_input_nodes if other in numbers}
        joins = node.target in JOINING and sum("free" not in other.meta for other in node.all_input_nodes) > 1
        if _starts(root, node, parameters) or (below and joins):
            highest += 1
            numbers[node] = highest
        elif below:
            numbers[node] = max(below)
        else:
            continue  # it comes before any layer, and gets its number below
        for owner in {owners[parameter] for parameter in parameters if parameter in owners} - {numbers[node]}:
            # All operations that read a parameter must be in one part
            reused.append(str(node.target))
            merge(*sorted((owner, numbers[node])))
        owners.update(dict.fromkeys(parameters, numbers[node]))
    lowest = 0
    for node in reversed(operations):
        if node not in numbers:
            users = {numbers.get(user) for user in node.users}
            if len(users) == 1 and None not in users:
                numbers[node] = users.pop()  # type: ignore[assignment]
            else:
                lowest -= 1
                numbers[node] = lowest
    return numbers, reused


def _starts(root: Root, node: fx.Node, parameters: list[nn.Parameter]) -> bool:
    # A weight matrix or a convolution starts a block; slopes of a PReLU and gains of a normalisation go with the layer before
    if node.op == "call_module" and isinstance(root.get_submodule(str(node.target)), nn.LayerNorm):
        return False
    return any(parameter.ndim > 1 for parameter in parameters)


def read(root: Root, node: fx.Node) -> list[nn.Parameter]:
    """
    List the parameters that an operation reads, directly or, for example, transposed.

    :param root: the network
    :param node: an operation
    :return: its parameters
    """
    if node.op == "call_module":
        return list(root.get_submodule(str(node.target)).parameters())
    value = operator.attrgetter(str(node.target))(root) if node.op == "get_attr" else None
    found = [value] if isinstance(value, nn.Parameter) else []
    return found + [parameter for other in node.all_input_nodes if "free" in other.meta for parameter in read(root, other)]


def in_place(root: Root, node: fx.Node) -> bool:
    """
    Check whether an operation may write to its inputs.

    :param root: the network
    :param node: an operation
    :return: whether it writes to them, or is of a class that may do so
    """
    if node.op == "call_module":
        module = root.get_submodule(str(node.target))
        return getattr(module, "inplace", False) or not type(module).__module__.startswith("torch.nn")
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return bool(node.kwargs.get("inplace")) or node.target in IN_PLACE or (name.endswith("_") and not name.endswith("__"))


def is_free(node: fx.Node, value: Any) -> bool:
    """
    Check whether an operation gives no rows, but a value that a part can compute by itself: a parameter, a size, a range.

    :param node: an operation, whose inputs have been checked before
    :param value: its value for some observations
    :return: whether it is free
    """
    if node.op in ("placeholder", "output"):
        return False
    if not isinstance(value, th.Tensor | tuple | list) or isinstance(value, th.Size):
        return True
    return all("free" in other.meta for other in node.all_input_nodes)


def leave_out_dead(root: Root, graph: fx.Graph) -> None:
    """
    Remove layers whose outputs nothing reads, since they could learn nothing.

    :param root: the network
    :param graph: its operations, changed in place
    """
    for node in reversed(list(graph.nodes)):
        if node.op == "call_module" and not node.users and not in_place(root, node):
            graph.erase_node(node)


def use_once(root: Root, graph: fx.Graph) -> None:
    """
    Merge calls of one module on the same inputs, for example of a module that actor and critic share.

    :param root: the network
    :param graph: its operations, changed in place
    """
    seen: dict[tuple[str, ...], fx.Node] = {}
    for node in list(graph.nodes):
        module = root.get_submodule(str(node.target)) if node.op == "call_module" else None
        if module is None or isinstance(module, nn.modules.dropout._DropoutNd) or in_place(root, node):
            continue
        key = told(node)[1:]
        if key in seen:
            node.replace_all_uses_with(seen[key])
            graph.erase_node(node)
        else:
            seen[key] = node


def copy_for_each_user(graph: fx.Graph, values: list[dict[fx.Node, Any]]) -> None:
    """
    Copy free operations for each of their users, so that no part has to hand their values on.

    :param graph: the operations of a network, changed in place
    :param values: the value of each operation for several batches of observations; the copies are added
    """
    for node in graph.nodes:
        if is_free(node, values[0][node]):
            node.meta["free"] = True
    for node in reversed(list(graph.nodes)):
        if "free" in node.meta:
            for user in list(node.users)[1:]:
                with graph.inserting_before(user):
                    own = graph.node_copy(node, lambda other: other)
                own.meta = dict(node.meta)
                user.replace_input_with(node, own)
                for value in values:
                    value[own] = value[node]


def keep_together(numbers: dict[fx.Node, float], values: dict[fx.Node, Any]) -> None:
    """
    Move the selection of single tensors into the part of the operation that gives several, so that no part hands on a tuple.

    :param numbers: the part of each operation, changed in place
    :param values: the value of each operation for some observations
    """
    for node, number in numbers.items():
        if isinstance(values[node], tuple | list):
            numbers.update((user, number) for user in node.users if user.target is operator.getitem)


def flatten_late(graph: fx.Graph, numbers: dict[fx.Node, float], values: dict[fx.Node, Any]) -> None:
    """
    Move the flattening of feature maps into the part that reads them, since channels can be seen before it.

    :param graph: the operations of a network
    :param numbers: the part of each operation, changed in place
    :param values: the value of each operation for some observations
    """
    for node in reversed(list(graph.nodes)):
        read = node.all_input_nodes
        if node not in numbers or len(read) != 1 or numbers.get(read[0]) != numbers[node]:
            continue
        before, after = values[read[0]], values[node]
        if isinstance(before, th.Tensor) and before.ndim == 4 and isinstance(after, th.Tensor) and after.ndim == 2:
            users = {numbers.get(user, math.inf) for user in node.users}
            flattens = th.equal(before.flatten(start_dim=1), after)
            if flattens and numbers[node] not in users:
                numbers[node] = users.pop() if len(users) == 1 and math.inf not in users else numbers[node] + 0.5


def told(node: fx.Node) -> tuple[str, ...]:
    """
    Describe an operation by its name, target and arguments, to compare it with others.

    :param node: an operation
    :return: the description; without its first entry, it is the same for calls of one module on the same inputs
    """
    return str(node), str(node.target), str(node.args), str(node.kwargs)
