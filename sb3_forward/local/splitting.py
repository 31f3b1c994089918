"""
Cutting what lies between the observations and the heads of a policy into blocks, at its layers.

:mod:`torch.fx` traces the modules into one graph of operations, whatever the way that their ``forward`` runs them in: modules
used twice, functional calls, skip connections. A layer with weights starts a block, and what follows goes with it up to the
next. What cannot be traced is one block: never silently left untrained.
"""

import copy
import math
import operator
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import fx, nn

from sb3_forward.local.blocks import Activations, hooked

# Where the blocks of a policy are, by the beginning of their module's path: how logs and errors call them
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
# Rows of the observations that a traced network is tried on: what goes from block to block has as many, whatever they are
ROWS = (3, 5)
JOINING = (th.cat, th.concat, th.concatenate, th.stack, th.hstack, th.vstack)
IN_PLACE = (operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.setitem)


class Part(NamedTuple):
    """A part of the network: the operations of one block."""

    name: str
    role: str  # whose gradient would have reached it: "actor", "critic" or "shared"
    module: nn.Module  # called with the values of ``inputs``; gives that of ``outputs``, a tuple if they are several
    parameters: list[nn.Parameter]
    inputs: list[str]
    outputs: list[str]
    spared: bool  # whether the module writes to its inputs, and has to get copies
    last: list[str]  # inputs that no later part reads

    def forward(self, inputs: Activations) -> Activations:
        """
        :param inputs: (B, ...) or a tuple of such
        :return: the outputs, a tuple if they are several
        """
        values = inputs if isinstance(inputs, tuple) else (inputs,)
        return self.module(*([value.clone() for value in values] if self.spared else values))  # type: ignore[union-attr]


# What is done with a part on the way up: from its index and its inputs to its outputs
Visit = Callable[[int, Any], Any]


class Cut(NamedTuple):
    """A network in parts."""

    parts: list[Part]  # in an order in which they can be computed
    inputs: list[str]  # names of the values from outside: the observations, by key where they are a dictionary
    outputs: list[str]  # names of the top features of actor and critic
    reused: list[str]  # paths of the modules that are used again after others: all between is one part

    def walk(self, observations: list[th.Tensor], visit: Visit) -> tuple[th.Tensor, th.Tensor]:
        """
        Send a batch up the parts. What no part reads any more is let go.

        :param observations: (B, ...) each, in the order of ``inputs``
        :param visit: what is done with each part
        :return: the actor's features (B, d_pi) and the critic's (B, d_vf)
        """
        values: dict[str, Any] = dict(zip(self.inputs, observations, strict=True))
        for index, part in enumerate(self.parts):
            read = tuple(values[name] for name in part.inputs)
            for name in part.last:
                del values[name]
            given = visit(index, read[0] if len(read) == 1 else read)
            values.update(zip(part.outputs, given if len(part.outputs) > 1 else [given], strict=True))
        actor, critic = (values[name] for name in self.outputs)
        return actor, critic


class Whole(nn.Module):
    """
    All of a policy below its heads, where the policy extracts features in a way of its own.

    :param policy: the policy
    """

    def __init__(self, policy: ActorCriticPolicy) -> None:
        super().__init__()
        self.top = Top(policy.mlp_extractor, policy.share_features_extractor)
        self.extractors = nn.ModuleList([policy.pi_features_extractor, policy.vf_features_extractor])
        self._policy = (policy,)  # no module of this one: its heads are not part of it

    def forward(self, observations: PyTorchObs) -> tuple[th.Tensor, th.Tensor]:
        """
        :param observations: (B, ...) as the policy takes them
        :return: the top features
        """
        features = self._policy[0].extract_features(observations)
        return self.top(features, features) if self.top.shared else self.top(*features)


class Top(nn.Module):
    """SB3's ``mlp_extractor`` as the policy calls it."""

    def __init__(self, mlp_extractor: nn.Module, shared: bool) -> None:
        super().__init__()
        self.mlp_extractor = mlp_extractor
        self.shared = shared

    def forward(self, actor: th.Tensor, critic: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """
        :param actor: (B, d) features of the actor's extractor
        :param critic: (B, d) features of the critic's
        :return: the top features
        """
        if self.shared:
            return self.mlp_extractor(actor)
        return self.mlp_extractor.forward_actor(actor), self.mlp_extractor.forward_critic(critic)  # type: ignore[operator]


class Root(nn.Module):
    """
    From the preprocessed observations to the top features of actor and critic, as the policy computes them.

    :param policy: the policy
    """

    def __init__(self, policy: ActorCriticPolicy) -> None:
        super().__init__()
        self.policy = policy
        self.top = Top(policy.mlp_extractor, policy.share_features_extractor)
        self.whole = None if keeps_extraction(policy) else Whole(policy)

    def forward(self, observations: Any) -> tuple[th.Tensor, th.Tensor]:
        """
        :param observations: (B, ...), or a dictionary of such
        :return: the actor's features (B, d_pi) and the critic's (B, d_vf)
        """
        if self.whole is not None:
            actor, critic = self.whole(observations)
        elif self.top.shared:
            features = self.policy.features_extractor(observations)
            actor, critic = self.top(features, features)
        else:
            extract_actor, extract_critic = self.policy.pi_features_extractor, self.policy.vf_features_extractor
            actor, critic = self.top(extract_actor(observations), extract_critic(observations))
        return actor, critic


class Tracer(fx.Tracer):
    """
    Traces down to the layers of PyTorch.

    :param opaque: modules that are not traced into
    """

    def __init__(self, opaque: Iterable[nn.Module]) -> None:
        super().__init__()
        self.opaque = set(opaque)
        self.inside: list[nn.Module] = []  #: the module that is traced and those around it; when tracing fails, it stays

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        # A layer of the user's own is called as it is: it may do more than what a graph shows
        single = not list(module.children()) and sum(parameter.ndim > 1 for parameter in module.parameters()) <= 1
        layer = single and not isinstance(module, nn.Sequential)  # an empty one is no layer
        return layer or module in self.opaque or super().is_leaf_module(module, name)

    def call_module(self, module: nn.Module, *args: Any) -> Any:
        self.inside.append(module)
        result = super().call_module(module, *args)
        self.inside.pop()
        return result


def keeps_extraction(policy: ActorCriticPolicy) -> bool:
    """
    :param policy: a policy
    :return: whether its features are those of its extractors on the preprocessed observations, as SB3 has it
    """
    stock = type(policy).extract_features is ActorCriticPolicy.extract_features
    return stock and "extract_features" not in vars(policy)


def cut(policy: ActorCriticPolicy) -> Cut:
    """
    Cut the network of a policy at its layers, and warn of what is not.

    :param policy: the policy; it is left as it was
    :return: the network in parts
    """
    root = Root(policy)
    opaque: dict[nn.Module, str] = {}
    if root.whole is not None:
        opaque[root.whole] = "the policy has an `extract_features` of its own"
    # No graph would call the hooks of a module that it is traced into
    called = [policy.pi_features_extractor, policy.vf_features_extractor, policy.mlp_extractor]
    containers = (module for part in called for module in part.modules() if list(module.children()))
    opaque.update({module: "it has hooks" for module in containers if hooked(module)})
    observations = [sample(policy, rows) for rows in ROWS]
    with at_rest(policy), th.no_grad():
        while isinstance(found := _attempt(root, observations, opaque), Fault):
            opaque[_blamed(root, found, opaque)] = found.reason
    _warn(root, found, opaque)
    return found


@contextmanager
def at_rest(policy: ActorCriticPolicy) -> Iterator[None]:
    """
    Dropout off and statistics of BatchNorm at rest. What is done meanwhile leaves no trace in the modes of the modules, nor in
    PyTorch's random generators: a module of the user's own may even draw random numbers.

    :param policy: the policy
    """
    modes = {module: module.training for module in policy.modules()}
    devices = [policy.device] if policy.device.type == "cuda" else []
    policy.set_training_mode(False)
    try:
        with th.random.fork_rng(devices):
            yield
    finally:
        for module, training in modes.items():
            module.training = training


class Fault(NamedTuple):
    """Why a graph cannot be made, or does not do."""

    reason: str
    around: list[nn.Module]  # the modules around the fault, the innermost one last


def sample(policy: ActorCriticPolicy, rows: int) -> PyTorchObs:
    """
    Draw observations from the space of a policy, whose own generator stays as it is.

    :param policy: the policy
    :param rows: B
    :return: (B, ...), preprocessed unless the policy has its own way of that
    """
    space = copy.deepcopy(policy.observation_space)
    space.seed(0)
    drawn: list[Any] = [space.sample() for _ in range(rows)]
    stacked = (
        {key: np.stack([row[key] for row in drawn]) for key in drawn[0]} if isinstance(drawn[0], dict) else np.stack(drawn)
    )
    return prepare(policy, policy.obs_to_tensor(stacked)[0])


def prepare(policy: ActorCriticPolicy, observations: PyTorchObs) -> PyTorchObs:
    """
    :param policy: a policy
    :param observations: (B, ...) as the rollout buffer holds them
    :return: what its network reads of them
    """
    if not keeps_extraction(policy):
        return observations
    return preprocess_obs(observations, policy.observation_space, normalize_images=policy.normalize_images)


def leaves(observations: PyTorchObs) -> list[th.Tensor]:
    """
    :param observations: a tensor, or a dictionary of tensors
    :return: its tensors
    """
    return list(observations.values()) if isinstance(observations, dict) else [observations]


def _attempt(root: Root, observations: list[PyTorchObs], opaque: dict[nn.Module, str]) -> Cut | Fault:
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
        if _told(node) != _told(other):
            return Fault("it does something else in training", _modules_around(root, node))
    _leave_out_dead(root, graph)
    _use_once(root, graph)
    try:
        values = [_values(root, graph, rows) for rows in observations]
        _copy_for_each_user(graph, values)
        numbers, reused = _partition(root, graph)
        _keep_together(numbers, values[0])
        _flatten_late(graph, numbers, values[0])
        for node, number in numbers.items():
            crosses = any(numbers.get(user) != number for user in node.users)
            if crosses and [_rows(value[node]) for value in values] != list(ROWS):
                return Fault("what it hands on has no rows in its first dimension", _modules_around(root, node))
        found = _cut(root, graph, numbers, reused)
        if not all(_is_true(root, found, rows) for rows in observations):
            return Fault("in parts it says something else than as a whole", [])
    except Exception as error:
        return Fault(_first_line(error), [])
    return found


def _is_true(root: Root, found: Cut, observations: PyTorchObs) -> bool:
    """Whether the parts say what the policy says."""
    th.manual_seed(0)  # noise is not what they are to differ in
    given = found.walk(leaves(copy.deepcopy(observations)), lambda index, inputs: found.parts[index].forward(inputs))
    th.manual_seed(0)
    expected = root(copy.deepcopy(observations))
    return all(th.allclose(*pair, rtol=1e-4, atol=1e-5, equal_nan=True) for pair in zip(given, expected, strict=True))


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


def _told(node: fx.Node) -> tuple[str, ...]:
    return str(node), str(node.target), str(node.args), str(node.kwargs)


def _concrete(observations: PyTorchObs) -> dict[str, Any] | None:
    return {"observations": dict.fromkeys(observations, fx.PH)} if isinstance(observations, dict) else None


def _modules_around(root: Root, node: fx.Node) -> list[nn.Module]:
    return [root.get_submodule(path) for path, _ in node.meta.get("nn_module_stack", {}).values()]


def _blamed(root: Root, fault: Fault, opaque: dict[nn.Module, str]) -> nn.Module:
    """The innermost of the modules around a fault that is not to blame already."""
    extractors = [root.policy.pi_features_extractor, root.policy.vf_features_extractor]
    for module in [*reversed(fault.around), *extractors, root.top]:
        if module not in opaque and module is not root:
            return module
    raise ValueError(
        f"The network of {type(root.policy).__name__} cannot be trained forward: {fault.reason}. Put hidden layers into the "
        "features extractor or into `mlp_extractor`, as modules that give the same for the same observations."
    )


def _values(root: Root, graph: fx.Graph, observations: PyTorchObs) -> dict[fx.Node, Any]:
    """What every operation of a graph gives."""
    found: dict[fx.Node, Any] = {}

    class Recorder(fx.Interpreter):
        def run_node(self, node: fx.Node) -> Any:
            found[node] = super().run_node(node)
            return found[node]

    recorder = Recorder(root, garbage_collect_values=False, graph=graph)
    recorder.run(*leaves(copy.deepcopy(observations)))
    return found


def _output(graph: fx.Graph) -> fx.Node:
    return next(iter(reversed(graph.nodes)))


def _rows(value: Any) -> int | None:
    return len(value) if isinstance(value, th.Tensor) and value.ndim > 0 else None


# === Partition ===


def _is_free(node: fx.Node, value: Any) -> bool:
    """Whether an operation gives no rows, but what a part can compute for itself: a parameter, a size, a range."""
    if node.op in ("placeholder", "output"):
        return False
    if not isinstance(value, th.Tensor | tuple | list) or isinstance(value, th.Size):
        return True
    return all("free" in other.meta for other in node.all_input_nodes)


def _leave_out_dead(root: Root, graph: fx.Graph) -> None:
    """What a layer gives to nobody is not computed: nothing would be learned from it."""
    for node in reversed(list(graph.nodes)):
        if node.op == "call_module" and not node.users and not _in_place(root, node):
            graph.erase_node(node)


def _use_once(root: Root, graph: fx.Graph) -> None:
    """What is computed twice from the same values is computed once: a module that actor and critic share."""
    seen: dict[tuple[str, ...], fx.Node] = {}
    for node in list(graph.nodes):
        module = root.get_submodule(str(node.target)) if node.op == "call_module" else None
        if module is None or isinstance(module, nn.modules.dropout._DropoutNd) or _in_place(root, node):
            continue
        key = _told(node)[1:]
        if key in seen:
            node.replace_all_uses_with(seen[key])
            graph.erase_node(node)
        else:
            seen[key] = node


def _copy_for_each_user(graph: fx.Graph, values: list[dict[fx.Node, Any]]) -> None:
    """What is free goes with who uses it, so that no part has to hand it on."""
    for node in graph.nodes:
        if _is_free(node, values[0][node]):
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


def _read(root: Root, node: fx.Node) -> list[nn.Parameter]:
    """The parameters that an operation reads, as they are or, say, transposed."""
    if node.op == "call_module":
        return list(root.get_submodule(str(node.target)).parameters())
    value = operator.attrgetter(str(node.target))(root) if node.op == "get_attr" else None
    found = [value] if isinstance(value, nn.Parameter) else []
    return found + [parameter for other in node.all_input_nodes if "free" in other.meta for parameter in _read(root, other)]


def _in_place(root: Root, node: fx.Node) -> bool:
    """Whether an operation writes to what it reads, or may do so."""
    if node.op == "call_module":
        module = root.get_submodule(str(node.target))
        return getattr(module, "inplace", False) or not type(module).__module__.startswith("torch.nn")
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return bool(node.kwargs.get("inplace")) or node.target in IN_PLACE or (name.endswith("_") and not name.endswith("__"))


def _starts(root: Root, node: fx.Node, parameters: list[nn.Parameter]) -> bool:
    # A weight matrix or a convolution starts a block; slopes of a PReLU and gains of a normalisation go with the layer before
    if node.op == "call_module" and isinstance(root.get_submodule(str(node.target)), nn.LayerNorm):
        return False
    return any(parameter.ndim > 1 for parameter in parameters)


def _partition(root: Root, graph: fx.Graph) -> tuple[dict[fx.Node, float], list[str]]:
    """The part that each operation goes to, which reads from those of lower numbers alone; and the modules used again."""
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
        parameters = _read(root, node)
        below = {numbers[other] for other in node.all_input_nodes if other in numbers}
        joins = node.target in JOINING and sum("free" not in other.meta for other in node.all_input_nodes) > 1
        if _starts(root, node, parameters) or (below and joins):
            highest += 1
            numbers[node] = highest
        elif below:
            numbers[node] = max(below)
        else:
            continue  # before any layer: see below
        for owner in {owners[parameter] for parameter in parameters if parameter in owners} - {numbers[node]}:
            # The part that reads a parameter is one
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


def _keep_together(numbers: dict[fx.Node, float], values: dict[fx.Node, Any]) -> None:
    """Of several tensors that one operation gives, each is picked in the same part: no part hands on a tuple."""
    for node, number in numbers.items():
        if isinstance(values[node], tuple | list):
            numbers.update((user, number) for user in node.users if user.target is operator.getitem)


def _flatten_late(graph: fx.Graph, numbers: dict[fx.Node, float], values: dict[fx.Node, Any]) -> None:
    """Feature maps are flattened by who reads them: until then, it can be seen what a channel is."""
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


def _cut(root: Root, graph: fx.Graph, numbers: dict[fx.Node, float], reused: list[str]) -> Cut:
    output = _output(graph)
    tops: list[str] = [node.name for node in output.args[0]]  # type: ignore[union-attr, misc]
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
        parameters = list(dict.fromkeys(parameter for node in nodes for parameter in _read(root, node)))
        names.append(_name(root, nodes))
        role = next(iter(roles)) if len(roles) == 1 else "shared"
        spared = any(_in_place(root, node) and not set(inputs).isdisjoint(node.all_input_nodes) for node in nodes)
        module = _module(root, nodes, inputs, outputs)
        last = [name for name in _names(inputs) if name not in later]
        later.update(last)
        parts.append(Part("", role, module, parameters, _names(inputs), _names(outputs), spared, last))
    placeholders = [node.name for node in graph.nodes if node.op == "placeholder"]
    return Cut(_numbered(parts[::-1], names[::-1]), placeholders, tops, reused)


def _names(nodes: list[fx.Node]) -> list[str]:
    return [node.name for node in nodes]


def _numbered(parts: list[Part], names: list[str]) -> list[Part]:
    """Parts by their names, with an index where several have the same."""
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
    """How a part is called: by where its first layer is."""
    layers = [node for node in nodes if _read(root, node)] or nodes
    node = layers[0]
    stack = [path for path, _ in node.meta.get("nn_module_stack", {}).values()]
    path = str(node.target) if node.op == "call_module" else (stack or [""])[-1]
    for start, name in NAMES:
        if path == start or path.startswith(f"{start}."):
            rest = path[len(start) + 1 :].split(".")
            separate = name == "extractor" and not root.top.shared
            # Of an extractor with a branch for each key, as SB3's CombinedExtractor
            branch = f".{rest[1]}" if rest[0] == "extractors" and len(rest) > 1 else ""
            return ("actor_extractor" if separate else name) + branch
    return path or "network"


def _module(root: Root, nodes: list[fx.Node], inputs: list[fx.Node], outputs: list[fx.Node]) -> nn.Module:
    """The operations of a part as a module: plain where they are a chain of modules, else a graph."""
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


def _warn(root: Root, found: Cut, opaque: dict[nn.Module, str]) -> None:
    whole = "It is one block, and within it gradients go backwards."
    for module, reason in opaque.items():
        layers = [
            other for other in module.modules() if any(own is not None and own.ndim > 1 for own in other._parameters.values())
        ]
        if len(layers) > 1 and any(parameter.requires_grad for parameter in module.parameters()):
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
