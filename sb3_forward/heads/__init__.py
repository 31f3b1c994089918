"""
Train the heads: linear maps from the top features to the actions and to the value.

They alone see the policy-gradient loss. A head is a model: it fits and steps, and keeps no data.
"""
