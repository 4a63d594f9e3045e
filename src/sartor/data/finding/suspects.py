"""Labels that the other rows do not bear out, found in two ways: by a classifier, and by the nearest texts.

Nobody is judged by what was learnt from it: the classifier is trained on the other folds, and a text is no neighbour of
its own. Softmax regression in numpy; the same rows and seed give the same.

Shape suffixes: N texts · F features of all texts · C classes · W columns of features, V of vectors · K neighbours.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sartor.data.finding.features import COLUMNS, Features

FOLDS = 5
#: Steps over all rows, and their size by AdaGrad.
STEPS, RATE = 10, 0.3
#: Texts among which neighbours are looked for, at most: drawn by the seed where there are more.
MOST = 20_000
_BLOCK = 256

#: The vectors of length 1 of some texts, by their places.
Vectors = Callable[[np.ndarray], np.ndarray]


def held_out_probabilities(features: Features, labels_N: np.ndarray, num_classes: int, seed: int) -> np.ndarray:
    """The probability of each class for each text, by classifiers that never saw it, (N, C)."""
    folds_N = np.random.default_rng(seed).permutation(len(labels_N)) % FOLDS
    probabilities_NC = np.zeros((len(labels_N), num_classes), np.float32)
    for fold in range(FOLDS):
        seen_N = folds_N != fold
        weights_CW = _trained(features, labels_N, seen_N, num_classes)
        probabilities_NC[~seen_N] = _softmax(_logits(features, weights_CW))[~seen_N]
    return probabilities_NC


def neighbour_shares(vectors_of: Vectors, labels_N: np.ndarray, num_classes: int, num: int, seed: int) -> np.ndarray:
    """The share of each class among the nearest others of each text, weighted by their cosine, (N, C)."""
    draw = np.random.default_rng(seed)
    pool = np.sort(draw.permutation(len(labels_N))[:MOST])
    pool_MV = vectors_of(pool)
    shares_NC = np.zeros((len(labels_N), num_classes), np.float32)
    for start in range(0, len(labels_N), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(labels_N)))
        cosines_NM = vectors_of(rows) @ pool_MV.T
        cosines_NM[rows[:, None] == pool] = -1.0
        count = min(num, len(pool) - 1)
        nearest_NK = np.argpartition(-cosines_NM, count - 1, axis=1)[:, :count]
        weights_NK = np.maximum(np.take_along_axis(cosines_NM, nearest_NK, axis=1), 1e-6)
        votes = (rows - start)[:, None] * num_classes + labels_N[pool[nearest_NK]]
        counted = np.bincount(votes.ravel(), weights_NK.ravel(), minlength=len(rows) * num_classes)
        shares_NC[rows] = counted.reshape(len(rows), num_classes) / weights_NK.sum(axis=1, keepdims=True)
    return shares_NC


def suggested(probabilities_NC: np.ndarray, labels_N: np.ndarray, margin: float) -> np.ndarray:
    """The class that each text rather belongs to: the likeliest, where it is likelier by the margin than its own.

    On Debian's descriptions this finds more at the same precision than a threshold for each class (confident learning).
    """
    own_N = probabilities_NC[np.arange(len(labels_N)), labels_N]
    return np.where(probabilities_NC.max(axis=1) - own_N >= margin, probabilities_NC.argmax(axis=1), labels_N)


def _trained(features: Features, labels_N: np.ndarray, seen_N: np.ndarray, num_classes: int) -> np.ndarray:
    """Weights (C, W) that fit the seen texts; AdaGrad over all at once. Few steps: noise shall not be learnt."""
    owners_F, columns_F, values_F = features.owners_F, features.columns.values, features.values_F
    weights_CW = np.zeros((num_classes, COLUMNS), np.float32)
    squares_CW = np.full((num_classes, COLUMNS), 1e-8, np.float32)
    target_NC = np.eye(num_classes, dtype=np.float32)[labels_N]
    for _ in range(STEPS):
        error_NC = (_softmax(_logits(features, weights_CW)) - target_NC) * seen_N[:, None]
        for place, error_N in enumerate(error_NC.T):  # class by class: all at once would take F × C numbers
            gradient_W = np.bincount(columns_F, error_N[owners_F] * values_F, COLUMNS).astype(np.float32)
            squares_CW[place] += gradient_W**2
            weights_CW[place] -= RATE * gradient_W / np.sqrt(squares_CW[place])
    return weights_CW


def _logits(features: Features, weights_CW: np.ndarray) -> np.ndarray:
    owners_F, columns_F, values_F = features.owners_F, features.columns.values, features.values_F
    parts = (np.bincount(owners_F, weights_W[columns_F] * values_F, len(features)) for weights_W in weights_CW)
    return np.stack(list(parts), axis=1).astype(np.float32)


def _softmax(logits_NC: np.ndarray) -> np.ndarray:
    raised_NC = np.exp(logits_NC - logits_NC.max(axis=1, keepdims=True))
    return np.asarray(raised_NC / raised_NC.sum(axis=1, keepdims=True))
