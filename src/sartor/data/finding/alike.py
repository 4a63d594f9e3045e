"""What cleaners that compare examples share: batches, vectors, and what keeps two examples apart."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from sartor.data.clean.texts import Part, answer_of, part_of
from sartor.data.split import LONGEST_LABEL
from sartor.errors import DataError
from sartor.types import Embed, Example, Message, Text

Some = TypeVar("Some")

_NUMBER = re.compile(r"\d+")
#: Every byte that is no digit becomes a space: five times as fast as a search, and enough for most texts.
_DIGITS = bytes(byte if byte in b"0123456789" else b" "[0] for byte in range(256))


def batches(rows: Iterable[Some], size: int) -> Iterator[list[Some]]:
    """The rows in their order, some at a time."""
    stream = iter(rows)
    while batch := list(itertools.islice(stream, size)):
        yield batch


def begun(rows: Iterable[Some], count: int) -> tuple[list[Some], Iterator[Some]]:
    """The first rows, and all rows from the first on."""
    stream = iter(rows)
    head = list(itertools.islice(stream, count))
    return head, itertools.chain(head, stream)


def vectors_by(embed: Embed | None, cleaner: str) -> Callable[[Sequence[str]], np.ndarray]:
    """What gives texts vectors of length 1, as the rows of a matrix.

    Raises:
        DataError: no encoder is at hand.
    """
    if embed is None:
        raise DataError(
            f"{cleaner} needs an encoder, and none is at hand", hint="name one, for example all-minilm-l6-v2"
        )

    def vectors(texts: Sequence[str]) -> np.ndarray:
        return np.asarray(embed([(Message(role="user", content=text),) for text in texts]), np.float32)

    return vectors


def tagged(examples: Sequence[Example], part: Part, *, numbers: bool) -> tuple[list[str], list[int]]:
    """That part of each example, and a tag that two of them must share to be duplicates.

    Where the answer counts and is as short as a label, another one makes another example, however long the question;
    and with `numbers` so does any other number in the text: 17 + 25 is not 17 + 26.
    """
    texts = [part_of(example, part) for example in examples]
    said = [_label(example) if part != "question" else "" for example in examples]
    if numbers:
        said = ["\0".join([label, *_numbers(text)]) for label, text in zip(said, texts, strict=True)]
    return texts, [_tag(words) for words in said]


def _label(example: Example) -> str:
    """The answer where it is short, in plain spelling."""
    if isinstance(example, Text) or len(answer := answer_of(example).strip()) > LONGEST_LABEL:
        return ""
    return " ".join(answer.casefold().split())


def _numbers(text: str) -> list[str]:
    if not text.isascii():
        return _NUMBER.findall(text)
    return text.encode("ascii").translate(_DIGITS).decode("ascii").split()


def _tag(words: str) -> int:
    digest = hashlib.blake2b(words.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)
