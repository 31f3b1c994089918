"""One update of a model, watched: what it started from, and what its blocks were given."""

import copy
from typing import Any, NamedTuple

import pytest
import torch as th
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from sb3_forward.local.blocks import Block, LocalStep, Objective
from sb3_forward.local.loss import as_matrix
from sb3_forward.local.phase import HiddenPhase
from sb3_forward.local.rows import Latents


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
    before: Any  # a copy of what maps its inputs to its outputs, before the step
    inputs: th.Tensor  # as a matrix
    outputs: th.Tensor  # as a matrix
    gradient: th.Tensor  # of its local loss, with respect to the outputs
    max_grad_norm: float
    result: LocalStep


class Update(NamedTuple):
    """An update: what it started from, and the local steps that it made."""

    policy: Any  # a copy, as it was
    learned: Any  # a copy after the heads have learned, as it guides the blocks; None without a hidden phase
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
    learned: list[Any] = []
    steps: list[BlockStep] = []
    local_step, train, learn = Block.local_step, type(model).train, HiddenPhase.learn

    def watched_step(self: Block, inputs: Any, objective: Objective, max_grad_norm: float) -> LocalStep:
        before, given = copy.deepcopy(self.forward), as_matrix(inputs).clone()
        seen_by_loss: list[th.Tensor] = []

        def watched_objective(outputs: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
            loss, gradient = objective(outputs)
            seen_by_loss.extend((outputs.detach().clone(), gradient.clone()))
            return loss, gradient

        result = local_step(self, inputs, watched_objective, max_grad_norm)
        outputs, gradient = seen_by_loss
        steps.append(BlockStep(self, before, given, outputs, gradient, max_grad_norm, result))
        return result

    def watched_train(self: Any) -> None:
        seen.extend((copy.deepcopy(self.policy), copy.deepcopy(self.rollout_buffer)))
        train(self)

    def watched_learn(self: HiddenPhase, *args: Any) -> Latents:
        learned.append(copy.deepcopy(self.network.policy))
        return learn(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Block, "local_step", watched_step)
        patch.setattr(HiddenPhase, "learn", watched_learn)
        patch.setattr(type(model), "train", watched_train)
        model.learn(model.n_steps * model.n_envs, reset_num_timesteps=False)
    policy, buffer = seen
    return Update(policy, learned[0] if learned else None, buffer, steps)


def permutation(rows: th.Tensor, among: th.Tensor) -> th.Tensor:
    """
    Find rows again, all different.

    :param rows: (B, d)
    :param among: (N, d), but for rounding
    :return: (B,) the index of each
    """
    equal = (rows[:, None] - among).abs().amax(dim=2) < 1e-5
    assert (equal.sum(dim=1) == 1).all()
    return equal.int().argmax(dim=1)


def weights_of(head: Any) -> th.Tensor:
    """Weights and bias of a linear head, (d + 1, k), bias last."""
    return th.cat([head.weight, head.bias[:, None]], dim=1).detach().T
