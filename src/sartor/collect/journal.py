"""JSON lines that are found by their key: the journal of a source that takes long, and the lines of a finished folder.

Only the places of the lines are held. What was put is there after a kill: a line is one write at the end of a file.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from sartor import durable
from sartor.types import Json


class Index:
    """The lines of a file by the text under `key` of each; the last of two that share it. No file is an empty index."""

    def __init__(self, path: Path | None = None, key: str = "place") -> None:
        self._path = path
        self._starts: dict[str, int] = {}
        if path is not None and path.is_file():
            self._read(path, key)

    def get(self, key: str) -> Json | None:
        """The line of that key."""
        if self._path is None or key not in self._starts:
            return None
        with self._path.open("rb") as file:
            file.seek(self._starts[key])
            line: Json = json.loads(file.readline())
        return line

    def __len__(self) -> int:
        return len(self._starts)

    def _read(self, path: Path, key: str) -> None:
        start = 0
        with path.open("rb") as file:
            for raw in file:
                with contextlib.suppress(ValueError, KeyError, TypeError):  # torn by a kill
                    self._starts[str(json.loads(raw)[key])] = start
                start += len(raw)


class Journal(Index):
    """What a source has done with, by key: what stands here is not done again."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "key")
        self._file = path

    def put(self, key: str, value: Json) -> None:
        """Done: from here on it survives a kill."""
        line = json.dumps({"key": key, **value}, ensure_ascii=False)
        durable.append(self._file, line)
        self._starts[key] = self._file.stat().st_size - len(line.encode()) - 1
