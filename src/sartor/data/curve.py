"""How accuracy grows with the number of examples, foretold by a naive Bayes classifier: seconds, and no model.

Multinomial, over hashed words and pairs of words with add-one smoothing. It learns worse than what is tuned later, but
where its curve still climbs, more examples of the same kind still tell something new.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from sartor.data.clean.texts import answer_of, question_of
from sartor.types import Example

FRACTIONS = (0.25, 0.5, 1.0)
NUM_FOLDS = 4
NUM_BUCKETS = 2**15
#: More examples than these change the curve no more, and take their time.
MOST = 4000
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Curve:
    """Accuracy on rows that were left out, by the number of examples learned from, fewest first."""

    counts: tuple[int, ...]
    scores: tuple[float, ...]


def learning_curve(examples: Sequence[Example], names: Sequence[str]) -> Curve | None:
    """The curve of examples with labels; None where too few are there to leave any out.

    Args:
        names: the labels, as `data.split.labels` finds them.
    """
    import numpy as np

    chosen = sorted(examples, key=lambda example: hashlib.sha256(example.digest.encode()).digest())[:MOST]
    if len(chosen) < NUM_FOLDS * len(names):
        return None
    places = {name: place for place, name in enumerate(names)}
    truth_E = np.array([places[answer_of(example).strip()] for example in chosen])
    features = [_features(question_of(example)) for example in chosen]
    folds_E = np.arange(len(chosen)) % NUM_FOLDS
    counts, scores = [], []
    for fraction in FRACTIONS:
        right = 0
        for fold in range(NUM_FOLDS):
            learned = np.flatnonzero(folds_E != fold)
            learned = learned[: max(1, round(fraction * len(learned)))]
            weights_LF, prior_L = _fitted([features[place] for place in learned], truth_E[learned], len(names))
            for place in np.flatnonzero(folds_E == fold):
                guess = (prior_L + weights_LF[:, features[place]].sum(axis=1)).argmax()
                right += int(guess == truth_E[place])
        counts.append(len(learned))
        scores.append(right / len(chosen))
    return Curve(tuple(counts), tuple(scores))


def _fitted(features: Sequence[list[int]], truth_E: Any, num_labels: int) -> tuple[Any, Any]:
    """Log-probabilities (labels, buckets) of features, and (labels,) of labels."""
    import numpy as np

    counts_LF = np.ones((num_labels, NUM_BUCKETS), dtype=np.float32)
    for own, label in zip(features, truth_E, strict=True):
        np.add.at(counts_LF[label], own, 1.0)
    weights_LF = np.log(counts_LF / counts_LF.sum(axis=1, keepdims=True))
    prior_L = np.log(np.bincount(truth_E, minlength=num_labels) + 1.0)
    return weights_LF, prior_L


def _features(text: str) -> list[int]:
    """The buckets of a text's words and pairs of neighbours, each as often as it stands there."""
    words = _WORD.findall(text.lower())
    terms = [*words, *map(" ".join, pairwise(words))]
    return [zlib.crc32(term.encode()) % NUM_BUCKETS for term in terms]
