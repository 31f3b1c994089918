"""
Split a policy into *blocks*, and train each with its own optimizer on its own local loss.

The *distances* and the *guided* loss are pure functions of tensors. The *phase* trains the blocks from the bottom up. Nothing
here imports heads, rollouts or algorithms.
"""
