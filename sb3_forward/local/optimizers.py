"""Build the optimizers of blocks and heads, which treat their parameters as ``policy.optimizer`` treats them under SB3."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

# Options of an optimizer that choose its implementation
IMPLEMENTATION = ("fused", "foreach", "capturable", "differentiable")
# A class of optimizers, or a function that makes one: it takes parameters and, by keyword, `lr` and further options
Maker = Callable[..., th.optim.Optimizer]


def maker_of(policy: ActorCriticPolicy) -> tuple[Maker, dict[str, Any]]:
    """
    Find out how to make optimizers like that of a policy.

    :param policy: a policy with its optimizer, which may have been replaced
    :return: the class or function that makes them, and their options without the learning rate
    """
    whole, maker = policy.optimizer, policy.optimizer_class
    if not isinstance(maker, type) or type(whole) is maker:
        return maker, policy.optimizer_kwargs
    taken = inspect.signature(type(whole).__init__).parameters
    return type(whole), {name: value for name, value in whole.defaults.items() if name in taken and name != "lr"}


def build_optimizer(maker: Maker, parameters: Iterable[nn.Parameter], lr: float, kwargs: dict[str, Any]) -> th.optim.Optimizer:
    """
    Make an optimizer.

    On the CPU, Adam and AdamW come in their fused form, which takes a third of the time where parameters are small.

    :param maker: class of the optimizer, or a function that makes one
    :param parameters: the parameters that it moves
    :param lr: learning rate, >= 0
    :param kwargs: further arguments of the optimizer, copied; an option that chooses an implementation is kept
    :return: the optimizer
    """
    own, kwargs = list(parameters), dict(kwargs)
    fusible = all(parameter.device.type == "cpu" and parameter.is_floating_point() for parameter in own)
    if maker in (th.optim.Adam, th.optim.AdamW) and kwargs.keys().isdisjoint(IMPLEMENTATION) and fusible:
        kwargs["fused"] = True
    return maker(own, lr=lr, **kwargs)


class Owner(Protocol):
    """A block, or the heads."""

    optimizer: Any

    def build_optimizer(self, maker: Maker, lr: float, kwargs: dict[str, Any]) -> None:
        """
        Make an optimizer of its parameters, if it has any.

        :param maker: class of the optimizer, or a function that makes one
        :param lr: learning rate, >= 0
        :param kwargs: further arguments of the optimizer, copied
        """


def give_optimizers(policy: ActorCriticPolicy, owners: Iterable[Owner], lr: float) -> None:
    """
    Give parts of a policy their own optimizers, like that of the policy.

    :param policy: the policy with its optimizer
    :param owners: blocks, or the heads
    :param lr: learning rate, >= 0
    """
    maker, options = maker_of(policy)
    for owner in owners:
        owner.build_optimizer(maker, lr, options)
        if owner.optimizer is not None:
            regroup(owner.optimizer, like=policy.optimizer)


def regroup(optimizer: th.optim.Optimizer, like: th.optim.Optimizer) -> None:
    """
    Give an optimizer groups with the options of another one, for example a weight decay for some parameters alone.

    :param optimizer: the optimizer
    :param like: an optimizer that has all its parameters; its learning rates are not taken over, since SB3 sets one for all
        groups
    """
    first = optimizer.param_groups[0]
    own = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    kept = {name: first[name] for name in ("lr", *IMPLEMENTATION) if name in first}
    optimizer.param_groups = [
        {**group, **kept, "params": parameters}
        for group in like.param_groups
        if (parameters := [parameter for parameter in group["params"] if id(parameter) in own])
    ]


def start_at_scale(optimizer: th.optim.Optimizer) -> None:
    """
    Start the mean squares of a new RMSprop at those of its first gradients, so that its first steps are as long as later ones.

    From PyTorch's start at zero, the first step of every weight is ten times the learning rate. In layers of many inputs this
    switches units off for good (our choice).

    :param optimizer: an optimizer about to make a step. Nothing happens to one that is no plain RMSprop, to complex parameters
        and to those that have made a step
    """
    if type(optimizer) is not th.optim.RMSprop:
        return
    for group in optimizer.param_groups:
        if group["momentum"] > 0 or group["centered"] or group["capturable"]:
            continue
        for own in group["params"]:
            if own.grad is not None and not own.is_complex() and own not in optimizer.state:
                mean = own.grad.square().mean()
                optimizer.state[own] = {"step": th.zeros(()), "square_avg": th.zeros_like(own).fill_(mean)}


def set_apart(optimizer: th.optim.Optimizer, parameter: nn.Parameter) -> None:
    """
    Give a parameter a group of its own.

    :param optimizer: the optimizer
    :param parameter: the parameter; nothing happens if the optimizer does not have it
    """
    for group in list(optimizer.param_groups):
        others = [other for other in group["params"] if other is not parameter]
        if len(others) < len(group["params"]):
            optimizer.param_groups.append({**group, "params": [parameter]})
            group["params"] = others
    optimizer.param_groups = [group for group in optimizer.param_groups if group["params"]]
