"""Measure with linear probes how well ridge regression on features predicts quantities of unseen episodes."""

import numpy as np
import scipy.linalg

FOLDS = 5
# Penalties on the squared weights, relative to the mean variance of the features
RIDGES = 10.0 ** np.arange(-6, 2)


def held_out_r2(features: np.ndarray, targets: np.ndarray, episodes: np.ndarray) -> np.ndarray:
    """
    Compute the coefficient of determination of cross-validated predictions, ``1 - sum (y - f)^2 / sum (y - mean y)^2``.

    Whole episodes are held out, since the states of an episode are alike. The ridge is chosen on an inner fold, without the
    episodes held out, so that a wide block has no advantage from its width alone.

    :param features: (B, d)
    :param targets: (B, t) quantities to predict, each column by itself
    :param episodes: (B,) which episode a row is of
    :return: (t,) at most 1; 0 for features without information, and less for worse ones; NaN for a target that does not vary,
        or if there are fewer than three episodes
    """
    folds = split_by_episode(episodes)
    last = folds.max()
    if last < 2:
        return np.full(targets.shape[1], np.nan)
    predicted = np.empty_like(targets)
    for fold in range(last + 1):
        held_out, inner = folds == fold, folds == (fold + 1) % (last + 1)
        outer = ~held_out
        errors = targets[inner] - predict(features[outer & ~inner], targets[outer & ~inner], features[inner])
        best = np.square(errors).sum(axis=1).argmin(axis=0)
        predicted[held_out] = predict(features[outer], targets[outer], features[held_out])[best, :, range(len(best))].T
    total = np.square(targets - targets.mean(axis=0)).sum(axis=0)
    unexplained = np.square(targets - predicted).sum(axis=0)
    return np.where(total > 0, 1 - unexplained / np.where(total > 0, total, 1), np.nan)


def predict(features: np.ndarray, targets: np.ndarray, others: np.ndarray) -> np.ndarray:
    """
    Predict targets by ridge regression.

    :param features: (n, d) features to learn from
    :param targets: (n, t)
    :param others: (m, d) features to predict for
    :return: (ridges, m, t) predictions, one for each of :data:`RIDGES`
    """
    mean, level = features.mean(axis=0), targets.mean(axis=0)
    known, wanted, missing = features - mean, others - mean, targets - level
    # The smaller of two equivalent systems is solved
    primal = known.shape[1] <= len(known)
    gram = known.T @ known if primal else known @ known.T
    right = known.T @ missing if primal else missing
    read = wanted if primal else wanted @ known.T
    scale = np.square(known).sum() / known.shape[1] or 1.0
    identity = np.eye(len(gram))
    solutions = (scipy.linalg.solve(gram + ridge * scale * identity, right, assume_a="pos") for ridge in RIDGES)
    return np.stack([read @ solution + level for solution in solutions])


def split_by_episode(episodes: np.ndarray) -> np.ndarray:
    """
    Split episodes into folds.

    :param episodes: (B,) which episode a row is of
    :return: (B,) folds from 0 on, at most :data:`FOLDS`, of about as many rows each; the longest episode is assigned first,
        and each to the smallest fold so far
    """
    names, members, lengths = np.unique(episodes, return_inverse=True, return_counts=True)
    sizes = np.zeros(min(FOLDS, len(names)), dtype=int)
    fold_of = np.empty(len(names), dtype=int)
    for episode in np.argsort(-lengths, kind="stable"):
        fold_of[episode] = sizes.argmin()
        sizes[fold_of[episode]] += lengths[episode]
    return fold_of[members]
