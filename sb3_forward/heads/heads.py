"""
Model the heads: choose how they are trained, compute their outputs, and fit them by ridge regression.

The features under the heads are constant, so each head is a linear model. It keeps no data.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from sb3_forward.heads import gradients
from sb3_forward.heads.agreement import MAPS, Agreement
from sb3_forward.heads.regression import REFIT_RIDGE, SampleFeatures, factor_ridge, gram_matrix, refit_step, solve_factored
from sb3_forward.local.blocks import gradient_hooks, hooked
from sb3_forward.local.finite import all_finite, parameter_problem
from sb3_forward.local.optimizers import Maker, build_optimizer
from sb3_forward.local.rows import Latents, join

# In the fit of the values, rows with returns have at least this share of the weight (our choice)
ROLLOUT_SHARE = 1 / 8

# Gram matrix of features and intercept, (d + 1, d + 1), None without rows; and the number of rows
Held = tuple[th.Tensor | None, int]
# Maps the weights (d + 1, 1) of a value head to the sum of features times (return - value) over some rows
Moments = Callable[[th.Tensor], th.Tensor]


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
        self.log_std: nn.Parameter | None = getattr(policy, "log_std", None)
        critic = set(policy.value_net.parameters())
        # Over constant features, actor and critic share nothing: the critic's errors must not shrink the actor's step
        self.clip_groups = [[p for p in self.parameters if p not in critic], [p for p in self.parameters if p in critic]]
        self.follow(None)

    def follow(self, agreement: Agreement | None) -> None:
        """
        Choose how the heads are trained.

        :param agreement: between the heads and the policy; None if they have not been compared, which counts as complete
            agreement
        """
        policy = self.policy
        self.through_policy = agreement is not None and not agreement.complete  #: else on cached features
        # Only a linear head can be whitened and fitted; a user's own head is trained as it is
        linear = [name for name in MAPS if self._is_linear(getattr(policy, name))]
        self.linear_heads = linear
        if agreement is not None and self.through_policy:
            self.linear_heads = [name for name in linear if name in agreement.reading]
        # The first layer of a deeper head can be refitted, too
        reading = linear if agreement is None else agreement.reading
        self.refitted = [path for path in reading if self._is_linear(policy.get_submodule(path))]
        # A linear value head is fitted, see `fit_values`; any other is trained on the gradient of the value loss
        self.fits_values = "value_net" in self.linear_heads and (agreement is None or agreement.values)
        log_stds = [] if self.log_std is None else [self.log_std]
        trained = any(self.log_std is own for own in self.parameters) and not gradient_hooks(log_stds)
        whole = len(linear) == 2 and not self.through_policy
        self.closed_form = whole and (self.log_std is None or trained) and gradients.applies(policy)

    def _is_linear(self, head: nn.Module) -> bool:
        """
        Check whether a head is a plain linear map that is trained as a whole.

        Nothing else may compute its weights, its outputs or its gradients.
        """
        own = dict(head.named_parameters())
        trained = set(map(id, own.values())) <= set(map(id, self.parameters))
        plain = type(head) is nn.Linear and own.keys() == {"weight", "bias"}
        return plain and trained and not hooked(head) and not gradient_hooks(own.values())

    def build_optimizer(self, maker: Maker, lr: float, kwargs: dict[str, Any]) -> None:
        """
        Make the optimizer of the heads.

        :param maker: class of the optimizer, or a function that makes one
        :param lr: learning rate of all until :meth:`set_learning_rates`, >= 0
        :param kwargs: further arguments of the optimizer, copied
        """
        # A user may have replaced all heads of a built model, and its optimizer then has none of their parameters. PyTorch
        # makes no optimizer without parameters
        nothing = [nn.Parameter(th.zeros(0))]
        self.optimizer = build_optimizer(maker, self.parameters or nothing, lr, kwargs)

    def set_learning_rates(self, maps: float, log_std: float) -> None:
        """
        Set the learning rates of the next steps.

        :param maps: learning rate of all parameters but ``log_std``, >= 0
        :param log_std: learning rate of ``log_std``, >= 0
        """
        for group in self.optimizer.param_groups:
            group["lr"] = log_std if group["params"][0] is self.log_std else maps

    @th.no_grad()
    def outputs(self, *parts: Latents) -> list[th.Tensor]:
        """
        Compute the outputs of the heads, and of the layers in them, that are linear on the features.

        :param parts: features of actor (N_i, d_pi) and critic (N_i, d_vf), of N rows in all
        :return: (N, k) each, in the order of :attr:`refitted`
        """
        # Parts are joined for one head after the other, since a copy of all features would take most of an update's memory
        read = list(zip(*parts, strict=True))
        sides = ((path, read[_side(path)]) for path in self.refitted)
        return [self.policy.get_submodule(path)(join(own)) for path, own in sides]

    @th.no_grad()
    def refit(self, outputs: list[th.Tensor], features: Latents, sample: SampleFeatures | None) -> float | None:
        """
        Fit the heads by ridge regression to their outputs before their features moved (our choice).

        The steps of the hidden layers then change policy and values no more than they must.

        :param outputs: outputs before the features moved, from :meth:`outputs`, of N rows and then of the sample
        :param features: present features of actor (N, d_pi) and critic (N, d_vf) on these rows
        :param sample: present features of past observations, None if there are none
        :return: relative drift without the refit: norm of the change of the action head's outputs over the norm of the centred
            outputs (of its first layer if it is deeper, None if no such layer is linear)
        :raises ValueError: if a fit is not finite; that head has not moved then
        """
        parts = [features] if sample is None else [features, sample.latents]
        drift = None
        for path, wanted in zip(self.refitted, outputs, strict=True):
            side, head = _side(path), self.policy.get_submodule(path)
            read = [part[side] for part in parts]
            residuals = [own - head(latent) for own, latent in zip(wanted.split(list(map(len, read))), read, strict=True)]
            if side == 0:
                variation = (wanted - wanted.mean(dim=0)).norm().clamp_min(th.finfo(wanted.dtype).tiny)
                drift = (th.stack([own.norm() for own in residuals]).norm() / variation).item()
            self._add(path, refit_step(side, read, residuals, sample))
        return drift

    @th.no_grad()
    def fit_values(self, features: th.Tensor, moments: Moments, held: Held = (None, 0), iterations: int = 1) -> None:
        """
        Fit a linear value head by ridge regression, starting from its weights (our choice).

        It is fitted to the returns on some rows, and to its own values on others.

        :param features: (N, d_vf) features of the critic
        :param moments: computes the sum of these features and the intercept times (return - value) over the rows
        :param held: Gram matrix of features and intercept on rows where the values should stay, and the number of these rows
        :param iterations: regressions one after the other, where returns depend on the values; >= 1
        :raises ValueError: if a fit is not finite; the head has not moved then
        """
        head, rows = self.policy.value_net, len(features)
        held_gram, held_rows = held
        # With full weight on held rows, a rollout of a few rows would hardly count among thousands, and the values would lag
        # behind the policy
        weight = min((1 / ROLLOUT_SHARE - 1) * rows / max(held_rows, 1), 1.0)
        # Returns are noisy and few rows determine little, so that the penalty has at least the weight of one row
        ridge = REFIT_RIDGE + 1 / (rows + weight * held_rows)
        gram = gram_matrix(features)
        if held_gram is not None:
            gram = gram + weight * held_gram
        factors, before = factor_ridge(gram, ridge), th.cat([head.weight, head.bias[:, None]], dim=1).T
        first = step = solve_factored(factors, moments(before))
        after = before + first
        for _ in range(iterations - 1):
            step = solve_factored(factors, moments(after))
            after = after + step
        if iterations > 1:
            # On few rows that say little of each other the regressions may diverge. Then there is one only
            after = th.where(_change(step, gram) <= _change(first, gram), after, before + first)
        self._add("value_net", after - before)

    def _add(self, path: str, step: th.Tensor) -> None:
        """Add the solution of a ridge regression to a head."""
        if not all_finite(step):
            reason = parameter_problem(self.policy) or (
                "Check rewards and observations for NaN (VecCheckNan) and for their scale (VecNormalize), or lower "
                "`local_learning_rate`"
            )
            raise ValueError(f"The fit of the heads is not finite; the weights of `{path}` were left as they were. {reason}.")
        head: Any = self.policy.get_submodule(path)
        head.weight.add_(step[:-1].T)
        head.bias.add_(step[-1])


def _change(step: th.Tensor, gram: th.Tensor) -> th.Tensor:
    """Compute the sum of squares by which a step of a linear head moves its outputs, (k,)."""
    return (step * (gram @ step)).sum(dim=0)


def _side(path: str) -> int:
    """Return whose features a head, or a module in it, reads: 0 for the actor's, 1 for the critic's."""
    return MAPS.index(path.split(".")[0])
