"""
Add ForwardA2C and ForwardPPO to the RL Baselines3 Zoo, as ``--algo forward_a2c`` and ``--algo forward_ppo``.

An installed package needs no import: its start-up hook registers the algorithms with the first import of ``rl_zoo3``.
``python -m sb3_forward.zoo train ...`` does the same without the hook.
"""
