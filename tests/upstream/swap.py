"""A pytest plugin (``-p swap``): where Stable-Baselines3 says A2C or PPO, it gives ForwardA2C or ForwardPPO."""

import pytest
import stable_baselines3

import sb3_forward.pending
from sb3_forward import ForwardA2C, ForwardPPO
from sb3_forward.pending import WAITING_ROWS

# The packages too, not only the top level. Not the modules that define the classes: ours are built on those
for package, name, forward in (
    (stable_baselines3, "A2C", ForwardA2C),
    (stable_baselines3.a2c, "A2C", ForwardA2C),
    (stable_baselines3, "PPO", ForwardPPO),
    (stable_baselines3.ppo, "PPO", ForwardPPO),
):
    setattr(package, name, forward)

# Runs that look at hidden layers after a few hundred steps: there, these move after every rollout
LOOK_AT_HIDDEN_LAYERS = ("test_train_eval_mode", "test_save_load")


def pytest_runtest_setup(item: pytest.Item) -> None:
    sb3_forward.pending.WAITING_ROWS = 1 if item.path.stem in LOOK_AT_HIDDEN_LAYERS else WAITING_ROWS
