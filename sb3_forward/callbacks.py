"""Log what the layers learn, with callbacks for Stable-Baselines3."""

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.common.utils import obs_as_tensor

from sb3_forward.inspect.recording import network_of, record

# The disparity for models that have none of their own. It is the default of the forward algorithms, so that their figures can
# be compared with those of a stock model
DISPARITY = "gaussian"


class LocalLearningCallback(BaseCallback):
    """
    A callback that logs figures of every block on the last rollout, with the weights that collected it:

    - ``blocks/stress``, ``blocks/strain``: how far the distances between the block's outputs are from those between its
      inputs (without guidance, with the ``disparity`` of the model)
    - ``blocks/effective_rank``: how many directions its outputs really use
    - ``blocks/dead``, ``blocks/saturated``: share of its units that do not vary, and that are at the ends of their range
      (of bounded activations only)

    Each key ends with the name of the block. The figures go to TensorBoard, CSV and JSON; they are too many for the table on
    the screen. The callback does not change training, to the last bit.

    It works with every on-policy algorithm whose policy can be split into blocks and heads, stock ones too.

    :param every: log every so many rollouts, >= 1; by default those rollouts after which SB3 writes its log (``log_interval``
        of ``learn``)
    :param rows: observations to measure on, >= 2: a random sample of the last rollout, and of earlier ones if it is smaller.
        The cost grows with the square of this number, and does not depend on the size of the rollout
    :raises ValueError: if ``every`` or ``rows`` is too small; from ``learn``, if the model has no rollouts or no blocks
    """

    def __init__(self, every: int | None = None, rows: int = 256) -> None:
        super().__init__()
        if every is not None and every < 1:
            raise ValueError(f"`every` must be at least 1, or None for SB3's log_interval, got {every}.")
        if rows < 2:
            raise ValueError(f"`rows` must be at least 2, as distances are between pairs of rows, got {rows}.")
        self.every = every
        self.rows = rows
        self._period = 1
        self._rollouts = 0
        self._recent: list[dict[str, np.ndarray]] = []  # samples of rollouts, by key of the observation
        self._random = np.random.default_rng(0)

    def _init_callback(self) -> None:
        if not isinstance(self.model, OnPolicyAlgorithm):
            raise ValueError(
                "LocalLearningCallback reads the rollouts of on-policy algorithms (A2C, PPO and their forward versions): "
                f"{type(self.model).__name__} has none."
            )
        network_of(self.model.policy)  # a policy that cannot be split is refused now, not after the first rollout

    def _on_training_start(self) -> None:
        # The first rollout of every `learn` is number 1 for SB3's log_interval, too
        self._rollouts = 0
        self._period = self.every or self.locals.get("log_interval") or 1

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self._rollouts += 1
        self._keep_sample()
        if self._rollouts % self._period == 0:
            self._log()

    def _keep_sample(self) -> None:
        """
        Keep a sample of the rollout before the update.

        The update of SB3's classes flattens the buffer in place and draws from the global generator.
        """
        assert isinstance(self.model, OnPolicyAlgorithm)
        buffer = self.model.rollout_buffer
        total = buffer.buffer_size * buffer.n_envs
        steps, envs = np.divmod(self._random.choice(total, min(self.rows, total), replace=False), buffer.n_envs)
        parts = buffer.observations if isinstance(buffer.observations, dict) else {"": buffer.observations}
        self._recent.append({key: part[steps, envs] for key, part in parts.items()})
        while sum(map(_rows, self._recent[1:])) >= self.rows:
            del self._recent[0]

    def _log(self) -> None:
        disparity = getattr(self.model, "disparity", DISPARITY)
        for recording in record(self.model.policy, self._observations()):
            for figure, value in recording.figures(disparity).items():
                if not np.isnan(value):
                    self.logger.record(f"blocks/{figure}/{recording.block.name}", value, exclude=("stdout", "log"))

    def _observations(self) -> PyTorchObs:
        joined = {key: np.concatenate([sample[key] for sample in self._recent])[-self.rows :] for key in self._recent[0]}
        return obs_as_tensor(joined.get("", joined), self.model.device)


def _rows(sample: dict[str, np.ndarray]) -> int:
    return len(next(iter(sample.values())))
