"""One update of a model, watched: what it started from, and what its blocks were given."""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch as th
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from sb3_forward.blocks import Block, LocalStep, as_matrix


class SharedLayer(BaseFeaturesExtractor):
    """A features extractor with one hidden layer, which actor and critic share."""

    def __init__(self, observation_space: Any) -> None:
        super().__init__(observation_space, 6)
        self.layer = nn.Linear(observation_space.shape[0], 6)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return th.tanh(self.layer(observations))


class BlockStep(NamedTuple):
    """What a block was given in a local step, and what came of it."""

    block: Block
    inputs: th.Tensor  # as a matrix
    target: th.Tensor
    match: Callable[..., Any]
    max_grad_norm: float
    result: LocalStep


class Update(NamedTuple):
    """An update: what it started from, and the local steps that it made."""

    policy: Any  # a copy, as it was
    buffer: Any  # a copy, as it was
    steps: list[BlockStep]

    def column(self, name: str) -> th.Tensor:
        """
        Read a column of the rollout, environment by environment.

        :param name: of the column in the buffer
        :return: (N, ...)
        """
        return th.as_tensor(self.buffer.swap_and_flatten(getattr(self.buffer, name)))


def watched_update(model: Any, monkeypatch: pytest.MonkeyPatch) -> Update:
    """
    Collect a rollout and train on it.

    :param model: the model
    :param monkeypatch: for the time of the update
    :return: what was seen
    """
    seen: list[Any] = []
    steps: list[BlockStep] = []
    local_step, train = Block.local_step, type(model).train

    def watched_step(self: Block, inputs: Any, target: th.Tensor, match: Any, max_grad_norm: float) -> LocalStep:
        given = as_matrix(inputs).clone(), target.clone()
        steps.append(BlockStep(self, *given, match, max_grad_norm, local_step(self, inputs, target, match, max_grad_norm)))
        return steps[-1].result

    def watched_train(self: Any) -> None:
        seen.extend((copy.deepcopy(self.policy), copy.deepcopy(self.rollout_buffer)))
        train(self)

    with monkeypatch.context() as patch:
        patch.setattr(Block, "local_step", watched_step)
        patch.setattr(type(model), "train", watched_train)
        model.learn(model.n_steps * model.n_envs, reset_num_timesteps=False)
    policy, buffer = seen
    return Update(policy, buffer, steps)


def permutation(rows: th.Tensor, among: th.Tensor) -> th.Tensor:
    """
    Find rows again, all different.

    :param rows: (B, d)
    :param among: (N, d)
    :return: (B,) the index of each
    """
    equal = (rows[:, None] == among).all(dim=2)
    assert (equal.sum(dim=1) == 1).all()
    return equal.int().argmax(dim=1)
