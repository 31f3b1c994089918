"""
Keep the past in one store: rollouts that wait, recent transitions, and a sample of old observations.

- Rollouts *wait* until they have enough rows for a hidden phase, since few rows determine the guidance poorly. While the
  hidden layers stay as they are, cached features stay valid, too, which makes short rollouts cheap.
- The *window* holds the transitions of the last short rollouts. The value head is fitted to their lambda-returns together.
- On the *sample* of past observations, the heads are held to their outputs, so that a policy does not forget how to act in
  states that have become rare.

All features are those of the present hidden layers. SB3's ``save`` and ``load`` carry the store as they do any attribute.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.type_aliases import PyTorchObs

from sb3_forward.heads.heads import Held
from sb3_forward.heads.regression import ReturnMoments, SampleFeatures, gram_matrix, return_moments
from sb3_forward.heads.training import CachedRollout, Observations
from sb3_forward.local.phase import LEAST_ROWS
from sb3_forward.local.rows import Latents, copied, join, pick, put
from sb3_forward.rollouts.recorder import Truncation

# Limits on the sampled observations, in rows, and on sampled and waiting ones, in bytes: both are saved with the model
# (our choice)
SAMPLE_ROWS = 2048
BYTES = 2**23
# The values are fitted to the returns of at least this many recent rows; a longer rollout is enough by itself (our choice)
WINDOW_ROWS = 256
# They are fitted again once so many rows are new, instead of after every handful (our choice, measured in the lab log)
FIT_ROWS = WINDOW_ROWS

# Maps observations to their top features under the present weights
Features = Callable[[PyTorchObs], Latents]


class Transitions(NamedTuple):
    """T steps of E environments, with all that their returns are computed from."""

    rewards: np.ndarray  # (T, E), without the values that SB3 adds where episodes are truncated
    starts: np.ndarray  # (T, E), 1 where an episode starts with the step
    next_starts: np.ndarray  # (E,) the same for the step after the last one
    following: Any  # the observations of that step, (E, ...), or a dictionary of such
    truncations: list[Truncation]


class PastRollout:
    """
    N rows of a rollout.

    :param observations: (N, ...), or a dictionary of such
    :param cached: all else that is known of them, with top features under the present weights
    """

    def __init__(self, observations: PyTorchObs, cached: CachedRollout) -> None:
        self.observations = observations
        self.cached = cached
        self._number = len(cached.returns)

    def __len__(self) -> int:
        return self._number

    def __repr__(self) -> str:  # SB3 writes it into its files
        return f"{type(self).__name__}({len(self)} rows)"


class PhaseRows(NamedTuple):
    """N rows for a hidden phase."""

    observations: Observations
    cached: CachedRollout  # with top features from before the phase
    parts: list[PastRollout]  # the rollouts with these rows, if they are kept

    @property
    def number(self) -> int:
        """Return N."""
        return len(self.cached.returns)


class History:
    """The store of the past. It only keeps data; other modules compute with it."""

    def __init__(self) -> None:
        self.waiting: list[PastRollout] = []  #: rollouts that wait for a hidden phase
        self.waiting_rows = 0  #: number of their rows
        #: the last rollouts with their transitions, without a gap
        self.recent: list[tuple[PastRollout, Transitions]] = []
        self.new_rows = 0  #: rows of these that are newer than the last fit of the values
        #: Gram matrix (of the critic's features and intercept) and number of rows that left the window since the last phase
        self.left: tuple[th.Tensor | None, int] = None, 0
        self.observations: PyTorchObs | None = None  #: the sample
        self.sample: SampleFeatures | None = None  #: its features
        self.fingerprint: th.Tensor | None = None  #: of the hidden layers that computed all features

    def __getstate__(self) -> dict[str, Any]:
        return vars(self.to(th.device("cpu")))  # files may be read on a machine without a GPU

    def to(self, device: th.device) -> "History":
        """
        Copy the store to a device.

        :param device: device of the tensors of the copy
        :return: the copy
        """
        other = History()
        vars(other).update(copied(vars(self), device))
        return other

    def add(
        self,
        observations: Observations,
        rollout: CachedRollout,
        transitions: Transitions | None,
        interval: int,
    ) -> PhaseRows | None:
        """
        Add a rollout.

        :param observations: maps indices to these of its N observations
        :param rollout: its rows
        :param transitions: its transitions, None if it does not belong in the window
        :param interval: rows from one hidden phase to the next
        :return: all rows that have waited, once they are enough for a hidden phase, else None; each is handed out once
        """
        number = len(rollout.returns)
        if transitions is None:
            self.forget_returns()
            if not self.waiting and number >= max(interval, LEAST_ROWS):
                return PhaseRows(observations, rollout, [])  # no copy of its observations is needed
        own = PastRollout(observations(th.arange(number)), rollout)
        if transitions is not None:
            self._extend_window(own, transitions)
        self.waiting.append(own)
        self.waiting_rows += number
        if self.waiting_rows < max(min(interval, fitting(own.observations)), LEAST_ROWS):
            return None
        parts, self.waiting, self.waiting_rows = self.waiting, [], 0
        together = join([part.observations for part in parts])
        columns: Any = (None if own[0] is None else join(own) for own in zip(*(part.cached for part in parts), strict=True))
        return PhaseRows(lambda index: pick(together, index), CachedRollout(*columns), parts)

    def _extend_window(self, rollout: PastRollout, transitions: Transitions) -> None:
        if self.recent and self.recent[-1][1].rewards.shape[1] != transitions.rewards.shape[1]:
            self.forget_returns()  # of other environments
        self.recent.append((rollout, transitions))
        self.new_rows += len(rollout)
        rows = sum(len(own) for own, _ in self.recent)
        while (rows := rows - len(self.recent[0][0])) >= WINDOW_ROWS:
            self._leave(self.recent.pop(0)[0])

    def _leave(self, rollout: PastRollout) -> None:
        # The sample stands for all that do not wait. A rollout that leaves is one of the last
        if any(rollout is own for own in reversed(self.waiting)):
            gram, rows = self.left
            own = gram_matrix(rollout.cached.latent_vf)
            self.left = own if gram is None else gram + own, rows + len(rollout)

    def close_window(self) -> None:
        """Mark the last steps of the window as truncated, since the environments continue in other states."""
        if self.recent:
            rollout, steps = self.recent[-1]
            last, rows = len(steps.rewards) - 1, steps.following
            going_on = np.flatnonzero(steps.next_starts == 0)
            ends = [Truncation(last, int(env), pick(rows, int(env))) for env in going_on]
            closed = steps._replace(truncations=steps.truncations + ends, next_starts=np.ones_like(steps.next_starts))
            self.recent[-1] = rollout, closed

    @property
    def ends(self) -> list[Any]:
        """List the observations to bootstrap from: those after the last step, and the last ones of truncated episodes."""
        return [self.recent[-1][1].following, *(end.observation for _, steps in self.recent for end in steps.truncations)]

    def window(self, ends: th.Tensor, gamma: float, gae_lambda: float) -> tuple[th.Tensor, ReturnMoments]:
        """
        Join the recent transitions to W steps of E environments.

        :param ends: (E + K, d) features of the critic for the observations of :attr:`ends`
        :param gamma: discount factor
        :param gae_lambda: lambda of the returns, in [0, 1]
        :return: the critic's features, (W E, d), and the moments of the returns
        """
        rollouts, steps = zip(*self.recent, strict=True)
        environments = steps[0].rewards.shape[1]
        features = th.cat([own.cached.latent_vf.unflatten(0, (environments, -1)).transpose(0, 1) for own in rollouts])
        starts = np.concatenate([part for own in steps for part in (own.starts[1:], own.next_starts[None])])
        discounts = (gamma * (1 - starts)).astype(np.float32)
        ends = th.nn.functional.pad(ends, (0, 1), value=1.0)
        following = th.cat([th.nn.functional.pad(features[1:], (0, 1), value=1.0), ends[None, :environments]])
        following *= th.from_numpy(discounts).to(features)[..., None]
        firsts = np.cumsum([0, *(len(own.rewards) for own in steps)])
        truncations = [
            (first + end.step, end.env) for first, own in zip(firsts, steps, strict=False) for end in own.truncations
        ]
        for (step, env), end in zip(truncations, ends[environments:], strict=True):
            following[step, env] = gamma * end
        rewards = np.concatenate([own.rewards for own in steps])
        return features.flatten(end_dim=1), return_moments(features, following, rewards, discounts, gae_lambda)

    def refresh(self, features: Features, fingerprint: th.Tensor, parts: list[PastRollout], latents: Latents | None) -> None:
        """
        Bring all features up to date after the hidden layers have moved.

        :param features: maps observations to their features under the present weights
        :param fingerprint: of these weights
        :param parts: rollouts whose new features are known
        :param latents: their features, one rollout after the other; None if there are none
        """
        if latents is not None and parts:
            sizes = list(map(len, parts))
            for part, actor, critic in zip(parts, *(side.split(sizes) for side in latents), strict=True):
                part.cached = part.cached.with_latents((actor, critic))
        known = set(map(id, parts))
        for rollout in (*self.waiting, *(own for own, _ in self.recent)):
            if id(rollout) not in known:
                known.add(id(rollout))
                rollout.cached = rollout.cached.with_latents(features(rollout.observations))
        if self.observations is not None:
            self.sample = SampleFeatures(features(self.observations))
        self.left = None, 0
        self.fingerprint = fingerprint

    def exchange(self, rows: int, observations: Observations, latents: Latents) -> None:
        """
        Replace random observations of the sample with new ones, in place, so that recent observations are more frequent.

        Once the sample is full, a hidden phase replaces at most an eighth of it, so that it reaches back over about eight
        phases.

        :param rows: number of new observations, >= 1
        :param observations: maps indices to these of them
        :param latents: their top features
        """
        room = min(SAMPLE_ROWS, fitting(observations(th.zeros(1, dtype=th.long))))
        size = 0 if self.sample is None else len(self.sample)
        taken = th.randperm(rows)[: max(room // 8, room - size)]
        new, own = observations(taken), pick(latents, taken)
        if self.sample is not None:
            grown = min(room - size, len(taken))
            places = th.randperm(size)[: len(taken) - grown]
            new, own = _mixed(self.observations, new, places, grown), _mixed(self.sample.latents, own, places, grown)
        self.observations, self.sample, self.left = new, SampleFeatures(own), (None, 0)

    def forget_features(self) -> None:
        """Drop everything but the sampled observations, since the policy has another network."""
        self.waiting, self.waiting_rows, self.recent, self.new_rows, self.left = [], 0, [], 0, (None, 0)
        self.sample = self.fingerprint = None

    def held(self) -> Held:
        """
        Return the Gram matrix and the number of the rows outside the window that the values are held on: the sample, and rows
        that have left the window.
        """
        gram, rows = self.left
        if self.sample is not None:
            gram, rows = self.sample.gram(1) if gram is None else gram + self.sample.gram(1), rows + len(self.sample)
        return gram, rows

    def forget_returns(self) -> None:
        """Drop the window."""
        for rollout, _ in self.recent:
            self._leave(rollout)
        self.recent, self.new_rows = [], 0


def _mixed(past: Any, new: Any, places: th.Tensor, grown: int) -> Any:
    """Append the first new rows to the past ones, and put the others in the place of some: copies would take much memory."""
    put(past, places, pick(new, slice(grown, None)))
    return join([past, pick(new, slice(grown))]) if grown > 0 else past


def fitting(observations: PyTorchObs) -> int:
    """
    Count how many observations the limit in bytes has room for.

    :param observations: (N, ...), or a dictionary of such, N >= 1
    :return: the number of observations like these
    """
    parts = observations.values() if isinstance(observations, dict) else [observations]
    return BYTES // sum(part.nbytes // len(part) for part in parts)
