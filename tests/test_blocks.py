import copy
from typing import Any

import pytest
import torch as th
from torch import nn

from sb3_forward.local.blocks import Block, Objective
from sb3_forward.local.distances import LOCAL_LOSSES, pairwise_distances
from sb3_forward.local.loss import as_matrix, guided, linear_image

OBJECTIVES = [*LOCAL_LOSSES, "guided"]


def make_block(layer: nn.Module | None = None, lr: float = 1e-2) -> Block:
    th.manual_seed(0)
    module = nn.Sequential(layer or nn.Linear(4, 16), nn.Tanh())
    block = Block("actor.0", "actor", module, module.parameters())
    block.build_optimizer(th.optim.Adam, lr, {"eps": 1e-5})
    return block


def make_objective(name: str, inputs: th.Tensor, block: Block) -> Objective:
    """Match the distances of the inputs; or those of a signal that a block's outputs say something of."""
    if name == "guided":
        signal = inputs.square().sum(dim=1, keepdim=True)
        signal = (signal - signal.mean()) / signal.std()
        with th.no_grad():
            image = linear_image(as_matrix(block.forward(inputs)), signal)
        return lambda outputs: guided(outputs, signal, image)
    make_target, match = LOCAL_LOSSES[name]
    target = make_target(pairwise_distances(inputs))
    return lambda outputs: match(outputs, target)


def weights(block: Block) -> list[th.Tensor]:
    return [parameter.detach().clone() for parameter in block.parameters]


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("layer", [nn.Linear(4, 16), nn.Sequential(nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 8, 2))])
def test_local_steps_lower_the_local_loss(name: str, layer: nn.Module) -> None:
    block = make_block(layer)
    inputs = th.randn(32, 4)
    objective = make_objective(name, inputs, block)
    losses = [block.local_step(inputs, objective, 0.5).loss for _ in range(60)]
    assert losses[-1] < 0.5 * losses[0]


def test_local_step_outputs_are_those_before_the_step_and_hold_no_graph() -> None:
    block = make_block()
    inputs = th.randn(8, 4)
    expected = block.forward(inputs).detach()
    step = block.local_step(inputs, make_objective("stress", inputs, block), 0.5)
    assert isinstance(step.outputs, th.Tensor)
    assert not step.outputs.requires_grad
    th.testing.assert_close(step.outputs, expected)
    assert not th.equal(block.forward(inputs), expected)
    assert all(parameter.grad is None for parameter in block.parameters)


def test_gradient_is_that_of_the_local_loss() -> None:
    """With SGD at rate 1 and no clipping, the step is the gradient that autograd finds for the stress itself."""
    block, twin = make_block(), make_block()
    block.build_optimizer(th.optim.SGD, 1.0, {})
    inputs = th.randn(8, 4)
    off_diagonal = ~th.eye(8, dtype=th.bool)
    distances = (inputs[:, None] - inputs[None, :])[off_diagonal].norm(dim=-1)
    outputs = twin.forward(inputs)
    pairs = (outputs[:, None] - outputs[None, :])[off_diagonal].norm(dim=-1)
    (((pairs / (pairs.sum() / 64) - distances / (distances.sum() / 64)) ** 2).sum() / 64).backward()
    before = weights(block)
    block.local_step(inputs, make_objective("stress", inputs, block), 1e9)
    for old, new, reference in zip(before, block.parameters, twin.parameters, strict=True):
        assert reference.grad is not None
        th.testing.assert_close(old - new.detach(), reference.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU, nn.Sigmoid])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_dense_block_takes_the_step_of_its_graph(activation: type[nn.Module], name: str) -> None:
    """The way without a graph is taken where nothing can tell the difference: not where somebody listens in."""
    module = nn.Sequential(nn.Linear(4, 16), activation())
    twin = copy.deepcopy(module)
    twin[1].register_forward_hook(lambda *_: None)
    inputs = th.randn(8, 4, generator=th.Generator().manual_seed(0))
    steps, ways = [], []
    for layers in (module, twin):
        block = Block("actor.0", "actor", layers, layers.parameters())
        block.build_optimizer(th.optim.Adam, 1e-2, {})
        ways.append(block._is_dense(inputs))
        objective = make_objective(name, inputs, block)
        steps.append([block.local_step(inputs, objective, 1e-2) for _ in range(5)])
    assert ways == [True, False]
    for fast, reference in zip(*steps, strict=True):
        assert isinstance(fast.outputs, th.Tensor)
        th.testing.assert_close(fast.outputs, reference.outputs, rtol=1e-6, atol=1e-6)
        assert fast.loss == pytest.approx(reference.loss, rel=1e-5)
        assert fast.grad_norm == pytest.approx(reference.grad_norm, rel=1e-4)
    for parameter, expected in zip(module.parameters(), twin.parameters(), strict=True):
        th.testing.assert_close(parameter, expected, rtol=1e-6, atol=1e-6)


def test_a_convolution_learns_in_another_memory_format_where_nobody_listens_in() -> None:
    """A user's hook may call ``view``, which needs the usual one."""
    module = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU())
    twin, formats = copy.deepcopy(module), []
    twin[0].register_forward_hook(lambda layer, inputs, outputs: formats.append(inputs[0].is_contiguous()))
    inputs, target = th.randn(8, 3, 9, 7), th.randn(8, 6 * 7 * 5)
    for layers in (module, twin):
        block = Block("extractor.0", "shared", layers, layers.parameters())
        block.build_optimizer(th.optim.Adam, 1e-2, {})
        for _ in range(3):
            block.local_step(inputs, lambda outputs: ((outputs - target).square().sum() / 2, outputs - target), 1.0)
    assert formats == [True] * 3
    for parameter, expected in zip(module.parameters(), twin.parameters(), strict=True):
        th.testing.assert_close(parameter, expected, rtol=1e-4, atol=1e-5)


def test_what_is_no_plain_dense_layer_goes_through_its_graph() -> None:
    inputs = th.randn(8, 4)
    for layers in (
        nn.Sequential(nn.Linear(4, 16, bias=False), nn.Tanh()),
        nn.Sequential(nn.Linear(4, 16), nn.PReLU()),
        nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Dropout()),
        nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 16)), nn.Tanh()),
    ):
        assert not Block("actor.0", "actor", layers, layers.parameters())._is_dense(inputs)


def test_gradient_norm_is_clipped_per_block() -> None:
    block = make_block()
    block.build_optimizer(th.optim.SGD, 1.0, {})
    inputs = th.randn(8, 4)
    before = weights(block)
    step = block.local_step(inputs, make_objective("stress", inputs, block), 1e-3)
    moved = th.cat([(old - new.detach()).flatten() for old, new in zip(before, block.parameters, strict=True)]).norm()
    assert step.grad_norm > 1e-3
    assert moved.item() == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9}, {"centered": True}])
def test_first_steps_of_rmsprop_are_as_long_as_its_learning_rate(options: dict[str, Any]) -> None:
    """PyTorch's are ten times as long; with momentum, or centred, they are left as PyTorch makes them."""
    lengths = {}
    for own in (True, False):
        block = make_block()
        block.build_optimizer(th.optim.RMSprop, 1e-3, {"eps": 1e-8, **options})
        assert block.optimizer is not None
        if not own:
            block.optimizer.state.update({parameter: _zeros(parameter, options) for parameter in block.parameters})
        inputs = th.randn(32, 4, generator=th.Generator().manual_seed(1))
        before = weights(block)
        block.local_step(inputs, make_objective("stress", inputs, block), 1e9)
        changes = [(new - old).square().mean().sqrt() for old, new in zip(before, weights(block), strict=True)]
        lengths[own] = th.stack(changes) / 1e-3
    if options:
        assert th.equal(lengths[True], lengths[False])
    else:
        th.testing.assert_close(lengths[True], th.ones(2), rtol=0.05, atol=0)
        th.testing.assert_close(lengths[False], th.full((2,), 10.0), rtol=0.05, atol=0)


def _zeros(parameter: th.Tensor, options: dict[str, Any]) -> dict[str, th.Tensor]:
    """The state with which PyTorch starts."""
    buffers = {"momentum": "momentum_buffer", "centered": "grad_avg"}
    names = ["square_avg", *(buffers[name] for name in options)]
    return {"step": th.zeros(()), **{name: th.zeros_like(parameter) for name in names}}


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), 1e30])
def test_non_finite_loss_names_the_block_and_moves_nothing(poison: float) -> None:
    layer = nn.Linear(4, 16)
    with th.no_grad():
        layer.weight[0, 0] = poison
    block = Block("actor.0", "actor", layer, layer.parameters())
    block.build_optimizer(th.optim.Adam, 1e-3, {})
    inputs, before = th.randn(8, 4), weights(block)
    with pytest.raises(ValueError, match=r"actor\.0.*local_learning_rate"):
        block.local_step(inputs, make_objective("stress", inputs, block), 0.5)
    for old, new in zip(before, block.parameters, strict=True):
        th.testing.assert_close(old, new.detach(), rtol=0, atol=0, equal_nan=True)
    assert block.optimizer is not None
    assert not block.optimizer.state


def test_as_matrix() -> None:
    image, vector, scalar = th.zeros(5, 3, 2, 2), th.ones(5, 4), th.ones(5)
    assert as_matrix(image).shape == (5, 12)
    assert as_matrix(scalar).shape == (5, 1)
    assert as_matrix({"image": image, "vector": vector}).shape == (5, 16)
    assert as_matrix((vector, scalar)).shape == (5, 5)
