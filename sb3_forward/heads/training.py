"""
Train the heads on the policy gradient, over constant features.

The heads are trained on cached features. If the policy computes more than its heads do, see
:mod:`sb3_forward.heads.agreement`, they are trained through its ``evaluate_actions``, whose graph begins at the heads.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from types import TracebackType
from typing import Any, NamedTuple

import torch as th
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn

from sb3_forward.heads import gradients
from sb3_forward.heads.gradients import HeadOutputs, Slopes
from sb3_forward.heads.heads import Heads
from sb3_forward.heads.regression import SampleFeatures, basis_of
from sb3_forward.heads.whitening import Whitening, output_scale
from sb3_forward.local.network import modules_below
from sb3_forward.local.rows import Latents

# Maps indices (B,) to these observations of a rollout
Observations = Callable[[th.Tensor], PyTorchObs]


class CachedRollout(NamedTuple):
    """N rows of a rollout: top features, actions, and the other columns that the loss of the heads reads."""

    latent_pi: th.Tensor  # (N, d_pi)
    latent_vf: th.Tensor  # (N, d_vf)
    actions: th.Tensor  # (N,) for Discrete, else (N, action_dim)
    old_values: th.Tensor
    old_log_prob: th.Tensor
    advantages: th.Tensor
    returns: th.Tensor
    indices: th.Tensor | None = None  # (N,) of the observations, if the heads are trained through the policy

    @property
    def latents(self) -> Latents:
        """Return the top features of actor and critic."""
        return self.latent_pi, self.latent_vf

    def with_latents(self, latents: Latents) -> "CachedRollout":
        """
        Replace the top features.

        :param latents: those of actor (N, d_pi) and critic (N, d_vf) for the same rows
        :return: the rows with them
        """
        return self._replace(latent_pi=latents[0], latent_vf=latents[1])

    def rows(self, rows: th.Tensor | slice) -> "CachedRollout":
        """
        Select rows of every column.

        :param rows: (B,) indices, or a range
        :return: these rows
        """
        columns: Any = (None if column is None else column[rows] for column in self)
        return CachedRollout(*columns)


# Maps a minibatch and the outputs of the heads to the slopes of the loss; None for no step
Objective = Callable[[CachedRollout, HeadOutputs], Slopes | None]


class HeadTraining:
    """
    The training of the heads on one rollout, within ``with``.

    The optimizer of a linear action head works in whitened coordinates of the features (see
    :func:`~sb3_forward.heads.regression.basis_of`). Its outputs are in units of the standard deviation of Gaussian actions,
    since a step of given length changes a narrow policy more than a wide one (our choice).

    :param heads: the heads
    :param rollout: N rows
    :param sample: features of past observations, None if there are none
    :param whiten: False for the coordinates of the features themselves
    :param observations: maps indices to observations of the rollout; needed if the heads are trained through the policy
    """

    def __init__(
        self,
        heads: Heads,
        rollout: CachedRollout,
        sample: SampleFeatures | None,
        whiten: bool = True,
        observations: Observations | None = None,
    ) -> None:
        self.heads = heads
        self.observations = observations
        self._whitening: Whitening | None = None
        head = heads.policy.action_net
        if whiten and "action_net" in heads.linear_heads:
            assert isinstance(head, nn.Linear)
            scale = output_scale(heads.policy, None if heads.closed_form or heads.through_policy else rollout.latent_pi)
            self._whitening = Whitening(head, basis_of(rollout.latent_pi, sample), scale)
        self._groups = heads.clip_groups[:1] if heads.fits_values else heads.clip_groups
        self._flat: list[th.Tensor] = []  # gradients of each group in one tensor, so that a norm is one operation
        if heads.fits_values or heads.through_policy:
            rollout = rollout._replace(latent_vf=rollout.latent_vf[:, :0])  # it is not read, and every epoch would shuffle it
        if heads.through_policy:
            indices = th.arange(len(rollout.returns), device=rollout.returns.device)
            rollout = rollout._replace(latent_pi=rollout.latent_pi[:, :0], indices=indices)
        self.rollout = rollout  #: the rows to train on, in the coordinates of the optimizer
        self._exit = ExitStack()

    def __enter__(self) -> "HeadTraining":
        self._exit.callback(self._clear_gradients)
        if self.heads.closed_form:
            self._flat = [gradients.flat(own) for own in self._groups if own]
            if self._whitening is not None:
                self._whitening.enter()
                self._exit.callback(self._whitening.leave)
                self.rollout = self.rollout._replace(latent_pi=self._whitening.coordinates(self.rollout.latent_pi))
        if self.heads.through_policy:
            self._exit.enter_context(self._hidden_layers_at_rest())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._exit.close()

    def step(self, batch: CachedRollout, objective: Objective, max_grad_norm: float) -> bool:
        """
        Make one optimizer step of the heads.

        :param batch: B rows of :attr:`rollout`
        :param objective: computes the slopes of the loss
        :param max_grad_norm: clip the gradient norm of each head to this
        :return: whether a step was made; False if the objective gives no slopes
        :raises ValueError: if a gradient is not finite; no weight has moved then
        """
        if self.heads.closed_form:
            return self._closed_form_step(batch, objective, max_grad_norm)
        with th.enable_grad():
            outputs = self._evaluate(batch)
        if (slopes := objective(batch, outputs.detached())) is None:
            return False
        gradients.through_graph(self.heads.parameters, outputs, slopes)
        if self._whitening is None:
            _clip(self._graph_gradients(), max_grad_norm)
            self.heads.optimizer.step()
            return True
        self._whitening.pull_gradients()
        _clip(self._graph_gradients(), max_grad_norm)
        # The policy calls the head with plain features and may change its outputs, so that only the step is whitened
        self._whitening.enter()
        try:
            self.heads.optimizer.step()
        finally:
            self._whitening.leave()
        return True

    @th.no_grad()
    def _closed_form_step(self, batch: CachedRollout, objective: Objective, max_grad_norm: float) -> bool:
        scale = None if self._whitening is None else self._whitening.scale
        outputs, backward = gradients.forward(self.heads.policy, batch.latent_pi, batch.actions, scale)
        if (slopes := objective(batch, outputs)) is None:
            return False
        backward(slopes)
        _clip([[own] for own in self._flat], max_grad_norm)
        self.heads.optimizer.step()
        return True

    def _evaluate(self, batch: CachedRollout) -> HeadOutputs:
        if not self.heads.through_policy:
            return evaluate(self.heads, batch)
        assert self.observations is not None
        assert batch.indices is not None
        values, log_prob, entropy = self.heads.policy.evaluate_actions(self.observations(batch.indices), batch.actions)
        return HeadOutputs.of(log_prob, entropy, None if self.heads.fits_values else values)

    def _graph_gradients(self) -> list[list[th.Tensor]]:
        groups = ([own.grad for own in group if own.grad is not None] for group in self._groups)
        return [group for group in groups if group]

    def _clear_gradients(self) -> None:
        for parameter in self.heads.parameters:
            parameter.grad = None

    @contextmanager
    def _hidden_layers_at_rest(self) -> Iterator[None]:
        """
        Turn dropout off below the heads, as in a rollout, and make the layers constant, so that graphs begin at the heads.
        """
        policy, own = self.heads.policy, set(map(id, self.heads.parameters))
        constant = [p for p in policy.parameters() if p.requires_grad and id(p) not in own]
        below = modules_below(policy)
        for parameter in constant:
            parameter.requires_grad_(False)
        for part in below:
            part.train(False)
        try:
            yield
        finally:
            for parameter in constant:
                parameter.requires_grad_(True)
            for part in below:
                part.train(True)


def _clip(gradients_by_head: list[list[th.Tensor]], max_grad_norm: float) -> None:
    """Clip the gradient norm of each head; refuse what is not finite."""
    each = [th.linalg.vector_norm(own) for group in gradients_by_head for own in group]
    norms = iter(th.stack(each).tolist() if each else [])
    grad_norms = [math.hypot(*islice(norms, len(group))) for group in gradients_by_head]
    if not all(map(math.isfinite, grad_norms)):
        raise ValueError(
            f"The loss of the heads has gradient norms of {grad_norms}; their weights were left as they were. Lower "
            "`learning_rate`, and check rewards and observations for NaN (VecCheckNan) and for their scale (VecNormalize)."
        )
    for group, norm in zip(gradients_by_head, grad_norms, strict=True):
        if norm > max_grad_norm:
            for own in group:
                own.mul_(max_grad_norm / norm)


def standardised(advantages: th.Tensor) -> th.Tensor:
    """
    Normalise advantages as SB3 does, each row by itself.

    A single advantage has no standard deviation (https://github.com/DLR-RM/stable-baselines3/issues/325).

    :param advantages: (..., N)
    :return: the same with mean zero and standard deviation one; unchanged if N is one
    """
    if advantages.shape[-1] < 2:
        return advantages
    return (advantages - advantages.mean(dim=-1, keepdim=True)) / (advantages.std(dim=-1, keepdim=True) + 1e-8)


def evaluate(heads: Heads, rollout: CachedRollout) -> HeadOutputs:
    """
    Compute the policy's ``evaluate_actions`` from the top features on.

    :param heads: the heads
    :param rollout: N rows of features and actions
    :return: log-probabilities of the actions and entropies, and the values if they are trained on a gradient
    """
    distribution = heads.policy._get_action_dist_from_latent(rollout.latent_pi)
    values = None if heads.fits_values else heads.policy.value_net(rollout.latent_vf)
    return HeadOutputs.of(distribution.log_prob(rollout.actions), distribution.entropy(), values)
