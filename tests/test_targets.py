"""What the blocks are to match: the formulas of docs/method.md by hand, and which signal reaches which block in an update."""

import math
from typing import Any

import pytest
import torch as th
from sb3_forward.targets import Targets
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_forward.distances import strain, stress
from tests.envs import ACTIONS, ALGORITHMS, VECTOR, RandomEnv, small_kwargs, small_model
from tests.updates import SharedLayer, permutation, watched_update

# Three points on a line: at 0, 3 and 4 the inputs, at 0, 2 and 2 the signal of the actor, at 0, 0 and 5 that of the critic
INPUTS = th.tensor([[0.0], [3.0], [4.0]])
SIGNALS = {"actor": th.tensor([[0.0], [2.0], [2.0]]), "critic": th.tensor([[0.0], [0.0], [5.0]])}


def symmetric(first: float, second: float, third: float, *, diagonal: tuple[float, float, float] = (0, 0, 0)) -> th.Tensor:
    """A 3 x 3 matrix from its entries 01, 02 and 12, and its diagonal."""
    a, b, c = diagonal
    return th.tensor([[a, first, second], [first, b, third], [second, third, c]])


# In units of their mean, the sum of all nine entries over nine: d = (3, 4, 1), g = (2, 2, 0) and (0, 5, 5)
STRESS = {
    "identity": symmetric(3, 4, 1) * 9 / 16,
    "actor": symmetric(2, 2, 0) * 9 / 8,
    "critic": symmetric(0, 5, 5) * 9 / 20,
}
# Of points on a line, the centred Gram matrix is the product of their places about the mean, in thirds:
# (-7, 2, 5), (-4, 2, 2) and (-5, -5, 10); its norm is the sum of their squares
STRAIN = {
    "identity": symmetric(-14, -35, 10, diagonal=(49, 4, 25)) / 78,
    "actor": symmetric(-8, -8, 4, diagonal=(16, 4, 4)) / 24,
    "critic": symmetric(25, -50, -50, diagonal=(25, 25, 100)) / 150,
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
@pytest.mark.parametrize("role", SIGNALS)
@pytest.mark.parametrize("coef", [0.0, 0.25, 1.0])
def test_target_by_hand(local_loss: str, disparity: str, role: str, coef: float) -> None:
    by_hand = BY_HAND[local_loss]
    targets = Targets(local_loss, disparity, SIGNALS, coef)
    expected = (1 - coef) * by_hand[disparity] + coef * by_hand[role]
    th.testing.assert_close(targets.of(INPUTS, role), expected)
    # Once more, from what is kept
    th.testing.assert_close(targets.of(INPUTS, role), expected)


@pytest.mark.parametrize("local_loss", BY_HAND)
def test_target_without_guidance_is_that_of_the_inputs(local_loss: str) -> None:
    th.testing.assert_close(Targets(local_loss, "identity", {}, 0.5).of(INPUTS, "actor"), BY_HAND[local_loss]["identity"])


def distances_of(rows: th.Tensor) -> th.Tensor:
    """Pair by pair, in double precision."""
    pairs = [[(first - second).norm() for second in rows.double()] for first in rows.double()]
    return th.tensor(pairs, dtype=th.float64)


def documented_target(local_loss: str, disparity: str, inputs: th.Tensor, signal: th.Tensor, coef: float) -> th.Tensor:
    """The formulas of docs/method.md, one after the other."""
    d, g = distances_of(inputs), distances_of(signal)
    if disparity == "gaussian":
        s = sorted(d[d > 0].tolist())[(int((d > 0).sum()) - 1) // 2]
        d = (2 - 2 * th.exp(-(d**2) / (2 * s**2))).sqrt()
    if local_loss == "stress":
        return (1 - coef) * d / d.mean() + coef * g / g.mean()
    centre = th.eye(len(d), dtype=th.float64) - 1 / len(d)
    ours, guided = (-0.5 * centre @ matrix**2 @ centre for matrix in (d, g))
    return (1 - coef) * ours / ours.norm() + coef * guided / guided.norm()


def signals_of(update: Any) -> dict[str, th.Tensor]:
    """What should guide the blocks: docs/method.md, from the weights before the update."""
    advantages = update.column("advantages").flatten()
    advantages = ((advantages - advantages.mean()) / advantages.std(correction=0))[:, None]
    actions = update.column("actions")
    with th.no_grad():
        distribution = update.policy.get_distribution(update.column("observations")).distribution
        if hasattr(distribution, "logits"):
            latent = update.policy.mlp_extractor(update.policy.extract_features(update.column("observations")))[0]
            onehot = th.nn.functional.one_hot(actions.long().flatten(), 3)
            actor = update.policy.action_net(latent) + advantages * (onehot - distribution.probs)
        else:
            actor = (distribution.mean + advantages * (actions - distribution.mean)) / distribution.stddev
    critic = update.column("returns")

    def unit(signal: th.Tensor) -> th.Tensor:
        return signal / signal.var(dim=0, correction=0).sum().sqrt()

    return {"actor": actor, "critic": critic, "shared": th.cat([unit(actor), unit(critic)], dim=1)}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(
    ("actions", "local_loss", "disparity", "coef"),
    [
        ("Discrete", "stress", "identity", 0.3),
        ("Discrete", "strain", "gaussian", 0.3),
        ("Box", "stress", "gaussian", 0.3),
        ("Box", "strain", "identity", 0.8),
        ("Box", "strain", "gaussian", 0.0),
    ],
)
def test_every_block_gets_its_own_target(
    algorithm: Any, actions: str, local_loss: str, disparity: str, coef: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    In an update: its inputs, the disparity, the signal of its role, the coefficient; and outputs are matched by the loss that
    was asked for. Second updates start from features and heads that have moved.
    """
    env = DummyVecEnv([lambda: RandomEnv(VECTOR, ACTIONS[actions])] * 2)
    settings = small_kwargs(algorithm) | {"n_steps": 8}
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
    for _ in range(2):
        update = watched_update(model, monkeypatch)
        signals = signals_of(update)
        assert [step.block.role for step in update.steps[:5]] == ["shared", "actor", "actor", "critic", "critic"]
        assert len(update.steps) == 2 * 5  # 16 rows, 8 to a minibatch
        for steps in (update.steps[:5], update.steps[5:]):
            rows = permutation(steps[0].inputs, update.column("observations"))
            for step in steps:
                assert step.match is {"stress": stress, "strain": strain}[local_loss]
                expected = documented_target(local_loss, disparity, step.inputs, signals[step.block.role][rows], coef)
                th.testing.assert_close(step.target.double(), expected, rtol=2e-3, atol=2e-3)
            # Each goes on with what the one below has said before its step
            for below, above in ((0, 1), (1, 2), (0, 3), (3, 4)):
                assert th.equal(steps[above].inputs, steps[below].result.outputs)  # type: ignore[arg-type]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_guidance_has_no_part_without_a_coefficient(algorithm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not computed at all."""
    monkeypatch.setattr(algorithm, "_guidance", lambda *_: pytest.fail("guidance of weight zero was computed"))
    small_model(algorithm, guidance_coef=0.0).learn(16)
    small_model(algorithm, guidance_coef=0.5, hidden_training="frozen").learn(16)
