"""Read rollouts with the features recorded in them, check their numbers, and keep a history of past ones."""
