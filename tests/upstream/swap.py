"""A pytest plugin (``-p swap``): where Stable-Baselines3 says A2C or PPO, it gives our class, as users get it."""

import stable_baselines3

from sb3_forward import ForwardA2C, ForwardPPO

# The packages too, not only the top level. Not the modules that define the classes: ours are built on those
for package, name, forward in (
    (stable_baselines3, "A2C", ForwardA2C),
    (stable_baselines3.a2c, "A2C", ForwardA2C),
    (stable_baselines3, "PPO", ForwardPPO),
    (stable_baselines3.ppo, "PPO", ForwardPPO),
):
    setattr(package, name, forward)
