"""Labels that the other rows do not bear out: suggestions, with the label that would fit better. None is changed.

Two look at each row, and neither has seen it: a classifier trained on the others, and the nearest other texts. The mean
of both must favour another label by a margin. Of one label in ten flipped in Debian's package descriptions (8 sections,
2,900 texts of seven words), 70 % are found, and 79 % of what is found was flipped (`bench/data_labels.py`); with an
encoder 82 and 84 %, and by its neighbours alone at a margin of 0.5 87 and 86 %.

The ledger quotes labels, but none that `pii` or `secrets` would mask: such a one is told by the first row that has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import numpy as np
from pydantic import Field

from sartor import names
from sartor.data.clean import Context, Outcome, dropped, entry_of, kept
from sartor.data.clean.texts import question_of
from sartor.data.finding import suspects
from sartor.data.finding.alike import batches, vectors_by
from sartor.data.finding.features import Features, features_of
from sartor.data.finding.identifiers import KIND, found_in, identifier
from sartor.data.finding.identifiers.checks import digits_of
from sartor.data.finding.secret_shapes import secrets_in
from sartor.data.split import labels
from sartor.types import Chat, Example, Frozen

SUMMARY = "labels that the other rows do not bear out"
REASONS = ("label_noise", "no_labels")
SELECTS = True
WHOLE = True

#: Texts that an encoder is given at a time.
BATCH = 64
#: Below so many rows there is nothing to learn a label from.
FEWEST = 20
#: Digits of a label that is never quoted: with so many, a country's spelling may make a telephone number of it.
NUMBER = 7


class Config(Frozen):
    action: Literal["report", "drop"] = Field(default="report", description="tell of the row, or drop it")
    method: Literal["both", "loss", "neighbours"] = Field(
        default="both", description="who judges: a classifier trained on the other rows, the nearest others, or both"
    )
    margin: float = Field(
        default=0.4, gt=0.0, lt=1.0, description="by how much, of 1, another label must be likelier than the row's own"
    )
    vectors: Literal["words", "encoder"] = Field(
        default="words", description="what makes texts near: words that they share, or an encoder, slower and better"
    )
    neighbours: int = Field(default=10, ge=1, le=1000, description="how many of the nearest texts count")


def clean(rows: Iterable[Example], config: Config, context: Context) -> Iterator[Outcome]:
    """See the contract.

    Raises:
        DataError: an encoder is asked for, and none is at hand.
    """
    labelled = [example for example in rows if isinstance(example, Chat)]
    classes = labels(labelled)
    if len(labelled) < FEWEST or not classes:
        yield from _unlabelled(rows)
        return
    place = {label: index for index, label in enumerate(classes)}
    given_N = np.array([place[example.target.strip()] for example in labelled], np.int64)
    likely_NC = _likely([question_of(example) for example in labelled], given_N, len(classes), config, context)
    better_N = suspects.suggested(likely_NC, given_N, config.margin)
    named = _named(classes, labelled)
    judged = zip(given_N.tolist(), better_N.tolist(), likely_NC, strict=True)
    for example in rows:
        if not isinstance(example, Chat):
            yield kept(example)
            continue
        given, better, likely_C = next(judged)
        if given == better:
            yield kept(example)
            continue
        detail = f"rather {named[better]} ({likely_C[better]:.2f}) than {named[given]} ({likely_C[given]:.2f})"
        field = f"messages[{len(example.messages) - 1}].content"
        if config.action == "drop":
            yield dropped(example, "label_noise", detail, field)
        else:
            yield kept(example, entry_of(example, "flagged", "label_noise", detail, field))


def _likely(texts: list[str], given_N: np.ndarray, num_classes: int, config: Config, context: Context) -> np.ndarray:
    """How likely each label is for each text, in the eyes of who judges."""
    features = features_of(texts)
    found = []
    if config.method != "neighbours":
        found.append(suspects.held_out_probabilities(features, given_N, num_classes, context.seed))
    if config.method != "loss":
        vectors_of = _vectors(texts, features, config, context)
        found.append(suspects.neighbour_shares(vectors_of, given_N, num_classes, config.neighbours, context.seed))
    return np.asarray(sum(found) / len(found))


def _vectors(texts: list[str], features: Features, config: Config, context: Context) -> suspects.Vectors:
    if config.vectors == "words":
        return features.dense
    encode = vectors_by(context.embed, "label_noise with `vectors: encoder`")
    encoded_NV = np.concatenate([encode(batch) for batch in batches(texts, BATCH)])
    return lambda rows: encoded_NV[rows]


def _named(classes: Sequence[str], labelled: Sequence[Chat]) -> list[str]:
    """How the ledger calls each label."""
    first = {example.target.strip(): example.id for example in reversed(labelled)}
    return [repr(label) if _is_plain(label) else f"the label of {first[label]}" for label in classes]


def _is_plain(label: str) -> bool:
    """Whether nothing in a label would be masked, whatever the settings."""
    kinds = [(kind, identifier(kind)) for kind in names.known(KIND)]
    return len(digits_of(label)) < NUMBER and not found_in(label, kinds, ()) and not any(secrets_in(label))


def _unlabelled(rows: Iterable[Example]) -> Iterator[Outcome]:
    """Every row stays, and the first one says why none was judged."""
    detail = f"nothing was judged: labels are at least {FEWEST} rows with few different short answers"
    for number, example in enumerate(rows):
        yield kept(example, *([] if number else [entry_of(example, "flagged", "no_labels", detail)]))
