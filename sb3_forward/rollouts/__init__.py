"""Rollouts: their features, recorded while they are collected; what is kept of past ones; checks of their numbers."""
