"""
The heads: the linear maps from the top features to the action distribution and to the value.

They alone see the policy-gradient loss. The features under them are constant, so each head is a linear model, trained on
cached features. Where the policy says more than its heads do, see :mod:`sb3_forward.heads.agreement`, they are trained
through its ``evaluate_actions``, whose graph begins at the heads.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import islice
from typing import Any, NamedTuple

import torch as th
from stable_baselines3.common.distributions import DiagGaussianDistribution, Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn
from torch.distributions import Normal

from sb3_forward.heads import gradients
from sb3_forward.heads.agreement import MAPS, Agreement
from sb3_forward.heads.evaluation import Memory, Steps, level_gram, level_moments, solve_ridge, with_level
from sb3_forward.heads.gradients import HeadOutputs, Slopes
from sb3_forward.heads.whitening import Basis, Whitening
from sb3_forward.local.blocks import gradient_hooks, hooked
from sb3_forward.local.finite import all_finite, parameter_problem
from sb3_forward.local.network import HIDDEN
from sb3_forward.local.optimizers import Maker, build_optimizer
from sb3_forward.local.rows import Latents, join, pick

# Penalty on a refit's change of the weights, relative to the mean sum of squares of the features (our choice)
REFIT_RIDGE = 1e-3


class CachedRollout(NamedTuple):
    """A rollout as the heads see it: features in place of observations; N rows each."""

    latent_pi: th.Tensor  # (N, d_pi)
    latent_vf: th.Tensor  # (N, d_vf)
    actions: th.Tensor  # (N,) for Discrete, else (N, action_dim)
    old_values: th.Tensor
    old_log_prob: th.Tensor
    advantages: th.Tensor
    returns: th.Tensor
    places: th.Tensor | None = None  # (N,) where the observations are, if the heads are trained through the policy

    def rows(self, rows: th.Tensor | slice) -> "CachedRollout":
        """
        :param rows: (B,) indices, or a range
        :return: these rows of everything
        """
        columns: Any = (None if column is None else column[rows] for column in self)
        return CachedRollout(*columns)


# The whitened coordinates of rollouts of fewer rows are those of the anchors (our choice)
WHITENING_ROWS = 512
# Of the rows that the values are fitted on, those with returns count for this share at least (our choice)
ROLLOUT_SHARE = 1 / 8


# From a minibatch and what the heads say of it to the slopes of the loss; None: no step
Objective = Callable[[CachedRollout, HeadOutputs], Slopes | None]
# Log-probabilities (N,) of actions, and the distribution that they are of
Said = tuple[th.Tensor, Distribution]
# From indices (B,) to these observations of the rollout
Observations = Callable[[th.Tensor], PyTorchObs]


class Heads:
    """
    The heads of a policy and their optimizer.

    :param policy: the actor-critic policy
    :param parameters: the parameters of its heads, ``log_std`` among them
    """

    optimizer: th.optim.Optimizer  #: over all parameters; see :meth:`build_optimizer`

    def __init__(self, policy: ActorCriticPolicy, parameters: Iterable[nn.Parameter]) -> None:
        self.policy = policy
        self.parameters = list(parameters)
        self.spread: nn.Parameter | None = getattr(policy, "log_std", None)
        critic = set(policy.value_net.parameters())
        # Over constant features, actor and critic share nothing: the critic's errors must not shrink the actor's step
        self.clip_groups = [[p for p in self.parameters if p not in critic], [p for p in self.parameters if p in critic]]
        self.memory = Memory({})
        self.forget()
        self.follow(None)

    def follow(self, agreement: Agreement | None) -> None:
        """
        Choose how the heads are trained.

        :param agreement: what they have in common with the policy; None if that is not known yet, and taken to be all
        """
        policy = self.policy
        self.through_policy = agreement is not None and not agreement.complete  #: else on cached features
        # Only a linear head can be whitened and refitted; a user's own head is trained as it is
        linear = [name for name in MAPS if self._is_linear(getattr(policy, name))]
        self.linear_heads = linear
        if agreement is not None and self.through_policy:
            self.linear_heads = [name for name in linear if name in agreement.reading]
        # The first layer of a deeper head can be held to what it says, too
        reading = linear if agreement is None else agreement.reading
        self.held = [path for path in reading if self._is_linear(policy.get_submodule(path))]
        # A linear value head is fitted, see `fit_values`; only another one is trained on the gradient of the value loss
        self.fits_values = "value_net" in self.linear_heads and (agreement is None or agreement.values)
        spread = [] if self.spread is None else [self.spread]
        trained = any(self.spread is own for own in self.parameters) and not gradient_hooks(spread)
        whole = len(linear) == 2 and not self.through_policy
        self.closed_form = whole and (self.spread is None or trained) and gradients.applies(policy)

    def _is_linear(self, head: nn.Module) -> bool:
        """
        Whether a head is a plain linear map that is trained as a whole: nothing else makes its weights, its outputs or its
        gradients.
        """
        own = dict(head.named_parameters())
        trained = set(map(id, own.values())) <= set(map(id, self.parameters))
        plain = type(head) is nn.Linear and own.keys() == {"weight", "bias"}
        return plain and trained and not hooked(head) and not gradient_hooks(own.values())

    def build_optimizer(self, maker: Maker, lr: float, kwargs: dict[str, Any]) -> None:
        """
        :param maker: class of the optimizer, or a function that makes one
        :param lr: learning rate of all until :meth:`set_learning_rates`, >= 0
        :param kwargs: further arguments of the optimizer, copied
        """
        # Heads exchanged in a built model may all be unknown to its optimizer: there is no optimizer of nothing
        nothing = [nn.Parameter(th.zeros(0))]
        self.optimizer = build_optimizer(maker, self.parameters or nothing, lr, kwargs)

    def set_learning_rates(self, maps: float, spread: float) -> None:
        """
        :param maps: learning rate of all but ``log_std``, >= 0
        :param spread: that of ``log_std``, the spread of Gaussian actions, >= 0
        """
        for group in self.optimizer.param_groups:
            group["lr"] = spread if group["params"][0] is self.spread else maps

    def forget(self) -> None:
        """No anchors."""
        self.anchors: Latents | None = None
        self._anchor_basis: Basis | None = None
        self._anchor_grams: dict[str, th.Tensor] = {}

    def remember(self, latents: Latents) -> None:
        """
        The anchors stand for all that was learned before: what the heads say there counts in all that follows.

        :param latents: features of actor (M, d_pi) and critic (M, d_vf) on the anchors, M >= 1
        """
        self.forget()
        self.anchors = latents

    def _anchor_gram(self, name: str) -> th.Tensor | float:
        """Of the features that a head reads on the anchors, with their level; computed when it is asked for."""
        if self.anchors is None:
            return 0.0
        if name not in self._anchor_grams:
            self._anchor_grams[name] = level_gram(self.anchors[MAPS.index(name)])
        return self._anchor_grams[name]

    def exchange(self, latents: Latents, kept: th.Tensor, taken: th.Tensor) -> None:
        """
        Other anchors, under features that stay.

        :param latents: features of actor (N, d_pi) and critic (N, d_vf)
        :param kept: indices of the anchors that stay
        :param taken: indices of the rows that become anchors
        """
        stay = [] if self.anchors is None else [pick(self.anchors, kept)]
        self.remember(join([*stay, pick(latents, taken)]))

    @th.no_grad()
    def remember_steps(self, features: th.Tensor, steps: Steps) -> None:
        """
        Keep a short rollout for this fit of the values and for those to come.

        :param features: (N, d_vf) of the critic, those that the steps are made of
        :param steps: what the returns of the rollout are made of
        """
        self.memory.fade(len(features))
        self.memory.add(with_level(features), steps)

    @th.no_grad()
    def fit_values(self, features: th.Tensor, returns: th.Tensor, remembered: bool = False) -> None:
        """
        Fit a linear value head by ridge regression from the weights that it has (our choice): to the returns on the rollout
        and on the steps that it remembers, and to what it says on the anchors and on the rows of other rollouts since the
        hidden layers moved.

        :param features: (N, d_vf) of the critic
        :param returns: (N,)
        :param remembered: whether :meth:`remember_steps` was told of these rows
        :raises ValueError: if the fit is not finite; the head has not moved then, and what it remembered is forgotten
        """
        if not self.fits_values:
            return
        head, memory = self.policy.value_net, self.memory
        if remembered and memory.new_rows < memory.FIT_ROWS:
            return
        if not remembered:
            memory.fade(len(features))
        weights = th.cat([head.weight, head.bias[:, None]], dim=1).T
        gram: Any = memory.gram
        rows = memory.rows
        if not remembered:
            own = level_gram(features)
            gram, rows = own + gram, rows + len(features)
        held = self._anchor_gram("value_net") + memory.held_gram
        held_rows = memory.held_rows + (0 if self.anchors is None else len(self.anchors[1]))
        # Else a rollout of a few rows among thousands would hardly be heard: the values would lag behind the policy
        weight = min((1 / ROLLOUT_SHARE - 1) * rows / max(held_rows, 1), 1.0)
        # Returns are noisy, and few rows say little: the penalty weighs as much as one row, too
        ridge = REFIT_RIDGE + 1 / (rows + weight * held_rows)
        gram = gram + weight * held
        if not remembered:
            missing = level_moments(features, returns[:, None] - head(features)) + memory.missing(weights)
            step = solve_ridge(gram, missing, ridge)
        else:
            # Rollouts that have waited have a step each
            step = memory.steps(gram, weights, ridge, max(memory.new_rows // len(features), 1))
        try:
            self._move("value_net", step)
        except ValueError:
            memory.forget()
            raise
        memory.fitted()
        if not remembered:
            memory.hold(own, len(features))

    @th.no_grad()
    def say(self, *parts: Latents) -> list[th.Tensor]:
        """
        :param parts: features of actor (N_i, d_pi) and critic (N_i, d_vf), of N rows in all
        :return: outputs of the heads and layers that are linear on them, (N, k) each
        """
        # Parts are joined for one head after the other: a copy of what both read would be most of what an update holds
        read = list(zip(*parts, strict=True))
        return [self.policy.get_submodule(path)(join(read[_side(path)])) for path in self.held]

    @th.no_grad()
    def hold(self, said: list[th.Tensor], features: Latents) -> float | None:
        """
        Fit the heads that are linear, and linear first layers of others, by ridge regression to what they said before their
        features moved (our choice), so that the hidden layers' steps change neither policy nor values more than they must.

        :param said: what :meth:`say` was, of N rows and then of the anchors
        :param features: of actor (N, d_pi) and critic (N, d_vf) on these rows as they are now
        :return: how much of what the action head said would change without: norm of the change over that of the variation;
            of its first layer if it is deeper, None if no such layer is linear
        :raises ValueError: if a fit is not finite; that head has not moved then
        """
        parts = [features] if self.anchors is None else [features, self.anchors]
        drift = None
        for path, wanted in zip(self.held, said, strict=True):
            head, read = self.policy.get_submodule(path), [part[_side(path)] for part in parts]
            missing = [own - head(latent) for own, latent in zip(wanted.split(list(map(len, read))), read, strict=True)]
            if _side(path) == 0:
                variation = (wanted - wanted.mean(dim=0)).norm().clamp_min(th.finfo(wanted.dtype).tiny)
                drift = (th.stack([own.norm() for own in missing]).norm() / variation).item()
            gram = level_gram(read[0]) + self._anchor_gram(MAPS[_side(path)])
            moments = th.stack([level_moments(latent, own) for latent, own in zip(read, missing, strict=True)]).sum(dim=0)
            self._move(path, solve_ridge(gram, moments, REFIT_RIDGE))
        return drift

    def _move(self, path: str, step: th.Tensor) -> None:
        """
        What a head should say more, by a ridge regression. The bias is penalised as the weights are: they carry the level,
        too, and it does not spread to features never seen.
        """
        if not all_finite(step):
            reason = parameter_problem(self.policy) or (
                "Check rewards and observations for NaN (VecCheckNan) and for their scale (VecNormalize), or lower "
                "`local_learning_rate`"
            )
            raise ValueError(f"The fit of the heads is not finite; the weights of `{path}` were left as they were. {reason}.")
        head: Any = self.policy.get_submodule(path)
        head.weight.add_(step[:-1].T)
        head.bias.add_(step[-1])

    @contextmanager
    def training(
        self, rollout: CachedRollout, whiten: bool = True, observations: Observations | None = None
    ) -> Iterator[CachedRollout]:
        """
        While the heads are trained on a rollout. The optimizer of a linear action head works in whitened coordinates of the
        features on the rollout and on the anchors, either counting half: on the rollout alone, steps that hardly show there
        could be anything on states that it has left. A rollout of fewer than 512 rows does not count. The coordinates
        come in units of the standard deviation of Gaussian actions: the narrower the policy, the more a step changes it (our
        choice).

        :param rollout: the rollout
        :param whiten: False for the coordinates of the features themselves
        :param observations: from indices to observations of the rollout, needed if the heads are trained through the policy
        :return: the rollout to train on
        """
        self._whitening, head = None, self.policy.action_net
        if whiten and "action_net" in self.linear_heads:
            assert isinstance(head, nn.Linear)
            self._whitening = Whitening(head, self._basis(rollout.latent_pi), self._output_scale(rollout.latent_pi))
        whitening = self._whitening if self.closed_form else None
        self._scale = None if whitening is None else whitening.scale
        self._trained = self.clip_groups[:1] if self.fits_values else self.clip_groups
        # One tensor per group, so that a norm is one operation
        self._flat = [_flat_gradients(parameters) for parameters in self._trained if parameters] if self.closed_form else []
        if self.fits_values or self.through_policy:
            rollout = rollout._replace(latent_vf=rollout.latent_vf[:, :0])  # nobody reads it, and every epoch shuffles
        self._observations = observations
        if self.through_policy:
            places = th.arange(len(rollout.returns), device=rollout.returns.device)
            rollout = rollout._replace(latent_pi=rollout.latent_pi[:, :0], places=places)
        try:
            if whitening is not None:
                whitening.enter()
                rollout = rollout._replace(latent_pi=whitening.coordinates(rollout.latent_pi))
            with self._hidden_layers_at_rest() if self.through_policy else nullcontext():
                yield rollout
        finally:
            if whitening is not None:
                whitening.leave()
            for parameter in self.parameters:
                parameter.grad = None

    @contextmanager
    def _hidden_layers_at_rest(self) -> Iterator[None]:
        """As in a rollout, dropout off; and constant, so that graphs begin at the heads."""
        own = set(map(id, self.parameters))
        constant = [p for p in self.policy.parameters() if p.requires_grad and id(p) not in own]
        parts = {id(part): part for part in (getattr(self.policy, name, None) for name in HIDDEN) if part is not None}
        for parameter in constant:
            parameter.requires_grad_(False)
        for part in parts.values():
            part.train(False)
        try:
            yield
        finally:
            for parameter in constant:
                parameter.requires_grad_(True)
            for part in parts.values():
                part.train(True)

    @th.no_grad()
    def _basis(self, features: th.Tensor) -> Basis:
        rows = len(features)
        if self.anchors is None:
            return Basis.of(features.T @ features / rows, rows)
        anchors = len(self.anchors[0])
        if rows >= WHITENING_ROWS:
            return Basis.of((features.T @ features / rows + self._anchor_moments()) / 2, rows + anchors)
        # Fewer rows say little about a covariance, and the anchors stay for many such rollouts
        if self._anchor_basis is None:
            self._anchor_basis = Basis.of(self._anchor_moments(), anchors)
        return self._anchor_basis

    def _anchor_moments(self) -> th.Tensor:
        gram = self._anchor_gram("action_net")
        assert isinstance(gram, th.Tensor)
        return gram[:-1, :-1] / gram[-1, -1]

    @th.no_grad()
    def _output_scale(self, features: th.Tensor) -> th.Tensor | None:
        if self.closed_form or self.through_policy:
            gaussian = isinstance(self.policy.action_dist, DiagGaussianDistribution) and self.spread is not None
            fits = gaussian and len(self.policy.log_std) == self.policy.action_net.out_features
            return self.policy.log_std.exp() if fits else None
        distribution = self.policy._get_action_dist_from_latent(features).distribution
        # A head that gives more than means speaks in units of its own
        if not isinstance(distribution, Normal) or distribution.mean.shape[1] != self.policy.action_net.out_features:
            return None
        return distribution.stddev.mean(dim=0)

    def evaluate(self, rollout: CachedRollout) -> HeadOutputs:
        """
        The policy's ``evaluate_actions``, from the top features on or, if need be, from the observations on.

        :param rollout: N rows of features and actions
        :return: log-probabilities of the actions and entropies, and the values where they have a gradient to follow
        """
        values: th.Tensor | None
        if self.through_policy:
            assert self._observations is not None
            assert rollout.places is not None
            values, log_prob, entropy = self.policy.evaluate_actions(self._observations(rollout.places), rollout.actions)
        else:
            distribution = self.policy._get_action_dist_from_latent(rollout.latent_pi)
            log_prob, entropy = distribution.log_prob(rollout.actions), distribution.entropy()
            values = None if self.fits_values else self.policy.value_net(rollout.latent_vf)
        if entropy is None:
            # Without a closed form, it is estimated from the log-probabilities
            entropy = -log_prob
        return HeadOutputs(log_prob, entropy, None if self.fits_values or values is None else values.flatten())

    def step(self, batch: CachedRollout, objective: Objective, max_grad_norm: float) -> bool:
        """
        One optimizer step of the heads, within :meth:`training`.

        :param batch: B rows of its rollout
        :param objective: the loss, by its slopes
        :param max_grad_norm: clip the gradient norm of each head to this
        :return: whether a step was made: not if the objective gives no slopes
        :raises ValueError: if a gradient is not finite; no weight has moved then
        """
        if not (self._closed_form_gradients if self.closed_form else self._graph_gradients)(batch, objective):
            return False
        gradients = self._gradients()
        each = [th.linalg.vector_norm(own) for group in gradients for own in group]
        norms = iter(th.stack(each).tolist() if each else [])
        grad_norms = [math.hypot(*islice(norms, len(group))) for group in gradients]
        if not all(map(math.isfinite, grad_norms)):
            raise ValueError(
                f"The loss of the heads has gradient norms of {grad_norms}; their weights were left as they were. Lower "
                "`learning_rate`, and check rewards and observations for NaN (VecCheckNan) and for their scale (VecNormalize)."
            )
        for group, norm in zip(gradients, grad_norms, strict=True):
            if norm > max_grad_norm:
                for own in group:
                    own.mul_(max_grad_norm / norm)
        if self._whitening is None or self.closed_form:
            self.optimizer.step()
        else:
            # Whatever the policy makes of the head, it is the head for features that it calls: the step alone is whitened
            self._whitening.enter()
            try:
                self.optimizer.step()
            finally:
                self._whitening.leave()
        return True

    def _gradients(self) -> list[list[th.Tensor]]:
        """Of the parameters of each head together."""
        if self.closed_form:
            return [[flat] for flat in self._flat]
        groups = ([own.grad for own in group if own.grad is not None] for group in self._trained)
        return [group for group in groups if group]

    @th.no_grad()
    def _closed_form_gradients(self, batch: CachedRollout, objective: Objective) -> bool:
        outputs, backward = gradients.forward(self.policy, batch.latent_pi, batch.actions, self._scale)
        slopes = objective(batch, outputs)
        if slopes is not None:
            backward(slopes)
        return slopes is not None

    def _graph_gradients(self, batch: CachedRollout, objective: Objective) -> bool:
        with th.enable_grad():
            outputs = self.evaluate(batch)
        slopes = objective(batch, outputs.detached())
        if slopes is None:
            return False
        # What the loss does not read has no gradient, and stays as it is: a gradient of zero would let its weights decay
        for parameter in self.parameters:
            parameter.grad = None
        entropy_slope = th.full_like(outputs.entropy, slopes.entropy)
        slopes_of = [(outputs.log_prob, slopes.log_prob), (outputs.entropy, entropy_slope), (outputs.values, slopes.values)]
        # A head may be frozen
        pairs = [(end, start) for end, start in slopes_of if end is not None and start is not None and end.requires_grad]
        if pairs:
            ends, starts = zip(*pairs, strict=True)
            th.autograd.backward(ends, starts)
        if self._whitening is not None:
            self._whitening.pull_gradients()
        return True


def improved_outputs(
    policy: ActorCriticPolicy,
    latent_pi: th.Tensor,
    actions: th.Tensor,
    advantages: th.Tensor,
    observations: PyTorchObs | None = None,
) -> th.Tensor:
    """
    What the action head would say of each row after a policy-gradient step of its own: the head's outputs plus the
    advantage times the score, which is ``onehot(a) - pi`` for the logits of discrete actions and ``a - mu`` (times the
    variance: the natural gradient) for Gaussian means, which come in units of the standard deviation. Read off at the head
    in the forward pass; nothing is carried back through a weight.

    :param policy: the actor-critic policy
    :param latent_pi: (N, d_pi) top features of the actor
    :param actions: the actions taken
    :param advantages: (N,) of these, of about unit variance
    :param observations: the same rows, if the policy says of them what its heads alone do not; else None
    :return: (N, k), k the number of outputs of the action head, of all its layers together where it gives no single tensor
    """
    if observations is None and gradients.applies(policy):
        return gradients.improved_outputs(policy, latent_pi, actions, advantages)

    def say() -> Said:
        if observations is not None:
            return policy.evaluate_actions(observations, actions)[1], policy.action_dist
        distribution = policy._get_action_dist_from_latent(latent_pi.detach())
        return distribution.log_prob(actions), distribution

    outputs, log_prob, distribution = _watched([policy.action_net], say)
    if not outputs:
        # The head gives no single tensor, or is not called itself: what its layers give
        layers = [module for module in policy.action_net.modules() if module._parameters]
        outputs, log_prob, distribution = _watched(layers, say)
    scores = th.autograd.grad(log_prob.sum(), outputs, allow_unused=True) if outputs else []
    said = [(output.detach(), score) for output, score in zip(outputs, scores, strict=True) if score is not None]
    if not said:
        return advantages[:, None]  # nothing is known of such a head: rows are told apart by what came of them
    improved, score = (th.cat(columns, dim=1) for columns in zip(*said, strict=True))
    normal = getattr(distribution, "distribution", None)
    if not isinstance(normal, Normal) or normal.mean.shape != improved.shape:
        return improved + advantages[:, None] * score
    variance = normal.variance.detach()
    return (improved + advantages[:, None] * score * variance) / variance.mean(dim=0).sqrt()


def _watched(layers: Iterable[nn.Module], say: Callable[[], Said]) -> tuple[list[th.Tensor], th.Tensor, Distribution]:
    """What layers of the action head give, nothing if it is not one vector a row; and what is said meanwhile."""
    outputs: list[Any] = []
    handles = [layer.register_forward_hook(lambda module, inputs, output: outputs.append(output)) for layer in layers]
    try:
        with th.enable_grad():
            log_prob, distribution = say()
    finally:
        for handle in handles:
            handle.remove()

    def is_vector(output: Any) -> bool:
        return isinstance(output, th.Tensor) and output.shape[:-1] == log_prob.shape and output.requires_grad

    vectors = all(map(is_vector, outputs))
    return (outputs if vectors else []), log_prob, distribution


def _side(path: str) -> int:
    """Whose features a head, or a module in it, reads: 0 for the actor's, 1 for the critic's."""
    return MAPS.index(path.split(".")[0])


def _flat_gradients(parameters: list[nn.Parameter]) -> th.Tensor:
    """One tensor that the gradients of all these parameters are views of."""
    flat = th.zeros(sum(p.numel() for p in parameters), dtype=parameters[0].dtype, device=parameters[0].device)
    for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = part.view_as(parameter)
    return flat
