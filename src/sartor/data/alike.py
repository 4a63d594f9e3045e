"""What cleaners that compare examples share: batches, the part that counts, and what keeps two examples apart."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator
from typing import TypeVar

from sartor.data.clean.texts import Part, answer_of, part_of
from sartor.data.split import LONGEST_LABEL
from sartor.types import Example, Text

Some = TypeVar("Some")

_NUMBER = re.compile(r"\d+")


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


def tag_of(example: Example, part: Part, *, numbers: bool) -> int:
    """A number that two examples must share to be duplicates.

    Where the answer counts and is as short as a label, another one makes another example, however long the question;
    and with `numbers` so does any other number in the text: 17 + 25 is not 17 + 26.
    """
    said: list[str] = []
    if part != "question" and not isinstance(example, Text):
        answer = " ".join(answer_of(example).casefold().split())
        said.append(answer if len(answer) <= LONGEST_LABEL else "")
    if numbers:
        said += _NUMBER.findall(part_of(example, part))
    digest = hashlib.blake2b("\0".join(said).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)
