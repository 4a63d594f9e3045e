"""Digits and letters drawn from a key: the same key gives the same ones, on every machine and Python."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

_DIGITS = "0123456789"
_SMALL = "abcdefghijklmnopqrstuvwxyz"
_BLOCK = 64


class Draw:
    """An endless stream of bytes from a key."""

    def __init__(self, key: str) -> None:
        self._key = key.encode("utf-8", "surrogatepass")
        self._bytes = self._stream()

    def _stream(self) -> Iterator[int]:
        block = 0
        while True:
            yield from hashlib.blake2b(self._key + block.to_bytes(8), digest_size=_BLOCK).digest()
            block += 1

    def below(self, limit: int) -> int:
        """A whole number from 0 to `limit` - 1. Two bytes each: with limits of some dozens the bias is below 0.1 %."""
        return (next(self._bytes) << 8 | next(self._bytes)) % limit

    def like(self, text: str) -> str:
        """The text with each digit and each letter another one; case, marks and spaces stay."""
        return "".join(map(self._like, text))

    def letters(self, count: int) -> str:
        return "".join(_SMALL[self.below(26)] for _ in range(count))

    def _like(self, character: str) -> str:
        if character.isdigit():
            return _DIGITS[self.below(10)]
        if not character.isalpha():
            return character
        drawn = _SMALL[self.below(26)]
        return drawn.upper() if character.isupper() else drawn
