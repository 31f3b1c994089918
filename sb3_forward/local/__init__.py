"""
Hidden layers: a policy as *blocks*, each with its own optimizer and its own local loss.

The *distances* and the *guided* loss are pure functions of tensors. The *phase* trains the blocks from the bottom up. Nothing
here knows of heads, rollouts or algorithms.
"""
