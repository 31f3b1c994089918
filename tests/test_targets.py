"""What the blocks are to match: the formulas by hand, and which signal reaches which block in an update."""

import math
from typing import Any

import pytest
import torch as th
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_forward import on_policy
from sb3_forward.local.distances import LOCAL_LOSSES
from sb3_forward.local.loss import IMAGE_RIDGE
from sb3_forward.local.phase import LocalObjective
from tests.envs import ACTIONS, ALGORITHMS, VECTOR, RandomEnv, small_kwargs, small_model
from tests.updates import SharedLayer, permutation, watched_update

# Three points on a line: at 0, 3 and 4 the inputs, at 0, 2 and 2 the outputs
INPUTS = th.tensor([[0.0], [3.0], [4.0]])
OUTPUTS = th.tensor([[0.0], [2.0], [2.0]])


def symmetric(first: float, second: float, third: float, *, diagonal: tuple[float, float, float] = (0, 0, 0)) -> th.Tensor:
    """A 3 x 3 matrix from its entries 01, 02 and 12, and its diagonal."""
    a, b, c = diagonal
    return th.tensor([[a, first, second], [first, b, third], [second, third, c]])


# In units of their mean, the sum of all nine entries over nine: d = (3, 4, 1) and (2, 2, 0)
STRESS = {
    "identity": symmetric(3, 4, 1) * 9 / 16,
    "outputs": symmetric(2, 2, 0) * 9 / 8,
}
# Of points on a line, the centred Gram matrix is the product of their places about the mean, in thirds:
# (-7, 2, 5) and (-4, 2, 2); its norm is the sum of their squares
STRAIN = {
    "identity": symmetric(-14, -35, 10, diagonal=(49, 4, 25)) / 78,
    "outputs": symmetric(-8, -8, 4, diagonal=(16, 4, 4)) / 24,
}
# With the median of 1, 1, 3, 3, 4, 4, which is 3: squares of t are 2 - 2 exp(-d^2 / 18)
SQUARES = [2 - 2 * math.exp(-d * d / 18) for d in (3, 4, 1)]
ROOTS = [math.sqrt(square) for square in SQUARES]
STRESS["gaussian"] = symmetric(*ROOTS) * 9 / (2 * sum(ROOTS))
CENTRE = th.eye(3) - 1 / 3
DOUBLY_CENTRED = -0.5 * CENTRE @ symmetric(*SQUARES) @ CENTRE
STRAIN["gaussian"] = DOUBLY_CENTRED / DOUBLY_CENTRED.square().sum().sqrt()
BY_HAND = {"stress": STRESS, "strain": STRAIN}


@pytest.mark.parametrize("local_loss", BY_HAND)
@pytest.mark.parametrize("disparity", ["identity", "gaussian"])
def test_unguided_loss_by_hand(local_loss: str, disparity: str) -> None:
    """Stress is the mean square of what is missing; strain is one less the product of both matrices."""
    target, own = BY_HAND[local_loss][disparity], BY_HAND[local_loss]["outputs"]
    expected = (own - target).square().mean() if local_loss == "stress" else 1 - (own * target).sum()
    loss, gradient = LocalObjective(0.0, local_loss, disparity).unguided(INPUTS, OUTPUTS)
    th.testing.assert_close(loss, expected)
    matched, pull = LOCAL_LOSSES[local_loss].match(OUTPUTS, target)
    th.testing.assert_close((loss, gradient), (matched, pull))


def distances_of(rows: th.Tensor) -> th.Tensor:
    """Pair by pair, in double precision."""
    squares = (rows.double()[:, None] - rows.double()).square().sum(dim=2)
    # The root has no slope at zero
    return th.where(squares > 0, th.where(squares > 0, squares, 1.0).sqrt(), 0.0)


def unguided_loss(local_loss: str, disparity: str, inputs: th.Tensor, outputs: th.Tensor) -> th.Tensor:
    """The formulas of docs/method.md, one after the other, in double precision."""
    d, e = distances_of(inputs), distances_of(outputs)
    if disparity == "gaussian":
        s = sorted(d[d > 0].tolist())[(int((d > 0).sum()) - 1) // 2]
        d = (2 - 2 * th.exp(-(d**2) / (2 * s**2))).sqrt()
    if local_loss == "stress":
        return (d / d.mean() - e / e.mean()).square().mean()
    centre = th.eye(len(d), dtype=th.float64) - 1 / len(d)
    ours, theirs = (-0.5 * centre @ matrix**2 @ centre for matrix in (d, e))
    return 1 - (ours / ours.norm() * theirs / theirs.norm()).sum()


def image_weights(outputs: th.Tensor, guidance: th.Tensor) -> th.Tensor:
    """W by gradient: where the loss of the pairs of rows, with its penalty, has none."""
    rows = len(outputs)
    h = outputs - outputs.mean(dim=0)
    return th.linalg.solve(h.T @ h / rows + IMAGE_RIDGE * th.eye(h.shape[1], dtype=h.dtype), h.T @ guidance / rows)


def signals_of(update: Any) -> dict[str, Any]:
    """What should guide the blocks: docs/method.md, from the heads that have learned. What is wanted, and what changes."""
    advantages = update.column("advantages").flatten()
    advantages = ((advantages - advantages.mean()) / advantages.std(correction=0))[:, None]
    actions = update.column("actions")
    with th.no_grad():
        distribution = update.learned.get_distribution(update.column("observations")).distribution
        if hasattr(distribution, "logits"):
            latent = update.learned.mlp_extractor(update.learned.extract_features(update.column("observations")))[0]
            change = advantages * (th.nn.functional.one_hot(actions.long().flatten(), 3) - distribution.probs)
            said = update.learned.action_net(latent)
        else:
            change = advantages * (actions - distribution.mean) / distribution.stddev
            said = distribution.mean / distribution.stddev
    returns = update.column("returns")
    return {
        role: tuple(((part - part.mean(dim=0)) / unit).double() for part in (wanted, moved))
        for role, wanted, moved, unit in (
            ("actor", said + change, change, (said + change).var(dim=0, correction=0).mean().sqrt()),
            ("critic", returns, returns - update.column("values"), returns.std(correction=0)),
        )
    }


def of_both(signals: dict[str, Any]) -> tuple[th.Tensor, th.Tensor]:
    """What guides a block that both share: changes of equal norm, and a variance of one in the mean over columns."""
    parts = [(wanted / change.norm(), change / change.norm()) for wanted, change in signals.values()]
    wanted, change = (th.cat(columns, dim=1) for columns in zip(*parts, strict=True))
    unit = wanted.square().mean().sqrt()
    return wanted / unit, change / unit


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(
    ("actions", "local_loss", "disparity", "coef"),
    [
        ("Discrete", "stress", "identity", 0.3),
        ("Discrete", "strain", "gaussian", 1.0),
        ("Box", "stress", "gaussian", 0.3),
        ("Box", "strain", "identity", 0.8),
        ("Box", "strain", "gaussian", 0.0),
    ],
)
def test_every_block_learns_from_its_own_loss(
    algorithm: Any, actions: str, local_loss: str, disparity: str, coef: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    In an update: the signal of its role, through an image of its outputs on all rows, fitted before each pass; distances of
    its inputs; the coefficient between both. Second updates start from features and heads that have moved.
    """
    env = DummyVecEnv([lambda: RandomEnv(VECTOR, ACTIONS[actions])] * 2)
    settings = small_kwargs(algorithm) | {"n_steps": 8, "local_epochs": 2}
    model = algorithm(
        "MlpPolicy",
        env,
        **settings,
        local_loss=local_loss,
        disparity=disparity,
        guidance_coef=coef,
        local_learning_rate=1e-2,
        policy_kwargs={"features_extractor_class": SharedLayer, "net_arch": [8, 8], "ortho_init": False},
    )
    names = ["extractor", "actor.0", "actor.1", "critic.0", "critic.1"]
    below = dict(zip(names, [None, "extractor", "actor.0", "extractor", "critic.0"], strict=True))
    for _ in range(2):
        update = watched_update(model, monkeypatch)
        signals = signals_of(update)
        # Block by block from the bottom up: 16 rows, 8 to a minibatch, twice
        assert [step.block.name for step in update.steps] == [name for name in names for _ in range(4)]
        forward = {block.name: block.forward for block in model.network.blocks}
        stands: dict[str | None, th.Tensor] = {None: update.column("observations")}
        for first in range(0, len(update.steps), 2):
            name = update.steps[first].block.name
            # What the block below says since it has learned
            inputs = stands[below[name]]
            with th.no_grad():
                outputs = update.steps[first].before(inputs).double()
                role = update.steps[first].block.role
                if first % 4 == 0:
                    wanted, change = of_both(signals) if role == "shared" else signals[role]
                    # The critic's own blocks learn the returns as a whole
                    whole = role == "critic"
                weights = image_weights(outputs, wanted)
                own_image = (outputs - outputs.mean(dim=0)) @ weights
                if first % 4 == 0:  # before its first pass
                    signal = wanted if whole else own_image + change
                stands[name] = forward[name](inputs)
            orders = []
            for step in update.steps[first : first + 2]:
                rows = permutation(step.inputs, inputs)
                orders += rows.tolist()
                own = step.outputs.double().requires_grad_()
                residual = signal[rows] - (own - outputs.mean(dim=0)) @ weights
                loss = (1 - coef) * unguided_loss(local_loss, disparity, step.inputs, own) + coef * residual.square().mean()
                assert step.result.loss == pytest.approx(loss.item(), rel=2e-3, abs=1e-5)
                (expected,) = th.autograd.grad(loss, own)
                th.testing.assert_close(step.gradient.double(), expected, rtol=1e-2, atol=1e-2 * expected.abs().max().item())
            assert sorted(orders) == list(range(16))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_guidance_has_no_part_without_a_coefficient(algorithm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not computed at all."""
    monkeypatch.setattr(on_policy, "guidance", lambda *_: pytest.fail("guidance of weight zero was computed"))
    small_model(algorithm, guidance_coef=0.0).learn(16)
    small_model(algorithm, guidance_coef=0.5, hidden_training="frozen").learn(16)
