"""A gzip file as the stream of what it holds, up to a limit: some grow a thousandfold and mean harm."""

from __future__ import annotations

import gzip
import io
import zlib
from typing import Any, BinaryIO

from sartor.errors import DataError, Where

MAGIC = b"\x1f\x8b"
#: How many times its packed size a file may unpack to. JSONL of chats gains 3 to 10 times; gzip's own bound is 1,032.
MOST_TIMES = 200
#: Up to this size, in bytes, nobody asks how many times it is.
HARMLESS = 64 * 2**20


class _Unpacked(io.RawIOBase):
    """What the gzip file holds, for reading once from the start."""

    def __init__(self, packed: BinaryIO, size: int, label: str) -> None:
        self._file = gzip.GzipFile(fileobj=packed)
        self._label = label
        self._most = max(HARMLESS, MOST_TIMES * size)
        self._given = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        taken = 0
        try:
            with memoryview(buffer) as view:  # filled as far as it goes: a peek shows the head of the content
                while taken < len(view) and (more := self._file.readinto(view[taken:])):
                    taken += more
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(
                f"this gzip file is damaged: {error}", hint="fetch or write it again", where=Where(self._label)
            ) from error
        self._given += taken
        if self._given > self._most:
            raise DataError(
                f"this gzip file unpacks to more than {self._most:,} bytes, {MOST_TIMES} times its size",
                hint="if you trust it, unpack it first: gunzip",
                where=Where(self._label),
            )
        return taken


def unpacked(packed: BinaryIO, size: int, label: str) -> io.BufferedReader:
    """The content of an open gzip file of `size` bytes.

    Raises (while it is read):
        DataError: it is damaged, or grows over the limit.
    """
    return io.BufferedReader(_Unpacked(packed, size, label), 2**20)
