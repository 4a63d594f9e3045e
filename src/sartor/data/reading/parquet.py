"""Rows of a Parquet file, a few at a time: a row is named by its 1-based number, for a file of columns has no lines."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sartor.data.reading.row import Bad, Row, overlong
from sartor.errors import DataError, SartorError, Where
from sartor.types import Progress

#: Most rows that are unpacked together.
TOGETHER = 16
#: Largest unpacked column of one row group, in bytes: the least that a reader must be able to hold.
LARGEST_COLUMN = 2**30
#: One text may stand in every row, and only once in the file: so many bytes of rows may at worst be unpacked together.
AT_WORST = 2**28
#: How many times its size a file may unpack to. One long system prompt in all rows of short answers gives hundreds.
MOST_TIMES = 1000
#: Up to this size, in bytes, nobody asks how many times it is.
HARMLESS = 64 * 2**20
#: Depth to which nested values are looked through.
_DEPTH = 64


def parquet_rows(path: Path, label: str, longest: int, progress: Progress | None) -> Iterator[Row | Bad]:
    """Every row, in the order of the file.

    Raises:
        DataError: it is damaged, empty, or unpacks to more than a named limit.
        SartorError: pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise SartorError("Parquet needs pyarrow", hint="pip install 'sartor[data]'") from error
    try:
        with parquet.ParquetFile(path) as file:
            together = _checked(file.metadata, label)
            most = max(HARMLESS, MOST_TIMES * path.stat().st_size)
            number = size = 0
            for batch in file.iter_batches(batch_size=together):
                if progress:
                    progress(number, file.metadata.num_rows)
                size += batch.nbytes
                if size > most:
                    raise _refused(f"over {size:,} bytes", f"at most {most:,}, {MOST_TIMES} times its size", label)
                for value in batch.to_pylist():
                    number += 1
                    yield _row(value, number, longest)
            if progress:
                progress(number, number)
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        raise DataError(
            f"this Parquet file is damaged: {str(error).splitlines()[0][:200]}",
            hint="fetch or write it again",
            where=Where(label),
        ) from error


def _checked(metadata: Any, label: str) -> int:
    """How many rows may be unpacked together, by what the file says of itself."""
    if not metadata.num_rows:
        raise DataError("this Parquet file is empty", hint="each row of it makes an example", where=Where(label))
    largest = 1
    for group in range(metadata.num_row_groups):
        for column in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(column)
            if chunk.total_uncompressed_size > LARGEST_COLUMN:
                seen = f"the column {chunk.path_in_schema} of {chunk.total_uncompressed_size:,} bytes in one row group"
                raise _refused(seen, f"at most {LARGEST_COLUMN:,}", label)
            largest = max(largest, chunk.total_uncompressed_size)
    return int(min(TOGETHER, max(1, AT_WORST // largest)))


def _refused(seen: str, expected: str, label: str) -> DataError:
    return DataError(
        f"this Parquet file holds {seen}, expected {expected}",
        hint="if you trust it, write it as JSONL, or in smaller row groups",
        where=Where(label),
    )


def _row(value: dict[str, Any], number: int, longest: int) -> Row | Bad:
    """The row, if its size, depth and numbers are those of JSON. Bytes, dates and decimals are refused by who reads
    them: most stand in columns that nobody reads.
    """
    level: list[tuple[str, Any]] = list(value.items())
    size = 0
    for _ in range(_DEPTH):
        inner: list[tuple[str, Any]] = []
        for column, part in level:
            if isinstance(part, str | bytes):
                size += len(part)
            elif isinstance(part, dict):
                inner += [(column, deeper) for deeper in part.values()]
            elif isinstance(part, list):
                inner += [(column, deeper) for deeper in part]
            elif isinstance(part, float) and not math.isfinite(part):
                return Bad(number, "not_a_number", f"the number {part}", "a finite number", column)
        if size > longest:
            return overlong(number, "row", longest)
        if not inner:
            return Row(number, value)
        level = inner
    return Bad(number, "too_deep", f"values nested deeper than {_DEPTH}", f"at most {_DEPTH} levels")
