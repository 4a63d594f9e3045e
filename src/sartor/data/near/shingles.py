"""Texts → sets of shingles, a batch at a time, without a Python loop over words or characters.

A shingle is a few words in a row, or, for short texts, a few characters. One changed word of ten breaks nearly all runs
of three words, but few runs of five characters; in a long text, runs of characters are many, and shared by chance.
Texts around the border have both, so that no pair falls between the two.

In scripts that write no spaces every character counts as a word. Case, width and spacing never make a difference;
punctuation does in runs of characters, where `2+2` is not `2-2`.

Shape suffixes: D texts · U units (characters or words) of all texts, one text after the other · S shingles.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

#: Texts that are worked on at a time, and their characters: the arrays of a batch stay in the processor's cache, and
#: those of long texts take 300 MiB at most.
BATCH, BATCH_CHARACTERS = 512, 2**22
#: Of a text of more characters than that only the beginning is compared: it bounds the memory of a batch.
LONGEST = 2**20
#: Characters or words in a row that make a shingle.
CHARACTERS, WORDS = 5, 3
#: Texts from so many words on are compared by words; those up to twice as many also by characters.
SHORT = 16

Scale = Literal["characters", "words"]
SCALES: tuple[Scale, Scale] = ("characters", "words")

_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, so that its powers have inverses: the golden ratio in 64 bits
_INVERSE = np.uint64(pow(0x9E3779B97F4A7C15, -1, 2**64))
_APART, _IN_WORD, _ALONE = range(3)
#: First and last code point of scripts without spaces: Thai, Lao, Tibetan, Burmese, Khmer, kana, Chinese characters.
_ALONE_RANGES = (
    *((0x0E00, 0x0EFF), (0x0F00, 0x0FFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3040, 0x30FF), (0x31F0, 0x31FF)),
    *((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF)),
)


@dataclass(frozen=True, slots=True)
class Ragged:
    """Numbers of each text: those of text i are `values[offsets[i]:offsets[i + 1]]`."""

    values: np.ndarray
    offsets: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        return np.diff(self.offsets)

    def taken(self, rows: np.ndarray) -> Ragged:
        """Some of the texts, in that order, at a cost that the others do not raise."""
        starts = self.offsets[rows]
        counts = self.offsets[rows + 1] - starts
        return Ragged(self.values[_places(starts, counts)], _offsets(counts))


@dataclass(frozen=True, slots=True)
class Units:
    """What texts are made of: hashes of words, and, where they are asked for, characters."""

    plain: list[str]
    words: Ragged

    def rows(self, scale: Scale) -> np.ndarray:
        """The texts that are compared on that scale. One without any character is compared with none."""
        num_words = self.words.counts
        if scale == "words":
            return np.flatnonzero(num_words >= SHORT)
        written = np.fromiter(map(bool, self.plain), bool, len(self.plain))
        return np.flatnonzero((num_words < 2 * SHORT) & written)

    def shingles(self, scale: Scale) -> Ragged:
        """The sets of the texts that `rows` names."""
        if scale == "words":
            return shingled(self.words.taken(self.rows(scale)), WORDS)
        return shingled(self.characters(self.rows(scale)), CHARACTERS)

    def characters(self, rows: np.ndarray) -> Ragged:
        """The characters of some texts, a space between words."""
        codes_U, offsets = _codes([" ".join(self.plain[row].split()) for row in rows])
        return Ragged(codes_U.astype(np.uint64) + np.uint64(1), offsets)  # so that a NUL counts


def slices(texts: Sequence[str]) -> Iterator[slice]:
    """Batches of texts, in their order."""
    start = size = 0
    for place, text in enumerate(texts):
        length = min(len(text), LONGEST)
        if place - start == BATCH or (place > start and size + length > BATCH_CHARACTERS):
            yield slice(start, place)
            start, size = place, 0
        size += length
    if start < len(texts):
        yield slice(start, len(texts))


def units_of(texts: Sequence[str]) -> Units:
    """The words of a batch of texts."""
    plain = [_plain(text[:LONGEST]) for text in texts]
    codes_U, offsets = _codes(plain)
    starts, ends = _word_bounds(codes_U, offsets)
    hashes = _hashed(codes_U.astype(np.uint64) + np.uint64(1), starts, ends)
    return Units(plain, Ragged(hashes, np.searchsorted(starts, offsets)))


def _plain(text: str) -> str:
    """The text without what makes no difference. One character may stand for eighteen (U+FDFA): two suffice."""
    if text.isascii():
        return text.lower().strip()
    return unicodedata.normalize("NFKC", text).casefold().strip()[: 2 * len(text)]


def _codes(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Code points of all texts, and where each starts."""
    offsets = _offsets(np.fromiter(map(len, texts), np.int64, len(texts)))
    return np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32), offsets


def shingled(units: Ragged, width: int) -> Ragged:
    """The set of all runs of `width` units of each text, as 32-bit hashes in ascending order.

    A text of fewer units is one shingle.
    """
    lengths = units.counts
    runs = runs_of(units, np.where(lengths >= width, width, lengths))
    owners_S = np.repeat(np.arange(len(lengths), dtype=np.uint64), runs.counts)
    return _sets(owners_S << np.uint64(32) | runs.values >> np.uint64(32), len(lengths))


def runs_of(units: Ragged, widths: np.ndarray) -> Ragged:
    """All runs of units of each text, in their order, as 64-bit hashes: of as many units as `widths` has for the text.

    A text of fewer units has none.
    """
    counts = np.where(units.counts > 0, np.maximum(units.counts - widths + 1, 0), 0)
    starts_S = _places(units.offsets[:-1], counts)
    hashes_S = _hashed(units.values, starts_S, starts_S + np.repeat(widths, counts))
    return Ragged(hashes_S, _offsets(counts))


def frame_of(texts: Sequence[str], share: float = 0.1, fewest: int = 10) -> dict[Scale, np.ndarray]:
    """The shingles that more than a share of different texts have: the frame of a prompt, not what it asks.

    Two questions in one long frame would all look near. `fewest` texts at least must share a shingle.
    """
    different = list(dict.fromkeys(texts))
    parts = [units_of(different[part]) for part in slices(different)]
    frame: dict[Scale, np.ndarray] = {}
    for scale in SCALES if parts else ():
        values, counts = np.unique(np.concatenate([part.shingles(scale).values for part in parts]), return_counts=True)
        num_texts = sum(len(part.rows(scale)) for part in parts)
        frame[scale] = values[counts > max(fewest - 1, share * num_texts)]
    return frame


def without(sets: Ragged, frame_S: np.ndarray) -> Ragged:
    """The sets without the shingles of a frame (ascending). A text that is nothing but frame keeps them."""
    if not len(frame_S) or not len(sets.values):
        return sets
    owners_S = np.repeat(np.arange(len(sets.counts)), sets.counts)
    found_S = frame_S[np.minimum(np.searchsorted(frame_S, sets.values), len(frame_S) - 1)]
    own_S = found_S != sets.values
    num_own = np.bincount(owners_S[own_S], minlength=len(sets.counts))
    stays_S = own_S | (num_own == 0)[owners_S]
    return Ragged(sets.values[stays_S], _offsets(np.where(num_own == 0, sets.counts, num_own)))


def _word_bounds(codes_U: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First character and end of every word."""
    kinds_U = _kinds()[codes_U]
    in_word = np.append(kinds_U == _IN_WORD, False)
    before = np.concatenate(([False], in_word[:-1]))
    before[offsets] = False  # a text starts there
    alone = np.append(kinds_U == _ALONE, False)
    starts = np.flatnonzero(in_word & ~before | alone)
    after = np.append(in_word[1:], False)
    after[offsets[1:] - 1] = False  # a text ends there; for one without characters, another does
    return starts, np.flatnonzero(in_word & ~after | alone) + 1


@functools.lru_cache(maxsize=1)
def _kinds() -> np.ndarray:
    """What each code point is: between words, in a word, or a word alone."""
    kinds = np.full(0x110000, _APART, np.uint8)
    for code in range(0x20000):  # letters, marks and numbers; beyond stand none but Chinese characters
        kinds[code] = _IN_WORD if unicodedata.category(chr(code))[0] in "LMN" else _APART
    for first, last in _ALONE_RANGES:
        part = kinds[first : last + 1]
        part[:] = np.where((part == _IN_WORD) | (first >= 0x20000), _ALONE, part)
    return kinds


def _hashed(values_U: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """A 64-bit hash of each span of numbers: a polynomial modulo 2⁶⁴ from prefix sums, then mixed."""
    powers, inverses = _powers(1 << len(values_U).bit_length())
    sums = np.concatenate((np.zeros(1, np.uint64), np.cumsum(values_U * powers[: len(values_U)])))
    return mixed((sums[ends] - sums[starts]) * inverses[starts])


@functools.lru_cache(maxsize=4)
def _powers(size: int) -> tuple[np.ndarray, np.ndarray]:
    """The powers of the factor and of its inverse, modulo 2⁶⁴."""
    factors, inverses = np.full(size, _FACTOR), np.full(size, _INVERSE)
    factors[0] = inverses[0] = 1
    return np.cumprod(factors), np.cumprod(inverses)


def mixed(values: np.ndarray) -> np.ndarray:
    """64-bit numbers whose bits all depend on all bits (splitmix64's finisher)."""
    values = (values ^ values >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ values >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return np.asarray(values ^ values >> np.uint64(31))


def _sets(codes_S: np.ndarray, num_texts: int) -> Ragged:
    """From (text << 32 | hash) in any order to sets."""
    codes_S.sort()
    first = np.ones(len(codes_S), bool)
    np.not_equal(codes_S[1:], codes_S[:-1], out=first[1:])
    codes_S = codes_S[first]
    owners_S = (codes_S >> np.uint64(32)).astype(np.int64)
    return Ragged(codes_S.astype(np.uint32), _offsets(np.bincount(owners_S, minlength=num_texts)))


def _offsets(counts: np.ndarray) -> np.ndarray:
    return np.concatenate((np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)))


def _places(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The places start, start + 1, … of each, as many as its count, all in a row."""
    offsets = _offsets(counts)
    return np.asarray(np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], counts))
