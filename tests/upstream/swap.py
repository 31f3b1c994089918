"""A pytest plugin (``-p swap``): where Stable-Baselines3 says A2C or PPO, it gives ForwardA2C or ForwardPPO."""

import stable_baselines3

import sb3_forward.pending
from sb3_forward import ForwardA2C, ForwardPPO

# The packages too, not only the top level. Not the modules that define the classes: ours are built on those
for package, name, forward in (
    (stable_baselines3, "A2C", ForwardA2C),
    (stable_baselines3.a2c, "A2C", ForwardA2C),
    (stable_baselines3, "PPO", ForwardPPO),
    (stable_baselines3.ppo, "PPO", ForwardPPO),
):
    setattr(package, name, forward)

# Their runs are short, and some look at hidden layers after a few hundred steps: let these move after every rollout
sb3_forward.pending.WAITING_ROWS = 256
