"""
Compute the local loss of a block: guided, unguided, or a mixture of both.

The guided part matches the distances of a guidance signal with those of a linear image of the block's outputs. This is
multidimensional scaling with linear restrictions (J. de Leeuw and W. J. Heiser, "Multidimensional scaling with restrictions on
the configuration", 1980; I. Borg and P. J. F. Groenen, "Modern multidimensional scaling", 2005). A block has to represent the
guidance in some directions of its outputs, and is free in all others. For outputs ``h_i`` and guidance ``g_i`` of the rows
i = 1 .. N::

    loss = min_W  mean_ij || (g_i - g_j) - (h_i - h_j) W ||^2 / mean_ij || g_i - g_j ||^2 + ridge || W ||^2 / k

What a block of the actor has to match is its own image and the change that the policy gradient wants, see
:func:`own_target`.

The sum over pairs of rows is a multiple of the sum over centred rows, so no N x N matrix is needed: with guidance of unit
variance, the loss is that of a ridge regression. The penalty does not scale with the outputs. With a penalty that does, the
loss is blind to their scale, and bounded activations drift into saturation. Using this loss to guide a hidden layer is our
choice.

The unguided part matches the distances of the block's inputs, see :mod:`sb3_forward.local.distances`. Both parts read large
feature maps as means over the cells of a grid. The guided part reads them through an auxiliary layer, see
:mod:`sb3_forward.local.auxiliary`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeGuard

import torch as th
from torch.nn import functional as F

from sb3_forward.local.distances import DISPARITIES, LOCAL_LOSSES, Configuration

# The activations between blocks: a tensor, a dictionary observation, or the features of actor and critic
Activations = th.Tensor | dict[str, th.Tensor] | tuple[th.Tensor, ...]
# A local loss: maps the part of a block's outputs that it compares, (B, d), to its value and its gradient, (B, d)
Objective = Callable[[th.Tensor], tuple[th.Tensor, th.Tensor]]
# Penalty on the weights of a linear image; it hardly affects outputs whose variance is far above it (our choice)
IMAGE_RIDGE = 1e-2
# A feature map is compared in about so many cells along each side; one that is hardly larger, place by place (our choice)
GRID = 10


class Guidance(NamedTuple):
    """The guidance of N rows: what a head says of them, and how that should change."""

    said: th.Tensor  # (N, k), zero where a block has to learn all that the head should say
    change: th.Tensor  # (N, k)

    @classmethod
    def whole(cls, wanted: th.Tensor) -> "Guidance":
        """
        Make guidance that a block has to learn as a whole, whatever the head says.

        :param wanted: (N, k) what the head should say
        :return: the guidance
        """
        return cls(th.zeros_like(wanted), wanted)

    @property
    def wanted(self) -> th.Tensor:
        """Return what the head should say, (N, k)."""
        return self.said + self.change

    @property
    def known(self) -> th.Tensor:
        """Return what the head says, (N, k); what is wanted in the columns of which it says nothing."""
        return th.where(self.said.any(dim=0), self.said, self.change)


class LinearImage(NamedTuple):
    """The linear image ``h W + c`` of a block's outputs that matches some columns best."""

    weights: th.Tensor  # W, (d, k)
    intercept: th.Tensor  # c, (k,)
    loss: th.Tensor  # scalar in [0, 1], over all rows
    explained: th.Tensor  # scalar in [0, 1]: R2, the share of their variance that the image explains

    def of(self, outputs: th.Tensor) -> th.Tensor:
        """
        Compute the image of some rows.

        :param outputs: (B, d)
        :return: (B, k)
        """
        return th.addmm(self.intercept, outputs, self.weights)


def standardise(guidance: Guidance) -> Guidance:
    """
    Centre guidance, and bring the mean variance of the columns that are wanted to one.

    All columns keep one unit, since their distances have one.

    :param guidance: (N, k)
    :return: (N, k); columns in which what is wanted is constant up to rounding are zero
    """
    wanted = guidance.wanted
    variance = (wanted - wanted.mean(dim=0)).square().mean(dim=0)
    varies = variance.sqrt() > 32 * th.finfo(wanted.dtype).eps * wanted.abs().amax(dim=0)
    mean = th.where(varies, variance, 0.0).mean()
    unit = th.where(mean > 0, mean, 1.0).sqrt()
    said, change = (th.where(varies, (part - part.mean(dim=0)) / unit, 0.0) for part in guidance)
    return Guidance(said, change)


def linear_image(outputs: th.Tensor, columns: th.Tensor, ridge: float = IMAGE_RIDGE) -> LinearImage:
    """
    Fit the linear image of a block's outputs to some columns.

    :param outputs: (N, d)
    :param columns: (N, k), centred
    :param ridge: penalty on the squares of the weights, > 0, in units of the variance of an output
    :return: the image
    """
    rows = len(columns)
    columns = columns.to(outputs.dtype)
    mean = outputs.mean(dim=0)
    centred = outputs - mean  # subtracting the mean from the products instead would leave rounding errors
    gram = centred.T @ centred
    # With more units than inputs, the Gram matrix is singular. Where outputs are large, the penalty alone would be lost in
    # rounding errors
    penalty = ridge * rows + 8 * th.finfo(gram.dtype).eps * gram.diagonal().sum()
    gram.diagonal().add_(penalty)
    cross = (columns.T @ centred).T  # this way round, few columns take a tenth of the time
    # The solution is not checked here, since a check would synchronise a GPU; a step refuses numbers that are not finite
    weights = th.cholesky_solve(cross, th.linalg.cholesky_ex(gram).L)
    total = columns.square().sum().clamp_min(th.finfo(columns.dtype).tiny)
    matched = (weights * cross).sum() / total
    return LinearImage(weights, -mean @ weights, 1 - matched, matched + penalty * weights.square().sum() / total)


def own_target(outputs: th.Tensor, guidance: Guidance, image: LinearImage) -> th.Tensor:
    """
    Compute what the linear image of a block's outputs has to match in a phase: itself before, and the change that is wanted.

    What the head says beyond this image is left to the other blocks. A block that had to match it, too, would mostly learn by
    heart what the policy does already, since the change is small beside it (our choice, with its measurement in the lab log).

    :param outputs: (N, d)
    :param guidance: (N, k) from :func:`standardise`
    :param image: of these outputs, fitted to the guidance
    :return: the target (N, k); all that is wanted in the columns of which the head says nothing
    """
    own = th.where(guidance.said.any(dim=0), image.of(outputs), 0.0)
    return own + guidance.change.to(outputs.dtype)


def balanced(guidance: Sequence[Guidance]) -> Guidance:
    """
    Join the guidance of the heads that share a block, so that the changes of all of them have the same norm.

    A head that knows nothing then sends next to no gradient, as with backpropagation: its columns have an image of small
    weights (our choice, with its measurement in the lab log).

    :param guidance: (N, k_i) each, from :func:`standardise`; at least one
    :return: (N, k), as from :func:`standardise`
    """
    scaled = []
    for own in guidance:
        norm = own.change.norm()
        unit = th.where(norm > 0, norm, 1.0)
        scaled.append([part / unit for part in own])
    said, change = (th.cat(parts, dim=1) for parts in zip(*scaled, strict=True))
    return standardise(Guidance(said, change))


def guided(outputs: th.Tensor, target: th.Tensor, image: LinearImage) -> tuple[th.Tensor, th.Tensor]:
    """
    Compute the guided loss of some of the rows that the image was fitted to, and its gradient.

    W and the target are held constant. Where a block has to match all that is wanted, this is the gradient of the minimum over
    W, by the envelope theorem.

    :param outputs: (B, d)
    :param target: (B, k) of the same rows, from :func:`own_target`
    :param image: fitted to all rows
    :return: the loss, a scalar >= 0, and its gradient with respect to the outputs, (B, d); the loss is a mean over the B rows
        and k columns
    """
    residual = target - image.of(outputs)
    return residual.square().mean(), (residual @ image.weights.T).mul_(-2 / max(residual.numel(), 1))


class LocalObjective(NamedTuple):
    """The objective of the blocks; see the parameters of :class:`~sb3_forward.ppo.ForwardPPO`."""

    guidance_coef: float
    local_loss: str
    disparity: str

    def unguided(self, inputs: th.Tensor, outputs: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """
        Compute the loss between the distances of a block's outputs and those of its inputs.

        :param inputs: (B, d) inputs of the block
        :param outputs: (B, d') outputs of the block
        :return: the loss and its gradient with respect to the outputs, (B, d')
        """
        loss = LOCAL_LOSSES[self.local_loss]
        inputs = inputs.to(outputs.dtype)
        return loss.match(outputs, loss.target(DISPARITIES[self.disparity](Configuration(inputs).distances)))

    def of_minibatch(
        self, inputs: Activations, guided_loss: Objective | None, outputs: th.Tensor
    ) -> tuple[th.Tensor, th.Tensor]:
        """
        Compute the local loss of a minibatch.

        :param inputs: (B, ...) inputs of a block
        :param guided_loss: maps the outputs to the guided loss and its gradient, see :func:`guided`; None without guidance
        :param outputs: (B, d') outputs of the block, as :func:`summarised`
        :return: the loss and its gradient with respect to the outputs, (B, d')
        """
        if guided_loss is None:
            return self.unguided(summarised(inputs), outputs)
        loss, gradient = guided_loss(outputs)
        if self.guidance_coef < 1:
            own_loss, own_gradient = self.unguided(summarised(inputs), outputs)
            loss, gradient = own_loss.lerp(loss, self.guidance_coef), own_gradient.lerp(gradient, self.guidance_coef)
        return loss, gradient


def as_matrix(activations: Activations) -> th.Tensor:
    """
    Flatten activations to one row per sample, with the parts of a dictionary or tuple side by side.

    :param activations: a tensor (B, ...), or a dictionary or tuple of such tensors
    :return: (B, d)
    """
    if isinstance(activations, th.Tensor):
        return activations.flatten(start_dim=1) if activations.ndim > 1 else activations[:, None]
    parts = map(as_matrix, activations.values() if isinstance(activations, dict) else activations)
    return th.cat([part if part.dtype == th.double else part.float() for part in parts], dim=1)


def is_maps(activations: Activations) -> TypeGuard[th.Tensor]:
    """
    Check whether activations are feature maps.

    :param activations: inputs or outputs of a block
    :return: whether they are one tensor (B, C, H, W)
    """
    return isinstance(activations, th.Tensor) and activations.ndim == 4


def summarised(activations: Activations) -> th.Tensor:
    """
    Compute the matrix that the local losses compare; large feature maps are averaged over the cells of a grid.

    :param activations: inputs or outputs of a block, of B rows
    :return: (B, d)
    """
    if is_maps(activations):
        size = [max(round(side / GRID), 1) for side in activations.shape[2:]]
        means = F.avg_pool2d(activations, size, ceil_mode=True) if max(size) > 1 else activations
        return means.permute(0, 2, 3, 1).flatten(start_dim=1)  # channels last, as a block that learns has them
    return as_matrix(activations)
